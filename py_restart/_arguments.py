"""The arguments of the public functions: each is checked before anything is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ._errors import RestartError
from ._loop import Loop
from ._scope import NO_SOURCE
from ._typing import Any


def require_iterable(source: object, name: object) -> None:
    if isinstance(source, Loop):
        raise RestartError(f"{name}: {NO_SOURCE}")
    if not (hasattr(type(source), "__iter__") or hasattr(type(source), "__getitem__") or callable(source)):
        raise TypeError(f"{name}: {source!r} is not iterable; give an iterable, or a function that returns one")


def checked_path(path: Any) -> str:
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"{path!r} is not a path; give a str or a pathlib.Path")
    if not name:
        raise ValueError("the path is empty; give the path of a file")
    scheme, separator, _ = name.partition(":/")  # a `Path` has one slash left of two
    if separator and len(scheme) > 1 and scheme.replace("+", "").isalnum() and not os.path.isdir(f"{scheme}:"):
        raise ValueError(f"{name}: a URL; give the path of a file on a disk or a mount")
    return name


def checked_place(path: Any) -> str:
    folder, base = os.path.split(os.path.abspath(checked_path(path)))
    return os.path.join(os.path.realpath(folder), base)


def maker_of(path: Any) -> Callable[[str], Any]:
    if isinstance(path, str):
        return str
    from pathlib import Path

    return Path


def checked_span(span: Any) -> int:
    if isinstance(span, bool) or not hasattr(span, "__index__"):
        raise TypeError(f"save_span is {span!r}; give a whole number of items")
    if span < 1:
        raise ValueError(f"save_span is {span!r}; give 1 or more items")
    return min(int(span), sys.maxsize)


def checked_interval(interval: Any) -> float:
    try:
        seconds = interval + 0.0
    except (TypeError, ValueError):
        raise TypeError(f"save_interval is {interval!r}; give a number of seconds") from None
    if not seconds >= 0:
        raise ValueError(f"save_interval is {interval!r}; give 0 or more seconds")
    return float(seconds)


def checked_triples(name: str, save_funcs: Any, load_funcs: Any, func_paths: Any) -> list[tuple[Any, Any, Any]]:
    """Return one triple of a function that saves, one that loads, and a path, for each."""
    for given in (save_funcs, load_funcs, func_paths):
        if isinstance(given, str | bytes) or not hasattr(type(given), "__iter__"):
            raise TypeError(f"{name}: {given!r} is not a list; give three lists: [save], [load], [path]")
    triples = list(save_funcs), list(load_funcs), list(func_paths)
    if len({len(column) for column in triples}) != 1:
        lengths = ", ".join(str(len(column)) for column in triples)
        raise ValueError(f"{name}: save_funcs, load_funcs and func_paths have {lengths} entries; give as many of each")
    for function in (*triples[0], *triples[1]):
        if not callable(function):
            raise TypeError(f"{name}: a {type(function).__name__} is not a function; give one of a path")
    return list(zip(*triples, strict=True))

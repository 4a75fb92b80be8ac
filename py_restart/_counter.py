"""What a user sees: CounterClosier, enable_counter, simple_counter. Arguments are checked here; see `_node`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import index

from ._errors import RestartError, face, warn
from ._files import place_of
from ._loop import Counted, Loop
from ._node import Node
from ._scope import NO_SOURCE
from ._signals import shielded
from ._state import Functions, Object
from ._typing import Any, T

# What ends first comes first: in `concurrent.futures` and `asyncio`, there from 3.13 on, and in `multiprocessing`.
_UNORDERED = ("as_completed", "_AsCompletedIterator", "IMapUnorderedIterator")


class CounterClosier:
    """Counts one loop, and takes up what the last run has saved. `enable_counter` is another name of this class.

    Only the position and what is registered come back. In a plain `with` they are saved when the block ends by an
    exception, Ctrl-C, SIGTERM and SIGHUP included; after `kill -9` or a power failure it starts from the save before.
    When it ends without an exception, all that was saved is deleted: write results inside it.

    Args:
        file_path: The progress file. Its folder must exist.
        use_tempfile: False: as if this library were not there.
        each_save: Save after every `save_span` items as well, with or without a `with` statement.
        save_span: Items from one save to the next, counted from item 0.
        save_interval: Seconds; a boundary that comes sooner after the last save is passed over.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RestartError: the path is in use by another process, or holds something else, or its folder cannot be written.

    >>> with enable_counter("run.tmp") as counter:
    ...     total = counter.save_load_object({"sum": 0}, "sum.pickle")
    ...     for i in counter(range(10)):
    ...         total["sum"] += i
    >>> total
    {'sum': 45}
    """

    @face
    def __init__(
        self,
        file_path: str | os.PathLike[str],
        use_tempfile: bool = True,
        each_save: bool = False,
        save_span: int = 1,
        *,
        save_interval: float = 0.0,
    ) -> None:
        name = _checked_path(file_path)
        for what, given in ("use_tempfile", use_tempfile), ("each_save", each_save):
            if given not in (True, False):  # `simple_counter("run.tmp", items, 100)`, say
                raise TypeError(f"{name}: {what} is {given!r}; give True or False, and save_span by its name")
        span = min(_checked(name, "save_span", save_span, index, "whole number", 1, "items"), sys.maxsize)
        interval = _checked(name, "save_interval", save_interval, lambda x: float(x + 0), "number", 0, "seconds")
        if (span != 1 or interval) and not each_save:
            what = "save_interval" if interval else "save_span"
            raise ValueError(f"{name}: {what} does nothing without each_save; pass each_save=True")
        if use_tempfile:
            self._node: Counted = Node(place_of(name), name, bool(each_save), span, interval)
        else:
            self._node = Counted(name, span)
        self._states = self._node.states  # the same list, until a finished loop lets go of its objects

    @face
    def __call__(self, iterable: Iterable[T] | Callable[[int], Iterable[T]]) -> Loop[T]:
        """Wrap the iterable of the loop that this counter counts.

        It must give the same items in every run, in the same order. A function is called with the position and returns
        the rest: for sources that need not be read from their beginning.

        Raises:
            TypeError: not iterable.
            RestartError: this counter has a loop already, or the iterable is a loop itself.

        >>> with enable_counter("run.tmp") as counter:
        ...     list(counter(lambda start: range(start, 3)))
        [0, 1, 2]
        """
        name = self._node.name
        if self._node.source is not None:
            raise RestartError(f"{name}: this counter has counted a loop already; make another counter")
        if type(iterable) is Loop:
            raise RestartError(f"{name}: {NO_SOURCE}")
        if not (hasattr(type(iterable), "__iter__") or hasattr(type(iterable), "__getitem__") or callable(iterable)):
            raise TypeError(f"{name}: {iterable!r} is not iterable; give an iterable, or a function that returns one")
        kind = getattr(iterable, "__name__", type(iterable).__name__)  # of a generator, the function that it is from
        if (isinstance(iterable, set | frozenset) or kind in _UNORDERED) and isinstance(self._node, Node):
            way_out = "give what has one, such as sorted() of a set, the list of the futures, imap()"
            warn(f"{name}: the order of {kind} changes from run to run; {way_out}")
        return Loop(self._node, iterable)

    @face
    def save_load_object(self, obj: T, obj_path: str | os.PathLike[str]) -> T:
        """Register an object, and return it as it was saved, or as it is where nothing was saved.

        It is pickled to `obj_path`, where only its own saves may be. Change it in place, or assign another to `object`.

        Raises:
            RestartError: it cannot be pickled, or its file is missing, changed, damaged, or somebody else's.

        >>> with enable_counter("run.tmp") as counter:
        ...     seen = counter.save_load_object([], "seen.pickle")
        ...     for i in counter(range(3)):
        ...         seen.append(i)
        """
        self._node.register([Object(obj, place_of(_checked_path(obj_path)), obj_path)])
        loaded: T = self._states[-1].value
        return loaded

    @face
    def save_load_funcs(
        self,
        save_funcs: Sequence[Callable[[Any], object]],
        load_funcs: Sequence[Callable[[Any], object]],
        func_paths: Sequence[str | os.PathLike[str]],
    ) -> None:
        """Register functions that save and load, and call those that load where something was saved.

        Each one that saves is called with a path, and writes a file or a folder there; each one that loads, with the
        path of what was saved. These paths have the type and the file name that are given in `func_paths`.

        Raises:
            TypeError, ValueError: one of them is not a function, or the three are not of one length.
            RestartError: what was saved is missing, changed, damaged, or somebody else's, or cannot be loaded.

        >>> from pathlib import Path
        >>> text = ["to be saved"]
        >>> def load(path):
        ...     text[0] = path.read_text()
        >>> with enable_counter("run.tmp") as counter:
        ...     counter.save_load_funcs([lambda path: path.write_text(text[0])], [load], [Path("text.txt")])
        """
        rows = _checked_triples(self._node.name, save_funcs, load_funcs, func_paths)
        self._node.register([Functions(save, load, place_of(_checked_path(path)), path) for save, load, path in rows])

    @property
    @face
    def object(self) -> Any:
        """The object registered last, or a `RestartError`. Assign to it where a variable was given a new value.

        >>> with enable_counter("run.tmp") as counter:
        ...     total = counter.save_load_object(0, "total.pickle")
        ...     for i in counter(range(5)):
        ...         counter.object = total = total + i
        """
        return self._last_object().value

    @object.setter
    @face
    def object(self, value: Any) -> None:
        self._last_object().value = value

    def _last_object(self) -> Object:
        for state in reversed(self._states):
            if isinstance(state, Object):
                state.is_judged = True  # the program can change it
                return state
        raise RestartError(f"{self._node.name}: no object is registered; call save_load_object first")

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the running one; after a failure, the failed one.

        >>> with enable_counter("run.tmp") as counter:
        ...     [(counter.position, letter) for letter in counter("ab")]
        [(0, 'a'), (1, 'b')]
        """
        return self._node.position

    @face
    def save(self) -> None:
        """Save now: the position and everything registered, as they are. In a forked child it does nothing.

        Raises:
            RestartError: the work is done, or the save fails. The save before is still whole then.

        >>> with enable_counter("run.tmp") as counter:
        ...     for i in counter(range(3)):
        ...         counter.save()  # now even `kill -9` would cost nothing but this item
        """
        self._node.save_now()

    @face
    def remove_files(self) -> None:
        """Forget: delete the progress and all that was saved with it. A loop that has not begun starts afresh.

        Call it before anything is registered: what was loaded stays as it is, and the loop would then be an error.

        >>> with enable_counter("run.tmp") as counter:
        ...     counter.remove_files()  # what an earlier run has saved is not wanted
        """
        self._node.forget()

    def __repr__(self) -> str:
        return f"<counter {self._node.describe()}>"

    @shielded
    def __enter__(self) -> CounterClosier:
        self._node.enter()
        return self

    @shielded
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._node.close(error)


enable_counter = CounterClosier


def simple_counter(
    file_path: str | os.PathLike[str],
    iterable: Iterable[T] | Callable[[int], Iterable[T]],
    use_tempfile: bool = True,
    save_span: int = 1,
    *,
    save_interval: float = 0.0,
) -> Loop[T]:
    """Wrap a loop without a `with` statement: its position is saved at every boundary, and goes when it is exhausted.

    Arguments and errors are those of `enable_counter` (with `each_save`) and of the counter that it returns.

    >>> for letter in simple_counter("run.tmp", "ab"):
    ...     print(letter)
    a
    b
    """
    return CounterClosier(file_path, use_tempfile, True, save_span, save_interval=save_interval)(iterable)


def _checked_path(path: Any) -> str:
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(f"{path!r} is not a path; give a str or a pathlib.Path")
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is no path; give the path of a file")
    scheme, separator, _ = name.replace(os.sep, "/").partition(":/")  # a `Path` has one slash left of two
    if separator and len(scheme) > 1 and "/" not in scheme and not os.path.isdir(f"{scheme}:"):
        raise ValueError(f"{name}: a URL; give the path of a file on a disk or a mount")
    return name


def _checked(name: str, what: str, given: Any, convert: Callable[[Any], Any], kind: str, least: int, unit: str) -> Any:
    try:
        number = convert(None if isinstance(given, bool) else given)
    except (TypeError, ValueError, ArithmeticError):
        raise TypeError(f"{name}: {what} is {given!r}; give a {kind} of {unit}") from None
    if not number >= least:
        raise ValueError(f"{name}: {what} is {given!r}; give {least} or more {unit}")
    return number


def _checked_triples(name: str, *columns: Any) -> list[Any]:
    for column in columns:
        if isinstance(column, str | bytes) or not hasattr(type(column), "__iter__"):
            raise TypeError(f"{name}: {column!r} is not a list; give three lists: [save], [load], [path]")
    savers, loaders, paths = map(list, columns)
    if not len(savers) == len(loaders) == len(paths):
        what = f"save_funcs, load_funcs and func_paths have {len(savers)}, {len(loaders)}, {len(paths)} entries"
        raise ValueError(f"{name}: {what}; give as many of each")
    for function in savers + loaders:
        if not callable(function):
            raise TypeError(f"{name}: {function!r} is not a function; give one that is called with a path")
    return list(zip(savers, loaders, paths, strict=True))

"""What the iterable of a loop is recognised by: its length, and a check sum of how its first item prints."""

from __future__ import annotations

import re
import threading
from binascii import crc32
from collections.abc import Callable

from ._typing import Any

_SCALARS = (int, str, bytes, float, bool, type(None))
_PATIENCE = 0.05  # seconds that an item may take to print
_LONGEST = 200  # characters that are looked at of one that prints long
_MOST = 8  # parts of one that prints at once


def length_of(source: object) -> int | None:
    """Return the length of an iterable, or None where it has none."""
    try:
        return len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, OverflowError):  # such as a DataLoader over a stream
        return None


def mark_of(item: object) -> str | None:
    """Return a check sum of how an item prints, or None where that takes long, fails, or may differ from run to run.

    What is of no simple type prints in a thread of its own, which nobody waits for longer than a moment.
    """
    parts = item if type(item) in (tuple, list) else [item]
    if len(parts) <= _MOST and all(type(part) in _SCALARS for part in parts):  # type: ignore[arg-type, attr-defined]
        return _mark(item, _print_plainly)
    found: list[str | None] = []
    try:
        thread = threading.Thread(target=lambda: found.append(_mark(item, _printer().repr)), daemon=True)
        thread.start()
    except RuntimeError:  # no threads here, or too many
        return None
    thread.join(_PATIENCE)
    return found[0] if found else None


def _mark(item: object, printed: Callable[[Any], str]) -> str | None:
    try:
        return f"{crc32(printed(item).encode('utf-8', 'backslashreplace')):08x}"
    except Exception:
        return None


def _print_plainly(item: Any) -> str:
    if type(item) in (tuple, list):
        return f"{type(item).__name__}({', '.join(map(_print_plainly, item))})"
    return repr(item[:_LONGEST] if type(item) in (str, bytes) else item)


def _printer() -> Any:
    import reprlib

    class Printer(reprlib.Repr):
        def repr_set(self, x: object, level: int) -> str:
            raise ValueError("prints in another order in each run")

        repr_frozenset = repr_set

        def repr_instance(self, x: object, level: int) -> str:
            text = re.sub(r"0x[0-9a-fA-F]+", "", repr(x))  # addresses
            return self.repr_set(x, level) if "{" in text else text[:_LONGEST]  # perhaps of a set

    printer = Printer()
    printer.maxstring = _LONGEST
    return printer

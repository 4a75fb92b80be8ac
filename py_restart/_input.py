"""What the iterable of a loop is recognised by beside its length: a check sum of how its first item prints."""

import gc
import reprlib
import threading
from binascii import crc32
from time import monotonic
from types import FunctionType, ModuleType

from ._typing import Any

_SCALARS = (int, str, bytes, float, bool, type(None))
_SHARED = (type, ModuleType, FunctionType)
_MOST = 100_000  # objects that are looked at for one
_PATIENCE = 0.05  # seconds that an item of any other type may take to print
_MOST_SPENT = 1.0  # seconds that a process may spend on items of one kind that take longer
_spent: dict[object, float] = {}  # how long it has, by the types of their parts
_LONGEST = 200  # characters that are looked at of one that prints long


class _Printer(reprlib.Repr):
    """Prints the beginning of an item; what differs from run to run is left out, or an error."""

    repr_bytes = repr_bytearray = reprlib.Repr.repr_str

    def repr_set(self, x: object, level: int) -> str:
        raise ValueError("prints in another order in each run")

    repr_frozenset = repr_set

    def repr_instance(self, x: object, level: int) -> str:
        import re

        # Without addresses; and `<Future ... state=running>` says how far that has come.
        text = re.sub(r"(?s)^<.*|0x[0-9a-fA-F]+", "", repr(x)[: 9 * _LONGEST])
        # Perhaps of a set; or a table that is cut to the width of the terminal.
        return self.repr_set(x, level) if re.search(r"\{|┌|^.* \.\.\. ", text) else text[:_LONGEST]


_printer = _Printer()
_printer.maxstring = _LONGEST


def mark_of(item: Any) -> str | None:
    """Return a check sum of how an item prints, or None where that takes long, fails, or may differ from run to run."""
    marks = []
    parts = item[: _printer.maxlist] if type(item) in (tuple, list) else [item]
    is_simple = all(type(part) in _SCALARS for part in parts)
    # A time limit that raises is none of it: in a thread no handler runs, and a huge number is a `ValueError`.
    failures: type[Exception] = ValueError if is_simple else Exception

    def look() -> None:
        try:
            marks.append(f"{crc32(_printer.repr(item).encode('utf-8', 'backslashreplace')):08x}")
        except failures:
            pass

    if is_simple:
        look()
    elif _spent.get(kind := (*map(type, parts),), 0.0) < _MOST_SPENT:
        began = monotonic()
        try:
            thread = threading.Thread(target=look, daemon=True)
            thread.start()
        except RuntimeError:  # no threads here, or too many
            return None
        thread.join(_PATIENCE)  # longer where what prints is written in C: it lets no other thread run
        if (seconds := monotonic() - began) >= _PATIENCE:
            _spent[kind] = _spent.get(kind, 0.0) + seconds
    return marks[0] if marks else None


def parts_of(*wholes: object) -> list[object]:
    """Return what these consist of, but for what many have in common."""
    return [one for one in gc.get_referents(*wholes) if type(one) not in _SCALARS and not isinstance(one, _SHARED)]


def is_within(parts: list[object], values: list[object]) -> bool:
    """Whether one of the parts is one of the values, or in one of them."""
    wanted, seen, left = {id(part) for part in parts}, set[int](), parts_of(values)
    while left and len(seen) < _MOST:
        one = left.pop()
        if id(one) in wanted:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            left += parts_of(one)
    return False

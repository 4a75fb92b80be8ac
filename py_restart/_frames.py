"""Where a `for` stands, and whether it has been left.

What a `for` drives goes when it is left, and says so itself; but a `map`, a traceback or a cycle may keep it. Then the
frame of that `for` tells: it is not on the stack any more, or it runs what is not in the body of that `for`.
"""

from __future__ import annotations

import sys
from bisect import bisect, bisect_left
from functools import cached_property, lru_cache
from itertools import compress
from types import CodeType, FrameType, TracebackType

from ._typing import Any

# `inspect.CO_GENERATOR`; to import that takes longer than all of this.
_GENERATOR = 0x20
_ENDS = {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}
_ENDS |= {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}


class Driver:
    """What drives a generator: the instruction of a frame, which must not live for that."""

    def __init__(self, frame: Any) -> None:
        while frame.f_back and (frame.f_code.co_flags & _GENERATOR or frame.f_code.co_name == "__next__"):
            frame = frame.f_back  # the iterator is another one's, such as a progress bar
        self._for = self._frame, self._code, self._at = id(frame), frame.f_code, frame.f_lasti
        self._handled = id(sys.exc_info()[1])  # the `for` may stand in what handles an exception

    @cached_property
    def _body(self) -> frozenset[int]:
        return _body_of(self._code, self._at)

    @property
    def is_settled(self) -> bool:
        """Whether no exception is on its way that has come since: it may have left the `for`, or stand in its body."""
        error = sys.exc_info()[1]
        return error is None or id(error) == self._handled

    def is_apart_from(self, other: Driver) -> bool:
        """Whether it is a `for`, and another one: what one drives, by a `zip` say, takes turns."""
        return bool(self._body) and self._for != other._for

    def on_stack(self) -> FrameType | None:
        """Return its frame, if that is in this very stack of calls."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (id(frame) != self._frame or frame.f_code is not self._code):
            frame = frame.f_back
        return frame

    @property
    def is_here(self) -> bool:
        """Whether its `for` runs: its frame is on the stack, and not at what is behind that `for`.

        What handles an exception may stand anywhere, and may be of the body.
        """
        if not self._body:
            return True  # there is no `for`: `next` may come at any time
        frame = self.on_stack()
        return frame is not None and (frame.f_lasti in self._body or not self.is_settled)


def is_at_yield(trace: TracebackType) -> bool:
    """Whether an exception was thrown into a generator where it yields; else what it draws from has raised it."""
    from opcode import opname

    return opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] in ("YIELD_VALUE", "RESUME")


@lru_cache
def _body_of(code: CodeType, at: int) -> frozenset[int]:
    """Return the instructions from which control comes back to the `for` at this one; none where there is no `for`.

    What handles an exception, or follows an `async for`, may stand anywhere.
    """
    import dis

    listed: Any = dis.Bytecode(code)
    instructions = [one for one in listed if one.opname != "EXTENDED_ARG"]
    starts = [one.offset for one in instructions]
    ends = [*starts[1:], len(code.co_code)]
    index = bisect(starts, at) - 1  # a frame may stand behind the instruction that it is at
    if instructions[index].opname != "FOR_ITER":
        return frozenset()
    before, head, end = starts[index - 1], starts[index], instructions[index].argval
    ways: dict[int, list[int]] = {}  # by instruction: those from which control comes to it
    for one, following in zip(instructions, ends, strict=True):
        if one.opname not in _ENDS:
            ways.setdefault(following, []).append(one.offset)
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            ways.setdefault(starts[bisect_left(starts, one.argval)], []).append(one.offset)
    for part in listed.exception_entries:
        within = starts[bisect_left(starts, part.start) : bisect_left(starts, part.end)]
        ways.setdefault(starts[bisect_left(starts, part.target)], []).extend(within)
    body, found = {before}, [head]
    while found:
        offset = found.pop()
        body.add(offset)
        found += [start for start in ways.get(offset, ()) if start not in body]
    body.remove(before)
    inside = [start in body or head <= start < end for start in starts]
    return frozenset(offset for span in compress(map(range, starts, ends), inside) for offset in span)

"""Where a `for` stands, and whether it has been left.

What a `for` drives goes when it is left, and says so itself; but a `map`, a traceback or a cycle may keep it. Then the
frame of that `for` tells: it is not on the stack any more, or it runs what is not in the body of that `for`.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect
from functools import lru_cache
from itertools import compress
from types import CodeType, FrameType
from weakref import ref

from ._typing import Any

# `inspect.CO_GENERATOR`, `CO_COROUTINE` and `CO_ASYNC_GENERATOR`; to import that takes longer than all of this.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
_LASTS = _GENERATOR | _ASYNC_GENERATOR  # whose frame outlives a call; another thread or task may make the next one
_ENDS = ("JUMP_FORWARD", "JUMP_BACKWARD", "RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE")  # begin so


class Driver:
    """What drives a generator, or has a `with`: the instruction of a frame, which must not live for that."""

    def __init__(self, called: Any) -> None:
        frame = called.f_back or called  # nothing calls it where a thread runs `list(loop)` alone
        self._fors: dict[int, tuple[CodeType, int]] = {}  # by frame, the innermost first: where it stands
        is_between = True
        while is_between:  # the iterator is another one's, such as a progress bar
            self._for = frame.f_code, frame.f_lasti
            is_between = frame.f_back and (frame.f_code.co_flags & _GENERATOR or frame.f_code.co_name == "__next__")
            if not is_between or frame.f_code.co_flags & _LASTS:
                self._fors[id(frame)] = self._for
            self._outermost, frame = id(frame), frame.f_back
        self._handled = id(sys.exc_info()[1])  # the `for` may stand in what handles an exception

    def is_apart_from(self, other: Driver) -> bool:
        """Whether it is a `for`, and another one: what one drives, by a `zip` say, takes turns."""
        return _behind(*self._for) is not None and (self._outermost, self._for) != (other._outermost, other._for)

    def standing(self, calls: dict[int, FrameType], is_own: bool) -> FrameType | None:
        """Return the innermost of its frames that are in this stack of calls. `is_own`: see `is_here`."""
        for number, (code, _) in self._fors.items():
            frame = calls.get(number)
            if frame is not None and frame.f_code is code and (is_own or code.co_flags & _LASTS):
                return frame
        return None

    def is_here(self, calls: dict[int, FrameType], is_own: bool) -> bool:
        """Whether its `for` runs in this stack of calls, which is of the thread and task that it began in (`is_own`).

        Where one of its frames is, that tells: it is not at what is behind that `for`.
        """
        frame = self.standing(calls, is_own)
        if frame is None:
            return is_own and _behind(*self._for) is None  # there is no `for`: `next` may come at any time
        return not self._is_left(frame, frame.f_lasti)

    def _is_left(self, frame: FrameType, at: int) -> bool:
        return at in (_behind(*self._fors[id(frame)]) or ())

    def is_in(self, thread: Any) -> bool:
        """Whether its `for`, or `with`, may run in another live thread; a coroutine that waits is in no stack of calls.

        Where it does, nothing is imported: after a Ctrl-C that would change the exit status of the program.
        """
        if thread is threading.current_thread() or not thread.is_alive():
            return False
        if self.standing(stack_of(sys._getframe(1)), is_own=False):
            return False  # a generator has come here
        for _ in range(2):  # again, since a generator that the thread leaves meanwhile does not tell what drives it
            frame = sys._current_frames().get(thread.ident)
            if frame is None or self.standing(stack_of(frame), is_own=True):
                return True
        return bool(self._for[0].co_flags & (_COROUTINE | _ASYNC_GENERATOR)) or _behind(*self._for) is None

    def reaches(self, name: str) -> bool:
        """Whether what drives it has an attribute of that name before or in its `for`."""
        import dis

        return any(
            one.argval == name and one.opname.endswith("_ATTR") and one.offset not in (_behind(code, at) or ())
            for code, at in self._fors.values()
            for one in dis.get_instructions(code)
        )

    @property
    def is_settled(self) -> bool:
        """Whether no exception is on its way that may have left the `for`: none came through it but from behind."""
        errors, seen = [sys.exc_info()[1]], {self._handled}
        while errors:
            error = errors.pop()
            if error is None or id(error) in seen:
                continue
            if isinstance(error, GeneratorExit):
                return False  # what has closed the generator cannot be seen in it
            trace = error.__traceback__
            while trace is not None:
                frame = self.standing({id(trace.tb_frame): trace.tb_frame}, is_own=True)
                if frame is not None and not self._is_left(frame, trace.tb_lasti):
                    return False
                trace = trace.tb_next
            seen.add(id(error))
            errors += error.__cause__, error.__context__
        return True


def stack_of(frame: FrameType | None, last: FrameType | None = None) -> dict[int, FrameType]:
    """Return the stack of calls from this frame, the innermost, to the last one of interest; by their `id`.

    Whoever keeps it in a variable begins with its caller: a frame that refers to itself would keep all others.
    """
    calls = {}
    while frame is not None:
        calls[id(frame)] = frame
        frame = None if frame is last else frame.f_back
    return calls


def _behind(code: CodeType, at: int) -> frozenset[int] | None:
    """Return the instructions that run when the `for` at this one has been left; None where there is no `for`."""
    return _found(ref(code), at)  # a reference knows its hash; that of a code takes as long as the code is


@lru_cache
def _found(reference: Any, at: int) -> frozenset[int] | None:
    """Find them by what may follow what.

    They are those to which control comes from its end, or by a jump out of it, and not through its beginning. All else
    may be of its body: what handles an exception there, or follows an `async for`, may stand anywhere.
    """
    import dis

    code = reference()
    listed: Any = dis.Bytecode(code)
    instructions = list(listed)
    starts = [one.offset for one in instructions]
    ends = [*starts[1:], len(code.co_code)]
    index = bisect(starts, at) - 1  # a frame may stand behind the instruction that it is at
    if instructions[index].opname != "FOR_ITER":
        return None
    ways: dict[int, list[int]] = {}  # by instruction: those to which control may go from it
    for one, following in zip(instructions, ends, strict=True):
        ways[one.offset] = [] if one.opname.startswith(_ENDS) else [following]
        if one.opcode in dis.hasjrel:
            ways[one.offset].append(one.argval)
    head, end = starts[index], instructions[index].argval
    found = [way for start in ways if head <= start < end for way in ways[start] if not head <= way < end]
    for part in listed.exception_entries:
        for start in ways.keys() & range(part.start, part.end):
            ways[start].append(part.target)
    while found:
        offset = found.pop()
        if offset != head:
            found += ways.pop(offset, ())
    # What is short is copied to where a `break` stood, and a `finally` to each `return`: the same in the same places of
    # the text. `-X no_debug_ranges` leaves lines alone, in which there may be both.
    marks = {one.offset: (one.opname, one.positions) for one in instructions}
    told = {mark for start, mark in marks.items() if start not in ways and mark[1].end_col_offset}
    is_copied = marks[head] in told  # the loop itself
    left = (start not in ways or (mark in told and not is_copied) for start, mark in marks.items())
    return frozenset(offset for span in compress(map(range, starts, ends), left) for offset in span)

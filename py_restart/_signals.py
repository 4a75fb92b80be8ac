"""Stops that should save, and stops that wait for a save.

Inside a `with` block of a counter, and for the time of a save, Ctrl-C, SIGTERM and SIGHUP go through one handler:

- In the block SIGTERM and SIGHUP raise `SystemExit` (status 128 + the signal's number, as a shell counts), so that
  the block ends by an exception and saves. A handler of the program's own, Ctrl-C's among them, is called as it would
  have been.
- During a save all three are remembered, and take effect when the save is done.
- Where Python would drop what a handler raises, or break off what must not be, they come again a moment later.

What the program ignores stays ignored, and the handlers that were there come back with the end of the last block or
save. Signals reach the main thread alone (signal(7)); in other threads nothing here does anything.
"""

from __future__ import annotations

# What `signal` wraps in enumerations, which take longer than making a file.
import _signal as signal  # type: ignore[import-not-found]
import _thread
import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType

__all__ = ["act_on_waiting", "held", "shielded", "unwatch", "watch"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_waiting: list[int] = []  # signals that came during a save
_shields: set[CodeType] = set()
_blocks = 0  # that are open in the main thread
_MOMENT = 0.01  # seconds

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Any)


def shielded(function: F) -> F:
    """Make signals wait that arrive while `function` runs, from its very first instruction on.

    A second Ctrl-C may come while `__exit__` has been called but has not run one line yet, or `__enter__` has run its
    last one: no `try` can stand there.
    """
    _shields.add(function.__code__)
    return function


def watch() -> bool:
    """Begin a block: stops are exceptions now. Return whether `unwatch` has to end it."""
    global _blocks
    if threading.current_thread() is not threading.main_thread():
        return False
    _stand_in(_on_stop)
    _blocks += 1
    return True


def unwatch() -> None:
    """End a block. They need not end in the order in which they began: there are tasks, and generators."""
    global _blocks
    _blocks = max(0, _blocks - 1)  # in a forked child there are none
    if not _blocks:
        _step_aside(_on_stop)


class held:
    """A context in which signals wait. What came meanwhile takes effect at its end."""

    def __enter__(self) -> None:
        self._is_outermost = _stand_in(_remember)

    def __exit__(self, *_: object) -> None:
        if self._is_outermost:
            try:
                _step_aside(_remember)
            finally:
                act_on_waiting()


def _on_stop(number: int, frame: FrameType | None) -> None:
    """Do in a block what the signal would do without us; what would end the process is an exception."""
    # The program may have kept this handler beyond the block: Ctrl-C is what it is elsewhere then.
    default = signal.default_int_handler if number == signal.SIGINT else None
    former = _stood_in_for[_on_stop].get(number, default)
    if _is_shielded(frame):
        _waiting.append(number)
    elif _is_closing() or _is_unwinding(frame):
        _send_again(number)
    elif callable(former):
        former(number, frame or sys._getframe())  # what the program does on this signal
    else:
        raise SystemExit(128 + number)


def _remember(number: int, _: FrameType | None) -> None:
    _waiting.append(number)


_stood_in_for: dict[Callable[..., Any], dict[int, Any]] = {_on_stop: {}, _remember: {}}


def _stand_in(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Put `handler` in the place of every other, but of those that ignore; return whether it is there only now."""
    mine, saving = _stood_in_for[handler], _stood_in_for[_remember]
    if mine or threading.current_thread() is not threading.main_thread():
        return False
    try:
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            now = signal.getsignal(number)
            beneath = saving.get(number) if now == _remember else None  # a save stands in: go beneath it
            former = now if beneath is None else beneath
            if former in (handler, _remember):  # the program has put back what it had found in an earlier block
                former = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            if beneath is not None:
                mine[number], saving[number] = former, handler
            elif former not in (signal.SIG_IGN, None):
                mine[number] = former
                signal.signal(number, handler)
    except BaseException:  # a signal, just before its handler was replaced
        _step_aside(handler)
        raise
    return bool(mine)


def _step_aside(handler: Callable[[int, FrameType | None], None]) -> None:
    """Put the handlers back that were there; not where the program has set its own meanwhile."""
    mine, saving = _stood_in_for[handler], _stood_in_for[_remember]
    raised: BaseException | None = None
    while mine:
        try:
            while mine:
                number, former = next(reversed(mine.items()))
                if signal.getsignal(number) == handler:
                    signal.signal(number, former)
                elif saving.get(number) == handler:  # a save stands in for it
                    saving[number] = former
                mine.pop(number, None)
        except BaseException as error:  # a handler that is back has raised at once: the others go back all the same
            raised = error
    if raised is not None:
        raise raised


def act_on_waiting() -> None:
    """Let signals take effect that came while something was shielded."""
    if not _waiting or threading.current_thread() is not threading.main_thread():
        return
    number = _waiting.pop(0)
    handler = signal.getsignal(number)
    try:
        if callable(handler) and _is_closing():
            _send_again(number)
        elif callable(handler):
            handler(number, None if handler == _on_stop else sys._getframe())  # no frame: nothing is shielded any more
        else:
            signal.raise_signal(number)
    finally:  # it may raise; those that came after it count too
        act_on_waiting()


def _is_shielded(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _shields:
            return True
        frame = frame.f_back
    return False


def _is_closing() -> bool:
    """Whether a generator is being closed: where that is because it goes, what is raised is dropped."""
    return sys.exc_info()[0] is GeneratorExit


def _is_unwinding(frame: FrameType | None) -> bool:
    """Whether an exception has just come to where this frame handles it, and nothing has run there yet.

    The second of two signals that come at once is handled at that point in CPython 3.10, before `__exit__` is called.
    """
    trace = sys.exc_info()[2]
    return trace is not None and trace.tb_frame is frame and frame is not None and trace.tb_lasti == frame.f_lasti


def _send_again(number: int) -> None:
    """Let the signal come again in a moment. `threading` takes locks that what was interrupted may hold."""
    try:
        _thread.start_new_thread(_send_later, (number,))
    except RuntimeError:  # too many threads: then at the end of the next save, or of the block
        _waiting.append(number)


def _send_later(number: int) -> None:
    time.sleep(_MOMENT)
    signal.raise_signal(number) if sys.platform == "win32" else os.kill(os.getpid(), number)


def _after_fork() -> None:
    """A forked child answers signals like any other process."""
    global _blocks
    _blocks = 0
    _waiting.clear()
    _step_aside(_remember)
    _step_aside(_on_stop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

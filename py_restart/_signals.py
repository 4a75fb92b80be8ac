"""Stops that save, and stops that wait for a save: one handler, one table.

The handler stands in for those of the program, which the table keeps:

- While a `with` block of a counter is open, for Ctrl-C, SIGTERM and SIGHUP. Where the program left SIGTERM or SIGHUP at
  their default, they raise `SystemExit` (status 128 + the number, as a shell counts), so that the block ends by an
  exception and saves. Handlers of the program are called as they would have been.
- While something is saved or loaded, for every signal that has a Python handler: what comes waits, and takes effect
  when that is done. A time limit that raises does not break it off.
- What is raised where Python drops exceptions (a generator that is being closed, a `__del__`, a callback of `weakref`)
  comes again a moment later.

What the program ignores stays ignored, and its handlers are back with the end of the last block or save. Signals reach
the main thread of the main interpreter alone (signal(7)); elsewhere nothing here does anything.
"""

from __future__ import annotations

# What `signal` wraps in enumerations, which take longer than making a file.
import _signal as signal  # type: ignore[import-not-found]
import _thread
import os
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from itertools import compress
from types import CodeType, FrameType

from ._files import at_fork
from ._typing import Any, F

_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
_ALL = sorted(signal.valid_signals())
_MOMENT = 0.01  # seconds
_MARK = "_py_restart_signal"  # an attribute of what the handler raises, so that it is known again where it is dropped

_former: dict[int, Any] = {}  # the table: whose place the handler has taken
blocks: dict[Any, bool] = {}  # that are open: whether in the main thread; tasks and generators end them in any order
_saves: list[held] = []  # that are running in the main thread, one inside the other
waiting: list[int] = []  # signals that came during a save
_shields: dict[CodeType, bool] = {}  # whether signals wait while a function runs: the innermost of these tells


def shielded(function: F) -> F:
    """Make signals wait while `function` runs: before the first line of `__exit__`, say, where no `try` can stand."""
    _shields[function.__code__] = True
    return function


class held:
    """A context in which signals wait until its end; where Python drops what is raised, they come a moment later."""

    def __init__(self, drops: bool = False) -> None:
        self._drops = drops

    def __enter__(self) -> None:
        if _is_main():
            try:
                _saves.append(self)
                if len(_saves) == 1:
                    _stand_in(compress(_ALL, map(callable, map(signal.getsignal, _ALL))))
            except BaseException:  # a handler that was still there has raised
                self.__exit__()
                raise

    def __exit__(self, *_: object) -> None:
        if self in _saves:  # else it is another thread, or a child that was forked meanwhile
            try:
                if len(_saves) == 1:
                    _step_aside()  # what comes until the handler of the program is back waits, or it would stay away
            finally:
                _saves.remove(self)  # not the last one: greenlets may take turns in what saves
                act_on_waiting(self._drops)


def watch(block: object) -> None:
    """Begin a block: stops are exceptions now. It is open from the last line on."""
    is_main = _is_main()
    if is_main:
        _hear_of_dropped()
        _stand_in(number for number in _STOPS if callable(now := signal.getsignal(number)) or now == signal.SIG_DFL)
        act_on_waiting()
    blocks[block] = is_main


def _hear_of_dropped() -> None:
    if not any(blocks.values()) and not isinstance(sys.unraisablehook, _StandIn):
        sys.unraisablehook = _StandIn(_on_dropped, sys.unraisablehook)


def _is_main() -> bool:
    return _thread.get_ident() == threading.main_thread().ident


def _stand_in(numbers: Iterable[int]) -> None:
    """Take the place of what these signals do."""
    for number in numbers:
        handler = signal.getsignal(number)
        if not isinstance(handler, _StandIn):
            _former[number] = handler
            try:
                signal.signal(number, _StandIn(_on_signal, handler))  # no line of Python: a stop may come
            except ValueError:  # not the main interpreter
                return


def _step_aside() -> None:
    """Put back what no block needs; not where the program has set its own meanwhile."""
    is_open = any(blocks.values())
    if not is_open and isinstance(sys.unraisablehook, _StandIn):
        sys.unraisablehook = sys.unraisablehook.args[0]
    try:
        for number in [number for number in _former if not (is_open and number in _STOPS)]:
            if isinstance(signal.getsignal(number), _StandIn):
                signal.signal(number, _former[number])
            _former.pop(number, None)  # only now: a signal in between would have met nobody
    except BaseException:  # a handler that is back has raised, at any of these lines: the others go back all the same
        _step_aside()
        raise


class _StandIn(partial[None]):
    """Stands in for a handler or a hook, which it knows: one that the program sets meanwhile may call this for ever."""

    def __eq__(self, other: object) -> bool:
        """Whether it stands in for that: trio and Twisted handle Ctrl-C where its handler is equal to Python's own."""
        return bool(self.args[0] == other)

    __hash__ = partial.__hash__  # or `signal.getsignal` would take it for `SIG_DFL`, and a program would put that back


def _on_signal(former: Any, number: int, frame: FrameType | None) -> None:
    """Do what the signal would do without us, or remember it; what would end the process is an exception."""
    inner = frame
    while inner is not None and inner.f_code not in _shields:
        inner = inner.f_back
    if not (_saves or (inner is not None and _shields[inner.f_code])):
        _call(former, number, frame)
    elif number not in waiting:  # one of each, as the system keeps them
        waiting.append(number)


def _call(handler: Any, number: int, frame: FrameType | None = None, drops: bool = False) -> None:
    """Do what the program would, in a moment where Python drops what that raises. Elsewhere it is marked, in case."""
    if drops or sys.exc_info()[0] is GeneratorExit:  # in a generator that goes
        return _send_again(number)
    try:
        if not callable(handler):
            raise SystemExit(128 + number)
        handler(number, frame or sys._getframe())
    except BaseException as stop:
        _hear_of_dropped()  # where no block is open, until the next save or block is over
        stop.__dict__[_MARK] = number  # some do not let themselves be changed
        raise


_shields[_call.__code__] = False  # in what is done at last, nothing is shielded any more


def act_on_waiting(drops: bool = False) -> None:
    """Let signals take effect that came while something was shielded; a moment later, where Python drops that."""
    if not waiting or _saves or not _is_main():
        return
    number = waiting.pop(0)
    handler = signal.getsignal(number)
    try:
        if callable(handler):
            _call(handler, number, drops=drops)  # not sent again: an event loop has been told of it already
        else:
            signal.raise_signal(number)
    finally:  # it may raise; those that came after it count too
        if number not in waiting:  # else nothing can come again now
            act_on_waiting(drops)


def _on_dropped(former: Any, dropped: Any) -> None:
    """Take the place of `sys.unraisablehook`, which is told of what Python drops."""
    number = getattr(dropped.exc_value, _MARK, None)
    if number is not None:
        _send_again(number)
    else:
        former(dropped)


def _send_again(number: int) -> None:
    """Let the signal come again in a moment. `threading` takes locks that what was interrupted may hold."""

    def send() -> None:
        time.sleep(_MOMENT)
        signal.raise_signal(number) if sys.platform == "win32" else os.kill(os.getpid(), number)

    try:
        _thread.start_new_thread(send, ())
    except RuntimeError:  # too many threads: then at the end of the next save, or of the block
        waiting.append(number)


@at_fork
def _after_fork() -> None:
    """A forked child answers signals like any other process."""
    blocks.clear()
    _saves.clear()
    waiting.clear()
    _step_aside()

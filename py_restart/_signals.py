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
from types import CodeType, FrameType

from ._files import at_fork
from ._typing import Any, F

_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ALL = sorted(signal.valid_signals())
_MOMENT = 0.01  # seconds
_MARK = "_py_restart_signal"  # an attribute of what the handler raises, so that it is known again where it is dropped

_former: dict[int, Any] = {}  # the table: whose place the handler has taken
_blocks = 0  # that are open in the main thread
_saves = 0  # that are running in the main thread, one inside the other
_waiting: list[int] = []  # signals that came during a save
_shields: set[CodeType] = set()
_former_hook: Any = None  # what `sys.unraisablehook` was before the first block


def shielded(function: F) -> F:
    """Make signals wait that arrive while `function` runs, from its very first instruction on.

    A second Ctrl-C may come while `__exit__` has been called but has not run one line yet, or `__enter__` has run its
    last one: no `try` can stand there.
    """
    _shields.add(function.__code__)
    return function


def watch() -> bool:
    """Begin a block: stops are exceptions now. Return whether `unwatch` has to end it."""
    global _blocks, _former_hook
    if not _is_main():
        return False
    with held():
        if not _blocks:
            _former_hook, sys.unraisablehook = sys.unraisablehook, _on_dropped
        _blocks += 1
        _stand_in(_STOPS, is_default_meant=True)
    return True


def unwatch() -> None:
    """End a block. They need not end in the order in which they began: there are tasks, and generators."""
    global _blocks
    with held():
        _blocks = max(0, _blocks - 1)  # in a forked child there are none
        if not _blocks and sys.unraisablehook is _on_dropped:
            sys.unraisablehook = _former_hook


class held:
    """A context in which signals wait. What came meanwhile takes effect at its end."""

    def __enter__(self) -> None:
        global _saves
        self._is_main = _is_main()
        if self._is_main:
            _saves += 1
            if _saves == 1:
                try:
                    _stand_in(_ALL)
                except BaseException:  # a handler that was still there has raised
                    self.__exit__()
                    raise

    def __exit__(self, *_: object) -> None:
        global _saves
        if self._is_main:
            _saves -= 1
            if not _saves:
                try:
                    _step_aside()
                finally:
                    act_on_waiting()


def _is_main() -> bool:
    return _thread.get_ident() == threading.main_thread().ident


def _stand_in(numbers: list[int], is_default_meant: bool = False) -> None:
    """Take the place of the handlers of these signals; of the system's default where that is meant."""
    for number, handler in zip(numbers, map(signal.getsignal, numbers), strict=True):
        if handler.__class__ is int and not (is_default_meant and handler == signal.SIG_DFL):
            continue  # the system's default, or ignored
        if handler is _on_signal and number not in _former:  # the program has put back what it had found in a block
            _former[number] = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        elif handler is not _on_signal and handler is not None:
            try:
                _former[number] = handler
                signal.signal(number, _on_signal)
            except ValueError:  # not the main interpreter
                del _former[number]
                return


def _step_aside() -> None:
    """Put back the handlers that no block needs; not where the program has set its own meanwhile."""
    raised: BaseException | None = None
    for number in list(_former):
        if _blocks and number in _STOPS:
            continue
        try:
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, _former[number])
        except BaseException as error:  # the handler that is back has raised at once: the others go back all the same
            raised = error
        _former.pop(number, None)  # only now: a signal in between would have met nobody
    if raised is not None:
        raise raised


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Do what the signal would do without us, or remember it; what would end the process is an exception."""
    if _saves or _is_shielded(frame):
        _waiting.append(number)
    elif sys.exc_info()[0] is GeneratorExit:  # in a generator that goes, what is raised is dropped
        _send_again(number)
    else:
        # The program may have kept this handler beyond the block: Ctrl-C is what it is elsewhere then.
        former = _former.get(number, signal.default_int_handler if number == signal.SIGINT else None)
        try:
            if not callable(former):
                raise SystemExit(128 + number)
            former(number, frame or sys._getframe())
        except BaseException as stop:
            try:
                setattr(stop, _MARK, number)
            except Exception:  # some have no room for it
                pass
            raise


def act_on_waiting() -> None:
    """Let signals take effect that came while something was shielded."""
    if not _waiting or _saves or not _is_main():
        return
    number = _waiting.pop(0)
    try:
        if not callable(signal.getsignal(number)):
            signal.raise_signal(number)
        elif sys.exc_info()[0] is GeneratorExit:
            _send_again(number)
        elif signal.getsignal(number) is _on_signal:
            _on_signal(number, None)  # no frame: nothing is shielded any more
        else:
            signal.getsignal(number)(number, sys._getframe())
    finally:  # it may raise; those that came after it count too
        act_on_waiting()


def _is_shielded(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _shields:
            return True
        frame = frame.f_back
    return False


def _on_dropped(dropped: Any) -> None:
    """Take the place of `sys.unraisablehook`, which is told of what Python drops."""
    number = getattr(dropped.exc_value, _MARK, None)
    if number is not None:
        _send_again(number)
    else:
        _former_hook(dropped)


def _send_again(number: int) -> None:
    """Let the signal come again in a moment. `threading` takes locks that what was interrupted may hold."""
    try:
        _thread.start_new_thread(_send_later, (number,))
    except RuntimeError:  # too many threads: then at the end of the next save, or of the block
        _waiting.append(number)


def _send_later(number: int) -> None:
    time.sleep(_MOMENT)
    signal.raise_signal(number) if sys.platform == "win32" else os.kill(os.getpid(), number)


@at_fork
def _after_fork() -> None:
    """A forked child answers signals like any other process."""
    global _blocks, _saves
    if _blocks and sys.unraisablehook is _on_dropped:
        sys.unraisablehook = _former_hook
    _blocks = _saves = 0
    _waiting.clear()
    _step_aside()

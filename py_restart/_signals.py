"""Stops that should save, and stops that wait for a save.

Inside a `with` block of a counter, and for the time of a save, Ctrl-C, SIGTERM and SIGHUP go through one handler:

- In the block SIGTERM and SIGHUP raise `SystemExit` (status 128 + the signal's number, as a shell counts), so that
  the block ends by an exception and saves. A handler of the program's own, Ctrl-C's among them, is called as it would
  have been.
- During a save all three are remembered, and take effect when the save is done.

What the program ignores stays ignored, and the handlers that were there come back with the end of the last block or
save. Signals reach the main thread alone (signal(7)); in other threads nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["held", "shielded", "unwatch", "watch"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_previous: dict[int, Any] = {}  # the handlers that ours stands in for
_waiting: list[int] = []  # signals that came during a save
_shields: set[CodeType] = set()
_watches = 0  # open blocks and running saves of the main thread
_holds = 0  # running saves of the main thread

F = TypeVar("F", bound=Any)


def shielded(function: F) -> F:
    """Make signals wait that arrive while `function` runs, from its very first instruction on.

    A second Ctrl-C may come while `__exit__` has been called but has not run one line yet; no `try` can stand there.
    """
    _shields.add(function.__code__)
    return function


def watch() -> bool:
    """Stand in for the handlers; return whether that is possible here."""
    global _watches
    if threading.current_thread() is not threading.main_thread():
        return False
    _watches += 1
    if _watches == 1:
        import signal

        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                _previous[number] = handler
                signal.signal(number, _on_signal)
    return True


def unwatch() -> None:
    """Undo one `watch`: with the last one the handlers that were there come back."""
    global _watches
    _watches = max(0, _watches - 1)  # a forked child starts from 0 inside its parent's blocks
    if _watches == 0:
        _restore()


class held:
    """A context in which signals wait. What came meanwhile takes effect at its end."""

    def __enter__(self) -> None:
        global _holds
        self._watching = watch()
        _holds += self._watching

    def __exit__(self, *_: object) -> None:
        global _holds
        if self._watching:
            _holds = max(0, _holds - 1)
            unwatch()
            while _waiting and not _holds:
                _act(_waiting.pop(0), None)


def _restore() -> None:
    import signal

    for number, handler in _previous.items():
        if signal.getsignal(number) == _on_signal:  # else the program has set its own inside the block
            signal.signal(number, handler)
    _previous.clear()


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _holds or _is_shielded(frame):
        _waiting.append(number)
    else:
        _act(number, frame)


def _is_shielded(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _shields:
            return True
        frame = frame.f_back
    return False


def _act(number: int, frame: FrameType | None) -> None:
    """Do what the signal would have done without us; in a block a stop is an exception."""
    import signal

    handler = _previous.get(number)
    if handler is None:  # no block is open any more
        signal.raise_signal(number)
    elif callable(handler):
        handler(number, frame or sys._getframe())
    else:
        raise SystemExit(128 + number)


def _after_fork() -> None:
    """A forked child answers signals like any other process."""
    global _watches, _holds
    _restore()
    _waiting.clear()
    _watches = _holds = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

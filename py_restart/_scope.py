"""What is around a counter: the open `multi_count` block, and the loops that are running."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from contextvars import ContextVar
from types import TracebackType

from ._errors import RestartError

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any

    from ._counter import CounterClosier
    from ._loop import Loop

__all__ = ["Block", "config", "multi_count", "owner", "running", "start_running", "stop_running"]

_block: ContextVar[Block | None] = ContextVar("py_restart.block", default=None)
_running: list[weakref.ref[Loop[Any]]] = []  # in the order in which they were started, all threads and tasks


class Block:
    """A `multi_count` block: the files of the loops in it stay until it ends."""

    _counters: dict[str, CounterClosier]  # by path; of an inner loop, the newest
    is_over: bool  # a task that was started in it may outlive it

    def __enter__(self) -> Block:
        if config.parent is not None:
            raise RestartError("MultiCount has already opend. cannot open another MultiCount")
        self._counters, self.is_over = {}, False
        _block.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _block.set(None)
        self.is_over = True
        for counter in reversed(self._counters.values()):  # a later loop never looks done before an earlier one
            counter._leave_block(error is None)

    def enter(self, counter: CounterClosier) -> None:
        """Keep the files of `counter` until the end.

        Raises:
            RestartError: its path is that of another loop, or of the same one in the same item of the loops around.
        """
        former = self._counters.get(counter._path)
        if former is not None and former._storage is not None:
            places, now = former._places_around(), counter._places_around()
            if places == now or [path for path, _ in places] != [path for path, _ in now]:
                raise RestartError(
                    f"{counter._name}: used for two loops of one multi_count block; give each loop a path of its own"
                )
        self._counters.pop(counter._path, None)
        self._counters[counter._path] = counter


class _Config:
    """What holds for this thread or asyncio task."""

    @property
    def parent(self) -> Block | None:
        """The open `multi_count` block, or None."""
        block = _block.get()
        return None if block is None or block.is_over else block


config = _Config()


def multi_count() -> Block:
    """Keep the files of several loops until all of them are done.

    A loop that ends inside the block is marked as finished, and the next run skips it; all files go when the block ends
    without an exception.

    Raises:
        RestartError: when the block is entered inside another one.

    Example:
        >>> with multi_count():
        ...     for i in simple_counter("first.tmp", range(2)):
        ...         print("first", i)
        ...     for i in simple_counter("second.tmp", range(2)):
        ...         print("second", i)
        first 0
        first 1
        second 0
        second 1
    """
    return Block()


def owner() -> tuple[object, object]:
    """Return what tells this thread and asyncio task from all others."""
    task = None
    if "asyncio" in sys.modules:
        try:
            task = sys.modules["asyncio"].current_task()
        except RuntimeError:  # no event loop in this thread
            pass
    return threading.current_thread(), task


def running() -> list[Loop[Any]]:
    """Return the running loops of this thread or task, the outermost first."""
    me, loops = owner(), []
    for reference in list(_running):
        loop = reference()
        if loop is not None:
            loops.append(loop)
        elif reference in _running:
            _running.remove(reference)
    return [loop for loop in loops if loop._owner == me and loop._is_running]


def start_running(loop: Loop[Any]) -> None:
    """Note that a loop is about to draw its first item."""
    _running.append(weakref.ref(loop))


def stop_running(loop: Loop[Any]) -> None:
    """Note that a loop was left."""
    reference = weakref.ref(loop)
    if reference in _running:
        _running.remove(reference)  # in one step: other threads change the list meanwhile


def _after_fork() -> None:
    """A forked child is in no block: it would never see its end, which is its parent's."""
    _block.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

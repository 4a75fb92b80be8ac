"""What is around a counter: the open `multi_count` block, and the loops that are running."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar

from ._errors import RestartError, attach, face
from ._files import at_fork
from ._frames import stack_of
from ._signals import blocks, held
from ._typing import Any

_WAY_OUT = "nest the two, or zip their sources"
NO_SOURCE = f"a loop cannot be part of the source of another loop, which would draw from it twice; {_WAY_OUT}"

_block: ContextVar[multi_count | None] = ContextVar("py_restart.block", default=None)
opened: list[multi_count] = []  # the blocks of all threads and tasks; a task may outlive the block it was started in
running: list[Any] = []  # the loops that are running in all of them, in the order in which they began
at_fork(opened.clear)  # a forked child is in no block and inside no loop:
at_fork(running.clear)  # it would never see their end, which is their parent's


class multi_count:
    """Keep the files of several loops until all of them are done.

    A loop that ends inside the block is marked as finished, and the next run skips it; all files go when the block ends
    without an exception. A thread in no block of its own is in the only one that is open in the program.

    Raises:
        RestartError: when the block is entered inside another one.

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

    @face
    def __enter__(self) -> multi_count:
        if _block.get() in opened or self in opened:  # another thread may have entered this one
            raise RestartError("MultiCount has already opend. cannot open another MultiCount")  # to the letter
        self._members: dict[str, Any] = {}  # by path; of an inner loop, the newest
        self._thread = threading.current_thread()  # that has opened it
        self._is_done = False  # it has ended without an exception: its loops need not be skipped any more
        _block.set(self)
        opened.append(self)  # only now: a stop in between leaves nothing open
        return self

    @face
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self not in opened:
            return  # a forked child, which has not opened it
        opened.remove(self)
        _block.set(None)
        self._is_done = error is None
        failure: Exception | None = None
        with held():
            while self._members:
                member = self._members.popitem()[1]  # a later loop never looks done before an earlier one
                try:
                    member.leave_block()
                except Exception as raised:  # all others let go of their files all the same
                    failure, self._is_done = failure or raised, False
                    if member.parent is None:  # to run again would do all those again that are gone by now
                        members = *self._members.values(), member
                        left = " and ".join(one.storage.journal.files for one in members if one.parent is None)
                        raised.add_note(f"Its multi_count block is done: all that is left is to delete {left}")
        if failure is not None and error is not None:
            attach(error, failure)
        elif failure is not None:
            raise failure

    def _enter(self, member: Any) -> None:
        """Keep the files of a loop until the end. The same one may come again in another item of the loops around."""
        former = self._members.get(member.path, member)
        then, now = ([loop.path for loop in one.around] for one in (former, member))
        if former is not member and (then != now or former.items == member.items):
            what = "used for two loops of one multi_count block"
            way_out = "give each loop a path of its own; to try one again, let its error end the block, and run again"
            raise RestartError(f"{member.name}: {what}; {way_out}")
        self._members.pop(member.path, None)  # the newest stands last
        self._members[member.path] = member


class _Config:
    """What holds for this thread or asyncio task."""

    @property
    def parent(self) -> multi_count | None:
        """The open `multi_count` block, or None. A thread in no block of its own is in the only one that is open."""
        own = _block.get()
        if own in opened:
            return own
        return opened[0] if len(opened) == 1 and opened[0]._thread is not threading.current_thread() else None


config: _Config = _Config()


def owner() -> tuple[Any, Any]:
    """Return what tells this thread and task, of asyncio or trio, from all others."""
    task: Any = None
    for library in "asyncio", "trio.lowlevel":
        module = sys.modules.get(library)
        try:
            task = task or (module and module.current_task())
        except (RuntimeError, AttributeError):  # it is not at work here, or only just being imported
            continue
    return threading.current_thread(), task


def around(name: str, path: str = "") -> list[Any]:
    """Return which of the running loops are around a counter that is made with this path, or a loop that begins now.

    They are of this thread or task, the outermost first; what a save function runs is in none.
    """
    if not (running or (path and blocks)):
        return []
    here = owner()
    for loop in list(running):
        if loop.owner == here and getattr(loop.driver(), "gi_frame", None) is None:
            loop.leave()  # what the `for` drove is over: a handler that raises has kept the loop from leaving itself
    task = here[1].coro if hasattr(here[1], "coro") else here[1] and here[1].get_coro()
    last = getattr(task, "cr_frame", None) or getattr(task, "gi_frame", None)  # below it is what started the event loop
    calls = stack_of(sys._getframe(1), last) if running else {}
    mine = [loop for loop in list(running) if loop.driven_by.is_here(calls, loop.owner == here)]
    loops = [loop for loop in mine if not (loop.host.saves or loop.storage.is_lost)]
    outermost = [block for block in list(blocks) if block.driven_by is not None and block.parent is None]
    for other in (*loops, *outermost):  # a loop that is over, in a `with` that is not, is still around
        if other.path == path and other.driven_by.standing(stack_of(sys._getframe(1)), other.owner == here):
            raise RestartError(f"{name}: used for the loop around it as well; give it a path of its own")
    for index, loop in enumerate(loops):
        if loop.path == path:
            loops = loops[:index]  # run again, while a variable holds what the last run has left
    if not all(loop.is_in_item for loop in loops):
        raise RestartError(f"{name}: {NO_SOURCE}")
    return loops

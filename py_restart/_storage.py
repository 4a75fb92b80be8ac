"""The commit: what belongs to a moment is written, counts, and comes to its place; recovery and removal.

A moment to which nothing belongs is a record in the progress file (see `_journal`). Of all others:

1. *Stage.* New contents are written beside each final path (see `_contents`) and flushed, then the folders that they
   are in ("fsync does not ensure that the entry in the directory has reached disk": fsync(2)).
2. *Count.* A record that names them, with sizes and digests, is written and flushed. Before it the save before counts,
   after it this one.
3. *Settle.* What was staged is moved to its place, a file by replacing, a folder once the old one has been moved aside;
   what the save before had, and this one has not, is deleted. The folders are flushed before the next record.

A crash before 2 leaves staged contents that no record names: they go at the next start. A crash after 2 leaves some of
3 undone: the next start does the rest. Which is which, sizes and digests tell. The staged names alternate from save to
save, so that a move which was lost with the power finds its source again. A removal is a save to which nothing belongs;
its record says so, and then the progress file goes.
"""

import os
import threading

from . import _files, _lock
from ._contents import Contents
from ._errors import RestartError, failing
from ._journal import Journal, Teller, behind
from ._progress import files_of
from ._scope import running
from ._signals import held
from ._typing import Any, Moment


class Storage:
    """A progress file and all that is saved with it, locked for this process until `release` or `remove`."""

    def __init__(self, path: str, name: str) -> None:
        self.lock = _lock.Lock(path, name, self)
        self._process = os.getpid()
        self.turn = threading.RLock()  # held while something is saved
        mend = failing(f"{name}: cannot be used", "it may be another user's; mend that and run again")
        try:
            with held(), _lock.turn, mend:
                self.journal = Journal(path, name)
                self.lock.take(takes_over=True)
                self.journal.read()
                self.contents = Contents(self.journal)
                self.contents.recover(files_of(self.journal.other) | files_of(self.journal.newest))
                if self.journal.newest is not None and "removed" in self.journal.newest:
                    self.remove(is_done=False)
        except BaseException:  # a signal that came meanwhile, too
            self.lock.release()
            raise

    def __del__(self) -> None:
        if hasattr(self, "lock"):  # else a signal came at once
            self.lock.release(drops=True)

    @property
    def is_of_this_process(self) -> bool:
        """Whether this is not a forked child, which saves nothing."""
        return self._process == os.getpid()

    def is_busy(self) -> bool:
        """Whether a loop is running with it in another live thread."""
        return any(loop.storage is self and loop.is_busy() for loop in list(running))

    def require_current(self) -> None:
        """Raise where a newer counter has taken over."""
        if self.lock.is_lost:
            raise RestartError(f"{self.journal.name}: a newer counter for the same path has taken over; use that one")

    def release(self, is_kept: bool = False) -> None:
        """Let go of the progress file and of the lock. `is_kept`: its loop is finished, others of its block go on."""
        if is_kept and self.is_of_this_process:
            behind[self.journal.path] = self.journal
        if self.lock.is_held:
            with held(), self.turn, failing(f"{self.journal.name}: could not be saved", "mend that and run again"):
                try:
                    self.journal.close()
                finally:
                    self.lock.release()

    def save(
        self, moment: Moment, told: Moment, states: list[Any], teller: Teller | None, flush: bool, close: bool
    ) -> None:
        """Save a moment, or raise: nothing of it counts unless all of it does, and the save before is whole till then.

        `states` is what to save with it; the moment gets their stamps. For all else see `Journal.write`.
        """
        if not self.is_of_this_process:
            return
        journal, contents = self.journal, self.contents
        kept = "what was saved before is whole" if journal.newest else "nothing had been saved before"
        advice = f"{kept}; mend that and run again"
        with held(), self.turn, failing(f"{self.journal.name}: could not be saved", advice):
            self._take_up_again()
            before = journal.newest
            if not (states or files_of(before)):
                contents.flush_folders()  # the record that is overwritten may be the last that names what has gone
                return journal.write(moment, told, teller, flush, close)
            try:
                contents.stage(moment, states, advice)
                journal.write(moment, told, teller, True, close)
            finally:
                if journal.newest is before and self.is_of_this_process:  # a function that saves may have forked
                    contents.discard()
            contents.settle()

    def remove(self, is_done: bool = True) -> None:
        """Delete the progress and all that was saved with it. `is_done`: let go of the lock as well."""
        if not self.is_of_this_process:
            return
        journal, contents = self.journal, self.contents
        with held(), self.turn, failing(f"{journal.name}: could not be removed", "run again to finish the removal"):
            try:
                self._take_up_again()
                contents.flush_folders()
                if files_of(journal.newest):
                    nothing = {"path": journal.path, "position": 0, "files": {}, "inside": [], "removed": True}
                    journal.write(nothing, nothing, None, flush=True, close=True)
                    contents.settle()
                    contents.flush_folders()
                journal.remove()
            finally:
                if is_done:
                    _files.attempt(journal.close)
                    self.lock.release()

    def _take_up_again(self) -> None:
        """Take the lock again where it was let go of, and do what a failure has left undone."""
        self.require_current()
        if not self.lock.is_held:
            self.lock.take(takes_over=False)
            self.journal.is_here()
        self.contents.settle()


def require_place(path: str, name: str, is_file: bool = False) -> None:
    """Raise where nothing can be written at `path`, or where something is there that is not a file."""
    folder = os.path.dirname(path)
    if not os.access(os.path.join(folder, ""), os.R_OK | os.W_OK | os.X_OK):  # to read: so that it can be flushed
        what, way_out = "cannot be read and written to", "give a path in another one"
        if not os.path.isdir(folder):
            what, way_out = "does not exist", "create it first"
            if name.startswith("~"):
                way_out = "~ is not expanded, give Path.home() / ... instead"
        raise RestartError(f"{name}: the folder {folder} {what}; {way_out}")
    if is_file:
        with failing(f"{name}: cannot be used", "give another path"):
            if _files.kind_of(path) not in ("file", ""):
                kind = "a folder; give the path of a file" if os.path.isdir(path) else "not a file; give another path"
                raise RestartError(f"{name}: {kind}")

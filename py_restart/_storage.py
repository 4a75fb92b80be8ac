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

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping

from . import _files, _lock
from ._contents import Contents
from ._errors import RestartError, describe, failing
from ._journal import Journal, Teller
from ._progress import files_of
from ._signals import held
from ._typing import Any, Moment, Stamp

_open: weakref.WeakSet[Storage] = weakref.WeakSet()


class Storage:
    """A progress file and all that is saved with it, locked for this process until `release` or `remove`.

    Args:
        path: Where the progress file is, absolute and without links.
        name: The path as the user gave it, for messages.
        is_busy: Whether a loop is running with it in another live thread. Held weakly.
    """

    def __init__(self, path: str, name: str, is_busy: Callable[[], bool]) -> None:
        self._name = name
        self.lock = _lock.Lock(path, name, is_busy, self._lose)
        self._process = os.getpid()  # a child of fork saves nothing
        self._turn = threading.RLock()
        self._contents = Contents(path, name)
        weakref.finalize(self, self.lock.release)
        _open.add(self)
        mend = failing(f"{name}: cannot be used", "it may be another user's; mend that and run again")
        try:
            with held(), _lock.turn, mend:
                self.lock.take(takes_over=True)
                self.journal = Journal(path, name)
                self._contents.recover(*self._files(), self.journal.flush)
                if self.journal.newest is not None and "removed" in self.journal.newest:
                    self._remove()
        except BaseException:  # a signal that came meanwhile, too
            self.lock.release()
            raise

    @property
    def is_of_this_process(self) -> bool:
        """Whether this is not a forked child, which saves nothing."""
        return self._process == os.getpid()

    @property
    def way_out(self) -> str:
        """How to start afresh, with the names of all files that would go."""
        return f"to start afresh delete {' and '.join([self._name, *files_of(self.journal.newest)])}"

    def _files(self) -> tuple[dict[str, Stamp], dict[str, Stamp]]:
        """What belongs to the save that counts, and to what was before; a removal tells that itself."""
        newest = self.journal.newest or {}
        return files_of(self.journal.newest), {**files_of(self.journal.other), **newest.get("removed", {})}

    def _lose(self) -> None:
        with self._turn:  # a save in another thread comes to its end
            self.journal.let_go()

    def drop(self) -> None:
        """In a forked child: the progress file is the parent's. A thread that is not in the child may be saving."""
        self._turn = threading.RLock()
        self.journal.let_go()

    def require_current(self) -> None:
        """Raise where a newer counter has taken over."""
        if self.lock.is_lost:
            raise RestartError(f"{self._name}: a newer counter for the same path has taken over; use that one")

    def release(self, is_kept: bool = False) -> None:
        """Let go of the progress file and of the lock. `is_kept`: its loop is finished, others of its block go on."""
        if self.is_of_this_process:
            with held(), self._turn:
                try:
                    self.journal.close()
                    if is_kept:
                        self.journal.leave_behind()
                except OSError as error:
                    raise self._failed("saved", error) from error
                finally:
                    self.lock.release()

    def take_up(self, state: Any, stamp: Stamp | None) -> None:
        """Load what was saved; where nothing was, make sure that nothing is there, and that it can be saved.

        Raises:
            RestartError: it is missing, changed or damaged, or foreign; it cannot be loaded, or not be pickled.
        """
        mend = failing(f"{state.path}: cannot be used", f"mend that, or give another path, or {self.way_out}")
        with held(), mend:
            if stamp is not None:
                self._contents.take_up(state, stamp, self.way_out)
            else:
                new, old = self._files()
                self._contents.take_new(state, {**old, **new})

    def save(
        self, moment: Moment, told: Moment, states: Mapping[str, Any], teller: Teller | None, flush: bool, close: bool
    ) -> None:
        """Save a moment; nothing of it counts unless all of it does.

        Args:
            moment: What to save. The stamps of what is in `states` are filled in.
            told: Which of the loops in it tells its position.
            states: What to save with it, by path; all else that it names stays as it is.
            teller: See `Journal.write`; `flush` and `close` likewise.

        Raises:
            RestartError: a function or the disk fails. The save before is still whole then.
        """
        with held(), self._turn:
            try:
                if not self._may_write():
                    return
                self._contents.settle(*self._files())  # what a failure has left undone
                if states or files_of(self.journal.newest):
                    self._commit(moment, told, states, close)
                else:
                    self._contents.flush_folders()
                    self.journal.write(moment, told, teller=teller, flush=flush, close=close)
            except OSError as error:
                raise self._failed("saved", error) from error

    def _commit(self, moment: Moment, told: Moment, states: Mapping[str, Any], close: bool) -> None:
        contents, journal, before = self._contents, self.journal, self.journal.newest
        journal.require_mounted()
        letter = "ab"[before["save"] % 2 if before else 0]  # alternates, from one process to the next as well
        known = files_of(before)
        try:
            stamps = {path: contents.stage(path, state, letter, known.get(path)) for path, state in states.items()}
            _fill_in(moment, stamps)
            contents.flush_folders()
            journal.write(moment, told, flush=True, close=close)
        finally:
            (contents.discard if journal.newest is before else contents.count)(states, letter)
        contents.settle(*self._files())

    def remove(self, is_done: bool = True) -> None:
        """Delete the progress and all that was saved with it. `is_done`: let go of the lock as well.

        Raises:
            RestartError: where the disk fails; the next start finishes the removal then.
        """
        with held(), self._turn:
            try:
                if self._may_write():
                    self._contents.settle(*self._files())
                    self._remove()
            except OSError as error:
                raise self._failed("removed", error) from error
            finally:
                if is_done:
                    self.release()

    def _remove(self) -> None:
        if files_of(self.journal.newest):
            self._contents.flush_folders()
            files = files_of(self.journal.newest)
            nothing = {"path": self.journal.path, "position": 0, "files": {}, "inside": [], "removed": files}
            self.journal.write(nothing, nothing, flush=True)
            self._contents.settle(*self._files())
        self._contents.flush_folders()
        self.journal.remove()

    def _may_write(self) -> bool:
        """Whether there is anything to do; take the lock again where it was let go of."""
        if not self.is_of_this_process:
            return False
        self.require_current()
        if not self.lock.is_held:
            self.lock.take(takes_over=False)
            try:
                self.journal.is_here()
            except BaseException as error:
                self.lock.release()
                if isinstance(error, RestartError):
                    raise RestartError(f"{self._name}: saved by another counter since; make a new one") from error
                raise
        return True

    def _failed(self, what: str, error: OSError) -> RestartError:
        kept = "what was saved before is whole" if self.journal.newest else "nothing had been saved before"
        advice = f"{kept}; mend that and run again" if what == "saved" else "run again to finish the removal"
        return RestartError(f"{self._name}: could not be {what}: {describe(error)}; {advice}")


def require_folder(folder: str, name: str) -> None:
    """Raise where nothing can be written in `folder`."""
    if not os.path.isdir(folder):
        way_out = "~ is not expanded, give Path.home() / ... instead" if name.startswith("~") else "create it first"
        raise RestartError(f"{name}: the folder {folder} does not exist; {way_out}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RestartError(f"{name}: the folder {folder} cannot be written to; give a path in another one")


def require_file(path: str, name: str) -> None:
    """Raise where something stands at `path` that is not a file."""
    if not _files.is_file_or_nothing(path):
        kind = "a folder; give the path of a file" if os.path.isdir(path) else "not a file; give another path"
        raise RestartError(f"{name}: {kind}")


def _fill_in(moment: Moment, stamps: Mapping[str, Stamp]) -> None:
    for path in moment["files"].keys() & stamps.keys():
        moment["files"][path] = stamps[path]
    for inner in moment["inside"]:
        _fill_in(inner, stamps)


@_files.at_fork
def _after_fork() -> None:
    for storage in list(_open):
        storage.drop()

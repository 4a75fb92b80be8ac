"""The commit: what belongs to a moment is written, counts, and comes to its place; recovery and removal.

A moment to which nothing belongs is a record in the progress file (see `_journal`). Of all others:

1. *Stage.* New contents are written beside each final path, `.sum.pickle.3f9a1c02-a`, and flushed, then the folders
   that they are in ("fsync does not ensure that the entry in the directory has reached disk": fsync(2)).
2. *Count.* A record that names them, with sizes and digests, is written and flushed. Before it the save before counts,
   after it this one.
3. *Settle.* What was staged is moved to its place, a file by replacing, a folder once the old one has been moved aside;
   what the save before had, and this one has not, is deleted. The folders are flushed before the next record.

A crash before 2 leaves staged contents that no record names: they go at the next start. A crash after 2 leaves some of
3 undone: the next start does the rest. Which is which, sizes and digests tell. Staged names carry a mark made of where
the progress file is, and alternate from save to save, so that a move which was lost with the power finds its source
again. A removal is a save to which nothing belongs; its record says so, and then the progress file goes.

What carries another size or digest than the two records name is somebody else's, and is never touched.
"""

from __future__ import annotations

import os
import threading
import weakref
from binascii import crc32
from collections.abc import Callable, Mapping

from . import _files, _lock
from ._errors import RestartError, describe, failing
from ._journal import Journal, Teller
from ._lock import Lock
from ._progress import files_of, relative
from ._signals import held
from ._typing import Any, Moment, Stamp

__all__ = ["Storage", "require_file", "require_folder"]

_open: weakref.WeakSet[Storage] = weakref.WeakSet()


class Storage:
    """A progress file and all that is saved with it, locked for this process from `open` to `release` or `remove`.

    Args:
        path: Where the progress file is, absolute and without links.
        name: The path as the user gave it, for messages.
        is_busy: Whether a loop is running with it in another live thread. Held weakly.
    """

    def __init__(self, path: str, name: str, is_busy: Callable[[], bool]) -> None:
        self.path, self._name = path, name
        self._lock = lock = Lock(path, name, is_busy, self._lose)
        self._process = os.getpid()  # a child of fork saves nothing
        self._turn = threading.RLock()
        self._staged: dict[str, str] = {}  # what counts but is not in its place yet, by path
        self._unflushed: set[str] = set()  # folders in which names have changed
        self._seen: dict[str, tuple[int, ...]] = {}  # what was in place when it was known to be ours
        weakref.finalize(self, lock.release)
        _open.add(self)
        try:
            with (
                held(),
                _lock.turn,
                failing(f"{name}: cannot be used", "it may be another user's; mend that and run again"),
            ):
                lock.take(takes_over=True)
                self._journal = Journal(path, name)
                self._recover()
        except BaseException:  # a signal that came meanwhile, too
            lock.release()
            raise

    @property
    def newest(self) -> Moment | None:
        """The moment that is saved."""
        return self._journal.newest

    @property
    def is_of_this_process(self) -> bool:
        """Whether this is not a forked child, which saves nothing."""
        return self._process == os.getpid()

    @property
    def is_lost(self) -> bool:
        """Whether a newer counter has taken over."""
        return self._lock.is_lost

    @property
    def is_in_use(self) -> bool:
        """Whether it is open, and no newer counter has taken over."""
        return self._lock.is_held

    @property
    def age(self) -> float:
        """Seconds since the last save, when it was read."""
        return self._journal.age

    def files(self) -> list[str]:
        """The paths of all that was saved with the progress."""
        return list(files_of(self.newest))

    @property
    def way_out(self) -> str:
        """How to start afresh, with the names of all files that would go."""
        return f"to start afresh delete {' and '.join([self._name, *self.files()])}"

    def stop_telling(self) -> None:
        """Let the next save of a position alone describe the moment anew: a loop has begun."""
        self._journal.stop_telling()

    def _lose(self) -> None:
        with self._turn:  # a save in another thread comes to its end
            self._journal.let_go()

    def drop(self) -> None:
        """In a forked child: the progress file is the parent's. A thread that is not in the child may be saving."""
        self._turn = threading.RLock()
        self._journal.let_go()

    def require_current(self) -> None:
        """Raise where a newer counter has taken over."""
        if self._lock.is_lost:
            raise RestartError(f"{self._name}: a newer counter for the same path has taken over; use that one")

    def release(self, is_kept: bool = False) -> None:
        """Let go of the progress file and of the lock. `is_kept`: its loop is finished, others of its block go on."""
        if not self.is_of_this_process:
            return
        with held(), self._turn:
            try:
                self._journal.close()
                if is_kept:
                    self._journal.leave_behind()
            except OSError as error:
                raise self._failed(error) from error
            finally:
                self._lock.release()

    # Saving.

    def save(
        self,
        moment: Moment,
        told: Moment,
        states: Mapping[str, Any],
        *,
        teller: Teller | None = None,
        flush: bool = False,
        close: bool = False,
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
            if not self._may_write():
                return
            try:
                self._settle()
                if states or files_of(self.newest):
                    self._commit(moment, told, states, close)
                else:
                    self._flush_folders()
                    self._journal.write(moment, told, teller=teller, flush=flush, close=close)
            except OSError as error:
                raise self._failed(error) from error

    def _commit(self, moment: Moment, told: Moment, states: Mapping[str, Any], close: bool) -> None:
        journal, before = self._journal, self.newest
        journal.is_here()  # a mount may have gone: nothing is staged beneath it
        letter = "ab"[before["save"] % 2 if before else 0]  # alternates, from one process to the next as well
        try:
            stamps = {path: self._stage(path, state, letter) for path, state in states.items()}
            _fill_in(moment, stamps)
            self._flush_folders()
            journal.write(moment, told, flush=True, close=close)
        finally:
            if journal.newest is before:  # it does not count
                for path in states:
                    _files.clear(self._beside(path, letter))
            else:
                self._staged = {path: self._beside(path, letter) for path in states}
        self._settle()

    def _stage(self, path: str, state: Any, letter: str) -> Stamp:
        """Write new contents beside their final path, and bring them to the device."""
        place, base = self._beside(path, letter), os.path.basename(path)
        _files.delete(place)
        new = os.path.join(place, base) if state.is_contained else place
        if state.is_contained:
            os.mkdir(place)
        self._unflushed.add(os.path.dirname(path))
        try:
            state.save(new)
        except Exception as error:
            raise self._failed(error, f"saved, writing {path}") from error
        if state.is_contained:
            found = os.listdir(place)
            if found != [base]:
                wrote = " and ".join(sorted(found)) or "nothing there"
                raise RestartError(
                    f"{path}: the function to save it wrote {wrote}; have it write to the path that it is given"
                )
        stamp = _files.flush_and_stamp(new)
        if state.is_contained:
            _files.flush_folder(place)
        self._require_ours(path)
        return stamp

    def remove(self, *, is_done: bool = True) -> None:
        """Delete the progress and all that was saved with it. `is_done`: let go of the lock as well.

        Raises:
            RestartError: where the disk fails; the next start finishes the removal then.
        """
        with held(), self._turn:
            try:
                if self._may_write():
                    self._settle()
                    self._remove()
            except OSError as error:
                raise self._failed(error, "removed", "run again to finish the removal") from error
            finally:
                if is_done:
                    self.release()

    def _remove(self) -> None:
        if files_of(self.newest):
            self._flush_folders()
            nothing = {"path": self.path, "position": 0, "files": {}, "inside": [], "removed": True}
            self._journal.write(nothing, nothing, flush=True)
            self._settle()
        self._flush_folders()
        self._journal.remove()

    def _may_write(self) -> bool:
        """Whether there is anything to do; take the lock again where it was let go of."""
        if not self.is_of_this_process:
            return False
        self.require_current()
        if not self._lock.is_held:
            self._lock.take(takes_over=False)
            try:
                self._journal.is_here()
            except BaseException as error:
                self._lock.release()
                if isinstance(error, RestartError):
                    raise RestartError(f"{self._name}: saved by another counter since; make a new one") from error
                raise
        return True

    # Settling: in a commit, and after a crash.

    def _settle(self) -> None:
        """Bring what counts to its place, and delete what the save before had and this one has not."""
        new, old = files_of(self._journal.newest), files_of(self._journal.other)
        for path, place in list(self._staged.items()):
            if path in new:
                self._move_in(path, place, old.get(path))
            _files.clear(place)
            del self._staged[path]
            self._unflushed.add(os.path.dirname(path))
        for path in [path for path in old if path not in new]:
            if os.path.lexists(path) and self._is_ours(path, old[path]):
                self._delete(path)

    def _move_in(self, path: str, place: str, former: Stamp | None) -> None:
        new = os.path.join(place, os.path.basename(path)) if _files.is_folder(place) else place
        if not os.path.lexists(new):  # in its place already
            return
        if os.path.lexists(path) and not (former and self._is_ours(path, former)):
            raise RestartError(f"{path}: belongs to no save of {self._name}; move it away and run again")
        if _files.is_folder(path) or _files.is_folder(new):
            self._delete(path)
        _files.replace(new, path)
        self._seen[path] = _files.look(path)

    def _delete(self, path: str) -> None:
        """Delete what was ours; a folder is moved aside first, so that half of one is never taken for the whole.

        A folder from the lower layer of an overlay cannot be moved. Beside it a mark says that it is being deleted.
        """
        self._unflushed.add(os.path.dirname(path))
        if not _files.is_folder(path):
            return _files.delete(path)
        aside, gone = self._beside(path, "old"), self._beside(path, "gone")
        try:
            if not os.path.lexists(aside):
                os.mkdir(aside)
            os.rename(path, os.path.join(aside, os.urandom(4).hex()))
        except OSError:
            if not os.path.lexists(gone):
                _files.create(gone, b"", is_flushed=True)
            _files.flush_folder(os.path.dirname(path))
            _files.delete(path)
            _files.flush_folder(os.path.dirname(path))
            _files.delete(gone)
        _files.clear(aside)

    def _recover(self) -> None:
        """Finish what a crash has left undone: roll the save that counts forward, end a removal."""
        journal = self._journal
        new, old = files_of(journal.newest), files_of(journal.other)
        self._unflushed.update(os.path.dirname(path) for path in {**new, **old})  # the last move may not be yet
        for path in {**new, **old}:
            self._clear_after_crash(path, new.get(path), old.get(path))
        if new.keys() < old.keys() | new.keys():
            journal.flush()
        self._settle()
        if journal.newest is not None and journal.newest.get("removed"):
            self._flush_folders()
            journal.remove()

    def _clear_after_crash(self, path: str, new: Stamp | None = None, old: Stamp | None = None) -> None:
        """Move in what was staged for `path` and counts, delete all else that was."""
        kinds = ("gone", "a", "b", "old")
        places = [place for kind in kinds if os.path.lexists(place := self._beside(path, kind))]
        if places:
            self._journal.flush()
        for place in places:
            if new and self._is_in_place(path, new):
                break
            if place.endswith("-gone"):
                _files.delete(path)
            elif new and not place.endswith("-old"):  # what was moved aside may look the same, and is older
                staged = os.path.join(place, os.path.basename(path)) if _files.is_folder(place) else place
                if self._is_in_place(staged, new):
                    self._move_in(path, place, old)
        if places:
            _files.flush_folder(os.path.dirname(path))
        for place in places:
            _files.clear(place)

    # What is at a path.

    def take_up(self, state: Any, stamp: Stamp | None) -> None:
        """Load what was saved; where nothing was, make sure that nothing is there, and that it can be saved.

        Raises:
            RestartError: it is missing, changed or damaged, or somebody else's; it cannot be loaded, or not be pickled.
        """
        path, afresh = state.path, self.way_out
        with held(), failing(f"{path}: cannot be used", f"mend that, or give another path, or {afresh}"):
            if stamp is None:
                self._take_new(path)
                load, what, advice = state.rehearse, "the object cannot be pickled", "register one that can"
            else:
                if not os.path.lexists(path):
                    raise RestartError(f"{path}: missing, but {self._name} was saved with it; put it back, or {afresh}")
                if stamp != _files.stamp_of(path):
                    raise RestartError(
                        f"{path}: changed or damaged since it was saved, or not closed by what wrote it; put back what "
                        f"was saved, or {afresh}"
                    )
                self._seen[path] = _files.look(path)
                load, what = state.load, "cannot be loaded"
                advice = f"bring back the class, or the version of a library, that it was saved with, or {afresh}"
            try:
                load()
            except Exception as error:
                raise RestartError(f"{path}: {what}: {describe(error)}; {advice}") from error

    def _take_new(self, path: str) -> None:
        try:
            os.lstat(self._beside(path, "gone"))  # the longest of our names: it may be too long
        except FileNotFoundError:
            pass
        if path not in {**files_of(self.newest), **files_of(self._journal.other)}:
            self._clear_after_crash(path)
        self._require_ours(path)

    def _require_ours(self, path: str) -> None:
        """Raise where something stands at `path` that belongs to no save of ours."""
        stamp = files_of(self.newest).get(path)
        if os.path.lexists(path) and not (stamp and self._is_ours(path, stamp)):
            if stamp:
                raise RestartError(
                    f"{path}: changed since it was saved with {self._name}, or not closed by what wrote it; "
                    "move it away, or give another path"
                )
            raise RestartError(
                f"{path}: exists already, and was not saved with {self._name}; it may be from an earlier run whose "
                "progress file was deleted: move it away, or give another path"
            )

    def _is_ours(self, path: str, stamp: Stamp) -> bool:
        return (not os.path.isdir(path) and self._seen.get(path) == _files.look(path)) or self._is_in_place(path, stamp)

    def _is_in_place(self, path: str, stamp: Stamp) -> bool:
        return os.path.lexists(path) and _files.stamp_of(path) == stamp

    def _beside(self, path: str, kind: str) -> str:
        folder, base = os.path.split(path)
        return os.path.join(folder, f".{base}.{crc32(os.fsencode(relative(self.path, folder))):08x}-{kind}")

    def _flush_folders(self) -> None:
        while self._unflushed:
            folder = next(iter(self._unflushed))
            _files.flush_folder(folder)
            self._unflushed.discard(folder)

    def _failed(self, error: Exception, what: str = "saved", advice: str = "") -> RestartError:
        kept = "what was saved before is whole" if self.newest else "nothing had been saved before"
        advice = advice or f"{kept}; mend that and run again"
        return RestartError(f"{self._name}: could not be {what}: {describe(error)}; {advice}")


def require_folder(folder: str, name: str) -> None:
    """Raise where nothing can be written in `folder`."""
    if not os.path.isdir(folder):
        home = ": ~ is not expanded, give Path.home() / ... instead" if name.startswith("~") else "; create it first"
        raise RestartError(f"{name}: the folder {folder} does not exist{home}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RestartError(f"{name}: the folder {folder} cannot be written to; give a path in another one")


def require_file(path: str, name: str) -> None:
    """Raise where something stands at `path` that is not a file."""
    if not _files.is_file_or_nothing(path):
        kind = "a folder; give the path of a file" if os.path.isdir(path) else "not a file; give another path"
        raise RestartError(f"{name}: {kind}")


def _fill_in(moment: Moment, stamps: Mapping[str, Stamp]) -> None:
    for path in moment["files"]:
        if path in stamps:
            moment["files"][path] = stamps[path]
    for inner in moment["inside"]:
        _fill_in(inner, stamps)


def _after_fork() -> None:
    for storage in list(_open):
        storage.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

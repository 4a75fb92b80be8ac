"""The commit: what belongs to a moment is written, counts, and comes to its place; recovery and removal.

1. *Stage.* New contents are written beside each final path and flushed, then the folders that they are in (fsync(2)).
2. *Count.* A record that names them, with sizes and digests, is written and flushed: see `_journal`.
3. *Settle.* What was staged is moved to its place, a file by replacing, a folder once the old one has been moved aside;
   what the save before had, and this one has not, is deleted. The folders are flushed before the next record.

After a crash the next start deletes what is staged and no record names, and does what is undone of 3. Which is which,
sizes and digests tell: what carries others than the records name is somebody else's, and is never touched. The staged
names alternate from save to save, so that a move which was lost with the power finds its source again. A removal is a
save to which nothing belongs; its record says so, and then the progress file goes. Names beside a final path
DIR/sum.pickle, with a mark of where the progress file is, from there:

    .sum.pickle.3f9a1c02-a, -b    staged; a function writes into a folder of that name, where its file has the right one
    .sum.pickle.3f9a1c02-old      an old folder that was moved aside, others in it; never a source for recovery
    .sum.pickle.3f9a1c02-gone     says that the folder at the final path is being deleted, where it cannot be moved
    .job.progress.3f9a1c02-new    a whole new progress file (see `_journal`)
"""

import os
from collections.abc import Iterable
from operator import attrgetter
from stat import S_ISDIR, S_ISREG

from . import _files, _lock
from ._errors import RestartError, failing
from ._journal import Journal, Teller
from ._progress import beside, files_of
from ._scope import running
from ._signals import blocks, held
from ._typing import Any, Moment, Stamp

_TELLING = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns")  # of a file: no renaming changes what tells it


class Storage(_lock.Lock):
    """A progress file and all that is saved with it, locked for this process until `release` or `remove`."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path, name)
        self._process = os.getpid()
        self._staged: dict[str, str] = {}  # what is not in its place yet: where it is
        self._leftovers: list[str] = []  # hidden names that go when all is in its place
        self._unflushed: set[str] = set()  # folders in which names have changed
        self._seen: dict[str, os.stat_result] = {}  # how what was in place looked when it was known to be ours
        mend = failing(f"{name}: cannot be used", "it may be another user's; mend that and run again")
        try:
            with held(), _lock.turn, mend:
                self.journal = Journal(path, name)
                self.take(takes_over=True)
                self.journal.read()
                if self.journal.newest is not None:
                    self._recover(files_of(self.journal.other) | files_of(self.journal.newest))
                    if "removed" in self.journal.newest:
                        self.remove(is_done=False)
        except BaseException:  # a signal that came meanwhile, too
            self.unlock()
            raise

    @property
    def is_of_this_process(self) -> bool:
        """Whether this is not a forked child, which saves nothing."""
        return self._process == os.getpid()

    def is_busy(self) -> bool:
        """Whether a loop is running with it, or a `with` is open, in another live thread."""
        return any(loop.storage is self and (loop.is_busy() or loop.is_open()) for loop in [*running, *blocks])

    def is_in_use(self) -> bool:
        """Whether this is more than a look: a loop is running with it, or a `with` is open."""
        return any(loop.storage is self for loop in [*running, *blocks])

    def require_current(self) -> None:
        if self.is_lost:
            raise RestartError(f"{self.journal.name}: a newer counter for the same path has taken over; use that one")

    def release(self) -> None:
        if self.is_held:
            with held(), self.turn, failing(f"{self.journal.name}: could not be saved", "mend that and run again"):
                try:
                    self.journal.close()
                finally:
                    self.unlock()

    def save(
        self, moment: Moment, told: Moment, states: list[Any], teller: Teller | None, flush: bool, close: bool
    ) -> None:
        """Save a moment with `states`, whose stamps it gets; nothing counts unless all does. See `Journal.write`."""
        if not self.is_of_this_process:
            return
        journal = self.journal
        kept = "what was saved before is whole" if journal.newest else "nothing had been saved before"
        advice = f"{kept}; mend that and run again"
        with held(), self.turn, failing(f"{journal.name}: could not be saved", advice):
            self._take_up_again()
            known, stamps, number = files_of(journal.newest), files_of(moment), journal.number
            try:
                for state in states:
                    what = f"{journal.name}: could not be saved, writing {state.path}"
                    with failing(what, advice):
                        stamps[state.path].update(self._stage(state, known, failing(what, advice, Exception)))
                self._flush_folders()  # in any case: the record that goes now may be the last that names what has gone
                journal.write(moment, told, teller, flush or bool(states or known), close)
            finally:
                if journal.number == number and self.is_of_this_process:  # a function that saves may have forked
                    self._discard()
            if states or known:
                with failing(f"{journal.name}: saved, but not all is in its place", "mend that and run again"):
                    self._settle()

    def remove(self, is_done: bool = True) -> None:
        """Delete the progress and all that was saved with it. `is_done`: let go of the lock as well."""
        if not self.is_of_this_process:
            return
        journal, advice = self.journal, "run again to finish the removal"
        if is_done:  # the next run might do all of it again
            advice = f"all that is left to do is to delete {journal.files}"
        with held(), self.turn, failing(f"{journal.name}: could not be removed", advice):
            try:
                self._take_up_again()
                self._flush_folders()
                if files_of(journal.newest):
                    nothing = {"path": journal.path, "position": 0, "files": {}, "inside": [], "removed": True}
                    journal.write(nothing, nothing, None, flush=True, close=True)
                    self._settle()
                    self._flush_folders()
                journal.remove()
            finally:
                if is_done:
                    _files.attempt(journal.close)
                    self.unlock()

    def _take_up_again(self) -> None:
        """Take the lock again where it was let go of, and do what a failure has left undone."""
        self.require_current()
        if not self.is_held:
            self.take(takes_over=False)
            self.journal.is_here()
        self._settle()

    def _stage(self, state: Any, known: dict[str, Stamp], saving: failing) -> Stamp:
        """Write new contents beside their place and flush them; `saving` words what the program's code may raise."""
        folder, base = os.path.split(state.path)
        new = place = beside(self.journal.path, state.path, "ab"[self.journal.number % 2])
        self._unflushed.add(folder)
        _files.delete(place)
        if state.is_contained:
            self._leftovers.append(place)
            mode = _files.mode_beside(state.path)
            _files.retried(os.mkdir, place, mode | mode >> 2 & 0o111)  # who may read may enter
            new = os.path.join(place, base)
        self._staged[state.path] = new
        with saving:
            state.save(new)
        if state.is_contained:
            # Some file systems list another spelling of the name: decomposed (macOS).
            if len(found := _files.names_in(place)) != 1 or not os.path.lexists(new):
                what = f"the function to save it wrote {' and '.join(found) or 'nothing there'}"
                raise RestartError(f"{state.path}: {what}; have it write all to that path, or give the path its suffix")
            _files.flush(place)
        stamp = _files.stamp_of(new, is_flushed=True)
        if not self._require_ours(state.path, known.get(state.path)):
            self.journal.require_mount(folder, state.path)
        return stamp

    def _discard(self) -> None:
        """What was staged does not count. What cannot be deleted now is left for the next start."""
        places, self._staged, self._leftovers = [*self._staged.values(), *self._leftovers], {}, []
        for place in places:
            _files.attempt(_files.delete, place)

    def _settle(self) -> None:
        """Bring what counts to its place, and delete what the save before had and this one has not."""
        new, old = files_of(self.journal.newest), files_of(self.journal.other)
        if self._staged or self._leftovers or old.keys() - new.keys():
            self.journal.flush()  # a failure may have left it undone
        for path, staged in list(self._staged.items()):
            if status := _files.look(staged):  # else it is in its place already
                former = self._require_ours(path, old.get(path))
                if former and (S_ISDIR(status.st_mode) or S_ISDIR(former.st_mode) or _files.is_fuse(former.st_dev)):
                    self._delete(path)
                self._seen[path] = status
                _files.replace(staged, status.st_mode, path, former)
            self._unflushed.add(_files.folder_of(path))
            del self._staged[path]
        for path in old.keys() - new.keys():
            if self._ours(path, old[path]):
                self._delete(path)
        if self._leftovers:
            self._flush_folders()  # or a power failure might keep the deletion, and lose the move before it
            while self._leftovers:  # something in it may still be open: `.nfs…`, `.fuse_hidden…`
                _files.attempt(_files.delete, place := self._leftovers.pop())
                self._unflushed.add(_files.folder_of(place))

    def _recover(self, paths: Iterable[str]) -> None:
        """Finish what a crash has left undone beside these: what belongs to the save that counts is moved in."""
        known = files_of(self.journal.newest)
        for path in paths:
            gone, a, b, aside = [beside(self.journal.path, path, kind) for kind in ("gone", "a", "b", "old")]
            places = [place for place in (gone, a, b, aside) if _files.kind_of(place)]
            self._leftovers += places
            self._unflushed.add(_files.folder_of(path))  # the last move may not be on the device
            if not places or self._ours(path, known.get(path)):
                continue
            if gone in places and path in known | files_of(self.journal.other):
                self._delete(path)
            for place in (a, b):
                staged = os.path.join(place, os.path.basename(path)) if _files.kind_of(place) == "folder" else place
                if self._ours(staged, known.get(path)):
                    self._staged[path] = staged
        self._settle()

    def _delete(self, path: str) -> None:
        """Delete what was ours; a folder is moved aside first, so that half of one is never taken for the whole."""
        folder = _files.folder_of(path)
        self._unflushed.add(folder)
        if _files.kind_of(path) != "folder":
            return _files.delete(path)
        aside, gone = beside(self.journal.path, path, "old"), beside(self.journal.path, path, "gone")
        self._leftovers.append(aside)
        try:  # nothing is made for it: the disk may be full
            is_taken = _files.kind_of(aside) == "folder"  # by one that could not be deleted
            os.rename(path, os.path.join(aside, os.urandom(4).hex()) if is_taken else aside)
        except OSError:  # it is from the lower layer of an overlay, or the last one there is still open
            self._leftovers.append(gone)
            if not os.path.lexists(gone):
                _files.create(gone, lambda write: None, is_flushed=True)
            _files.flush(folder)
            _files.delete(path)

    def _flush_folders(self) -> None:
        for folder in self._unflushed:
            _files.flush(folder)
        self._unflushed.clear()

    def load(self, state: Any, stamp: Stamp | None) -> None:
        """Load what has this stamp; without one, make sure that nothing foreign is there, and that it can be saved."""
        path, journal, way_out = state.path, self.journal, self.journal.way_out
        folder = _files.folder_of(path)
        with held(), self.turn, failing(f"{path}: cannot be used", "mend that, or give another path"):
            self.require_current()  # or what is staged here would be that of a newer counter
            _files.require_own(path)
            journal.mounts.setdefault(folder, _files.mount_of(folder))
            if stamp:
                self._seen.pop(path, None)  # all that is loaded has been read and digested before
                if not self._require_ours(path, stamp):
                    what = f"missing, but {journal.name} was saved with it"
                    raise RestartError(f"{path}: {what}; put it back, or {way_out}")
                with failing(f"{path}: cannot be loaded", f"{state.advice}, or {way_out}", Exception):
                    state.load()
            else:
                known = files_of(journal.newest)
                if path not in known:
                    self._recover([path])  # its progress file was deleted, but not what was staged for that
                self._require_ours(path, known.get(path))
                with failing(f"{path}: the object cannot be pickled", "register one that can", Exception):
                    state.rehearse()

    def _require_ours(self, path: str, stamp: Stamp | None) -> os.stat_result | None:
        """Return how it looks, or None where nothing is there; raise where it was not saved with this stamp."""
        status = self._ours(path, stamp)
        if not status and os.path.lexists(path):
            what = f"exists already, and was not saved with {self.journal.name}"
            way_out = "give another path, or move it away if it is of an earlier run whose progress file was deleted"
            if stamp:
                what = f"changed or damaged since it was saved, or never closed, or {self.journal.name} was edited"
                way_out = f"put back what was saved, or {self.journal.way_out}"
            raise RestartError(f"{path}: {what}; {way_out}")
        return status

    def _ours(self, path: str, stamp: Stamp | None) -> os.stat_result | None:
        """Return how it looks, where something with this stamp is there. It is read unless it looks as it did then."""
        status, seen = _files.look(path) if stamp else None, self._seen.get(path)
        is_untouched = status and seen and S_ISREG(status.st_mode) and _TELLING(status) == _TELLING(seen)
        if not status or not (is_untouched or _files.stamp_of(path) == stamp):
            return None
        self._seen[path] = status
        return status


def require_place(path: str, name: str, is_file: bool = False) -> None:
    """Raise where nothing can be written at `path`, or where something is there that is not a file."""
    folder = _files.folder_of(path)
    if not os.access(folder + os.sep, os.R_OK | os.W_OK | os.X_OK):  # to read: so that it can be flushed
        what, way_out = "cannot be read and written to", "mend that, or give a path in another one"
        if not os.path.isdir(folder):
            what, way_out = "does not exist", "create it first, or mount its disk"
            if name.startswith("~"):
                way_out = "~ is not expanded, give Path.home() / ... instead"
        raise RestartError(f"{name}: the folder {folder} {what}; {way_out}")
    if is_file and (kind := _files.kind_of(path)) not in ("file", ""):
        raise RestartError(f"{name}: {'a folder' if kind == 'folder' else 'not a file'}; give the path of a file")

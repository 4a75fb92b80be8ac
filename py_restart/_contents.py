"""What is saved beside the progress file: stage it, move it to its place, delete it, know it again.

Names beside a final path DIR/sum.pickle, with a mark made of where the progress file is, seen from there:

    .sum.pickle.3f9a1c02-a, -b    staged; a function writes into a folder of that name, where its file has the right one
    .sum.pickle.3f9a1c02-old      a folder in which an old folder was moved aside; never a source for recovery
    .sum.pickle.3f9a1c02-gone     says that the folder at the final path is being deleted, where it cannot be moved
    .job.progress.3f9a1c02-new    a whole new progress file (see `_journal`)

What carries another size or digest than the records name is somebody else's, and is never touched.
"""

import os
from collections.abc import Iterable
from operator import attrgetter
from stat import S_ISDIR, S_ISREG

from . import _files
from ._errors import RestartError, failing
from ._journal import Journal
from ._progress import beside, files_of
from ._signals import held
from ._typing import Any, Moment, Stamp

_TELLING = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns")  # of a file: no renaming changes what tells it


class Contents:
    """All contents that belong to one progress file."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._staged: dict[str, str] = {}  # what is not in its place yet: where it is
        self._leftovers: list[str] = []  # hidden names that go when all is in its place
        self._unflushed: set[str] = set()  # folders in which names have changed
        self._seen: dict[str, os.stat_result] = {}  # how what was in place looked when it was known to be ours

    def stage(self, moment: Moment, states: Iterable[Any], advice: str) -> None:
        """Write new contents beside their final paths, bring them to the device, and stamp them in the moment."""
        before, stamps = self._journal.newest, files_of(moment)
        known, letter = files_of(before), "ab"[before["save"] % 2 if before else 0]
        for state in states:
            folder, base = os.path.split(state.path)
            place = new = beside(self._journal.path, state.path, letter)
            self._unflushed.add(folder)
            _files.delete(place)
            if state.is_contained:
                self._leftovers.append(place)
                os.mkdir(place)
                new = os.path.join(place, base)
            self._staged[state.path] = new
            with failing(f"{self._journal.name}: could not be saved, writing {state.path}", advice, Exception):
                state.save(new)
            if state.is_contained and (found := os.listdir(place)) != [base]:
                what = f"the function to save it wrote {' and '.join(sorted(found)) or 'nothing there'}"
                raise RestartError(f"{state.path}: {what}; have it write all to the path that it is given")
            stamps[state.path].update(_files.stamp_of(new, is_flushed=True))
            if state.is_contained:
                _files.flush(place)
            self._require_ours(state.path, known.get(state.path))
        self.flush_folders()

    def discard(self) -> None:
        """What was staged does not count. What cannot be deleted now is left for the next start."""
        for place in (*self._staged.values(), *self._leftovers):
            _files.attempt(_files.delete, place)
        self._staged, self._leftovers = {}, []

    def settle(self) -> None:
        """Bring what counts to its place, and delete what the save before had and this one has not."""
        new, old = files_of(self._journal.newest), files_of(self._journal.other)
        if self._staged or self._leftovers or old.keys() - new.keys():
            self._journal.flush()  # a failure may have left it undone
        for path, staged in list(self._staged.items()):
            if status := _files.look(staged):  # else it is in its place already
                former = self._require_ours(path, old.get(path))
                if former and (S_ISDIR(status.st_mode) or S_ISDIR(former.st_mode) or _files.is_fuse(former.st_dev)):
                    self._delete(path)
                self._seen[path] = status
                _files.replace(staged, status.st_mode, path, former)
            self._unflushed.add(os.path.dirname(path))
            del self._staged[path]
        for path in old.keys() - new.keys():
            if self._ours(path, old[path]):
                self._delete(path)
        if self._leftovers:
            self.flush_folders()  # or a power failure might keep the deletion, and lose the move before it
            while self._leftovers:  # something in it may still be open: `.nfs…`, `.fuse_hidden…`
                _files.attempt(_files.delete, place := self._leftovers.pop())
                self._unflushed.add(os.path.dirname(place))

    def recover(self, paths: Iterable[str]) -> None:
        """Finish what a crash has left undone beside these: what belongs to the save that counts is moved in."""
        known = files_of(self._journal.newest)
        for path in paths:
            gone, a, b, aside = [beside(self._journal.path, path, kind) for kind in ("gone", "a", "b", "old")]
            places = [place for place in (gone, a, b, aside) if _files.kind_of(place)]
            self._leftovers += places
            self._unflushed.add(os.path.dirname(path))  # the last move may not be on the device
            if not places or self._ours(path, known.get(path)):
                continue
            if gone in places:
                self._delete(path)
            for place in (a, b):
                staged = os.path.join(place, os.path.basename(path)) if _files.kind_of(place) == "folder" else place
                if self._ours(staged, known.get(path)):
                    self._staged[path] = staged
        self.settle()

    def _delete(self, path: str) -> None:
        """Delete what was ours; a folder is moved aside first, so that half of one is never taken for the whole."""
        folder = os.path.dirname(path)
        self._unflushed.add(folder)
        if _files.kind_of(path) != "folder":
            return _files.delete(path)
        aside, gone = beside(self._journal.path, path, "old"), beside(self._journal.path, path, "gone")
        self._leftovers.append(aside)
        try:
            os.makedirs(aside, exist_ok=True)
            os.rename(path, os.path.join(aside, os.urandom(4).hex()))
        except OSError:  # it is from the lower layer of an overlay, or the last one there is still open
            self._leftovers.append(gone)
            if not os.path.lexists(gone):
                _files.create(gone, lambda write: None, is_flushed=True)
            _files.flush(folder)
            _files.delete(path)

    def flush_folders(self) -> None:
        """Bring the names that have changed to the device."""
        for folder in self._unflushed:
            _files.flush(folder)
        self._unflushed.clear()

    def take_up(self, state: Any, stamp: Stamp | None) -> None:
        """Load what has this stamp; without one, make sure that nothing foreign is there, and that it can be saved."""
        path, journal, way_out = state.path, self._journal, self._journal.way_out
        with held(), failing(f"{path}: cannot be used", f"mend that, or give another path, or {way_out}"):
            if stamp:
                self._seen.pop(path, None)  # all that is loaded has been read and digested before
                if not self._require_ours(path, stamp):
                    what = f"missing, but {journal.name} was saved with it"
                    raise RestartError(f"{path}: {what}; put it back, or {way_out}")
                advice = "bring back the class, or the version of a library, that it was saved with"
                with failing(f"{path}: cannot be loaded", f"{advice}, or {way_out}", Exception):
                    state.load()
            else:
                known = files_of(journal.newest)
                if path not in known:
                    self.recover([path])  # its progress file was deleted, but not what was staged for that
                self._require_ours(path, known.get(path))
                with failing(f"{path}: the object cannot be pickled", "register one that can", Exception):
                    state.rehearse()

    def _require_ours(self, path: str, stamp: Stamp | None) -> os.stat_result | None:
        """Return how it looks, or None where nothing is there; raise where it was not saved with this stamp."""
        status = self._ours(path, stamp)
        if not status and os.path.lexists(path):
            what = f"exists already, and was not saved with {self._journal.name}"
            way_out = "it may be of an earlier run whose progress file was deleted; move it away, or give another path"
            if stamp:
                what = "changed or damaged since it was saved, or not closed by what wrote it"
                way_out = f"put back what was saved, or {self._journal.way_out}"
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

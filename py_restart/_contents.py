"""What is saved beside the progress file: stage it, move it to its place, delete it, know it again.

Names beside a final path DIR/sum.pickle, with a mark made of where the progress file is, seen from there:

    .sum.pickle.3f9a1c02-a, -b    staged; a function writes into a folder of that name, where its file has the right one
    .sum.pickle.3f9a1c02-old      a folder in which an old folder was moved aside; never a source for recovery
    .sum.pickle.3f9a1c02-gone     says that the folder at the final path is being deleted, where it cannot be moved

What carries another size or digest than the records name is somebody else's, and is never touched.
"""

from __future__ import annotations

import os
from binascii import crc32
from collections.abc import Iterable

from . import _files
from ._errors import RestartError, describe
from ._journal import Journal
from ._progress import files_of, relative
from ._typing import Any, Stamp


class Contents:
    """All contents that belong to one progress file. `name`: the same as the user gave it, for messages."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self._name = journal, name
        self._staged: dict[str, str] = {}  # what is not in its place yet: where it is
        self._leftovers: list[str] = []  # hidden names that go when all is in its place
        self._unflushed: set[str] = set()  # folders in which names have changed
        self._seen: dict[str, tuple[int, ...] | None] = {}  # what was in place when it was known to be ours

    def _files(self) -> tuple[dict[str, Stamp], dict[str, Stamp]]:
        """What belongs to the save that counts, and to what was before; a removal tells that itself."""
        newest = self._journal.newest
        removed = newest.get("removed", {}) if newest else {}
        return files_of(newest), {**files_of(self._journal.other), **removed}

    def stage(self, states: Iterable[Any], advice: str) -> dict[str, Stamp]:
        """Write new contents beside their final paths, and bring them to the device. `advice`: where that fails."""
        before, stamps = self._journal.newest, {}
        known, letter = files_of(before), "ab"[before["save"] % 2 if before else 0]
        for state in states:
            self._journal.require_mounted()
            folder, base = os.path.split(state.path)
            place = new = self._beside(state.path, letter)
            self._unflushed.add(folder)
            if os.path.lexists(place):
                _files.delete(place)
            if state.is_contained:
                os.mkdir(place)
                self._leftovers.append(place)
                new = os.path.join(place, base)
            self._staged[state.path] = new
            try:
                state.save(new)
            except Exception as error:
                what = f"could not be saved, writing {state.path}: {describe(error)}"
                raise RestartError(f"{self._name}: {what}; {advice}") from error
            found = os.listdir(place) if state.is_contained else [base]
            if found != [base]:
                what = f"the function to save it wrote {' and '.join(sorted(found)) or 'nothing there'}"
                raise RestartError(f"{state.path}: {what}; have it write to the path that it is given")
            stamps[state.path] = _files.flush_and_stamp(new)
            if state.is_contained:
                _files.flush_folder(place)
            self._require_ours(state.path, known.get(state.path))
        return stamps

    def discard(self) -> None:
        """What was staged does not count."""
        for place in (*self._staged.values(), *self._leftovers):
            _files.clear(place)
        self._staged.clear()
        self._leftovers.clear()

    def settle(self) -> None:
        """Bring what counts to its place, and delete what the save before had and this one has not."""
        new, old = self._files()
        if not (new or old or self._leftovers):
            return
        for path, staged in list(self._staged.items()):
            kinds = _files.kind_of(staged), _files.kind_of(path)
            if kinds[0]:  # else it is in its place already
                self._require_ours(path, old.get(path))
                if "folder" in kinds:
                    self._delete(path)
                _files.replace(staged, path, is_in_one_step=False)
                self._seen[path] = _files.look(path)
            self._unflushed.add(os.path.dirname(path))
            del self._staged[path]
        for path in old.keys() - new.keys():
            if self._is_ours(path, old[path]):
                self._delete(path)
        if self._leftovers:
            self.flush_folders()  # or a power failure might keep the deletion, and lose the move before it
            for place in self._leftovers:
                _files.clear(place)
                self._unflushed.add(os.path.dirname(place))
            self._leftovers.clear()

    def recover(self) -> None:
        """Finish what a crash has left undone of the save that counts."""
        new, old = self._files()
        for path in {**new, **old}:
            self._find(path, new.get(path))
        if self._leftovers or old.keys() - new.keys():
            self._journal.flush()
        self.settle()

    def _find(self, path: str, stamp: Stamp | None) -> None:
        """Look what a crash has left beside `path`: what has this stamp is to be moved in, all else to be deleted."""
        gone, a, b, aside = [self._beside(path, kind) for kind in ("gone", "a", "b", "old")]
        places = [place for place in (gone, a, b, aside) if _files.kind_of(place)]
        self._leftovers += places
        self._unflushed.add(os.path.dirname(path))  # the last move may not be on the device
        if not places or self._is_ours(path, stamp):
            return
        if gone in places:
            self.flush_folders()  # the marker, or half a folder might be left without it; the record was before it
            _files.delete(path)
        for place in (a, b):
            staged = os.path.join(place, os.path.basename(path)) if _files.kind_of(place) == "folder" else place
            if self._is_ours(staged, stamp):
                self._staged[path] = staged

    def _delete(self, path: str) -> None:
        """Delete what was ours; a folder is moved aside first, so that half of one is never taken for the whole.

        A folder from the lower layer of an overlay cannot be moved; nor can one where the last is still open.
        """
        folder = os.path.dirname(path)
        self._unflushed.add(folder)
        if _files.kind_of(path) != "folder":
            return _files.delete(path)
        aside, gone = self._beside(path, "old"), self._beside(path, "gone")
        self._leftovers.append(aside)
        try:
            if not os.path.lexists(aside):
                os.mkdir(aside)
            os.rename(path, os.path.join(aside, os.urandom(4).hex()))
        except OSError:
            if not os.path.lexists(gone):
                _files.create(gone, b"", is_flushed=True)
            _files.flush_folder(folder)
            _files.delete(path)
            _files.flush_folder(folder)
            _files.delete(gone)

    def flush_folders(self) -> None:
        """Bring the names that have changed to the device."""
        while self._unflushed:
            folder = next(iter(self._unflushed))
            _files.flush_folder(folder)
            self._unflushed.discard(folder)

    def load(self, state: Any, stamp: Stamp, way_out: str) -> None:
        """Load what was saved with this stamp."""
        path = state.path
        if not os.path.lexists(path):
            raise RestartError(f"{path}: missing, but {self._name} was saved with it; put it back, or {way_out}")
        if stamp != _files.stamp_of(path):
            what = "changed or damaged since it was saved, or not closed by what wrote it"
            raise RestartError(f"{path}: {what}; put back what was saved, or {way_out}")
        self._seen[path] = _files.look(path)
        try:
            state.load()
        except Exception as error:
            advice = "bring back the class, or the version of a library, that it was saved with"
            raise RestartError(f"{path}: cannot be loaded: {describe(error)}; {advice}, or {way_out}") from error

    def prepare(self, state: Any) -> None:
        """Make sure that nothing foreign is at the path, and that something can be saved there."""
        new, old = self._files()
        path, known = state.path, {**old, **new}
        if path not in known:
            self._find(path, None)  # its progress file was deleted, but not what was staged for that
            self.settle()
        self._require_ours(path, known.get(path))
        try:
            state.rehearse()
        except Exception as error:
            what = f"the object cannot be pickled: {describe(error)}"
            raise RestartError(f"{path}: {what}; register one that can") from error

    def _require_ours(self, path: str, stamp: Stamp | None) -> None:
        """Raise where something stands at `path` that is not what was saved with this stamp."""
        if not self._is_ours(path, stamp) and os.path.lexists(path):
            what = f"exists already, and was not saved with {self._name}"
            why = "it may be from an earlier run whose progress file was deleted"
            if stamp:
                what, why = f"changed since it was saved with {self._name}", "or not closed by what wrote it"
            raise RestartError(f"{path}: {what}; {why}; move it away, or give another path")

    def _is_ours(self, path: str, stamp: Stamp | None) -> bool:
        """Whether something with this stamp is there. It is read where it does not look as it did when it was."""
        try:
            seen = _files.look(path) if stamp else None
            return bool(seen and seen == self._seen.get(path)) or (stamp is not None and _files.stamp_of(path) == stamp)
        except FileNotFoundError:
            return False

    def _beside(self, path: str, kind: str) -> str:
        folder, base = os.path.split(path)
        return os.path.join(folder, f".{base}.{crc32(os.fsencode(relative(self._journal.path, folder))):08x}-{kind}")

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
from collections.abc import Callable, Mapping

from . import _files
from ._errors import RestartError, describe
from ._progress import relative
from ._typing import Any, Stamp


class Contents:
    """All contents that belong to one progress file.

    Args:
        path: The progress file, absolute.
        name: The same as the user gave it, for messages.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._staged: dict[str, str] = {}  # what counts but is not in its place yet: where it is staged
        self._unflushed: set[str] = set()  # folders in which names have changed
        self._leftovers: set[str] = set()  # what was staged or moved aside, and is of no use any more
        self._seen: dict[str, tuple[int, ...] | None] = {}  # what was in place when it was known to be ours

    def stage(self, path: str, state: Any, letter: str, known: Stamp | None) -> Stamp:
        """Write new contents beside their final path, where `known` may be, and bring them to the device."""
        place, base = self._beside(path, letter), os.path.basename(path)
        self._unflushed.add(os.path.dirname(path))
        if os.path.lexists(place):
            _files.delete(place)
        if state.is_contained:
            os.mkdir(place)
        new = os.path.join(place, base) if state.is_contained else place
        try:
            state.save(new)
        except Exception as error:
            what = f"could not be saved, writing {path}: {describe(error)}"
            kept = "what was saved before is whole" if known else "nothing had been saved before"
            raise RestartError(f"{self._name}: {what}; {kept}; mend that and run again") from error
        found = os.listdir(place) if state.is_contained else [base]
        if found != [base]:
            wrote = " and ".join(sorted(found)) or "nothing there"
            raise RestartError(
                f"{path}: the function to save it wrote {wrote}; have it write to the path that it is given"
            )
        stamp = _files.flush_and_stamp(new)
        if state.is_contained:
            _files.flush_folder(place)
        self.require_ours(path, known)
        return stamp

    def count(self, paths: Mapping[str, Any], letter: str) -> None:
        """What was staged counts from now on."""
        self._staged = {path: self._beside(path, letter) for path in paths}

    def discard(self, paths: Mapping[str, Any], letter: str) -> None:
        """What was staged does not count."""
        for path in paths:
            _files.clear(self._beside(path, letter))

    def settle(self, new: Mapping[str, Stamp], old: Mapping[str, Stamp]) -> None:
        """Bring what counts to its place, and delete what the save before had and this one has not."""
        for path, place in list(self._staged.items()):
            self._move_in(path, place, old.get(path))
            del self._staged[path]
            self._unflushed.add(os.path.dirname(path))
        for path in old.keys() - new.keys():
            if self._is_ours(path, old[path]):
                self._delete(path)
        if self._leftovers:
            self.flush_folders()  # or a power failure might keep the deletion, and lose the move before it
            for place in self._leftovers:
                _files.clear(place)
                self._unflushed.add(os.path.dirname(place))
            self._leftovers.clear()

    def recover(self, new: Mapping[str, Stamp], old: Mapping[str, Stamp], flush_record: Callable[[], None]) -> None:
        """Finish what a crash has left undone of the save that counts; its record is flushed first."""
        self._unflushed.update(os.path.dirname(path) for path in {**new, **old})  # the last move may not be yet
        for path in {**new, **old}:
            self._clear_after_crash(path, new.get(path), old.get(path), flush_record)
        if old.keys() - new.keys():
            flush_record()
        self.settle(new, old)

    def _clear_after_crash(
        self, path: str, new: Stamp | None, old: Stamp | None, flush_record: Callable[[], None]
    ) -> None:
        """Move in what was staged for `path` and counts, delete all else that was."""
        kinds = ("gone", "a", "b", "old")
        places = [place for kind in kinds if os.path.lexists(place := self._beside(path, kind))]
        if not places:
            return
        flush_record()
        for place in places:
            if new and _is_in_place(path, new):
                break
            if place.endswith("-gone"):
                _files.flush_folder(os.path.dirname(path))
                _files.delete(path)
            elif new and _is_in_place(_in(place, path), new):
                self._move_in(path, place, old)
        _files.flush_folder(os.path.dirname(path))
        for place in places:
            _files.clear(place)

    def _move_in(self, path: str, place: str, former: Stamp | None) -> None:
        new, there = _in(place, path), _files.kind_of(path)
        kind = _files.kind_of(new)
        if kind:  # else it is in its place already
            if there and not (former and self._is_ours(path, former)):
                raise RestartError(f"{path}: belongs to no save of {self._name}; move it away and run again")
            if "folder" in (kind, there):
                self._delete(path)
            _files.replace(new, path)
            self._seen[path] = _files.look(path)
        if new != place:
            self._leftovers.add(place)

    def _delete(self, path: str) -> None:
        """Delete what was ours; a folder is moved aside first, so that half of one is never taken for the whole.

        A folder from the lower layer of an overlay cannot be moved; nor can one where the last is still open.
        """
        folder = os.path.dirname(path)
        self._unflushed.add(folder)
        if _files.kind_of(path) != "folder":
            return _files.delete(path)
        aside, gone = self._beside(path, "old"), self._beside(path, "gone")
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
        self._leftovers.add(aside)

    def flush_folders(self) -> None:
        """Bring the names that have changed to the device."""
        while self._unflushed:
            folder = next(iter(self._unflushed))
            _files.flush_folder(folder)
            self._unflushed.discard(folder)

    # What is at a path.

    def take_up(self, state: Any, stamp: Stamp, way_out: str) -> None:
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

    def take_new(self, state: Any, known: Mapping[str, Stamp]) -> None:
        """Make sure that nothing is at the path, and that something can be saved there."""
        path = state.path
        try:
            os.lstat(self._beside(path, "gone"))  # the longest of our names: it may be too long
        except FileNotFoundError:
            pass
        if path not in known:
            self._clear_after_crash(path, None, None, lambda: None)
        self.require_ours(path, known.get(path))
        try:
            state.rehearse()
        except Exception as error:
            what = f"the object cannot be pickled: {describe(error)}"
            raise RestartError(f"{path}: {what}; register one that can") from error

    def require_ours(self, path: str, stamp: Stamp | None) -> None:
        """Raise where something stands at `path` that is not what was saved with this stamp."""
        if not (stamp and self._is_ours(path, stamp)) and os.path.lexists(path):
            what = f"exists already, and was not saved with {self._name}"
            why = "it may be from an earlier run whose progress file was deleted"
            if stamp:
                what, why = f"changed since it was saved with {self._name}", "or not closed by what wrote it"
            raise RestartError(f"{path}: {what}; {why}; move it away, or give another path")

    def _is_ours(self, path: str, stamp: Stamp) -> bool:
        try:
            seen = _files.look(path)
        except FileNotFoundError:
            return False
        return (seen is not None and self._seen.get(path) == seen) or _is_in_place(path, stamp)

    def _beside(self, path: str, kind: str) -> str:
        folder, base = os.path.split(path)
        return os.path.join(folder, f".{base}.{crc32(os.fsencode(relative(self._path, folder))):08x}-{kind}")


def _is_in_place(path: str, stamp: Stamp) -> bool:
    return os.path.lexists(path) and _files.stamp_of(path) == stamp


def _in(place: str, path: str) -> str:
    """Where the contents for `path` are that are staged at `place`."""
    return os.path.join(place, os.path.basename(path)) if _files.kind_of(place) == "folder" else place

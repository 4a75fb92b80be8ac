"""The only module that touches files: lock, write in place, stage, commit, recover, remove.

A position saved alone overwrites one record of the progress file in place (see `_progress`). Everything else is a
commit:

1. *Name.* A path that is new to the progress file is written into it before anything is made there.
2. *Stage.* New contents go into a hidden folder beside each final path, `.sum.pickle.3f9a1c02-7`, which carries the
   id of the progress file and the number of the save. They are flushed, their folders too ("fsync of a file does not
   ensure that the entry in the directory has reached disk": fsync(2)).
3. *Publish.* A new progress file that names them, with sizes and digests, is written beside the old one, flushed,
   locked, and put in its place by one `os.replace`, which is atomic (rename(2)). Before it the old save counts, after
   it the new.
4. *Settle.* What was there is moved aside into the hidden folder, what was staged is moved to its place, and the hidden
   folder is deleted; so is what the save before had and the new one has not.

A crash before 3 leaves hidden folders numbered one above the save that counts: debris, deleted at the next start. A
crash after 3 leaves some of 4 undone: the next start does the rest, for the progress file names every path and what
is to be there. A removal is a commit of nothing, after which the progress file itself goes. What carries another size
or digest than the progress file names is somebody else's, and is never touched.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from stat import S_ISREG

from . import _files
from ._errors import RestartError, describe
from ._progress import RECORD_SIZE, Header, Stamp, blank, decode, encode, recorder
from ._signals import held

__all__ = ["Storage", "opened", "require_folder"]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., None])

START_SECONDS = 2.0  # how long another process may take to make the progress file, which tells who it is
FLUSH_SECONDS = 1.0  # a power failure costs at most the items of so long
_WAY_OUT = "put it back, or delete {} and what was saved with it to start afresh"

_opened: dict[str, Storage] = {}  # the storages of this process that hold their progress file, by path
_staging: set[int] = set()  # descriptors of progress files that are being written, with the lock on them
_guard = threading.RLock()
_unreleased: list[Storage] = []  # what is to be released as soon as nobody is at work


class _exclusive(held):
    """One start, commit or take-over at a time, and none that a signal breaks off."""

    def __enter__(self) -> None:
        super().__enter__()
        _guard.acquire()

    def __exit__(self, *failure: object) -> None:
        _guard.release()
        _release_waiting()
        super().__exit__(*failure)


def _alone(*words: str) -> Callable[[F], F]:
    """Make a method wait for its turn, do nothing in a forked child, and say in `words` what the disk did not do."""

    def decorate(method: F) -> F:
        def alone(self: Storage, *arguments: Any, **named: Any) -> None:
            with _exclusive():
                if self._may_write():
                    try:
                        method(self, *arguments, **named)
                    except OSError as error:
                        raise self._failed(error, *words) from error

        alone.__doc__ = method.__doc__
        return alone  # type: ignore[return-value]

    return decorate


def opened() -> list[Storage]:
    """Return the storages that this process has open."""
    return list(_opened.values())


class Storage:
    """A progress file and all that is saved with it, locked for this process from `acquire` to `release` or `remove`.

    Args:
        path: Where the progress file is, absolute and without links.
        name: The path as the user gave it, for messages.
        loop: What the progress file shall say of the loop.
    """

    def __init__(self, path: str, name: str, loop: dict[str, Any] | None = None) -> None:
        self.path, self.name = path, name
        self.folder = os.path.dirname(path)
        self._staged = _staged_of(path)
        self._lock: int | None = None  # the descriptor that carries the lock: to close it is to give up the lock
        self._writer: int | None = None  # the one that records are written with; None: look before writing
        self._lost = ""  # why this storage may not be used any more
        self._own_identity: tuple[int, int] | None = None  # of the progress file that is ours
        self._process = os.getpid()  # a child of fork saves nothing
        self._seen: dict[str, tuple[int, ...]] = {}  # what was in place when it was known to be ours
        self._unflushed: set[str] = set()  # folders in which names have changed
        self.loop = loop or {}
        self.position = 0
        self.header = blank("", {})
        self.age = 0.0  # seconds since the last save, when it was read
        self._slots = (0, 0)  # where the next record goes, and the one that is flushed
        self.acquire()

    # From the start to the end.

    def acquire(self) -> None:
        """Lock the progress file, or make one without a save; finish what a crash has left undone.

        Raises:
            RestartError: in use by another process, not a progress file, a folder that cannot be written.
        """
        with _exclusive():
            other = _opened.get(self.path)
            if other is not None:
                other._lose(f"{self.name}: a newer counter for the same path has taken over; use that one")
            if os.path.isdir(self.path):
                raise RestartError(f"{self.name}: a folder; give the path of a file")
            require_folder(self.folder, self.name)
            self._give_up = time.monotonic() + START_SECONDS
            try:
                while not (self._resume() if os.path.lexists(self.path) else self._create()):
                    pass
            except OSError as error:
                raise RestartError(f"{self.name}: cannot be used: {describe(error)}; choose another path") from error

    def release(self) -> None:
        """Let go of the progress file. One without a save goes, unless a loop inside has one.

        The garbage collector may call this at any moment, in a thread that a save waits for, too. So it waits for none.
        """
        with held():
            _unreleased.append(self)
            _release_waiting()

    @_alone("removed", "run again to finish the removal")
    def remove(self) -> None:
        """Delete the progress, all that was saved with it, and what loops inside have left.

        Raises:
            RestartError: where the disk fails; the next start finishes the removal then.
        """
        self._remove()

    @property
    def is_of_this_process(self) -> bool:
        """Whether this is not a forked child, which saves nothing."""
        return self._process == os.getpid()

    @property
    def is_lost(self) -> bool:
        """Whether a newer counter has taken over."""
        return bool(self._lost)

    def require_current(self) -> None:
        """Raise where a newer counter has taken over."""
        if self._lost:
            raise RestartError(self._lost)

    @property
    def is_saved(self) -> bool:
        """Whether there is a save; position 0 with nothing registered is none."""
        return (
            self.position > 0
            or any(self.header.files.values())
            or bool(self.header.loop.get("finished"))
            or self.header.over
        )

    def _release(self) -> None:
        try:
            if not self.is_saved and not any(map(os.path.lexists, self.header.inner_files)):
                self._unlink()
        except (OSError, RestartError):  # an empty progress file more or less
            pass
        self._close()

    # Saving.

    def write(self, position: int) -> None:
        """Save the position alone: one small write to an open file, flushed once a second."""
        writer = self._writer
        if writer is None:
            self._look_and_write(position)
            return
        try:
            if _files.write_at(writer, self._record(position), self._slots[0]) < RECORD_SIZE - 1:
                raise OSError("only a part could be written")
        except OSError as error:
            raise self._failed(error) from error
        self.position = position
        if time.monotonic() > self._due:
            self.flush()

    @_alone()
    def flush(self) -> None:
        """Bring the position to the device, and publish it where a file is published on closing."""
        if self._writer is None:
            return
        os.fsync(self._writer)
        self._slots = self._slots[1], self._slots[0]
        self._due = time.monotonic() + FLUSH_SECONDS
        self.pause()
        if not self._open_writer():
            self._publish(self.position, self.header)

    def pause(self) -> None:
        """Close the writer, so that the next `write` looks first."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)

    @_alone()
    def commit(
        self, position: int, writers: Mapping[str, Callable[[str], Stamp | None]], kept: Iterable[str] = ()
    ) -> None:
        """Save the position and everything else as one moment.

        Args:
            position: The index of the next item.
            writers: For each path what writes the contents; called with the path to write to. It returns the stamp of
                what it has flushed, or None.
            kept: Paths that were saved before and stay as they are. All others go.

        Raises:
            RestartError: where a writer or the disk fails. The save before is still whole then.
        """
        self._settle()  # what a failure has left undone
        old = self.header.files
        for path in writers:
            self.check(path)
        if writers.keys() - old.keys():
            self._publish(self.position, self.header.but(files={**dict.fromkeys(writers), **old}))
            old = self.header.files
        files = {path: old[path] for path in kept}
        self._stage_and_publish(position, writers, self.header.but(loop=self.loop, files=files), old)
        self._settle()

    @_alone()
    def claim(self, path: str) -> None:
        """Name the progress file of a loop inside this one before it is made, so that it cannot outlive this one."""
        self.pause()
        inner_files = self.header.inner_files
        if path not in inner_files:
            there = [inner for inner in inner_files if any(map(os.path.lexists, (inner, _staged_of(inner))))]
            self._publish(self.position, self.header.but(inner_files=[*there, path]))

    # What was saved.

    def check(self, path: str) -> None:
        """Raise where something stands at `path` that this storage has not put there, or its name is too long."""
        try:
            os.lstat(self._workplace(path, 10**9))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RestartError(f"{path}: cannot be saved: {describe(error)}; give another path") from error
        stamp = self.header.files.get(path)
        if os.path.lexists(path) and not (stamp and self._is_ours(path, stamp)):
            wrong = "changed by somebody else since it was saved" if stamp else "exists already, and was not saved"
            raise RestartError(f"{path}: {wrong} with {self.name}; move it away, or give another path")

    def holds(self, path: str) -> bool:
        """Whether something is saved at `path`; if so, it is there and as it was saved.

        Raises:
            RestartError: it is missing, changed or damaged, or foreign.
        """
        stamp = self.header.files.get(path)
        if stamp is None:
            self.check(path)
        elif not os.path.lexists(path):
            raise RestartError(f"{path}: missing, but {self.name} was saved with it; {_WAY_OUT.format(self.name)}")
        elif stamp != _files.stamp_of(path):
            raise RestartError(f"{path}: changed or damaged since it was saved; {_WAY_OUT.format(self.name)}")
        else:
            self._seen[path] = _files.look(path)
        return stamp is not None

    # The start.

    def _create(self) -> bool:
        """Make a progress file without a save; return False where somebody else was faster.

        It appears whole and locked. Two that start at once meet at the staged file: one gets the lock on it.
        """
        lock = self._open_locked(self._staged, os.O_CREAT)
        if lock is None:
            return False
        if os.path.lexists(self.path):
            self._discard(lock)
            return False
        header = blank(os.urandom(4).hex(), {**self.loop, "finished": False})
        self._put_in_place(lock, header.but(inner_files=self.header.inner_files), 0, is_flushed=False)
        return True

    def _resume(self) -> bool:
        """Take up the progress file that is there; return False where it went away, or said that the work is done."""
        lock = self._open_locked(self.path, 0)
        if lock is None:
            return False
        try:
            with open(lock, "rb", closefd=False) as file:
                data = file.read()
            self.age = time.time() - os.fstat(lock).st_mtime
            progress = decode(data, self.folder)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, ValueError):
                raise RestartError(f"{self.name}: {error}; move it away, or give another path") from error
            raise
        record = recorder(progress.seal, progress.use + 1, os.getpid(), _files.host_name())
        identity = _files.identity(os.fstat(lock))
        if _files.WINDOWS:  # moves no file over an open one
            os.close(lock)
        self._adopt(lock, identity, progress.header, progress.position, record, len(data))
        self._slots = progress.slots
        self._is_flushed = self.is_saved
        try:
            self._recover()
        except BaseException:
            self._close()
            raise
        return _opened.get(self.path) is self

    def _recover(self) -> None:
        """Finish what was begun: roll a commit forward, delete what was staged for the next one, end a removal."""
        self._settled = False
        if not _files.clear_unlocked(self._staged):
            raise self._foreign(self._staged)
        for path in self.header.files:
            _files.delete(self._workplace(path, self.header.save + 1))
        self._settle()
        if self.header.over:
            self._remove()
        elif self._open_writer():  # say who uses it now
            self.write(self.position)
            self.pause()

    def _open_locked(self, path: str, flags: int) -> int | None:
        """Open and lock the file at `path`; None where it was not the one at that path any more when the lock came."""
        try:
            if os.path.lexists(path) and not S_ISREG(os.stat(path).st_mode):  # one look: another process may remove it
                raise self._foreign(path) if flags else RestartError(f"{self.name}: not a file; give another path")
            lock = os.open(path, os.O_RDWR | _files.BINARY | flags, 0o666)
        except FileNotFoundError:
            if flags and not os.path.isdir(self.folder):
                raise
            return None
        try:
            if not _files.lock(lock):
                holder = self._holder(lock)
                if holder is None and time.monotonic() < self._give_up:
                    time.sleep(0.001)
                    os.close(lock)
                    return None
                by = holder or "another process"
                raise RestartError(f"{self.name}: in use by {by}; wait for it to end, or stop it")
            if _files.identity(os.stat(path)) == _files.identity(os.fstat(lock)):
                if flags and not _files.is_staged(lock):
                    raise self._foreign(path)
                return lock
        except FileNotFoundError:
            pass
        except BaseException as error:
            if flags and isinstance(error, OSError):
                self._discard(lock)
            else:
                os.close(lock)
            raise
        os.close(lock)
        return None

    def _holder(self, lock: int) -> str | None:
        try:
            with open(lock, "rb", closefd=False) as file:
                return decode(file.read(), self.folder).holder
        except (OSError, ValueError):  # it is only just being made
            return None

    # The end.

    def _remove(self) -> None:
        for path in reversed(self.header.inner_files):  # a later loop never looks done before an earlier one
            _remove_inner(path, self)
        if self.header.files:
            self._publish(self.position, self.header.but(files={}), self.header.files, over=True)
            self._settle()
        self._flush_folders()
        self._unlink()
        if self._is_flushed and os.path.isdir(self.folder):  # or a power failure might bring back what is done
            _files.flush_folder(self.folder)
        self._close()

    def _unlink(self) -> None:
        """Delete the progress file. The names of loops inside stay known: the loop may go on and save again."""
        if self._is_here():
            os.unlink(self.path)
        self.position, self.header = 0, blank("", {}).but(inner_files=self.header.inner_files)

    def _close(self) -> None:
        self.pause()
        lock, self._lock = self._lock, None
        if lock is not None:
            if self.is_of_this_process:  # a forked child would take the lock from its parent
                _files.unlock(lock)
            os.close(lock)
        if _opened.get(self.path) is self:
            del _opened[self.path]

    def _lose(self, reason: str) -> None:
        """Be taken over. A thread may be about to write: the writer stays open, or it would hit another file."""
        self._lost = reason
        writer, self._writer = self._writer, None
        if writer is not None:
            weakref.finalize(self, os.close, writer)
        self._close()

    # The commit.

    def _may_write(self) -> bool:
        """Whether there is anything to do; make sure of the lock if so."""
        if not self.is_of_this_process:
            return False
        self.require_current()
        user = _opened.get(self.path)
        if user is not None and user is not self:
            self._lost = f"{self.name}: a newer counter for the same path is in use; use that one"
            self.require_current()
        if user is None:  # released: the loop was left, but is saved or removed after all
            known = self.header.id, self.header.save, self.position
            self.acquire()
            if self.is_saved and known != (self.header.id, self.header.save, self.position):
                self._close()
                raise RestartError(f"{self.name}: saved by another counter since; make a new counter")
        return True

    @_alone()
    def _look_and_write(self, position: int) -> None:
        for path in reversed(self.header.inner_files):  # a later loop never looks done before an earlier one
            _remove_inner(path, self, position)
        if self._is_flushed and not self.header.over and self.loop == self.header.loop and self._open_writer():
            self.write(position)
        else:
            self._publish(position, self.header.but(loop=self.loop))
            self._open_writer()

    def _open_writer(self) -> bool:
        """Open the progress file for records; False where somebody has deleted it."""
        if not self._is_here():
            return False
        self._writer = os.open(self.path, os.O_RDWR | _files.BINARY)
        return True

    def _is_here(self) -> bool:
        """Whether our progress file is at its path; raise where another one is."""
        try:
            here = _files.identity(os.stat(self.path))
        except FileNotFoundError:
            return False
        if here != self._own_identity:
            raise RestartError(f"{self.name}: replaced by somebody else while in use; move that away and run again")
        return True

    def _stage_and_publish(
        self,
        position: int,
        writers: Mapping[str, Callable[[str], Stamp | None]],
        header: Header,
        old: Mapping[str, Stamp | None],
    ) -> None:
        number = self.header.save + 1
        try:
            files = header.files | {path: self._stage(path, number, write) for path, write in writers.items()}
            self._publish(position, header.but(files=files), old)
        except BaseException:
            if self.header.save < number:
                for path in writers:
                    _files.clear(self._workplace(path, number))
            raise

    def _stage(self, path: str, number: int, write: Callable[[str], Stamp | None]) -> Stamp:
        """Write new contents beside their final path, and bring them to the device."""
        place, base = self._workplace(path, number), os.path.basename(path)
        os.mkdir(place)
        try:
            stamp = write(os.path.join(place, base))
        except Exception as error:
            raise self._failed(error, f"saved, writing {path}") from error
        found = os.listdir(place)
        if found != [base]:
            wrote = " and ".join(sorted(found)) or "nothing at all"
            raise RestartError(f"{path}: the function to save it wrote {wrote}; have it write to the path it is given")
        if stamp is None:
            _files.flush(os.path.join(place, base))
            stamp = _files.stamp_of(os.path.join(place, base))
        _files.flush_folder(place)
        self._unflushed.add(os.path.dirname(path))
        self.check(path)  # once more: what wrote it may have written there as well
        return stamp

    def _publish(
        self, position: int, header: Header, before: Mapping[str, Stamp | None] | None = None, over: bool = False
    ) -> None:
        """Make `header` and `position` count, all at once."""
        self._settle()
        self._flush_folders()
        former = {path: stamp for path, stamp in (before or {}).items() if stamp}
        self._give_up = time.monotonic() + START_SECONDS
        while (lock := self._open_locked(self._staged, os.O_CREAT)) is None:
            # Another process has started, and is about to see that it came too late.
            if time.monotonic() > self._give_up:
                raise RestartError(f"{self.name}: another process starts with it; stop one of the two")
        header = header.but(save=self.header.save + 1, before=former, over=over)
        self._put_in_place(lock, header, position, is_flushed=True)
        self._settled = not (header.files or former)
        _files.flush_folder(self.folder)

    def _put_in_place(self, lock: int, header: Header, position: int, is_flushed: bool) -> None:
        """Write a whole progress file to the staged one behind `lock`, move it to its place, and use it from now on."""
        header = header.but(written=_files.now(), process=os.getpid(), host=_files.host_name())
        _staging.add(lock)
        try:
            data, record = encode(header, position, self.folder)
            _write_over(lock, data)
            if is_flushed:
                os.fsync(lock)
            identity = _files.identity(os.fstat(lock))
            self._is_here()
            self.pause()
            if _files.WINDOWS:  # moves no open file
                os.close(lock)
            _files.replace(self._staged, self.path)
            self._adopt(lock, identity, header, position, record, len(data))
        except BaseException:
            self._discard(lock)
            raise
        finally:
            _staging.discard(lock)
        self._is_flushed = is_flushed

    def _discard(self, lock: int) -> None:
        """Delete the staged file, and only then give up the lock on it: another process may stage one right after."""
        if _files.WINDOWS:  # deletes no open file
            _files.close(lock)
        _files.clear(self._staged)
        _files.close(lock)

    def _adopt(
        self,
        lock: int,
        identity: tuple[int, int],
        header: Header,
        position: int,
        record: Callable[[int], bytes],
        size: int,
    ) -> None:
        """Use the progress file behind `lock` from now on."""
        self._close()
        self._own_identity = identity
        self._lock = None if _files.WINDOWS else lock
        _opened[self.path] = self
        self.header, self.position, self._record = header, position, record
        self._slots = size - RECORD_SIZE, size - 2 * RECORD_SIZE
        self._settled = True
        self._due = time.monotonic() + FLUSH_SECONDS

    def _settle(self) -> None:
        """Bring what was published to its place, and delete what the save before had and this one has not."""
        if self._settled:
            return
        header = self.header
        paths = header.files.keys() | header.before.keys()
        for path in paths:
            stamp = header.files.get(path)
            if stamp:
                self._place(path, stamp)
            elif path in header.before and os.path.lexists(path) and self._is_ours(path, header.before[path]):
                self._set_aside(path)
        self._flush_folders()  # or a power failure might keep the deletion and lose the move
        for path in paths:
            _files.delete(self._workplace(path, header.save))
            self._unflushed.add(os.path.dirname(path))
        self._settled = True

    def _place(self, path: str, stamp: Stamp) -> None:
        place, base = self._workplace(path, self.header.save), os.path.basename(path)
        new = os.path.join(place, base)
        if not os.path.lexists(new):  # in its place already, or kept
            return
        former = self.header.before.get(path)
        if os.path.lexists(path):
            if not (former and self._is_ours(path, former)):
                raise RestartError(f"{path}: belongs to no save of {self.name}; move it away and run again")
            os.rename(path, new + ".former")
        os.rename(new, path)
        self._seen[path] = _files.look(path)
        self._unflushed.add(os.path.dirname(path))

    def _set_aside(self, path: str) -> None:
        """Move something out of its place before it is deleted, so that half a folder is never taken for the whole."""
        place = self._workplace(path, self.header.save)
        _files.delete(place)
        os.mkdir(place)
        os.rename(path, os.path.join(place, os.path.basename(path)))
        self._unflushed.add(os.path.dirname(path))

    def _workplace(self, path: str, number: int) -> str:
        folder, base = os.path.split(path)
        return os.path.join(folder, f".{base}.{self.header.id}-{number}")

    def _is_ours(self, path: str, stamp: Stamp) -> bool:
        return (not os.path.isdir(path) and self._seen.get(path) == _files.look(path)) or _files.stamp_of(path) == stamp

    def _flush_folders(self) -> None:
        while self._unflushed:
            folder = next(iter(self._unflushed))
            _files.flush_folder(folder)
            self._unflushed.discard(folder)

    def _foreign(self, path: str) -> RestartError:
        return RestartError(f"{self.name}: {path} is in the way, and not of py_restart; move it away")

    def _failed(self, error: Exception, what: str = "saved", advice: str = "what was saved is whole") -> RestartError:
        return RestartError(f"{self.name}: could not be {what}: {describe(error)}; {advice}")


def require_folder(folder: str, name: str) -> None:
    """Raise where nothing can be written in `folder`."""
    if not os.path.isdir(folder):
        raise RestartError(f"{name}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RestartError(f"{name}: the folder {folder} cannot be written to; choose another one")


def _release_waiting() -> None:
    while _unreleased and _guard.acquire(blocking=False):
        try:
            storage = _unreleased.pop()
            if _opened.get(storage.path) is storage:
                storage._release()
        finally:
            _guard.release()


def _remove_inner(path: str, outer: Storage, position: int | None = None) -> None:
    """Delete what a loop inside has left, unless it belongs to the item at `position`."""
    inner = _opened.get(path)
    known = inner is not None
    if inner is None:
        if not os.path.isfile(path):
            _files.clear_unlocked(_staged_of(path))  # a start that was cut short
            return
        try:
            inner = Storage(path, path)
        except RestartError:  # somebody else's by now
            return
    around = dict((inner.loop or inner.header.loop).get("around", ()))
    if outer.path in around and around[outer.path] != position:
        inner.remove()
    elif not known:
        inner.release()


def _write_over(file: int, data: bytes) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    if os.fstat(file).st_size:  # else ext4 flushes it for having been truncated (auto_da_alloc: ext4(5))
        os.ftruncate(file, 0)
    _files.write_all(file, data)


def _staged_of(path: str) -> str:
    folder, base = os.path.split(path)
    return os.path.join(folder, f".{base}.staged")


def _after_fork() -> None:
    global _guard
    _guard = threading.RLock()  # a thread that is not in the child may have held it
    for storage in list(_opened.values()):
        storage._close()
    for file in _staging:  # another thread was at work on it; the lock must go with the parent
        _files.close(file)
    _staging.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

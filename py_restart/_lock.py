"""The lock file: who uses a progress file, in this process and in others.

`.NAME.lock` beside the progress file carries the lock (`flock(2)`; `msvcrt.locking` on Windows; where a file system has
no locks, none) and says who holds it. Nothing else is kept in it, so that the progress file may be closed, replaced and
moved like any file. It is deleted while it is locked; whoever gets the lock looks whether the file at that path is
still the one that it has locked, by its contents: some mounts change the numbers of their files.

A process that was killed holds its locks until its memory has been freed, which takes seconds for a large one: it is
waited for as long as the kernel says that it is about to end. All others that hold a lock are refused at once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable

from . import _files
from ._errors import InUseError, RestartError, failing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


START_SECONDS = 2.0  # how long another process may take to say who it is
DYING_SECONDS = 60.0  # how long a process that was killed may take to free its memory
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_EXITING = 0x4  # PF_EXITING: proc(5), include/linux/sched.h
_KILLED = 1 << 8  # SIGKILL waits for it to run: proc(5)
_PAST_ALL = 1 << 30  # Windows: what is locked cannot be read

_held: dict[str, Lock] = {}  # by progress file: the locks of this process
turn = threading.RLock()  # one thread at a time takes a lock, and begins with what it guards


def is_locked_here(path: str) -> bool:
    """Whether a counter of this process has this progress file open."""
    return path in _held


class Lock:
    """The lock of a progress file. It is held from `take` to `release`, unless a newer user takes it over.

    Args:
        path: The progress file, absolute.
        name: The same as the user gave it, for messages.
        is_busy: Whether the user may not be taken over from: its loop runs in another live thread. Held weakly.
        lose: Called when a newer user takes over. Held weakly.
    """

    def __init__(self, path: str, name: str, is_busy: Callable[[], bool], lose: Callable[[], None]) -> None:
        folder, base = os.path.split(path)
        self._progress, self._name = path, name
        self._path = os.path.join(folder, f".{base}.lock")
        self._line = b""
        self._file: int | None = None
        self._is_busy, self._lose = weakref.WeakMethod(is_busy), weakref.WeakMethod(lose)
        self.is_lost = False  # a newer user has taken over

    @property
    def is_held(self) -> bool:
        return self._file is not None

    def take(self, takes_over: bool) -> None:
        """Take the lock, or take it over from an older user in this process.

        Raises:
            InUseError: another process holds it, or a loop that runs in another thread.
            RestartError: the lock file cannot be made, or there is a newer user.
        """
        with turn:
            other = _held.get(self._progress)
            if other is not None and other._file is not None:
                if not takes_over:
                    raise RestartError(f"{self._name}: a newer counter for the same path is in use; use that one")
                is_busy, lose = other._is_busy(), other._lose()
                if is_busy is not None and is_busy():
                    raise InUseError(
                        f"{self._name}: in use by a loop that runs in another thread; wait for it to end, or stop it"
                    )
                other._file, self._file, self._line = None, other._file, other._line
                other.is_lost = True
                if lose is not None:
                    lose()
            else:
                with failing(f"{self._name}: cannot be locked with {self._path}", "mend that and run again"):
                    self._file = self._locked()
            _held[self._progress] = self

    def release(self) -> None:
        """Delete the lock file and let go of the lock. It takes no lock itself: the garbage collector may call it."""
        file, self._file = self._file, None
        if file is None:
            return
        if _held.get(self._progress) is self:
            del _held[self._progress]
        try:
            if _files.WINDOWS:  # deletes no open file
                os.close(file)
            if self._read() == self._line:
                os.unlink(self._path)
        except OSError:
            pass
        finally:
            if not _files.WINDOWS:
                _let_go(file)

    def drop(self) -> None:
        """In a forked child: the lock is the parent's, and so is the file."""
        file, self._file = self._file, None
        if file is not None:
            _files.close(file)

    def _locked(self) -> int:
        """Return the open lock file, with the lock on it.

        It is made with all its contents, since not every mount lets a file be written again. One that a kill has left
        behind is deleted by the one who gets the lock on it.
        """
        said = f"process {os.getpid()} on {_files.host_name()}, since {_files.now()} {os.urandom(4).hex()}"
        self._line = said.encode("ascii", "replace") + b"\n"
        try:
            return self._taken()
        except OSError:
            if self._read() == self._line:  # made for nothing
                _files.clear(self._path)
            raise

    def _taken(self) -> int:
        began = time.monotonic()
        while True:
            seen = self._made()
            try:
                file = os.open(self._path, os.O_RDWR | _files.PLAIN)  # to write: NFS wants it for a lock (flock(2))
            except FileNotFoundError:  # it has just been released
                continue
            try:
                if not _try_to_lock(file):
                    self._wait_for_holder(time.monotonic() - began)
                elif (found := self._read()) == self._line:
                    return file
                elif found and found.strip(b"\0")[:8] != b"process "[: len(found)]:
                    raise RestartError(self._in_the_way())
                elif found == seen:  # it was there all the time, so it is the one that is locked
                    if _files.WINDOWS:  # deletes no open file
                        _let_go(file)
                    os.unlink(self._path)
            except BaseException:
                _let_go(file)
                raise
            _let_go(file)

    def _made(self) -> bytes | None:
        """Make the lock file, if there is none; return what it says."""
        try:
            _files.create(self._path, self._line)
        except FileExistsError:
            if _files.kind_of(self._path) not in ("file", ""):
                raise RestartError(self._in_the_way()) from None
            return self._read()
        return self._line

    def _in_the_way(self) -> str:
        return f"{self._name}: {self._path} is in the way, and not of py_restart; move it away"

    def _read(self) -> bytes | None:
        try:
            return _files.read(self._path)
        except FileNotFoundError:
            return None

    def _wait_for_holder(self, seconds: float) -> None:
        """Wait a moment for a holder that is about to end, or has not yet said who it is; refuse all others."""
        found = self._read() or b""
        words = found.decode("ascii", "replace").partition(",")[0]
        process, _, host = words.removeprefix("process ").partition(" on ")
        patience = START_SECONDS
        if process.isdigit() and found != self._line:  # else another one, who starts just now, is looking at it
            patience = _patience_with(int(process)) if host == _files.host_name() else 0.0
        if seconds >= patience:
            who = words if process.isdigit() else "another process"
            raise InUseError(f"{self._name}: in use by {who}; wait for it to end, or stop it")
        time.sleep(0.002)


def _patience_with(process: int) -> float:
    """How many seconds a holder is waited for: see proc(5) for what the kernel says of it."""
    if not os.path.exists("/proc/self/stat"):
        return 0.0
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # it has gone just now
        return START_SECONDS
    is_dying = fields[0] in (b"Z", b"X") or int(fields[6]) & _EXITING or int(fields[28]) & _KILLED
    return DYING_SECONDS if is_dying else 0.0


def _try_to_lock(file: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(file, _PAST_ALL, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError as error:
        if isinstance(error, BlockingIOError) or (fcntl is None and error.errno in (errno.EACCES, errno.EDEADLK)):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _let_go(file: int) -> None:
    """Give the lock up at once: a child that was forked just now still has the same open file."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:  # no locks here; closing the file will do
        pass
    _files.close(file)


@_files.at_fork
def _after_fork() -> None:
    global turn
    turn = threading.RLock()  # a thread that is not in the child may have held it
    for lock in list(_held.values()):
        lock.drop()
    _held.clear()

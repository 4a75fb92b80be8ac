"""The lock file: who uses a progress file, in this process and in others.

`.NAME.lock` beside the progress file carries the lock (`flock(2)`; `msvcrt.locking` on Windows; where a file system has
no locks, none) and says who holds it. Nothing else is kept in it, so that the progress file may be closed, replaced and
moved like any file. It is made with all its contents, since not every mount lets a file be written again, and deleted
while it is locked, one that a kill has left behind as well. So whoever gets the lock looks whether the file at that
path is still the one that it has locked, by its contents: some mounts change the numbers of their files.

A process that was killed holds its locks until its memory has been freed, which takes seconds for a large one: it is
waited for as long as the kernel says that it is about to end. All others that hold a lock are refused at once.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import time
import weakref

from . import _files
from ._errors import InUseError, RestartError, failing
from ._signals import held, waiting
from ._typing import Any

if _files.WINDOWS:
    import msvcrt
else:
    import fcntl

START_SECONDS = 2.0  # how long another process may take to say who it is
DYING_SECONDS = 60.0  # how long a process that was killed may take to free its memory
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_EXITING = 0x4  # PF_EXITING: proc(5), include/linux/sched.h
_KILLED = 1 << 8  # SIGKILL waits for it to run: proc(5)
_PAST_ALL = 1 << 30  # Windows: what is locked cannot be read

_Held = tuple[weakref.ref[Any], int, bytes]  # who holds a lock, its open file, and what that says
locks: dict[str, _Held] = {}  # by progress file: those that this process holds
turn = threading.RLock()  # one thread at a time takes a lock, and begins with what it guards


class Lock:
    """The lock of a progress file, held from `take` to `unlock`, unless a newer one takes it over; see `Storage`.

    While `is_busy()`, a loop runs or a `with` is open in another live thread, it may not. Nor may an older one take it
    over again while it `is_in_use()`. `name` is the path that messages name.
    """

    _held: _Held | None = None  # since it was taken

    def __init__(self, path: str, name: str) -> None:
        folder, base = os.path.split(path)
        self._progress, self._name = path, name
        self._path = os.path.join(folder, f".{base}.lock")
        self.turn = threading.RLock()  # held while something is saved

    @property
    def is_held(self) -> bool:
        return self._held is not None and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether a newer one has taken over."""
        return self._held is not None and locks.get(self._progress) is not self._held

    def take(self, takes_over: bool) -> None:
        """Take the lock, or take it over from an older user in this process; raise where another one holds it."""
        with turn:
            now = locks.get(self._progress)
            if now is not None:
                user, file, line = now
                older: Any = user() or self  # the newer one, where the older is just being thrown away
                if not takes_over and older.is_in_use():
                    raise RestartError(f"{self._name}: a newer counter for the same path is in use; use that one")
                # A save that runs is waited for, but not for ever: it may wait for this thread.
                what = "in use by a loop that runs in another thread"
                in_use = InUseError(f"{older._name}: {what}; wait for it to end, or stop it")
                if older.is_busy() or not older.turn.acquire(timeout=START_SECONDS):
                    raise in_use
                try:
                    if older.is_busy():  # its loop has begun meanwhile
                        raise in_use
                    mine = weakref.ref(self), file, line
                    # No call is in these lines: the garbage collector may run in another thread, and let go of it.
                    if self._progress in locks and locks[self._progress] is now:
                        locks[self._progress] = self._held = mine
                        _files.attempt(older.journal.close)
                        return
                finally:
                    older.turn.release()
            advice = "mend that, or delete that file where no program uses it, and run again"
            with failing(f"{self._name}: cannot be locked with {self._path}", advice):
                locks[self._progress] = self._held = weakref.ref(self), *self._locked()

    def unlock(self, drops: bool = False) -> None:
        """Delete the lock file and let go of the lock. It takes no lock itself: the garbage collector may call it."""
        if self.is_held:
            with held(drops):
                mine, self._held = self._held, None
                if self._progress in locks and locks[self._progress] is mine:  # no call: see `take`
                    del locks[self._progress]
                    _files.attempt(self._let_go, *mine[1:])

    def __del__(self) -> None:
        self.unlock(drops=True)

    def _locked(self) -> tuple[int, bytes]:
        """Make the lock file, and return it with the lock on it, and what it says."""
        line = os.fsencode(f"process {os.getpid()} on {_files.HOST}, since {_files.now()} {os.urandom(4).hex()}\n")
        file, began = -1, time.monotonic()
        while True:
            seen: bytes | None = line
            try:
                try:
                    _files.create(self._path, lambda write: write(line))
                except FileExistsError:
                    seen = b""
                try:
                    seen = seen or self._read()
                    # To write as well: NFS wants it for a lock (flock(2)). Another user's may be there to read alone.
                    to_use = os.O_RDWR if os.access(self._path, os.W_OK) else _files.TO_READ
                    file = _files.retried(os.open, self._path, to_use | _files.PLAIN)
                    if not _try_to_lock(file):
                        self._wait_for_holder(seen, time.monotonic() - began)
                        seen = None
                    elif _files.read(self._path, len(line)) == line:
                        return file, line
                except FileNotFoundError:  # it has just been released
                    seen = None
                stale, file = file, -1  # it is closed once, whatever happens
                try:
                    self._let_go(stale, seen)  # what was there all the time is what is locked
                except OSError:
                    if waiting or time.monotonic() - began > START_SECONDS:
                        raise
                    time.sleep(0.002)
            except BaseException:
                _files.attempt(self._let_go, file, seen if seen == line else None)  # what was made for nothing
                raise

    def _read(self) -> bytes:
        """Return what the lock file of somebody else says, whole or cut short by a kill."""
        said = _files.read(self._path) if _files.kind_of(self._path) in ("file", "") else b"?"
        if not b"process ".startswith(said.strip(b"\0")[:8]):
            raise RestartError(f"{self._name}: {self._path} is in the way, and not of py_restart; move it away")
        return said

    def _let_go(self, file: int, line: bytes | None) -> None:
        """Delete the lock file, where it says this; give up the lock, even where it cannot be deleted."""
        try:
            if _files.WINDOWS:  # deletes no open file
                _files.attempt(os.close, file)
            if line is not None and _files.read(self._path, len(line) + 1) == line:  # all of it: b"" begins every line
                _files.retried(os.unlink, self._path)
        finally:
            if file >= 0 and not _files.WINDOWS:
                # At once: a child that was forked just now still has the same open file.
                _files.attempt(fcntl.flock, file, fcntl.LOCK_UN)
                _files.attempt(os.close, file)

    def _wait_for_holder(self, said: bytes, seconds: float) -> None:
        """Wait a moment for a holder that is about to end, or has not said yet who it is; refuse all others."""
        who = os.fsdecode(said).partition(",")[0]
        process, _, host = who.removeprefix("process ").partition(" on ")
        if not process.isdigit():
            patience, who = START_SECONDS, "another process"
        else:
            patience = _patience_with(int(process)) if host == _files.HOST else 0.0
        if seconds >= patience or waiting:  # a Ctrl-C, say, need not wait for that
            way_out = "wait for it to end, or stop it"
            if getattr(sys.modules.get("__mp_main__"), "__name__", "") == "__mp_main__":  # a worker that imports it
                way_out += '; where that has started this worker, make the counter under if __name__ == "__main__":'
            raise InUseError(f"{self._name}: in use by {who}; {way_out}")
        time.sleep(0.002)


def _patience_with(process: int) -> float:
    """How many seconds a holder is waited for: see proc(5) for what the kernel says of it."""
    if process == os.getpid():  # another thread is letting go of it, or one who starts just now is looking at ours
        return START_SECONDS
    try:
        fields = _files.read(f"/proc/{process}/stat").rpartition(b")")[2].split()
    except OSError:  # it has gone just now
        return START_SECONDS if os.path.exists("/proc/self/stat") else 0.0
    is_dying = int(fields[6]) & _EXITING or int(fields[28]) & _KILLED
    return DYING_SECONDS if is_dying else 0.0


def _try_to_lock(file: int) -> bool:
    try:
        if _files.WINDOWS:
            os.lseek(file, _PAST_ALL, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or (_files.WINDOWS and error.errno == errno.EACCES):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


@atexit.register
def _unlock_all() -> None:
    for user, *_ in list(locks.values()):
        lock = user()
        if lock is not None and not lock.is_busy():  # else a thread goes on until the process is gone
            lock.unlock()


@_files.at_fork
def _after_fork() -> None:
    """The locks are the parent's, and so are their files."""
    global turn
    turn = threading.RLock()  # a thread that is not in the child may have held it
    while locks:
        user, file, _ = locks.popitem()[1]
        if (lock := user()) is not None:
            _files.attempt(lock.journal.close)
        _files.attempt(os.close, file)

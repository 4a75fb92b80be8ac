"""What is done with single files and folders: lock, write, replace, flush, digest, delete."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ._progress import Stamp, begins

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any

WINDOWS = sys.platform == "win32"
RETRY_SECONDS = 2.0  # how long another program that holds the file may delay its replacement (Windows)
BINARY: int = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it
_LARGE = 1 << 20  # bytes; from here on a thread costs less than it saves
_AHEAD = 32  # how many parts may wait to be digested


def lock(file: int) -> bool:
    """Take the lock on an open file; False where another process has it. Some file systems have no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL):
                raise
    return True


def unlock(file: int) -> None:
    """Give the lock up at once: a child that was forked just now still has the same open file."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:  # no locks here; closing the file will do
            pass


def replace(source: str, target: str) -> None:
    give_up = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if not WINDOWS or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _seek_and_write(file: int, data: bytes, at: int) -> int:
    os.lseek(file, at, os.SEEK_SET)
    return os.write(file, data)


write_at: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _seek_and_write)  # Windows has no pwrite


def delete(path: str) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            delete(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def clear(path: str) -> None:
    """Delete what was staged in vain. What cannot be deleted now, the next start deletes."""
    try:
        delete(path)
    except OSError:
        pass


def is_staged(file: int) -> bool:
    """Whether an open file is a progress file that was begun, and not somebody else's."""
    os.lseek(file, 0, os.SEEK_SET)
    return begins(os.read(file, 64))


def clear_unlocked(path: str) -> bool:
    """Delete a staged file, unless another process is at work on it. Return False where something else is there."""
    try:
        file = os.open(path, os.O_RDWR | BINARY)
    except OSError:
        return not os.path.isdir(path)
    try:
        if lock(file) and identity(os.stat(path)) == identity(os.fstat(file)):
            if not is_staged(file):
                return False
            if not WINDOWS:
                os.unlink(path)
    except OSError:
        pass
    finally:
        os.close(file)
    if WINDOWS:  # where nobody deletes what is open
        clear(path)
    return True


def close(file: int) -> None:
    """Close a file, unless it is closed already."""
    try:
        os.close(file)
    except OSError:
        pass


def flush(path: str) -> None:
    """Bring a file, or a folder with all that is in it, to the device."""
    if os.path.islink(path):
        return
    if os.path.isdir(path):
        mode = os.stat(path).st_mode & 0o7777
        if mode & 0o700 != 0o700:  # it could be neither moved nor deleted
            os.chmod(path, mode | 0o700)
        for name in os.listdir(path):
            flush(os.path.join(path, name))
        flush_folder(path)
    else:
        _flush_open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)


def flush_folder(path: str) -> None:
    """Bring the names in a folder to the device. Windows does that by itself, and cannot open a folder."""
    if not WINDOWS:
        _flush_open(path, os.O_RDONLY)


def _flush_open(path: str, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class DigestingFile:
    """A new file that is flushed at the end of the `with` block, and has its stamp then.

    A large one is digested while it is written and flushed, in a thread: neither needs the interpreter.
    """

    stamp: Stamp

    def __init__(self, path: str) -> None:
        from queue import SimpleQueue

        self._file = open(path, "wb")  # noqa: SIM115 (this is one itself)
        self._size = 0
        self._parts: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DigestingFile:
        return self

    def write(self, data: Any) -> int:
        """Write bytes, or copies of the parts of a buffer: another thread may change it before it is digested."""
        if type(data) is bytes:
            return self._write(data)
        with memoryview(data) as view, view.cast("B") as parts:
            return sum(self._write(bytes(parts[at : at + _LARGE])) for at in range(0, len(parts), _LARGE))

    def _write(self, part: bytes) -> int:
        while self._thread is not None and self._parts.qsize() > _AHEAD:
            time.sleep(0.001)
        self._parts.put(part)
        self._size += len(part)
        if self._size >= _LARGE and self._thread is None:
            thread = threading.Thread(target=self._digest)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter shuts down, or there are too many
                pass
        return self._file.write(part)

    def __exit__(self, *failure: object) -> None:
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._parts.put(None)
            if self._thread is None:
                self._digest()
            else:
                self._thread.join()

    def _digest(self) -> None:
        self.stamp = _digested(iter(self._parts.get, None))


def stamp_of(path: str) -> Stamp:
    """Digest a file, or a folder with all that is in it."""
    return _digested(_contents(path))


def _digested(parts: Iterable[bytes]) -> Stamp:
    """Two sums tell contents apart that differ by chance. A cryptographic hash takes longer than writing the file, and
    who could forge these sums could as well write others into the progress file."""
    from zlib import adler32, crc32

    size, first, second = 0, 0, 1
    for part in parts:
        size, first, second = size + len(part), crc32(part, first), adler32(part, second)
    return {"size": size, "digest": f"{first:08x}{second:08x}"}


def _contents(path: str) -> Iterator[bytes]:
    """All bytes of a file; of a folder, names and lengths as well."""
    if os.path.islink(path):
        yield os.fsencode(os.readlink(path))
    elif os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            inner = os.path.join(path, name)
            kind = "link" if os.path.islink(inner) else "folder" if os.path.isdir(inner) else "file"
            yield os.fsencode(f"\0{kind}\0{name}\0{os.lstat(inner).st_size if kind == 'file' else ''}\0")
            yield from _contents(inner)
        yield b"\0end\0"
    else:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_LARGE):
                yield chunk


def look(path: str) -> tuple[int, ...]:
    """What tells, without reading it, that something has not been touched. Renaming changes none of it."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def host_name() -> str:
    """The name of this machine. Asking `socket` for it would cost a third of what importing this library does."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    return os.environ.get("COMPUTERNAME", "")


def now() -> str:
    """The time in UTC, as ISO 8601 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

"""What is done with single files and folders: lock, write, replace, flush, digest, delete."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ._progress import Stamp

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WINDOWS = sys.platform == "win32"
RETRY_SECONDS = 2.0  # how long another program that holds the file may delay its replacement (Windows)
BINARY: int = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it
_LARGE = 1 << 20  # bytes; from here on a thread costs less than it saves


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


def flushed_stamp(path: str) -> Stamp:
    """Flush and digest what was staged, large things both at once: digesting takes as long as writing did."""
    if os.path.getsize(path) < _LARGE:
        flush(path)
        return stamp_of(path)
    stamp: Stamp = _at_once(lambda: flush(path), lambda: stamp_of(path))[1]
    return stamp


def stamp_of(path: str) -> Stamp:
    """Digest a file, or a folder with all that is in it. A large file is digested in halves, on two cores."""
    from hashlib import blake2b

    size = os.lstat(path).st_size
    if size < _LARGE or not os.path.isfile(path):
        digest, size = blake2b(digest_size=16), 0
        for part in _contents(path):
            digest.update(part)
            size += len(part)
        return Stamp(size, digest.hexdigest())

    def digest_of(start: int, stop: int) -> bytes:
        digest = blake2b()
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(_LARGE, stop - start))):
                digest.update(chunk)
                start += len(chunk)
        return digest.digest()

    halves = _at_once(lambda: digest_of(0, size // 2), lambda: digest_of(size // 2, size))
    return Stamp(size, blake2b(b"".join(halves), digest_size=16).hexdigest())


def _at_once(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two things that leave the interpreter to others for most of their time; raise what either raises."""
    done: list[Any] = []
    errors: list[BaseException] = []

    def run_first() -> None:
        try:
            done.append(first())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_first)
    thread.start()
    try:
        other = second()
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return done[0], other


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

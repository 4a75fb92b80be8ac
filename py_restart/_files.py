"""Single files and folders: flush, digest, replace, delete. Nothing here knows what they are for."""

import errno
import functools
import os
import sys
import threading
import time
from binascii import crc32
from collections.abc import Callable, Iterable, Iterator
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISLNK, S_ISREG, S_ISVTX

from ._errors import failing
from ._typing import F, Stamp, T

try:
    import fcntl
    import resource
except ImportError:  # Windows has neither, Pyodide not the second
    fcntl = resource = None  # type: ignore[assignment]

WINDOWS = sys.platform == "win32"
# The name of this machine: `socket`, which knows it too, takes a third of the time that importing this library does.
HOST: str = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
RETRY_SECONDS = 2.0  # how long another program that holds a file may be in the way (Windows)
# Nothing is opened through a link that somebody has put there; Windows translates line ends without O_BINARY.
_BINARY: int = getattr(os, "O_BINARY", 0)
PLAIN: int = getattr(os, "O_NOFOLLOW", 0) | _BINARY
TO_READ: int = os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0)  # a pipe holds nobody up
_TO_FLUSH: int = TO_READ | (os.O_RDWR if WINDOWS else 0)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # by a mount: fsync(2)
_KINDS = {S_IFDIR: "folder", S_IFLNK: "link", S_IFREG: "file"}
_JUNCTION = 0xA0000003  # a link to a folder (Windows): `stat.IO_REPARSE_TAG_MOUNT_POINT`, which is there alone
_WANTED = {"folder": 0o700, "file": 0o200 * WINDOWS}  # or it could be neither flushed, moved nor deleted
_LARGE = 1 << 20  # bytes; from here on a thread costs less than it saves
_MORE = 8  # descriptors that a process may have beyond its limit, to save what it has done
_PART = 1 << 18  # bytes that are read at a time: they stay in the cache of the processor


def at_fork(function: F) -> F:
    """Have it called in each forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function


def _seek_and_write(file: int, data: bytes, at: int) -> int:
    os.lseek(file, at, os.SEEK_SET)
    return os.write(file, data)


pwrite: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _seek_and_write)  # Windows has none


def make_room() -> None:
    """Let a process open some more files where it has too many: that may be what has ended its loop (setrlimit(2))."""
    files: list[int] = []
    try:
        while len(files) < _MORE:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        if resource is not None:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            attempt(resource.setrlimit, resource.RLIMIT_NOFILE, (min(soft + _MORE, hard), hard))
    finally:
        for file in files:
            attempt(os.close, file)


def create(
    path: str, fill: Callable[[Callable[[bytes | memoryview], None]], None], is_flushed: bool = False, mode: int = 0o666
) -> None:
    """Make a new file of what `fill` hands to the function that it is called with; none where the disk is full."""
    file = retried(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, mode)

    def write(data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:  # the system takes 2 GB at a time (write(2))
            left = left[os.write(file, left) :]

    try:
        try:
            fill(write)
            if is_flushed:
                flush_open(file)
        finally:
            os.close(file)
    except OSError:
        attempt(delete, path)
        raise


def read(path: str, size: int = sys.maxsize) -> bytes:
    return b"".join(_parts(path, size=size))


def _parts(path: str, start: int = 0, size: int = sys.maxsize, is_flushed: bool = False) -> Iterator[bytes]:
    file = retried(os.open, path, _TO_FLUSH if is_flushed else TO_READ)
    try:
        if start:
            os.lseek(file, start, os.SEEK_SET)
        while size and (part := os.read(file, min(_PART, size))):
            size -= len(part)
            yield part
        if is_flushed:
            flush_open(file)
    finally:
        attempt(os.close, file)


def attempt(function: Callable[..., object], *arguments: object) -> None:
    """Call it where a failure does not matter, or comes too late."""
    try:
        function(*arguments)
    except (OSError, ValueError):  # the second is what `resource` makes of EINVAL (macOS)
        pass


def retried(function: Callable[..., T], *arguments: object) -> T:
    """Call it; on Windows once more, for a while, where another program has the file open or is just deleting it."""
    give_up = 0.0
    while True:
        try:
            return function(*arguments)
        except OSError as error:  # a file that was deleted may still be in its folder until the other one has closed it
            give_up = give_up or time.monotonic() + RETRY_SECONDS
            is_in_the_way = WINDOWS and error.errno in (errno.EACCES, errno.ENOTEMPTY)
            if not is_in_the_way or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def replace(source: str, mode: int, target: str, former: os.stat_result | None) -> None:
    """Put a file of this mode in the place of another one, which looks like this, and keeps its mode."""
    if former and S_ISREG(former.st_mode) and S_ISREG(mode) and former.st_mode != mode:
        attempt(os.chmod, source, former.st_mode & 0o7777)  # it may be somebody else's
    retried(os.replace, source, target)


@functools.cache
def is_fuse(device: int) -> bool:
    """Whether this may be a mount of rclone. What that had sent of a file stays on the remote when another one takes
    its place, and is deleted before it is sent as well."""
    try:
        mounts = read("/proc/self/mountinfo").splitlines()  # proc(5)
    except OSError:
        return False
    number = b" %d:%d " % (os.major(device), os.minor(device))
    return any(number in mount and b" - fuse" in mount for mount in mounts)


folder_of: Callable[[str], str] = functools.lru_cache(os.path.dirname)  # kept: a commit asks for it again and again


@functools.lru_cache
def _is_plain(folder: str, _device: int, _number: int) -> bool:
    """Whether no link leads to a folder, as long as it is this one: to look takes as long as making a file."""
    return os.path.realpath(folder) == folder


def place_of(name: str) -> str:
    """Return where a path is: absolute, its folder without links."""
    with failing(f"{name}: cannot be found", "give an absolute path, or work in a folder that exists and can be read"):
        # What is above a folder behind a link is not what its name says.
        place = os.path.realpath(name) if os.pardir in name else os.path.abspath(name)
        folder = folder_of(place)
        status = look(folder)  # None: it is not there yet, which is said elsewhere
        if status and S_ISDIR(status.st_mode) and _is_plain(folder, status.st_dev, status.st_ino):
            return place
    return os.path.join(os.path.realpath(folder), os.path.basename(place))


def mount_of(folder: str) -> str:
    """Return where the file system of a folder is mounted. Its device may be another one when it is mounted again."""
    return _mount_of(folder, os.lstat(folder).st_dev)


@functools.lru_cache
def _mount_of(folder: str, device: int) -> str:
    above = os.path.dirname(folder)  # it may not be ours to look at, as on a share of which one folder is (Windows)
    is_same = above != folder and os.path.lexists(above) and os.lstat(above).st_dev == device
    return _mount_of(above, device) if is_same else folder


def look(path: str) -> os.stat_result | None:
    """Return how it looks, a link by itself; None where nothing is there."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def kind_of(path: str) -> str:
    """Return "file", "folder", "link" or "other", or "" where nothing is there."""
    return _kind(look(path))


def _kind(status: os.stat_result | None) -> str:
    if getattr(status, "st_reparse_tag", 0) == _JUNCTION:  # its mode is that of a folder
        return "link"
    return _KINDS.get(S_IFMT(status.st_mode), "other") if status else ""


def names_in(folder: str) -> list[str]:
    """Return what is in a folder, but for what macOS puts there by itself: where somebody looks, and for attributes."""
    names = set(os.listdir(folder))
    return sorted(name for name in names if name != ".DS_Store" and not (name[:2] == "._" and name[2:] in names))


def mode_beside(path: str) -> int:
    """Return who may use what is staged beside a path: nobody who may not use what is there."""
    status = look(path)
    return status.st_mode & 0o777 | 0o600 if status and not S_ISLNK(status.st_mode) else 0o666


def require_own(path: str) -> None:
    """Raise where something is there that the sticky bit of its folder, as in /tmp, lets only another user replace."""
    if status := look(path):
        above = os.lstat(folder_of(path))
        if above.st_mode & S_ISVTX and os.geteuid() not in (0, above.st_uid, status.st_uid):
            raise PermissionError(errno.EPERM, "only its owner may replace it (sticky bit)", path)


def delete(path: str) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
    kind = kind_of(path)
    if _WANTED.get(kind):
        require_own(path)  # a link may take its place meanwhile
        attempt(os.chmod, path, 0o700)  # not every mount lets it
    if kind == "folder":
        for name in os.listdir(path):
            delete(os.path.join(path, name))
        retried(os.rmdir, path)
    elif kind:
        retried(os.unlink, path)


def flush(path: str) -> None:
    """Bring a file to the device, or the names in a folder: to flush what is in it does not (fsync(2))."""
    try:
        if not (WINDOWS and os.path.isdir(path)):  # which does that by itself, and cannot open a folder
            list(_parts(path, size=0, is_flushed=True))  # opened, not read, flushed, closed
    except FileNotFoundError:  # somebody has deleted it, and all that was in it
        pass


def flush_open(file: int) -> None:
    """Bring an open file to the device, where the mount knows how to."""
    try:
        os.fsync(file)
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where it would stay in the cache of the disk (fsync(2) there)
            attempt(fcntl.fcntl, file, fcntl.F_FULLFSYNC)  # not every mount knows it
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def stamp_of(path: str, is_flushed: bool = False) -> Stamp:
    """Digest a file, one that is large in halves, or a folder: the names, kinds and stamps of what is in it.

    `is_flushed`: bring all of it to the device as well, a small file while it is open, a large one at the same time.
    """
    status = os.lstat(path)
    kind = _kind(status)
    if kind == "link":
        return _stamp([os.fsencode(os.readlink(path))])
    if is_flushed and (missing := _WANTED.get(kind, 0) & ~status.st_mode):
        os.chmod(path, status.st_mode & 0o7777 | missing)
    if kind == "folder":
        inner = {name: stamp_of(os.path.join(path, name), is_flushed) for name in names_in(path)}
        told = [os.fsencode(f"{name}\0{kind_of(os.path.join(path, name))}\0{inner[name]}\0") for name in inner]
        size = sum(int(stamp["size"]) for stamp in inner.values())
        if is_flushed:
            flush(path)
        return {**_stamp([b"folder", *told]), "size": size}  # an empty one must not pass for an empty file
    if status.st_size < _LARGE:
        return _stamp(_parts(path, is_flushed=is_flushed))
    if is_flushed:
        return _both(lambda: stamp_of(path), lambda: flush(path))[0]
    half = status.st_size // 2
    first, second = _both(lambda: _stamp(_parts(path, 0, half)), lambda: _stamp(_parts(path, half)))
    return {"size": status.st_size, "digest": f"{first['digest']}{second['digest']}"}


def _both(first: Callable[[], T], second: Callable[[], F]) -> tuple[T, F]:
    """Call both at once, the first one in a thread: neither needs the interpreter for long."""
    found: list[T] = []
    thread = threading.Thread(target=attempt, args=[lambda: found.append(first())])
    try:
        thread.start()
    except RuntimeError:  # the interpreter shuts down, or there are too many
        return first(), second()
    try:
        other = second()
    finally:
        thread.join()
    return found[0] if found else first(), other  # what has failed fails again, here


def _stamp(parts: Iterable[bytes]) -> Stamp:
    size, digest = 0, 0
    for part in parts:
        size, digest = size + len(part), crc32(part, digest)
    return {"size": size, "digest": f"{digest:08x}"}


def now() -> str:
    """The time in UTC, as ISO 8601 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

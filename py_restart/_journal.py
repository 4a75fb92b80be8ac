"""The progress file: read it, write a record into it, flush it, let it grow, delete it.

A save overwrites a record in place. Its number is that after the save on the device, and odd numbers stand in the
first record, even ones in the second: what is on the device is not touched before the next one is there too, and still
stands where a power failure cuts a write short. Where a moment has outgrown the records, and on a mount that does not
let a file be written in place, a new file with both is written beside, flushed, and takes its place (rename(2)).

A file is closed at each flush, and opened again by the next save, which looks whether it is still ours: by the record
that was kept, since some mounts change the numbers of their files. Nothing is replaced or deleted while it is open.
"""

from __future__ import annotations

import errno
import os
import time
from binascii import crc32
from collections.abc import Callable
from time import monotonic

from . import _files
from ._errors import RestartError, failing, warn
from ._progress import LARGEST, PAGE, beside, decode, encode, files_of, first_line
from ._typing import Moment

FLUSH_SECONDS = 1.0  # a power failure costs at most the items of so long
_MOST = 1 << 28  # bytes that are read: no progress file comes to that, but the path may be that of something else
_APPEAR_SECONDS = 1.0  # how long a file that was replaced just now may not be readable (rclone)

behind: dict[str, Journal] = {}  # of finished loops, not flushed yet: whoever flushes next takes them along
_files.at_fork(behind.clear)


class Teller:
    """What saves the position of one loop at a boundary: one small write to an open file.

    The journal hands it the file, and what is fixed of the record. Without one, and once a second, `tell` does it all.
    """

    def __init__(self, tell: Callable[[Teller, int], None]) -> None:
        self.tell = tell
        self.file, self.tail, self.at, self.due = -1, b"%d%d", 0, 0.0

    def write(self, position: int) -> None:
        """Save the position. Nothing can come between taking the file and writing to it: no call is in the line."""
        try:
            data = self.tail % (position, position)
            if self.file >= 0 and _files.pwrite(self.file, data, self.at) == len(data) and monotonic() <= self.due:
                return
        except OSError as error:  # there is no file, or it fails: in full, it says why
            is_deeper = getattr(error.__traceback__, "tb_next", None) is not None
            if error.errno is None or (isinstance(error, TimeoutError) and is_deeper):
                raise  # not of the system: a handler has raised it, as for a time limit
        self.tell(self, position)


class Journal:
    """A progress file that this process has locked. `path` is absolute, `name` the same as the user gave it."""

    def __init__(self, path: str, name: str) -> None:
        self._teller: Teller | None = None
        self._file = -1
        self.path, self.name = path, name
        self.folder, self._staged = _files.folder_of(path), beside(path, path, "new")
        self._due = monotonic() + FLUSH_SECONDS
        self.mounts: dict[str, str] = {}  # by folder in which something is saved: where its file system is mounted
        self.age = 0.0  # seconds since the last save, when it was read
        self._forget()

    def _forget(self) -> None:
        self.newest: Moment | None = None  # what counts
        self.other: Moment | None = None  # what was there before
        self._lines: list[bytes | None] = [None, None, None]  # the first line and the two records, as far as is known
        self._size = 0  # of a line
        self._durable = 0  # the number of the save on the device; 0: none is; below 0: perhaps that one, or its name

    def read(self) -> None:
        self.mounts[self.folder] = _files.mount_of(self.folder)
        _files.delete(self._staged)  # what a kill has left of a file that was to be put in place
        data = self._bytes()
        if data is None:
            return
        if not data.strip(b"\0"):
            self._lines[0] = b""
            return warn(f"{self.name}: empty, as a power failure may leave it; it counts as no save")
        try:
            self._size, lines, moments = decode(data, self.folder)
        except ValueError as error:
            raise RestartError(f"{self.name}: {error}; move it away, or give another path") from None
        self.age = time.time() - os.stat(self.path).st_mtime
        self._lines, self.newest, self.other = [*lines], moments[0], moments[-1]
        self._durable = -self.newest["save"]

    def _bytes(self) -> bytes | None:
        give_up = monotonic() + _APPEAR_SECONDS
        while True:
            try:
                return _files.read(self.path, _MOST)  # to ask first would not tell why it seems not to be there
            except FileNotFoundError:
                if not os.access(self.path, os.F_OK) or monotonic() > give_up:
                    return None
                time.sleep(0.01)

    @property
    def number(self) -> int:
        """The number of the save that counts; 0 where there is none."""
        return self.newest["save"] if self.newest else 0

    @property
    def way_out(self) -> str:
        return f"to start afresh delete {self.files}"

    @property
    def files(self) -> str:
        """The names of all files that would go."""
        return " and ".join([self.name, *files_of(self.newest)])

    def is_here(self) -> bool:
        """Whether the file is where it was; raise where something else is there, or another folder."""
        data = self._bytes()
        if data is None:
            self.require_mount(self.folder, self.name)
        elif not self._is_ours(data):
            what = "replaced by somebody else, or saved by another counter"
            raise RestartError(f"{self.name}: {what}; make a new counter to use that, or move it away")
        return data is not None

    def require_mount(self, folder: str, name: str) -> None:
        """Raise where a folder was on a mount that is not there now: what is made in it would be hidden later."""
        if os.path.lexists(folder) and _files.mount_of(folder) != self.mounts[folder]:
            raise RestartError(f"{name}: its folder is not what it was; mount it again and run again")

    def _is_ours(self, data: bytes) -> bool:
        """Whether a file that says this is ours, as far as is known."""
        if not self._lines[0]:
            return not data.strip(b"\0")
        return all(line is None or data.startswith(line, at * self._size) for at, line in enumerate(self._lines))

    def write(self, moment: Moment, told: Moment, teller: Teller | None, flush: bool, close: bool) -> None:
        """Write a record: the moment counts from now on. `flush`: even where the last flush is not over a second old.

        `told` is the loop in it that tells its position; `teller` writes further ones, until another record or `close`.
        """
        self.stop_telling()
        is_due, failure = flush or monotonic() > self._due, None
        if is_due:
            self.close()  # and look whether it is still there and ours
        for journal in list(behind.values()) if is_due else ():  # no later loop looks done before an earlier one
            try:
                with failing(f"{journal.name}: could not be saved", "mend that and run again"):
                    journal.flush()
                behind.pop(journal.path, None)
            except RestartError as raised:  # it is theirs, and it is tried again
                failure = raised
        if flush or self._durable < 0:
            self.flush()  # so that the record before stands, and is not the one that is overwritten
        save = abs(self._durable) + 1
        record = {"save": save, "written": _files.now(), "process": os.getpid(), "host": _files.HOST, **moment}
        line = self._lines[0] or first_line(os.urandom(8).hex().encode())
        head, tail, size = encode(record, record if told is moment else told, self.folder, crc32(line))
        data = head + tail % (told["position"], told["position"])
        slot = 2 - save % 2
        is_due = self._place(record, slot, line, data, size, is_due)
        if is_due:
            self.flush(is_written=True)
        at = slot * self._size + len(head)
        is_in_page = at // PAGE == (at + len(tail % (LARGEST, LARGEST))) // PAGE  # else a kill may cut it short
        if close or is_due:
            self.close()
        elif teller and is_in_page and (self._file >= 0 or self._write_in_place(slot, data)):
            self._teller, self._lines[slot] = teller, None
            teller.tail, teller.at, teller.due = tail, at, self._due
            teller.file = self._file
        if failure is not None:
            raise failure

    def _place(self, record: Moment, slot: int, line: bytes, data: bytes, size: int, is_due: bool) -> bool:
        """Bring a record into the file, or into a new one in its place; return whether it has to be flushed."""
        try:
            # A kill may cut a larger one short: then the one before counts, which has to be the last that was saved.
            is_in_place = size <= self._size and (size <= PAGE or self.number == self._durable)
            is_in_place = is_in_place and self._write_in_place(slot, data)
            if not is_in_place:
                is_due = is_due or bool(self._lines[0])
                self._write_anew(slot, line, data, max(size, self._size), is_due)
                self._durable = -record["save"] if is_due else 0
            self._count(record, slot, flush=is_due and is_in_place)
            return is_due
        except BaseException as raised:
            if getattr(raised, "errno", None) is None and not isinstance(raised, RestartError):
                self._forget()  # raised by another thread, a debugger, for want of memory: it may be there already
                self.read()
            raise

    def _write_in_place(self, slot: int, data: bytes) -> bool:
        """Overwrite a record; return False where the file has gone, is not ours, or cannot be written in place."""
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDWR | _files.PLAIN)
                os.lseek(self._file, 0, os.SEEK_SET)  # what is there now may be a pipe: that fails, and holds nobody up
                if not self._is_ours(os.read(self._file, 3 * self._size)):
                    raise FileNotFoundError
            self._put(slot, data)
            return True
        except OSError:
            _files.attempt(self.close)
            return False

    def _count(self, record: Moment, slot: int, flush: bool) -> None:
        """From now on, this record counts. Where it cannot be flushed nobody can tell: so let the one before count."""
        former = self.newest, self.other
        is_kept = 0 < self.number < record["save"]  # it has not been overwritten
        self.newest, self.other = record, self.newest if is_kept else self.other
        try:
            if flush:
                _files.flush_open(self._file)
        except OSError:
            if is_kept:
                self._put(slot, b"")  # where that fails as well, it stands, and counts
                _files.attempt(_files.flush_open, self._file)  # before what it names goes
                self.newest, self.other = former
            raise

    def _put(self, slot: int, data: bytes) -> None:
        self._lines[slot] = None
        if _files.pwrite(self._file, data.ljust(self._size - 1) + b"\n", slot * self._size) != self._size:
            raise OSError(errno.ENOSPC, "only a part could be written")
        self._lines[slot] = data

    def _write_anew(self, slot: int, line: bytes, data: bytes, size: int, is_flushed: bool) -> None:
        """Write a file with the new record and the one before beside the old file, and put it in its place."""
        self.close()
        self.is_here()
        _files.delete(self._staged)
        lines = [line, data, data]
        lines[3 - slot] = self._lines[3 - slot] or data
        whole = b"".join(part.ljust(size - 1) + b"\n" for part in lines)
        _files.create(self._staged, lambda write: write(whole), is_flushed)
        try:
            _files.replace(self._staged, os.lstat(self._staged).st_mode, self.path, _files.look(self.path))
        except OSError:
            _files.attempt(_files.delete, self._staged)
            if self._bytes() != whole:  # else it is done, although it is said to have failed
                raise
        self._lines, self._size = [*lines], size

    def flush(self, is_written: bool = False) -> None:
        """Bring the newest record to the device, before anything is done that only it allows."""
        newest = self.newest  # another thread may remove what a finished loop has left
        if newest is not None and newest["save"] > self._durable:
            if not is_written:  # else it is there, but perhaps not the name of its file
                _files.flush(self.path)  # where somebody has deleted it, the next save writes it anew
            if self._durable <= 0:
                _files.flush(self.folder)
            self._durable, self._due = newest["save"], monotonic() + FLUSH_SECONDS

    def stop_telling(self) -> None:
        """Let the next save of a position alone come here."""
        teller, self._teller = self._teller, None
        if teller is not None:
            teller.file = -1

    def close(self) -> None:
        """Close the file, which on some mounts is what publishes it."""
        self.stop_telling()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def remove(self) -> None:
        """Delete the file; nothing belongs to its moment any more."""
        self.close()
        behind.pop(self.path, None)
        if self._lines[0] is not None and self.is_here():
            _files.retried(os.unlink, self.path)
            if self._durable or monotonic() > self._due:  # or a power failure might bring back what is done
                _files.flush(self.folder)
        self._forget()

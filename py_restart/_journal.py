"""The progress file: read it, write a record into it, flush it, let it grow, delete it.

A record overwrites the older of the two in place. The same one is overwritten until it has been flushed, then the
other: the one that is on the device is not touched before the next one is there too. Where a moment has outgrown the
records, and on a mount that does not let a file be written in place, a new file with both is written beside, flushed,
and put in place by one atomic replacement (rename(2)).

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
from ._errors import RestartError, warn
from ._progress import PAGE, Template, decode, first_line, is_begun
from ._typing import Moment

FLUSH_SECONDS = 1.0  # a power failure costs at most the items of so long
_REFUSED = (errno.ESPIPE, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # by a mount
_APPEAR_SECONDS = 1.0  # how long a file that was replaced just now may not be readable (rclone)

_behind: dict[str, Journal] = {}  # of finished loops, not flushed yet: whoever flushes next takes them along


class Teller:
    """What saves the position of one loop at a boundary: one small write to an open file.

    The journal hands it the file and all that is fixed about the record; where it has none, and once a second, `tell`
    does it in full.
    """

    def __init__(self, tell: Callable[[Teller, int], None]) -> None:
        self.tell = tell
        self.file, self.tail, self.at, self.due = -1, b"%d%d", 0, 0.0

    def write(self, position: int) -> None:
        """Save the position. Nothing can come between taking the file and writing to it: no call is in the line."""
        try:
            data = self.tail % (position, position)
            is_told = _files.pwrite(self.file, data, self.at) == len(data) and monotonic() <= self.due
        except OSError:  # there is no file, or it fails: in full, it says why
            is_told = False
        if not is_told:
            self.tell(self, position)


class Journal:
    """A progress file that this process has locked.

    Args:
        path: The progress file, absolute.
        name: The same as the user gave it, for messages.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path, self._name = path, name
        self.folder, base = os.path.split(path)
        self._staged = os.path.join(self.folder, f".{base}.new")
        self.newest: Moment | None = None  # what counts
        self.other: Moment | None = None  # what was there before
        self._teller: Teller | None = None
        self._file = -1
        self._forget()
        self._due = monotonic() + FLUSH_SECONDS
        self._device = 0
        self.age = 0.0  # seconds since the last save, when it was read
        self._read()

    def _forget(self) -> None:
        self._line = b""  # the first line; none: there is no file of ours
        self._size = 0  # of a line
        self._records: list[bytes | None] = [None, None]  # what stands in them, as far as is known
        self._last = 0  # which of them is the newest
        self._is_flushed = False  # whether that is on the device
        self._is_named = False  # whether the name of the file is
        self._is_read = self._is_empty = self._is_refused = False
        self.newest = self.other = None

    def _read(self) -> None:
        """Take up what is there."""
        self._device = os.stat(self.folder).st_dev
        self._clear_staged()
        data = self._bytes()
        if data is None:
            return
        if not data.strip(b"\0"):
            self._is_empty = True
            warn(f"{self._name}: empty, as a power failure may leave it; it counts as no save")
            return
        try:
            progress = decode(data, self.folder)
        except ValueError as error:
            raise RestartError(f"{self._name}: {error}; move it away, or give another path") from None
        self._line, self._size = progress.line, progress.size
        for slot, record in zip(progress.slots, progress.records, strict=True):
            self._records[slot] = record
        self._last, self._is_named, self._is_read = progress.slots[0], True, True
        self.age = time.time() - os.stat(self.path).st_mtime
        self.newest, self.other = (*progress.moments, None)[:2]

    def _bytes(self) -> bytes | None:
        give_up = monotonic() + _APPEAR_SECONDS
        while True:
            try:
                return _files.read(self.path)
            except FileNotFoundError:
                if not os.path.lexists(self.path) or monotonic() > give_up:
                    return None
                time.sleep(0.01)

    def _clear_staged(self) -> None:
        """Delete what a kill has left of a file that was to be put in place; nothing else that has that name."""
        if os.path.lexists(self._staged):
            if not os.path.isfile(self._staged) or not is_begun(_files.read(self._staged)):
                raise RestartError(f"{self._name}: {self._staged} is in the way, and not of py_restart; move it away")
            os.unlink(self._staged)

    def require_mounted(self) -> None:
        """Raise where the folder is another one than it was: what is made there now would be hidden later."""
        try:
            is_other = os.stat(self.folder).st_dev != self._device
        except FileNotFoundError:  # deleted, with all that was in it
            return
        if is_other:
            raise RestartError(f"{self._name}: its folder is not what it was; mount it again and run again")

    def is_here(self) -> bool:
        """Whether the file is where it was; raise where something else is there, or the folder has gone."""
        data = self._bytes()
        if data is None:
            self.require_mounted()
            return False
        parts = [(0, self._line), *(((1 + slot) * self._size, record) for slot, record in enumerate(self._records))]
        if any(part is not None and data[at : at + len(part)] != part for at, part in parts) or (
            not self._line and data.strip(b"\0")
        ):
            raise RestartError(f"{self._name}: replaced by somebody else while in use; move that away and run again")
        return True

    # Writing.

    def write(
        self, moment: Moment, told: Moment, teller: Teller | None = None, flush: bool = False, close: bool = False
    ) -> None:
        """Write a record: the moment counts from now on.

        Args:
            moment: What to write; nothing that it names need be in its place yet.
            told: Which of the loops in it tells its position.
            teller: What writes further positions of that loop, until another record is written or the file closed.
            flush: Bring it to the device now, or take it back. Else only where the last flush is over a second old.
            close: Close the file.
        """
        self.stop_telling()
        is_due = flush or monotonic() > self._due
        if is_due:
            self.close()  # and look whether it is still there and ours
        save = self.newest["save"] + 1 if self.newest else 1
        about = {"save": save, "written": _files.now(), "process": os.getpid(), "host": _files.host_name()}
        record = {**about, **moment}  # what stands last is written most often
        line = self._line or first_line(os.urandom(8).hex())
        template = Template(record, record if told is moment else told, self.folder, crc32(line))
        moment = record
        if not (template.size <= self._size <= PAGE and self._write_in_place(template, moment)):
            self._write_anew(template, moment, line, is_due)
        elif is_due:
            self._flush_or_take_back(flush)
        if close or is_due:
            self.close()
        elif teller is not None and self._file >= 0:
            self._teller, self._records[self._last] = teller, None
            teller.tail, teller.due = template.tail, self._due
            teller.at = (1 + self._last) * self._size + len(template.head)
            teller.file = self._file

    def _write_in_place(self, template: Template, moment: Moment) -> bool:
        """Overwrite a record; return False where the file has gone, or cannot be written in place."""
        if self._is_refused or (self._file < 0 and not self.is_here()):
            return False
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDWR | _files.PLAIN)
            if not self._is_flushed and self._is_read:
                self._flush()  # what was read, before the other record is overwritten
            self._is_read = False
            slot = 1 - self._last if self._is_flushed else self._last
            self._before = slot, self._records[slot], (self._last, self._is_flushed, self.newest, self.other)
            self._records[slot] = None
            record = template.record()
            self._put(slot, record)
        except OSError as error:
            self._is_refused = error.errno in _REFUSED
            self.let_go()
            return False
        if slot != self._last:
            self.other = self.newest
        self._records[slot], self._last, self._is_flushed, self.newest = record, slot, False, moment
        return True

    def _put(self, slot: int, record: bytes) -> None:
        _files.write_at(self._file, record.ljust(self._size - 1) + b"\n", (1 + slot) * self._size)

    def _flush_or_take_back(self, takes_back: bool) -> None:
        """Flush the newest record. Where that fails nobody can tell whether it counts: so let the one before count."""
        try:
            self._flush()
        except OSError:
            slot, former, before = self._before
            if takes_back and (former or slot != before[0]):
                self._put(slot, former or b"")
                self._records[slot] = former
                self._last, self._is_flushed, self.newest, self.other = before
            raise

    def _write_anew(self, template: Template, moment: Moment, line: bytes, is_due: bool) -> None:
        """Write a file with the new record and the one before beside the old file, and put it in its place."""
        self.close()
        self.is_here()
        size = max(template.size, self._size)
        record, is_flushed = template.record(), is_due or bool(self._line)
        kept = self._records[self._last] or self._records[1 - self._last] or record
        image = b"".join(part.ljust(size - 1) + b"\n" for part in (line, record, kept))
        self._clear_staged()
        try:
            _files.create(self._staged, image, is_flushed)
            _files.replace(self._staged, self.path)
        except BaseException:
            _files.clear(self._staged)
            raise
        self._line, self._size, self._records = line, size, [record, kept]
        self._last, self._is_flushed, self._is_named = 0, is_flushed, False
        self.newest, self.other = moment, self.newest
        self._is_read = False
        if is_flushed:
            self._flush_name()

    def _flush_name(self) -> None:
        """Bring the name of the file to the device, and what finished loops have left behind."""
        if not self._is_named:
            _files.flush_folder(self.folder)
            self._is_named = True
        self._due = monotonic() + FLUSH_SECONDS
        while _behind:
            try:
                _behind.popitem()[1].flush()
            except FileNotFoundError:  # somebody has deleted it
                pass

    def _flush(self) -> None:
        _files.flush_open(self._file)
        self._is_flushed = True
        self._flush_name()

    def flush(self) -> None:
        """Bring the newest record to the device, before anything is done that only it allows."""
        if not self._is_flushed and self.newest is not None:
            self._is_flushed = True
            _files.flush(self.path)
            self._flush_name()

    def leave_behind(self) -> None:
        """Let whoever flushes next flush this one too: its loop is finished, and its file closed."""
        if not self._is_flushed and self.newest is not None:
            _behind[self.path] = self

    # The end.

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

    def let_go(self) -> None:
        """Close the file, whatever it says."""
        try:
            self.close()
        except OSError:
            pass

    def __del__(self) -> None:
        self.let_go()

    def remove(self) -> None:
        """Delete the file; nothing belongs to its moment any more."""
        self.close()
        _behind.pop(self.path, None)
        if (self._line or self._is_empty) and self.is_here():
            os.unlink(self.path)
            if self._is_named:  # or a power failure might bring back what is done
                _files.flush_folder(self.folder)
        self._forget()


@_files.at_fork
def _after_fork() -> None:
    _behind.clear()

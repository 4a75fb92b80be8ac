"""The progress file as a value: header and records <-> bytes. No I/O, no clock.

    {"format": "py_restart", "version": 1, ..., "check": "5f0c4a11"}
    position 42 use 2 by process 4242 on colab check 42-5f0c4a11
    position 7 use 1 by process 3131 on colab check 7-a2b13c05

The header, one JSON object on the first line, is written once for each commit, with the whole file. After it come two
records of a fixed size. A position is saved by overwriting one of them in place, the same one until it has been
flushed, then the other: the one that is on the device is not touched before the next one is there too. A write that a
power failure cuts short damages one record, and the other still tells the position before. Within a use of the file
(a process that took it up) positions only grow, so the newest record is the one with the larger use and position.
Records start at a multiple of their size and so never straddle a page, which is what the kernel copies in one go, a
kill or not.

A check sum seals the header, and each record is sealed together with the header that it belongs to, so that no
changed bit and no cut goes unnoticed.
"""

from __future__ import annotations

import os
from binascii import crc32
from collections.abc import Callable

__all__ = [
    "RECORD_SIZE",
    "Header",
    "Progress",
    "Stamp",
    "absolute",
    "begins",
    "blank",
    "decode",
    "encode",
    "recorder",
    "relative",
]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any

RECORD_SIZE = 128
_VERSION = 1
_START = b'{"format": "py_restart", "version": '
_CHECK = b', "check": "%08x"}\n'
_VERSION_KEY = b'{"version": '


Stamp = dict[str, "int | str"]  # what tells one saved file or folder from every other: its size in bytes and its digest


class Header:
    """All that a progress file says beside the position. Paths are absolute here, relative to its folder on disk."""

    id: str  # one name for all saves of this file, part of the names of what it stages
    save: int  # the number of this commit, likewise
    loop: dict[str, Any]  # what the counter says of itself: length, finished, around, registered, inside
    files: dict[str, Stamp | None]  # what is saved; None where a name is taken but nothing was saved there yet
    before: dict[str, Stamp]  # what the save before left, to be replaced by `files`, or else removed
    inner_files: list[str]  # progress files of loops that ran inside this one, to go when it moves on
    over: bool  # the work is done, and everything is being removed
    written: str
    process: int
    host: str

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def but(self, **changes: Any) -> Header:
        """Return a header that differs in these fields."""
        return Header(**{**vars(self), **changes})


def blank(identity: str, loop: dict[str, Any]) -> Header:
    """Return the header of a progress file that holds no save."""
    who = {"written": "", "process": 0, "host": ""}
    return Header(id=identity, save=0, loop=loop, files={}, before={}, inner_files=[], over=False, **who)


def recorder(seal: int, use: int, process: int, host: str) -> Callable[[int], bytes]:
    """Return what makes the records of one use of a progress file: bytes that fill all of a record but its line end.

    The position stands in it twice, the second time with a CRC of everything else, so that one that was changed or cut
    does not match. A CRC of each record would take longer to compute and to print than the record to write.
    """
    host = "".join(letter if letter.isprintable() else "?" for letter in host)
    text = f" use {use} by process {process} on {host}".encode("ascii", "replace")[:60]
    template = b"position %%d%b check %%d-%08x" % (text.replace(b"%", b"%%"), crc32(text, seal))

    def record(position: int) -> bytes:
        return (template % (position, position)).ljust(RECORD_SIZE - 1)

    return record


def encode(header: Header, position: int, folder: str) -> tuple[bytes, Callable[[int], bytes]]:
    """Return the bytes of a whole progress file in `folder`, and what makes further records for it."""
    import json  # here and not above: it would double the time that importing this library takes

    told_first = {"written": header.written, "process": header.process, "host": header.host, **header.loop}
    fields = {"version": _VERSION, **told_first, **vars(header)}
    del fields["loop"]
    fields = _renamed(fields, lambda path: relative(path, folder))
    text = _START + json.dumps(fields).encode()[len(_VERSION_KEY) : -1]
    text += b" " * (-len(text + _CHECK % 0) % (2 * RECORD_SIZE))
    line = text + _CHECK % crc32(text)
    record = recorder(crc32(line), 1, header.process, header.host)
    return line + 2 * (record(position) + b"\n"), record


class Progress:
    """A progress file as it was read."""

    header: Header
    position: int
    use: int  # how many processes have taken up the file
    holder: str  # the last of them: "process 4242 on colab"
    slots: tuple[int, int]  # where the records are, the older one first
    seal: int  # the check sum of the first line


def decode(data: bytes, folder: str) -> Progress:
    """Read the bytes of a progress file in `folder`.

    Raises:
        ValueError: where the bytes are no whole progress file, in words that fit behind "run.tmp: ".
    """
    import json

    line, newline, records = data.partition(b"\n")
    if not data:
        raise ValueError("empty, no progress file")
    if not line.startswith(_START):
        cut = _START.startswith(line) and not newline
        raise ValueError(f"cut short ({len(data)} bytes)" if cut else "not a progress file of py_restart")
    if not newline:
        raise ValueError(f"cut short ({len(data)} bytes)")
    version = line[len(_START) :].partition(b",")[0]
    if version.isdigit() and int(version) > _VERSION:
        raise ValueError(f"written by a newer py_restart (format {int(version)}, this one reads {_VERSION})")
    text = line[: 1 - len(_CHECK % 0)]
    if line[len(text) :] + newline != _CHECK % crc32(text):
        raise ValueError("damaged (the check sum of its first line does not match)")
    whole = len(line) + 1 + 2 * RECORD_SIZE
    if len(data) != whole:
        raise ValueError(f"{'cut short' if len(data) < whole else 'too long'} ({len(data)} of {whole} bytes)")
    seal = crc32(line + newline)
    first = len(line) + 1
    found = [(_read_record(records[at : at + RECORD_SIZE], seal), first + at) for at in (0, RECORD_SIZE)]
    (_, older), (newest, newer) = sorted(found, key=lambda record: record[0] or (0, 0, ""))
    if newest is None:
        raise ValueError("damaged (neither of its two position records is whole)")
    try:
        header = _header(json.loads(line), folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not as py_restart writes it ({type(error).__name__}: {error})") from error
    progress = Progress()
    progress.header, progress.slots, progress.seal = header, (older, newer), seal
    progress.use, progress.position, progress.holder = newest
    return progress


def begins(data: bytes) -> bool:
    """Whether bytes are the beginning of a progress file, or of one that a power failure has left without contents."""
    return data[: len(_START)] == _START[: len(data)] or not data.strip(b"\0")


def _read_record(record: bytes, seal: int) -> tuple[int, int, str] | None:
    """Return use, position and holder, or None where the record is not what would be written for them."""
    import re

    match = re.match(rb"position (\d{1,19}) use (\d{1,12}) by (process (\d{1,12}) on (.*)) check ", record)
    if match is None:
        return None
    position, use, holder, process, host = match.groups()
    again = recorder(seal, int(use), int(process), host.decode("ascii", "replace"))
    return (int(use), int(position), holder.decode()) if again(int(position)) + b"\n" == record else None


def _header(fields: dict[str, Any], folder: str) -> Header:
    """Build the header from its JSON object, the check sum of which has been verified."""
    fields = _renamed(fields, lambda path: absolute(path, folder))
    known = {name: fields.pop(name) for name in vars(blank("", {})) if name != "loop"}
    loop = {name: fields[name] for name in fields.keys() - {"format", "version", "check"}}
    return Header(loop=loop, **known)


def _renamed(fields: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return what the header says, or one of the loops inside, with another name for every path in it."""

    def all_of(paths: list[str]) -> list[str]:
        return [rename(path) for path in paths]

    def keys_of(table: dict[str, Stamp | None]) -> dict[str, Stamp | None]:
        return {rename(path): stamp for path, stamp in table.items()}

    convert: dict[str, Callable[[Any], Any]] = {
        "path": rename,
        "around": lambda places: [[rename(path), position] for path, position in places],
        "registered": all_of,
        "inside": lambda loops: [_renamed(loop, rename) for loop in loops],
        "inner_files": all_of,
        "files": keys_of,
        "before": keys_of,
    }
    return {name: convert[name](value) if name in convert else value for name, value in fields.items()}


def relative(path: str, folder: str) -> str:
    """Name `path` as seen from `folder`, so that a folder that was moved still resumes."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # another drive (Windows)
        return path


def absolute(path: str, folder: str) -> str:
    """Undo `relative`."""
    return os.path.normpath(os.path.join(folder, path))

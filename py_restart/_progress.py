"""The progress file as a value: bytes <-> moments. No I/O, no clock.

    {"format": "py_restart", "version": 2, "id": "94182a5c01d2e3f4", "check": "5f0c4a11"}
    {"save": 7, ..., "path": "job.progress", ..., "position": 42, "inside": [], "check": "5f0c4a11-42"}
    {"save": 6, ..., "path": "job.progress", ..., "position": 17, "inside": [], "check": "a2b13c05-17"}

Three lines of one size. The first never changes while the file lives; the other two are *records*, each a whole moment
by itself, or blank. The newest whole one counts, and the other tells what was there before: see `_journal`.

Each loop that runs is the last of those inside the one around it. So whichever loop tells its position, that stands
near the end of the record, and to save a position alone is to write the *tail* from there on.

A check sum seals each line; that of a record is seeded with that of the first line, which has a random part, so that
a record from a life before is never read. It leaves out the position that is told, which stands in it a second time
instead: a sum over the whole record would take longer to compute than the tail to write.
"""

import functools
import os
from binascii import crc32
from collections.abc import Callable

from ._typing import Moment, Stamp

PAGE = 4096  # bytes; what the kernel copies in one go: smaller sizes divide it, so that no record straddles two
_SMALLEST = 512
_VERSION = 2
_START = b'{"format": "py_restart", "version": '
_PLACE = '"\\u0000"'  # stands for the position that is told; no path has a NUL in it
LARGEST = (1 << 63) - 1  # what a position may come to, for the size of a record


def first_line(identity: bytes) -> bytes:
    """Return the first line of a progress file, without its padding."""
    text = _START + b'%d, "id": "%b"' % (_VERSION, identity)
    return text + b', "check": "%08x"}' % crc32(text)


def encode(moment: Moment, told: Moment, folder: str, seal: int) -> tuple[bytes, bytes, int]:
    """Return a record of which all but the position of `told` is fixed, `head + tail % (position, position)`; its size.

    The check sum of the first line seals it. On disk all paths are relative to `folder`.
    """
    import json  # here and not above: it would double the time that importing this library takes

    position, told["position"] = told["position"], "\0"  # marks the place; `told` is `moment`, or somewhere in it
    text = json.dumps(_renamed(moment, lambda path: relative(path, folder)))
    told["position"] = position
    head, _, end = text[:-1].partition(_PLACE)
    check = crc32(f"{head}{_PLACE}{end}".encode(), seal)
    tail = end.encode().replace(b"%", b"%%").join([b"%d", b', "check": "%08x-%%d"}' % check])
    length = len(head) + len(tail % (LARGEST, LARGEST))
    return head.encode(), tail, max(_SMALLEST, 1 << length.bit_length())


def decode(data: bytes, folder: str) -> tuple[int, list[bytes], list[Moment]]:
    """Read the bytes of a progress file; raise a `ValueError` where they are none, in words for behind "run.tmp: ".

    Return the size of a line, the three lines, and the moments in those records that are whole, the newest first.
    """
    if not data.startswith(_START[: len(data)]):
        raise ValueError("not a progress file of py_restart")
    line = data.partition(b"\n")[0]
    version = line[len(_START) :].partition(b",")[0]
    if version.isdigit() and int(version) != _VERSION:
        what = f"in format {int(version)}, but this py_restart reads format {_VERSION}"
        raise ValueError(f"{what} (the one that wrote it can finish the work)")
    size, line = len(line) + 1, line.rstrip(b" ")
    is_whole = size >= _SMALLEST and line == first_line(line.partition(b'"id": "')[2].partition(b'"')[0])
    records = [data[at : at + size] for at in (size, 2 * size)]
    moments = [moment for record in records if (moment := _read_record(record, folder, crc32(line)))]
    if not (is_whole and moments and len(data) == 3 * size):
        raise ValueError(f"cut short or damaged ({len(data)} bytes)")
    # Of two with the same number the second one is a copy of the first save, or of what the first one was then.
    moments.sort(key=lambda moment: moment["save"], reverse=True)
    if "removed" in moments[0] and len(moments) == 1:
        raise ValueError("damaged (the record of what is being deleted is not whole)")
    return size, [line, *(record[:-1].rstrip() for record in records)], moments


def files_of(moment: Moment | None) -> dict[str, Stamp]:
    """Return all files that belong to a moment, with their sizes and digests."""
    if moment is None:
        return {}
    files = dict(moment["files"])
    for inner in moment["inside"]:
        files.update(files_of(inner))
    return files


def _read_record(record: bytes, folder: str, seal: int) -> Moment | None:
    """Return the moment that a record tells, or None where it is blank or damaged."""
    import json
    import re

    match = re.fullmatch(rb'(.*), "check": "([0-9a-f]{8})-(\d{1,19})"} *\n', record)
    if match is None:
        return None
    text, check, position = match.groups()
    for told in re.finditer(b'(?<="position": )%b(?=,)' % position, text):
        if crc32(text[: told.start()] + _PLACE.encode() + text[told.end() :], seal) == int(check, 16):
            moment: Moment = json.loads(text + b"}")
            return _renamed(moment, lambda path: os.path.normpath(os.path.join(folder, path)))
    return None


def _renamed(moment: Moment, rename: Callable[[str], str]) -> Moment:
    """Return the moment with another name for each path in it."""
    inside = [_renamed(inner, rename) for inner in moment["inside"]]
    files = {rename(path): stamp for path, stamp in moment["files"].items()}
    return {**moment, "path": rename(moment["path"]), "files": files, "inside": inside}


def relative(path: str, folder: str) -> str:
    """Name `path` as seen from `folder`, so that a folder that was moved still resumes, on another system as well."""
    try:
        name = path[len(folder) + 1 :] if path.startswith(folder + os.sep) else os.path.relpath(path, folder)
    except ValueError:  # another drive (Windows)
        name = path
    return name.replace(os.sep, "/")  # which Windows reads, too


@functools.lru_cache
def beside(progress: str, path: str, kind: str) -> str:
    """Return the hidden name of that kind beside `path`, with a mark made of where the progress file is."""
    folder, base = os.path.split(path)
    return os.path.join(folder, f".{base}.{crc32(os.fsencode(relative(progress, folder))):08x}-{kind}")

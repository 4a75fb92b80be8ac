"""The progress file as a value: bytes in, bytes out."""

import json
import os
import random
import string
from binascii import crc32

import pytest

from py_restart._progress import RECORD_SIZE, absolute, blank, decode, encode, recorder, relative

FOLDER = os.path.join(os.path.abspath(os.sep), "jobs")


def inside(*names):
    """Return the absolute path of something in the folder."""
    return os.path.join(FOLDER, *names)


def described(outer, registered, *loops):
    """Return what a header says of a loop."""
    return {"finished": False, "length": 9, "around": [[outer, 3]], "registered": [registered], "inside": [*loops]}


INNER = {"path": inside("in.tmp"), "position": 2, **described(inside("run.tmp"), inside("deep", "model"))}
LOOP = described(os.path.join(os.path.dirname(FOLDER), "outer.tmp"), inside("sum.pickle"), INNER)


def made(position=7, **fields):
    """Return a header, its bytes, and what makes further records."""
    header = blank("5f0c4a11", LOOP).but(
        save=3,
        files={
            os.path.join(FOLDER, "sum.pickle"): {"size": 12, "digest": "ab" * 16},
            os.path.join(FOLDER, "new"): None,
        },
        before={os.path.join(FOLDER, "sum.pickle"): {"size": 11, "digest": "cd" * 16}},
        inner_files=[os.path.join(FOLDER, "deep", "inner.tmp")],
        written="2026-01-02T03:04:05Z",
        process=4242,
        host="colab",
        **fields,
    )
    data, record = encode(header, position, FOLDER)
    return header, data, record


def over(data, slot, record):
    """Overwrite one of the two records."""
    at = len(data) - (2 - slot) * RECORD_SIZE
    return data[:at] + record + data[at + len(record) :]


def test_what_is_written_is_what_is_read():
    """Every field of the header, the position, and who uses the file."""
    header, data, _ = made()
    progress = decode(data, FOLDER)
    assert vars(progress.header) == vars(header)
    assert (progress.position, progress.use, progress.holder) == (7, 1, "process 4242 on colab")


def test_the_first_line_is_one_json_object():
    """With the format's name and version, and all that `cat` should show a person."""
    _, data, _ = made()
    line = json.loads(data.splitlines()[0])
    assert (line["format"], line["version"]) == ("py_restart", 1)
    assert line["length"] == 9 and line["finished"] is False
    assert (line["written"], line["process"], line["host"]) == ("2026-01-02T03:04:05Z", 4242, "colab")
    assert line["files"] == {"sum.pickle": {"size": 12, "digest": "ab" * 16}, "new": None}


def test_it_is_plain_text_with_two_records_of_a_fixed_size():
    """However long the loop: the position takes no more room."""
    data = made(0)[1]
    assert data.isascii() and set(data.decode()) <= set(string.printable)
    assert len(data.splitlines()) == 3
    assert [len(line) + 1 for line in data.splitlines()[1:]] == [RECORD_SIZE, RECORD_SIZE]
    assert {len(made(position)[1]) for position in (0, 1, 10**3, 10**12, 10**23)} == {len(data)}


def test_records_do_not_straddle_a_page():
    """The kernel copies a page in one go: each begins at a multiple of its size, which divides that of a page."""
    assert 4096 % RECORD_SIZE == 0
    for n in range(300):
        data, _ = encode(blank("x" * n, LOOP), 0, FOLDER)
        assert len(data) % RECORD_SIZE == 0


@pytest.mark.parametrize("slot", [0, 1])
def test_the_newest_record_counts(slot):
    """A position is saved by overwriting one record in place; which one makes no difference."""
    _, data, record = made(7)
    progress = decode(over(data, slot, record(8)), FOLDER)
    assert progress.position == 8
    assert progress.slots[1] == len(data) - (2 - slot) * RECORD_SIZE


@pytest.mark.parametrize("slot", [0, 1])
def test_a_record_that_was_cut_short_leaves_the_one_before(slot):
    """A power failure in the middle of a write damages one record alone."""
    _, data, record = made(7)
    new = record(123456789)
    old = data[-RECORD_SIZE:]
    for length in range(1, len(new)):
        assert decode(over(data, slot, new[:length]), FOLDER).position == (123456789 if new[length:].isspace() else 7)
        torn = new[:length] + bytes(RECORD_SIZE - length)
        assert decode(over(data, slot, torn), FOLDER).position == 7
    assert old == data[-RECORD_SIZE:]


def test_the_record_of_a_later_use_counts_whatever_its_position():
    """Positions only grow within one use of the file; a process that took it up may stand before."""
    _, data, record = made(7)
    seal = decode(data, FOLDER).seal
    later = recorder(seal, 2, 99, "elsewhere")
    progress = decode(over(over(data, 0, record(9)), 1, later(8)), FOLDER)
    assert (progress.position, progress.use, progress.holder) == (8, 2, "process 99 on elsewhere")


def test_two_damaged_records_are_an_error():
    """No position is made up."""
    data = made()[1]
    data = over(over(data, 0, b"?"), 1, b"?")
    with pytest.raises(ValueError, match=r"damaged \(neither of its two position records is whole\)"):
        decode(data, FOLDER)


def test_records_of_another_header_do_not_count():
    """A record is sealed together with the header that it belongs to."""
    data, other = made()[1], encode(blank("other", LOOP), 7, FOLDER)[0]
    with pytest.raises(ValueError, match="neither of its two position records"):
        decode(data[: -2 * RECORD_SIZE] + other[-2 * RECORD_SIZE :], FOLDER)


def test_every_cut_is_noticed():
    """A file that lacks a byte, or has one too many, is never read."""
    data = made()[1]
    for length in range(len(data)):
        with pytest.raises(ValueError, match="empty|cut short"):
            decode(data[:length], FOLDER)
    with pytest.raises(ValueError, match=r"too long \(\d+ of \d+ bytes\)"):
        decode(data + b"\n", FOLDER)


def test_every_changed_byte_is_noticed_or_changes_nothing():
    """One wrong byte is an error, or damages one of the two records; what is read is what was written."""
    header, data, record = made(7)
    data = over(data, 0, record(8))
    numbers = random.Random(1)
    for at in range(len(data)):
        for byte in (data[at] ^ 1, data[at] ^ 128, numbers.randrange(256)):
            changed = data[:at] + bytes([byte]) + data[at + 1 :]
            try:
                progress = decode(changed, FOLDER)
            except ValueError:
                assert at < len(data) - 2 * RECORD_SIZE
            else:
                assert vars(progress.header) == vars(header)
                assert progress.position in ((8,) if changed == data else (7, 8))


def test_garbage_is_an_error_and_no_other_than_a_value_error():
    """Parse it or raise the one error: whatever the bytes."""
    numbers = random.Random(2)
    data = made()[1]
    for _ in range(500):
        parts = [
            data[numbers.randrange(len(data)) :][: numbers.randrange(400)],
            numbers.randbytes(numbers.randrange(99)),
        ]
        numbers.shuffle(parts)
        with pytest.raises(ValueError, match="progress file|cut short|damaged|newer|too long"):
            decode(b"".join(parts), FOLDER)


def test_somebody_elses_file_is_told_from_a_cut_one():
    """The words are for a person who wonders what to do."""
    for data in (b"mine", b"{}\n", b'{"format": "py_restarts"}\n', b"\0" * 1000):
        with pytest.raises(ValueError, match="not a progress file of py_restart"):
            decode(data, FOLDER)
    with pytest.raises(ValueError, match="empty, no progress file"):
        decode(b"", FOLDER)


def test_a_newer_format_is_named():
    """A later version's file is not called damaged."""
    data = made()[1].replace(b'"version": 1,', b'"version": 12,', 1)
    with pytest.raises(ValueError, match=r"written by a newer py_restart \(format 12, this one reads 1\)"):
        decode(data, FOLDER)


def test_a_header_that_is_whole_but_strange_is_an_error():
    """A check sum that matches says that it was written so, not that it makes sense."""
    text = made()[1].split(b"\n")[0].partition(b', "check"')[0].replace(b'"save"', b'"sage"')
    line = text + b', "check": "%08x"}\n' % crc32(text)
    with pytest.raises(ValueError, match=r"not as py_restart writes it \(KeyError: 'save'\)"):
        decode(line + 2 * (recorder(crc32(line), 1, 2, "x")(3) + b"\n"), FOLDER)


def test_a_host_with_any_name_fits():
    """A long name is cut, a foreign one spelled in ASCII: the record keeps its size and is read again."""
    for host in ("", "x" * 300, "höst", "名前"):
        data, record = encode(made()[0].but(host=host), 5, FOLDER)
        assert len(record(6)) == RECORD_SIZE - 1
        assert decode(over(data, 0, record(6)), FOLDER).position == 6


def test_paths_are_relative_to_the_folder_of_the_progress_file():
    """All of them, those of loops inside too: so that a folder that was moved still resumes."""
    header, data, _ = made()
    assert FOLDER not in data.decode()
    elsewhere = os.path.join(os.path.dirname(FOLDER), "else")
    moved = json.dumps(vars(header)).replace(json.dumps(FOLDER)[1:-1], json.dumps(elsewhere)[1:-1])
    assert vars(decode(data, elsewhere).header) == json.loads(moved)
    outside = os.path.join(os.path.abspath(os.sep), "data", "x")
    assert relative(outside, FOLDER) == os.path.join("..", "data", "x")
    assert absolute(relative(outside, FOLDER), FOLDER) == outside


def test_a_path_on_another_drive_stays_absolute(monkeypatch):
    """There is no way from C: to D:."""

    def refuse(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    path = os.path.join(FOLDER, "x")
    assert absolute(relative(path, FOLDER), FOLDER) == path


@pytest.mark.parametrize("host", ["two\nlines", "100%d", "naïve", " check 7-00000000", "x" * 300, ""])
def test_any_host_name_is_read_again(host):
    """What cannot be shown is replaced."""
    header = blank("5f0c4a11", LOOP).but(host=host)
    data, record = encode(header, 3, FOLDER)
    assert decode(data, FOLDER).position == 3
    assert decode(over(data, 1, record(4)), FOLDER).position == 4

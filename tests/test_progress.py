"""The progress file as a value: what is in it, and what is read of it after any damage. Through files on disk."""

import contextlib
import datetime
import json
import ntpath
import os
import random
import re
import string
import sys
from binascii import crc32
from pathlib import Path

import pytest

from py_restart import RestartError, _files, _progress, enable_counter, multi_count, simple_counter

FIRST_LINE = {"format", "version", "id", "check"}
LOOP = {"path", "position", "length", "first", "finished", "files", "inside"}
RECORD = {"save", *LOOP, "removed", "written", "process", "host", "check"}


VERSION_1 = b"".join(  # as version 1.0.0 wrote it
    [
        b'{"format": "py_restart", "version": 1, "written": "2026-01-25T18:38:11Z", "process": 12817, "host": "pc", ',
        b'"finished": false, "length": 9, "around": [], "registered": [], "inside": [], "id": "538c5363", "save": 1, ',
        b'"files": {}, "before": {}, "inner_files": [], "over": false, "check": "12f955a4"}\n',
        2 * (b"position 3 use 1 by process 12817 on laptop check 3-e435ea4a".ljust(127) + b"\n"),
    ]
)


class Stop(Exception):
    """How a job is interrupted."""


def stopped_at(*positions, path="run", length=9):
    """Stop a loop at each of these positions in turn: each is a record of its own."""
    for position in positions:
        with contextlib.suppress(Stop), enable_counter(path) as counter:
            for item in counter(range(length)):
                if item == position:
                    raise Stop
    return Path(path).read_bytes()


def lines_of(data):
    """Return the three lines, their ends included."""
    return data.splitlines(keepends=True)


def records_of(data):
    """Return the two records, None for a blank one."""
    return [json.loads(line) if line.strip() else None for line in lines_of(data)[1:]]


def newest_of(data):
    """Return the number of the line of the newest record."""
    records = records_of(data)
    return 1 + max(range(2), key=lambda n: age_of(records[n]) if records[n] else (-1, -1))


def age_of(record):
    """Return the number of the save, and the position that is told."""
    return record["save"], int(record["check"].partition("-")[2])


def start_with(data, path="run"):
    """Return the position at which a start with this file would begin; whatever it does, it leaves the file alone."""
    Path(path).write_bytes(data)
    try:
        return enable_counter(path).position
    finally:
        assert Path(path).read_bytes() == data


def test_it_is_three_lines_of_one_size(folder):
    """A first line and two records, one JSON object a line, padded by blanks."""
    data = stopped_at(3)
    lines = lines_of(data)
    assert len(lines) == 3 and {len(line) for line in lines} == {512}
    assert data.isascii() and set(data.decode()) <= set(string.printable)
    assert set(json.loads(lines[0])) == FIRST_LINE
    first, second = records_of(data)
    assert first == second  # the first save is there twice: one that is cut short leaves the other
    assert all(record for record in records_of(stopped_at(5)))


def test_the_first_line_says_what_it_is(folder):
    """The format, its version, and an id that is another one each time that the file begins anew."""
    ids = set()
    for _ in range(3):
        first = json.loads(lines_of(stopped_at(3))[0])
        assert (first["format"], first["version"]) == ("py_restart", 2)
        assert re.fullmatch("[0-9a-f]{16}", first["id"])
        ids.add(first["id"])
        enable_counter("run").remove_files()
    assert len(ids) == 3


def test_the_first_line_never_changes(folder):
    """Whatever is saved after it, by whatever process."""
    before = lines_of(stopped_at(3))[0]
    assert lines_of(stopped_at(4, 7, 8))[0] == before


def test_a_record_is_a_whole_moment_by_itself(folder, moment):
    """All that a person wants to know, and all that the next start needs."""
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    with pytest.raises(Stop), enable_counter("run") as counter:
        _kept = counter.save_load_object([1, 2], "sum.pickle")
        for i in counter(range(6)):
            if i == 3:
                with enable_counter("deep.progress") as inner:
                    _kept = inner.save_load_object("inner", "inner.pickle")
                    for j in inner("abcd"):
                        if j == "c":
                            raise Stop
    record = moment()
    assert {*record, "removed"} == RECORD
    assert (record["path"], record["position"], record["length"], record["finished"]) == ("run", 3, 6, False)
    assert (record["process"], record["host"]) == (os.getpid(), os.uname().nodename)
    assert not record.get("removed")
    written = datetime.datetime.strptime(record["written"], "%Y-%m-%dT%H:%M:%S%z")
    assert before <= written <= datetime.datetime.now(datetime.UTC)
    data = Path("sum.pickle").read_bytes()
    assert record["files"] == {"sum.pickle": {"size": len(data), "digest": f"{crc32(data):08x}"}}
    (inside,) = record["inside"]
    assert set(inside) == LOOP
    assert (inside["path"], inside["position"], inside["length"], inside["inside"]) == ("deep.progress", 2, 4, [])
    data = Path("inner.pickle").read_bytes()
    assert inside["files"] == {"inner.pickle": {"size": len(data), "digest": f"{crc32(data):08x}"}}


def test_no_contents_are_in_it(folder):
    """The first item is known by a check sum alone."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        for _ in counter(["secret", 2]):
            raise Stop
    data = Path("run").read_bytes()
    assert b"secret" not in data
    assert re.fullmatch("[0-9a-f]{8}", records_of(data)[newest_of(data) - 1]["first"])


def test_a_loop_that_is_exhausted_is_marked_as_finished(folder, moment):
    """In a block, and behind a loop whose block goes on."""
    with multi_count():
        for _ in simple_counter("run", range(4)):
            pass
        assert (moment()["position"], moment()["finished"]) == (4, True)


def test_the_number_of_the_save_grows(folder, moment):
    """Records are ordered by it, over all runs: not by the position, nor by the time."""
    numbers = []
    for position in (3, 4, 8):
        stopped_at(position)
        numbers.append(moment()["save"])
    assert numbers == sorted(set(numbers))


def test_its_size_is_the_same_however_long_the_loop(folder):
    """The position takes no more room."""
    sizes = {len(stopped_at(1, path=f"run{length}", length=length)) for length in (2, 10**3, 10**9, 10**18)}
    assert sizes == {3 * 512}


def test_paths_are_relative_to_its_folder(folder, moment, tmp_path):
    """Also those beside and above it: what was moved together is found together."""
    os.mkdir("deep")
    with pytest.raises(Stop), enable_counter("deep/run") as counter:
        _kept = counter.save_load_object(1, "deep/a")
        _kept_too = counter.save_load_object([2], folder / "b")
        for _ in counter(range(3)):
            for _ in simple_counter(folder / "deep" / "inner", range(2)):
                counter.save()
                raise Stop
    record = moment("deep/run")
    assert (record["path"], record["inside"][0]["path"]) == ("run", "inner")
    assert set(record["files"]) == {"a", os.path.join("..", "b")}
    assert str(tmp_path).encode() not in Path("deep/run").read_bytes()


def test_a_path_in_a_folder_whose_name_begins_like_its_own_is_not_in_that(folder, moment):
    """Of two runs side by side, say."""
    os.mkdir("run1")
    os.mkdir("run10")
    for start in (0, 2):
        with contextlib.suppress(Stop), enable_counter("run1/run") as counter:
            assert counter.save_load_object([start], "run10/a") == [0]
            for i in counter(range(4)):
                if i == 2 and not start:
                    raise Stop
        if not start:
            assert set(moment("run1/run")["files"]) == {os.path.join("..", "run10", "a")}
    assert os.listdir("run1") == os.listdir("run10") == []


def test_a_path_on_another_drive_is_absolute(folder, moment, tmp_path, monkeypatch):
    """On Windows there is no way from one to the other."""

    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    place = os.path.realpath(tmp_path / "a")
    for stop_at, expected in ((2, []), (None, [0, 1])):
        with pytest.raises(Stop) if stop_at else contextlib.nullcontext(), enable_counter("run") as counter:
            seen = counter.save_load_object([], place)
            assert seen == expected
            for i in counter(range(4)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
        assert not stop_at or list(moment()["files"]) == [place]
    assert seen == [0, 1, 2, 3] and not os.path.exists(place)


def test_what_is_saved_on_windows_is_found_elsewhere(monkeypatch):
    """In a folder that both systems see, or that was copied: with slashes, which Windows reads as well."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        patch.setattr(os, "sep", "\\")
        names = [_progress.relative(path, "C:\\work") for path in ("C:\\work\\out\\a", "C:\\a\\b", "D:\\a\\b")]
        found = [ntpath.normpath(ntpath.join("C:\\work", name)) for name in names]
    assert names == ["out/a", "../a/b", "D:/a/b"]
    assert found == ["C:\\work\\out\\a", "C:\\a\\b", "D:\\a\\b"]


@pytest.mark.parametrize(
    "host", ["two\nlines", "100%d %s", "naïve", "名前", '"', "\\", " check 7-00000000", "x" * 300, ""]
)
def test_a_host_with_any_name_is_written_and_read(folder, monkeypatch, host):
    """What cannot be shown is spelled in ASCII; the record is read again."""
    monkeypatch.setattr(_files, "HOST", host)
    data = stopped_at(3, 4)
    assert data.isascii() and len(lines_of(data)) == 3
    assert json.loads(lines_of(data)[1])["host"] == host
    assert start_with(data) == 4


def test_a_record_has_room_for_any_position_however_long_it_is(folder, monkeypatch):
    """When its size is found, nobody knows how far the loop will come: not into the next record."""
    for length in range(200, 320):
        monkeypatch.setattr(_files, "HOST", "h" * length)
        path = f"run{length}"
        for i in simple_counter(path, range(200)):
            if i == 101:
                break
        data = Path(path).read_bytes()
        assert all(records_of(data))
        assert start_with(data, path) == 101


@pytest.mark.parametrize("name", ["名前.pickle", "100%d", "a\nb", '"quoted"', "back\\slash", "x" * 200])
def test_an_object_with_any_name_is_written_and_found(folder, name):
    """A record is one line of ASCII, whatever is in the name."""
    for start, position in ((1, 2), (2, 4)):
        with pytest.raises(Stop), enable_counter("run") as counter:
            value = counter.save_load_object([1], name)
            assert value == list(range(1, start + 1))
            for i in counter(range(9)):
                if i == position:
                    value.append(2)
                    raise Stop
    data = Path("run").read_bytes()
    assert data.isascii() and len(lines_of(data)) == 3


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_name_need_not_be_text(folder, left):
    """On Linux it is bytes; so is the one from which the marks of hidden names are made."""
    run, value = os.fsdecode(b"run-\xff"), os.fsdecode(b"value-\xfe")
    for start in (0, 2):
        with contextlib.suppress(Stop), enable_counter(run) as counter:
            assert counter.save_load_object([start], value) == [0]
            assert counter.position == start
            for i in counter(range(4)):
                if i == 2 and not start:
                    raise Stop
    assert left() == []


# Damage.


@pytest.mark.parametrize("byte", [1, 128, None], ids=["lowest bit", "highest bit", "any"])
def test_every_changed_byte_is_noticed_or_changes_nothing(folder, byte):
    """One wrong byte is an error, or damages one of the two records; what is read is what was written."""
    numbers = random.Random(1)
    data = stopped_at(7, 8)
    size = len(lines_of(data)[0])
    for at in range(0, len(data), 1 if byte is None else 3):
        new = bytes([data[at] ^ byte if byte else numbers.randrange(256)])
        changed = data[:at] + new + data[at + 1 :]
        try:
            position = start_with(changed)
        except RestartError as error:
            assert at < size and str(error).startswith("run: ")
        else:
            assert position in ((8,) if changed == data else (7, 8))


def test_a_record_that_was_cut_short_leaves_the_one_before(folder):
    """A power failure in the middle of a write damages one record alone."""
    data = stopped_at(7, 8)
    lines, newest = lines_of(data), newest_of(data)
    whole, older = lines[newest], lines[3 - newest]
    for length in range(0, len(whole) - 1, 5):
        for rest in (bytes(len(whole) - length), older[length:]):
            torn = [*lines]
            torn[newest] = whole[:length] + rest
            assert start_with(b"".join(torn)) == (8 if torn == lines else 7)


def test_two_damaged_records_are_an_error(folder):
    """No position is made up, and nothing is begun afresh in silence."""
    data = stopped_at(7, 8)
    size = len(data) // 3
    for wrong in (b"?", b"\0" * (size - 1), b"{}"):
        lines = [lines_of(data)[0], *2 * [wrong.ljust(size - 1) + b"\n"]]
        with pytest.raises(RestartError, match="run: .*damaged"):
            start_with(b"".join(lines))


def test_damage_to_the_newest_record_with_objects_is_an_error(folder):
    """The older moment's objects are gone: it must not be taken for the state of things."""
    for position in (3, 5):
        with pytest.raises(Stop), enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(9)):
                if i == position:
                    raise Stop
                seen.append(i)
    data = Path("run").read_bytes()
    lines, newest = lines_of(data), newest_of(data)
    lines[newest] = lines[newest].replace(b'"position": 5', b'"position": 6')
    before = Path("seen").read_bytes()
    Path("run").write_bytes(b"".join(lines))
    with pytest.raises(RestartError, match="seen: changed .*, or run was edited; put back what was saved"):
        enable_counter("run").save_load_object([], "seen")
    assert Path("seen").read_bytes() == before
    Path("run").write_bytes(data)
    assert enable_counter("run").save_load_object([], "seen") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("slot", [1, 2])
def test_a_record_of_a_life_before_is_never_read(folder, slot):
    """The file was removed and begun again: blocks of the old one may come back with a power failure."""
    old = lines_of(stopped_at(*range(1, 8)))
    enable_counter("run").remove_files()
    new = lines_of(stopped_at(1))
    for line in old[1:]:
        assert json.loads(line)["save"] > 2
        mixed = [*new]
        mixed[slot] = line
        assert start_with(b"".join(mixed)) == 1
        with pytest.raises(RestartError, match="damaged"):
            start_with(b"".join([new[0], line, line]))


def test_records_of_another_file_do_not_count(folder):
    """Each is sealed together with its first line."""
    mine, other = (lines_of(stopped_at(3, 4, path=path)) for path in ("run", "other"))
    with pytest.raises(RestartError, match="run: .*damaged"):
        start_with(b"".join([mine[0], *other[1:]]))


def test_every_cut_is_noticed(folder):
    """A file that lacks a byte, or has one too many, is never read."""
    data = stopped_at(7, 8)
    for length in [*range(1, len(data), 7), len(data) - 1]:
        with pytest.raises(RestartError, match="run: "):
            start_with(data[:length])
    with pytest.raises(RestartError, match="run: "):
        start_with(data + b"\n")


def test_a_cut_file_is_called_so(folder):
    """The words are for a person who wonders what to do."""
    data = stopped_at(7, 8)
    with pytest.raises(RestartError, match="run: cut short or damaged .1000 bytes."):
        start_with(data[:1000])


def test_garbage_is_an_error_and_no_other_than_ours(folder):
    """Parse it or raise the one error: whatever the bytes."""
    numbers, data = random.Random(2), stopped_at(7, 8)
    for _ in range(500):
        parts = [
            data[numbers.randrange(len(data)) :][: numbers.randrange(400)],
            numbers.randbytes(numbers.randrange(1, 99)),
        ]
        numbers.shuffle(parts)
        with pytest.raises(RestartError, match="run: "):
            start_with(b"".join(parts))


@pytest.mark.parametrize("data", [b"mine", b"{}\n", b'{"format": "py_restarts"}\n', b"[]\n", b"\n", b"\xff" * 1536])
def test_somebody_elses_file_is_told_from_a_cut_one(folder, data):
    """The words are for a person who wonders what to do."""
    with pytest.raises(RestartError, match="run: not a progress file of py_restart"):
        start_with(data)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * 1536], ids=["empty", "a NUL", "all NUL"])
def test_an_empty_file_counts_as_no_save(folder, data):
    """A power failure within the first second may leave it: a warning that names it, and the work begins."""
    Path("run").write_bytes(data)
    with pytest.warns(UserWarning, match="run: .*empty"):
        seen = list(simple_counter("run", range(3)))
    assert seen == [0, 1, 2]
    assert os.listdir() == []


def test_an_empty_file_goes_with_a_loop_that_has_saved_nothing(folder):
    """It is what a power failure has left of ours, and the work is done."""
    Path("run").touch()
    with pytest.warns(UserWarning, match="run: .*empty"), enable_counter("run") as counter:
        assert list(counter(range(3))) == [0, 1, 2]
    assert os.listdir() == []


def test_a_newer_format_is_named(folder):
    """A later version's file is not called damaged."""
    data = stopped_at(3).replace(b'"version": 2,', b'"version": 3,', 1)
    way_out = "(the one that wrote it can finish the work); move it away, or give another path"
    words = re.escape(f"run: in format 3, but this py_restart reads format 2 {way_out}")
    with pytest.raises(RestartError, match=words):
        start_with(data)


def test_a_file_of_version_1_is_refused_by_name(folder):
    """What to do with it is said, and it stays as it is."""
    data = VERSION_1
    way_out = "(the one that wrote it can finish the work); move it away, or give another path"
    words = re.escape(f"run: in format 1, but this py_restart reads format 2 {way_out}")
    with pytest.raises(RestartError, match=words):
        start_with(data)


def test_a_line_that_is_whole_but_strange_is_an_error(folder):
    """A check sum that matches says that it was written so, not that it makes sense."""
    data = stopped_at(3)
    line = lines_of(data)[0]
    stands = line.partition(b', "check"')[0]
    assert b"%08x" % crc32(stands) in line  # or this test forges nothing
    forged = stands.replace(b'"id": "', b'"ID": "')
    forged = (forged + b', "check": "%08x"}' % crc32(forged)).ljust(len(line) - 1) + b"\n"
    with pytest.raises(RestartError, match="run: "):
        start_with(data.replace(line, forged))

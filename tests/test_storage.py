"""What is on disk: the progress file, the lock, the commit in its order, recovery, removal, what is never touched.

All of it is seen from outside: in the files, and in the calls of `os` that make them.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
import weakref
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from py_restart import InUseError, RestartError, _files, enable_counter, multi_count, simple_counter

OPERATIONS = ("open", "pwrite", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
SIZES = (512, 1024, 2048, 4096)  # of a record, where it can be written in place


class Stop(Exception):
    """How a job is interrupted."""


class Kill(BaseException):
    """How a process ends in the middle of a test that goes on."""


def shown(path):
    """Name a path as it stands in the folder of the test, whatever the mark in it."""
    if isinstance(path, int):
        if path < 0:
            return ""
        path = os.readlink(f"/proc/self/fd/{path}")
    return re.sub(r"\.[0-9a-f]{8}-", ".MARK-", os.path.relpath(os.fspath(path)))


def put(setter, name, function):
    """Put a function in the place of one of `os`, also where the package has it under a name of its own.

    `setter` is `setattr`, or that of a `monkeypatch`.
    """
    real = getattr(os, name)
    for module in [os, *(module for at, module in list(sys.modules.items()) if at.startswith("py_restart"))]:
        for key, value in list(vars(module).items()):
            if value is real:
                setter(module, key, function)


@pytest.fixture
def calls(folder, monkeypatch):
    """Record the calls that change or flush files, in their order: ("fsync", name), ("replace", source) ...

    Those that fail are left out; of `open`, those that make no file; of `pwrite`, those that fill a new one.
    """
    gc.collect()  # what an earlier test left in cycles ends its own files now, not among these calls
    made = []

    def note(name, real):
        def call(target, *more, **options):
            path = shown(target)
            done = real(target, *more, **options)
            if name == "open" and more[0] & os.O_CREAT:
                made.append(("create", path))
            elif name != "open" and not (name == "pwrite" and path.startswith(".")):
                made.append((name, path))
            return done

        put(monkeypatch.setattr, name, call)

    for name in OPERATIONS:
        note(name, getattr(os, name))
    return made


def dying(number):
    """Let this process, a child, be killed at its n-th file operation from now on."""
    left = [number]

    def before(real):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in OPERATIONS:
        put(setattr, name, before(getattr(os, name)))


def in_turn(run_child, job, look, *arguments):
    """Kill a child at each file operation in turn, each in a folder of its own, and look at what is left of it.

    `job(strike, *arguments)` calls `strike` where the kills are to begin. Return what `look` has seen.
    """
    seen = []
    for number in itertools.count():
        os.mkdir(f"kill{number}")
        os.chdir(f"kill{number}")
        child = run_child(lambda tell, number=number: job(lambda: dying(number), *arguments))
        assert child.error is None and child.status in (0, -signal.SIGKILL)
        seen.append(look(*arguments))
        os.chdir("..")
        if child.status == 0:
            return seen
    raise AssertionError


def descriptors(name):
    """Return the descriptors of this process that are open at a file of this name in the folder of the test."""
    found, path = [], os.path.join(os.path.realpath(os.getcwd()), name)
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)") == path:
                found.append(int(number))
    return found


def hidden():
    """Return the hidden names in the folder, but for locks."""
    return sorted(name for name in os.listdir() if name.startswith(".") and not name.endswith(".lock"))


def counted(stop_at=None, length=9, value=None, path="run", name="a", **options):
    """Count a loop with an object, a list of the items that were done, and stop before one."""
    with enable_counter(path, **options) as counter:
        seen = counter.save_load_object([] if value is None else value, name)
        for i in counter(range(length)):
            if i == stop_at:
                raise Stop
            seen.append(i)
    return seen


def stopped(*arguments, **options):
    """Run `counted` to its stop."""
    with pytest.raises(Stop):
        counted(*arguments, **options)


def loaded(path):
    """Return the object that is saved at a path."""
    return pickle.loads(Path(path).read_bytes())


def folder_of(text):
    """Return a function that saves a folder with a text in it."""

    def save(path):
        os.makedirs(os.path.join(path, "deep"))
        Path(path, "deep", "x").write_text(text() if callable(text) else text)

    return save


def text_in(path):
    """Load what `folder_of` has saved."""
    return Path(path, "deep", "x").read_text()


def is_locked(path):
    """Whether somebody holds the lock of a file."""
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def refusing(number, name=None, source=None):
    """Return a stand-in for a call that fails, for files of one name alone where it is given."""

    def call(target, *more, **options):
        if name is None or os.path.basename(shown(target)) == name:
            raise OSError(number, os.strerror(number))
        return source(target, *more, **options)

    return call


# The write in place.


def test_the_progress_file_appears_with_the_first_save(folder, left):
    """Not with the call, and not with the loop."""
    counter = enable_counter("run", each_save=True, save_span=2)
    assert left() == [".run.lock"]
    for i in counter(range(4)):
        assert left() == [".run.lock", *["run"] * (i >= 2)]
    assert left() == []


def test_a_loop_that_saves_only_where_it_fails_makes_the_lock_alone(folder, left, calls):
    """It is one file, made and removed, and nothing is flushed."""
    with enable_counter("run") as counter:
        for _ in counter(range(3)):
            assert left() == [".run.lock"]
    assert calls == [("create", ".run.lock"), ("unlink", ".run.lock")]


def test_a_position_is_one_small_write_to_an_open_file(folder, calls, clock, position):
    """The file keeps its size and its identity; nothing is opened, flushed or replaced."""
    for i in simple_counter("run", range(500)):
        if i == 2:
            before = os.stat("run")
            calls.clear()
        if i > 2:
            assert calls == [("pwrite", "run")] and position() == i
            calls.clear()
            after = os.stat("run")
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_position_is_flushed_where_the_last_flush_is_more_than_a_second_ago(folder, calls, clock):
    """Or the start. With the save itself, not with the next one."""
    flushed = []
    for i in simple_counter("run", range(20)):
        if ("fsync", "run") in calls or ("fsync", ".run.MARK-new") in calls:
            flushed.append(i)
        calls.clear()
        clock.now += 0.25
    assert flushed in ([5, 10, 15], [4, 8, 12, 16])


def test_a_loop_that_pauses_is_flushed_at_once(folder, calls, clock):
    """An item that takes an hour is not lost for the want of a second one."""
    for i in simple_counter("run", range(4)):
        assert (("fsync", "run") in calls or ("fsync", ".run.MARK-new") in calls) is (i > 0)
        calls.clear()
        clock.now += 3600


def test_a_loop_that_is_over_within_a_second_flushes_nothing(folder, calls, clock):
    """Neither a save nor the removal at its end: nobody misses it."""
    for _ in simple_counter("run", range(100)):
        pass
    assert not [call for call in calls if call[0] == "fsync"]


@pytest.mark.parametrize("inner", [0, 2], ids=["one loop", "a loop inside"])
def test_the_record_on_the_device_is_not_touched_before_the_next_one_is_there(folder, clock, monkeypatch, inner):
    """Between two flushes one record is overwritten again and again, and the other stays as it was flushed.

    Also where the loop that tells its position is another one each time.
    """
    device, pwrite = [None], os.pwrite

    def age(line):
        record = json.loads(line) if line.strip() else {"save": -1, "check": "-0"}
        return record["save"], int(record["check"].partition("-")[2])

    def flush(file):
        if shown(file) in ("run", ".run.MARK-new"):
            device[0] = Path(f"/proc/self/fd/{file}").read_bytes().splitlines(keepends=True)

    def write(file, data, at):
        done = pwrite(file, data, at)
        if shown(file) == "run" and device[0]:
            newest = max((1, 2), key=lambda n: age(device[0][n]))
            assert Path("run").read_bytes().splitlines(keepends=True)[newest] == device[0][newest]
        return done

    monkeypatch.setattr(os, "fsync", flush)
    put(monkeypatch.setattr, "pwrite", write)
    for _ in simple_counter("run", range(100)):
        for _ in simple_counter("inner", range(inner)):
            clock.now += 0.05
        clock.now += 0.1
    assert device[0]


def test_positions_between_two_flushes_use_one_record(folder, clock):
    """The other one stays as it was flushed, and tells what was there a second ago."""
    kept = set()
    for i in simple_counter("run", range(12)):
        if i == 3:
            clock.now += 2
        if i >= 5:
            kept.add(tuple(sorted(json.loads(line)["position"] for line in Path("run").read_bytes().splitlines()[1:])))
    assert kept == {(4, i) for i in range(5, 12)}


def test_a_resume_flushes_the_record_that_it_read_before_it_overwrites_the_other(folder, calls, run_child, clock):
    """It was written by a process that was killed: it may not be on the device yet."""

    def job(tell):
        for i in simple_counter("run", range(9)):
            clock.now += 0.7
            if i == 5:
                os._exit(0)

    run_child(job)
    for _ in simple_counter("run", range(9)):
        pass
    assert ("pwrite", "run") in calls
    assert ("fsync", "run") in calls[: calls.index(("pwrite", "run"))]


def test_the_file_is_closed_at_each_flush(folder, clock):
    """Folders that publish a file when it is closed have it then; between two flushes it stays open."""
    opened = []
    for i in simple_counter("run", range(16)):
        if i > 1:
            opened.append(len(descriptors("run")))
        clock.now += 0.25
    assert opened.count(0) in (3, 4) and set(opened) == {0, 1}
    assert descriptors("run") == []


@pytest.mark.parametrize("has_object", [False, True], ids=["position", "object"])
def test_with_an_interval_the_file_is_closed_after_every_save(folder, clock, position, has_object):
    """A file that is written again and again never leaves a write-back cache."""
    counter = enable_counter("run", each_save=True, save_interval=0.5)
    if has_object:
        _kept = counter.save_load_object([], "a")
    saved = set()
    for _ in counter(range(40)):
        assert descriptors("run") == []
        saved.add(position())
        clock.now += 0.2
    assert len(saved) > 10


def test_an_object_is_saved_with_the_file_closed_in_between(folder, clock):
    """A save with objects is a flush."""
    counter = enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "a")
    for _ in counter(range(5)):
        assert descriptors("run") == descriptors("a") == []


def test_the_size_of_the_file_is_constant(folder, clock):
    """However long the loop."""
    sizes = set()
    for i in simple_counter("run", range(2000)):
        clock.now += 0.1
        if i:
            sizes.add(os.path.getsize("run"))
    assert sizes == {3 * 512}


def test_each_loop_has_its_own_time_to_flush(folder, calls, clock):
    """Inner loops that begin anew every half second do not postpone the flush of the outer one for ever."""
    flushes = []
    for _ in simple_counter("run", range(12)):
        for _ in simple_counter("inner", range(2)):
            clock.now += 0.25
            if ("fsync", "run") in calls or ("fsync", ".run.MARK-new") in calls:
                flushes.append(clock.now)
            calls.clear()
    gaps = [later - earlier for earlier, later in itertools.pairwise([1000.0, *flushes, 1006.0])]
    assert flushes and max(gaps) <= 1.5


def test_the_newest_record_counts_where_the_position_is_smaller(folder, run_child, moment):
    """An inner loop begins anew with each outer item: records are ordered by the number of the save."""

    def job(tell):
        for i in simple_counter("run", range(3)):
            for j in simple_counter("inner", range(6)):
                if (i, j) == (1, 2):
                    os._exit(0)

    run_child(job)
    assert (moment()["position"], moment()["inside"][0]["position"]) == (1, 2)
    done = []
    for i in simple_counter("run", range(3)):
        done += [(i, j) for j in simple_counter("inner", range(6))]
    assert done == [(1, j) for j in range(2, 6)] + [(2, j) for j in range(6)]


def test_a_finished_loop_in_a_block_flushes_nothing_by_itself(folder, calls, clock):
    """A thousand short loops would wait for the device a thousand times. Nor is it flushed where the block ends."""
    with multi_count():
        for n in range(3):
            for _ in simple_counter(f"run{n}", range(3)):
                pass
        assert not [call for call in calls if call[0] == "fsync"]
    assert not [call for call in calls if call[0] == "fsync"]


def test_a_finished_loop_in_a_block_is_flushed_by_whoever_flushes_next(folder, calls, clock):
    """Else the block's first loop would run again after a power failure in its last one."""
    with multi_count():
        for n in range(3):
            for _ in simple_counter(f"run{n}", range(3)):
                pass
        for i in simple_counter("last", range(3)):
            clock.now += 2
            if i == 1:
                flushed = {name for call, name in calls if call == "fsync"}
    assert {f"run{n}" for n in range(3)} <= flushed


@pytest.mark.parametrize("is_rich", [False, True])
def test_a_finished_loop_in_a_block_is_flushed_before_a_later_one(folder, calls, clock, is_rich):
    """Else a power failure in between might leave the later loop, and nothing of the earlier one."""
    with multi_count():
        for _ in simple_counter("run", range(3)):
            pass
        with enable_counter("last", each_save=True) as counter:
            _kept = counter.save_load_object([], "a") if is_rich else None
            for _ in counter(range(3)):
                clock.now += 2
    flushed = [name for call, name in calls if call == "fsync"]
    assert "run" in flushed[: flushed.index(".last.MARK-new")]


def test_a_finished_loop_whose_file_was_deleted_is_in_nobodys_way(folder, clock, position):
    """Whoever flushes next has nothing to do with it."""
    with multi_count():
        for _ in simple_counter("run", range(3)):
            pass
        os.unlink("run")
        for i in simple_counter("last", range(4)):
            clock.now += 2
            assert position("last") == (i or None)
    assert os.listdir() == []


def test_a_finished_loop_that_cannot_be_flushed_says_so_itself(folder, clock, monkeypatch, position):
    """The loop that flushes next has saved; it is tried again with each flush."""
    with multi_count():
        for _ in simple_counter("run", range(3)):
            pass
        with enable_counter("last") as counter:
            seen = counter.save_load_object([], "a")
            for i in counter(range(3)):
                seen.append(i)
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", refusing(errno.EIO, "run", os.fsync))
                    for _ in range(2):
                        with pytest.raises(RestartError, match="^run: could not be saved: Input/output error; mend"):
                            counter.save()
                        assert position("last") == i
                counter.save()
                assert loaded("a") == seen
                break


def test_a_finished_loop_that_is_removed_while_another_thread_flushes_it(folder, clock, monkeypatch, left):
    """The disk is slow, and the block ends meanwhile."""
    flushing, removed, failures = threading.Event(), threading.Event(), []

    def fsync(file):
        if shown(file) == "run" and threading.current_thread() is other:
            flushing.set()
            assert removed.wait(9)

    def flush():
        try:
            with enable_counter("last") as counter:
                for _ in counter(range(3)):
                    counter.save()
        except BaseException as failure:
            failures.append(failure)

    other = threading.Thread(target=flush)
    monkeypatch.setattr(os, "fsync", fsync)
    with multi_count():
        for _ in simple_counter("run", range(3)):
            pass
        other.start()
        assert flushing.wait(9)
    removed.set()
    other.join()
    assert (failures, left()) == ([], [])


def test_a_finished_loop_in_a_block_holds_no_descriptor_and_no_lock(folder, left):
    """Fifty of them as little as one."""
    before = len(os.listdir("/proc/self/fd"))
    with multi_count():
        for n in range(50):
            for _ in simple_counter(f"run{n:02}", range(2)):
                pass
        assert len(os.listdir("/proc/self/fd")) == before
        assert left() == [f"run{n:02}" for n in range(50)]
    assert left() == []


def test_a_file_that_could_not_be_opened_once_is_written_in_place_again(folder, clock, monkeypatch):
    """It was an accident, and no mount that refuses it."""
    opening, refused, files = os.open, [], []

    def accident(path, flags, *more):
        if path == os.path.realpath("run") and flags & os.O_RDWR and not refused:
            refused.append(path)
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        return opening(path, flags, *more)

    for i in simple_counter("run", range(9)):
        clock.now += 2
        if i == 2:
            put(monkeypatch.setattr, "open", accident)
        files.append(os.stat("run").st_ino if i else 0)
    assert refused
    assert files[2] != files[3]
    assert len(set(files[4:])) == 1


# Growing, and mounts where nothing can be written in place.


@pytest.mark.parametrize("objects, size", [(2, 512), (8, 1024), (20, 2048), (40, 4096), (80, 8192)])
def test_a_moment_that_has_outgrown_the_records_gets_a_larger_file(folder, calls, moment, objects, size):
    """By one atomic replacement; from then on it is written in place."""
    names = [f"object{n:03}.pickle" for n in range(objects)]
    with contextlib.suppress(Stop), enable_counter("run", each_save=True) as counter:
        values = [counter.save_load_object([], name) for name in names]
        for i in counter(range(6)):
            for value in values:
                value.append(i)
            if i == 3:
                calls.clear()
            if i == 4:
                raise Stop
    lines = Path("run").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert len(lines[0]) == size
    assert ("pwrite", "run") in calls and ("replace", ".run.MARK-new") not in calls
    with enable_counter("run") as counter:
        assert [counter.save_load_object(None, name) for name in names] == [[0, 1, 2, 3]] * objects
        assert list(counter(range(6))) == [4, 5]
    assert os.listdir() == []


def test_a_position_costs_one_small_write_however_many_loops_have_ended_in_the_item(folder, calls, clock):
    """Above 4,096 bytes, which a page holds, a kill may cut a whole record short: only what is not saved yet."""
    with multi_count():
        for _ in simple_counter("run", range(1)):
            for n in range(60):
                for _ in simple_counter(f"inner{n}", range(2)):
                    pass
            for i in simple_counter("last", range(40)):
                if i % 10 == 3:
                    calls.clear()
                if i % 10 == 9:
                    assert calls == [("pwrite", "run")] * 6
                    clock.now += 2  # it is flushed, by a file put in its place
    assert os.listdir() == []


def nested(names, sizes, do, at=()):
    """Run loops inside each other, and do something in each innermost item."""
    if not names:
        return do(at)
    for i in simple_counter(names[0], range(sizes[0])):
        nested(names[1:], sizes[1:], do, (*at, i))


@pytest.mark.parametrize("depth, length", [(4, 10), (6, 60), (8, 150), (14, 220)])
def test_deep_nesting_and_long_paths_outgrow_the_records(folder, run_child, depth, length):
    """In the middle of the work: killed again and again, it does each item once."""
    names = ["run", *(c * length for c in "abcdefghijklm"[: depth - 1])]
    sizes = [2, 2, *[1] * (depth - 4), 2, 2]
    items, seen = list(itertools.product(*map(range, sizes))), []
    for stop in (9, 10, 14, None):

        def job(tell, stop):
            def do(at):
                if stop is not None and at == items[stop]:
                    os._exit(0)
                tell(at)

            nested(names, sizes, do)

        child = run_child(job, stop)
        assert child.error is None
        seen += child.told
        if stop is not None:
            assert seen == items[:stop]
            size = os.path.getsize("run") // 3
            assert size in SIZES or size > 4096
    assert seen == items
    assert (size > 4096) is (depth == 14)
    assert os.listdir() == []


def test_growing_is_flushed_before_it_counts(folder, calls):
    """Made beside it, flushed, put in its place, and the folder flushed; its name is there for a moment only."""
    for i in simple_counter("run", range(3)):
        if i == 1:
            for _ in simple_counter("x" * 200, range(2)):
                for _ in simple_counter("y" * 200, range(2)):
                    pass
            break
    first = calls.index(("replace", ".run.MARK-new"))
    second = calls.index(("replace", ".run.MARK-new"), first + 1)
    assert calls[second - 2 : second + 2] == [
        ("create", ".run.MARK-new"),
        ("fsync", ".run.MARK-new"),
        ("replace", ".run.MARK-new"),
        ("fsync", "."),
    ]


def growing(strike):
    """Save an object, and then with it a second one that needs a larger record."""
    with enable_counter("run", each_save=True) as counter:
        one = counter.save_load_object([], "a")
        for i in counter(range(2)):
            if i == 1:
                with enable_counter("x" * 200, each_save=True) as inner:
                    two = inner.save_load_object([], "y" * 200)
                    for j in inner(range(2)):
                        one.append((i, j))
                        two.append((i, j))
                        if j == 0:
                            strike()
                        if j == 1:
                            os._exit(0)


def look_at_growing():
    with enable_counter("run") as counter:
        one = counter.save_load_object([], "a")
        at = []
        for i in counter(range(2)):
            with enable_counter("x" * 200) as inner:
                two = inner.save_load_object([], "y" * 200)
                at.append((i, inner.position, [*one], [*two]))
                for _ in inner(range(2)):
                    pass
    assert os.listdir() == []
    return at[0]


def test_a_kill_while_the_file_grows_leaves_one_moment_or_the_other(folder, run_child):
    """The larger file must not publish anything that is not settled."""
    seen = in_turn(run_child, growing, look_at_growing)
    old, new = (1, 0, [], []), (1, 1, [(1, 0)], [(1, 0)])
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert seen.count(old) and seen.count(new)


REFUSED = ["EPERM", "ESPIPE", "EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EROFS"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("has_object", [False, True], ids=["position", "object"])
def test_where_nothing_can_be_written_in_place_each_save_is_a_new_file(
    folder, calls, clock, monkeypatch, position, name, has_object
):
    """Some mounts take a file from its beginning to its end and no other way; closing it fails there, too."""
    number, close = getattr(errno, name), os.close

    def closing(file):
        is_progress = shown(file) == "run" and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        close(file)
        if is_progress:
            raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "close", closing)
    put(monkeypatch.setattr, "pwrite", refusing(number, "run", os.pwrite))
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "a") if has_object else []
    for i in counter(range(6)):
        seen.append(i)
        assert position() == (i or None)
        if i == 3:
            before, calls[:] = os.stat("run").st_ino, []
        if i == 4:
            made = [call for call in calls if call[1] == ".run.MARK-new"]
            assert made == [("create", ".run.MARK-new"), ("fsync", ".run.MARK-new"), ("replace", ".run.MARK-new")]
            assert os.stat("run").st_ino != before
            break
    del counter
    assert descriptors("run") == []
    counter = enable_counter("run")
    assert counter.position == 4
    assert not has_object or counter.save_load_object([], "a") == [0, 1, 2, 3]


def test_where_a_file_cannot_be_opened_to_write_in_it_each_save_is_a_new_one(folder, monkeypatch, position):
    """Without cutting it, that is."""
    real = os.open

    def opening(path, flags, *more, **options):
        if os.path.basename(path) == "run" and flags & os.O_ACCMODE and not flags & os.O_CREAT:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", opening)
    for i in simple_counter("run", range(6)):
        assert position() == (i or None)
    assert os.listdir() == []


# The commit.


def test_the_order_of_a_commit(folder, calls):
    """Staged beside its place, flushed with its name; then the record, flushed, counts; then it is moved."""
    counter = enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "a")
    commits = []
    for i in counter(range(5)):
        if i:
            commits.append([call for call in calls if call[0] != "create"])
        calls.clear()
    names = [commit[0][1] for commit in commits[1:]]
    assert names in ([".a.MARK-a", ".a.MARK-b", ".a.MARK-a"], [".a.MARK-b", ".a.MARK-a", ".a.MARK-b"])
    for name, commit in zip(names, commits[1:], strict=True):
        assert commit == [
            ("fsync", name),
            ("fsync", "."),  # its name, and that of the one before, which was moved
            ("pwrite", "run"),
            ("fsync", "run"),
            ("replace", name),
        ]


def test_the_order_of_the_first_commit(folder, calls):
    """The progress file itself is staged, flushed and put in place."""
    stopped(0)
    kinds = [call for call in calls if call[1] not in (".run.lock", "run")]
    staged = next(name for call, name in kinds if call == "fsync")
    assert staged.startswith(".a.MARK-")
    at = kinds.index(("create", ".run.MARK-new"))
    assert ("fsync", ".") in kinds[:at]
    assert kinds[at:] == [
        ("create", ".run.MARK-new"),
        ("fsync", ".run.MARK-new"),
        ("replace", ".run.MARK-new"),
        ("fsync", "."),
        ("replace", staged),
    ]


class Device:
    """What is on the device and what is not, from the calls as they come; it objects to what comes too early."""

    def __init__(self, monkeypatch):
        self.made = set()  # files whose contents are not on the device
        self.names = set()  # folders whose names are not
        self.record = None  # the newest record, where it is not: the file, or the folder where it has a new name
        self.records = 0
        for name in OPERATIONS:
            put(monkeypatch.setattr, name, self.watched(name, getattr(os, name)))

    def watched(self, name, real):
        def call(target, *more, **options):
            if isinstance(target, int) and target < 0:
                return real(target, *more, **options)
            is_open = isinstance(target, int)
            path = os.readlink(f"/proc/self/fd/{target}") if is_open else os.path.abspath(target)
            done = real(target, *more, **options)
            if not path.endswith(".lock") and (name != "open" or more[0] & os.O_CREAT):
                others = [os.path.abspath(more[0])] if name in ("replace", "rename") else []
                getattr(self, f"on_{name}", self.on_move)(path, *others)
            return done

        return call

    def on_open(self, path):
        self.made.add(path)
        if not path.endswith("-new"):
            self.names.add(os.path.dirname(path))

    def on_mkdir(self, path):
        self.names.add(os.path.dirname(path))

    def on_fsync(self, path):
        self.made.discard(path)
        self.names.discard(path)
        if path == self.record:
            self.record = None

    def on_pwrite(self, path):
        if path.endswith("/run"):
            self.count(path, path)

    def on_replace(self, source, target):
        if source.endswith("-new"):
            self.count(source, os.path.dirname(source))
        else:
            self.on_move(source, target)

    def on_move(self, *paths):
        assert self.record is None or not all(os.path.lexists(path) for path in paths[:1]), (
            "the record is not there yet"
        )
        self.names |= {os.path.dirname(path) for path in paths}
        self.made -= set(paths)

    def count(self, path, record):
        """A record comes into being: what it names has to be there, and what the one before named to be settled."""
        assert not self.made, f"not flushed: {self.made}"
        assert not (names := {name for name in self.names if os.path.isdir(name)}), f"not flushed: {names}"
        assert self.record is None, "the record before is not flushed"
        self.record = record
        self.records += 1


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "new files"])
def test_nothing_comes_before_what_it_rests_on_is_on_the_device(folder, monkeypatch, in_place):
    """New contents and their names before the record; the record before what is moved; that before the next record.

    Also where the file grows in the middle of it.
    """
    if not in_place:
        put(monkeypatch.setattr, "pwrite", refusing(errno.ESPIPE, "run", os.pwrite))
    for name in ("left", "right", "third"):
        os.mkdir(name)
    device = Device(monkeypatch)
    text = ["0"]
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "left/a")
    more = counter.save_load_object([], "right/b")
    alone = counter.save_load_object([], "third/c")
    counter.save_load_funcs([folder_of(lambda: text[0]), folder_of("same")], [text_in] * 2, ["left/m", "right/n"])
    for i in counter(range(5)):
        seen.append(i)
        more.append(i)
        alone.append(i)
        text[0] = str(i)
        if i == 3:
            with enable_counter("x" * 200, each_save=True) as inner:
                deep = inner.save_load_object([], "left/" + "y" * 200)
                for j in inner(range(3)):
                    deep.append(j)
    assert device.records >= 8


def test_every_file_and_folder_that_a_function_has_written_is_flushed(folder, calls):
    """fsync of a folder covers the names in it, and not what they name."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
    for i in counter(range(3)):
        if i == 1:
            calls.clear()
        if i == 2:
            break
    before = calls[: calls.index(("pwrite", "run"))]
    flushed = [name for call, name in before if call == "fsync"]
    staged = next(name for name in flushed if name.endswith("model/deep/x")).removesuffix("/model/deep/x")
    for path in ("/model/deep/x", "/model/deep", "/model", ""):
        assert staged + path in flushed
    assert flushed[-1] == "." and re.fullmatch(r"\.model\.MARK-[ab]", staged)


def test_names_that_are_staged_carry_a_mark_of_the_progress_files_path(folder, monkeypatch):
    """Relative to the folder of the object, so that a moved folder finds them again; two files have two marks."""
    import zlib

    os.mkdir("other")
    names, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths, **options: (names.append(paths[0]), real(*paths, **options)))
    for path in ("run", "other/run"):
        names.clear()
        stopped(2, path=path, name="a")
        (staged,) = {os.path.basename(name) for name in names if os.path.basename(name).startswith(".a.")}
        assert re.fullmatch(rf"\.a\.{zlib.crc32(path.encode()):08x}-[ab]", staged)
        Path("a").unlink()


def test_new_contents_are_staged_beside_their_final_path(folder):
    """Never on another file system, where a rename is a copy; under the very name that was given."""
    os.mkdir("other")
    places = []
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs(
            [lambda path: places.append(path) or Path(path).touch()], [print], [Path("other/a.npy")]
        )
        for _ in counter(range(3)):
            raise Stop
    (place,) = places
    assert place.name == "a.npy"
    assert place.parent.parent == folder / "other"
    assert os.listdir("other") == ["a.npy"]


@pytest.mark.parametrize("size", [10, 5 << 20], ids=["small", "large"])
def test_an_object_file_is_a_plain_pickle_at_the_path_that_was_given(folder, left, size):
    """With nothing of ours around it."""
    stopped(1, value=bytearray(size), name="object.pickle")
    assert loaded("object.pickle") == bytes(size) + b"\0"
    assert left() == ["object.pickle", "run"]
    assert counted(None, name="object.pickle")[-2:] == bytearray([7, 8])


def test_a_folder_that_was_moved_still_resumes(folder, tmp_path, monkeypatch):
    """With what was staged in it by a save that a kill had cut short."""
    stopped(4)
    os.rename(folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert counted() == list(range(9))
    assert os.listdir() == []


def saving(strike, size=0):
    """Save an object and a folder after item 0, and again after item 1, when the kills begin."""
    text = [""]
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([folder_of(lambda: text[0]), folder_of("same")], [text_in] * 2, ["model", "other"])
        _kept = counter.save_load_object(bytes(size + 1), "constant")
        for i in counter(range(9)):
            if i == 2:
                os._exit(0)
            seen.append(i)
            text[0] = str(i)
            if i == 1:
                strike()


def look_at_saving(size=0):
    """Return what the next start finds, and see that it can go on to its end."""
    found = []
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        loads = [found.append] * 2
        counter.save_load_funcs(
            [folder_of("end")] * 2, [lambda path, load=load: load(text_in(path)) for load in loads], ["model", "other"]
        )
        assert counter.save_load_object(None, "constant") == bytes(size + 1)
        state = (counter.position, [*seen], *found)
        assert hidden() == []
        for _ in counter(range(9)):
            pass
    assert os.listdir() == []
    return state


@pytest.mark.parametrize(
    "in_place, size", [(True, 0), (True, 5 << 20), (False, 0)], ids=["in place", "large", "new files"]
)
def test_a_commit_that_was_cut_short(folder, run_child, monkeypatch, in_place, size):
    """Before the record the old save is whole, after it the next start rolls the new one forward.

    A folder that was saved again unchanged has the same digest as the one that was moved aside for it.
    """
    if not in_place:
        put(monkeypatch.setattr, "pwrite", refusing(errno.ESPIPE, "run", os.pwrite))
    seen = in_turn(run_child, saving, look_at_saving, size)
    old, new = (1, [0], "0", "same"), (2, [0, 1], "1", "same")
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert seen.count(old) > 5 and seen.count(new) > 5


def test_where_nobody_tells_what_is_mounted_a_file_is_replaced_in_one_step(folder, calls, monkeypatch):
    """There is no `/proc` on other systems."""
    real, is_fuse = os.open, sys.modules["py_restart._files"].is_fuse
    is_fuse.cache_clear()

    def opening(path, *more):
        if path == "/proc/self/mountinfo":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return real(path, *more)

    put(monkeypatch.setattr, "open", opening)
    counted(None, length=2, each_save=True)
    is_fuse.cache_clear()
    assert calls.index(("replace", ".a.MARK-b")) < calls.index(("unlink", "a"))


@pytest.fixture
def mounted(folder, tmp_path_factory, monkeypatch):
    """Let something else be mounted where the folder of the test is, and on a device whose number begins alike."""
    real, device, said = os.open, os.stat(folder).st_dev, tmp_path_factory.mktemp("proc") / "mountinfo"
    number, is_fuse = f"{os.major(device)}:{os.minor(device)}", sys.modules["py_restart._files"].is_fuse  # it asks once

    def mounted(here, there):
        said.write_text(
            "22 27 0:21 / /proc rw - proc proc rw\n"
            f"30 27 {number} / {folder} rw,relatime - {here} drive: rw\n"
            f"31 27 {number}7 / /mnt rw,relatime - {there} drive: rw\n"
        )

    put(monkeypatch.setattr, "open", lambda path, *more: real(said if path == "/proc/self/mountinfo" else path, *more))
    is_fuse.cache_clear()
    yield mounted
    is_fuse.cache_clear()


@pytest.fixture
def fuse(mounted):
    """Let the folder of the test look like a mount of rclone."""
    mounted("fuse.rclone", "ext4")


def test_beside_a_mount_of_fuse_a_file_is_replaced_in_one_step(mounted, calls):
    """What is mounted elsewhere does not matter."""
    mounted("ext4", "fuse.rclone")
    counted(None, length=2, each_save=True)
    assert calls.index(("replace", ".a.MARK-b")) < calls.index(("unlink", "a"))


def test_on_fuse_a_file_is_deleted_before_another_one_takes_its_place(fuse, calls):
    """What rclone had sent of it would stay on the remote; the progress file alone is replaced in one step."""
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "a")
        for i in counter(range(2)):
            calls.clear()
            seen.append(i)
    moves = [call for call in calls if call in [("unlink", "a"), ("replace", ".a.MARK-b")]]
    assert moves[:2] == [("unlink", "a"), ("replace", ".a.MARK-b")]


def test_on_fuse_a_commit_that_was_cut_short(fuse, run_child):
    """What is deleted before it is replaced comes back with the next start."""
    seen = in_turn(run_child, saving, look_at_saving)
    old, new = (1, [0], "0", "same"), (2, [0, 1], "1", "same")
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert seen.count(old) > 5 and seen.count(new) > 5


def killed_before_moving(run_child, **options):
    """Kill a save with an object as soon as it counts: its new contents are still where they were staged."""

    def job(tell):
        with enable_counter("run", each_save=True, **options) as counter:
            seen = counter.save_load_object([], "a")
            for i in counter(range(9)):
                seen.append(i)
                if i == 1:
                    os.replace = lambda *paths, **options: os.kill(os.getpid(), signal.SIGKILL)

    assert run_child(job).status == -signal.SIGKILL
    (staged,) = hidden()
    return staged


def test_rolling_forward_goes_by_the_contents(folder, run_child):
    """What is staged with the size and digest that the record names is moved in, all else of that mark goes."""
    staged = killed_before_moving(run_child)
    other = staged[:-1] + ("a" if staged.endswith("b") else "b")
    os.rename(staged, other)
    Path(staged).write_text("debris")
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (2, [0, 1])
    assert hidden() == [] and loaded("a") == [0, 1]


def test_what_is_staged_with_other_contents_is_not_moved_in(folder, run_child):
    """Damaged, that is: the error names the object's file, and nothing is loaded."""
    staged = killed_before_moving(run_child)
    Path(staged).write_bytes(Path(staged).read_bytes()[:-1] + b"?")
    with pytest.raises(RestartError, match="a: .*(changed|damaged|missing)"):
        enable_counter("run").save_load_object([], "a")


def test_what_matches_neither_record_is_foreign(folder, run_child):
    """Rolling forward does not replace what somebody has put there since."""
    killed_before_moving(run_child)
    Path("a").write_text("mine")
    with pytest.raises(RestartError, match="a: "):
        enable_counter("run").save_load_object([], "a")
    assert Path("a").read_text() == "mine"
    Path("a").unlink()
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (2, [0, 1])


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_a_killed_save_has_staged_goes_when_its_path_is_registered(folder, run_child, kind):
    """No path need be named before anything is staged for it: the mark says whose it was."""
    staged = killed_before_moving(run_child)
    victim = Path("victim")
    victim.write_text("mine")
    for name in (staged, *(f"{staged[:-1]}{end}" for end in ("a", "b", "old"))):
        if kind == "file" or os.path.lexists(name):
            Path(name).write_text("debris") if name != staged else None
        elif kind == "folder":
            folder_of("debris")(name)
        else:
            os.symlink("victim", name)
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (2, [0, 1])
    assert hidden() == []
    assert victim.read_text() == "mine"


def test_what_a_save_before_the_first_has_staged_goes_too(folder, run_child, left):
    """There is no progress file that could name it."""

    def job(tell):
        def die(path):
            Path(path).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "a")
            counter.save_load_funcs([die], [print], ["model"])
            list(counter(range(3)))

    run_child(job)
    assert hidden() and "run" not in left()
    counter = enable_counter("run")
    _kept = counter.save_load_object([], "a")
    counter.save_load_funcs([print], [print], ["model"])
    assert left() == [".run.lock"]


def test_where_a_user_deletes_the_progress_file_what_was_staged_goes_with_the_registration(folder, run_child, left):
    """The work begins afresh; what stands at the object's place is not ours any more."""
    killed_before_moving(run_child)
    os.unlink("run")
    with pytest.raises(RestartError, match="a: "):
        enable_counter("run").save_load_object([], "a")
    os.unlink("a")
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (0, [])
    assert left() == [".run.lock"]


def test_what_is_staged_for_another_progress_file_is_not_touched(folder, run_child):
    """It has another mark, and may be in the making just now."""
    staged = killed_before_moving(run_child)
    foreign = re.sub(r"[0-9a-f]{8}-", "00000000-", staged)
    Path(foreign).write_text("of another")
    counter = enable_counter("run")
    _kept = counter.save_load_object([], "a")
    assert hidden() == [foreign]


def test_a_look_does_not_delete_what_was_staged_just_now(folder):
    """Registering looks for what an earlier run has staged; a save in the middle of which one registers does not."""
    looked = []

    def save(path):
        Path(path).write_text("text")
        looked.append(enable_counter("other").save_load_object([1], "b"))
        with contextlib.suppress(RestartError):
            enable_counter("other").save_load_object([1], "a")

    with pytest.raises(Stop), enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([save], [print], ["model"])
        for _ in counter(range(3)):
            seen.append(1)
            raise Stop
    assert looked and loaded("a") == [1] and Path("model").read_text() == "text"


def test_what_is_not_registered_any_more_goes_with_the_next_save(folder):
    """A save names everything that is there after it; what was moved away by hand is no matter."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        for i in counter(range(4)):
            with enable_counter("inner") as inner:
                _kept = inner.save_load_object([i], f"a{i}")
                for _ in inner(range(2)):
                    if i == 1:
                        counter.save()
                        assert os.path.exists("a1")
                    if i == 2:
                        counter.save()
                        assert not os.path.exists("a1") and os.path.exists("a2")
                        raise Stop
    assert sorted(name for name in os.listdir() if name.startswith("a")) == ["a2"]


def test_saving_does_not_touch_what_somebody_has_changed_meanwhile(folder):
    """An error that names it; the rest of what was saved is whole."""
    with pytest.raises(RestartError, match="a: .*changed"):
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "a")
            for i in counter(range(9)):
                if i == 2:
                    Path("a").write_text("mine")
    assert Path("a").read_text() == "mine"
    assert hidden() == []


@pytest.mark.parametrize("way", ["another file", "another size", "another time"])
def test_what_tells_that_somebody_has_changed_a_file_is_looked_at_before_each_save(folder, way):
    """Each of them by itself: all else looks as it did."""
    with pytest.raises(RestartError, match="a: changed or damaged since it was saved"):
        with enable_counter("run", each_save=True) as counter:
            kept = counter.save_load_object([], "a")
            for i in counter(range(9)):
                kept[:] = [i]
                if i == 2:
                    looks, data = os.stat("a"), pickle.dumps([7], pickle.HIGHEST_PROTOCOL)
                    assert len(data) == looks.st_size
                    name = "mine" if way == "another file" else "a"
                    Path(name).write_bytes(data + b"?" if way == "another size" else data)
                    os.utime(name, ns=(looks.st_atime_ns, looks.st_mtime_ns + (way == "another time")))
                    os.replace(name, "a")
    assert loaded("a") == [7]


def test_a_file_that_was_rewritten_with_the_same_contents_is_ours(folder):
    """What counts is the digest, not the time."""
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "a")
    for i in counter(range(4)):
        seen.append(i)
        if i == 2:
            data = Path("a").read_bytes()
            Path("a").unlink()
            Path("a").write_bytes(data)
        if i == 3:
            assert loaded("a") == [0, 1, 2]
    assert os.listdir() == []


CHANGES = [
    lambda: os.rename("model/x", "model/y"),
    lambda: os.mkdir("model/new"),
    lambda: Path("model/x").write_text("2"),
    lambda: (os.unlink("model/link"), os.symlink("y", "model/link")),
    lambda: (os.unlink("model/link"), Path("model/link").write_text("x")),
    lambda: (os.rmdir("model/deep"), Path("model/deep").touch()),
    lambda: shutil.rmtree("model"),
]


def model(path):
    """Save a folder of all kinds."""
    os.makedirs(os.path.join(path, "deep"))
    Path(path, "x").write_text("1")
    os.symlink("x", os.path.join(path, "link"))


def test_what_is_loaded_is_read_and_digested_just_before(folder):
    """A recovery has read it as well, but that was earlier; its size and its time can be made to look the same."""
    stopped(3)
    Path(f".a.{zlib.crc32(b'run'):08x}-b").touch()  # a kill has left it behind
    counter, looks = enable_counter("run"), os.stat("a")
    Path("a").write_bytes(pickle.dumps([7, 7, 7], pickle.HIGHEST_PROTOCOL))
    assert os.path.getsize("a") == looks.st_size
    os.utime("a", ns=(looks.st_atime_ns, looks.st_mtime_ns))
    with pytest.raises(RestartError, match="a: changed or damaged since it was saved"):
        counter.save_load_object([], "a")


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_of_a_folder_covers_names_kinds_and_contents(folder, change):
    """Whatever was changed in it, the next start notices."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs([model], [os.listdir], ["model"])
        for _ in counter(range(3)):
            raise Stop
    change()
    with pytest.raises(RestartError, match="model: .*(changed|missing)"):
        enable_counter("run").save_load_funcs([model], [os.listdir], ["model"])


def test_the_digest_of_a_folder_does_not_depend_on_the_order_in_which_it_is_listed(folder, monkeypatch):
    """A copy on another file system has another one."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs([model], [os.listdir], ["model"])
        for _ in counter(range(3)):
            raise Stop
    real, loaded = os.listdir, []
    for is_reversed in (False, True):
        monkeypatch.setattr(os, "listdir", lambda path, by=is_reversed: sorted(real(path), reverse=by))
        enable_counter("run").save_load_funcs([model], [loaded.append], ["model"])
    assert loaded == [str(folder / "model")] * 2


def test_names_in_a_folder_need_not_be_text(folder, left):
    """On Linux they are bytes, and so is where a link leads."""

    def save(path):
        os.mkdir(path)
        Path(path, os.fsdecode(b"\xff")).touch()
        os.symlink(b"\xfe", os.fsencode(path) + b"/link")

    for start in (0, 1):
        with contextlib.suppress(Stop), enable_counter("run") as counter:
            assert counter.position == start
            counter.save_load_funcs([save], [os.listdir], ["model"])
            for i in counter(range(3)):
                if i == 1 and not start:
                    raise Stop
    assert left() == []


@pytest.mark.parametrize("name", ["model/.DS_Store", "model/._f", "model/._g", "model/f"])
def test_what_the_system_puts_into_a_folder_by_itself_is_no_change_of_it(folder, name):
    """The Finder of macOS notes how it shows a folder, and on a stick each file has its attributes in one beside it."""

    def save(path):
        os.mkdir(path)
        Path(path, "f").write_text("text")

    is_changed = name in ("model/._g", "model/f")
    error = pytest.raises(RestartError, match="model: changed") if is_changed else contextlib.nullcontext()
    with error, enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([save], [print], ["model"])
        for i in counter(range(3)):
            if i == 1:
                assert os.listdir("model") == ["f"]
                Path(name).write_text("by the system")
    assert sorted(os.listdir()) == (["model", "run"] if is_changed else [])


def test_what_a_function_writes_may_be_listed_in_another_spelling(folder, monkeypatch):
    """Some file systems of macOS decompose names, and it puts attributes beside a file."""
    real = os.listdir

    def listdir(path="."):
        names = {unicodedata.normalize("NFD", name) for name in real(path)}
        return [*names, *(f"._{name}" for name in names)]

    def save(path):
        Path(path).write_text("text")

    monkeypatch.setattr(os, "listdir", listdir)
    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([save], [print], ["データ"])
        for _ in counter(range(3)):
            pass
    assert real() == []


def test_what_is_behind_a_junction_is_not_ours(folder, monkeypatch):
    """On Windows a link to a folder may look like one: `shutil.rmtree` there knows it by its tag alone."""
    os.mkdir("foreign")
    Path("foreign/kept").touch()
    real = os.lstat

    def lstat(path, **options):
        status = real(path, **options)
        if stat.S_ISLNK(status.st_mode):
            return SimpleNamespace(st_mode=stat.S_IFDIR | 0o777, st_reparse_tag=0xA0000003)
        return status

    def save(path):
        os.mkdir(path)
        os.symlink(folder / "foreign", os.path.join(path, "link"))

    monkeypatch.setattr(os, "lstat", lstat)
    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([save], [print], ["model"])
        for i in counter(range(3)):
            if i:
                Path("foreign", str(i)).touch()  # is no change of what was saved
    assert sorted(os.listdir("foreign")) == ["1", "2", "kept"] and os.listdir() == ["foreign"]


def test_the_size_of_a_folder_is_that_of_what_is_in_it(folder, moment):
    """A person who reads the record knows how much belongs to the save."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs([folder_of("12345")], [text_in], ["model"])
        for _ in counter(range(3)):
            raise Stop
    assert moment()["files"]["model"]["size"] == 5


def test_a_folder_that_is_only_looked_at_keeps_its_mode(folder):
    """It may be of somebody else, who has written it read-only."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs([os.mkdir], [os.listdir], ["model"])
        for _ in counter(range(3)):
            raise Stop
    os.chmod("model", 0o555)
    enable_counter("run").save_load_funcs([os.mkdir], [os.listdir], ["model"])
    assert os.stat("model").st_mode & 0o777 == 0o555


def test_an_empty_file_does_not_pass_for_an_empty_folder(folder):
    """Nothing is in either of them."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_funcs([os.mkdir], [os.listdir], ["model"])
        for _ in counter(range(3)):
            raise Stop
    os.rmdir("model")
    Path("model").touch()
    with pytest.raises(RestartError, match="model: .*changed"):
        enable_counter("run").save_load_funcs([os.mkdir], [os.listdir], ["model"])


def test_a_change_inside_a_saved_folder_is_noticed_by_the_next_save(folder):
    """Also one that leaves the folder's own time and size as they were."""
    with pytest.raises(RestartError, match="model: .*changed"):
        with enable_counter("run", each_save=True) as counter:
            counter.save_load_funcs([model], [os.listdir], ["model"])
            for i in counter(range(9)):
                if i == 2:
                    Path("model/x").write_text("2")
    assert Path("model/x").read_text() == "2"


def unprivileged(tell, job):
    """Run a job in a child as any user would: root, without its capabilities, may not do everything either."""
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
    job()


def write_read_only(path):
    """Save a folder that can be neither moved nor deleted, nor can what is in it."""
    os.makedirs(os.path.join(path, "deep"))
    Path(path, "deep", "x").touch(0o444)
    os.chmod(os.path.join(path, "deep"), 0o555)
    os.chmod(path, 0o555)


@pytest.mark.parametrize(
    "mode", [0o555, 0o333, 0o666], ids=["not to be written", "not to be read", "not to be entered"]
)
def test_a_folder_that_is_not_to_be_used_is_an_error_that_names_it(folder, run_child, mode):
    """Whatever is not allowed: for a progress file at the start, for an object as it is registered."""
    os.mkdir("closed", mode)
    os.chmod("closed", mode)

    def job():
        counter = enable_counter("run")
        for use in (lambda: enable_counter("closed/run"), lambda: counter.save_load_object([], "closed/a")):
            with pytest.raises(RestartError, match="the folder .*closed cannot be read and written to; mend that, or"):
                use()

    child = run_child(unprivileged, job)
    os.chmod("closed", 0o755)
    assert (child.error, child.status) == (None, 0)


def test_a_folder_that_was_written_read_only_can_be_saved_again_and_removed(folder, run_child):
    """As a copy of read-only data is: it could neither be moved nor deleted. All else of its mode stays."""

    def job():
        counter = enable_counter("run", each_save=True)
        counter.save_load_funcs([write_read_only], [os.listdir], ["model"])
        for i in counter(range(3)):
            if i:
                assert os.listdir("model/deep") == ["x"]
                assert [os.stat(name).st_mode & 0o777 for name in ("model", "model/deep")] == [0o755] * 2

    child = run_child(unprivileged, job)
    assert (child.error, child.status) == (None, 0)
    assert os.listdir() == []


def test_a_folder_that_was_written_read_only_by_a_save_that_fails_does_not_stay(folder, run_child):
    """It never came to be ours to mend."""

    def save(path):
        write_read_only(path)
        raise Stop

    def job():
        counter = enable_counter("run", each_save=True)
        counter.save_load_funcs([save], [print], ["model"])
        with pytest.raises(RestartError, match="model"):
            list(counter(range(3)))

    child = run_child(unprivileged, job)
    assert (child.error, child.status) == (None, 0)
    assert hidden() == []


# What is of the moment.


def test_whether_anything_is_registered_is_read_from_the_moment_and_not_from_the_last_record(folder):
    """An item before had an object, this one has none: its failure saves the position, exactly."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        for i in counter(range(4)):
            with enable_counter(f"inner{i}", each_save=True, save_span=5) as inner:
                if i == 0:
                    _kept = inner.save_load_object([], "a")
                for j in inner(range(9)):
                    if (i, j) == (1, 3):
                        raise Stop
    seen = []
    for i in enable_counter("run", each_save=True)(range(4)):
        seen += [(i, j) for j in simple_counter(f"inner{i}", range(9))]
        if i == 1:
            break
    assert seen == [(1, j) for j in range(3, 9)]


def test_what_is_registered_since_the_last_record_counts(folder, left):
    """The moment has an object by now, and no boundary with it: a failure in the middle saves nothing more."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        for i in counter(range(4)):
            if i == 1:
                counter.save()
            if i == 2:
                with enable_counter("inner", each_save=True) as inner:
                    inner.save_load_object([], "a").append(1)
                    for _ in inner(range(9)):
                        raise Stop
    assert enable_counter("run").position == 1
    assert left() == ["run"]


def test_a_block_that_is_tried_again_skips_no_loop_in_silence(folder):
    """What was broken off counts as ended within one block alone."""
    seen, tries = [], 0
    while tries < 4:
        tries += 1
        with contextlib.suppress(Stop), multi_count():
            for i in simple_counter("one", range(4)):
                seen.append(("one", i))
                if i == tries:
                    raise Stop
            for i in simple_counter("two", range(2)):
                seen.append(("two", i))
            break
    assert seen == [("one", i) for i in (0, 1, 1, 2, 2, 3, 3)] + [("two", 0), ("two", 1)]


def test_a_forked_child_is_inside_no_loop_of_its_parent(folder, run_child, left):
    """Its loops have progress files of their own."""

    def job(tell):
        for i in simple_counter("run", range(3)):
            if i == 1:
                if child := os.fork():
                    os.waitpid(child, 0)
                    os._exit(0)
                for j in simple_counter("own", range(4)):
                    if j == 2:
                        tell(sorted(os.listdir()))
                        os._exit(0)

    assert run_child(job).told == [[".own.lock", ".run.lock", "own", "run"]]
    assert list(simple_counter("own", range(4))) == [2, 3]
    assert list(simple_counter("run", range(3))) == [1, 2]
    assert left() == []


def test_what_a_moment_has_lost_goes_before_the_last_record_that_names_it(folder, monkeypatch, left):
    """An inner loop has an object in one item and none in the next; its file cannot be deleted just then."""
    for _ in range(2):
        with enable_counter("run") as outer:
            for i in outer(range(4)):
                if i in (0, 3):
                    with enable_counter("inner", each_save=True) as inner:
                        seen = inner.save_load_object([], "a")
                        for j in inner(range(2)):
                            seen.append(j)
                    outer.save()
                elif i == 1:
                    with monkeypatch.context() as patch:
                        put(patch.setattr, "unlink", refusing(errno.EIO, "a", os.unlink))
                        with pytest.raises(
                            RestartError, match="run: saved, but not all is in its place: Input/output error"
                        ):
                            outer.save()
                else:
                    outer.save()
                    outer.save()
                    assert left() == [".run.lock", "run"]
        assert left() == []


def test_what_a_moment_has_lost_is_gone_for_good_before_the_last_record_that_names_it(folder, calls):
    """Else a power failure would bring it back, and nothing would say whose it is."""
    with enable_counter("run") as outer:
        for i in outer(range(4)):
            if i == 0:
                with enable_counter("inner", each_save=True) as inner:
                    _kept = inner.save_load_object([], "a")
                    for _ in inner(range(2)):
                        pass
            outer.save()
    records = [at for at, call in enumerate(calls) if call == ("pwrite", "run")]
    deleted = calls.index(("unlink", "a"))
    following = [at for at in records if at > deleted]
    assert ("fsync", ".") in calls[deleted : following[0]]


def test_an_object_whose_folder_has_gone_is_in_nobodys_way(folder, left):
    """What is left of the save is removed, and the work begins afresh."""
    os.mkdir("objects")
    with contextlib.suppress(Stop), enable_counter("run") as counter:
        _kept = counter.save_load_object([], "objects/a")
        for _ in counter(range(3)):
            raise Stop
    shutil.rmtree("objects")
    enable_counter("run").remove_files()
    assert left() == []


def test_a_pipe_in_a_folder_that_a_function_writes_holds_nobody_up(folder, left):
    """It is saved as the name that it is."""

    def write(path):
        path.mkdir()
        os.mkfifo(path / "pipe")

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([write], [print], [Path("a")])
    for i in counter(range(2)):
        assert i == 0 or os.listdir("a") == ["pipe"]
    assert left() == []


# What a loader holds open, and what will not be renamed.


def test_a_loader_that_keeps_its_file_open_goes_on_reading_it(folder, position):
    """As a memory map does: a file is replaced, never written over."""
    held = []
    for stop in (2, 6):
        with pytest.raises(Stop), enable_counter("run", each_save=True) as counter:
            counter.save_load_funcs(
                [lambda path: Path(path).write_text(f"saved at {counter.position}")],
                [lambda path: held.append(os.open(path, os.O_RDONLY))],
                ["model"],
            )
            for i in counter(range(9)):
                if i == stop:
                    raise Stop
    file = held.pop()
    assert (os.read(file, 99), Path("model").read_text(), position()) == (b"saved at 2", "saved at 6", 6)
    os.close(file)


def test_a_file_is_replaced_and_a_folder_alone_is_moved_aside(folder, calls):
    """Between two renames there is a moment without either."""
    counter = enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "a")
    counter.save_load_funcs([lambda path: Path(path).touch(), folder_of("text")], [print] * 2, ["file", "model"])
    for i in counter(range(3)):
        if i == 1:
            calls.clear()
        if i == 2:
            break
    sources = [name for call, name in calls if call == "rename"]
    assert "model" in sources and not {"a", "file"} & set(sources)


def test_a_folder_that_cannot_be_emptied_is_no_failed_save(folder, monkeypatch, position):
    """NFS and FUSE keep a name, `.nfs…` or `.fuse_hidden…`, for what a loader still holds open."""
    unlink, numbers, kept = os.unlink, itertools.count(), []

    def keep(path, *more, **options):
        if os.path.basename(path) != "x":
            return unlink(path, *more, **options)
        name = os.path.join(os.path.dirname(path), f".nfs{next(numbers)}")
        os.link(path, name)
        kept.append(name)
        return unlink(path, *more, **options)

    monkeypatch.setattr(os, "unlink", keep)
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
    for i in counter(range(5)):
        assert i == 0 or text_in("model") == "text"
        assert position() == (i or None)
    assert kept
    assert not [name for name in os.listdir() if not name.startswith(".")]


@pytest.fixture
def lower(folder, monkeypatch):
    """Folders that cannot be renamed, as those of a lower layer of an overlay: a set of their inode numbers."""
    lower = set()

    def moving(real):
        def call(source, target, **options):
            if os.path.isdir(source) and os.stat(source).st_ino in lower:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return real(source, target, **options)

        return call

    monkeypatch.setattr(os, "rename", moving(os.rename))
    monkeypatch.setattr(os, "replace", moving(os.replace))
    return lower


def test_a_folder_that_cannot_be_renamed_is_replaced_and_removed(folder, lower, calls):
    """A marker beside it, flushed first, says that the folder is being deleted."""
    counter = enable_counter("run", each_save=True)
    text = [""]
    counter.save_load_funcs([folder_of(lambda: text[0])], [text_in], ["model"])
    for i in counter(range(4)):
        text[0] = str(i)
        if i:
            assert text_in("model") == str(i - 1)
            assert hidden() == []
            lower.clear()
            lower.add(os.stat("model").st_ino)
        if i == 2:
            calls.clear()
        if i == 3:
            marked = calls.index(("create", ".model.MARK-gone"))
            deleted = next(n for n, (call, name) in enumerate(calls) if call == "unlink" and name.startswith("model/"))
            assert ("fsync", ".") in calls[marked:deleted]
    assert os.listdir() == []


def test_a_marker_without_a_save_deletes_nothing(folder, left):
    """A kill has left it, and then all was deleted by hand but that: what is at the path now is somebody else's."""
    Path(f".model.{zlib.crc32(b'run'):08x}-gone").touch()
    folder_of("foreign")("model")
    with pytest.raises(RestartError, match="model: exists already, and was not saved with run; give another path, or"):
        with enable_counter("run") as counter:
            counter.save_load_funcs([folder_of("mine")], [text_in], ["model"])
    assert (text_in("model"), left()) == ("foreign", ["model"])


def test_a_folder_that_can_neither_be_renamed_nor_deleted_is_replaced_by_the_next_save(folder, monkeypatch):
    """The marker is there already then; the folder is whole until it can be deleted."""
    real, text = os.unlink, [""]
    monkeypatch.setattr(os, "rename", refusing(errno.EXDEV))
    with enable_counter("run") as counter:
        counter.save_load_funcs([folder_of(lambda: text[0])], [text_in], ["model"])
        for i in counter(range(3)):
            text[0] = str(i)
            if i == 1:
                with (
                    monkeypatch.context() as patch,
                    pytest.raises(RestartError, match="run: saved, but not all is in its place: Device"),
                ):
                    patch.setattr(os, "unlink", refusing(errno.EBUSY, "x", real))
                    counter.save()
                assert text_in("model") == "0"
                assert [name for name in hidden() if name.endswith("-gone")]
            counter.save()
            assert (text_in("model"), hidden()) == (str(i), [])
    assert os.listdir() == []


def replacing_lower(strike, lower):
    """Save a folder over one that cannot be renamed."""
    lower.clear()
    text = ["0"]
    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([folder_of(lambda: text[0])], [text_in], ["model"])
        for i in counter(range(9)):
            if i == 2:
                os._exit(0)
            text[0] = str(i)
            if i == 1:
                os.stat("model")
                Path("../lower").write_text(str(os.stat("model").st_ino))
                lower.add(os.stat("model").st_ino)
                strike()


def look_at_lower(lower):
    """Return what the next start finds."""
    found = []
    lower.clear()
    lower.add(int(Path("../lower").read_text()))
    with enable_counter("run") as counter:
        counter.save_load_funcs([folder_of("end")], [lambda path: found.append(text_in(path))], ["model"])
        state = (counter.position, *found)
        for _ in counter(range(9)):
            pass
    assert os.listdir() == []
    return state


def test_a_kill_while_such_a_folder_is_replaced(folder, run_child, lower):
    """What is half-deleted is never taken for the real one."""
    seen = in_turn(run_child, replacing_lower, look_at_lower, lower)
    assert seen == [(1, "0")] * seen.count((1, "0")) + [(2, "1")] * seen.count((2, "1"))
    assert seen.count((1, "0")) and seen.count((2, "1")) > 5


def removing(strike, lower):
    """Save an object and a folder, and end the work, when the kills begin."""
    if lower is not None:
        lower.clear()
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
        for i in counter(range(3)):
            seen.append(i)
        if lower is not None:
            Path("../lower").write_text(str(os.stat("model").st_ino))
            lower.add(os.stat("model").st_ino)
        strike()
    os._exit(0)


def look_at_removing(lower):
    """Return what the next start finds: the position, the object, and whether the folder is there."""
    if lower is not None:
        lower.clear()
        lower.add(int(Path("../lower").read_text()))
    found = []
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([folder_of("end")], [lambda path: found.append(text_in(path))], ["model"])
        state = (counter.position, [*seen], found)
        assert hidden() == []
        for _ in counter(range(3)):
            pass
    assert os.listdir() == []
    return state


@pytest.mark.parametrize("is_lower", [False, True], ids=["renamed aside", "cannot be renamed"])
def test_a_removal_that_was_cut_short_is_finished_by_the_next_start(folder, run_child, lower, is_lower):
    """A record says first that the work is done; nobody takes what is left for a save without its objects."""
    seen = in_turn(run_child, removing, look_at_removing, lower if is_lower else None)
    whole, gone = (3, [0, 1, 2], ["text"]), (0, [], [])
    assert seen == [whole] * seen.count(whole) + [gone] * seen.count(gone)
    assert seen.count(whole) and seen.count(gone) > 5


def look_at_what_removing_has_left(lower):
    """Return the position that a look finds, which registers nothing, and what it leaves; finish the work."""
    with enable_counter("run") as counter:
        seen = counter.position, sorted(os.listdir())
    if counter.position:
        look_at_removing(lower)
    return seen


def test_a_removal_that_was_cut_short_is_finished_by_a_look(folder, run_child):
    """Whatever the next start registers, nothing of it stays; and the look holds the lock, as any other start does."""
    seen = in_turn(run_child, removing, look_at_what_removing_has_left, None)
    whole, gone = (3, [".run.lock", "a", "model", "run"]), (0, [".run.lock"])
    assert seen == [whole] * seen.count(whole) + [gone] * seen.count(gone)
    assert seen.count(whole) and seen.count(gone) > 5


def test_the_order_of_a_removal(folder, calls):
    """The record that says so is on the device before anything goes; then the rest, the progress file, the lock."""
    with enable_counter("run", each_save=True) as counter:
        _kept = counter.save_load_object([], "a")
        counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
        for _ in counter(range(2)):
            pass
        calls.clear()
    assert calls[:3] == [("fsync", "."), ("pwrite", "run"), ("fsync", "run")]  # the last move first
    assert [call for call in calls if call[0] == "unlink"][-2:] == [("unlink", "run"), ("unlink", ".run.lock")]
    assert ("unlink", "a") in calls and ("rename", "model") in calls
    assert not [name for call, name in calls if call == "unlink" and name.startswith("model")]
    at = calls.index(("unlink", "run"))
    assert calls.index(("unlink", "a")) < at and calls.index(("rename", "model")) < at
    assert ("fsync", ".") in calls[:at]  # else the file may be gone, and the object there, after a power failure


def test_the_record_of_a_removal_says_so(folder, moment, monkeypatch):
    """With nothing that belongs to it."""
    real, seen = os.unlink, []

    def unlink(path, *more, **options):
        seen.append((os.path.basename(path), moment()))
        return real(path, *more, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    counted(None, each_save=True)
    last = next(record for name, record in seen if name == "a")
    assert (last["removed"], last["files"]) == (True, {})  # what goes is told by the other record


def test_a_position_alone_is_removed_without_a_word(folder, calls, clock):
    """The file itself is all that there is."""
    for i in simple_counter("run", range(3)):
        if i == 2:
            calls.clear()
    assert calls in ([*last, ("unlink", "run"), ("unlink", ".run.lock")] for last in ([], [("pwrite", "run")]))


def test_a_position_that_was_never_flushed_is_removed_for_good_once_it_may_be_on_the_device(folder, calls, clock):
    """The system writes it after some time; a power failure would bring back what is done."""
    for i in simple_counter("run", range(3), save_span=2):
        if i == 2:
            clock.now += 3600
            calls.clear()
    assert calls[-3:] == [("unlink", "run"), ("fsync", "."), ("unlink", ".run.lock")]


@pytest.mark.parametrize("has_limits", [True, False])
def test_a_block_that_ends_since_too_many_files_are_open_is_saved(folder, left, run_child, has_limits):
    """As with the workers of a loader: nothing more can be opened, but the limit of the system is a higher one.

    Where a system has no such limits, the exception is the one that the program has raised, all the same.
    """

    def job(tell):
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
        if not has_limits:
            _files.resource = None
        with enable_counter("run") as counter:
            seen, opened = counter.save_load_object([], "seen"), []
            for _ in counter(range(1000)):
                opened.append(os.pipe())  # one is left, and a save may need several
                seen.append(bytes(100_000))

    child = run_child(job)
    assert child.error.startswith("OSError: [Errno 24]")
    if not has_limits:
        return  # it is saved where as many as that needs are left
    assert left() == ["run", "seen"]
    counter = enable_counter("run")
    assert len(counter.save_load_object(None, "seen")) == counter.position
    assert counter.position > 20


LEAKS = """
import resource
from py_restart import enable_counter, simple_counter

def leak(start=0):
    for n in range(start, 60):
        opened.append(open("leak.py"))
        yield n

opened = []
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))
with enable_counter("run") as counter:
    for i in LOOP:
        print(i, end=" ", flush=True)
"""


@pytest.mark.parametrize("loop", ["counter(leak)", "(i for _ in counter('ab') for i in simple_counter('inner', leak))"])
def test_a_source_that_opens_too_many_files_ends_the_loop_by_its_own_error(folder, loop):
    """What had to be imported only now would fail, and hide it; and an item that is done would run again."""
    Path("leak.py").write_text(LEAKS.replace("LOOP", loop))
    command, pipes = [sys.executable, "leak.py"], {"capture_output": True, "text": True, "env": environment()}
    first = subprocess.run(command, timeout=60, **pipes)
    second = subprocess.run(command, timeout=60, **pipes)
    assert first.stderr.splitlines()[-1] == "OSError: [Errno 24] Too many open files: 'leak.py'"
    assert "During handling" not in first.stderr
    assert int(second.stdout.split()[0]) == len(first.stdout.split()) > 20


@pytest.mark.parametrize("refusal", [None, PermissionError(errno.EPERM, "no more"), ValueError("no more")], ids=repr)
def test_a_block_is_saved_with_what_is_left_where_no_more_files_can_be_had(folder, left, run_child, refusal):
    """There may be no more, or the system says no to who wants more: that costs nothing that can be done without."""

    def job(tell):
        def refuse(*arguments):
            raise refusal  # the second is what Python makes of EINVAL: on macOS the maximum may be "unlimited"

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256 if refusal else 64))
        if refusal:
            resource.setrlimit = refuse
        with enable_counter("run") as counter:
            for i in counter(range(9)):
                if i == 3:
                    opened = []
                    with contextlib.suppress(OSError):
                        while True:
                            opened.append(os.open(os.devnull, os.O_RDONLY))
                    for file in opened[:6]:
                        os.close(file)
                    raise Stop

    assert run_child(job).error.endswith("Stop")
    assert (left(), enable_counter("run").position) == (["run"], 3)


def test_what_could_not_be_thrown_away_is_not_moved_in_by_the_next_save(folder, monkeypatch):
    """The memory or the stack is full just then; what was staged does not count all the same."""

    def save(path):
        if len(seen) > 1:
            raise KeyError
        Path(path).write_text("saved")

    def delete(path):
        if path.endswith(("-a", "-b")) and os.path.exists(path):
            raise MemoryError
        return real(path)

    counter, real = enable_counter("run", each_save=True), sys.modules["py_restart._files"].delete
    seen = counter.save_load_object([1], "a")
    counter.save_load_funcs([save], [print], ["b"])
    counter.save()
    seen.append(2)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("py_restart._files.delete", delete)
        counter.save()
    with pytest.raises(RestartError, match="writing .*b: KeyError"):
        counter.save()
    assert enable_counter("run").save_load_object(None, "a") == [1]


def test_removing_does_not_touch_what_somebody_has_changed_meanwhile(folder):
    """It belongs to no save any more."""
    with enable_counter("run", each_save=True) as counter:
        _kept = counter.save_load_object([], "a")
        _kept_too = counter.save_load_object([], "b")
        for _ in counter(range(2)):
            pass
        Path("a").write_text("mine")
    assert os.listdir() == ["a"] and Path("a").read_text() == "mine"


def test_a_removal_that_is_finished_later_does_not_touch_what_somebody_has_changed(folder, run_child):
    """Between the kill and the next start a user has put something of his own there."""

    def job(tell):
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "a")
            _kept_too = counter.save_load_object([], "b")
            for _ in counter(range(2)):
                pass
            os.unlink = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)

    assert run_child(job).status == -signal.SIGKILL
    Path("a").write_text("mine")
    counter = enable_counter("run")
    assert counter.position == 0
    with pytest.raises(RestartError, match="a: exists already"):
        _kept = counter.save_load_object([], "a")
    assert Path("a").read_text() == "mine"
    assert not os.path.exists("b")


def test_a_disk_that_has_no_room_for_a_name_more_lets_everything_be_removed(folder, monkeypatch):
    """No node, no block: nothing can be made there, and a folder is moved aside all the same."""
    real = os.open

    def opening(path, flags, *more, **options):
        return (refusing(errno.ENOSPC) if flags & os.O_CREAT else real)(path, flags, *more, **options)

    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
        for _ in counter(range(2)):
            pass
        monkeypatch.setattr(os, "open", opening)
        monkeypatch.setattr(os, "mkdir", refusing(errno.ENOSPC))
    assert os.listdir() == []


def test_removing_what_is_gone_is_no_error(folder):
    """Somebody has deleted it: that is what was wanted."""
    with enable_counter("run", each_save=True) as counter:
        _kept = counter.save_load_object([], "a")
        for _ in counter(range(2)):
            pass
        os.unlink("run")
        os.unlink("a")
    assert os.listdir() == []


def test_a_folder_that_was_deleted_during_the_work_needs_no_removal(folder, clock):
    """With it went all that was to be removed."""
    os.mkdir("gone")
    seen = []
    for i in simple_counter("gone/run", range(3)):
        seen.append(i)
        if i == 2:
            shutil.rmtree("gone")
    assert seen == [0, 1, 2]


# A save that fails.


@pytest.mark.parametrize("names", [["fsync"], ["pwrite", "write"], ["replace"], ["mkdir"]], ids=lambda names: names[0])
def test_a_commit_that_fails_leaves_one_moment_whole(folder, monkeypatch, names):
    """The error says so, nothing half-made stays behind, and the next start goes on from it."""
    real = {name: getattr(os, name) for name in names}

    with pytest.raises(RestartError, match="run: .*No space left on device"):
        with enable_counter("run", each_save=True) as counter:
            seen = counter.save_load_object([], "a")
            counter.save_load_funcs([folder_of(lambda: str(len(seen)))], [text_in], ["model"])
            for i in counter(range(9)):
                seen.append(i)
                if i == 1:
                    for name in names:
                        put(monkeypatch.setattr, name, refusing(errno.ENOSPC))
    for name in names:
        put(monkeypatch.setattr, name, real[name])
    loads = []
    counter = enable_counter("run")
    seen = counter.save_load_object([], "a")
    counter.save_load_funcs([print], [lambda path: loads.append(text_in(path))], ["model"])
    state = (counter.position, seen, loads)
    assert state in ((1, [0], ["1"]), (2, [0, 1], ["2"]))
    assert names == ["replace"] or state[0] == 1  # once the record is there it counts
    assert hidden() == []


def test_a_commit_that_could_not_be_settled_is_settled_by_the_next_one(folder, monkeypatch, position):
    """In the same process, without a start in between."""
    real = os.replace
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        for i in counter(range(4)):
            seen.append(i)
            counter.save()
            if i == 1:
                monkeypatch.setattr(os, "replace", refusing(errno.EIO))
                with pytest.raises(RestartError, match="Input/output error"):
                    counter.save()
                monkeypatch.setattr(os, "replace", real)
            assert (i == 1) or (loaded("a"), hidden()) == (seen, [])


def test_what_cannot_be_cleared_now_the_next_start_clears(folder, monkeypatch):
    """A failing disk does not hide the error that came first."""
    real = {name: getattr(os, name) for name in ("pwrite", "replace", "unlink")}

    def unlink(path, **options):
        os.lstat(path)  # what is not there cannot be deleted in another way
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(RestartError, match="No space left on device"):
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "a")
            for i in counter(range(9)):
                if i == 2:
                    put(monkeypatch.setattr, "unlink", unlink)
                    for name in ("pwrite", "replace"):
                        put(monkeypatch.setattr, name, refusing(errno.ENOSPC))
    for name, function in real.items():
        put(monkeypatch.setattr, name, function)
    assert hidden()
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "a"), hidden()) == (2, [], [])


def test_what_cannot_be_cleared_now_is_in_nobodys_way(folder, monkeypatch):
    """The next save of the same process writes its own contents in that place, a file or a folder."""
    real = os.unlink
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([folder_of(lambda: str(seen))], [text_in], ["model"])
        for i in counter(range(3)):
            seen.append(i)
            if i == 1:
                with monkeypatch.context() as patch, pytest.raises(RestartError, match="No space left on device"):
                    put(patch.setattr, "unlink", lambda path: real(path if path.endswith("-new") else "/"))
                    for name in ("pwrite", "replace"):
                        put(patch.setattr, name, refusing(errno.ENOSPC))
                    counter.save()
                assert {shown(name) for name in hidden()} == {".a.MARK-b", ".model.MARK-b"}
                assert (loaded("a"), text_in("model")) == ([0], "[0]")
                seen.append("more")
            counter.save()
            assert (loaded("a"), text_in("model"), hidden()) == (seen, str(seen), [])


def test_a_move_that_is_done_although_it_is_said_to_have_failed(folder, monkeypatch, position):
    """So a network may lose the answer: the next save finds the file in its place."""
    real, lost = os.replace, []

    def replacing(source, target, **options):
        real(source, target, **options)
        if os.path.basename(target) in lost:
            lost.remove(os.path.basename(target))
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", replacing)
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        counter.save_load_funcs([lambda path: Path(path).write_text(str(seen))], [print], ["b"])
        for i in counter(range(5)):
            seen.append(i)
            if i in (2, 3):
                lost.append("ab"[i - 2])
                with pytest.raises(RestartError, match="run: saved, but not all is in its place: Input/output error"):
                    counter.save()
            counter.save()
            assert (position(), loaded("a"), Path("b").read_text(), hidden()) == (i, seen, str(seen), [])
    assert lost == os.listdir() == []


def test_a_folder_that_is_made_although_that_is_said_to_have_failed_does_not_stay(folder, monkeypatch, left):
    """A save that fails leaves nothing half-made."""
    real = os.mkdir

    def making(path, *more, **options):
        real(path, *more, **options)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "mkdir", making)
    with pytest.raises(RestartError, match="run: could not be saved, writing .*model: Input/output error"):
        counter = enable_counter("run", each_save=True)
        counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
        for _ in counter(range(3)):
            pass
    assert left() == []


@pytest.mark.parametrize("saves", [0, 2], ids=["first", "in place"])
def test_a_progress_file_that_comes_to_its_place_although_that_is_said_to_have_failed_counts(
    folder, monkeypatch, position, saves
):
    """What it names must not go as if nothing named it."""
    real = os.replace

    def replacing(source, target, **options):
        real(source, target, **options)
        if os.path.basename(target) == "run":
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(Stop), enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "a")
        for i in counter(range(5)):
            if i == saves:
                put(monkeypatch.setattr, "replace", replacing)
                put(monkeypatch.setattr, "pwrite", refusing(errno.EIO))
            if i == saves + 1:
                raise Stop
            seen.append(i)
    assert (position(), loaded("a"), hidden()) == (saves + 1, seen, [])


@pytest.mark.parametrize("wrong", ["fails", "writes a part"])
def test_a_write_in_place_that_fails_costs_no_position(folder, monkeypatch, wrong):
    """The one before is still there, or the new one is; where each write is of a part, the first one of this run, which
    stands in both records as long as none was flushed."""
    real = os.pwrite

    def write(file, data, at):
        if wrong == "fails":
            raise OSError(errno.EIO, "Input/output error")
        return real(file, data[:7], at)

    with contextlib.suppress(RestartError):
        for i in simple_counter("run", range(9)):
            if i == 3:
                put(monkeypatch.setattr, "pwrite", write)
            if i == 4:
                break
    put(monkeypatch.setattr, "pwrite", real)
    assert enable_counter("run").position in ((2, 3, 4) if wrong == "fails" else (1, 2, 3, 4))


def test_a_first_save_is_no_failed_write(folder, monkeypatch, clock):
    """A Ctrl-C that comes just then would show it, as what was being handled; so would one at each flush."""
    files, real = [], os.pwrite

    def writing(file, *more):
        files.append(file)
        return real(file, *more)

    put(monkeypatch.setattr, "pwrite", writing)
    for _ in simple_counter("run", range(9)):
        clock.now += 0.4
    assert len(files) > 5 and min(files) >= 0


def test_a_position_of_which_a_part_was_written_is_written_once_more(folder, clock, monkeypatch):
    """As where a disk is nearly full, or a handler of signals came in between."""
    real = _files.pwrite
    monkeypatch.setattr(_files, "pwrite", lambda file, data, at: real(file, data[:1] if len(data) < 100 else data, at))
    for i in simple_counter("run", range(99)):
        if i == 25:
            break
    assert enable_counter("run").position == 25


def test_a_save_of_which_only_a_part_could_be_written_costs_no_position(folder, monkeypatch):
    """The one before may not be on the device yet: it is brought there first, and is not what is overwritten."""
    real, times = os.pwrite, itertools.count()
    monkeypatch.setattr(_files, "now", lambda: f"{next(times)}")

    def write(file, data, at):
        real(file, data[:64], at)
        raise OSError(errno.EIO, "Input/output error")

    counter = enable_counter("run", each_save=True)
    with monkeypatch.context() as patch:
        for i in counter(range(9)):
            if i == 5:
                put(patch.setattr, "pwrite", write)
                put(patch.setattr, "replace", refusing(errno.EIO))
                with pytest.raises(RestartError, match="run: could not be saved: Input/output error"):
                    counter.save()
                break
    del counter
    assert enable_counter("run").position == 5


@pytest.mark.parametrize("kinds", ["file, folder, file", "folder, file, folder"])
def test_what_a_function_saves_may_be_a_file_once_and_then_a_folder(folder, left, kinds):
    """What was there makes room for what is not of its kind."""

    def save(path):
        kind = kinds.split(", ")[counter.position % 3]
        if kind == "folder":
            os.mkdir(path)
        Path(path, "text" if kind == "folder" else "").write_text(kind)

    with pytest.raises(Stop), enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([save], [print], ["model"])
        for i in counter(range(9)):
            if i:
                kind = kinds.split(", ")[i % 3]
                assert Path("model", "text" if kind == "folder" else "").read_text() == kind
            if i == 7:
                raise Stop
    with enable_counter("run") as counter:
        counter.save_load_funcs([save], [print], ["model"])
        assert list(counter(range(9))) == [7, 8]
    assert left() == []


def test_a_position_that_cannot_be_saved_at_all_is_an_error(folder, monkeypatch):
    """It names the file and says why."""
    with monkeypatch.context() as patch, pytest.raises(RestartError, match="run: could not be saved: No space left"):
        for i in simple_counter("run", range(9)):
            if i == 3:
                for name in ("pwrite", "write", "replace"):
                    put(patch.setattr, name, refusing(errno.ENOSPC))
    assert i == 3
    assert enable_counter("run").position in (2, 3)


@pytest.mark.parametrize("name, at", [("unlink", "run"), ("unlink", "a"), ("fsync", "run"), ("close", "run")])
def test_a_removal_that_fails_is_our_error_and_lets_go_of_the_lock(folder, monkeypatch, name, at):
    """A dead mount: never a bare OSError. The next start finishes it, or finds all of the save."""
    real = getattr(os, name)

    def fails(target, *more, **options):
        if os.path.basename(shown(target)) != at or (name == "close" and not fcntl.fcntl(target, fcntl.F_GETFL) & 3):
            return real(target, *more, **options)
        if name == "close":
            real(target)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        if name != "close":
            stack.enter_context(pytest.raises(RestartError, match="(run|a): .*Input/output error"))
        else:
            stack.enter_context(contextlib.suppress(RestartError))  # the save may be whole in spite of it
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "a")
            for _ in counter(range(2)):
                pass
            patch.setattr(os, name, fails)
    assert not os.path.exists(".run.lock") or not is_locked(".run.lock")
    assert descriptors("run") == descriptors(".run.lock") == []
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) in ((0, []), (2, []))


def test_a_loop_that_is_left_where_the_file_cannot_be_closed_says_so(folder, clock, monkeypatch):
    """What a mount had kept to itself may be lost then; the lock is let go of."""
    real, loop = os.close, simple_counter("run", range(9))
    for _ in range(4):
        next(loop)

    def closing(file):
        is_progress = shown(file) == "run" and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        real(file)
        if is_progress:
            raise OSError(errno.EIO, "Input/output error")

    with (
        monkeypatch.context() as patch,
        pytest.raises(RestartError, match="run: could not be saved: Input/output error"),
    ):
        patch.setattr(os, "close", closing)
        loop.close()
    assert os.listdir() == ["run"]
    assert enable_counter("run").position == 3


@pytest.mark.parametrize("what", ["save", "remove_files"])
def test_a_progress_file_that_cannot_be_read_is_an_error_of_what_needs_it_again(folder, monkeypatch, what):
    """Behind the loop it was let go of; it is not taken for one that somebody else has saved."""
    real, counter = os.open, enable_counter("run", each_save=True)
    for i in counter(range(9)):
        if i == 3:
            break

    def opening(path, *more, **options):
        if path == os.path.realpath("run"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *more, **options)

    with monkeypatch.context() as patch, pytest.raises(RestartError, match="run: could not be .*: Input/output"):
        patch.setattr(os, "open", opening)
        getattr(counter, what)()
    assert os.listdir() == ["run"]
    counter.save()
    assert enable_counter("run").position == 3


@pytest.mark.parametrize("name", ["unlink", "close"])
@pytest.mark.parametrize("way", ["end", "exception"])
def test_a_lock_file_that_cannot_be_removed_is_let_go_of_all_the_same(folder, monkeypatch, name, way):
    """Nothing that was saved depends on it."""
    real = getattr(os, name)

    def fails(target, *more, **options):
        if not shown(target).removesuffix(" (deleted)").endswith(".run.lock"):
            return real(target, *more, **options)
        if name == "close":
            real(target)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, contextlib.suppress(RestartError, Stop):
        with enable_counter("run") as counter:
            patch.setattr(os, name, fails)
            for i in counter(range(5)):
                if i == 3 and way == "exception":
                    raise Stop
    assert not os.path.exists(".run.lock") or not is_locked(".run.lock")
    assert descriptors(".run.lock") == []
    assert enable_counter("run").position == (3 if way == "exception" else 0)


@pytest.mark.parametrize("size", [10, 5 << 20], ids=["small", "large"])
def test_a_flush_that_fails_in_whatever_thread_is_the_failure_of_the_save(folder, monkeypatch, size):
    """And no thread stays behind."""
    threads = threading.active_count()
    says = "^run: could not be saved, writing .*/a: Input/output error; "
    with monkeypatch.context() as patch, pytest.raises(RestartError, match=says):
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object(bytearray(size), "a")
            for i in counter(range(9)):
                if i == 2:
                    patch.setattr(os, "fsync", refusing(errno.EIO))
    assert threading.active_count() == threads
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (2, bytearray(size))


@pytest.mark.parametrize("size", [10, 5 << 20], ids=["small", "large"])
def test_an_object_is_digested_as_it_is_in_its_file(folder, size, moment):
    """Whatever another thread does to it meanwhile, what is named is what is there; a large one by halves."""
    from zlib import crc32

    stopped(0, value=bytearray(os.urandom(size)))
    data = Path("a").read_bytes()
    half = len(data) // 2
    parts = [data] if size == 10 else [data[:half], data[half:]]
    assert moment()["files"]["a"] == {"size": len(data), "digest": "".join(f"{crc32(part):08x}" for part in parts)}


def test_a_large_object_is_saved_where_no_thread_can_be_started(folder, monkeypatch):
    """At the end of the interpreter, and in a browser."""

    def start(*arguments, **options):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        stopped(1, value=bytearray(5 << 20))
    assert enable_counter("run").save_load_object(b"", "a") == bytearray(5 << 20) + b"\0"


@pytest.mark.parametrize("is_lasting", [False, True], ids=["in one thread", "lasting"])
def test_a_digest_that_cannot_be_read_in_its_thread_is_read_again(folder, monkeypatch, is_lasting):
    """Large contents are digested while they are flushed; where reading them fails again, the save has failed."""
    real, refused = os.read, []

    def reading(file, size):
        if shown(file).startswith(".a.") and (is_lasting or not refused):
            refused.append(threading.current_thread())
            raise OSError(errno.EIO, "Input/output error")
        return real(file, size)

    stopped(1, value=bytearray(5 << 20))
    failure = pytest.raises(RestartError, match="run: could not be saved, writing .*/a: Input/output error")
    with enable_counter("run") as counter:
        value = counter.save_load_object(None, "a")
        for _ in counter(range(9)):
            value[0] = 7
            with monkeypatch.context() as patch, failure if is_lasting else contextlib.nullcontext():
                patch.setattr(os, "read", reading)
                counter.save()
            assert loaded("a")[0] == (0 if is_lasting else 7)
            assert hidden() == []
            break
        assert refused[0] is not threading.main_thread()
        assert len(refused) == 1 or is_lasting
        assert (threading.main_thread() in refused) == is_lasting


NOT_FLUSHED = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF]


@pytest.mark.parametrize("number", NOT_FLUSHED, ids=errno.errorcode.get)
@pytest.mark.parametrize("what", ["folder", "mount"])
def test_what_cannot_be_flushed_is_passed_over(folder, monkeypatch, clock, number, what):
    """A folder on some mounts, everything on others: saved as well as can be."""

    def flush(file):
        if what == "mount" or os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(Stop):
        with enable_counter("run", each_save=True) as counter:
            seen = counter.save_load_object([], "a")
            counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
            for i in counter(range(9)):
                clock.now += 2
                if i == 4:
                    raise Stop
                seen.append(i)
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object([], "a")) == (4, [0, 1, 2, 3])
    counter.save_load_funcs([print], [text_in], ["model"])
    counter.remove_files()
    for _ in simple_counter("run", range(3)):
        clock.now += 2


def test_what_is_flushed_on_macos_leaves_the_cache_of_the_disk(folder, calls, monkeypatch):
    """fsync(2) there: "the drive itself may not physically write the data"; F_FULLFSYNC of fcntl(2) lets it."""
    full = []

    def ask(file, command):
        full.append(("fsync", shown(file)) if command == 51 else command)
        raise OSError(errno.ENOTSUP, "Operation not supported")  # by a share, say: that is no failure

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", ask)
    counted(None, each_save=True)
    assert len(full) > 9
    assert full == [call for call in calls if call[0] == "fsync"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_fails_to_be_flushed_is_an_error(folder, monkeypatch, number):
    """That is another thing than one that cannot be."""

    def flush(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(RestartError, match=f"run: could not be saved: {os.strerror(number)}"):
        counted(None, each_save=True)


def test_a_file_that_has_grown_stands_before_what_it_names_is_settled(folder, calls, monkeypatch):
    """Its folder could not be flushed: the next save does that first, or the power might bring the old one back."""
    os.mkdir("objects")
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "objects/a")
    for i in counter(range(3)):
        seen.append(i)
        if i == 1:
            for _ in simple_counter("x" * 200, range(1)):
                for _ in simple_counter("y" * 200, range(1)):
                    with monkeypatch.context() as patch:
                        patch.setattr(os, "fsync", refusing(errno.EIO, ".", os.fsync))
                        with pytest.raises(RestartError, match="could not be saved: Input/output error"):
                            counter.save()
                    calls.clear()
                    counter.save()
                    settled = calls.index(("replace", "objects/.a.MARK-b"))
                    assert ("fsync", ".") in calls[:settled]
                    break
                break


# A progress file that was deleted or replaced under a running loop.


@pytest.mark.parametrize("has_object", [False, True], ids=["position", "object"])
def test_a_progress_file_that_was_deleted_is_written_anew_at_the_next_flush(folder, clock, position, has_object):
    """Within a second, and all of it."""
    counter = enable_counter("run", each_save=True)
    if has_object:
        _kept = counter.save_load_object([], "a")
    for i in counter(range(9)):
        if i == 3:
            os.unlink("run")
            clock.now += 2
        if i > 3:
            assert position() == i
    assert os.listdir() == []


def test_a_progress_file_that_was_deleted_before_the_first_save_is_written_anew(folder, position):
    """What was read of it is no reason to look for it."""
    with contextlib.suppress(Stop), enable_counter("run") as counter:
        for i in counter(range(5)):
            if i == 2:
                raise Stop
    counter = enable_counter("run", each_save=True)
    os.unlink("run")
    for i in counter(range(5)):
        if i == 3:
            assert position() == 3
    assert os.listdir() == []


def test_a_progress_file_that_was_deleted_is_written_anew_by_a_failure(folder):
    """Also where nothing was saved since."""
    with pytest.raises(Stop):
        for i in simple_counter("run", range(9)):
            if i == 3:
                os.unlink("run")
                raise Stop
    for way in (0, 1):
        with pytest.raises(Stop), enable_counter(f"run{way}") as counter:
            for i in counter(range(9)):
                if i == 2:
                    counter.save()
                    if way:
                        os.unlink(f"run{way}")
                if i == 4:
                    raise Stop
        assert enable_counter(f"run{way}").position == 4


@pytest.mark.parametrize("has_object", [False, True], ids=["position", "object"])
@pytest.mark.parametrize("data", [b"mine", b"", "another"], ids=["a note", "nothing", "another progress file"])
def test_a_progress_file_that_was_replaced_by_somebody_else_is_an_error(folder, clock, has_object, data):
    """At the next flush; it stays untouched."""
    if data == "another":
        stopped(1, path="another", name="b")
        data = Path("another").read_bytes()
    with pytest.raises(RestartError, match="run: replaced by somebody else"):
        counter = enable_counter("run", each_save=True)
        if has_object:
            _kept = counter.save_load_object([], "a")
        for i in counter(range(9)):
            assert i < 5
            if i == 3:
                os.unlink("run")
                Path("run").write_bytes(data)
                clock.now += 2
    assert Path("run").read_bytes() == data


def test_a_file_that_somebody_has_put_there_before_the_first_save_is_not_overwritten(folder):
    """It was looked for at the start, and was not there."""
    counter = enable_counter("run", each_save=True)
    Path("run").write_text("mine")
    with pytest.raises(RestartError, match="run: could not be saved|run: replaced by somebody else"):
        list(counter(range(3)))
    assert Path("run").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "mine"])
def test_a_file_that_somebody_has_put_there_stays_where_nothing_was_saved(folder, left, text):
    """There is nothing to delete; one that is empty is not taken for one of ours."""
    with enable_counter("run") as counter:
        for _ in counter(range(3)):
            Path("run").write_text(text)
    assert (left(), Path("run").read_text()) == (["run"], text)


def test_what_a_block_saves_as_it_fails_is_on_the_device(folder, calls, clock):
    """However soon after the last flush: nothing comes behind it that would flush it."""
    with pytest.raises(Stop), enable_counter("run", each_save=True) as counter:
        for i in counter(range(9)):
            if i == 3:
                calls.clear()
                raise Stop
    assert ("fsync", "run") in calls and ("fsync", ".") in calls


def test_what_a_failure_has_left_of_a_new_progress_file_is_in_no_later_saves_way(folder, left):
    """Where it could not be deleted then, say."""
    counter = enable_counter("run", each_save=True)
    Path(f".run.{zlib.crc32(b'run'):08x}-new").touch()
    assert list(counter(range(3))) == [0, 1, 2]
    assert left() == []


def test_whether_the_file_is_still_ours_is_seen_from_its_bytes(folder, clock, position):
    """A copy of it, such as an overlay or a cloud folder makes, is as good."""
    for i in simple_counter("run", range(9)):
        clock.now += 2
        if i in (3, 5):
            shutil.copy("run", "copy")
            os.replace("copy", "run")
        assert position() == (i or None)
    assert os.listdir() == []


def test_a_pipe_in_the_place_of_the_progress_file_holds_nobody_up(folder, clock, run_child):
    """It is an error, and stays: it is not ours."""

    def job(tell):
        for i in simple_counter("run", range(5)):
            clock.now += 2
            if i == 2:
                os.unlink("run")
                os.mkfifo("run")

    assert "RestartError: run: replaced by somebody else" in run_child(job).error
    assert stat.S_ISFIFO(os.stat("run").st_mode)


def test_a_progress_file_that_cannot_be_read_just_after_it_was_replaced_is_waited_for(folder, clock, monkeypatch):
    """Some mounts say for a moment that it is not there, although they list it (rclone)."""
    stopped(4)
    real, refused = os.open, []

    def opening(path, *more, **options):
        if path == os.path.realpath("run") and len(refused) < 3:
            refused.append(path)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path, *more, **options)

    monkeypatch.setattr(os, "open", opening)
    before = clock.now
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "a"), len(refused)) == (4, [0, 1, 2, 3], 3)
    assert before < clock.now < before + 1


@pytest.fixture
def disk(folder, monkeypatch):
    """The folder `mount`, as if a file system was mounted there: the number of its device, 0 while it is not."""
    os.makedirs("mount/deep")
    top, real, device = os.path.realpath("mount"), os.lstat, [1]

    def looking(path, *more, **options):
        found = real(path, *more, **options)
        if f"{os.fspath(path)}/".startswith(f"{top}/"):
            return os.stat_result((found.st_mode, found.st_ino, found.st_dev + device[0], *found[3:]))
        return found

    monkeypatch.setattr(os, "lstat", looking)
    return device


@pytest.mark.parametrize(
    ("progress", "thing"), [("mount/run", ""), ("mount/deep/run", "mount/a"), ("run", "mount/deep/a")]
)
def test_nothing_is_saved_in_a_folder_that_was_unmounted_meanwhile(folder, clock, disk, progress, thing):
    """What is made in the empty folder below would be hidden as soon as the mount is back."""
    name = thing or progress
    with pytest.raises(RestartError, match=f"{name}: its folder is not what it was; mount it again and run again"):
        counter = enable_counter(progress, each_save=True)
        if thing:
            _kept = counter.save_load_object([], thing)
        for i in counter(range(9)):
            clock.now += 2
            assert i < 4
            if i == 3:
                os.rename("mount", "elsewhere")
                os.makedirs("mount/deep")
                disk[0] = 0
    assert (os.listdir("mount"), os.listdir("mount/deep")) == (["deep"], [])
    shutil.rmtree("mount")
    os.rename("elsewhere", "mount")
    disk[0] = 2
    counter = enable_counter(progress)
    assert (counter.position, counter.save_load_object([], thing) if thing else []) == (3, [])


def test_a_folder_in_one_that_nobody_may_look_at(folder, disk, monkeypatch):
    """On Windows a folder of a share can be used by who may not even look at the one that it is in."""
    above, real = os.path.realpath("mount"), os.lstat

    def looking(path, *more, **options):
        if os.fspath(path) == above:
            raise PermissionError(errno.EACCES, "Access is denied", path)
        return real(path, *more, **options)

    monkeypatch.setattr(os, "lstat", looking)
    for start in (0, 4):
        with contextlib.suppress(ZeroDivisionError), enable_counter("mount/deep/run") as counter:
            assert counter.position == start
            for i in counter(range(9)):
                1 / (i - 4 + start)
    assert os.listdir("mount/deep") == []


def test_a_folder_that_was_mounted_again_meanwhile_is_the_same(folder, disk, position):
    """An automounter does that where nothing is open: the save at the end of ten hours must not be refused."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        _kept = counter.save_load_object([], "mount/deep/a")
        for i in counter(range(9)):
            disk[0] = 2 + i
            if i == 3:
                raise Stop
    assert (position(), loaded("mount/deep/a")) == (3, [])


def test_a_save_that_cannot_be_flushed_is_taken_back(folder, monkeypatch, position):
    """Nobody can tell whether it would be there after a power failure: the save before counts, in the file too."""
    with enable_counter("run") as counter:
        for i in counter(range(6)):
            if i in (2, 4):
                with (
                    monkeypatch.context() as patch,
                    pytest.raises(RestartError, match="run: could not be saved: Input"),
                ):
                    patch.setattr(os, "fsync", refusing(errno.EIO))
                    counter.save()
                assert position() == i - 1
            else:
                counter.save()
                assert position() == i


def test_a_save_that_cannot_be_flushed_when_it_is_taken_back_either_leaves_nothing_half_made(
    folder, monkeypatch, position
):
    """What was staged for it goes, and the save before counts."""
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        for i in counter(range(3)):
            if i == 1:
                counter.save()
            if i == 2:
                with (
                    monkeypatch.context() as patch,
                    pytest.raises(RestartError, match="run: could not be saved: Input"),
                ):
                    patch.setattr(os, "fsync", refusing(errno.EIO, "run", os.fsync))
                    counter.save()
                assert (hidden(), position(), loaded("a")) == ([], 1, [0])
            seen.append(i)


def test_a_save_that_is_taken_back_is_gone_from_the_device_before_what_it_names(folder, calls, monkeypatch):
    """Else a power failure soon after might leave a record whose object has been deleted."""
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "a")
        for i in counter(range(3)):
            seen.append(i)
            if i == 1:
                failing, real = [OSError(errno.EIO, "Input/output error")], os.fsync

                def fsync(file, failing=failing, real=real):
                    if shown(file) == "run" and failing:
                        raise failing.pop()
                    real(file)

                monkeypatch.setattr(os, "fsync", fsync)
                calls.clear()
                with pytest.raises(RestartError, match="run: could not be saved: Input"):
                    counter.save()
                assert calls[-3:] == [("pwrite", "run"), ("fsync", "run"), ("unlink", ".a.MARK-b")]
            counter.save()
    assert os.listdir() == []


def test_a_position_whose_flush_fails_by_the_clock_is_an_error(folder, clock, monkeypatch):
    """It is in the file all the same, where a start finds it, or the one before."""
    with monkeypatch.context() as patch, pytest.raises(RestartError, match="run: could not be saved: Input/output"):
        for i in simple_counter("run", range(9)):
            if i == 3:
                clock.now += 2
                patch.setattr(os, "fsync", refusing(errno.EIO))
    assert i == 3
    assert enable_counter("run").position in (3, 4)


def test_a_counter_whose_file_another_one_has_written_since_does_not_write_over_it(folder, position):
    """It had let go of the file when its loop was left; the newer one is over as well, and its save is the newest."""

    def part(counter, stop_at):
        for i in counter(range(9)):
            if i == stop_at:
                break

    older = enable_counter("run", each_save=True)
    part(older, 3)
    part(enable_counter("run", each_save=True), 6)
    with pytest.raises(
        RestartError, match="run: replaced by somebody else, or saved by another counter; make a new counter"
    ):
        older.save()
    assert os.listdir() == ["run"]
    assert position() == enable_counter("run").position == 6


def test_a_counter_that_had_let_go_takes_nothing_of_what_another_one_has_saved(folder, run_child):
    """The other one was killed when its save counted, and what belongs to it was not in its place yet."""

    def begin():
        counter = enable_counter("run", each_save=True)
        return counter, counter.save_load_object([], "a")

    def job(tell):
        counter, seen = begin()
        put(setattr, "replace", lambda source, target: os.kill(os.getpid(), signal.SIGKILL))
        for i in counter(range(9)):
            seen.append(i)

    older, seen = begin()
    for i in older(range(9)):
        if i == 3:
            break
        seen.append(i)
    run_child(job)
    assert len(os.listdir()) == 4
    with pytest.raises(RestartError, match="run: replaced by somebody else, or saved by another counter"):
        older.save()
    newer, seen = begin()
    assert (newer.position, seen) == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("happens", ["before the folder was there", "after a run in it"])
def test_a_folder_that_becomes_a_link_is_seen_as_one(folder, moment, happens):
    """What is saved is named as seen from where the link leads; the next process sees it from there."""
    os.makedirs("disk/deep/out")
    if happens == "after a run in it":
        os.mkdir("out")
        assert list(simple_counter("out/run", range(2))) == [0, 1]
        os.rmdir("out")
    else:
        with pytest.raises(RestartError, match="does not exist"):
            enable_counter("out/run")
    os.symlink("disk/deep/out", "out")
    counter = enable_counter("out/run", each_save=True)
    seen = counter.save_load_object([], "a")
    for i in counter(range(3)):
        seen.append(i)
        if i == 1:
            assert list(moment("out/run")["files"]) == ["../../../a"]


def test_what_is_above_a_folder_behind_a_link_is_where_the_system_says(folder):
    """ "link/../a" is beside the folder that the link leads to."""
    os.makedirs("disk/out")
    os.symlink("disk/out", "link")
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "link/../a")
    for i in counter(range(3)):
        seen.append(i)
        assert i == 0 or loaded("link/../a") == loaded("disk/a") == seen[:-1]


# The lock, and who uses the file.


def test_the_lock_file_is_there_from_the_start_to_the_end(folder, left):
    """It says who holds it; the lock is on it, and not on the progress file."""
    counter = enable_counter("run", each_save=True)
    assert Path(".run.lock").read_text().startswith(f"process {os.getpid()} on {os.uname().nodename}")
    for i in counter(range(3)):
        assert is_locked(".run.lock")
        assert i == 0 or not is_locked("run")
    assert left() == []


@pytest.mark.parametrize("way", ["exception", "break", "close", "thrown away", "finished in a block"])
def test_the_lock_is_let_go_of_with_the_end_of_the_loop(folder, left, way):
    """However it ends, nothing is left of it, and another process may go on."""
    if way == "exception":
        with pytest.raises(Stop):
            with enable_counter("run", each_save=True) as counter:
                for i in counter(range(9)):
                    if i == 2:
                        raise Stop
    elif way == "finished in a block":
        with pytest.raises(Stop), multi_count():
            for _ in simple_counter("run", range(2)):
                pass
            assert left() == ["run"]
            raise Stop
    else:
        loop = simple_counter("run", range(9))
        for i in loop:
            if i == 2:
                break
        if way == "close":
            loop.close()
        if way == "thrown away":
            del loop
    assert left() == ["run"]


def test_a_counter_that_is_thrown_away_lets_go(folder, left):
    """Before its loop, too."""
    counter = enable_counter("run")
    assert left() == [".run.lock"]
    del counter
    gc.collect()
    assert left() == []


@pytest.mark.parametrize(
    "content", ["process 4242 on elsewhere\n", "", "process", "process 1 on x" + " " * 4000 + "\n"], ids=len
)
def test_a_lock_file_that_a_kill_has_left_is_used_again(folder, left, content):
    """Whatever its length, and wherever it was cut; it says then who holds it now."""
    Path(".run.lock").write_text(content)
    counter = enable_counter("run")
    assert Path(".run.lock").read_text().startswith(f"process {os.getpid()} on {os.uname().nodename}")
    assert list(simple_counter("run", range(2))) == [0, 1]
    del counter
    assert left() == []


def test_a_kill_leaves_the_lock_file_and_the_next_run_takes_it(folder, run_child, left, die):
    """And goes on from what was saved."""

    def job(tell):
        for i in simple_counter("run", range(5)):
            if i == 3:
                die()

    run_child(job)
    assert left() == [".run.lock", "run"]
    assert list(simple_counter("run", range(5))) == [3, 4]
    assert left() == []


def holding(tell, size=0):
    """Hold a loop, and a lot of memory."""
    memory = b"x" * size
    with enable_counter("run", each_save=True) as counter:
        for i in counter(range(9)):
            if i == 3:
                tell(len(memory))
                signal.pause()


def test_a_second_process_is_refused_with_the_process_id_and_host_of_the_first(folder, start, clock, monkeypatch):
    """At once: the holder is alive. It is the case that will pass by itself."""
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])  # as `import multiprocessing` does
    first = start(holding)
    first.hear()
    before = clock.now
    says = f"run: in use by process {first.pid} on {re.escape(os.uname().nodename)}"
    for begin in (lambda: enable_counter("run"), lambda: simple_counter("run", range(3))):
        with pytest.raises(InUseError, match=says) as raised:
            begin()
        assert isinstance(raised.value, RestartError) and "__main__" not in str(raised.value)
    assert clock.now == before
    first.send(signal.SIGSTOP)
    with pytest.raises(InUseError, match=says):
        enable_counter("run")
    assert clock.now == before
    first.send(signal.SIGKILL)
    first.end()
    assert list(simple_counter("run", range(9))) == list(range(3, 9))


def test_a_lock_file_that_only_its_owner_may_write_to_tells_others_who_holds_it(folder, start, left, monkeypatch):
    """In a folder that a group shares. One that a kill has left is used again there, too."""

    def opening(path, flags, *more, **options):
        if shown(path) == ".run.lock" and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *more, **options)

    opened, allows = os.open, os.access
    first = start(holding)
    first.hear()
    monkeypatch.setattr(os, "open", opening)  # as for another user, which root, who may all, cannot be
    monkeypatch.setattr(os, "access", lambda path, mode: shown(path) != ".run.lock" and allows(path, mode))
    with pytest.raises(InUseError, match=f"run: in use by process {first.pid} on "):
        enable_counter("run")
    first.send(signal.SIGKILL)
    first.end()
    assert left() == [".run.lock", "run"]
    with enable_counter("run") as counter:
        assert counter.position == 3
    assert left() == ["run"]


def test_a_pipe_that_takes_the_place_of_a_lock_file_as_it_is_opened_holds_nobody_up(folder, monkeypatch):
    """Nor where it is there to read alone."""
    os.mkfifo(".run.lock")
    kind_of = _files.kind_of
    monkeypatch.setattr(_files, "kind_of", lambda path: kind_of(path).replace("other", "file"))
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith(".lock"))
    assert list(simple_counter("run", range(3))) == [0, 1, 2]


def test_a_holder_whose_name_has_brackets_in_it_is_an_error_like_any_other(folder, start):
    """What the kernel says of a process has its name in brackets."""

    def hold(tell):
        Path("/proc/self/comm").write_text("a) b c d e f g")
        counter = enable_counter("run")
        tell(counter.position)
        time.sleep(60)

    child = start(hold)
    child.hear()
    with pytest.raises(InUseError, match=f"run: in use by process {child.pid} on "):
        enable_counter("run")


def test_a_holder_that_is_dying_is_waited_for(folder, start):
    """A killed process holds its locks until its memory is freed."""
    first = start(holding, 300 << 20)
    first.hear()
    first.send(signal.SIGKILL)
    assert list(simple_counter("run", range(9))) == list(range(3, 9))


def saying_nothing(tell):
    """Hold the lock without having said who it is."""
    file = os.open(".run.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    tell("locked")
    signal.pause()


def test_a_holder_that_has_not_said_who_it_is_is_waited_for_and_then_refused(folder, clock, start):
    """It is only just starting, and will say so; or it cannot."""

    start(saying_nothing).hear()
    before = clock.now
    with pytest.raises(InUseError, match="run: in use by another process"):
        enable_counter("run")
    assert before < clock.now < before + 60


def test_a_ctrl_c_need_not_wait_for_a_holder_that_is_about_to_end(folder, start, monkeypatch):
    """It is the user's word, which comes before the library's patience; nothing is left of the start."""

    def interrupted(seconds):
        naps.append(seconds)
        signal.raise_signal(signal.SIGINT)

    start(saying_nothing).hear()
    naps = []
    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        enable_counter("run")
    assert len(naps) == 1 and os.listdir() == [".run.lock"]


def test_a_holder_on_another_machine_is_not_looked_for_here(folder, clock, start):
    """A process id says nothing on another host: refused at once."""

    def job(tell):
        Path(".run.lock").write_text("process 4194305 on another-machine\n")  # no such process is here
        file = os.open(".run.lock", os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        tell("locked")
        signal.pause()

    start(job).hear()
    before = clock.now
    with pytest.raises(InUseError, match="run: in use by process 4194305 on another-machine"):
        enable_counter("run")
    assert clock.now == before


def test_of_many_processes_that_start_at_once_one_is_let_in(folder, start, left):
    """Each of the others is refused; nobody writes over anybody."""

    def job(tell):
        try:
            counter = enable_counter("run", each_save=True)
        except InUseError:
            tell("refused")
        else:
            tell("in")
            signal.sigwait([signal.SIGUSR1])
            tell(list(counter(range(2))))

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        children = [start(job) for _ in range(6)]
        heard = [child.hear() for child in children]
        assert sorted(heard) == ["in", *["refused"] * 5]
        winner = children[heard.index("in")]
        winner.send(signal.SIGUSR1)
        assert winner.end().told == ["in", [0, 1]]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert left() == []


def test_a_lock_file_that_goes_or_is_replaced_while_it_is_taken_is_looked_at_again(folder, monkeypatch):
    """The holder before has just ended, and deleted it: a lock on a file that is not at its place protects nothing."""
    flock, times = fcntl.flock, []

    def locking(file, operation):
        done = flock(file, operation)
        if len(times) < 2:
            times.append(file)
            os.unlink(".run.lock")
            if len(times) == 2:
                Path(".run.lock").touch()
        return done

    monkeypatch.setattr(fcntl, "flock", locking)
    counter = enable_counter("run")
    assert counter.position == 0 and len(times) == 2
    assert os.stat(".run.lock").st_ino in {os.fstat(file).st_ino for file in descriptors(".run.lock")}
    assert len(descriptors(".run.lock")) == 1


def test_a_lock_file_that_goes_before_it_is_opened_is_made_again(folder, monkeypatch):
    """Its holder was just about to end when this one looked."""
    real, gone = os.open, []

    def opening(path, flags, *more, **options):
        if path == os.path.realpath(".run.lock") and not flags & os.O_CREAT and not gone:
            gone.append(path)
            os.unlink(path)
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", opening)
    Path(".run.lock").write_text("process 4242 on elsewhere\n")
    counter = enable_counter("run")
    assert counter.position == 0 and gone
    assert Path(".run.lock").read_text().startswith(f"process {os.getpid()} ") and is_locked(".run.lock")


def test_no_two_lock_files_say_the_same(folder):
    """In two containers a process may have the same number, host name and second, and see the same folder."""
    said = set()
    for _ in range(3):
        counter = enable_counter("run")
        said.add(Path(".run.lock").read_bytes())
        del counter
    assert len(said) == 3


def test_a_lock_file_that_cannot_be_closed_is_in_nobodys_way(folder, left, monkeypatch):
    """It has gone, and the lock with it."""
    real = os.close

    def close(file):
        is_lock = shown(file) == ".run.lock (deleted)"
        real(file)
        if is_lock:
            failed.append(file)
            raise OSError(errno.EIO, "Input/output error")

    failed = []
    put(monkeypatch.setattr, "close", close)
    for _ in range(2):
        assert list(simple_counter("run", range(3))) == [0, 1, 2]
    assert failed and left() == []


def test_a_commit_that_was_cut_short_is_finished_where_the_folder_was_moved_to(folder, left, run_child):
    """The marks of hidden names tell where the progress file is from there, and not where the folder is."""

    def job(tell):
        real = os.replace

        def replace(source, target, **options):
            if shown(source).startswith(".a."):
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target, **options)

        with enable_counter("run", each_save=True) as counter:
            kept = counter.save_load_object([], "a")
            for i in counter(range(6)):
                kept.append(i)
                if i == 2:
                    put(setattr, "replace", replace)

    run_child(job)
    assert len(left()) == 4
    moved = folder.parent / "moved"
    os.rename(folder, moved)
    os.chdir(moved)
    with enable_counter("run") as counter:
        assert counter.position == 3
        assert counter.save_load_object([], "a") == [0, 1, 2]
        list(counter(range(6)))
    assert os.listdir() == []


def locked_by(number, host=None):
    """Return a job that holds the lock and says that the process of this number does."""

    def job(tell):
        said = f"process {number} on {host or os.uname().nodename}, since 2026\n"
        Path(".run.lock").write_bytes(os.fsencode(said))
        file = os.open(".run.lock", os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        tell("locked")
        signal.pause()

    return job


def test_a_holder_that_has_gone_just_now_is_waited_for(folder, clock, start):
    """What it had open goes with it, in a moment; where a child of it has the lock still, the way is not free."""
    start(locked_by(2**22 + 1)).hear()  # there is no process of this number
    before = clock.now
    with pytest.raises(InUseError, match="run: in use by process 4194305"):
        enable_counter("run")
    assert before + 1 < clock.now < before + 60


def test_a_mount_that_lets_nobody_change_modes_is_in_nobodys_way(folder, monkeypatch, left):
    """Some network and container mounts: what a function has staged goes all the same."""

    def refuse(path, mode, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([folder_of("text")], [print], ["model"])
        for i in counter(range(6)):
            assert i < 2 or "model" in left()
    assert left() == []


@pytest.mark.parametrize("host", ["名前", os.fsdecode(b"pc-\xff")], ids=["text", "bytes"])
def test_a_machine_whose_name_is_not_ascii_knows_its_own_processes(folder, clock, start, monkeypatch, host):
    """What its lock file says is its name, and not what is left of that in ASCII."""
    monkeypatch.setattr(_files, "HOST", host)
    counter = enable_counter("run")
    assert Path(".run.lock").read_bytes().startswith(os.fsencode(f"process {os.getpid()} on {host}, since "))
    del counter
    start(locked_by(2**22 + 1, host)).hear()
    before = clock.now
    with pytest.raises(InUseError, match=f"run: in use by process 4194305 on {host};"):
        enable_counter("run")
    assert before + 1 < clock.now


def test_where_the_kernel_does_not_say_who_is_dying_nobody_is_waited_for(folder, clock, start, monkeypatch):
    """There is no /proc on macOS."""
    start(locked_by(2**22 + 1)).hear()  # nothing can be read of it
    real, before = os.path.exists, clock.now
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc") and real(path))
    with pytest.raises(InUseError, match="run: in use by process"):
        enable_counter("run")
    assert clock.now == before


@pytest.mark.parametrize("fields", ["R 1 1 1 0 -1 4194564" + " 0" * 40, "R" + " 0" * 27 + " 256" + " 0" * 10])
def test_a_holder_that_takes_long_to_die_is_waited_for_and_then_refused(folder, clock, start, monkeypatch, fields):
    """A kernel may need half a minute for its memory; one that cannot die, as in a dead mount, holds nobody up."""
    start(locked_by(os.getppid())).hear()
    Path("stat").write_text(f"{os.getppid()} (a name) with blanks) {fields}\n")
    real, before = os.open, clock.now
    here = {f"/proc/{os.getppid()}/stat": "stat"}
    monkeypatch.setattr(os, "open", lambda path, *more: real(here.get(path, path), *more))
    with pytest.raises(InUseError, match=f"run: in use by process {os.getppid()}"):
        enable_counter("run")
    assert before + 30 < clock.now < before + 600


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_does_without(folder, monkeypatch, left, number):
    """Everything else works as it does elsewhere."""
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(Stop):
        for i in simple_counter("run", range(5)):
            if i == 3:
                raise Stop
    assert list(simple_counter("run", range(5))) == [3, 4]
    assert left() == []


def test_a_lock_that_fails_for_another_reason_is_an_error(folder, monkeypatch, left):
    """It does not mean that there is no lock."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refusing(errno.EIO))
        with pytest.raises(RestartError, match="run: .*Input/output error"):
            enable_counter("run")
    assert descriptors(".run.lock") == []
    assert left() == []


def test_a_lock_file_that_another_start_is_just_looking_at_is_waited_for(folder, clock, monkeypatch):
    """It takes for a moment what may be left of a kill; the one that made it is not in its own way."""
    flock, files = fcntl.flock, []

    def locking(file, operation):
        files.append(file)
        if len(files) == 1:
            raise BlockingIOError
        return flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", locking)
    counter = enable_counter("run")
    assert counter.position == 0 and is_locked(".run.lock")
    assert len(descriptors(".run.lock")) == 1


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_newer_counter_takes_over_and_the_older_one_raises(folder, left, is_saved):
    """As when a cell is run again while the old objects are still referenced."""
    old = enable_counter("run", each_save=True)
    loop = old(range(5))
    next(loop)
    if is_saved:
        next(loop)
    new = enable_counter("run", each_save=True)
    assert new.position == is_saved
    for use in (lambda: next(loop), old.save):
        with pytest.raises((RestartError, StopIteration)) as raised:
            use()
        assert raised.type is StopIteration or "newer counter" in str(raised.value)
    assert list(new(range(5))) == list(range(is_saved, 5))
    assert left() == []


def test_a_counter_that_was_taken_over_as_it_registers_touches_nothing(folder, monkeypatch):
    """In two threads: what is staged just then is that of the newer one, and must not go as what a crash has left."""
    real, newer = os.access, []

    def access(*arguments):
        if not newer:
            newer.append(True)
            newer[0] = enable_counter("run", each_save=True)
        return real(*arguments)

    old = enable_counter("run", each_save=True)
    monkeypatch.setattr(os, "access", access)
    with pytest.raises(RestartError, match="run: a newer counter for the same path has taken over"):
        old.save_load_object([], "seen")
    assert newer[0].position == 0


def test_a_lock_that_was_taken_over_as_it_was_let_go_of_stays_locked(folder, monkeypatch):
    """The older counter is thrown away in one thread while another one makes a newer: the entry is the newer one's."""
    real, newer = sys.modules["py_restart._lock"].held, []

    class Held(real):
        def __enter__(self):
            super().__enter__()
            if not newer:
                newer.append(True)
                newer[0] = enable_counter("run", each_save=True)

    older = enable_counter("run", each_save=True)
    with monkeypatch.context() as patch:
        patch.setattr("py_restart._lock.held", Held)
        del older
        gc.collect()
    assert is_locked(".run.lock")
    assert list(newer[0](range(3))) == [0, 1, 2]


def test_a_counter_that_is_made_while_the_older_one_is_thrown_away_takes_over(folder):
    """In a finalizer of something in the same cycle: nobody is there any more who could be told."""

    class Job:
        pass

    def make():
        job = Job()
        weakref.finalize(job, lambda: made.append(enable_counter("run", each_save=True)))
        job.me, job.counter = job, enable_counter("run", each_save=True)

    made = []
    stopped(4)
    gc.collect()
    make()
    gc.collect()
    assert [counter.position for counter in made] == [4]
    assert is_locked(".run.lock") and len(descriptors(".run.lock")) == 1
    seen = made[0].save_load_object([], "a")
    seen += made.pop()(range(9))
    assert seen == list(range(9))
    assert os.listdir() == []


def test_a_thread_that_is_taken_over_writes_nothing_more(folder, position):
    """Its descriptor is of no use any more, whatever file that number is now."""
    old = enable_counter("run", each_save=True)
    loop = old(range(9))
    for _ in range(4):
        next(loop)
    new = enable_counter("run", each_save=True)
    others = [os.open(f"mine{n}", os.O_RDWR | os.O_CREAT) for n in range(9)]
    with contextlib.suppress(RestartError, StopIteration):
        next(loop)
    assert position() == 3
    assert [os.path.getsize(f"mine{n}") for n in range(9)] == [0] * 9
    for file in others:
        os.close(file)
    assert new.position == 3


def test_a_loop_that_was_taken_over_and_goes_on_in_another_thread_is_an_error_there(folder):
    """It waits for nobody: what has taken over is done with it."""
    loop, failures = simple_counter("run", range(9)), []
    next(loop)
    newer = enable_counter("run")

    def work():
        try:
            next(loop)
        except RestartError as error:
            failures.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert failures == ["run: a newer counter for the same path has taken over; use that one"]
    assert newer.position == 0


def test_a_loop_that_runs_in_another_live_thread_is_not_taken_over(folder, position):
    """That would be two workers at one job: refused as another process is. When it is over the way is free."""
    inside, go_on = threading.Event(), threading.Event()
    results = []

    def work():
        seen = []
        for i in simple_counter("run", range(5)):
            if i == 2:
                inside.set()
                go_on.wait(10)
            seen.append(i)
        results.append(seen)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(InUseError, match="run: in use by .*thread"):
            enable_counter("run")
        assert position() == 2
    finally:
        go_on.set()
        thread.join(10)
    assert results == [[0, 1, 2, 3, 4]]
    assert enable_counter("run").position == 0


@pytest.mark.parametrize("is_coroutine", [False, True])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_block_that_is_open_in_another_live_thread_is_not_taken_over(folder, left, place, is_coroutine):
    """Before its loop and behind it, while the result is written: two workers would do that, and the first one fail."""
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def wait_at(here):
        if here == place:
            inside.set()
            go_on.wait(10)

    def work():
        with enable_counter("run", each_save=True) as counter:
            wait_at("before")
            seen.extend(counter(range(3)))
            wait_at("behind")

    async def work_in_task():
        with enable_counter("run", each_save=True) as counter:
            await asyncio.to_thread(wait_at, "before")
            seen.extend(counter(range(3)))
            await asyncio.to_thread(wait_at, "behind")

    thread = threading.Thread(target=(lambda: asyncio.run(work_in_task())) if is_coroutine else work)
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(InUseError, match="run: in use by .*thread"):
            enable_counter("run")
    finally:
        go_on.set()
        thread.join(10)
    assert (seen, left()) == ([0, 1, 2], [])
    assert enable_counter("run").position == 0


def test_a_block_in_a_generator_that_has_been_left_in_a_thread_which_lives_on_is_taken_over(folder):
    """What has failed keeps the generator; nobody is in it."""
    kept, is_left, go_on = [], threading.Event(), threading.Event()

    def items():
        with enable_counter("run", each_save=True) as counter:
            yield from counter(range(5))

    def fail():
        for i in items():
            if i == 2:
                raise Stop

    def work():
        try:
            fail()
        except Stop as error:
            kept.append(error)
        is_left.set()
        go_on.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert is_left.wait(10)
        assert enable_counter("run").position == 2
    finally:
        go_on.set()
        thread.join(10)


def test_a_loop_that_a_dead_thread_has_left_is_taken_over(folder):
    """A variable holds it still; nobody runs it any more."""
    loops = []

    def work():
        loops.append(simple_counter("run", range(5)))
        for _ in range(3):
            next(loops[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert enable_counter("run").position == 2


def test_a_forked_child_neither_holds_the_lock_nor_writes(folder, start, run_child, position):
    """A worker that outlives its parent holds nobody up."""

    def job(tell):
        for i in simple_counter("run", range(6)):
            if i == 2 and os.fork() == 0:
                os.setsid()
                tell(("child", os.getpid()))
                signal.pause()
            elif i == 3:
                tell(("parent", 0))
                os._exit(0)

    parent = start(job)
    told = dict([parent.hear(), parent.hear()])
    os.waitpid(parent.pid, 0)
    try:
        assert position() == 3
        counter = enable_counter("run")
        assert counter.position == 3
    finally:
        os.kill(told["child"], signal.SIGKILL)
        parent.status = 0
        parent._pipe.close()


def test_a_forked_child_that_goes_on_with_the_loop_writes_nothing(folder, run_child, position):
    """Neither a position nor an object."""

    def job(tell, has_object):
        counter = enable_counter("run", each_save=True)
        if has_object:
            _kept = counter.save_load_object([], "a")
        for i in counter(range(6)):
            if i == 2:
                if child := os.fork():
                    os.waitpid(child, 0)
                    tell("parent")
                    os._exit(0)
                tell("child")

    for has_object in (False, True):
        assert sorted(run_child(job, has_object).told) == ["child", "parent"]
        assert position() == 2
        counter = enable_counter("run")
        if has_object:
            assert counter.save_load_object(None, "a") == []
        counter.remove_files()
        del counter


def test_what_another_process_has_taken_up_is_not_removed(folder, start, left):
    """A loop that was left by `break` holds no lock any more: to forget takes it again."""

    def job(tell):
        for i in simple_counter("run", range(9)):
            if i == 5:
                tell(i)
                signal.pause()

    counter = enable_counter("run", each_save=True)
    for i in counter(range(9)):
        if i == 3:
            break
    child = start(job)
    child.hear()
    with pytest.raises(InUseError, match=f"run: in use by process {child.pid}"):
        counter.remove_files()
    assert left() == [".run.lock", "run"]


@contextlib.contextmanager
def at_line(number, name, do):
    """Do something before the n-th line that is run of a module of the package; yield how many lines are left to it."""
    import py_restart

    path, left = os.path.join(os.path.dirname(py_restart.__file__), name), [number]

    def see(code):
        if code.co_filename == path:
            left[0] -= 1
            if left[0] == -1:
                do()

    def trace(frame, event, argument):
        if event == "line":
            see(frame.f_code)
        return trace if frame.f_code.co_filename == path else None

    if sys.version_info < (3, 12):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield left
        finally:
            sys.settrace(before)
    else:
        monitoring, tool = sys.monitoring, 4
        monitoring.use_tool_id(tool, "at_line")
        monitoring.register_callback(tool, monitoring.events.LINE, lambda code, line: see(code))
        monitoring.set_events(tool, monitoring.events.LINE)
        try:
            yield left
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)


@pytest.fixture
def when_waiting(monkeypatch):
    """Have something done as a counter is about to wait for another thread: `when_waiting.append(function)`."""
    real, steps = threading.RLock, []

    class Turn:
        def __init__(self):
            self.lock = real()
            self.release = self.lock.release

        def acquire(self, *arguments, **named):
            if steps and threading.current_thread() is threading.main_thread():
                steps.pop()()
            return self.lock.acquire(*arguments, **named)

        def __enter__(self):
            self.acquire()

        def __exit__(self, *_):
            self.release()

    monkeypatch.setattr(threading, "RLock", Turn)
    return steps


def test_a_loop_that_begins_while_a_newer_counter_waits_for_it_goes_on(folder, when_waiting):
    """As in a queue that delivers a task twice: no item is done by both."""
    counter, done, begun, goes_on = enable_counter("run", each_save=True), [], threading.Event(), threading.Event()

    def work():
        for i in counter(range(3)):
            begun.set()
            goes_on.wait(60)
            done.append(i)

    thread = threading.Thread(target=work)
    when_waiting.append(lambda: (thread.start(), begun.wait(60)))
    with pytest.raises(InUseError, match="run: in use by a loop that runs in another thread"):
        enable_counter("run")
    goes_on.set()
    thread.join(60)
    assert done == [0, 1, 2]


def test_a_counter_that_is_taken_over_from_as_its_loop_begins_does_no_item(folder, when_waiting):
    """The newer one is in another thread, and does all of them."""
    loop, newer = iter(enable_counter("run", each_save=True)(range(3))), []
    thread = threading.Thread(target=lambda: newer.extend(simple_counter("run", range(3))))
    when_waiting.append(lambda: (thread.start(), thread.join(60)))
    with pytest.raises(RestartError, match="run: a newer counter for the same path has taken over"):
        next(loop)
    assert newer == [0, 1, 2]


def test_a_child_that_is_forked_while_a_counter_is_thrown_away_does_not_have_its_lock(folder, left):
    """The garbage collector has taken the references to it back by then, and has called nothing of it yet."""
    found = []

    class Forks:
        def __del__(self):
            child = os.fork()
            if child == 0:
                os._exit(len(descriptors(".run.lock")))
            found.append((len(descriptors(".run.lock")), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))

    gc.collect()
    cycle = [Forks()]
    cycle += [cycle, enable_counter("run")]
    del cycle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside threads
        gc.collect()
    assert (found, left()) == ([(1, 0)], [])


def test_a_lock_file_that_was_still_empty_when_it_was_read_is_not_taken_for_the_next_one(folder, start, monkeypatch):
    """Its maker may end, and a third process make another, before the lock on it is free."""
    real, children = os.open, []

    def hold(tell):
        os.open = real
        counter = enable_counter("run")
        tell(counter.position)
        signal.pause()

    def late(path, flags, *rest, **named):
        file = real(path, flags, *rest, **named)
        if not children and os.path.basename(path) == ".run.lock" and flags & os.O_ACCMODE == os.O_RDWR:
            os.unlink(path)
            children.append(start(hold))
            children[0].hear()
        return file

    Path(".run.lock").touch()
    monkeypatch.setattr(os, "open", late)
    with pytest.raises(InUseError, match="in use by process"):
        enable_counter("run")
    assert f"process {children[0].pid} on" in Path(".run.lock").read_text()


def test_a_fork_at_any_line_of_letting_go_keeps_the_lock_from_nobody(folder, start, left, clock):
    """Another thread does it. The child has loops of its own; what its parent has let go of is free."""

    def child(tell):
        tell(list(simple_counter("mine", range(2))))
        signal.sigwait([signal.SIGUSR1])

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        for number in itertools.count():
            children, loop = [], simple_counter("run", range(3))
            thread = threading.Thread(target=lambda children=children: children.append(start(child)))
            assert next(loop) == 0
            with at_line(number, "_lock.py", lambda thread=thread: (thread.start(), thread.join())) as lines:
                assert list(loop) == [1, 2]
            if lines[0] >= 0:
                break
            assert children[0].hear() == [0, 1]
            assert left() == []
            assert list(simple_counter("run", range(3))) == [0, 1, 2]
            children[0].send(signal.SIGUSR1)
            assert children[0].end().status == 0
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert number > 5 and clock.now == 1000.0


def test_an_exception_at_any_line_of_taking_the_lock_leaves_it_free(folder, run_child, left):
    """Threads can be made to raise one anywhere (`PyThreadState_SetAsyncExc`), which time limits do."""

    def fail():
        raise Kill

    def job(tell):
        for number in itertools.count():
            with contextlib.suppress(Kill):
                with at_line(number, "_lock.py", fail):
                    counter = enable_counter("run")
                break
            assert not os.path.exists(".run.lock") or not is_locked(".run.lock")
            assert list(simple_counter("run", range(2))) == [0, 1]
            tell(left())
        tell(counter.position)

    told = run_child(job)
    assert told.error is None
    assert told.told == [[]] * (len(told.told) - 1) + [0] and len(told.told) > 10


def test_an_exception_right_behind_the_writing_of_a_record_leaves_the_new_moment(folder, monkeypatch):
    """It is not known to have been written; what was staged for it is needed all the same."""
    counter, real = enable_counter("run", each_save=True), _files.pwrite
    done = counter.save_load_object([], "done")

    def strike(*arguments):
        real(*arguments)
        raise Kill

    with pytest.raises(Kill):
        for i in counter(range(5)):
            done.append(i)
            if i == 2:
                monkeypatch.setattr(_files, "pwrite", strike)
    monkeypatch.setattr(_files, "pwrite", real)
    counter = enable_counter("run", each_save=True)
    assert (counter.position, counter.save_load_object([], "done")) == (3, [0, 1, 2])


@pytest.mark.parametrize("error", [Kill, TimeoutError])
@pytest.mark.parametrize("struck", [0, 2])  # the first save, for which there is no file yet, and one in place
@pytest.mark.parametrize("name", ["_journal.py", "_storage.py"])
def test_an_exception_at_any_line_of_a_save_leaves_one_whole_moment(folder, run_child, name, struck, error):
    """A time limit of another thread, a debugger, the want of memory: the record may be written, and nobody knows."""

    def fail():
        raise error

    def job(tell):
        sys.settrace(None)  # up to 3.11 that of `coverage` would come back, and end ours
        sys._getframe().f_trace = None
        for number in itertools.count():
            lines = [-1]
            with contextlib.suppress(error, RestartError), contextlib.ExitStack() as stack:
                with enable_counter("run", each_save=True) as counter:
                    done = counter.save_load_object([], "done")
                    for i in counter(range(5)):
                        done.append(i)
                        if i == struck:
                            lines = stack.enter_context(at_line(number, name, fail))
                        elif i == struck + 1:
                            stack.close()
                            raise error
            if lines[0] >= 0:
                break
            with enable_counter("run", each_save=True) as counter:
                tell([counter.position, *counter.save_load_object([], "done")])
                counter.remove_files()

    told = run_child(job)
    assert told.error is None
    former, new = ([n, *range(n)] for n in (struck, struck + 1))
    assert [one for one in told.told if one not in (former, new)] == []
    assert told.told.count(former) > 5 and told.told.count(new) > 5


@pytest.mark.parametrize("source", [range, lambda length: iter(range(length))], ids=["range", "any"])
def test_a_time_limit_at_any_line_of_a_loop_that_fails_takes_no_lock_and_no_item_along(folder, run_child, left, source):
    """The handler raises: that waits, or Python drops it, and the block finds out that the loop was left.

    What was drawn and not delivered is still to run.
    """

    armed = []

    def limit(number, frame):
        if armed:
            armed.clear()
            raise Kill

    def job(tell):
        sys.unraisablehook = lambda dropped: None
        signal.signal(signal.SIGALRM, limit)
        counter, lines = None, [-1]
        for number in itertools.count():
            delivered = 0
            with contextlib.suppress(Kill, Stop):
                try:
                    armed.append(True)
                    with at_line(number, "_loop.py", lambda: signal.raise_signal(signal.SIGALRM)) as lines:
                        with enable_counter("run") as counter:
                            for i in counter(source(9)):
                                delivered += 1
                                if i == 3:
                                    raise Stop
                finally:
                    time.sleep(0.02)  # it may come again, or later, where it matters no more
                    armed.clear()
            if lines[0] >= 0:
                break
            assert left() in ([], ["run"])
            tell([counter.position if counter else 0, delivered])
            enable_counter("run").remove_files()

    told = run_child(job)
    assert told.error is None
    assert len(told.told) > 20 and told.told[-5:] == [[3, 4]] * 5
    assert [one for one in told.told if one[0] > one[1]] == []


def test_a_child_that_is_forked_during_a_save_does_not_have_the_lock(folder, monkeypatch, recwarn):
    """The lock, that is: nobody has to wait for the child."""
    told, real = [], os.fsync

    def fork(file):
        child = os.fork()
        if child == 0:
            os._exit(len(descriptors(".run.lock")))
        told.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return real(file)

    monkeypatch.setattr(os, "fsync", fork)
    with contextlib.suppress(Stop):
        counted(2, each_save=True)
    recwarn.clear()
    assert told and set(told) == {0}


# Names that somebody has planted, and files that are not ours.


@pytest.fixture
def victim(tmp_path):
    """Make a file of somebody else, elsewhere."""
    path = tmp_path / "victim"
    path.write_text("mine")
    os.chmod(path, 0o600)
    yield path
    assert path.read_text() == "mine" and not path.is_symlink()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_the_lock_is_not_followed(folder, victim):
    """In a shared folder somebody could point it anywhere."""
    os.symlink(victim, ".run.lock")
    with contextlib.suppress(RestartError):
        enable_counter("run")
    os.unlink(".run.lock")
    os.symlink(folder / "missing", ".run.lock")
    with contextlib.suppress(RestartError):
        enable_counter("run")
    assert not os.path.exists("missing")


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("kind", ["object", "function", "progress"])
def test_a_link_in_the_place_of_what_is_staged_is_not_followed(folder, victim, monkeypatch, when, kind):
    """Whether it was there before, or was planted just before the file is made."""
    names, create, mkdir = set(), os.open, os.mkdir

    def opening(path, flags, *more, **options):
        if flags & os.O_CREAT and not path.endswith(".lock"):
            names.add(path)
        return create(path, flags, *more, **options)

    def making(path, *more, **options):
        names.add(path)
        return mkdir(path, *more, **options)

    def job():
        with enable_counter("run", each_save=True) as counter:
            if kind == "object":
                _kept = counter.save_load_object([], "a")
            if kind == "function":
                counter.save_load_funcs([folder_of("text")], [text_in], ["a"])
            for i in counter(range(4)):
                if i == 3:
                    raise Stop

    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(os, "open", opening)
        patch.setattr(os, "mkdir", making)
        job()
    names = {name for name in names if os.path.basename(name).startswith(".")}
    assert names
    shutil.rmtree(folder)
    os.mkdir(folder)
    os.chdir(folder)

    def planting(real):
        def call(path, *more, **options):
            if path in names and not os.path.lexists(path):
                os.symlink(victim, path)
            return real(path, *more, **options)

        return call

    if when == "before":
        for name in names:
            os.symlink(victim, name)
    else:
        monkeypatch.setattr(os, "open", planting(os.open))
        monkeypatch.setattr(os, "mkdir", planting(os.mkdir))
    with contextlib.suppress(Stop, RestartError):
        job()


def test_a_link_of_another_user_in_the_place_of_the_progress_file_is_not_followed(folder, tmp_path, monkeypatch):
    """As in /tmp: the kernel does not follow one there either."""
    (tmp_path / "home").mkdir()
    os.symlink(tmp_path / "home" / "planted", "run")
    folder.chmod(0o1777)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.stat(folder).st_uid + 1)
        with pytest.raises(RestartError, match="run: cannot be used: only its owner may replace it .sticky bit.: "):
            stopped(3)
    assert os.listdir(tmp_path / "home") == []
    stopped(3)  # a link of one's own is as good as a file
    assert os.listdir(tmp_path / "home") == ["planted"]


@pytest.mark.parametrize("name", [".run.MARK-new", ".a.MARK-a", ".a.MARK-b"])
def test_a_folder_of_another_user_in_the_place_of_what_is_staged_is_not_emptied(folder, monkeypatch, name):
    """As in /tmp: between two names its owner may put a link in its place, to where files have the same names."""
    planted = Path(name.replace("MARK", f"{zlib.crc32(b'run'):08x}"))
    planted.mkdir()
    (planted / "thesis").touch()
    folder.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(RestartError, match=f"only its owner may replace it .sticky bit.: {folder / planted}; "):
        counted(each_save=True)
    assert (planted / "thesis").exists()
    folder.chmod(0o777)  # anybody who may write in the folder may delete it
    assert counted(each_save=True) == [*range(9)]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_the_mode_that_its_owner_gave_it(folder, mode):
    """An object's, a function's, and the progress file's where it grows."""
    counter = enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "a")
    counter.save_load_funcs([lambda path: Path(path).touch()], [print], ["file"])
    for i in counter(range(3)):
        if i == 1:
            for name in ("a", "file", "run"):
                os.chmod(name, mode)
            for _ in simple_counter("x" * 200, range(2)):
                for _ in simple_counter("y" * 200, range(2)):
                    pass
            assert os.path.getsize("run") > 3 * 512
        if i == 2:
            assert [os.stat(name).st_mode & 0o777 for name in ("a", "file", "run")] == [mode] * 3


def test_what_is_staged_can_be_read_by_nobody_who_may_not_read_what_it_replaces(folder):
    """Not even for the moment in which it is written; where nothing was there, the umask says who may."""

    def staged(name):
        return stat.S_IMODE(next(Path().glob(f".{name}.*-[ab]")).stat().st_mode)

    def save(path):
        Path(path).touch()
        modes.append((staged("a"), staged("file")))

    os.umask(umask := os.umask(0))
    modes, counter = [], enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "a")
    counter.save_load_funcs([save], [print], ["file"])
    for i in counter(range(3)):
        if i == 1:
            os.chmod("a", 0o600)
            os.chmod("file", 0o640)
    assert modes == [(0o666 & ~umask, 0o777 & ~umask), *[(0o600, 0o750 & ~umask)] * 2]


@pytest.mark.parametrize("name", ["run", "a"])
def test_a_file_of_another_user_that_only_its_owner_may_replace_is_an_error_at_the_start(folder, monkeypatch, name):
    """As in /tmp: a plain block would find out as it saves, after ten hours."""
    path = "run" if name == "run" else folder.parent / "run"
    stopped(3, path=path)
    before = os.stat(name)
    folder.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: before.st_uid + 1)
    says = f"{name}: cannot be used: only its owner may replace it .sticky bit.(: .*)?; mend that, or give another path"
    with pytest.raises(RestartError, match=says):
        counted(path=path)
    assert os.stat(name).st_mtime == before.st_mtime
    folder.chmod(0o777)  # anybody who may write in the folder may replace it
    assert counted(path=path) == [*range(9)]


def test_what_takes_the_place_of_a_file_and_is_none_keeps_its_own_mode(folder):
    """A folder with that of a file could not be entered, and a link would hand it to what it leads to."""
    written = iter((Path.touch, lambda path: path.symlink_to(folder / "foreign"), Path.touch, Path.mkdir))
    Path("foreign").touch(0o600)
    os.umask(umask := os.umask(0))
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: next(written)(path)], [print], [Path("a")])
    for i in counter(range(4)):
        if i == 2:
            assert os.path.islink("a")
        if i == 3:
            assert os.stat("a").st_mode & 0o777 == 0o666 & ~umask  # not that of the link
        if i in (1, 3):
            os.chmod("a", 0o644)
        assert os.stat("foreign").st_mode & 0o777 == 0o600


def test_a_new_file_has_the_mode_that_the_program_gives_its_files(folder):
    """That is what the umask says."""
    before = os.umask(0o027)
    try:
        stopped(2)
        assert [os.stat(name).st_mode & 0o777 for name in ("a", "run")] == [0o640] * 2
    finally:
        os.umask(before)


def test_whether_a_progress_file_is_there_is_told_by_reading_it(folder, monkeypatch):
    """To ask for it says no as well where the disk fails: then all would start afresh, and the save go."""
    stopped(4)
    monkeypatch.setattr(os, "access", lambda path, mode, real=os.access: "run" not in path and real(path, mode))
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "a")) == (4, [0, 1, 2, 3])


def test_a_staging_folder_that_could_not_be_deleted_once_is_in_no_later_saves_way(folder, left, monkeypatch):
    """A loader may have had something in it open."""
    real, refused = os.rmdir, []

    def removing(path, **options):
        if not refused and "-a" in path:
            refused.append(path)
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", removing)
    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([lambda path: Path(path).write_text("text")], [loaded], ["a"])
        assert list(counter(range(6))) == [0, 1, 2, 3, 4, 5]
    assert len(refused) == 1
    assert left() == []


def test_a_lock_file_that_cannot_be_deleted_is_an_error_that_names_it(folder, clock, monkeypatch, run_child, die):
    """A killed run of another user has left it, in a folder in which everybody deletes what is his own."""

    def job(tell):
        with enable_counter("run"):
            die()

    run_child(job)

    def refuse(path, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    real, wrong = os.close, []

    def closing(file):
        try:
            real(file)
        except OSError as error:
            wrong.append(error)
            raise

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "close", closing)
    began = clock.now
    where = re.escape(os.path.realpath(".run.lock"))
    with pytest.raises(RestartError, match=f"run: cannot be locked with {where}: Operation not permitted; mend"):
        enable_counter("run")
    assert clock.now < began + 5
    assert wrong == []  # no descriptor is closed twice: its number may be another thread's by then


def test_a_path_that_another_thread_is_letting_go_of_is_waited_for(folder, left, monkeypatch):
    """It is in use by nobody but this process."""
    monkeypatch.setattr("py_restart._lock.START_SECONDS", 60)
    real, begun = os.unlink, threading.Event()

    def removing(path, **options):
        if str(path).endswith(".lock") and not begun.is_set():
            begun.set()
            time.sleep(0.2)
        real(path, **options)

    monkeypatch.setattr(os, "unlink", removing)
    thread = threading.Thread(target=list, args=[simple_counter("run", range(3))])
    thread.start()
    assert begun.wait(10)
    with enable_counter("run") as counter:
        assert left() == [".run.lock"]
        assert list(counter(range(3))) == [0, 1, 2]
    thread.join()
    assert left() == []


def test_a_counter_that_another_thread_makes_for_the_same_path_waits_for_the_first(folder, monkeypatch):
    """What a crash has left undone is done by one of them at a time."""
    stopped(4)
    real_open, real_look, reading, looks, made = os.open, os.lstat, threading.Event(), [], []

    def opening(path, *more):
        if path.endswith("run") and not reading.is_set():
            reading.set()
            time.sleep(0.1)  # the other one may come in between
        return real_open(path, *more)

    def looking(path):
        if shown(path).startswith(".a."):
            looks.append(threading.current_thread().name)
        return real_look(path)

    put(monkeypatch.setattr, "open", opening)
    put(monkeypatch.setattr, "lstat", looking)
    first = threading.Thread(target=lambda: made.append(enable_counter("run")), name="1, the first")
    second = threading.Thread(target=lambda: made.append(enable_counter("run")), name="2, the second")
    first.start()
    assert reading.wait(10)
    second.start()
    first.join()
    second.join()
    assert looks == sorted(looks) and len(set(looks)) == 2


def test_a_path_that_was_released_just_as_it_was_taken_over_is_locked(folder, left, monkeypatch):
    """The older user ends in another thread, after it was seen to have the lock."""
    older = enable_counter("run")
    with monkeypatch.context() as patch:
        patch.setattr(type(older._node.storage), "is_busy", lambda self: self.release())
        newer = enable_counter("run")
    assert left() == [".run.lock"]
    with newer:
        assert list(newer(range(3))) == [0, 1, 2]
    assert left() == []


def test_a_save_function_and_another_thread_that_wait_for_each_other_come_to_an_end(folder, left, monkeypatch):
    """The function runs a counted loop; meanwhile a counter is made for the path that is being saved."""
    monkeypatch.setattr("py_restart._lock.START_SECONDS", 0.2)
    turn, saving, refused, seen = sys.modules["py_restart._lock"].turn, threading.Event(), threading.Event(), []

    def save(path):
        saving.set()
        while not refused.is_set() and turn.acquire(blocking=False):  # until the other thread has it
            turn.release()
            time.sleep(0.001)
        Path(path).write_text(str(list(simple_counter("other", range(3)))))

    def work():
        with contextlib.suppress(Stop), enable_counter("run") as counter:
            counter.save_load_funcs([save], [lambda path: seen.append(Path(path).read_text())], ["a"])
            for i in counter(range(4)):
                if i == 2:
                    raise Stop

    thread = threading.Thread(target=work)
    thread.start()
    assert saving.wait(10)
    with pytest.raises(InUseError, match="run: in use by a loop that runs in another thread"):
        enable_counter("run")
    refused.set()
    thread.join(10)
    assert not thread.is_alive()
    assert left() == ["a", "run"]
    counter = enable_counter("run")
    counter.save_load_funcs([save], [lambda path: seen.append(Path(path).read_text())], ["a"])
    assert (counter.position, seen) == (2, ["[0, 1, 2]"])


def test_what_a_save_function_counts_is_inside_no_loop(folder, left):
    """It has a file of its own: what is being saved must not change meanwhile."""
    seen = []

    def save(path):
        seen.append(list(simple_counter("other", range(3))))
        Path(path).write_text("text")

    with enable_counter("run", each_save=True) as counter:
        counter.save_load_funcs([save], [loaded], ["a"])
        assert list(counter(range(2))) == [0, 1]
    assert seen == [[0, 1, 2]] * 3
    assert left() == []


def test_a_save_function_cannot_have_what_it_saves_forgotten(folder, left):
    """Half of it would stay, and be foreign to the next run."""

    def save(path):
        Path(path).write_text("text")
        counter.remove_files()

    with pytest.raises(RestartError, match="run: is being saved just now"), enable_counter("run") as counter:
        counter.save_load_funcs([save], [loaded], ["a"])
        for _ in counter(range(3)):
            counter.save()
    assert left() == []


def test_a_child_that_a_save_function_forks_takes_nothing_away(folder, left):
    """It ends by an exception, as `sys.exit()` does: that is no failed save, and the program ends there."""

    def save(path):
        child = os.fork()
        if child == 0:
            Path(path).write_text("text")
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    here = os.getpid()
    try:
        with enable_counter("run") as counter:
            counter.save_load_funcs([save], [loaded], ["a"])
            for i in counter(range(3)):
                if i == 1:
                    raise Stop
    except SystemExit as end:
        os._exit(end.code)
    except Stop:
        os.getpid() == here or os._exit(1)
    assert left() == ["a", "run"]
    assert Path("a").read_text() == "text"


def test_the_exit_of_a_child_that_a_save_function_forks_is_no_failed_save(folder, left, monkeypatch):
    """It ends the child, and says nothing of the save, which is its parent's."""

    def save(path):
        Path(path).write_text("text")
        monkeypatch.setattr(os, "getpid", lambda: 1)  # as it is in a child
        sys.exit(7)

    with pytest.raises(SystemExit) as caught, enable_counter("run") as counter:
        counter.save_load_funcs([save], [loaded], ["a"])
        for i in counter(range(3)):
            if i == 1:
                raise Stop
    assert (caught.value.code, getattr(caught.value.__context__, "__notes__", [])) == (7, [])
    assert [name[:3] for name in left() if name not in ("run", ".run.lock")] == [".a."]


@pytest.mark.parametrize("name", ["run", ".run.lock"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_ours_is_never_overwritten_or_deleted(folder, name, kind):
    """It is named where it is in the way."""
    if kind == "link":
        os.symlink("not there", name)
    elif kind == "file":
        Path(name).write_text("my own")
    else:
        os.mkdir(name)
        Path(name, "x").write_text("my own")
    with contextlib.suppress(RestartError):
        for i in simple_counter("run", range(3)):
            if i == 2:
                break
    if kind == "link":
        assert os.readlink(name) == "not there"
    else:
        assert (Path(name) if kind == "file" else Path(name, "x")).read_text() == "my own"


@pytest.mark.parametrize("cut", [0, 20, 600, None])
def test_what_a_kill_has_left_of_a_staged_progress_file_is_in_nobodys_way(folder, left, cut):
    """Cut wherever it was, by a power failure too."""
    stopped(3)
    data = Path("run").read_bytes()[:cut]
    for is_saved in (True, False):
        if not is_saved:
            enable_counter("run").remove_files()
        Path(f".run.{zlib.crc32(b'run'):08x}-new").write_bytes(data)
        stopped(5)
        assert left() == ["a", "run"]
        assert enable_counter("run").position == 5


def test_a_foreign_file_at_an_objects_path_is_an_error_when_it_is_registered(folder):
    """It belongs to no save of this counter."""
    Path("a").write_text("mine")
    with pytest.raises(RestartError, match="a: exists already"):
        enable_counter("run").save_load_object([], "a")
    with pytest.raises(RestartError, match="a: exists already"):
        enable_counter("run").save_load_funcs([print], [print], ["a"])
    assert Path("a").read_text() == "mine"


def test_a_foreign_file_that_comes_later_is_an_error_of_the_save(folder, left):
    """Nothing is written over it, and nothing half-made stays behind."""

    def save(path):
        Path(path).write_text("two")
        Path("b").write_text("mine")

    with pytest.raises(RestartError, match="b: exists already"):
        with enable_counter("run", each_save=True) as counter:
            counter.save_load_funcs([save], [print], ["b"])
            for _ in counter(range(3)):
                pass
    assert left() == ["b"] and Path("b").read_text() == "mine"


def test_an_object_of_another_progress_file_is_foreign(folder):
    """Two jobs that save to one path would destroy each other's work."""
    stopped(3)
    before = Path("a").read_bytes()
    with pytest.raises(RestartError, match="a: exists already"):
        enable_counter("other").save_load_object([], "a")
    assert Path("a").read_bytes() == before


# Nothing is renamed or deleted while it is open (rclone, SMB, Windows).


@pytest.fixture
def strict(folder, monkeypatch):
    """Refuse to move, to replace or to delete what this process has open, but for the lock."""

    def check(path):
        if os.path.lexists(path) and not os.path.basename(path).endswith(".lock"):
            found = os.stat(path, follow_symlinks=False)
            for number in range(3, 100):
                with contextlib.suppress(OSError):
                    there = os.fstat(number)
                    assert (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino), f"{path} is open"

    def strict(real):
        def call(*paths, **options):
            for path in paths:
                check(path)
            return real(*paths, **options)

        return call

    for name in ("replace", "rename", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, strict(getattr(os, name)))


@pytest.mark.parametrize("each_save", [False, True])
@pytest.mark.parametrize("stop_at", [0, 3])
def test_nothing_is_renamed_or_deleted_while_it_is_open(folder, strict, clock, each_save, stop_at):
    """Neither by a save, nor by growing, nor by the end."""

    def job(stop_at):
        with enable_counter("run", each_save=each_save) as counter:
            seen = counter.save_load_object([], "seen")
            counter.save_load_funcs([folder_of("text")], [text_in], ["model"])
            for i in counter(range(5)):
                for _ in simple_counter("x" * 200, range(2)):
                    for _ in simple_counter("y" * 200, range(2)):
                        clock.now += 0.4
                if i == stop_at:
                    raise Stop
                seen.append(i)
        for _ in simple_counter("run", range(9)):
            clock.now += 0.4
        return seen

    with pytest.raises(Stop):
        job(stop_at)
    assert job(None) == list(range(5))
    assert os.listdir() == []


WINDOWS = """
import errno, json, logging, os, pickle, re, reprlib, signal, stat, sys, threading, types, warnings, weakref, zlib
sys.modules["fcntl"] = None
for name in ("pwrite", "pread", "register_at_fork", "O_NOFOLLOW", "O_CLOEXEC", "uname", "fchmod", "getuid", "fork"):
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP
import _signal
del _signal.SIGHUP
_signal.SIGBREAK = signal.SIGUSR2  # Ctrl-Break
os.environ["COMPUTERNAME"] = "DESKTOP-7"
locked = {}
def locking(file, mode, size):
    there = os.fstat(file).st_ino
    if mode == msvcrt.LK_UNLCK:
        locked.pop(there, None)
    elif locked.setdefault(there, file) != file:
        raise PermissionError(errno.EACCES, "Permission denied")
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.LK_UNLCK, msvcrt.LK_LOCK, msvcrt.LK_RLCK, msvcrt.LK_NBRLCK = 2, 0, 1, 1, 2
msvcrt.locking = locking
sys.modules["msvcrt"] = msvcrt
real = os.open
def opening(path, *more, **options):
    is_there = os.path.lexists(path)
    if os.path.isdir(path) or (is_there and more[0] & (os.O_RDWR | os.O_WRONLY) and is_read_only(os.stat(path))):
        raise PermissionError(errno.EACCES, "Permission denied", path)
    return real(path, *more, **options)
os.open = opening
def is_read_only(there):
    return stat.S_ISREG(there.st_mode) and not there.st_mode & stat.S_IWUSR
def strict(real):
    def call(*paths, **options):
        for path in paths:
            if os.path.lexists(path):
                there = os.stat(path, follow_symlinks=False)
                if real is unlink and is_read_only(there):
                    raise PermissionError(errno.EACCES, "Access is denied", path)
                for number in range(3, 50):
                    try:
                        found = os.fstat(number)
                    except OSError:
                        continue
                    if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                        raise PermissionError(errno.EACCES, "The process cannot access the file", path)
        return real(*paths, **options)
    return call
unlink = os.unlink
for name in ("replace", "rename", "unlink", "rmdir"):
    setattr(os, name, strict(getattr(os, name)))

platform, sys.platform = sys.platform, "win32"
from py_restart import RestartError, enable_counter, multi_count, simple_counter
sys.platform = platform

def save(path, mkdir=os.mkdir):
    mkdir(path)
    open(os.path.join(path, "x"), "w").close()
    os.chmod(os.path.join(path, "x"), stat.S_IREAD)  # as a copy of a file that cannot be written to
for kind in "ab":  # a kill has left it behind
    place = f".model.{zlib.crc32(b'run'):08x}-{kind}"
    os.mkdir(place)
    save(os.path.join(place, "model"))

def job(stop_at, each_save):
    with enable_counter("run", each_save=each_save) as counter:
        seen = counter.save_load_object([], "seen")
        counter.save_load_funcs([save], [os.listdir], ["model"])
        for i in counter(range(5)):
            for _ in simple_counter("inner", range(2)):
                pass
            if i == stop_at:
                raise KeyError
            seen.append(i)
    return seen

with open(".run.lock", "w") as file:
    file.write("process 1 on elsewhere, since 2026\\n")  # a kill has left it behind
for each_save in (False, True):
    try:
        job(3, each_save)
    except KeyError:
        print(sorted(os.listdir()))
    print(job(None, each_save), os.listdir())
for i in simple_counter("run", range(5)):
    if i == 3:
        with open("run", "rb") as file:
            print(b"DESKTOP-7" in file.read())
        break
with multi_count():
    print(list(simple_counter("run", range(5))), list(simple_counter("more", range(2))))
held = os.open(".busy.lock", os.O_RDWR | os.O_CREAT)
os.write(held, b"process 1 on elsewhere, since 2026\\n")
msvcrt.locking(held, msvcrt.LK_NBLCK, 1)
try:
    enable_counter("busy")
except RestartError as error:
    print(error)
os.close(held)
os.unlink(".busy.lock")
try:
    with enable_counter("run") as counter:
        for i in counter(range(5)):
            if i == 2:
                signal.raise_signal(signal.SIGUSR2)
except SystemExit as stop:
    counter = enable_counter("run")
    print(stop.code == 128 + signal.SIGUSR2, counter.position)
    counter.remove_files()
    del counter
def delayed(name, real):
    def call(*arguments, **options):
        if (name, *arguments[:2]) not in refused:
            refused.add((name, *arguments[:2]))
            number = errno.ENOTEMPTY if name == "rmdir" else errno.EACCES  # what is in it has only just been deleted
            raise OSError(number, "another program has it open", *arguments[:1])
        return real(*arguments, **options)
    return call
refused = set()
for name in ("open", "replace", "unlink", "mkdir", "rmdir"):
    setattr(os, name, delayed(name, getattr(os, name)))
print(job(None, True), len(refused) > 9)
print(os.listdir())
opens = os.open
def dead(path, flags, *more):
    if path.endswith(".lock") and flags & os.O_RDWR:
        raise OSError(errno.EIO, "Input/output error", path)
    return opens(path, flags, *more)
os.open = dead
try:
    enable_counter("run")
except RestartError as error:
    print(error)
print(os.listdir())
for path in ("s3://bucket/run", "s3:\\\\bucket\\\\run"):  # as a `Path` there has it
    os.sep = "\\\\" if "\\\\" in path else os.sep
    try:
        enable_counter(path)
    except ValueError as error:
        print(error)
"""


def test_the_same_promises_on_windows(folder):
    """As far as they can be tried elsewhere: no fcntl, no pwrite, no fork, and no open file can be moved or deleted."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WINDOWS], capture_output=True, text=True, timeout=30, env=environment()
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *["['model', 'run', 'seen']", "[0, 1, 2, 3, 4] []"] * 2,
        "True",
        "[3, 4] [0, 1]",
        "busy: in use by process 1 on elsewhere; wait for it to end, or stop it",
        "True 2",
        "[0, 1, 2, 3, 4] True",
        "[]",
        f"run: cannot be locked with {os.path.realpath('.run.lock')}: Input/output error; "
        "mend that, or delete that file where no program uses it, and run again",
        "[]",
        "s3://bucket/run: a URL; give the path of a file on a disk or a mount",
        "s3:\\bucket\\run: a URL; give the path of a file on a disk or a mount",
    ]


def environment():
    """Return an environment in which a child imports the same package."""
    import py_restart

    return {**os.environ, "PYTHONPATH": str(Path(py_restart.__file__).parent.parent)}


def test_a_replacement_that_another_program_delays_is_tried_again(folder, clock, monkeypatch):
    """A virus scanner, or an indexer: for a moment, on Windows; elsewhere a refusal is final."""
    if sys.platform != "win32":
        refused = []

        def replacing(source, target, **options):
            refused.append(source)
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "replace", replacing)
        before = clock.now
        with pytest.raises(RestartError, match="Permission denied"):
            stopped_at_once()
        assert len(refused) <= 2 and clock.now == before  # once a save


def stopped_at_once():
    """Save a position, without hiding what goes wrong."""
    with enable_counter("run") as counter:
        for _ in counter(range(3)):
            counter.save()


def test_a_folder_that_vanishes_during_the_work_is_an_error(folder):
    """It says so, and does not wait for it to come back."""
    os.mkdir("gone")
    with pytest.raises(RestartError, match="run: could not be saved: No such file or directory"):
        for i in simple_counter("gone/run", range(5)):
            if i == 0:
                os.rename("gone", "elsewhere")
    assert i == 0


def test_time_is_not_needed_to_tell_records_apart(folder, monkeypatch, position):
    """A clock that goes back costs nothing."""
    now = [2e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for stop in (3, 5, 7):
        now[0] -= 1e6
        with pytest.raises(Stop):
            for i in simple_counter("run", range(9)):
                if i == stop:
                    raise Stop
        assert position() == stop

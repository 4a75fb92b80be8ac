"""What a counter does: what is saved, when, where the next run starts, and who may use it."""

import atexit
import contextlib
import errno
import gc
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from py_restart import RestartError, _files, enable_counter, multi_count, simple_counter


class Stop(Exception):
    """How a job is interrupted."""


def loaded(path):
    """Return the object that is saved at a path."""
    return pickle.loads(Path(path).read_bytes())


def with_counter(seen, stop_at=None, length=10, source=range, **options):
    """Count a loop in a `with`, and raise before the item at `stop_at`."""
    with enable_counter("run", **options) as counter:
        for i in counter(source(length)):
            if i == stop_at:
                raise Stop
            seen.append(i)


def interrupted(job, *arguments, **options):
    """Run a job that ends by Stop."""
    with pytest.raises(Stop):
        job(*arguments, **options)
    gc.collect()


# The four rows of the table.


def test_a_with_saves_once_when_it_ends_by_an_exception(folder, left, position):
    """Everything, as it is at that moment; until then there is the lock, and no progress file."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                assert left() == [".run.lock"]
                if i == 4:
                    raise Stop
                seen.append(i)
    assert left() == ["run", "seen"]
    assert (position(), loaded("seen")) == (4, [0, 1, 2, 3])


def test_a_with_resumes_at_the_item_that_failed(folder, left):
    """The item in which it happened runs again, those before it do not."""
    first, second = [], []
    interrupted(with_counter, first, 4)
    with_counter(second)
    assert (first, second) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert left() == []


def test_what_the_failed_item_had_changed_is_in_the_save_of_a_with(folder, position):
    """The moment is that of the exception, in the middle of the item."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                seen.append(i)
                if i == 4:
                    raise Stop
    assert (position(), loaded("seen")) == (4, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_a_with_saves_after_any_exception(folder, error, position):
    """Exceptions that are no `Exception` are stops like all others, and stay the ones that are raised."""
    with pytest.raises(error):
        with enable_counter("run") as counter:
            for i in counter(range(10)):
                if i == 4:
                    raise error
    assert position() == 4


@pytest.mark.parametrize("span, saved", [(1, 7), (3, 6), (10, 0)])
@pytest.mark.parametrize("used_with", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("has_object", [True, False], ids=["object", "position"])
def test_each_save_saves_at_the_boundary_after_every_nth_item(
    folder, run_child, die, span, saved, used_with, has_object
):
    """After a kill in item 7 the next run starts after the last saved boundary, with the objects as they were there."""

    def job(tell):
        counter = enable_counter("run", each_save=True, save_span=span)
        seen = counter.save_load_object([], "seen") if has_object else []
        if used_with:
            counter.__enter__()
        for i in counter(range(10)):
            seen.append(i)
            if i == 7:
                die()

    run_child(job)
    counter = enable_counter("run", each_save=True, save_span=span)
    seen = counter.save_load_object([], "seen") if has_object else []
    assert counter.position == saved
    assert seen == (list(range(saved)) if has_object else [])
    assert list(counter(range(10))) == list(range(saved, 10))


def test_each_save_in_a_with_saves_the_position_exactly_where_nothing_is_registered(folder, position):
    """The block ends by an exception between two boundaries, and knows where."""
    interrupted(with_counter, [], 7, each_save=True, save_span=5)
    assert position() == 7


def test_each_save_in_a_with_saves_nothing_more_where_something_is_registered(folder, left, position):
    """An exception after an object was changed but before the item ended: the last boundary, no double counting."""

    def job(stop_at):
        with enable_counter("run", each_save=True, save_span=2) as counter:
            total = counter.save_load_object({"sum": 0}, "total")
            for i in counter(range(10)):
                total["sum"] += i
                if i == stop_at:
                    raise Stop
        return total

    interrupted(job, 7)
    assert (position(), loaded("total")) == (6, {"sum": 15})
    assert job(None) == {"sum": 45}
    assert left() == []


def test_a_simple_counter_saves_the_position_after_every_nth_item(folder, left, position):
    """Without a `with`, one left by `break` or an exception keeps its last save, and lets go of the lock."""
    for i in simple_counter("run", range(10), save_span=3):
        if i == 8:
            break
    assert (position(), left()) == (6, ["run"])
    assert list(simple_counter("run", range(10), save_span=3)) == [6, 7, 8, 9]
    assert left() == []


def test_the_span_counts_from_item_zero_also_after_a_resume(folder, position):
    """Position 10, 20, 30, wherever the run began."""
    interrupted(with_counter, [], 13, length=40)
    positions = []
    for i in simple_counter("run", range(40), save_span=10):
        positions.append(position())
        if i == 31:
            break
    assert positions == [13] * 7 + [20] * 10 + [30] * 2


def test_the_exhausted_loop_is_a_boundary(folder, position):
    """What comes after the loop, inside the block, finds it saved at its end."""
    with enable_counter("run", each_save=True, save_span=4) as counter:
        total = counter.save_load_object([0], "total")
        for i in counter(range(10)):
            total[0] += i
        assert (position(), loaded("total")) == (10, [45])


def test_an_item_is_done_when_the_loop_asks_for_the_next_one(folder, position):
    """During an item its own position is the one saved; at the boundary the next one is."""
    with enable_counter("run", each_save=True) as counter:
        assert counter.position == 0
        for i in counter(range(3)):
            assert (counter.position, position()) == (i, i or None)
        assert counter.position == position() == 3


def test_the_position_is_that_of_the_failed_item(folder):
    """After a failure, `position` tells which item failed; before the loop, where it will start."""
    counter = enable_counter("run")
    with pytest.raises(Stop):
        with counter:
            for i in counter(range(10)):
                if i == 4:
                    raise Stop
    assert counter.position == 4
    counter = enable_counter("run")
    assert counter.position == 4
    assert counter(range(10)).position == 4


# save_interval.


@pytest.mark.parametrize("has_object", [True, False], ids=["object", "position"])
def test_a_boundary_that_comes_too_soon_is_passed_over(folder, clock, has_object, position):
    """save_interval is counted from the last save, or from the start."""
    counter = enable_counter("run", each_save=True, save_span=2, save_interval=10)
    kept = counter.save_load_object([], "seen") if has_object else None
    saved = []
    for _ in counter(range(20)):
        clock.now += 1.5
        saved.append(position())
    assert saved == [None] * 8 + [8] * 8 + [16] * 4
    del kept


@pytest.mark.parametrize(("interval", "expected"), [(0, [None, 1, 2, 3, 4, 5]), (10, [None, None, None, None, 4, 4])])
def test_a_clock_that_is_set_back_stops_no_save(folder, clock, position, interval, expected):
    """None that counts seconds is, but those are that replace it in the tests of programs."""
    saved = []
    counter = enable_counter("run", each_save=True, save_interval=interval)
    kept = counter.save_load_object([], "kept")
    for i in counter(range(6)):
        saved.append(position())
        kept.append(i)
        if i == 3:
            clock.now -= 3600
    assert saved == expected


def test_a_save_that_was_asked_for_counts_for_the_interval(folder, clock, position):
    """The boundary right behind `save()` comes too soon after the last save."""
    counter = enable_counter("run", each_save=True, save_interval=10)
    saved = []
    for i in counter(range(14)):
        clock.now += 1
        if i == 5:
            counter.save()
        saved.append(position())
    assert saved == [None] * 5 + [5] * 9
    assert position() is None


def test_an_interval_does_not_pass_over_the_end(folder, clock, position):
    """The exhausted loop is saved, however soon it comes."""
    with enable_counter("run", each_save=True, save_interval=1000) as counter:
        for _ in counter(range(5)):
            assert position() is None
        assert position() == 5


@pytest.mark.parametrize("seconds, is_named", [(0.5, True), (0.01, False)])
def test_saving_that_takes_too_long_is_named_once_with_an_interval_that_would_not(
    folder, clock, log, seconds, is_named
):
    """More than a tenth of the time of the loop: one warning in the log, not one for each save."""

    def slow(path):
        clock.now += seconds
        Path(path).write_text("slow")

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([slow], [print], ["slow"])
    for _ in counter(range(20)):
        clock.now += 1
    assert len(log("WARNING")) == is_named
    if is_named:  # 0.5 s in every 5 s would be a tenth, but for saves that take longer where they are further apart
        assert re.search(r"run: saving takes 33% of .*save_interval=10 ", log("WARNING")[0])


@pytest.fixture
def slower(clock, monkeypatch):
    """Have a call of the system take longer."""

    def slower(name, seconds):
        real = getattr(os, name)

        def slow(*arguments):
            clock.now += seconds
            return real(*arguments)

        monkeypatch.setattr(os, name, slow)
        if hasattr(_files, name):
            monkeypatch.setattr(_files, name, slow)

    return slower


def test_saving_many_positions_that_takes_too_long_is_named_as_well(folder, clock, log, slower):
    """Each of them is too quick to be timed."""
    slower("pwrite", 0.0005)
    for _ in simple_counter("run", range(5000)):
        clock.now += 0.002
    assert len(log("WARNING")) == 1
    assert re.search(r"run: saving takes 20% of .*save_interval=0.01 ", log("WARNING")[0])


def test_the_interval_that_is_named_for_many_positions_is_one_for_full_saves(folder, clock, log, slower):
    """With an interval the file is opened and closed for each of them, which takes much longer than to write in it."""

    slower("pwrite", 0.0005)
    slower("lseek", 0.02)
    for _ in simple_counter("run", range(5000)):
        clock.now += 0.002
    (line,) = log("WARNING")
    interval = float(line.partition("save_interval=")[2].split()[0])
    for _ in simple_counter("run", range(5000), save_interval=interval):
        clock.now += 0.002
    assert log("WARNING") == [line]


def test_a_clock_that_ticks_more_slowly_than_a_save_takes_names_nothing(folder, clock, log, slower, monkeypatch):
    """`time.monotonic` on Windows, before Python 3.13: now and then it would tell a tick for a position."""
    slower("pwrite", 0.0005)
    for module in [time, *(sys.modules[name] for name in list(sys.modules) if name.startswith("py_restart"))]:
        if hasattr(module, "monotonic"):
            monkeypatch.setattr(module, "monotonic", lambda: clock.now // 0.015625 * 0.015625)
    for _ in simple_counter("run", range(20_000)):
        clock.now += 0.01
    assert log("WARNING") == []


def test_saving_in_short_inner_loops_is_named_once(folder, clock, log):
    """Each of them is over before anybody minds: what they take counts for the outermost loop."""

    def slow(path):
        clock.now += 0.1
        Path(path).write_text("slow")

    with enable_counter("run") as counter:
        counter.save_load_funcs([slow], [print], ["slow"])
        for _ in counter(range(20)):
            for _ in simple_counter("inner", range(3)):
                clock.now += 0.1
    (line,) = log("WARNING")
    assert re.search(r"inner: saving takes \d+% of the time; save_interval=2 ", line)


@pytest.mark.parametrize("is_broken_off", [False, True], ids=["end", "break"])
@pytest.mark.parametrize("has_block", [False, True], ids=["", "with"])
def test_an_interval_passes_over_the_ends_of_short_inner_loops(folder, clock, position, has_block, is_broken_off):
    """But not over all: it is counted from the last save of the moment, not from the start of each of them."""
    with enable_counter("run") as counter:
        seen, saved = counter.save_load_object([], "seen"), []
        for i in counter(range(20)):
            inner = enable_counter("inner", each_save=True, save_interval=10)
            with inner if has_block else contextlib.nullcontext():
                for j in inner(range(3)):
                    if is_broken_off and j == 2:
                        break
                    clock.now += 1
                    seen.append(i)
            if Path("run").exists():
                saved.append(Path("run").read_bytes())
    assert 2 <= len(set(saved)) <= 6


# The end of the work.


@pytest.mark.parametrize("way", ["end", "break", "return"])
def test_a_block_that_ends_without_an_exception_deletes_everything(folder, left, way):
    """`break` and `return` included; the folder is as it was found."""
    Path("mine").write_text("mine")
    interrupted(with_counter, [], 4)

    def job():
        with enable_counter("run", each_save=True) as counter:
            for i in counter(range(10)):
                assert "run" in left()
                if i == 6 and way == "break":
                    break
                if i == 6 and way == "return":
                    return

    job()
    assert left() == ["mine"]


def test_a_loop_without_with_deletes_everything_when_it_is_exhausted(folder, left):
    """Objects and functions too, before the program goes on."""
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "object")
    counter.save_load_funcs([lambda path: Path(path).write_text("x")], [print], ["function"])
    for i in counter(range(3)):
        seen.append(i)
    assert left() == []


def test_a_loop_without_with_that_is_left_by_break_keeps_its_last_save(folder, left, position):
    """And is unlocked: the same cell may be run again, or another process."""
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "seen")
    for i in counter(range(10)):
        seen.append(i)
        if i == 4:
            break
    assert (position(), loaded("seen")) == (4, [0, 1, 2, 3])
    assert left() == ["run", "seen"]


def test_an_exception_after_the_loop_keeps_the_progress(folder, left, position, moment):
    """Inside the block: the next run skips the loop, draws nothing, and runs what follows it."""

    def job(seen, fails, source):
        with enable_counter("run") as counter:
            total = counter.save_load_object([0], "total")
            for i in counter(source):
                total[0] += i
                seen.append(i)
            seen.append(total[0])
            if fails:
                raise Stop

    first, second, source = [], [], Source(4)
    interrupted(job, first, True, Source(4))
    assert (position(), moment()["finished"], left()) == (4, True, ["run", "total"])
    job(second, False, source)
    assert (first, second, source.drawn) == ([0, 1, 2, 3, 6], [6], 0)
    assert left() == []


@pytest.mark.parametrize("each_save", [False, True])
@pytest.mark.parametrize("ends_by", ["end", "exception"])
@pytest.mark.parametrize("when", ["at once", "after registering", "after wrapping", "after asking for an iterator"])
def test_a_block_in_which_the_loop_has_not_begun_changes_nothing(folder, left, each_save, ends_by, when):
    """It is no work: it deletes nothing when it ends, and saves nothing when it fails; a look costs nothing."""

    def job(seen, stop_at):
        with enable_counter("run", each_save=each_save) as counter:
            seen.extend(kept := counter.save_load_object([], "seen"))
            for i in counter(range(10)):
                if i == stop_at:
                    raise Stop
                kept.append(i)
                seen.append(i)

    def look():
        with enable_counter("run", each_save=each_save) as counter:
            assert counter.position == 4
            if when != "at once":
                counter.save_load_object([], "seen").append("changed")
            loop = counter(range(10)) if when.startswith("after w") or when.startswith("after asking") else None
            if when == "after asking for an iterator":
                iter(loop)
            if ends_by == "exception":
                raise Stop

    interrupted(job, [], 4)
    before = {name: Path(name).read_bytes() for name in left()}
    if ends_by == "exception":
        interrupted(look)
    else:
        look()
        gc.collect()
    assert {name: Path(name).read_bytes() for name in left()} == before
    seen = []
    job(seen, None)
    assert (seen, left()) == (list(range(10)), [])


def test_a_loop_that_fails_to_start_changes_nothing_that_was_saved(folder, left, position):
    """An object that is not registered, an iterable that is too short: errors that cost nothing."""

    def job(length=10, stop_at=None, registers=True, source=range):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen") if registers else []
            for i in counter(source(length)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    def broken(length):
        raise Stop
        yield

    interrupted(job, stop_at=4)
    for wrong, error in [
        ({"registers": False}, RestartError),
        ({"length": 3}, RestartError),
        ({"length": 3, "source": Source}, RestartError),
        ({"source": broken}, Stop),
    ]:
        with pytest.raises(error):
            job(**wrong)
        assert (loaded("seen"), position()) == ([0, 1, 2, 3], 4)
    assert left() == ["run", "seen"]
    assert job() == list(range(10))


@pytest.mark.parametrize("each_save", [False, True])
def test_a_start_that_saves_nothing_leaves_nothing(folder, left, each_save):
    """An exception before the loop, or before the first boundary where nothing but those is saved; a counter that is
    made and forgotten, without waiting for the garbage collector."""

    def job(place):
        with enable_counter("run", each_save=each_save) as counter:
            seen = counter.save_load_object([], "seen")
            if place == "before":
                raise Stop
            for _ in counter(range(3)):
                seen.append(1)
                raise Stop

    for place in ("before", "inside") if each_save else ("before",):
        interrupted(job, place)
        assert left() == []
    gc.disable()
    try:
        assert enable_counter("run", each_save=each_save).position == 0
        assert left() == []
        enable_counter("run", each_save=each_save).remove_files()
        assert left() == []
    finally:
        gc.enable()


def test_nothing_is_read_written_or_removed_without_use_tempfile(folder, left):
    """As if the library were not there: what stands at the paths stays as it is, and the loop starts at 0."""
    for name in ("run", "object", "function"):
        Path(name).write_text("mine")

    def refuse(path):
        raise AssertionError(path)

    def job(stop_at):
        with multi_count():
            with enable_counter("run", use_tempfile=False, each_save=True) as counter:
                value = counter.save_load_object([1], "object")
                counter.save_load_funcs([refuse], [refuse], ["function"])
                assert (value, counter.object, counter.position) == ([1], [1], 0)
                counter.object = [2]
                assert counter.object == [2]
                for i in counter(range(5)):
                    assert counter.position == i
                    counter.save()
                    counter.remove_files()
                    if i == stop_at:
                        raise Stop
                    assert list(simple_counter("run", range(2), False)) == [0, 1]

    interrupted(job, 3)
    job(None)
    assert left() == ["function", "object", "run"]
    assert {Path(name).read_text() for name in left()} == {"mine"}


def test_a_loop_without_use_tempfile_does_not_warn_and_needs_no_folder(folder):
    """It may not save, since it was told not to."""
    assert list(enable_counter("nowhere/run", use_tempfile=False)(range(3))) == [0, 1, 2]


# The counter and its loop.


def test_a_counter_wraps_one_loop(folder):
    """A second call is an error that says to make another counter."""
    with enable_counter("run") as counter:
        list(counter(range(3)))
        with pytest.raises(RestartError, match="run: .*make another counter"):
            counter(range(3))


def test_a_counter_that_can_never_save_warns_when_its_loop_starts(folder, left):
    """No `with`, no each_save: a UserWarning at the line of the `for`; as an error, it leaves nothing."""
    loop = enable_counter("run")(range(2))
    with pytest.warns(UserWarning, match="run: .*with statement.*each_save=True") as warned:
        assert list(loop) == [0, 1]
    assert [warning.filename for warning in warned] == [__file__]
    assert left() == []
    with pytest.raises(UserWarning):
        list(enable_counter("run")(range(2)))
    gc.collect()
    assert left() == []


@pytest.mark.parametrize("way", ["end", "exception"])
def test_a_loop_that_begins_behind_its_with_block_is_an_error(folder, way):
    """Never an empty loop, and never one that nobody saves; nor can the block be entered again."""
    try:
        with enable_counter("run") as counter:
            loop = map(str, counter(range(3)))
            if way == "exception":
                raise KeyError
    except KeyError:
        pass
    with pytest.raises(RestartError, match="run: its with block has ended; run the loop inside it"):
        list(loop)
    with pytest.raises(RestartError, match="run: .*make another counter"):
        counter.__enter__()


def test_a_loop_that_goes_on_behind_its_with_block_leaves_nothing(folder, left):
    """A generator that was drawn from inside: the work is done when it is exhausted, and the next run is a new one."""
    for _ in range(2):
        with enable_counter("run", each_save=True) as counter:
            items = iter(counter(range(5)))
            assert next(items) == 0
        assert (list(items), left()) == ([1, 2, 3, 4], [])


# Paths.


def test_relative_paths_are_fixed_when_they_are_given(folder, left, tmp_path):
    """A program may change its folder inside the loop, or between two counters."""
    other = tmp_path / "other"
    other.mkdir()

    def job(stop_at):
        os.chdir(folder)
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], Path("seen"))
            counter.save_load_funcs([lambda path: Path(path).write_text("x")], [Path.read_text], [Path("function")])
            for i in counter(range(6)):
                os.chdir(other)
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    interrupted(job, 3)
    assert left() == ["function", "run", "seen"]
    assert job(None) == [0, 1, 2, 3, 4, 5]
    assert left() == [] == os.listdir(other)


def test_a_path_may_be_whatever_has_one(folder, left):
    """`os.PathLike`, and not `Path` alone."""

    class Given:
        def __init__(self, path):
            self.path = path

        def __fspath__(self):
            return self.path

    counter = enable_counter(Given("run"), each_save=True)
    seen = counter.save_load_object([], Given("seen"))
    for i in counter(range(3)):
        seen.append(i)
        if i == 2:
            assert left() == [".run.lock", "run", "seen"]
    assert left() == []


def test_no_path_may_be_used_twice(folder):
    """One object path for two counters or twice for one, or equal to a progress path, of this counter or another; a
    linked folder is another name for the same path."""
    os.symlink(".", "link")
    with enable_counter("run") as counter:
        kept = counter.save_load_object([], "object")
        with pytest.raises(RestartError, match="object: used twice; give each loop, object and function a path of its"):
            counter.save_load_object(kept, Path("object"))
        with pytest.raises(RestartError, match="twin: used twice"):
            counter.save_load_funcs([print, print], [print, print], ["twin", "twin"])
        for path in ("run", "link/run"):
            with pytest.raises(RestartError, match="run: used twice; give each loop, object and function a path"):
                counter.save_load_object([], path)
        with pytest.raises(RestartError, match="object: in use for something else in this program; give it a path of"):
            enable_counter("object")
        with enable_counter("second") as second:
            with pytest.raises(RestartError, match="object: in use for something else in this program"):
                second.save_load_object([], folder / "object")
            with pytest.raises(RestartError, match="run: in use for something else in this program"):
                second.save_load_object([], "run")


# Resuming.


class Source:
    """An iterable that counts what is drawn from it."""

    def __init__(self, length):
        self.length, self.drawn = length, 0

    def __iter__(self):
        for i in range(self.length):
            self.drawn += 1
            yield i


@pytest.mark.parametrize("length", [10**12, 10**20], ids=["a trillion", "more than len can say"])
def test_resuming_a_range_draws_nothing(folder, length):
    """At once, however far it is: the position of the record is set by hand to one that nobody could count to."""
    far = 5 * 10**11
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            for i in counter(range(length)):
                if i == 3:
                    raise Stop
    content = Path("run").read_text()
    size = len(content)
    content = re.sub('"position": 3, *"', lambda found: f'"position": {far}, "', content).replace('-3"}', f'-{far}"}}')
    lines = [line.rstrip() for line in content.splitlines()]
    Path("run").write_text("".join(line.ljust(size // 3 - 1) + "\n" for line in lines))
    counter = enable_counter("run")
    assert counter.position == far
    with counter:
        assert next(iter(counter(range(length)))) == far


@pytest.mark.parametrize("has_length", [True, False])
def test_a_position_beyond_the_end_is_an_error(folder, has_length, position):
    """Where there is a length it is known before anything is drawn; else when the items run out."""
    interrupted(with_counter, [], 4)
    with pytest.raises(RestartError, match="run: saved at position 4, but the iterable (has 3 items|ends before)"):
        list(simple_counter("run", range(3) if has_length else Source(3)))
    assert position() == 4
    assert list(simple_counter("run", Source(4))) == []


def test_the_length_that_is_saved_of_a_list_is_what_it_has_grown_to(folder, moment):
    """The next run has none of what was added, and is told so."""
    items = ["first"]
    with pytest.raises(Stop), enable_counter("run") as counter:
        for _ in counter(items):
            if counter.position == 2:
                raise Stop
            items.append("next")
    assert moment()["length"] == len(items) == 3


def test_another_function_is_recognised_where_its_first_item_is_to_run(folder, position):
    """It is drawn at once, and nothing is skipped for it."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        for _ in counter(lambda start: iter("abc"[start:])):
            raise Stop
    assert position() == 0
    with pytest.warns(UserWarning, match="run: saved with an iterable that had another first item"):
        assert list(simple_counter("run", lambda start: iter("xbc"[start:]))) == ["x", "b", "c"]


def test_an_object_that_nobody_has_is_not_warned_of_before_an_item_is_done(folder, left, recwarn):
    """Nothing can have changed it yet, and the program may take it up later."""
    with enable_counter("run") as counter:
        counter.save_load_object([], "kept")
        for _ in counter(range(1)):
            counter.save()
            kept = counter.object
    assert (kept, left(), [str(one.message) for one in recwarn]) == ([], [], [])


def test_a_position_beyond_the_length_that_was_saved_is_an_error_with_a_range(folder, position):
    """It was that of a table, of its rows; a range has as many items as it says."""

    class Table(Source):
        def __len__(self):
            return 2

    interrupted(with_counter, [], 4, length=5, source=Table)
    with pytest.raises(RestartError, match="run: saved at position 4, but the iterable has 3 items"):
        list(simple_counter("run", range(3)))
    assert position() == 4


@pytest.mark.parametrize("at", range(5))
def test_a_table_with_fewer_rows_than_columns_is_resumed(folder, left, recwarn, at):
    """Its length is that of its rows, but its columns are iterated: no position of them is beyond the end."""

    class Table:
        def __len__(self):
            return 2

        def __iter__(self):
            return iter("abcde")

    ran = []
    for stop in (at, None):
        with contextlib.suppress(Stop), enable_counter("run") as counter:
            for position, column in enumerate(counter(Table()), counter.position):
                if position == stop:
                    raise Stop
                ran.append(column)
    assert ran == list("abcde")
    assert left() == [] and [str(one.message) for one in recwarn] == []


# The input is recognised.


@pytest.mark.parametrize(
    "other",
    [range(12), range(1, 11), (i for i in "xyzxyz")],
    ids=["longer", "another first item", "another first item of a generator"],
)
def test_another_input_is_warned_of(folder, other):
    """Another length or another first item on resuming: a UserWarning that names the progress file, and no error."""
    interrupted(with_counter, [], 4)
    with pytest.warns(UserWarning, match="run: ") as warned:
        assert len(list(simple_counter("run", other))) >= 2
    assert len(warned) == 1


# save and remove_files.


def test_save_saves_now(folder, position):
    """The position and the objects as they are, inside the loop and before it, whatever the mode."""
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "seen")
        seen.append("before")
        counter.save()
        assert (position(), loaded("seen")) == (0, ["before"])
        for i in counter(range(4)):
            seen.append(i)
            if i == 2:
                counter.save()
                assert (position(), loaded("seen")) == (2, ["before", 0, 1, 2])


def test_save_saves_a_position_alone_too(folder, run_child, die):
    """Without objects it is as if a boundary had come."""

    def job(tell):
        with enable_counter("run") as counter:
            for i in counter(range(9)):
                if i == 5:
                    counter.save()
                    die()

    run_child(job)
    assert list(simple_counter("run", range(9))) == [5, 6, 7, 8]


@pytest.mark.parametrize("way", ["break", "with"])
def test_save_after_the_loop_was_left_does_not_keep_the_lock(folder, left, way, position):
    """A program that saves once more after a `break`, or behind a block that failed, holds nobody up."""
    counter = enable_counter("run", each_save=way == "break", **({"save_span": 100} if way == "break" else {}))
    try:
        if way == "with":
            counter.__enter__()
        for i in counter(range(9)):
            if i == 5:
                raise Stop
    except Stop as stop:
        if way == "with":
            counter.__exit__(Stop, stop, stop.__traceback__)
    counter.save()
    assert (position(), left()) == (5, ["run"])


def test_save_after_the_work_is_done_is_an_error(folder, left):
    """There is nothing to save, and nobody would remove it."""
    with enable_counter("run") as counter:
        list(counter(range(2)))
    with pytest.raises(RestartError, match="run: its work is done; make another counter"):
        counter.save()
    assert left() == []


def test_save_before_everything_is_registered_is_an_error(folder):
    """It would save a moment without what belongs to it."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(4)):
                if i == 2:
                    raise Stop
                seen.append(i)
    with pytest.raises(RestartError, match="run: saved with .*seen, which is not registered; register it, or "):
        enable_counter("run").save()
    assert loaded("seen") == [0, 1]


def test_save_behind_a_block_whose_loop_never_began_is_an_error(folder, left):
    """Nobody holds the lock any more, and nobody would remove what it saves."""
    with enable_counter("run") as counter:
        pass
    with pytest.raises(RestartError, match="run: its work is done; make another counter"):
        counter.save()
    assert left() == []


def test_remove_files_forgets(folder, left):
    """The progress and all that was saved with it; the loop starts afresh."""

    def job(stop_at):
        with enable_counter("run") as counter:
            if stop_at is None:
                counter.remove_files()
                assert (left(), counter.position) == ([".run.lock"], 0)
            seen = counter.save_load_object([], "seen")
            for i in counter(range(6)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    interrupted(job, 4)
    assert left() == ["run", "seen"]
    assert job(None) == [0, 1, 2, 3, 4, 5]
    assert left() == []


def test_remove_files_that_fails_may_be_called_again(folder, left, monkeypatch):
    """Nothing is done, so the next run goes about it in earnest; at the end of the work it would do all again."""
    interrupted(with_counter, [], 4)

    real = os.unlink

    def unlink(path):
        if os.path.basename(path) == "run":
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    with (
        monkeypatch.context() as patch,
        pytest.raises(RestartError, match="Input.output error; run again to finish the removal$"),
    ):
        patch.setattr(os, "unlink", unlink)
        with enable_counter("run") as counter:
            counter.remove_files()
    with enable_counter("run") as counter:
        counter.remove_files()
    assert left() == []


def test_remove_files_inside_the_loop_forgets_until_the_next_boundary(folder, left, position):
    """The loop goes on, and its next save is like its first."""
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "seen")
    for i in counter(range(6)):
        if i == 3:
            counter.remove_files()
            assert left() == [".run.lock"]
        if i == 4:
            assert (left(), position(), loaded("seen")) == ([".run.lock", "run", "seen"], 4, [0, 1, 2, 3])
        seen.append(i)
    assert left() == []


def test_remove_files_behind_the_loop_keeps_the_lock_until_the_block_ends(folder, left):
    """The work is not done before; nobody else may begin it meanwhile."""
    with enable_counter("run", each_save=True) as counter:
        list(counter(range(3)))
        counter.remove_files()
        assert left() == [".run.lock"]
    assert left() == []


def test_remove_files_forgets_no_length_of_what_is_to_be_counted(folder):
    """It is that of the iterable, and not of what was saved."""
    with enable_counter("run") as counter:
        loop = counter(range(3))
        counter.remove_files()
        assert len(loop) == 3
        assert repr(loop) == "<loop run: position 0 of 3>"
        assert list(loop) == [0, 1, 2]


def test_remove_files_behind_what_was_registered_and_never_saved_is_in_no_loops_way(folder, left):
    """Nothing was loaded that would still be as it was."""
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "seen")
        counter.remove_files()
        seen += counter(range(3))
    assert (seen, left()) == ([0, 1, 2], [])


def test_a_loop_behind_remove_files_does_not_begin_with_what_was_loaded(folder, left):
    """It would count what it finds there for its own."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(6)):
            if i == 4:
                raise Stop
            seen.append(i)
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "seen")
        counter.remove_files()
        with pytest.raises(
            RestartError, match="seen was loaded before remove_files.., and still is as it was; run again"
        ):
            list(counter(range(6)))
    assert (seen, left()) == ([0, 1, 2, 3], [])


def test_remove_files_behind_a_block_whose_loop_never_began_forgets_the_position(folder, left):
    """There is none any more."""
    interrupted(with_counter, [], 4)
    with enable_counter("run") as counter:
        pass
    assert counter.position == 4
    counter.remove_files()
    assert (counter.position, left()) == (0, [])


def test_remove_files_inside_the_loop_does_not_forget_the_input(folder, moment):
    """What is saved from then on is of the same one."""
    counter, firsts = enable_counter("run", each_save=True), []
    for i in counter(range(4)):
        if i == 2:
            counter.remove_files()
        elif i:
            firsts.append(moment()["first"])
    assert firsts[0] is not None and firsts[0] == firsts[1]


def test_a_loop_that_was_begun_by_next_is_left_with_its_for(folder, left):
    """A variable still holds the loop; what the `for` drives is kept nowhere else."""
    loop = simple_counter("run", range(6))
    assert next(loop) == 0
    for i in loop:
        if i == 3:
            break
    assert (loop.position, left()) == (3, ["run"])


# The log.


def test_the_log_says_where_a_loop_starts_and_when_it_is_done(folder, log):
    """One line each, with the full path: afresh, resumed with position, length and age, done, skipped."""

    def job(stop_at, fails=False):
        with multi_count():
            with_counter([], stop_at)
            if fails:
                raise Stop

    interrupted(job, 4)
    assert log("INFO") == [f"{folder}/run: starts afresh, at position 0 of 10"]
    interrupted(job, None, True)
    assert re.fullmatch(f"{folder}/run: resumes at position 4 of 10, saved .* ago", log("INFO")[1])
    assert log("INFO")[2:] == [f"{folder}/run: done at position 10"]
    job(None)
    assert re.fullmatch(f"{folder}/run: finished before, at position 10 of 10; skipped", log("INFO")[3])
    list(simple_counter("other", (i for i in range(2))))
    assert log("INFO")[-2] == f"{folder}/other: starts afresh, at position 0"


@pytest.mark.parametrize(
    "seconds, age",
    [(-60, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (864_000, "10 days")],
)
def test_the_log_says_how_old_the_save_is(folder, log, monkeypatch, seconds, age):
    """In the largest unit of which there are two; a clock may have been set back."""
    interrupted(with_counter, [], 4)
    os.utime("run", (1e9, 1e9))
    monkeypatch.setattr(time, "time", lambda: 1e9 + seconds)
    interrupted(with_counter, [], 5)
    assert log("INFO")[-1].endswith(f", saved {age} ago")


@pytest.mark.parametrize("stop_at", [3, None])
def test_the_log_says_that_the_work_is_done_when_the_block_has_ended(folder, log, stop_at):
    """A `break` ends the work too; an exception behind the loop does not."""
    with pytest.raises(Stop), enable_counter("run") as counter:
        list(counter(range(10)))
        raise Stop
    assert "done" not in log("INFO")[-1]
    counter = enable_counter("run")
    counter.remove_files()
    with enable_counter("run") as counter:
        for i in counter(range(10)):
            if i == stop_at:
                break
        assert "done" not in log("INFO")[-1]
    assert log("INFO")[-1] == f"{folder}/run: done at position {10 if stop_at is None else stop_at}"


@pytest.mark.parametrize("configured", [False, True])
def test_nothing_is_printed(folder, configured):
    """Not even a warning of the log where `logging` is not set up; nor is `logging` imported for it."""
    program = f"""
{"import logging" if configured else ""}
import sys
from py_restart import enable_counter
try:
    with enable_counter("run") as counter:
        for i in counter(range(10)):
            if i == 4:
                raise KeyError
except KeyError:
    pass
with enable_counter("run") as counter:
    for i in counter(range(10)):
        pass
assert ("logging" in sys.modules) is {configured}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("so_far", [{}, {"getLogger": logging.Logger}])
def test_a_log_that_another_thread_is_only_just_importing_is_not_written_to(folder, left, monkeypatch, so_far):
    """It is there by name, and can nothing yet, or not all."""
    module = types.ModuleType("logging")
    vars(module).update(so_far)
    monkeypatch.setitem(sys.modules, "logging", module)
    monkeypatch.setattr("py_restart._errors._logger", None)
    assert list(simple_counter("run", range(3))) == [0, 1, 2]
    assert left() == []


# One user at a time: processes, threads, notebooks.


@pytest.mark.parametrize("each_save", [False, True])
def test_a_cell_that_failed_can_be_run_again(folder, left, each_save):
    """Old counter, loop, traceback and object are all still referenced."""
    kept = []

    def cell(stop_at):
        counter = enable_counter("run", each_save=each_save)
        seen = counter.save_load_object([], "seen")
        loop = counter(range(6))
        kept.append((counter, loop))
        with counter:
            for i in loop:
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    with pytest.raises(Stop) as failure:
        cell(3)
    assert cell(None) == [0, 1, 2, 3, 4, 5]
    assert failure.tb and left() == []


def test_a_cell_that_was_interrupted_before_its_block_can_be_run_again(folder, left):
    """The counter was made, its object registered, and nothing else."""
    counter = enable_counter("run")
    counter.save_load_object([], "seen")
    again = enable_counter("run")
    with again:
        seen = again.save_load_object([], "seen")
        seen += again(range(2))
    assert left() == []
    assert counter.object == []


def test_a_block_that_fails_after_a_newer_counter_took_over_saves_nothing(folder, left):
    """Its exception says what happened, and nothing of us; the newer counter starts where the files say."""

    def cell():
        def work():
            with enable_counter("run") as counter:
                seen = counter.save_load_object([], "seen")
                for i in counter(range(5)):
                    seen.append(i)
                    yield i

        running = work()
        assert [next(running) for _ in range(3)] == [0, 1, 2]
        return running

    old, new = cell(), enable_counter("run")
    with pytest.raises(Stop) as raised:
        old.throw(Stop())
    assert not hasattr(raised.value, "__notes__")
    assert left() == [".run.lock"]
    with new:
        assert new.save_load_object([], "seen") == []
        assert list(new(range(5))) == [0, 1, 2, 3, 4]
    assert left() == []


@pytest.mark.parametrize("use", ["save", "remove_files"])
def test_a_counter_that_was_left_does_not_take_over_from_a_newer_one(folder, use):
    """It raises when it is used again, whether the newer one has saved or not."""
    older = enable_counter("run", each_save=True)
    for _ in older(range(3)):
        break
    newer = enable_counter("run", each_save=True)
    told = []
    for i in newer(range(3)):
        told.append(i)
        with pytest.raises(RestartError, match="run: a newer counter for the same path .*; use that one"):
            getattr(older, use)()
    assert told == [0, 1, 2]


def test_a_forked_child_neither_saves_nor_removes_what_its_parent_has_saved(folder, run_child, position):
    """Whatever it asks for: the files are the parent's."""

    def job(tell):
        with enable_counter("run", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(4)):
                seen.append(i)
                if i == 2:
                    child = os.fork()
                    if child == 0:
                        seen.append("child")
                        counter.save()
                        counter.remove_files()
                        tell("child")
                        os._exit(0)
                    os.waitpid(child, 0)
                    tell((position(), loaded("seen")))

    assert run_child(job).told == ["child", (2, [0, 1])]


def test_saving_is_refused_to_a_thread_that_does_not_run_the_loop(folder):
    """The position and the objects would be of two moments, and the file could be closed under the loop's hands."""
    raised = []

    def attempt(call):
        try:
            call()
        except RestartError as error:
            raised.append(str(error))

    with enable_counter("run") as counter:
        for _ in counter(range(1)):
            for call in (counter.save, counter.remove_files):
                thread = threading.Thread(target=attempt, args=(call,))
                thread.start()
                thread.join()
    assert raised == ["run: its loop runs in another thread; call this in that one"] * 2


def test_saving_is_refused_while_the_thread_that_runs_the_loop_goes_on(folder, left):
    """As the look at it begins, it draws an item; in the middle of that, its generators are driven by nothing."""
    drawing, go_on, inside, is_refused, seen = *(threading.Event() for _ in range(4)), []
    counter = enable_counter("run", each_save=True)

    def items():
        drawing.set()
        go_on.wait(10)
        yield from "ab"

    def work():
        for item in counter(items()):
            inside.set()
            is_refused.wait(10)
            seen.append(item)

    def follow(frame, event, called):
        if event == "c_return" and called is sys._current_frames:
            go_on.set()
            inside.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert drawing.wait(10)
    sys.setprofile(follow)
    try:
        with pytest.raises(RestartError, match="run: its loop runs in another thread"):
            counter.save()
    finally:
        sys.setprofile(None)
        go_on.set()
        is_refused.set()
        thread.join(10)
    assert (seen, left()) == (["a", "b"], [])


def test_a_ctrl_c_during_a_start_leaves_nothing(folder, left, monkeypatch):
    """At whatever call it comes, the file and its lock go, and the next start works."""
    names = ("open", "replace", "stat", "lstat", "fstat", "urandom", "write", "fsync", "close", "unlink")
    real = {name: getattr(os, name) for name in names}
    count, moment, stopped_at = 0, 0, []

    def stopping(name):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGINT)
            return real[name](*arguments, **named)

        return call

    while len(stopped_at) == moment:
        count, moment = 0, moment + 1
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, stopping(name))
            try:
                kept = enable_counter("run")
            except KeyboardInterrupt as stop:
                stopped_at.append(stop)  # with its traceback, which a notebook keeps, and with it the counter
        if len(stopped_at) == moment:
            assert left() == []
            assert list(simple_counter("run", range(2))) == [0, 1]
    assert moment > 1
    del kept


# Forks.


def test_a_forked_child_dies_of_sigterm(folder, start):
    """As any other process does, without a save."""

    def job(tell):
        with enable_counter("run") as counter:
            for _ in counter(range(8)):
                ready, written = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(written, b"!")
                    signal.pause()
                os.read(ready, 1)
                os.kill(child, signal.SIGTERM)
                tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                break

    assert start(job).end().told == [-signal.SIGTERM]


class Printed:
    """An item that does something when it is printed."""

    def __init__(self, act):
        self.act = act

    def __repr__(self):
        self.act()
        return "printed"


def test_a_stop_while_the_first_item_is_looked_at_is_of_that_item(folder):
    """It was drawn, but it has not run: the next run begins with it."""
    reached = threading.Event()

    def strike():
        reached.set()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt):
        with enable_counter("run") as counter:
            for _ in counter(iter([Printed(strike), Printed(strike)])):
                time.sleep(1)
    assert reached.is_set()
    assert enable_counter("run").position == 0


@pytest.mark.parametrize("each_save", [False, True])
def test_a_block_that_ends_while_a_variable_holds_its_loop_is_the_end_of_the_work(folder, each_save):
    """Nothing is left; what is drawn behind it is delivered, and saved no more."""
    with enable_counter("run", each_save=each_save) as counter:
        stream = map(str, counter(range(6)))
        for text in stream:
            if text == "3":
                break
    assert os.listdir() == []
    assert list(stream) == ["4", "5"]
    assert os.listdir() == []


def test_a_loop_that_goes_on_behind_a_block_that_failed_is_saved_at_its_boundaries(folder):
    """A variable holds it; its path is free meanwhile, and with its end the work is done."""
    with pytest.raises(Stop):
        with enable_counter("run", each_save=True) as counter:
            stream = map(str, counter(range(6)))
            for text in stream:
                if text == "3":
                    raise Stop
    assert os.listdir() == ["run"]
    assert next(stream) == "4" and os.listdir() == ["run"]
    assert enable_counter("other", use_tempfile=False).position == 0
    assert list(stream) == ["5"]
    assert os.listdir() == []


def test_a_block_that_ends_while_another_thread_runs_its_loop_leaves_it_to_that(folder):
    """The loop goes on, and ends the work itself."""
    begun, goes_on = threading.Event(), threading.Event()

    def work(loop):
        for i in loop:
            if i == 2:
                begun.set()
                goes_on.wait(10)
            done.append(i)

    done = []
    with enable_counter("run", each_save=True) as counter:
        thread = threading.Thread(target=work, args=(counter(range(6)),))
        thread.start()
        assert begun.wait(10)
    assert "run" in os.listdir()
    goes_on.set()
    thread.join()
    assert done == list(range(6)) and os.listdir() == []


class Frozen(Exception):
    """An exception that does not let itself be changed."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


def test_a_save_that_fails_beside_an_exception_that_takes_no_note_is_warned_of(folder):
    """The exception stays the one that is raised."""
    with pytest.warns(UserWarning, match="wrote nothing there"), pytest.raises(Frozen):
        with enable_counter("run") as counter:
            counter.save_load_funcs([lambda path: None], [print], ["x"])
            for i in counter(range(4)):
                if i == 2:
                    raise Frozen


def test_a_loop_broken_off_at_the_end_of_a_block_inside_a_loop_has_ended(folder, die, run_child):
    """It is not gone on with where the outer item runs again."""

    def job(tell, dies):
        outer = enable_counter("outer", each_save=True)
        seen = outer.save_load_object([], "seen")
        for i in outer(range(2)):
            with multi_count():
                for j in simple_counter("inner", range(4)):
                    tell((i, j))
                    seen.append((i, j))
                    if j == 1:
                        break
            if dies and i == 1:
                die()
        tell(list(seen))

    assert run_child(job, True).told == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert run_child(job, False).told == [[(0, 0), (0, 1), (1, 0), (1, 1)]]


def test_blocks_leave_nothing_behind_in_the_table_of_exit_functions(folder):
    """Each one would make the next block slower."""
    with enable_counter("run"):
        count = atexit._ncallbacks()
    for _ in range(3):
        with enable_counter("run"):
            pass
    assert atexit._ncallbacks() == count

"""What a counter does: what is saved, when, and where the next run starts."""

import contextlib
import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from py_restart import RestartError, _counter, _storage, enable_counter, multi_count, simple_counter


class Stop(Exception):
    """How a job is interrupted."""


def header(path="run"):
    """Return the first line of a progress file."""
    return json.loads(Path(path).read_bytes().splitlines()[0])


def position(path="run"):
    """Return the newest position that a progress file tells."""
    records = [line.split() for line in Path(path).read_bytes().splitlines()[1:]]
    return max(int(record[1]) for record in records)


def loaded(path):
    """Return the object that is saved at a path."""
    return pickle.loads(Path(path).read_bytes())


def with_counter(seen, stop_at=None, length=10, **options):
    """Count a loop in a `with`, and raise before the item at `stop_at`."""
    with enable_counter("run", **options) as counter:
        for i in counter(range(length)):
            if i == stop_at:
                raise Stop
            seen.append(i)


def interrupted(job, *arguments, **options):
    """Run a job that ends by Stop."""
    with pytest.raises(Stop):
        job(*arguments, **options)
    gc.collect()


# The four rows of the table.


def test_a_with_saves_once_when_it_ends_by_an_exception(folder, left):
    """Everything, as it is at that moment; not before, and nothing where there is no exception."""
    seen = []
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            seen = counter.save_load_object(seen, "seen")
            for i in counter(range(10)):
                assert left() == ["run"] and position() == 0
                if i == 4:
                    raise Stop
                seen.append(i)
    assert left() == ["run", "seen"]
    assert position() == 4
    assert loaded("seen") == [0, 1, 2, 3]


def test_a_with_resumes_at_the_item_that_failed(folder, left):
    """The item in which it happened runs again, those before it do not."""
    first, second = [], []
    interrupted(with_counter, first, 4)
    with_counter(second)
    assert (first, second) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert left() == []


def test_what_the_failed_item_had_changed_is_in_the_save_of_a_with(folder):
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
def test_a_with_saves_after_any_exception(folder, error):
    """Exceptions that are no `Exception` are stops like all others, and stay the ones that are raised."""
    with pytest.raises(error):
        with enable_counter("run") as counter:
            for i in counter(range(10)):
                if i == 4:
                    raise error
    assert position() == 4


@pytest.mark.parametrize("span, saved", [(1, 7), (2, 6), (3, 6), (5, 5), (10, 0)])
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


def test_each_save_in_a_with_saves_the_position_exactly_where_nothing_is_registered(folder):
    """The block ends by an exception between two boundaries, and knows where."""
    interrupted(with_counter, [], 7, each_save=True, save_span=5)
    assert position() == 7


def test_each_save_in_a_with_saves_nothing_more_where_something_is_registered(folder, left):
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


def test_a_simple_counter_saves_the_position_after_every_nth_item(folder, left):
    """Without a `with`, one left by `break` or an exception keeps its last save."""
    for i in simple_counter("run", range(10), save_span=3):
        if i == 8:
            break
    assert position() == 6
    assert list(simple_counter("run", range(10), save_span=3)) == [6, 7, 8, 9]
    assert left() == []


def test_the_span_counts_from_item_zero_also_after_a_resume(folder):
    """Position 10, 20, 30, wherever the run began."""
    interrupted(with_counter, [], 13, length=40)
    positions = []
    for i in simple_counter("run", range(40), save_span=10):
        if i:
            positions.append(position())
        if i == 31:
            break
    assert sorted(set(positions)) == [13, 20, 30]
    assert positions.index(20) == 20 - 13


def test_the_exhausted_loop_is_a_boundary(folder):
    """What comes after the loop, inside the block, finds it saved at its end."""
    with enable_counter("run", each_save=True, save_span=4) as counter:
        total = counter.save_load_object([0], "total")
        for i in counter(range(10)):
            total[0] += i
        assert (position(), loaded("total")) == (10, [45])


def test_an_item_is_done_when_the_loop_asks_for_the_next_one(folder):
    """During an item its own position is the one saved; at the boundary the next one is."""
    with enable_counter("run", each_save=True) as counter:
        assert counter.position == 0
        for i in counter(range(3)):
            assert (counter.position, position()) == (i, i)
        assert counter.position == 3


def test_an_exception_of_the_iterable_belongs_to_the_item_that_it_failed_to_deliver(folder):
    """The item before it had ended."""

    def source():
        yield from range(4)
        raise Stop

    for each_save in (False, True):
        with pytest.raises(Stop):
            with enable_counter("run", each_save=each_save) as counter:
                for _ in counter(source()):
                    pass
        assert counter.position == position() == 4


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


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_counter, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.mark.parametrize("has_object", [True, False], ids=["object", "position"])
def test_a_boundary_that_comes_too_soon_is_passed_over(folder, clock, has_object):
    """save_interval is counted from the last save, or from the start."""
    counter = enable_counter("run", each_save=True, save_span=2, save_interval=10)
    if has_object:
        counter.save_load_object([], "seen")
    saved = []
    for _ in counter(range(20)):
        clock.now += 1.5
        saved.append(position())
    assert saved == [0] * 8 + [8] * 8 + [16] * 4


def test_saving_that_takes_too_long_is_named_once_with_an_interval_that_would_not(folder, clock, log):
    """More than a tenth of the time of the loop: one warning in the log, not one for each save."""

    def slow(path):
        clock.now += 0.5
        Path(path).write_text("slow")

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([slow], [print], ["slow"])
    for _ in counter(range(20)):
        clock.now += 1
    assert log("WARNING") == [
        "run: saving takes 33% of the time of this loop; save_interval=5 would make it less than 10%"
    ]


def test_saving_that_takes_little_is_not_named(folder, clock, log):
    """Less than a tenth, or too little for anybody to mind: no warning."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_object([], "seen")
    for _ in counter(range(20)):
        clock.now += 1
    assert log("WARNING") == []


def test_an_interval_does_not_pass_over_the_end(folder, clock):
    """The exhausted loop is saved, however soon it comes."""
    with enable_counter("run", each_save=True, save_interval=1000) as counter:
        for _ in counter(range(5)):
            assert position() == 0
        assert position() == 5


# The end of the work.


@pytest.mark.parametrize("way", ["end", "break", "return", "continue with nothing"])
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
    counter.save_load_object([], "object")
    counter.save_load_funcs([lambda path: Path(path).write_text("x")], [print], ["function"])
    for _ in counter(range(3)):
        pass
    assert left() == []


def test_a_loop_without_with_that_is_left_by_break_keeps_its_last_save(folder, left):
    """And is unlocked: the same cell may be run again, or another process."""
    counter = enable_counter("run", each_save=True)
    seen = counter.save_load_object([], "seen")
    for i in counter(range(10)):
        seen.append(i)
        if i == 4:
            break
    assert (position(), loaded("seen")) == (4, [0, 1, 2, 3])
    assert left() == ["run", "seen"]


def test_an_exception_after_the_loop_keeps_the_progress(folder, left):
    """Inside the block: the next run skips the loop and runs what follows it."""

    def job(seen, fails):
        with enable_counter("run") as counter:
            total = counter.save_load_object([0], "total")
            for i in counter(range(4)):
                total[0] += i
                seen.append(i)
            seen.append(total[0])
            if fails:
                raise Stop

    first, second = [], []
    interrupted(job, first, True)
    assert (position(), left()) == (4, ["run", "total"])
    job(second, False)
    assert (first, second) == ([0, 1, 2, 3, 6], [6])
    assert left() == []


@pytest.mark.parametrize("each_save", [False, True])
@pytest.mark.parametrize("when", ["at once", "after registering", "after wrapping", "after asking for an iterator"])
def test_an_exception_before_the_loop_changes_nothing_that_was_saved(folder, left, each_save, when):
    """The old position survives a resumed run that failed before its loop, the object as it was saved too."""

    def job(fails, stop_at=None):
        with enable_counter("run", each_save=each_save) as counter:
            if fails and when == "at once":
                raise Stop
            seen = counter.save_load_object([], "seen")
            if fails:
                seen.append("changed")
            if fails and when == "after registering":
                raise Stop
            loop = counter(range(10))
            if fails and when == "after wrapping":
                raise Stop
            iterator = iter(loop)
            if fails:
                raise Stop
            for i in iterator:
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    interrupted(job, False, 4)
    before = Path("seen").read_bytes()
    interrupted(job, True)
    assert (position(), Path("seen").read_bytes()) == (4, before)
    assert job(False) == list(range(10))
    assert left() == []


def test_a_loop_that_fails_to_start_changes_nothing_that_was_saved(folder, left):
    """An object that is not registered, an iterable that is too short: errors that cost nothing."""

    def job(length=10, stop_at=None, registers=True, source=range):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen") if registers else []
            for i in counter(source(length)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    interrupted(job, stop_at=4)
    before = {name: Path(name).read_bytes() for name in left()}

    def source(length):
        yield from range(length)

    def broken(length):
        raise Stop
        yield

    for wrong, error in [
        ({"registers": False}, RestartError),
        ({"length": 3}, RestartError),
        ({"length": 3, "source": source}, RestartError),
        ({"source": broken}, Stop),
    ]:
        with pytest.raises(error):
            job(**wrong)
        assert loaded("seen") == [0, 1, 2, 3] and position() == 4
    assert set(before) == set(left())
    assert job() == list(range(10))


@pytest.mark.parametrize("each_save", [False, True])
def test_a_start_that_saves_nothing_leaves_nothing(folder, left, each_save):
    """An exception before the first boundary, or before the loop."""

    def job(place):
        with enable_counter("run", each_save=each_save) as counter:
            if place == "before":
                raise Stop
            for _ in counter(range(3)):
                raise Stop

    for place in ("before", "inside"):
        interrupted(job, place)
        assert left() == []


def test_a_counter_that_is_thrown_away_leaves_nothing(folder, left):
    """Made, and forgotten."""
    counter = enable_counter("run")
    assert left() == ["run"]
    del counter
    gc.collect()
    assert left() == []


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
        with pytest.raises(RestartError, match="run: this counter has counted a loop already; make another counter"):
            counter(range(3))


def test_a_counter_that_can_never_save_warns_when_its_loop_starts(folder, recwarn, left):
    """No `with`, no each_save: a UserWarning at the line of the `for`."""
    loop = enable_counter("run")(range(2))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="run: this loop is never saved; use a with statement, or each_save=True") as w:
        assert list(loop) == [0, 1]
    assert w[0].filename == __file__
    assert left() == []


def test_a_warning_that_is_an_error_leaves_nothing(folder, left):
    """As under `-W error`."""
    with pytest.raises(UserWarning):
        list(enable_counter("run")(range(2)))
    gc.collect()
    assert left() == []


def test_a_counter_is_entered_once_and_before_its_loop(folder):
    """A counter that was used has had its one loop."""
    counter = enable_counter("run")
    with counter:
        pass
    with pytest.raises(RestartError, match="run: this counter was used already; make another counter"):
        counter.__enter__()
    counter = enable_counter("run", each_save=True)
    list(counter(range(2)))
    with pytest.raises(RestartError, match="run: this counter was used already"):
        counter.__enter__()


# Objects.


def test_any_number_of_objects_each_with_its_own_path(folder, left):
    """Two objects on one counter, and `object` is the last one registered."""

    def job(stop_at):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            total = counter.save_load_object(0, Path("total"))
            for i in counter(range(10)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
                total += i
                counter.object = total
            return seen, counter.object

    interrupted(job, 4)
    assert (loaded("seen"), loaded("total")) == ([0, 1, 2, 3], 6)
    assert job(None) == (list(range(10)), 45)
    assert left() == []


def test_none_is_an_object_like_any_other(folder):
    """Nothing saved and None saved are two things, in both directions."""
    for first, then in ((None, 1), (1, None)):
        with pytest.raises(Stop):
            with enable_counter("run") as counter:
                assert counter.save_load_object(first, "object") is first
                for i in counter(range(3)):
                    counter.object = then
                    if i == 1:
                        raise Stop
        with enable_counter("run") as counter:
            assert counter.save_load_object("new", "object") is then
            assert counter.object is then


def test_a_copy_of_the_object_is_not_what_is_saved(folder):
    """What was registered or assigned last is saved, with the changes made to it in place."""
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(4)):
            if i == 2:
                assert loaded("seen") == [0, 1]
                seen = [*seen, "new"]
                counter.object = seen
            if i == 3:
                assert loaded("seen") == [0, 1, "new", 2]
            seen.append(i)


def test_object_without_an_object_is_an_error(folder):
    """To read it and to assign it; functions are no objects."""
    counter = enable_counter("run")
    counter.save_load_funcs([print], [print], ["function"])
    with pytest.raises(RestartError, match="run: no object is registered; call save_load_object first"):
        _ = counter.object
    with pytest.raises(RestartError, match="run: no object is registered"):
        counter.object = 1


def test_what_the_program_registers_in_its_loop_is_an_error(folder):
    """It would not be in the saves that were made."""
    with enable_counter("run") as counter:
        for _ in counter(range(1)):
            with pytest.raises(RestartError, match="run: its loop has begun; register before the loop"):
                counter.save_load_object([], "seen")


# Functions.


def test_functions_are_called_with_the_name_that_was_given_and_its_type(folder):
    """The file name, suffix included; a str where a str was given, a Path where a Path was."""
    calls = []

    def save(path):
        calls.append(("save", type(path), os.path.basename(path)))
        Path(path).write_text("x")

    def load(path):
        calls.append(("load", type(path), str(path)))
        assert Path(path).read_text() == "x"

    def job(stop_at):
        with enable_counter("run") as counter:
            counter.save_load_funcs([save, save], [load, load], ["a.b.npy", Path("c.pth")])
            for i in counter(range(3)):
                if i == stop_at:
                    raise Stop

    kind = type(Path())
    interrupted(job, 1)
    assert calls == [("save", str, "a.b.npy"), ("save", kind, "c.pth")]
    calls.clear()
    job(None)
    assert calls == [("load", str, str(folder / "a.b.npy")), ("load", kind, str(folder / "c.pth"))]


def test_a_function_may_write_a_folder(folder, left):
    """With folders in it; it is saved, replaced, loaded and removed as a whole."""
    state = {"n": 0}

    def save(path):
        os.makedirs(os.path.join(path, "deep", "empty"))
        for n in range(state["n"]):
            Path(path, "deep", f"{n}.txt").write_text(str(n))
        os.symlink("deep", os.path.join(path, "link"))

    def load(path):
        state["n"] = len(list(Path(path, "link").glob("*.txt")))

    def job(stop_at):
        counter = enable_counter("run", each_save=True)
        counter.save_load_funcs([save], [load], ["folder"])
        for i in counter(range(6)):
            assert state["n"] == i
            if i == stop_at:
                return
            state["n"] += 1

    job(4)
    assert left() == ["folder", "run"]
    assert sorted(os.listdir("folder/deep")) == ["0.txt", "1.txt", "2.txt", "3.txt", "empty"]
    state["n"] = 0
    job(None)
    assert state["n"] == 6
    assert left() == []


def test_a_function_that_writes_another_name_gets_an_error_that_names_it(folder, left):
    """As `numpy.save` does with a name without `.npy`. Nothing stays behind."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: Path(path + ".npy").write_text("x")], [print], ["array"])
    with pytest.raises(RestartError, match="wrote array.npy; have it write to the path it is given"):
        for _ in counter(range(3)):
            pass
    del counter
    gc.collect()
    assert left() == []


def test_a_function_that_writes_nothing_gets_an_error(folder):
    """It is said at the first save, not when the next run finds nothing."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: None], [print], ["array"])
    with pytest.raises(RestartError, match="array: the function to save it wrote nothing at all"):
        counter.save()


def test_an_empty_list_of_functions_is_nothing(folder, left):
    """A list that a program makes may be empty."""
    with enable_counter("run") as counter:
        counter.save_load_funcs([], [], [])
        list(counter(range(2)))
    assert left() == []


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


def test_a_folder_that_was_moved_still_resumes(folder, tmp_path, monkeypatch):
    """Paths inside the progress file are relative to its folder."""

    def job(stop_at):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(6)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    interrupted(job, 3)
    moved = tmp_path / "moved"
    folder.rename(moved)
    monkeypatch.chdir(moved)
    assert job(None) == [0, 1, 2, 3, 4, 5]
    assert os.listdir(moved) == []


def test_no_path_may_be_used_twice(folder):
    """One object path for two counters or twice for one, or equal to a progress path, of this counter or another."""
    with enable_counter("run") as counter:
        counter.save_load_object([], "object")
        with pytest.raises(RestartError, match="object: registered twice; give each object and function a path of its"):
            counter.save_load_object([], Path("object"))
        with pytest.raises(RestartError, match="twin: registered twice"):
            counter.save_load_funcs([print, print], [print, print], ["twin", "twin"])
        with pytest.raises(RestartError, match="run: the path of the progress itself; give another one"):
            counter.save_load_object([], "run")
        with pytest.raises(RestartError, match="object: in use for something else in this program; give it a path of"):
            enable_counter("object")
        with enable_counter("second") as second:
            with pytest.raises(RestartError, match="object: in use for something else in this program"):
                second.save_load_object([], folder / "object")
            with pytest.raises(RestartError, match="run: in use for something else in this program"):
                second.save_load_object([], "run")


def test_a_linked_folder_is_another_name_for_the_same_path(folder):
    """Two names of one file are found out."""
    os.symlink(".", "link")
    with enable_counter("run") as counter:
        with pytest.raises(RestartError, match="link/run: the path of the progress itself"):
            counter.save_load_object([], "link/run")


def test_a_path_is_free_again_when_its_counter_is_done(folder, left):
    """The description uses `temp_sum.pickle` for two counters, one after the other."""
    for _ in range(2):
        with enable_counter("run") as counter:
            counter.save_load_object([], "object")
            list(counter(range(2)))
    assert left() == []


# Resuming.


class Source:
    """An iterable that counts what is drawn from it."""

    def __init__(self, length):
        self.length, self.drawn = length, 0

    def __iter__(self):
        for i in range(self.length):
            self.drawn += 1
            yield i


def test_resuming_draws_and_drops_the_items_of_an_iterable_without_running_them(folder):
    """What was done is skipped: not one of its items reaches the loop."""
    interrupted(with_counter, [], 4)
    source = Source(10)
    assert list(simple_counter("run", source)) == [4, 5, 6, 7, 8, 9]
    assert source.drawn == 10


def test_resuming_a_range_takes_no_time(folder):
    """At 5e11 of 1e12, at once; lengths beyond what `len` can say included."""
    for length in (10**12, 10**20):
        with pytest.raises(Stop):
            with enable_counter("run") as counter:
                for _ in counter(range(length)):
                    raise Stop
        counter = enable_counter("run")
        counter._start = length // 2
        with counter:
            assert next(counter(range(length))) == length // 2


def test_resuming_a_function_calls_it_with_the_position(folder):
    """For sources that need not be read from their beginning; called once, with 0 the first time."""
    calls = []

    def source(start):
        calls.append(start)
        return range(start, 10)

    for stop_at in (4, None):
        seen = []
        try:
            with enable_counter("run") as counter:
                for i in counter(source):
                    if i == stop_at:
                        raise Stop
                    seen.append(i)
        except Stop:
            assert seen == [0, 1, 2, 3]
    assert (calls, seen) == ([0, 4], [4, 5, 6, 7, 8, 9])


def test_a_sequence_without_iter_is_an_iterable(folder):
    """As `for` sees it: `__getitem__` will do."""

    class Old:
        def __getitem__(self, index):
            if index == 3:
                raise IndexError
            return index

    assert list(simple_counter("run", Old())) == [0, 1, 2]


def test_a_loop_that_is_done_draws_nothing(folder):
    """A skipped loop does not touch its source."""

    def job(source, fails):
        with multi_count():
            for _ in simple_counter("run", source):
                pass
            if fails:
                raise Stop

    interrupted(job, Source(3), True)
    source = Source(3)
    job(source, False)
    assert source.drawn == 0


def test_another_length_is_logged(folder, log):
    """The iterable must come again in the same order; another length says that it may not."""
    interrupted(with_counter, [], 4)
    with_counter([], length=12)
    assert log("WARNING") == ["run: saved with an iterable of 10 items, which has 12 now"]


@pytest.mark.parametrize("has_length", [True, False])
def test_a_position_beyond_the_end_is_an_error(folder, has_length):
    """Where there is a length it is known before anything is drawn; else when the items run out."""
    interrupted(with_counter, [], 4)
    says = "saved at position 4, but the iterable (has 3 items|ends before); give the iterable it was saved with"
    with pytest.raises(RestartError, match=f"run: {says}"):
        list(simple_counter("run", range(3) if has_length else (i for i in range(3))))
    assert list(simple_counter("run", range(4))) == []


def test_a_length_is_kept_where_the_iterable_has_one(folder):
    """It stands in the progress file, for people to read."""
    interrupted(with_counter, [], 4)
    assert header()["length"] == 10
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            for _ in counter(i for i in range(10)):
                raise Stop
    assert header()["length"] in (10, None)


# save and remove_files.


def test_save_saves_now(folder):
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


def test_save_after_the_loop_was_left_does_not_keep_the_file_locked(folder, run_child):
    """A program that saves once more after a `break` holds nobody up."""
    counter = enable_counter("run", each_save=True, save_span=100)
    for i in counter(range(9)):
        if i == 5:
            break
    counter.save()
    assert position() == 5
    assert run_child(lambda tell: tell(list(simple_counter("run", range(9))))).told == [[5, 6, 7, 8]]


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
            counter.save_load_object([], "seen")
            for i in counter(range(4)):
                if i == 2:
                    raise Stop
    with pytest.raises(RestartError, match="run: saved with .*seen, which is not registered; register it, or delete"):
        enable_counter("run").save()


def test_remove_files_forgets(folder, left):
    """The progress and all that was saved with it; the loop starts afresh."""

    def job(stop_at):
        with enable_counter("run") as counter:
            if stop_at is None:
                counter.remove_files()
                assert (left(), position()) == (["run"], 0)  # the lock
                assert counter.position == 0
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


def test_remove_files_inside_the_loop_forgets_until_the_next_boundary(folder, left):
    """The loop goes on, and its next save is like its first."""
    for i in (loop := simple_counter("run", range(6))):
        if i == 3:
            loop._counter.remove_files()
            assert position() == 0
        if i == 4:
            assert (left(), position()) == (["run"], 4)
    assert left() == []


# The log.


def test_the_log_says_where_a_loop_starts_and_when_it_is_done(folder, log):
    """One line each: afresh, resumed with position, length, age and path, skipped, done."""
    interrupted(with_counter, [], 4)
    os.utime("run", (0, 0))
    assert log("INFO") == ["run: starts afresh, at position 0 of 10"]
    with multi_count():
        with_counter([])
        assert log("INFO")[1].startswith("run: resumes at position 4 of 10, saved ")
        assert log("INFO")[1].endswith(" days ago")
        assert log("INFO")[2:] == ["run: done at position 10"]
        logging.getLogger("py_restart").debug("-")
    list(simple_counter("other", (i for i in range(2))))
    assert log("INFO")[3] == "other: starts afresh, at position 0"


def test_the_log_says_that_a_loop_is_skipped(folder, log):
    """A finished loop does not start: one line says so."""

    def job(fails):
        with multi_count():
            with_counter([])
            if fails:
                raise Stop

    interrupted(job, True)
    job(False)
    assert "run: finished before, at position 10 of 10; skipped" in log("INFO")


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
    for i in counter(range(11)):
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


# Processes, threads, notebooks.


def test_a_second_process_is_refused_with_the_process_id_and_host_of_the_first(folder, start):
    """At the start, and while the first one only counts."""

    def job(tell):
        with enable_counter("run") as counter:
            for _ in counter(range(3)):
                tell("inside")
                signal.pause()

    first = start(job)
    first.hear()
    says = f"run: in use by process {first.pid} on {os.uname().nodename[:30]}.*; wait for it to end, or stop it"
    with pytest.raises(RestartError, match=says):
        enable_counter("run")
    first.send(signal.SIGKILL)
    first.end()
    assert list(simple_counter("run", range(3))) == [0, 1, 2]


def test_a_second_process_is_refused_by_one_that_has_resumed(folder, start):
    """The process id is that of the one that uses the file now, not of the one that made it."""
    interrupted(with_counter, [], 4)

    def job(tell):
        counter = enable_counter("run")
        tell(counter.position)
        signal.pause()

    first = start(job)
    assert first.hear() == 4
    with pytest.raises(RestartError, match=f"run: in use by process {first.pid} on "):
        enable_counter("run")


def test_of_two_processes_that_have_saved_nothing_one_is_refused(folder, start, left):
    """The progress file exists from the call on, to carry the lock."""

    def job(tell):
        try:
            counter = enable_counter("run", each_save=True)
        except RestartError as error:
            tell(str(error))
        else:
            tell("in")
            signal.sigwait([signal.SIGUSR1])
            tell(list(counter(range(2))))

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        children = [start(job) for _ in range(4)]
        heard = [child.hear() for child in children]
        assert heard.count("in") == 1
        winner = children[heard.index("in")]
        for says in heard:
            assert says == "in" or says.startswith(f"run: in use by process {winner.pid} on ") or "another" in says
        winner.send(signal.SIGUSR1)
        assert winner.end().told == ["in", [0, 1]]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert left() == []


def test_a_newer_counter_takes_over_and_the_older_one_raises(folder, left):
    """As when a notebook cell is run again while the old objects are still referenced."""
    old = enable_counter("run", each_save=True)
    old_loop = old(range(5))
    new = enable_counter("run", each_save=True)
    for use in (old.save, old.remove_files, old_loop.__next__):
        with pytest.raises(RestartError, match="run: a newer counter for the same path has taken over; use that one"):
            use()
    assert list(new(range(2))) == [0, 1]
    assert left() == []


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
        again.save_load_object([], "seen")
        list(again(range(2)))
    assert left() == []
    assert counter.object == []


def test_a_forked_child_neither_holds_the_lock_nor_writes(folder, left, start):
    """It runs the rest of the loop as if the library were not there; the file is the parent's alone."""

    def job(tell):
        with enable_counter("run", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(8)):
                seen.append(i)
                if i == 3:
                    child = os.fork()
                    if child:
                        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                        tell((position(), loaded("seen"), left()))
                        signal.pause()
        counter.remove_files()
        tell("child is through")

    parent = start(job)
    assert parent.hear() == "child is through"
    assert parent.hear() == 0
    assert parent.hear() == (3, [0, 1, 2], ["run", "seen"])
    parent.send(signal.SIGKILL)
    parent.end()
    counter = enable_counter("run", each_save=True)
    assert (counter.position, counter.save_load_object([], "seen")) == (3, [0, 1, 2])


def test_a_forked_child_that_outlives_its_parent_holds_nobody_up(folder, start):
    """The lock goes with the process that took it."""

    def job(tell):
        with enable_counter("run", each_save=True) as counter:
            for i in counter(range(8)):
                if i == 3:
                    if os.fork() == 0:
                        tell(("child", os.getpid()))
                        signal.pause()
                    else:
                        signal.pause()

    parent = start(job)
    _, child = parent.hear()
    os.kill(parent.pid, signal.SIGKILL)
    os.waitpid(parent.pid, 0)
    try:
        assert list(simple_counter("run", range(8))) == [3, 4, 5, 6, 7]
    finally:
        os.kill(child, signal.SIGKILL)
        parent.status = 0
        parent._pipe.close()


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


def test_a_progress_file_that_was_deleted_under_a_running_loop_is_written_anew(folder, monkeypatch):
    """It is noticed with the next flush, within a second."""
    from py_restart import _storage

    monkeypatch.setattr(_storage, "FLUSH_SECONDS", 0)
    for i in simple_counter("run", range(6)):
        if i == 3:
            os.unlink("run")
        if i == 5:
            assert position() == 5


def test_a_progress_file_that_was_deleted_is_written_anew_by_a_failure(folder):
    """Also where nothing has been saved before."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(6)):
                if i == 3:
                    os.unlink("run")
                    raise Stop
                seen.append(i)
    assert (position(), loaded("seen")) == (3, [0, 1, 2])


def test_a_progress_file_that_was_replaced_by_somebody_else_is_an_error(folder, monkeypatch):
    """It stays untouched."""
    from py_restart import _storage

    monkeypatch.setattr(_storage, "FLUSH_SECONDS", 0)
    with pytest.raises(RestartError, match="run: replaced by somebody else while in use; move that away and"):
        for i in simple_counter("run", range(6)):
            if i == 3:
                os.unlink("run")
                Path("run").write_text("mine")
    assert Path("run").read_text() == "mine"


# What must not come to pass on the way.


def unwilling(path):
    raise OSError("disk full")


def test_a_loop_that_saves_at_intervals_writes_nothing_where_none_was_due(folder, monkeypatch):
    """The end of a quick loop is estimated by saving its position: never where objects, or a host, go with it."""
    monkeypatch.setattr(_counter, "_NOTICEABLE", 0)
    written, path = [], os.path.abspath("model")
    counter = enable_counter("run", each_save=True, save_interval=1000)
    counter.save_load_funcs([lambda path: Path(path).touch()], [unwilling], [path])
    counter.save()
    monkeypatch.setattr(counter._storage, "write", written.append)
    with pytest.raises(Stop):
        for i in counter(range(5)):
            with pytest.raises(Stop) if i == 4 else contextlib.nullcontext():
                for j in simple_counter("inner", range(5), save_interval=1000):
                    if (i, j) == (4, 4):
                        raise Stop
            if i == 4:
                raise Stop
    assert written == []


def test_a_loop_that_has_not_saved_is_told_nothing_of_what_saving_takes(folder, log, monkeypatch):
    """`save_interval` has passed over all of its boundaries."""
    monkeypatch.setattr(_counter, "_NOTICEABLE", 0)
    for _ in simple_counter("run", range(300), save_interval=60):
        pass
    assert log("WARNING") == []


def test_a_counter_that_nobody_holds_any_more_lets_go_at_once(folder, left):
    """Without waiting for the garbage collector: another process may be next."""
    gc.disable()
    try:
        assert enable_counter("run").position == 0
        assert left() == []
        enable_counter("run").remove_files()
        assert left() == []
    finally:
        gc.enable()


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


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_ctrl_c_during_a_start_leaves_nothing(folder, left, monkeypatch, moment):
    """Wherever it comes, the file and its lock go, and the next start works."""
    count, calls = [0], {name: getattr(os, name) for name in ("open", "replace", "stat", "lstat", "urandom")}

    def stopping(name):
        def call(*arguments, **named):
            count[0] += 1
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGINT)
            return calls[name](*arguments, **named)

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        for name in calls:
            patch.setattr(os, name, stopping(name))
        enable_counter("run")
        raise AssertionError("no stop came")
    assert left() == [] and os.path.realpath("run") not in _storage._opened
    assert stop.traceback  # which a notebook keeps, and with it the counter
    assert list(simple_counter("run", range(2))) == [0, 1]


@pytest.mark.parametrize("way", ["end", "exception"])
def test_a_loop_that_begins_behind_its_with_block_is_an_error(folder, way):
    """Never an empty loop, and never one that nobody saves."""
    try:
        with enable_counter("run") as counter:
            loop = map(str, counter(range(3)))
            if way == "exception":
                raise KeyError
    except KeyError:
        pass
    with pytest.raises(RestartError, match="run: its with block has ended; run the loop inside it"):
        list(loop)


def test_save_behind_a_with_block_that_failed_keeps_no_lock(folder):
    """Another process may go on then."""
    with pytest.raises(KeyError), enable_counter("run") as counter:
        for _ in counter(range(3)):
            raise KeyError
    counter.save()
    assert os.path.realpath("run") not in _storage._opened


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
        with pytest.raises(RestartError, match="run: a newer counter for the same path is in use; use that one"):
            getattr(older, use)()
    assert told == [0, 1, 2]


def test_a_save_function_that_exits_does_not_hide_the_exception(folder):
    """The one that is on its way stays the one that is raised."""

    def save(path):
        sys.exit("no space")

    with pytest.raises(KeyError) as raised, enable_counter("run") as counter:
        counter.save_load_funcs([save], [print], ["data"])
        for _ in counter(range(3)):
            raise KeyError
    assert sys.version_info < (3, 11) or raised.value.__notes__ == ["no space"]


def test_a_loop_that_goes_on_behind_its_with_block_leaves_nothing(folder, left):
    """A generator that was drawn from inside: the work is done when it is exhausted, and the next run is a new one."""
    for _ in range(2):
        with enable_counter("run", each_save=True) as counter:
            items = iter(counter(range(5)))
            assert next(items) == 0
        assert (list(items), left()) == ([1, 2, 3, 4], [])

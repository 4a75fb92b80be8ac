"""multi_count, loops inside loops, and the one moment that is saved for all of them."""

import asyncio
import gc
import json
import os
import pickle
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from py_restart import RestartError, _scope, config, enable_counter, multi_count, simple_counter


class Stop(Exception):
    """How a job is interrupted."""


def stopper(at):
    """Return what raises at one place, once."""
    places = [] if at is None else [at]

    def stop(*place):
        if place in places:
            places.remove(place)
            raise Stop

    return stop


def killer(at, die):
    """Return what kills the process at one place."""
    return lambda *place: die() if place == at else None


def stopped(job, *arguments):
    """Run a job that ends by Stop, and return what it told."""
    told = []
    with pytest.raises(Stop):
        job(told.append, *arguments)
    gc.collect()
    return told


def finished(job, *arguments):
    """Run a job to its end, and return what it told."""
    told = []
    job(told.append, *arguments)
    return told


def nothing(*place):
    """Do not stop."""


# multi_count.


def two_loops(tell, stop):
    with multi_count():
        with enable_counter("first") as counter:
            total = counter.save_load_object([0], "total.pickle")
            for i in counter(range(4)):
                stop("first", i)
                total[0] += i
                tell(("first", i))
        tell(total[0])
        for i in simple_counter("second", range(4)):
            stop("second", i)
            tell(("second", i))
        stop("after")


def test_a_loop_that_ended_in_the_block_is_skipped_and_its_object_loaded(folder, left):
    """A finished loop keeps its files until the block ends: the next run skips it, and has what came out of it."""
    stopped(two_loops, stopper(("second", 2)))
    assert left() == ["first", "second", "total.pickle"]
    assert json.loads(Path("first").read_text().splitlines()[0])["finished"] is True
    assert finished(two_loops, nothing) == [6, ("second", 2), ("second", 3)]
    assert left() == []


@pytest.mark.parametrize("place", [("first", 2), ("second", 0), ("second", 3), ("after",)])
def test_a_block_goes_on_where_it_was_killed(folder, left, run_child, die, place):
    """kill -9 inside a block: whatever was finished stays finished, whatever was not is not skipped."""
    run_child(two_loops, killer(place, die))
    told = finished(two_loops, nothing)
    assert [thing for thing in told if thing == 6] == [6]
    order = [("first", i) for i in range(4)] + [("second", i) for i in range(4)]
    items = [thing for thing in told if thing != 6]
    first = 0 if place == ("first", 2) else 8 if place == ("after",) else order.index(place)
    assert items == order[first:]
    assert left() == []


def test_a_loop_left_by_break_in_a_with_counts_as_finished_in_the_block(folder, left):
    """`break` in a `with` is an end of the work: the next run skips the loop, also where it saves each item."""

    def job(tell, stop):
        with multi_count():
            with enable_counter("first", each_save=True) as counter:
                for i in counter(range(9)):
                    tell(i)
                    if i == 3:
                        break
            with enable_counter("second") as counter:
                for i in counter(range(2)):
                    stop(i)

    assert stopped(job, stopper((1,))) == [0, 1, 2, 3]
    assert finished(job, nothing) == []
    assert left() == []


def test_all_files_go_when_the_block_ends_the_newest_loop_first(folder, left, monkeypatch):
    """A kill between two removals never makes a later loop look done before an earlier one."""
    gone = []
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path, **more: (gone.append(os.path.basename(path)), unlink(path, **more)))
    finished(two_loops, nothing)
    assert [name for name in gone if name in ("first", "second")] == ["second", "first"]
    assert left() == []


def test_a_loop_broken_off_in_the_block_goes_with_the_others(folder, left):
    """The files of all loops of the block go when it ends without an exception, those of a `break` too."""
    with multi_count():
        for i in simple_counter("first", range(9)):
            if i == 3:
                break
        assert left() == ["first"]
    assert left() == []


def test_a_block_inside_a_block_is_an_error_in_the_words_of_the_description(folder):
    """The message is the description's, and the open block goes on."""
    with multi_count() as block:
        with pytest.raises(RestartError, match="^MultiCount has already opend. cannot open another MultiCount$"):
            with multi_count():
                pass
        assert config.parent is block
    assert config.parent is None


def test_the_parent_is_none_again_after_a_block_that_failed(folder):
    """A notebook cell that failed inside a block can be run again."""
    with pytest.raises(Stop):
        with multi_count():
            assert config.parent is not None
            raise Stop
    assert config.parent is None


def test_one_path_for_two_loops_of_a_block_is_an_error(folder, left):
    """The second loop would be skipped as finished: never silently."""
    with pytest.raises(RestartError, match=r"^same: used for two loops of one multi_count block; give each loop"):
        with multi_count():
            for _ in simple_counter("same", range(3)):
                pass
            for _ in simple_counter(Path("same"), range(3)):
                pass
    assert left() == ["same"]


def test_one_path_for_inner_loops_of_two_outer_ones_is_an_error(folder):
    """Also where the outer one was left by `break`, so that the inner one's files are still there."""
    with pytest.raises(RestartError, match="^inner: used for two loops of one multi_count block"):
        with multi_count():
            for name in ("a", "b"):
                with enable_counter(name) as counter:
                    for _ in counter(range(3)):
                        for _ in simple_counter("inner", range(2)):
                            pass
                        break


def test_the_files_of_a_block_that_failed_are_unlocked(folder, run_child):
    """A block that ends by an exception lets go of everything: another process may go on."""
    stopped(two_loops, stopper(("second", 2)))
    assert run_child(two_loops, nothing).told == [6, ("second", 2), ("second", 3)]


def test_eight_threads_with_a_block_each(folder, left):
    """A block belongs to the thread that opened it, and so do the loops around a counter."""
    barrier = threading.Barrier(8)

    def work(name):
        seen = []
        with multi_count() as block:
            barrier.wait(10)
            assert config.parent is block
            for loop in range(2):
                for i in simple_counter(f"{name}-{loop}", range(20)):
                    for j in simple_counter(f"{name}-{loop}-inner", range(2)):
                        seen.append((loop, i, j))
        return seen

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, "abcdefgh"))
    assert results == 8 * [[(loop, i, j) for loop in range(2) for i in range(20) for j in range(2)]]
    assert left() == []


def test_tasks_see_their_own_blocks_and_loops(folder, left):
    """What an asyncio task opens or runs is not around another task's counter."""

    async def work(name):
        seen = []
        with multi_count() as block:
            for i in simple_counter(name, range(5)):
                await asyncio.sleep(0)
                assert config.parent is block
                for j in simple_counter(name + "-inner", range(2)):
                    await asyncio.sleep(0)
                    seen.append((i, j))
        return seen

    async def all_of_them():
        return await asyncio.gather(*map(work, "abc"))

    assert asyncio.run(all_of_them()) == 3 * [[(i, j) for i in range(5) for j in range(2)]]
    assert left() == []


# Loops inside loops, nothing registered around.


def nested(tell, stop, in_block, outer_with):
    import contextlib

    with multi_count() if in_block else contextlib.nullcontext():
        with enable_counter("outer") if outer_with else contextlib.nullcontext() as counter:
            loop = counter(range(3)) if outer_with else simple_counter("outer", range(3))
            for i in loop:
                stop("before", i)
                for j in simple_counter("inner", range(3)):
                    stop("item", i, j)
                    tell((i, j))
                stop("between", i)


every_way = pytest.mark.parametrize(
    "in_block, outer_with", [(False, False), (False, True), (True, False), (True, True)], ids=str
)
ALL = [(i, j) for i in range(3) for j in range(3)]
PLACES = [
    *[("before", 0), ("item", 0, 0), ("item", 0, 1), ("between", 0), ("before", 1), ("item", 1, 0)],
    *[("item", 1, 2), ("between", 1), ("before", 2), ("item", 2, 2), ("between", 2)],
]


def due(place, in_block, outer_saved):
    """The first item that is due when the job has been stopped at a place."""
    kind, i, *j = place
    if not outer_saved and i:
        if in_block and place == ("before", 1):
            return (1, 0)  # the inner loop that is marked as finished ran inside item 0, which the outer one resumes
        return (0, 0)  # the inner save belongs to an outer item that the outer position does not know of
    if kind == "item":
        return (i, *j)
    return (i + 1, 0) if kind == "between" and in_block else (i, 0)


@every_way
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_inner_item_is_skipped_after_a_kill(folder, left, run_child, die, in_block, outer_with, place):
    """What the outer position says is still to be done is done again; where that was saved, no inner item is."""
    first = run_child(nested, killer(place, die), in_block, outer_with).told
    second = finished(nested, nothing, in_block, outer_with)
    assert set(first + second) == set(ALL)
    assert second == [item for item in ALL if item >= due(place, in_block, not outer_with)]
    assert left() == []


@every_way
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_nested_loops_go_on_where_they_failed(folder, left, in_block, outer_with, place):
    """An exception saves the outer position: nothing runs twice, but for a pass that had ended and left no files."""
    first = stopped(nested, stopper(place), in_block, outer_with)
    second = finished(nested, nothing, in_block, outer_with)
    assert set(first + second) == set(ALL)
    assert second == [item for item in ALL if item >= due(place, in_block, True)]
    assert left() == []


def test_a_kill_in_an_inner_loop_while_the_outer_has_never_been_saved_leaves_no_orphan(folder, left, run_child, die):
    """The outer progress file names the inner one: it goes with it, even where the inner loop never runs again."""
    run_child(nested, killer(("item", 0, 2), die), False, True)
    assert left() == ["inner", "outer"]
    with enable_counter("outer") as counter:
        for _ in counter(range(3)):
            pass
    assert left() == []


def test_the_inner_files_go_before_the_next_outer_boundary_is_saved(folder, left):
    """A loop inside that was left by `break` leaves nothing that the next outer item could take for its own."""
    for i in simple_counter("outer", range(3)):
        if i:
            assert left() == ["outer"]
        for j in simple_counter("inner", range(3)):
            if j == 2:
                break
        assert left() == ["inner", "outer"]
    assert left() == []


def test_a_kill_between_two_inner_passes_under_a_block(folder, left, run_child, die):
    """The finished inner loop of item 1 is not taken for that of item 2, under `multi_count` neither."""
    run_child(nested, killer(("before", 2), die), True, False)
    assert finished(nested, nothing, True, False) == [(2, 0), (2, 1), (2, 2)]


def test_a_save_is_out_of_date_where_any_loop_around_moved_on(folder):
    """Three deep: the innermost save remembers the position of each loop around it, not of the nearest alone."""

    def job(tell, stop):
        with enable_counter("a") as a:
            for i in a(range(2)):
                for j in simple_counter("b", range(2), save_span=2):
                    for k in simple_counter("c", range(3)):
                        stop(i, j, k)
                        tell((i, j, k))

    stopped(job, stopper((0, 1, 2)))
    content = Path("c").read_bytes()
    assert json.loads(content.splitlines()[0])["around"] == [["a", 0], ["b", 1]]
    # b was last saved at 0: c belongs to another item of it
    assert finished(job, nothing)[:4] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)]


def test_an_inner_save_stays_valid_under_a_new_loop_around_it_which_the_log_names(folder, log):
    """A loop that was wrapped in another one since goes on; nobody can know, so a warning says so."""
    with pytest.raises(Stop):
        for j in simple_counter("inner", range(5)):
            if j == 3:
                raise Stop
    seen = []
    for i in simple_counter("outer", range(2)):
        for j in simple_counter("inner", range(5)):
            seen.append((i, j))
    assert seen == [(0, 3), (0, 4)] + [(1, j) for j in range(5)]
    assert log("WARNING") == ["inner: saved outside the loop of outer, in which it runs now"]


def test_an_inner_save_stays_valid_where_a_loop_around_it_is_not_there_any_more(folder, left, log):
    """A loop that was taken out of another one goes on."""
    stopped(nested, stopper(("item", 1, 2)), False, False)
    Path("outer").unlink()
    assert list(simple_counter("inner", range(3))) == [2]
    assert left() == []
    assert log("WARNING") == []


def test_a_thread_has_its_own_loops_around(folder, left):
    """What another thread runs is not around this thread's counter, though it runs at the same time."""
    places = []

    def work():
        for _ in simple_counter("other", range(1)):
            places.append(json.loads(Path("other").read_text().splitlines()[0])["around"])

    for _ in simple_counter("outer", range(2)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
    assert places == [[], []]
    assert left() == []


# Which loops are around.


@pytest.mark.parametrize("way", ["end", "break", "exception"])
def test_a_loop_that_was_left_is_not_around_even_where_a_variable_holds_it(folder, way):
    """A notebook keeps `loop` in a variable; the cell run again is not inside of it."""
    loop = simple_counter("old", range(5))
    try:
        for i in loop:
            if i == 2 and way == "break":
                break
            if i == 2 and way == "exception":
                raise Stop
    except Stop:
        pass
    for _ in simple_counter("new", range(2)):
        assert json.loads(Path("new").read_text().splitlines()[0])["around"] == []
    assert loop is not None


def test_an_inner_loop_abandoned_in_a_variable_and_the_cell_run_again(folder, left):
    """Neither the loop objects nor the traceback, which keeps every frame alive, hold the cell's second run up."""

    def cell(seen, stop):
        outer = simple_counter("outer", range(3))
        for i in outer:
            inner = simple_counter("inner", range(3))
            for j in inner:
                seen.append((i, j))
                if (i, j) == stop:
                    raise Stop

    seen = []
    with pytest.raises(Stop) as kept:
        cell(seen, (1, 1))
    again = []
    cell(again, None)
    assert again == [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert kept.tb is not None
    assert left() == []


def test_a_loop_driven_by_next_is_taken_over_when_the_cell_runs_again(folder, left):
    """It has no `for` that could be left; the newer counter for its path takes over, and the older one raises."""

    def cell():
        loop = simple_counter("run", range(5))
        return loop, next(loop), next(loop)

    old, *items = cell()
    assert items == [0, 1]
    assert cell()[1:] == (1, 2)
    with pytest.raises(RestartError, match="run: a newer counter for the same path has taken over; use that one"):
        next(old)
    gc.collect()
    assert list(simple_counter("run", range(5))) == [2, 3, 4]
    assert left() == []


def test_a_loop_driven_by_next_is_around_other_counters(folder):
    """It is running until it is left or thrown away."""
    loop = simple_counter("outer", range(3))
    assert next(loop) == 0
    for _ in simple_counter("inner", range(1)):
        assert json.loads(Path("inner").read_text().splitlines()[0])["around"] == [["outer", 0]]
    loop.close()
    for _ in simple_counter("inner", range(1)):
        assert json.loads(Path("inner").read_text().splitlines()[0])["around"] == []


def test_a_loop_that_is_thrown_away_is_not_around(folder):
    """Nobody keeps it alive: what is collected is left."""
    loop = simple_counter("outer", range(3))
    assert next(loop) == 0
    del loop
    gc.collect()
    for _ in simple_counter("inner", range(1)):
        assert json.loads(Path("inner").read_text().splitlines()[0])["around"] == []


def test_two_counters_in_one_zip_are_an_error_that_says_what_to_write(folder):
    """The second would think itself inside the first."""
    with pytest.raises(RestartError, match="b: the loops around it are not those in which its counter was made; make"):
        for _ in zip(simple_counter("a", range(3)), simple_counter("b", range(3)), strict=True):
            pass


def test_a_counter_made_outside_and_run_inside_is_an_error(folder):
    """It does not know the item it runs in."""
    inner = simple_counter("inner", range(3))
    with pytest.raises(RestartError, match="inner: the loops around it are not those"):
        for _ in simple_counter("outer", range(3)):
            for _ in inner:
                pass


def test_a_counter_made_in_one_item_and_run_in_the_next_is_an_error(folder):
    """The item that it was made for is over."""
    kept = []
    with pytest.raises(RestartError, match="inner: the loops around it are not those"):
        for _ in simple_counter("outer", range(3)):
            kept = kept or [simple_counter("inner", range(3))]
            if _ == 1:
                list(kept[0])


def test_a_loop_cannot_be_the_source_of_another(folder, left):
    """Skipping would draw from it twice: an error at the call, before a file is made."""
    source = simple_counter("source", range(3))
    for make in (lambda: simple_counter("loop", source), lambda: enable_counter("loop", each_save=True)(source)):
        with pytest.raises(RestartError, match="loop: a loop cannot be part of the source of another loop.*nest.*zip"):
            make()
    gc.collect()
    assert left() == ["source"]


@pytest.mark.parametrize("made", ["before", "inside"])
def test_a_loop_cannot_be_part_of_the_source_of_another(folder, made):
    """A generator that runs a counter of its own is such a source, however it is wrapped."""
    early = simple_counter("source", range(3)) if made == "before" else None

    def source():
        yield from early or simple_counter("source", range(3))

    with pytest.raises(RestartError, match="source: a loop cannot be part of the source of another loop"):
        for _ in simple_counter("loop", source()):
            pass


def through_a_bar(loop):
    """Iterate as a progress bar does."""
    for item in loop:  # noqa: UP028
        yield item


@pytest.mark.parametrize("wrapped", [iter, through_a_bar, enumerate, lambda loop: loop])
def test_a_path_cannot_be_that_of_a_loop_around(folder, left, wrapped):
    """A copied line: an error where the inner counter is made, not after ten hours."""
    ran = []
    with pytest.raises(RestartError, match="same: used for the loop around it as well; give it a path of its own"):
        for _ in wrapped(simple_counter("same", range(3))):
            ran.append(1)
            enable_counter("same", each_save=True)
    assert ran == [1]


def test_a_cell_is_run_again_while_a_variable_holds_an_iterator_of_its_loop(folder):
    """The newer counter takes over: what holds the old one runs nowhere any more."""
    cell = """
pairs = zip(simple_counter("run", range(5)), "abcde")
for i, letter in pairs:
    ran.append(letter)
    if letter == stop_at:
        raise Stop
"""
    names = {"simple_counter": simple_counter, "Stop": Stop, "ran": [], "stop_at": "c"}
    with pytest.raises(Stop):
        exec(compile(cell, "cell 1", "exec"), names)
    names["stop_at"] = None
    exec(
        compile(
            cell.replace(
                'zip(simple_counter("run", range(5)), "abcde")', 'zip(simple_counter("run", range(5)), "cde")'
            ),
            "cell 2",
            "exec",
        ),
        names,
    )
    assert names["ran"] == ["a", "b", "c", "c", "d", "e"]


def test_a_block_that_is_entered_again_is_a_new_one(folder, left):
    """Its loops keep their files as in any other."""
    block = multi_count()
    for _ in range(2):
        with block:
            assert config.parent is block
            assert list(simple_counter("run", range(2))) == [0, 1]
            assert left() == ["run"]
        assert left() == []


def test_a_finished_loop_in_a_block_keeps_one_file_open(folder):
    """There may be thousands of them."""

    def number_of_next_file():
        file = os.open(os.devnull, os.O_RDONLY)
        os.close(file)
        return file

    before = number_of_next_file()
    with multi_count():
        for k in range(10):
            assert list(simple_counter(f"run{k}", range(2))) == [0, 1]
        assert number_of_next_file() <= before + 10


# One moment for all of them.


def joint(tell, stop, outer_each=False, inner_with=False, early=True):
    """Two inner loops in each outer item, and objects of the outer and of the first inner loop."""
    with enable_counter("outer", each_save=outer_each) as counter:
        seen = counter.save_load_object([], "seen.pickle")
        for i in counter(range(3)):
            stop("before", i)
            if inner_with:
                with enable_counter("inner") as inner:
                    part = inner.save_load_object([], "part.pickle")
                    batches(inner(range(3)), i, seen, part, stop, early)
            else:
                inner = enable_counter("inner", each_save=True)
                part = inner.save_load_object([], "part.pickle")
                batches(inner(range(3)), i, seen, part, stop, early)
            stop("between", i)
            if inner_with:
                with enable_counter("second") as second:
                    others(second(range(3)), i, seen, stop, tell)
            else:
                others(simple_counter("second", range(3), save_span=2), i, seen, stop, tell)
            stop("after", i)
        tell(seen)


def batches(loop, i, seen, part, stop, early):
    for j in loop:
        if early:
            stop("first", i, j)
        seen.append((i, "first", j))
        part.append((i, j))
        assert part == [(i, n) for n in range(j + 1)]  # it is of the same moment as the position
        if not early:
            stop("first", i, j)


def others(loop, i, seen, stop, tell):
    for k in loop:
        stop("second", i, k)
        seen.append((i, "second", k))
        tell((i, "second", k))


WHOLE = [(i, loop, n) for i in range(3) for loop in ("first", "second") for n in range(3)]
MOMENTS = [
    *[("before", 0), ("first", 0, 0), ("first", 0, 2), ("between", 0), ("second", 0, 0), ("second", 0, 1)],
    *[("after", 0), ("before", 1), ("first", 1, 1), ("between", 1), ("second", 1, 2), ("after", 1), ("first", 2, 0)],
    *[("second", 2, 2), ("after", 2)],
]
at_each_moment = pytest.mark.parametrize("place", MOMENTS, ids=str)


@at_each_moment
@pytest.mark.parametrize("outer_each, early", [(False, False), (True, True)], ids=["outer with", "outer each_save"])
def test_the_sum_is_right_after_a_kill_anywhere(folder, left, run_child, die, place, outer_each, early):
    """What the inner loops have changed in the outer object and all positions are of one moment."""
    run_child(joint, killer(place, die), outer_each, False, early)
    assert "inner" not in left() and "second" not in left()  # they have no progress file of their own
    assert finished(joint, nothing, outer_each, False)[-1] == WHOLE
    assert left() == []


@at_each_moment
@pytest.mark.parametrize("outer_each, early", [(False, False), (True, True)], ids=["outer with", "outer each_save"])
def test_the_sum_is_right_after_an_exception_anywhere(folder, left, place, outer_each, early):
    """Where a loop of the moment has each_save, a failure saves nothing more than the last boundary, whole."""
    stopped(joint, stopper(place), outer_each, False, early)
    assert finished(joint, nothing, outer_each, False)[-1] == WHOLE
    assert left() == []


@at_each_moment
def test_a_failure_saves_the_moment_exactly_where_no_loop_of_it_has_each_save(folder, left, place):
    """Outer and inner `with`: both positions and both objects as they were when the block ended."""
    told = stopped(joint, stopper(place), False, True)
    again = finished(joint, nothing, False, True)
    assert again[-1] == WHOLE
    assert not any(item in again for item in told)
    assert left() == []


@at_each_moment
def test_a_kill_where_nothing_was_saved_starts_the_moment_afresh(folder, left, run_child, die, place):
    """Outer and inner `with`, kill -9: the positions are gone, and what has been changed in the objects with them."""
    run_child(joint, killer(place, die), False, True)
    assert left() == ["outer"]
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


def test_a_moment_can_be_stopped_again_and_again(folder, left, run_child, die):
    """Each run is killed a little later than the one before; the result is that of one run."""
    for place in MOMENTS[:-1]:
        run_child(joint, killer(place, die))
    assert finished(joint, nothing)[-1] == WHOLE
    assert left() == []


def test_the_progress_file_of_the_outermost_lists_the_loops_inside(folder):
    """Path, position, ended or not, files: `cat` shows where the whole moment stands."""
    stopped(joint, stopper(("second", 1, 2)))
    header = json.loads(Path("outer").read_text().splitlines()[0])
    first, second = header["inside"]
    assert (first["path"], first["position"], first["finished"]) == ("inner", 3, True)
    assert (second["path"], second["position"], second["finished"]) == ("second", 2, False)
    assert first["registered"] == ["part.pickle"]
    assert set(header["files"]) == {"seen.pickle", "part.pickle"}


def test_the_list_is_dropped_with_the_next_outer_boundary(folder, left):
    """The commit that drops the files of an inner loop removes them."""
    with enable_counter("outer", each_save=True) as counter:
        counter.save_load_object([], "seen.pickle")
        for i in counter(range(3)):
            assert left() == (["outer", "seen.pickle"] if i else ["outer"])
            header = json.loads(Path("outer").read_text().splitlines()[0])
            assert header["inside"] == []
            inner = enable_counter("inner", each_save=True)
            inner.save_load_object([], "part.pickle")
            list(inner(range(2)))
            assert left() == ["outer", "part.pickle", "seen.pickle"]
    assert left() == []


def test_a_kill_leaves_no_orphan_where_the_inner_loop_never_runs_again(folder, left, run_child, die):
    """What was saved of it goes with the outer loop's next boundary, and with its end."""
    run_child(joint, killer(("first", 1, 1), die))
    assert "part.pickle" in left()
    with enable_counter("outer", each_save=True) as counter:
        seen = counter.save_load_object([], "seen.pickle")
        for i in counter(range(3)):
            assert ("part.pickle" in left()) is (i == 1)
    assert len(seen) == 7
    assert left() == []


def test_the_host_is_the_outermost_loop_that_has_something_registered(folder, left):
    """Loops further out save for themselves, and what is inside the host is out of date with it."""

    def job(tell, stop):
        for i in simple_counter("a", range(2)):
            b = enable_counter("b", each_save=True)
            seen = b.save_load_object([], "seen")
            for j in b(range(2)):
                for k in simple_counter("c", range(2)):
                    stop(i, j, k)
                    seen.append((i, j, k))
            tell(list(seen))

    stopped(job, stopper((1, 1, 1)))
    assert left() == ["a", "b", "seen"]
    assert finished(job, nothing) == [[(1, j, k) for j in range(2) for k in range(2)]]
    assert left() == []


def test_three_loops_are_one_moment(folder, left, run_child, die):
    """The middle and the inner loop resume inside the outer one's item, at every place of a kill."""

    def job(tell, stop):
        with multi_count():
            with enable_counter("a") as a:
                seen = a.save_load_object([], "seen")
                for i in a(range(2)):
                    for j in simple_counter("b", range(2)):
                        for k in simple_counter("c", range(2)):
                            stop(i, j, k)
                            seen.append((i, j, k))
                tell(list(seen))

    order = [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]
    for place in order:
        run_child(job, killer(place, die))
    assert finished(job, nothing) == [order]
    assert left() == []


def test_functions_around_make_one_moment_too(folder, left, run_child, die):
    """A model that is saved by functions is of the batch that the inner position names."""
    model = {}

    def job(tell, stop):
        model["seen"] = 0
        with enable_counter("epochs") as counter:
            counter.save_load_funcs(
                [lambda path: Path(path).write_text(str(model["seen"]))],
                [lambda path: model.update(seen=int(Path(path).read_text()))],
                [Path("model")],
            )
            for i in counter(range(3)):
                for j in simple_counter("batches", range(10), save_span=3):
                    stop(i, j)
                    assert model["seen"] == 10 * i + j
                    model["seen"] += 1
        tell(model["seen"])

    run_child(job, killer((1, 8), die))
    assert Path("model").read_text() == "16"
    assert finished(job, nothing) == [30]
    assert left() == []


def test_an_inner_loop_saves_for_itself_where_the_one_around_it_cannot_save(folder, left):
    """Something registered with a loop that never saves is nobody's moment."""
    counter = enable_counter("outer")
    counter.save_load_object([], "seen")
    with pytest.warns(UserWarning, match="outer: this loop is never saved"):
        for _ in counter(range(1)):
            for j in simple_counter("inner", range(3)):
                if j == 2:
                    assert left() == ["inner", "outer"]
    assert left() == []


def test_one_path_twice_in_one_outer_item_is_an_error(folder):
    """The second would take up what the first has left."""
    with pytest.raises(RestartError, match="inner: used for two loops in one item of outer; give each loop a path"):
        with enable_counter("outer") as counter:
            counter.save_load_object([], "seen")
            for _ in counter(range(2)):
                list(simple_counter("inner", range(2)))
                list(simple_counter("inner", range(2)))


def test_an_inner_loop_that_was_broken_off_counts_as_ended_when_another_starts(folder, left, run_child, die):
    """Its position is not taken up in the middle of the next loop's work."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for _ in counter(range(1)):
                for j in simple_counter("inner", range(9)):
                    seen.append(("inner", j))
                    if j == 2:
                        break
                for k in simple_counter("second", range(3)):
                    stop(k)
                    seen.append(("second", k))
            tell(list(seen))

    run_child(job, killer((1,), die))
    assert finished(job, nothing) == [[("inner", j) for j in range(3)] + [("second", k) for k in range(3)]]
    assert left() == []


def test_what_stands_where_an_inner_loop_of_a_moment_was_given_is_not_touched(folder):
    """Such a loop has no progress file of its own; what is there is somebody else's."""
    Path("inner").write_text("mine")
    with pytest.raises(RestartError, match="inner: is there, but this loop is saved in outer; move it away, or give"):
        with enable_counter("outer") as counter:
            counter.save_load_object([], "seen")
            for _ in counter(range(2)):
                simple_counter("inner", range(2))
    assert Path("inner").read_text() == "mine"


def test_an_inner_object_that_cannot_be_loaded_costs_nothing(folder, left):
    """The outer block ends by that error and saves: what was saved of the inner loop stays in the moment as it is."""
    stopped(joint, stopper(("first", 1, 1)), False, True)
    content = Path("part.pickle").read_bytes()
    Path("part.pickle").write_bytes(b"damaged")
    with pytest.raises(RestartError, match=r"part.pickle: changed or damaged since it was saved; put it back, or"):
        joint(print, nothing, False, True)
    Path("part.pickle").write_bytes(content)
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


def test_a_failure_between_an_inner_counter_and_its_loop_costs_nothing(folder, left):
    """Until its loop begins, what was saved of it stays as it is; its loop has done nothing since."""
    stopped(joint, stopper(("first", 1, 1)), False, True)
    with pytest.raises(Stop):
        with enable_counter("outer") as counter:
            counter.save_load_object([], "seen.pickle")
            for _ in counter(range(3)):
                enable_counter("inner")
                raise Stop
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


def test_an_inner_with_block_that_ends_without_its_loop_is_the_end_of_its_work(folder, left):
    """It is not run again from where it was, once the block has ended without an exception."""
    stopped(joint, stopper(("first", 1, 1)), False, True)
    with pytest.raises(Stop):
        with enable_counter("outer") as counter:
            counter.save_load_object([], "seen.pickle")
            for _ in counter(range(3)):
                with enable_counter("inner") as inner:
                    inner.save_load_object([], "part.pickle")
                raise Stop
    assert json.loads(Path("outer").read_text().splitlines()[0])["inside"][0]["finished"] is True


def test_save_and_remove_files_inside_a_moment(folder, left):
    """An inner counter's `save` saves the whole moment; its `remove_files` forgets it alone."""
    with pytest.raises(Stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen.pickle")
            for _ in counter(range(2)):
                inner = enable_counter("inner", each_save=True, save_span=9)
                part = inner.save_load_object([], "part.pickle")
                inner.save()
                assert left() == ["outer", "part.pickle", "seen.pickle"]
                for j in inner(range(5)):
                    seen.append(j)
                    part.append(j)
                    if j == 2:
                        inner.save()
                        assert pickle.loads(Path("seen.pickle").read_bytes()) == [0, 1, 2]
                        assert json.loads(Path("outer").read_text().splitlines()[0])["inside"][0]["position"] == 2
                    if j == 3:
                        inner.remove_files()
                        assert left() == ["outer", "seen.pickle"]
                        assert json.loads(Path("outer").read_text().splitlines()[0])["inside"] == []
                        inner.save()
                        assert left() == ["outer", "part.pickle", "seen.pickle"]
                        raise Stop
    with enable_counter("outer") as counter:
        counter.save_load_object([], "seen.pickle")
        for _ in counter(range(1)):
            inner = enable_counter("inner", each_save=True)
            inner.remove_files()
            assert inner.position == 0
            assert inner.save_load_object("new", "part.pickle") == "new"
            assert list(inner(range(2))) == [0, 1]
    assert left() == []


def test_what_the_outer_counter_forgets_is_forgotten_for_an_inner_one_that_waits(folder, left):
    """An inner loop that has not begun starts afresh then: what was saved of it is gone with all the rest."""
    with pytest.raises(Stop), enable_counter("outer", each_save=True) as outer:
        outer.save_load_object([], "seen.pickle")
        for _ in outer(range(1)):
            inner = enable_counter("inner", each_save=True)
            part = inner.save_load_object([], "part.pickle")
            for j in inner(range(4)):
                if j == 2:
                    raise Stop
                part.append(j)
    with enable_counter("outer", each_save=True) as outer:
        outer.save_load_object([], "seen.pickle")
        for _ in outer(range(1)):
            inner = enable_counter("inner", each_save=True)
            assert inner.position == 2
            outer.remove_files()
            assert (inner.position, left()) == (0, ["outer"])
            assert inner.save_load_object([], "part.pickle") == []
            assert list(inner(range(4))) == [0, 1, 2, 3]
    assert left() == []


def test_a_forgotten_inner_counter_that_saved_nothing_leaves_the_moment_unsaved(folder, left):
    """`remove_files` saves nothing where nothing has been saved."""
    with enable_counter("outer") as counter:
        counter.save_load_object([], "seen.pickle")
        for _ in counter(range(1)):
            enable_counter("inner", each_save=True).remove_files()
            assert left() == ["outer"]


def test_sigterm_inside_a_moment_saves_it(folder, left, run_child):
    """A scheduler's stop in an inner loop is a stop of all of them."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                with enable_counter("inner") as inner:
                    for j in inner(range(3)):
                        stop(i, j)
                        seen.append((i, j))
            tell(list(seen))

    def terminate(*place):
        if place == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_child(job, terminate).status == 143
    assert left() == ["outer", "seen"]
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(3)]]
    assert left() == []


def test_a_forked_child_may_count_loops_of_its_own_inside_the_parents(folder, left, run_child):
    """They are saved, and the parent's loop is around them; the parent's file is the parent's alone."""

    def job(tell):
        for i in simple_counter("outer", range(4)):
            child = os.fork() if i == 2 else None
            if child == 0:
                for j in simple_counter("inner", range(3)):
                    tell((j, json.loads(Path("inner").read_text().splitlines()[0])["around"]))
                tell(left())
            elif child:
                os.waitpid(child, 0)
                os._exit(0)

    assert run_child(job).told == [*[(j, [["outer", 2]]) for j in range(3)], ["outer"]]
    assert list(simple_counter("outer", range(4))) == [2, 3]


def test_a_forked_child_saves_its_own_loops_where_the_parent_has_something_registered(folder, left, run_child):
    """It cannot save the parent's moment; its loop has a file of its own, and leaves none, a block or not."""

    def job(tell):
        counter = enable_counter("outer", each_save=True)
        counter.save_load_object([], "object")
        with multi_count():
            for i in counter(range(2)):
                child = os.fork()
                if child == 0:
                    for _ in simple_counter("inner", range(3)):
                        tell(json.loads(Path("inner").read_text().splitlines()[0])["around"])
                    tell(left())
                    os._exit(0)
                os.waitpid(child, 0)
                if i == 1:
                    os._exit(0)

    assert run_child(job).told == [
        *[[["outer", 0]]] * 3,
        ["outer"],
        *[[["outer", 1]]] * 3,
        ["object", "outer"],
    ]


def test_what_was_thrown_away_is_forgotten_by_whoever_comes_first(folder, monkeypatch):
    """Two threads look at the same time, and each finds what is left of a loop."""

    class Changing(list):
        def __contains__(self, reference):
            return False

    loop = simple_counter("gone", range(3))
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    for kind, kept in ((list, False), (Changing, True)):
        monkeypatch.setattr(_scope, "_running", kind([gone]))
        assert list(simple_counter("run", range(2))) == [0, 1]
        assert any(reference is gone for reference in _scope._running) is kept


# Loops that the block does not hold.


def test_a_task_that_outlives_the_block_ends_its_loop_itself(folder, left):
    """Its files go when its loop is exhausted, and the next run is a new one."""

    async def rows(told):
        for i in simple_counter("rows", range(4)):
            told.append(i)
            await asyncio.sleep(0)

    async def job(told):
        with multi_count():
            task = asyncio.create_task(rows(told))
            while not told:
                await asyncio.sleep(0)
        assert left() == ["rows"]
        await task

    for _ in range(2):
        told = []
        asyncio.run(job(told))
        assert (told, left()) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("drawn", [0, 2])
def test_a_loop_that_goes_on_behind_the_block_ends_itself(folder, left, drawn):
    """In a generator that was drawn from inside the block, or not at all."""
    for _ in range(2):
        with multi_count():
            loop = simple_counter("rows", range(4))
            told = [next(loop) for _ in range(drawn)]
        assert left() == []
        assert ([*told, *loop], left()) == ([0, 1, 2, 3], [])


def test_a_loop_that_was_made_before_the_block_is_part_of_it(folder, left):
    """It ends inside, and is marked as finished."""
    for again in (False, True):
        loop = simple_counter("first", range(2))
        try:
            with multi_count():
                assert list(loop) == ([] if again else [0, 1])
                if not again:
                    raise Stop
        except Stop:
            assert left() == ["first"]
    assert left() == []

"""multi_count, loops inside loops, and the one moment that is saved for all of them."""

import _thread
import asyncio
import contextlib
import errno
import gc
import heapq
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import py_restart
from py_restart import InUseError, RestartError, _files, config, enable_counter, multi_count, simple_counter


class Stop(Exception):
    """How a job is interrupted."""


@pytest.fixture
def inside(moment):
    """List the path and position of each loop that a progress file has inside the current item of its own."""
    return lambda path: [(loop["path"], loop["position"]) for loop in moment(path)["inside"]]


def stopper(at):
    """Return what raises at one place, once."""
    places = [at]

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


def test_a_loop_that_ended_in_the_block_is_skipped_and_its_object_loaded(folder, left, moment):
    """A finished loop keeps its files until the block ends: the next run skips it, and has what came out of it."""
    stopped(two_loops, stopper(("second", 2)))
    assert left() == ["first", "second", "total.pickle"]
    assert (moment("first")["finished"], moment("second")["finished"]) == (True, False)
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


def test_a_block_that_is_tried_again_goes_on_where_it_failed(folder, left):
    """In the same process too: a loop that was broken off by the failure does not count as ended in the next block."""
    told, stop = [], stopper(("second", 2))
    for _ in range(2):
        with contextlib.suppress(Stop):
            two_loops(told.append, stop)
    assert told == [*[("first", i) for i in range(4)], 6, ("second", 0), ("second", 1), 6, ("second", 2), ("second", 3)]
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
    for name in ("unlink", "remove"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, real=real, **more: (gone.append(str(path)), real(path, **more)))
    finished(two_loops, nothing)
    progress = [os.path.basename(path) for path in gone if os.path.basename(path) in ("first", "second")]
    assert progress == ["second", "first"]
    assert left() == []


def keeping(name):
    """An `os.unlink` that cannot delete a file of this name."""
    real = os.unlink

    def unlink(path, **options):
        if os.path.basename(path) == name:
            raise OSError(errno.EIO, "Input/output error")
        real(path, **options)

    return unlink


def test_a_loop_of_a_block_that_a_newer_counter_has_taken_over_is_left_to_that_one(folder, left):
    """It was running, and would have ended with the block."""
    with multi_count():
        loop = simple_counter("run", range(5))
        assert [next(loop), next(loop)] == [0, 1]
        newer = enable_counter("run")
    assert (newer.position, left()) == (1, [".run.lock", "run"])


def test_a_task_that_has_outlived_a_block_opens_one_of_its_own(folder, left):
    """It was started inside of the first one, which is over."""

    async def work(is_over):
        await is_over.wait()
        with multi_count() as block:
            assert config.parent is block
            return list(simple_counter("run", range(3)))

    async def main():
        is_over = asyncio.Event()
        with multi_count():
            task = asyncio.create_task(work(is_over))
            await asyncio.sleep(0)
        is_over.set()
        return await task

    assert asyncio.run(main()) == [0, 1, 2]
    assert left() == []


def test_a_block_that_another_thread_enters_once_more_is_its_own(folder):
    """Where it was entered before, another one may be opened meanwhile."""
    block, inside, is_over = multi_count(), threading.Event(), threading.Event()

    def work():
        with block:
            inside.set()
            is_over.wait(10)

    with block:
        pass
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    try:
        with multi_count() as other:
            assert config.parent is other
    finally:
        is_over.set()
        thread.join()


LEFT_TO_DELETE = "Its multi_count block is done: all that is left is to delete first"


def test_a_loop_whose_files_cannot_be_removed_at_the_end_keeps_those_of_the_loops_before(folder, left, monkeypatch):
    """Or an earlier one would not look done where a later one does; the next run finds both done, and removes them."""

    def job(tell):
        with multi_count():
            for name in ("first", "second", "third"):
                for i in simple_counter(name, range(2)):
                    tell((name, i))

    told = []
    with monkeypatch.context() as patch, pytest.raises(RestartError) as error:
        patch.setattr(os, "unlink", keeping("second"))
        job(told.append)
    what = "second: could not be removed: Input/output error; all that is left to do is to delete second"
    assert str(error.value) == what
    assert error.value.__notes__ == [f"{LEFT_TO_DELETE} and second"]
    assert told == [(name, i) for name in ("first", "second", "third") for i in range(2)]
    assert left() == ["first", "second"]
    assert finished(job) == [("third", 0), ("third", 1)]
    assert left() == []


def test_a_first_loop_whose_files_cannot_be_removed_is_all_that_is_left(folder, left, monkeypatch):
    """To run again would do the second one again, which is gone: the error says so, whatever has kept the files."""
    with monkeypatch.context() as patch, pytest.raises(RestartError, match="first: could not be removed") as error:
        patch.setattr(os, "unlink", keeping("first"))
        finished(two_loops, nothing)
    assert error.value.__notes__ == [LEFT_TO_DELETE]
    assert left() == ["first"]
    Path(".first.lock").write_text("in the way")
    with pytest.raises(RestartError, match="first: .*lock is in the way") as error:
        with multi_count():
            Path(".first.lock").unlink()
            list(simple_counter("first", range(2)))
            Path(".first.lock").write_text("in the way")
    assert error.value.__notes__ == [LEFT_TO_DELETE]


def test_a_block_inside_a_loop_has_no_files_to_delete(folder, monkeypatch, position):
    """Where what its end saves cannot be saved, the loop around it is as it was: the error says no more."""

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(RestartError, match="outer: could not be saved: Input/output error") as error:
        for i in simple_counter("outer", range(4)):
            with monkeypatch.context() as patch, multi_count():
                for _ in simple_counter("inner", range(3)):
                    pass
                if i == 2:
                    for module, name in ((_files, "pwrite"), (os, "open")):
                        patch.setattr(module, name, failing)
    assert not hasattr(error.value, "__notes__")
    assert position("outer") == 2


def test_a_removal_whose_other_record_is_damaged_is_an_error_and_touches_nothing(folder, left, monkeypatch):
    """That one names what is to be deleted; without it the rest would be left, and look like somebody else's."""
    advice = f"could not be removed: .*; all that is left to do is to delete run and {folder / 'kept'}$"
    with monkeypatch.context() as patch, pytest.raises(RestartError, match=advice):
        patch.setattr(os, "unlink", keeping("kept"))
        with enable_counter("run", each_save=True) as counter:
            kept = counter.save_load_object([], "kept")
            kept.extend(counter(range(3)))
    whole = Path("run").read_bytes()
    lines = whole.splitlines(keepends=True)
    at = 2 if b'"removed"' in lines[1] else 1
    lines[at] = lines[at].replace(b'"save"', b'"sAve"')
    Path("run").write_bytes(b"".join(lines))
    with pytest.raises(RestartError, match="run: damaged .the record of what is being deleted is not whole"):
        enable_counter("run")
    assert (left(), Path("run").read_bytes()) == (["kept", "run"], b"".join(lines))
    Path("run").write_bytes(whole)
    enable_counter("run")
    assert left() == []


def test_what_a_block_failed_with_is_raised_where_a_file_of_it_cannot_be_closed(folder, clock, left, monkeypatch):
    """The failure to close it is attached as a note, and warned of."""
    real = os.close

    def close(file):
        real(file)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.warns(UserWarning, match="run: could not be saved: Input/output"), pytest.raises(Stop) as caught:
        with monkeypatch.context() as patch, multi_count():
            loop = simple_counter("run", range(3))
            assert [next(loop), next(loop)] == [0, 1]
            patch.setattr(os, "close", close)
            raise Stop
    assert re.match(".*run: could not be saved: Input/output", *caught.value.__notes__)
    assert left() == ["run"]


def test_a_loop_broken_off_in_the_block_goes_with_the_others(folder, left):
    """The files of all loops of the block go when it ends without an exception, those of a `break` too."""
    with multi_count():
        for i in simple_counter("first", range(9)):
            if i == 3:
                break
        assert "first" in left()
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


def test_a_block_that_is_entered_again_is_a_new_one(folder, left):
    """Its loops keep their files as in any other."""
    block = multi_count()
    for _ in range(2):
        with block:
            assert config.parent is block
            assert list(simple_counter("run", range(2))) == [0, 1]
            assert left() == ["run"]
        assert left() == []


def test_a_block_that_is_open_in_one_thread_is_not_entered_in_another(folder, left):
    """It would forget the loops of the first one, whose files would stay, and the next run would skip them."""
    block = multi_count()
    with ThreadPoolExecutor(1) as pool, block:
        assert list(simple_counter("run", range(2))) == [0, 1]
        with pytest.raises(RestartError, match="MultiCount has already opend"):
            pool.submit(block.__enter__).result()
    assert left() == []


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
    """By the same rule, also where the outer one was left by `break`."""
    with pytest.raises(RestartError, match="^inner: used for two loops of one multi_count block"):
        with multi_count():
            for name in ("a", "b"):
                with enable_counter(name) as counter:
                    for _ in counter(range(3)):
                        list(simple_counter("inner", range(2)))
                        break


def test_the_files_of_a_block_that_failed_are_unlocked(folder, run_child):
    """A block that ends by an exception lets go of everything: another process may go on."""
    stopped(two_loops, stopper(("second", 2)))
    assert run_child(two_loops, nothing).told == [6, ("second", 2), ("second", 3)]


def test_a_lost_object_is_warned_of_at_the_end_of_a_loop_that_is_shorter_than_its_span(folder):
    """The first save after an item may be the last one, in a block."""
    with multi_count():
        counter = enable_counter("run", each_save=True, save_span=1000)
        total = counter.save_load_object([1.5], "total.pickle")
        with pytest.warns(UserWarning, match=r"total.pickle: nobody but run refers to this object any more"):
            for n in counter(range(5)):
                total = [*total, n]


@pytest.mark.parametrize("ends", [False, True])
def test_no_object_is_lost_where_the_function_that_has_changed_it_has_returned(folder, left, ends):
    """When its block ends, nobody refers to it any more; all changes are in the save, and nothing is warned of."""
    ran = []

    def search(counter):
        seen = counter.save_load_object([], "seen")
        for i in counter(range(5)):
            ran.append(i)
            seen.append(i)
            if i == 3 and not ends:
                break

    for _ in range(2):
        with pytest.raises(Stop), multi_count():
            with enable_counter("first") as counter:
                search(counter)
            raise Stop
        assert left() == ["first", "seen"]
    assert ran == [0, 1, 2, 3, *[4] * ends]


def test_no_object_is_lost_where_its_function_has_returned_before_the_first_save(folder, recwarn):
    """A plain `with` saves when it fails, long after that; what was in reach as the loop was left was in reach."""

    def search(counter):
        seen = counter.save_load_object([], "seen")
        for i in counter(range(3)):
            seen.append(i)

    with pytest.raises(Stop), enable_counter("run") as counter:
        search(counter)
        counter.save()
        raise Stop
    with open("seen", "rb") as file:
        assert pickle.load(file) == [0, 1, 2]
    assert [str(one.message) for one in recwarn] == []


def test_a_lost_object_of_a_loop_left_by_break_is_warned_of_where_its_block_saves_it(folder):
    """The block ends well, and a `multi_count` block around it saves: the next run skips the loop with what it had."""
    with multi_count(), pytest.warns(UserWarning, match="total: this 0 was never assigned"):
        with enable_counter("run") as counter:
            total = counter.save_load_object(0, "total")
            for i in counter(range(5)):
                total += i
                if i == 3:
                    break


def test_a_thousand_finished_loops_of_a_block_hold_no_descriptor_and_no_lock(folder, left):
    """There may be as many as there are files in a folder of data."""

    def number_of_descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = number_of_descriptors()
    with multi_count():
        for k in range(1000):
            assert list(simple_counter(f"run{k}", range(2))) == [0, 1]
        assert number_of_descriptors() == before
        assert left() == sorted(f"run{k}" for k in range(1000))
    assert number_of_descriptors() == before
    assert left() == []


@pytest.mark.parametrize("each_save", [False, True])
def test_a_finished_loop_of_a_block_keeps_no_object_in_memory(folder, left, each_save):
    """There may be a model in each of them, and they need not fit all at once."""

    def train(k):
        with enable_counter(f"run{k}", each_save=each_save) as counter:
            model = counter.save_load_object(deque(), f"model{k}")
            model.extend(counter(range(3)))
            return weakref.ref(model)

    gc.disable()
    try:
        with multi_count():
            assert [train(k)() for k in range(3)] == [None] * 3
            assert left() == sorted(f"{kind}{k}" for kind in ("model", "run") for k in range(3))
            counter = enable_counter("broken off", each_save=True)
            broken_off = weakref.ref(counter.save_load_object(deque(), "kept"))
            for _ in counter(range(3)):
                break
            del counter
        assert broken_off() is None
    finally:
        gc.enable()
    assert left() == []


def test_the_same_job_again_in_a_block_is_an_error_that_says_so(folder, left):
    """What it has registered is its own; the next run tries it again."""
    tried = []

    def job(fails):
        with enable_counter("job") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(3)):
                tried.append(i)
                if fails and i == 1:
                    raise Stop
                seen.append(i)
        return seen

    with pytest.raises(RestartError, match="job: used for two loops of one .*let its error end the block"):
        with multi_count():
            with pytest.raises(Stop):
                job(True)
            job(False)
    assert (left(), tried) == (["job", "seen"], [0, 1])
    with multi_count():
        assert job(False) == [0, 1, 2]
    assert (left(), tried) == ([], [0, 1, 1, 2])


# Threads and tasks.


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


def test_threads_in_no_block_of_their_own_are_in_the_one_that_is_open(folder, left):
    """`with multi_count(), ThreadPoolExecutor() as pool:` works as it reads: what a worker finished is skipped."""

    def job(tell, stop):
        def work(name):
            assert config.parent is block
            for i in simple_counter(name, range(3)):
                stop(name, i)
                tell((name, i))

        with multi_count() as block, ThreadPoolExecutor(2) as pool:
            list(pool.map(work, "ab"))
            list(pool.map(work, "c"))

    assert sorted(stopped(job, stopper(("c", 1)))) == [(name, i) for name in "ab" for i in range(3)] + [("c", 0)]
    assert left() == ["a", "b", "c"]
    assert finished(job, nothing) == [("c", 1), ("c", 2)]
    assert left() == []


def test_a_thread_is_in_no_block_where_none_or_several_are_open(folder, left):
    """Nobody could say in which one; and it may open one of its own while another thread has one."""
    reached, go_on = threading.Barrier(3), threading.Event()

    def elsewhere():
        return config.parent

    def work():
        with multi_count():
            reached.wait(10)
            go_on.wait(10)

    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(2) as others:
        assert pool.submit(elsewhere).result() is None
        running = [others.submit(work) for _ in range(2)]
        reached.wait(10)
        assert config.parent is None and pool.submit(elsewhere).result() is None
        go_on.set()
        assert [one.result() for one in running] == [None, None]
        with multi_count() as block:
            assert pool.submit(elsewhere).result() is block
            assert config.parent is block
        assert pool.submit(elsewhere).result() is None


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
                assert name + "-inner" not in left()
        return seen

    async def all_of_them():
        return await asyncio.gather(*map(work, "abc"))

    assert asyncio.run(all_of_them()) == 3 * [[(i, j) for i in range(5) for j in range(2)]]
    assert left() == []


def test_a_task_of_trio_is_on_its_own(folder, left, monkeypatch):
    """A loop that is around its event loop as well: none is saved in the middle of an item of another one."""
    library = SimpleNamespace()
    library.current_task = lambda: library.task  # an `AttributeError` stands for the error where no task runs
    monkeypatch.setitem(sys.modules, "trio.lowlevel", library)

    async def work(name):
        with enable_counter(name, each_save=True) as counter:
            seen = counter.save_load_object([], f"{name}.pickle")
            for i in counter(range(2)):
                seen.append(i)
                await asyncio.sleep(0)
            assert seen == [0, 1]

    def run(*coroutines):
        tasks = deque(SimpleNamespace(coro=coroutine) for coroutine in coroutines)
        while tasks:
            library.task = tasks.popleft()
            with contextlib.suppress(StopIteration):
                library.task.coro.send(None)
                tasks.append(library.task)
            del library.task
            if {"a.pickle", "b.pickle"} <= set(left()):
                saved.append(pickle.loads(Path("a.pickle").read_bytes()))

    saved = []
    for _ in simple_counter("outer", range(2)):
        run(work("a"), work("b"))
    assert (saved, left()) == ([[0], [0]], [])


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_loops_that_an_item_starts_elsewhere_are_on_their_own(folder, left, kind, moment, inside):
    """In another thread or task, at the same time: they have files of their own, and no place in the outer one's."""
    saved = []

    def work():
        for i in simple_counter("other", range(2)):
            if i == 1:
                saved.append((moment("other")["position"], inside("outer") if os.path.exists("outer") else []))

    async def task():
        work()

    async def outer():
        for _ in simple_counter("outer", range(2)):
            if kind == "task":
                await asyncio.create_task(task())
            else:
                thread = threading.Thread(target=work)
                thread.start()
                thread.join(10)

    asyncio.run(outer())
    assert saved == [(1, []), (1, [])]
    assert left() == []


# Loops inside loops, nothing registered.


def nested(tell, stop, in_block, outer_with):
    with multi_count() if in_block else contextlib.nullcontext():
        with enable_counter("outer") if outer_with else contextlib.nullcontext() as counter:
            for i in counter(range(3)) if outer_with else simple_counter("outer", range(3)):
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


def due(place, in_block, outer_is_saved):
    """The first item that is due when the job has been stopped at a place."""
    kind, i, j = (*place, 0)[:3]
    if kind == "between":  # the inner loop has ended: its item runs again, and it with it but for a block
        return (i + 1, 0) if in_block else (i, 0)
    if j or outer_is_saved or i == 0 or in_block:
        return (i, j)
    return (i - 1, 0)  # the last save is the end of the inner loop in the item before


@every_way
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("way", ["kill", "exception"])
def test_nested_loops_go_on_where_they_were_stopped(folder, left, run_child, die, way, in_block, outer_with, place):
    """Each inner save is one of the outer position too: nothing that was saved runs again, nothing else is skipped."""
    if way == "kill":
        first = run_child(nested, killer(place, die), in_block, outer_with).told
    else:
        first = stopped(nested, stopper(place), in_block, outer_with)
    second = finished(nested, nothing, in_block, outer_with)
    assert set(first + second) == set(ALL)
    outer_is_saved = not outer_with or way == "exception"
    assert second == [item for item in ALL if item >= due(place, in_block, outer_is_saved)]
    assert left() == []


def test_a_loop_inside_another_makes_nothing_on_disk(folder, left, moment, inside):
    """Its place is in the progress file of the outermost one; a loop that moves on leaves nothing to clean up."""
    for i in simple_counter("outer", range(3)):
        assert left() == ([".outer.lock", "outer"] if i else [".outer.lock"])
        for j in simple_counter("inner", range(3)):
            if j:
                assert left() == [".outer.lock", "outer"]
                assert (moment("outer")["position"], inside("outer")) == (i, [("inner", j)])
            for k in simple_counter("innermost", range(2)):
                if k:
                    assert moment("outer")["inside"][0]["inside"][0]["position"] == k
            if j == 1:
                break
    assert left() == []


def test_a_with_that_outlives_the_loops_around_it_saves_nothing_after_their_end(folder, left):
    """What was done would look done for ever: its progress file has gone, and would be written anew."""
    for _ in range(2):
        ran = []
        with contextlib.ExitStack() as stack:
            for i in simple_counter("outer", range(2)):
                counter = stack.enter_context(enable_counter("inner", each_save=True, save_span=2))
                ran += [(i, j) for j in counter(range(3))]
        assert ran == [(i, j) for i in range(2) for j in range(3)]
        assert left() == []


def test_a_moment_of_three_loops_is_kept_where_the_middle_one_saves_seldom(folder, left):
    """The innermost save is one of the positions of all of them, whatever their own spans."""

    def job(tell, stop):
        with enable_counter("a") as a:
            for i in a(range(2)):
                for j in simple_counter("b", range(2), save_span=2):
                    for k in simple_counter("c", range(3)):
                        stop(i, j, k)
                        tell((i, j, k))

    order = [(i, j, k) for i in range(2) for j in range(2) for k in range(3)]
    assert stopped(job, stopper((0, 1, 2))) == order[:5]
    assert finished(job, nothing) == order[5:]
    assert left() == []


def test_an_outer_loop_without_the_inner_one_of_the_save_goes_on_and_leaves_nothing(folder, left, run_child, die):
    """There is nothing of it on disk but a line in the record."""
    run_child(nested, killer(("item", 1, 2), die), False, True)
    assert left() == [".outer.lock", "outer"]
    said = "inner: saved at position 2 in an item of outer, which has ended without it; register what decides whether"
    with enable_counter("outer") as counter, pytest.warns(UserWarning, match=said):
        assert list(counter(range(3))) == [1, 2]
    assert left() == []


def test_an_outer_loop_without_an_inner_one_that_was_at_its_end_goes_on_without_a_word(folder, left, run_child, die):
    """It was done; there is nothing of it to be lost."""

    def job(tell):
        for _ in simple_counter("outer", range(2)):
            list(simple_counter("inner", range(2)))
            die()

    run_child(job)
    assert list(simple_counter("outer", range(2))) == [0, 1]
    assert left() == []


def test_an_outer_loop_without_an_inner_one_that_had_ended_says_that_its_object_goes(folder, left):
    """The results of a loop that was done."""
    with pytest.raises(Stop), enable_counter("outer", each_save=True) as outer:
        for _ in outer(range(2)):
            inner = enable_counter("inner", each_save=True)
            kept = inner.save_load_object([], "kept")
            kept += inner(range(2))
            raise Stop
    assert left() == ["kept", "outer"]
    with enable_counter("outer") as outer, pytest.warns(UserWarning, match="inner: saved at position 2 .*kept will go"):
        assert list(outer(range(2))) == [0, 1]
    assert left() == []


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_file_at_the_path_of_an_inner_loop_is_an_error_that_says_where_that_is_saved(folder, is_saved):
    """Somebody else's, or from a time when the loop was not inside another: it is not touched."""
    if is_saved:
        for j in simple_counter("inner", range(5)):
            if j == 3:
                break
    else:
        Path("inner").write_text("mine")
    before = Path("inner").read_bytes()
    with pytest.raises(RestartError, match="inner: .*outer; move it away, or"):
        for _ in simple_counter("outer", range(2)):
            simple_counter("inner", range(5))
    assert Path("inner").read_bytes() == before


# Which loops are around.


@pytest.mark.parametrize("way", ["end", "break", "exception"])
def test_a_loop_that_was_left_is_not_around_even_where_a_variable_holds_it(folder, left, way, moment):
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
    for i in simple_counter("new", range(2)):
        assert i == 0 or moment("new")["position"] == 1
    assert loop is not None and left() == ([] if way == "end" else ["old"])


def read(name, length=5):
    """A generator with a counted loop in a block of its own."""
    with enable_counter(f"{name}.run") as counter:
        yield from counter(range(length))


def by_map():
    rows = map(int, simple_counter("old.run", range(5)))
    for i in rows:
        if i == 2:
            break
    return rows


def by_enumerate():
    rows = enumerate(simple_counter("old.run", range(5)))
    for i, _ in rows:
        if i == 2:
            break
    return rows


def by_generator():
    rows = read("old")
    for i in rows:
        if i == 2:
            break
    return rows


def by_traceback():
    def job():
        for i in simple_counter("old.run", range(5)):
            if i == 2:
                raise Stop

    try:
        job()
    except Stop as error:
        return error


def by_future():
    with ThreadPoolExecutor(1) as pool:
        jobs = [pool.submit(by_traceback), pool.submit(next_loop, 2)]
    assert jobs[1].exception() is not None
    return jobs


def by_cycle():
    class Reader:
        def __init__(self):
            self.rows = read("old")

    reader = Reader()
    reader.self = reader
    for i in reader.rows:
        if i == 2:
            break


def by_block_that_has_ended():
    with enable_counter("old.run") as counter:
        rows = zip(counter(range(5)), "abc", strict=False)
        assert len([row for row in rows]) == 3
    return rows


def by_next_in_a_block_that_has_ended():
    with enable_counter("old.run") as counter:
        rows = iter(counter(range(5)))
        assert next(rows) == 0
    return rows


def by_blocks_that_have_ended():
    with multi_count():
        rows = iter(simple_counter("old.run", range(5)))
        assert next(rows) == 0
    return rows


def next_loop(stop):
    """A plain `with` with an object, and a loop without."""
    with enable_counter("new.run") as counter:
        seen = counter.save_load_object([], "seen.pickle")
        for i in counter(range(4)):
            if i == stop:
                raise Stop
            seen.append(i)
        for i in simple_counter("third.run", range(4)):
            seen.append(i)
    return seen


HELD = [by_map, by_enumerate, by_generator, by_traceback, by_cycle]
HELD += [by_block_that_has_ended, by_next_in_a_block_that_has_ended, by_blocks_that_have_ended]


@pytest.mark.parametrize("hold", HELD, ids=lambda hold: hold.__name__)
def test_a_loop_that_was_left_is_not_around_whatever_still_holds_it(folder, left, hold):
    """A `map` or generator in a variable, a traceback, a cycle: what comes then is saved in a file of its own."""
    gc.disable()
    try:
        held = hold()
        with pytest.raises(Stop):
            next_loop(2)
        assert {"new.run", "seen.pickle"} <= set(left())
        assert next_loop(None) == [0, 1, 2, 3, 0, 1, 2, 3]
        assert set(left()) <= {"old.run", ".old.run.lock"}
        assert held is not None or hold is by_cycle
    finally:
        gc.enable()


def test_a_task_of_a_pool_is_not_inside_the_one_that_failed_before_in_its_thread(folder, left):
    """The future of that one keeps its traceback, and so its loop."""
    assert by_future()
    assert left() == ["new.run", "old.run", "seen.pickle"]


@pytest.mark.parametrize("block", [False, True])
def test_what_has_failed_in_a_thread_of_a_pool_goes_on_in_another_thread(folder, left, block):
    """The future keeps its traceback, and that the iterator of its loop, in a thread that lives on for other work."""
    stop, seen = stopper((2,)), []

    def work(counter):
        rows = map(int, counter(range(4)))
        for i in rows:
            stop(i)
            seen.append(i)

    def job(call):
        if not block:
            return call(work, enable_counter("run", each_save=True))
        with enable_counter("run") as counter:
            return call(work, counter)

    with ThreadPoolExecutor(1) as pool:
        futures = []

        def call(function, counter):
            futures.append(pool.submit(function, counter))
            return futures[-1].result()

        with pytest.raises(Stop):
            job(call)
        assert left() == ["run"] if block else [".run.lock", "run"]
        job(lambda function, counter: function(counter))
    assert seen == [0, 1, 2, 3] and futures
    assert left() == []


@pytest.mark.parametrize("is_generator", [False, True])
def test_a_loop_that_waits_in_another_thread_is_running_there(folder, is_generator):
    """A coroutine that waits is in no stack of calls, nor is an async generator; nobody takes its path over."""
    waits, goes_on = threading.Event(), threading.Event()

    async def wait():
        asyncio.get_running_loop().call_soon(waits.set)  # once it waits
        await asyncio.to_thread(goes_on.wait, 10)

    async def main():
        for _ in simple_counter("run", range(2)):
            await wait()

    async def rows():
        for i in simple_counter("run", range(2)):
            await wait()
            yield i

    async def drawing():
        assert [i async for i in rows()] == [0, 1]

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(asyncio.run, drawing() if is_generator else main())
        assert waits.wait(10)
        with pytest.raises(InUseError, match="in use by a loop that runs in another thread"):
            enable_counter("run")
        goes_on.set()
        job.result()


def test_an_async_generator_that_was_left_is_not_around(folder, left):
    """It is closed a moment later; until then it waits."""

    async def rows(name):
        with enable_counter(f"{name}.run", each_save=True) as counter:
            for i in counter(range(5)):
                await asyncio.sleep(0)
                yield i

    async def main():
        async for i in rows("old"):
            if i == 2:
                break
        return [i async for i in rows("new")]

    for _ in range(3):
        assert asyncio.run(main()) == [0, 1, 2, 3, 4]
        assert left() == ["old.run"]


def test_what_an_async_generator_loops_over_stays_inside_its_loop(folder, inside):
    """Whoever iterates it counts apart, since it may leave it at any time; its own loops go on inside."""
    seen = []

    async def rows():
        with enable_counter("outer.run", each_save=True) as counter:
            for i in counter(range(3)):
                for j in simple_counter("inner.run", range(2)):
                    seen.append((i, j, inside("outer.run") if (i, j) != (0, 0) else []))
                yield i

    async def main():
        async for _ in rows():
            for _ in simple_counter("apart.run", range(2)):
                assert os.path.exists("outer.run")

    asyncio.run(main())
    assert [(i, j) for i, j, _ in seen] == [(i, j) for i in range(3) for j in range(2)]
    assert [found for _, j, found in seen if j] == [[("inner.run", 1)]] * 3


def test_an_inner_loop_that_was_left_but_is_held_counts_as_broken_off(folder, left):
    """In each item the same, in a variable: nothing takes turns, and what was broken off has ended."""
    seen = []

    def job(stop):
        with enable_counter("outer.run", each_save=True) as counter:
            for i in counter(range(3)):
                rows = enumerate(simple_counter("inner.run", range(5)))
                for j, _ in rows:
                    seen.append((i, j))
                    if j == 1:
                        break
                for k in simple_counter("second.run", range(2)):
                    seen.append((i, "second", k))
                    if (i, k) == stop:
                        raise Stop

    with pytest.raises(Stop):
        job((1, 1))
    job(None)
    first = [(0, 0), (0, 1), (0, "second", 0), (0, "second", 1), (1, 0), (1, 1), (1, "second", 0), (1, "second", 1)]
    again = [(1, 0), (1, 1), (1, "second", 1)]  # nothing is registered: it runs again with its item
    assert seen == [*first, *again, (2, 0), (2, 1), (2, "second", 0), (2, "second", 1)]
    assert left() == []


def test_one_object_path_for_two_loops_of_a_block_is_an_error_in_these_words(folder):
    """The file is that of the first one, which has ended: to move it away would lose its work."""
    with pytest.raises(
        RestartError, match="kept: in use for something else in this program; give it a path of its own"
    ):
        with multi_count():
            for name in "ab":
                with enable_counter(name) as counter:
                    kept = counter.save_load_object([], "kept")
                    kept.extend(counter(range(3)))


BODIES = """
async def nothing():
    return
    yield

async def asynchronous(loop, tell):
    for i in loop:
        tell("first")
        async for _ in nothing():
            pass
        tell("behind an async for")
        try:
            raise Stop
        except Stop:
            tell("in a handler")
        async for _ in nothing():
            tell("never")
        tell("behind another")
    tell(None)

def handling(loop, tell):
    for i in loop:
        try:
            raise Stop
        except Stop:
            tell("in a handler that raises")
            break
    tell(None)
    for _ in range(2):
        for i in []:
            tell("never")
        tell(None)

def long(loop, tell):
    for i in loop:
        if i > 5:
            LONG
        tell("first")
        with contextlib.suppress(Stop):
            raise Stop
        tell("behind a with")
        if i == 1:
            continue
        tell("last")
    tell(None)

def chosen(loop, tell):
    [tell("in a comprehension") for _ in loop]
    tell(None)

def returned(loop, tell):
    for i in loop:
        tell("before a return")
        return tell("in a return")

def tried(loop, tell):
    for i in loop:
        try:
            int("x")
            continue
        except ValueError:
            pass
        tell("behind a try")
        break
    tell(None)

def given_up(loop, tell):
    for i in loop:
        while True:
            with contextlib.suppress(ValueError):
                return int("x")
            return tell("behind what has failed")

def found(loop, tell):
    for i in loop:
        tell("before a break")
        break
    else:
        raise Stop
    tell(None)

def caught(loop, tell):
    for i in loop:
        tell("before what fails behind it")
        break
    try:
        raise Stop
    except Stop:
        tell(None)
"""


@pytest.mark.parametrize("times", [1, 40], ids=["once", "often"])
@pytest.mark.parametrize(
    "name", ["asynchronous", "handling", "long", "chosen", "returned", "tried", "given_up", "found", "caught"]
)
def test_wherever_the_body_of_a_for_stands_its_loop_is_around(folder, name, times):
    """Python moves what handles an exception, and what follows that or an `async for`, to the end; the body it is."""
    space = {"Stop": Stop, "contextlib": contextlib}
    exec(BODIES.replace("LONG", "; ".join(["len('')"] * 400)), space)
    told = set()

    def tell(what):
        with enable_counter("look.run") as counter:
            told.add((what, counter._node.parent is not None))

    for _ in range(times):
        kept = map(int, simple_counter("run", range(3)))
        done = space[name](kept, tell)
        if name == "asynchronous":
            asyncio.run(done)
        tell(None)
        enable_counter("run").remove_files()
        assert kept is not None
    assert {is_inside for what, is_inside in told if what} == {True}
    assert {is_inside for what, is_inside in told if not what} == {False}


ON_A_LINE = """
import os
from py_restart import simple_counter

def inner():
    return [sorted(os.listdir()) for _ in simple_counter("inner.run", range(3))]

for _ in simple_counter("outer.run", range(2)): print(inner()[-1])
print("\\n".join([str(inner()[-1]) for _ in simple_counter("outer.run", range(2))]))
"""


def test_a_loop_on_a_line_is_around_where_code_has_no_columns(folder):
    """With `-X no_debug_ranges` an instruction has its line alone, which what is behind the `for` has as well."""
    environment = {**os.environ, "PYTHONPATH": str(Path(py_restart.__file__).parents[1])}
    command = [sys.executable, "-X", "no_debug_ranges", "-c", ON_A_LINE]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == ["['.outer.run.lock', 'outer.run']"] * 4, ran.stderr


def test_an_inner_loop_that_was_left_but_is_held_does_not_take_turns(folder, left):
    """The outer loop goes on when its `for` is over, whatever holds what that drove."""
    seen = []
    with enable_counter("outer.run", each_save=True) as counter:
        for i in counter(range(3)):
            rows = enumerate(simple_counter("inner.run", range(5)))
            for j, _ in rows:
                if j == 1:
                    break
            seen.append(i)
    assert seen == [0, 1, 2] and rows is not None
    assert left() == []


def test_an_inner_loop_that_failed_and_whose_error_is_kept_does_not_take_turns(folder, left):
    """The traceback keeps the frame of its `for`, and a variable there its iterator."""
    errors = []

    def job():
        rows = map(int, simple_counter("inner.run", range(5)))
        for j in rows:
            if j == 1:
                raise Stop

    for _ in simple_counter("outer.run", range(3)):
        try:
            job()
        except Stop as error:
            errors.append(error)
    assert len(errors) == 3
    assert left() == []


def test_what_runs_while_an_exception_is_handled_knows_which_loops_were_left(folder, left):
    """The whole job may stand in an `except`: where a cache is missing, say."""

    def job():
        done = []
        for i in simple_counter("outer.run", range(3)):
            rows = enumerate(simple_counter("inner.run", range(5)))
            for _, j in rows:
                done.append((i, j))
                if j == 1:
                    break
        return done

    try:
        raise FileNotFoundError
    except FileNotFoundError:
        assert job() == [(i, j) for i in range(3) for j in range(2)]
    assert left() == []


class Peekable:
    """An iterator with a `__next__` of its own, such as that of a progress bar, or one that can look ahead."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)


def test_an_iterator_of_a_class_that_is_held_and_left_does_not_take_turns(folder, left):
    """Its `__next__` is not where the `for` is."""

    done = []
    for i in simple_counter("outer.run", range(3)):
        rows = Peekable(simple_counter("inner.run", range(5)))
        for j in rows:
            done.append((i, j))
            if j == 1:
                break
    assert done == [(i, j) for i in range(3) for j in range(2)]
    assert left() == []


@pytest.mark.parametrize("way", ["async generator", "coroutine"])
def test_an_inner_loop_that_was_left_behind_an_await_does_not_take_turns(folder, left, way):
    """An async generator goes when the event loop has the time; the error of a coroutine may be kept, and its frame."""
    done, errors = [], []

    async def rows():
        for j in simple_counter("inner.run", range(5)):
            await asyncio.sleep(0)
            yield j

    async def fail(i):
        kept = enumerate(simple_counter("inner.run", range(5)))
        for _, j in kept:
            await asyncio.sleep(0)
            done.append((i, j))
            if j == 1:
                raise Stop

    async def job():
        for i in simple_counter("outer.run", range(3)):
            if way == "coroutine":
                try:
                    await fail(i)
                except Stop as error:
                    errors.append(error)
            else:
                async for j in rows():
                    done.append((i, j))
                    if j == 1:
                        break

    asyncio.run(job())
    assert done == [(i, j) for i in range(3) for j in range(2)]
    assert left() == []


def test_a_loop_that_is_driven_in_parts_is_around_in_each_of_them(folder, left, run_child):
    """Between two of them it is not: what runs there has a file of its own."""

    def job(tell, die_at):
        with enable_counter("run", each_save=True) as counter:
            rows = iter(counter(range(9)))
            for batch in range(3):
                for row in itertools.islice(rows, 3):
                    for step in simple_counter("steps", range(3)):
                        tell((row, step))
                        if (row, step) == die_at:
                            os.kill(os.getpid(), signal.SIGKILL)
                for part in simple_counter("report", range(2)):
                    tell((batch, str(part)))

    told = run_child(job, (4, 1)).told
    assert told[-1] == (4, 1)
    assert left() == [".run.lock", "run"]
    again = run_child(job, None).told
    assert [place for place in told[:-1] + again if type(place[1]) is int] == [
        (i, j) for i in range(9) for j in range(3)
    ]
    assert left() == []


@pytest.mark.parametrize("begins", [False, True])
def test_a_counter_of_an_item_before_neither_saves_nor_forgets_in_this_one(folder, left, run_child, die, begins):
    """It would stand in the record as if it had done its items in this one, and the next run would skip them."""

    def job(tell, die_at):
        early = None
        for i in simple_counter("outer.run", range(2)):
            if early is not None:
                with pytest.raises(RestartError, match="early.run: its work is done; make another counter"):
                    early.save()
                early.remove_files()
            for j in simple_counter("inner.run", range(3)):
                die_at(i, j)
                tell((i, "inner", j))
            early = enable_counter("early.run", each_save=True)
            for j in early(range(3)) if begins else ():
                tell((i, "early", j))
                if j == 1:
                    break
        early.remove_files()
        early.save()  # its item is the last one, and that is over

    told = [tuple(one) for one in run_child(job, killer((1, 1), die)).told]
    with pytest.raises(RestartError, match="early.run: its work is done"):
        job(told.append, nothing)
    assert told == [(i, *rest) for i in range(2) for rest in rests(begins)]
    assert left() == []


def rests(begins):
    """What one item does above."""
    return [*(("inner", j) for j in range(3)), *(("early", j) for j in range(2 * begins))]


def test_a_loop_inside_one_that_was_left_is_an_error_at_its_next_save(folder):
    """The generator of the inner loop has outlived the item in which it began."""

    def pairs():
        yield from simple_counter("outer.run", range(3))

    outer = pairs()
    next(outer)
    inner = iter(simple_counter("inner.run", range(3)))
    assert next(inner) == 0
    outer.close()
    with pytest.raises(RestartError, match="inner.run: is inside an item of outer.run, which has moved on"):
        next(inner)


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
    with pytest.raises(RestartError, match="run: a newer counter for the same path .*; use that one"):
        next(old)
    gc.collect()
    assert list(simple_counter("run", range(5))) == [2, 3, 4]
    assert left() == []


def two_loops_around(items, visit):
    """Take the first one, as a header is, then the rest."""
    for item in items:
        visit(item)
        break
    for item in items:
        visit(item)


def in_two_threads(items, visit):
    """Take them as a server does that hands each step to some thread of a pool."""
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for pool in itertools.cycle([first, second]):
            item = pool.submit(next, items, None).result()
            if item is None:
                return
            visit(item)


def in_many_tasks(items, visit):
    """Take each in a task of its own, as `asyncio.wait_for` does up to 3.11."""

    async def main():
        async def stream():
            for item in items:
                yield item

        async def step(steps):
            return await anext(steps, None)

        steps = stream()
        while (item := await asyncio.create_task(step(steps))) is not None:
            visit(item)

    asyncio.run(main())


@pytest.mark.parametrize("drive", [two_loops_around, in_two_threads, in_many_tasks])
def test_the_loops_of_a_generator_are_inside_each_other_whoever_drives_it(folder, left, run_child, die, drive):
    """Their `for`s stand in its frame, which tells: also where its steps are of several loops, threads or tasks."""

    def items():
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(3)):
                yield i, "head"
                for j in simple_counter("inner", range(3)):
                    seen.append((i, j))
                    yield i, j
            yield "all", list(seen)

    def job(tell, stop):
        drive(items(), lambda item: (tell(item), stop(*item)))

    assert run_child(job, killer((1, 1), die)).told[-2:] == [(1, 0), (1, 1)]
    assert left() == [".outer.lock", "outer", "seen"]
    told = finished(job, nothing)
    assert told[-1] == ("all", [(i, j) for i in range(3) for j in range(3)])
    assert told[:2] == [(1, "head"), (1, 1)]
    assert left() == []


def test_a_loop_may_be_saved_in_whatever_thread_its_generator_has_come_to(folder, left, moment):
    """It began in another one, which is still alive; but its frame is here now."""

    def items():
        with enable_counter("run") as counter:
            for i in counter(range(4)):
                counter.save()
                yield i

    seen = []
    in_two_threads(items(), lambda item: seen.append((item, moment()["position"])))
    assert seen == [(i, i) for i in range(4)]
    assert left() == []


def test_a_loop_in_an_async_generator_is_around_in_whatever_task_that_has_come_to(folder, left):
    """Whoever asks for the next row may be another one each time."""
    seen = []

    async def rows():
        for i in simple_counter("outer", range(3)):
            for _ in simple_counter("inner", range(2)):
                seen.append(os.path.exists("inner"))
            yield i

    async def main():
        drawn = rows()

        async def draw():
            return await anext(drawn, None)

        return [await asyncio.create_task(draw()) for _ in range(4)]

    assert asyncio.run(main()) == [0, 1, 2, None]
    assert (seen, left()) == ([False] * 6, [])


def test_a_generator_that_nothing_in_python_drives_may_have_a_loop(folder, left):
    """At the bottom of a thread it may stand by itself."""
    seen, done = [], threading.Event()

    def items():
        try:
            for i in simple_counter("run", range(3)):
                seen.append(i)
                yield
        finally:
            done.set()

    _thread.start_new_thread(list, (items(),))
    assert done.wait(10)
    assert (seen, left()) == ([0, 1, 2], [])


def test_a_loop_runs_while_asyncio_is_only_just_being_imported(folder, left, monkeypatch):
    """In another thread, say: there is no task yet that could run it."""
    monkeypatch.setitem(sys.modules, "asyncio", SimpleNamespace())
    for i in simple_counter("outer", range(2)):
        assert [(i, j) for j in simple_counter("inner", range(2))] == [(i, 0), (i, 1)]
    assert left() == []


@pytest.mark.parametrize("own", [False, True])
def test_a_call_that_has_returned_is_not_taken_for_one_of_the_same_function(folder, left, own):
    """The next call may have its frame where the former one had it; what somebody else left there is not around."""

    def step(items):
        return next(items, None)

    def items(name):
        for item in simple_counter(name, range(9)):  # noqa: UP028
            yield item

    def others():
        for number in range(50):
            steps = Peekable(items(f"other{number}"))
            if own:
                for item in steps:
                    if item == 3:
                        break
            else:
                assert [step(steps) for _ in range(3)] == [0, 1, 2]
            seen.append(left())
            del steps

    seen, first = [], Peekable(items("first"))
    if own:
        for _ in first:
            break
        others()
    else:
        step(first)
        thread = threading.Thread(target=others)
        thread.start()
        thread.join(10)
    assert len(seen) == 50
    assert [names for number, names in enumerate(seen) if f"other{number}" not in names or "first" in names] == []


def test_loops_in_tasks_that_an_item_starts_with_an_event_loop_are_not_inside_it(folder, moment, inside):
    """They may run side by side; the `for` that has started them is below them in the same stack of calls."""

    async def task(name):
        for _ in simple_counter(name, range(2)):
            await asyncio.sleep(0)
        return moment(name)["position"]

    async def main():
        return await asyncio.gather(task("a"), task("b"))

    with multi_count():
        for _ in simple_counter("outer", range(1)):
            assert asyncio.run(main()) == [2, 2]
            assert not moment("outer")


@pytest.mark.parametrize("holder", [enumerate, zip, iter])
def test_a_loop_that_was_left_in_a_generator_is_not_around_what_begins_there(folder, left, run_child, die, holder):
    """What is held by a variable would keep the loop; its frame tells, not that of the `for` that drives it all."""

    def items():
        held = holder(simple_counter("first", range(5)))
        for _ in held:
            break
        with enable_counter("second", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(4)):
                seen.append(i)
                yield i
            yield list(seen)

    def job(tell, stop):
        for item in items():
            tell(item)
            stop(item)

    run_child(job, killer((2,), die))
    assert finished(job, nothing) == [2, 3, [0, 1, 2, 3]]
    assert left() == []


@pytest.mark.parametrize("way", ["close", "thrown away"])
def test_a_loop_driven_by_next_is_around_other_counters(folder, way, moment, inside):
    """It is running until it is left or thrown away: nobody else keeps it alive."""
    loop = simple_counter("outer", range(3))
    assert [next(loop), next(loop)] == [0, 1]
    for j in simple_counter("inner", range(2)):
        assert inside("outer") == ([("inner", 1)] if j else [])
    if way == "close":
        loop.close()
    del loop
    gc.collect()
    for j in simple_counter("inner", range(2)):
        assert j == 0 or moment("inner")["position"] == 1


def test_a_counter_whose_loops_around_have_changed_when_it_starts_is_an_error(folder):
    """Made outside and run inside, or made in one item and run in the next: it does not know the item it runs in."""
    early, kept = simple_counter("early", range(3)), []
    with pytest.raises(RestartError, match="early: .*loops around"):
        for _ in simple_counter("outer", range(3)):
            list(early)
    gc.collect()
    with pytest.raises(RestartError, match="late: .*loops around"):
        for i in simple_counter("outer", range(3)):
            kept = kept or [simple_counter("late", range(3))]
            if i == 1:
                list(kept[0])


@pytest.mark.parametrize("how", ["at the call", "made before", "made inside"])
def test_a_loop_cannot_be_part_of_the_source_of_another(folder, left, how):
    """Skipping would draw from it twice: an error that says to nest or to zip, at the call where that can be seen."""
    early = [] if how == "made inside" else [simple_counter("source", range(3))]

    def source():
        yield from early.pop() if early else simple_counter("source", range(3))

    name = "loop" if how == "at the call" else "source"
    with pytest.raises(RestartError, match=f"{name}: a loop cannot be part of the source of another loop.*nest.*zip"):
        if how == "at the call":
            simple_counter("loop", early[0])
        else:
            list(simple_counter("loop", source()))
    early.clear()
    gc.collect()
    assert left() == []


def through_a_bar(loop):
    """Iterate as a progress bar does."""
    for item in loop:  # noqa: UP028
        yield item


@pytest.mark.parametrize("wrapped", [iter, through_a_bar, enumerate])
def test_a_path_cannot_be_that_of_a_loop_around(folder, wrapped):
    """A copied line: an error where the inner counter is made, not after ten hours."""
    ran = []
    with pytest.raises(RestartError, match="same: used for the loop around it as well; give it a path of its own"):
        for _ in wrapped(simple_counter("same", range(3))):
            ran.append(1)
            enable_counter("same", each_save=True)
    assert ran == [1]


@pytest.mark.parametrize("each_save", [False, True])
def test_a_path_cannot_be_that_of_a_block_around_whose_loop_is_over(folder, left, each_save):
    """The second loop would be skipped, or take over what the block still needs, which it would say at its end."""
    ran = []
    with pytest.raises(RestartError, match="run: used for the loop around it as well; give it a path of its own"):
        with enable_counter("run", each_save=each_save) as counter:
            ran += counter(range(3))
            ran += simple_counter("run", range(3))
    assert ran == [0, 1, 2]
    assert left() == ["run"]


@pytest.mark.parametrize("way", ["break", "exception"])
def test_a_cell_is_run_again_while_a_variable_holds_an_iterator_of_its_loop(folder, way):
    """The newer counter takes over: what holds the old one runs nowhere any more."""
    cell = """
pairs = zip(simple_counter("run", range(10)), letters)
for i, letter in pairs:
    ran.append(letter)
    if letter == stop_at and way == "exception":
        raise Stop
    if letter == stop_at:
        break
"""
    names = {"simple_counter": simple_counter, "Stop": Stop, "way": way, "ran": []}
    for k in range(9):  # often: where its frames lie in memory is chance
        names.update(letters="abcdefghij"[k:], stop_at="abcdefghij"[k + 1])
        with contextlib.suppress(Stop):
            exec(compile(cell, f"cell {k}", "exec"), names)
    assert "".join(names["ran"]) == "abbccddeeffgghhiij"


COMPREHENSIONS = {
    "list": lambda outer, inner, told: [told(i, j) for i in outer() for j in inner()],
    "set": lambda outer, inner, told: {told(i, j) for i in outer() for j in inner()},
    "dict": lambda outer, inner, told: {told(i, j): 0 for i in outer() for j in inner()},
    "generator": lambda outer, inner, told: list(told(i, j) for i in outer() for j in inner()),
    "condition": lambda outer, inner, told: [told(i, j) for i in outer() if i < 9 for j in inner() if j < 9],
    "drawn": lambda outer, inner, told: [told(i, j) for i, j in ((i, j) for i in outer() for j in inner())],
    "call": lambda outer, inner, told: [[told(i, j) for j in inner()] for _ in "a" for i in outer()],
    "flat": lambda outer, inner, told: [told(*p) for p in (p for i in outer() for p in ((i, j) for j in inner()))],
}


@pytest.mark.parametrize("form", COMPREHENSIONS)
def test_loops_of_a_comprehension_are_inside_each_other(folder, left, form):
    def told(i, j):
        assert "inner" not in left()
        seen.append((i, j))
        return i, j

    for _ in range(2):
        seen = []
        with enable_counter("outer", each_save=True) as counter:
            COMPREHENSIONS[form](lambda: counter(range(3)), lambda: simple_counter("inner", range(2)), told)
        assert (seen, left()) == (list(itertools.product(range(3), range(2))), [])


@pytest.mark.parametrize("form", COMPREHENSIONS)
def test_a_call_in_a_comprehension_of_two_loops_is_inside_both(folder, left, form):
    def told(i, j):
        for k in simple_counter("innermost", range(2)):
            seen.append((i, j, k))
            assert not {"inner", "innermost"} & {*left()}
        return i, j

    seen = []
    COMPREHENSIONS[form](lambda: simple_counter("outer", range(2)), lambda: simple_counter("inner", range(2)), told)
    assert (seen, left()) == (list(itertools.product(range(2), repeat=3)), [])


# Loops that take turns.


def test_a_loop_around_that_goes_on_is_told_so_at_its_next_save_if_the_inner_one_has_not_saved(folder):
    """Its positions alone were saved by one write until another loop began."""
    outer = iter(simple_counter("outer", range(5)))
    assert [next(outer), next(outer)] == [0, 1]
    inner = iter(simple_counter("inner", range(5)))
    assert next(inner) == 0
    with pytest.raises(
        RestartError, match="inner: is inside an item of .*outer, which has moved on meanwhile: they take"
    ):
        next(outer)


def stream(name, items, registers, told):
    with enable_counter(f"{name}.progress", each_save=True) as counter:
        seen = counter.save_load_object([], f"{name}.pickle") if registers else []
        for item in counter(items):
            seen.append(item)
            told.append(item)
            yield item


def merged(*streams):
    list(heapq.merge(*streams))


def zipped(*streams):
    list(zip(*streams))  # noqa: B905


def simulated(*streams):
    """Tasks of a framework that we do not know."""
    waiting = list(streams)
    while waiting:
        task = waiting.pop(0)
        if next(task, None) is not None:
            waiting.append(task)


def asynchronous(*streams):
    async def awaited(stream):
        for item in stream:
            await asyncio.sleep(0)
            yield item

    async def both():
        first, second = map(awaited, streams)
        async for _ in first:
            await anext(second, None)
        async for _ in second:
            pass

    asyncio.run(both())


@pytest.mark.parametrize("registers", [True, False], ids=["object", "position"])
@pytest.mark.parametrize("driver", [merged, zipped, simulated, asynchronous])
def test_loops_that_take_turns_never_lose_an_item_in_silence(folder, driver, registers):
    """They are not inside each other: right, or the error that says what to write, however often it is run."""
    x, y = [1, 4, 7], [2, 3, 9, 10, 11]
    told = []  # since the last run that ended without an error, and then by each
    for _ in range(4):
        streams = [stream("x", x, registers, told), stream("y", y, registers, told)]
        try:
            driver(*streams)
        except RestartError as error:
            assert re.search(r"counter\(zip\(a, b\)\).*thread", str(error))
        else:
            assert set(told) >= set(x if driver is zipped else x + y)
            told.clear()
        for each in streams:
            with contextlib.suppress(RestartError):
                each.close()


def test_loops_that_take_turns_in_threads_of_their_own_are_right(folder, left):
    """What the error advises."""
    told = []

    def work(name, items):
        for _ in stream(name, items, True, told):
            pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, "xy", [[1, 4, 7], [2, 3, 9]]))
    assert (sorted(told), left()) == ([1, 2, 3, 4, 7, 9], [])


def test_two_counters_in_one_zip_are_an_error_that_says_what_to_write(folder):
    """The second would think itself inside the first; what the error says to write is right."""
    with pytest.raises(RestartError, match=r"b: .*zip"):
        for _ in zip(simple_counter("a", range(3)), simple_counter("b", range(3)), strict=True):
            pass
    gc.collect()
    assert len(list(simple_counter("c", zip(range(3), range(3), strict=True)))) == 3


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


def test_a_kill_where_nothing_was_saved_starts_the_moment_afresh(folder, left, run_child, die):
    """Outer and inner `with`, kill -9: the positions are gone, and what has been changed in the objects with them."""
    run_child(joint, killer(("second", 1, 2), die), False, True)
    assert left() == [".outer.lock"]
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


def test_a_moment_can_be_stopped_again_and_again(folder, left, run_child, die):
    """Each run is killed a little later than the one before; the result is that of one run."""
    for place in MOMENTS[:-1]:
        run_child(joint, killer(place, die))
    assert finished(joint, nothing)[-1] == WHOLE
    assert left() == []


def test_the_progress_file_of_the_outermost_lists_the_loops_inside(folder, moment):
    """Path, position, ended or not, files: `cat` shows where the whole moment stands."""
    stopped(joint, stopper(("second", 1, 2)))
    host = moment("outer")
    first, second = host["inside"]
    assert (host["path"], host["position"], set(host["files"])) == ("outer", 1, {"seen.pickle"})
    assert (first["path"], first["position"], first["finished"]) == ("inner", 3, True)
    assert (second["path"], second["position"], second["finished"]) == ("second", 2, False)
    assert (set(first["files"]), set(second["files"])) == ({"part.pickle"}, set())


def test_the_loops_inside_are_dropped_with_the_next_outer_boundary(folder, left, inside):
    """The commit that drops the files of an inner loop removes them."""
    with enable_counter("outer", each_save=True) as counter:
        seen = counter.save_load_object([], "seen.pickle")
        for i in counter(range(3)):
            assert left() == ([".outer.lock", "outer", "seen.pickle"] if i else [".outer.lock"])
            assert not i or inside("outer") == []
            inner = enable_counter("inner", each_save=True)
            part = inner.save_load_object([], "part.pickle")
            for j in inner(range(2)):
                seen.append(j)
                part.append(j)
            assert left() == [".outer.lock", "outer", "part.pickle", "seen.pickle"]
    assert left() == []


def test_a_kill_leaves_no_orphan_where_the_inner_loop_never_runs_again(folder, left, run_child, die):
    """What was saved of it goes with the outer loop's next boundary, and with its end; a warning says so."""
    run_child(joint, killer(("first", 1, 1), die))
    assert "part.pickle" in left()
    said = "inner: saved at position 1 in an item of outer, which has ended without it; .*part.pickle will go"
    with enable_counter("outer", each_save=True) as counter, pytest.warns(UserWarning, match=said):
        seen = counter.save_load_object([], "seen.pickle")
        for i in counter(range(3)):
            assert ("part.pickle" in left()) is (i == 1)
    assert len(seen) == 7
    assert left() == []


def test_the_host_is_the_outermost_loop_whoever_has_something_registered(folder, left, run_child, die):
    """The middle and the inner loop resume inside the outer one's item, at every place of a kill."""

    def job(tell, stop):
        with multi_count():
            for i in simple_counter("a", range(2)):
                b = enable_counter("b", each_save=True)
                seen = b.save_load_object([], "seen")
                for j in b(range(2)):
                    for k in simple_counter("c", range(2)):
                        stop(i, j, k)
                        seen.append((i, j, k))
                tell(list(seen))

    for place in [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]:
        run_child(job, killer(place, die))
        assert set(left()) <= {".a.lock", "a", "seen"}
    assert finished(job, nothing)[-1] == [(1, j, k) for j in range(2) for k in range(2)]
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


def test_an_inner_loop_saves_the_moment_of_an_outer_one_that_never_saves_itself(folder, left, inside):
    """The outer one is warned of all the same: where no inner loop runs, nothing of it is saved."""
    counter = enable_counter("outer")
    seen = counter.save_load_object([], "seen")
    with pytest.warns(UserWarning, match="outer: this loop is never saved"):
        for _ in counter(range(1)):
            for j in simple_counter("inner", range(3)):
                assert j == 0 or (left(), inside("outer")) == ([".outer.lock", "outer", "seen"], [("inner", j)])
                seen.append(j)
    assert left() == []


@pytest.mark.parametrize("first", ["ended", "broken off", "failed"])
def test_one_path_twice_in_one_outer_item_is_an_error(folder, first):
    """The second would take up what the first has left; a counter whose loop has not begun has left nothing."""
    says = "inner: used for two loops in one item of outer; give each loop a path of its own; to try one again, let it"
    with pytest.raises(RestartError, match=says):
        with enable_counter("outer") as counter:
            for _ in counter(range(2)):
                enable_counter("inner")
                with contextlib.suppress(Stop):
                    for j in simple_counter("inner", range(2)):
                        if j == 1 and first == "broken off":
                            break
                        if j == 1 and first == "failed":
                            raise Stop
                list(simple_counter("inner", range(2)))


@pytest.mark.parametrize("way", ["kill", "exception"])
def test_an_inner_loop_that_was_broken_off_counts_as_ended_when_another_starts(folder, left, run_child, die, way):
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

    if way == "kill":
        run_child(job, killer((1,), die))
    else:
        stopped(job, stopper((1,)))
    assert finished(job, nothing) == [[("inner", j) for j in range(3)] + [("second", k) for k in range(3)]]
    assert left() == []


def test_an_inner_loop_whose_block_has_failed_does_not_count_as_ended_when_another_block_begins(
    folder, left, run_child, die
):
    """It was not left by choice: it goes on there, and what it still has to do is not skipped in silence."""

    def job(tell, stop, die_at):
        with enable_counter("outer") as counter:
            for _ in counter(range(1)):
                with contextlib.suppress(Stop), multi_count():
                    for j in simple_counter("first", range(4)):
                        stop(j)
                        tell(("first", j))
                with multi_count():
                    for k in simple_counter("second", range(3)):
                        tell(("second", k))
                        die_at(k)

    told = run_child(job, stopper((2,)), killer((1,), die)).told
    assert told == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    assert finished(job, nothing, nothing) == [("first", 2), ("first", 3), ("second", 1), ("second", 2)]
    assert left() == []


@pytest.mark.parametrize("way", ["kill", "exception"])
def test_an_inner_loop_that_was_broken_off_counts_as_ended_when_its_block_ends(folder, left, run_child, die, way):
    """The work of all loops in the block is done then: no item changes what is registered a second time."""

    def job(tell, stop):
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for _ in counter(range(1)):
                with multi_count():
                    for j in simple_counter("inner", range(9)):
                        seen.append(j)
                        if j == 2:
                            break
                stop("behind the block")
            tell(list(seen))

    if way == "kill":
        run_child(job, killer(("behind the block",), die))
    else:
        stopped(job, stopper(("behind the block",)))
    assert finished(job, nothing) == [[0, 1, 2]]
    assert left() == []


def test_what_has_ended_in_a_block_that_failed_is_skipped_whoever_saves_last(folder, left):
    """The outer loop saves when the block is over already; a block that has failed is tried again in the next run."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            for i in counter(range(2)):
                with multi_count():
                    for j in simple_counter("first", range(2)):
                        tell((i, "first", j))
                    for j in simple_counter("second", range(2)):
                        stop(i, j)
                        tell((i, "second", j))

    order = [(i, name, j) for i in range(2) for name in ("first", "second") for j in range(2)]
    assert stopped(job, stopper((0, 1))) == order[:3]
    assert finished(job, nothing) == order[3:]
    assert left() == []


def test_an_inner_loop_does_not_count_as_ended_while_what_has_stopped_it_is_on_its_way(folder, left):
    """A loop in a `finally` starts in the same item; what the first one still has to do is done in the next run."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(3)):
                try:
                    for j in simple_counter("inner", range(4)):
                        stop(i, j)
                        seen.append((i, j))
                finally:
                    for _ in simple_counter("clean up", range(2)):
                        pass
            tell(seen)

    assert stopped(job, stopper((1, 1))) == []
    assert finished(job, nothing) == [[(i, j) for i in range(3) for j in range(4)]]
    assert left() == []


@pytest.mark.parametrize("way", ["converted", "in a generator", "behind a generator"])
def test_an_inner_loop_does_not_count_as_ended_whatever_is_on_its_way(folder, left, way):
    """The traceback of a converted exception, or of one in a generator, does not lead through its `for` (yet)."""

    def items(i, fail):
        with enable_counter("inner") as counter:
            for j in counter(range(5)):
                if way != "behind a generator":
                    fail(i, j)
                yield j

    def cleaned(i, fail):
        try:
            yield from items(i, fail)
        finally:
            list(simple_counter("clean up", range(2)))

    def job(tell, stop):
        def fail(i, j):
            try:
                stop(i, j)
            except Stop as error:
                raise KeyError(j) from error

        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                if way == "converted":
                    try:
                        for j in simple_counter("inner", range(5)):
                            stop(i, j)
                            seen.append((i, j))
                    except Stop as error:
                        try:
                            raise KeyError(i) from error
                        finally:
                            list(simple_counter("clean up", range(2)))
                else:
                    for j in cleaned(i, fail):
                        if way == "behind a generator":
                            fail(i, j)
                        seen.append((i, j))
            tell(list(seen))

    with pytest.raises(KeyError):
        job(print, stopper((1, 2)))
    gc.collect()
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(5)]]
    assert left() == []


@pytest.mark.parametrize("is_kept", [False, True])
def test_an_inner_loop_does_not_count_as_ended_where_another_exception_followed_its_own(folder, left, is_kept):
    """In the handler the first one is the context alone of the second; where it was kept, the cause alone."""

    def fail(i, cause):
        try:
            raise KeyError(i) from cause
        finally:
            list(simple_counter("clean up", range(2)))

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                kept = None
                try:
                    for j in simple_counter("inner", range(5)):
                        stop(i, j)
                        seen.append((i, j))
                except Stop as error:
                    kept = error
                    if not is_kept:
                        fail(i, None)
                if kept is not None:
                    fail(i, kept)
            tell(list(seen))

    with pytest.raises(KeyError):
        job(print, stopper((1, 2)))
    gc.collect()
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(5)]]
    assert left() == []


def test_a_loop_that_was_broken_off_in_a_handler_counts_as_ended_when_another_starts_behind_it(
    folder, left, run_child, die
):
    """The exception that it began with is over: nothing is on its way any more."""

    def job(tell, die_at):
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                try:
                    raise Stop
                except Stop:
                    for j in simple_counter("inner", range(3)):
                        seen.append((i, j))
                        if j == 1:
                            break
                for k in simple_counter("second", range(3)):
                    die_at(i, k)
            tell(list(seen))

    run_child(job, killer((1, 1), die))
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(2)]]
    assert left() == []


def test_a_loop_that_was_broken_off_in_a_handler_counts_as_ended_when_another_starts_in_it(
    folder, left, run_child, die
):
    """What is handled was there before either, and has left neither."""

    def item(seen, die_at, i):
        try:
            raise Stop
        except Stop:
            for j in simple_counter("inner", range(3)):
                seen.append((i, j))
                if j == 1:
                    break
            for k in simple_counter("second", range(3)):
                die_at(i, k)

    def job(tell, die_at):
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                item(seen, die_at, i)
            tell(list(seen))

    run_child(job, killer((1, 1), die))
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(2)]]
    assert left() == []


@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("each_save", [False, True])
def test_what_follows_a_break_in_an_inner_with_is_done_once(folder, left, run_child, die, in_block, each_save):
    """The item is at no boundary there: nothing is saved until the next one, which has all of it."""

    def job(tell, die_at):
        with multi_count() if in_block else contextlib.nullcontext():
            with enable_counter("outer", each_save=True) as outer:
                seen = outer.save_load_object([], "seen")
                for i in outer(range(3)):
                    with enable_counter("inner", each_save=each_save) as inner:
                        for j in inner(range(9)):
                            seen.append((i, j))
                            if j == 1:
                                break
                        seen.append("best")
                    die_at(i)
                tell(list(seen))

    run_child(job, killer((1,), die))
    assert finished(job, nothing) == [[one for i in range(3) for one in ((i, 0), (i, 1), "best")]]
    assert left() == []


@pytest.mark.parametrize("is_simple", [False, True])
def test_inner_loops_that_are_broken_off_before_their_first_boundary_are_saved(folder, left, run_child, die, is_simple):
    """When the next one begins, at the latest: else a search that stops early would never be saved."""

    def job(tell, die_at):
        with enable_counter("outer") as outer:
            found = outer.save_load_object([], "found")
            for i in outer(range(5)):
                counter = enable_counter("inner", each_save=True, save_span=100)
                with contextlib.nullcontext() if is_simple else counter:
                    for j in counter(range(1000)):
                        die_at(i, j)
                        if j == 3:
                            break
                found.append(i)
                tell(i)
            tell(list(found))

    run_child(job, killer((4, 2), die))
    assert left() == [".outer.lock", "found", "outer"]
    assert finished(job, nothing) == [4, list(range(5))]
    assert left() == []


@pytest.mark.parametrize("is_apart", [False, True])
@pytest.mark.parametrize("cause", [None, KeyError()])
def test_a_loop_that_was_broken_off_counts_as_ended_when_another_starts_in_a_handler(
    folder, left, run_child, die, is_apart, cause
):
    """What is handled there came behind its `for`, or once its function had returned: it was not what has left it."""

    def fail():
        try:
            raise cause or Stop
        except KeyError as error:
            raise Stop from error

    def apart(seen, i):
        for j in simple_counter("inner", range(3)):
            seen.append((i, j))
            if j == 1:
                break

    def job(tell, die_at):
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                if is_apart:
                    apart(seen, i)
                else:
                    for j in simple_counter("inner", range(3)):
                        seen.append((i, j))
                        if j == 1:
                            break
                try:
                    fail()
                except Stop:
                    for k in simple_counter("second", range(3)):
                        die_at(i, k)
            tell(list(seen))

    run_child(job, killer((1, 1), die))
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(2)]]
    assert left() == []


def test_a_loop_that_a_generator_has_left_does_not_count_as_ended_while_that_is_closed(folder, left):
    """What closes it is hidden in its `finally`; there the rest of the loop is still to be done, in the next run."""

    def numbers():
        try:
            yield from range(1)
        finally:
            list(simple_counter("clean up", range(2)))

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                for _ in numbers():
                    for j in simple_counter("inner", range(3)):
                        stop(i, j)
                        seen.append((i, j))
            tell(seen)

    assert stopped(job, stopper((1, 1))) == []
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(3)]]
    assert left() == []


def test_an_inner_loop_that_was_broken_off_counts_as_ended_when_a_block_with_another_begins(
    folder, left, run_child, die
):
    """It is in no block itself: nothing tries it again."""

    def job(tell, die_at):
        with enable_counter("outer", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(3)):
                for j in simple_counter("inner", range(3)):
                    seen.append((i, j))
                    if j == 1:
                        break
                with multi_count():
                    for k in simple_counter("second", range(3)):
                        die_at(i, k)
            tell(list(seen))

    run_child(job, killer((1, 1), die))
    assert finished(job, nothing) == [[(i, j) for i in range(3) for j in range(2)]]
    assert left() == []


@pytest.mark.parametrize("each_save", [True, False], ids=["each_save", "on_failure"])
def test_a_generator_in_a_variable_whose_with_ends_in_the_next_item(folder, left, each_save):
    """Its loop was left by `break`: nobody takes turns, and nothing that it says counts any more."""

    def batches():
        with enable_counter("inner", each_save=each_save) as counter:
            yield from counter(range(3))

    def job(tell, stop):
        with enable_counter("outer", each_save=each_save) as counter:
            for i in counter(range(3)):
                held = batches()
                for j in held:
                    stop(i, j)
                    tell((i, j))
                    if j == 1:
                        break

    order = [(i, j) for i in range(3) for j in range(2)]
    assert stopped(job, stopper((1, 1))) == order[:3]
    assert finished(job, nothing) == order[3:]
    assert left() == []


@pytest.mark.parametrize("outer_too", [True, False])
@pytest.mark.parametrize("place", [(1, 1), (2,)], ids=["in the inner loop", "in the outer one"])
def test_inner_counters_that_an_exit_stack_closes_later(folder, left, outer_too, place):
    """Their loops have ended, or were left by the failure: what is saved is the item in which it happened."""

    def job(tell, stop):
        with contextlib.ExitStack() as around, contextlib.ExitStack() as stack:
            outer = (stack if outer_too else around).enter_context(enable_counter("outer"))
            for i in outer(range(4)):
                stop(i)
                inner = stack.enter_context(enable_counter("inner"))
                for j in inner(range(2)):
                    stop(i, j)
                    tell((i, j))

    order = [(i, j) for i in range(4) for j in range(2)]
    done = order.index((*place, 0)[:2])
    assert stopped(job, stopper(place)) == order[:done]
    assert finished(job, nothing) == order[done:]
    assert left() == []


def test_an_object_inside_a_loop_that_has_ended_is_not_of_the_moment_any_more(folder, left, run_child, die):
    """What ended before it in the same item runs again with the item: nothing is registered any more."""

    def job(tell, die_at):
        for i in simple_counter("outer", range(2)):
            for j in simple_counter("first", range(2)):
                tell((i, j))
            with enable_counter("middle", each_save=True) as counter:
                for _ in counter(range(2)):
                    with enable_counter("inner") as inner:
                        inner.save_load_object([], "seen")
                        list(inner(range(2)))
                    break
            die_at(i)

    order = [(i, j) for i in range(2) for j in range(2)]
    assert run_child(job, killer((0,), die)).told == order[:2]
    assert left() == [".outer.lock", "outer"]
    assert finished(job, nothing) == order
    assert left() == []


def test_the_end_of_an_empty_inner_loop_is_a_boundary(folder, left, run_child, die):
    """It saves the moment, as every exhausted loop does: the outer loop goes on where it was."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            for i in counter(range(4)):
                for _ in simple_counter("inner", [], save_span=3):
                    pass
                tell(i)
                stop(i)

    assert run_child(job, killer((2,), die)).told == [0, 1, 2]
    assert finished(job, nothing) == [2, 3]
    assert left() == []


def test_what_ended_where_nothing_was_registered_runs_again_whatever_is_registered_by_then(
    folder, left, run_child, die
):
    """An object that has gone before, and comes again in the next runs, makes no loop look done that is not."""

    def job(tell, stop):
        for _ in simple_counter("outer", range(2), save_span=2):
            with enable_counter("first") as counter:
                for _ in counter(range(1)):
                    part = enable_counter("part", each_save=True)
                    seen = part.save_load_object([], "seen")
                    for j in part(range(2)):
                        seen.append(j)
                        stop("part", j)
            for j in simple_counter("second", range(2)):
                tell(j)
            stop("second")

    assert run_child(job, killer(("second",), die)).told == [0, 1]
    assert left() == [".outer.lock", "outer"]
    assert run_child(job, killer(("part", 1), die)).told == []
    assert left() == [".outer.lock", "outer", "seen"]
    assert run_child(job, killer(("second",), die)).told == [0, 1]
    assert finished(job, nothing) == [0, 1, 0, 1]
    assert left() == []


def test_an_inner_loop_that_is_forgotten_while_it_runs_saves_its_position_as_before(folder, clock, monkeypatch):
    """What is fixed of a record was written anew, at another time."""
    times = itertools.count()
    monkeypatch.setattr(_files, "now", lambda: f"{next(times)}")

    def job(tell, stop):
        for i in simple_counter("outer", range(3)):
            counter = enable_counter("inner", each_save=True)
            for j in counter(range(9)):
                stop(i, j)
                tell((i, j))
                if j == 4:
                    counter.remove_files()

    assert len(stopped(job, stopper((1, 7)))) == 16
    assert finished(job, nothing) == [(1, 7), (1, 8), *((2, j) for j in range(9))]


class Ending:
    """Items of a known length, and then what happens before their end is told: a stop, say."""

    def __init__(self, length, end):
        self._length, self._end = length, end

    def __len__(self):
        return self._length

    def __iter__(self):
        yield from range(self._length)
        self._end()


def test_an_inner_loop_that_was_stopped_between_its_last_boundary_and_its_end_is_not_run_twice(folder, left):
    """What was done in it is in the objects of that boundary."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(2)):
                for j in simple_counter("inner", Ending(3, lambda i=i: stop(i))):
                    seen.append((i, j))
            tell(list(seen))

    assert stopped(job, stopper((1,))) == []
    assert finished(job, nothing) == [[(i, j) for i in range(2) for j in range(3)]]
    assert left() == []


def test_a_loop_that_has_ended_before_one_with_an_object_is_not_run_again(folder, left):
    """Nor where a save comes before the other one has begun again: what was saved of that is in the moment."""

    def job(tell, stop):
        with enable_counter("outer") as outer:
            for i in outer(range(2)):
                for j in simple_counter("first", range(2)):
                    tell((i, "first", j))
                outer.save()
                stop(i)
                second = enable_counter("second", each_save=True)
                kept = second.save_load_object([], "kept")
                for k in second(range(3)):
                    stop(i, k)
                    kept.append(k)
                tell((i, list(kept)))

    first = [(0, "first", 0), (0, "first", 1), (0, [0, 1, 2]), (1, "first", 0), (1, "first", 1)]
    assert stopped(job, stopper((1, 1))) == first
    assert stopped(job, stopper((1,))) == []
    assert finished(job, nothing) == [(1, [0, 1, 2])]
    assert left() == []


def test_a_counter_whose_loop_around_is_of_an_item_before_saves_nothing(folder, left):
    """That one still stands at the item in which the counter was made; the one around it has gone on."""
    kept = []
    for _ in simple_counter("outer", range(3)):
        if kept:
            with pytest.raises(RestartError, match="inner: its work is done; make another counter"):
                kept[-1].save()
        for j in simple_counter("middle", range(3)):
            kept.append(enable_counter("inner", each_save=True))
            for k in kept[-1](range(3)):
                if k == 1:
                    break
            if j == 1:
                break
    assert (len(kept), left()) == (6, [])


@pytest.mark.filterwarnings("ignore:.*kept. outer was saved without it")
def test_a_loop_deep_inside_runs_again_with_its_item_where_an_object_is_new(folder, left, run_child, die):
    """It had ended in a moment without objects: what was done in it is not in the object that the program has since."""

    def job(tell, die_at, has_object=True):
        with enable_counter("outer") as outer:
            kept = outer.save_load_object([], "kept") if has_object else []
            for i in outer(range(2)):
                if has_object:
                    outer.save()
                die_at(i)
                for j in simple_counter("middle", range(2)):
                    for k in simple_counter("inner", range(2)):
                        kept.append((i, j, k))
                    die_at(i, j)
            tell(list(kept))

    run_child(job, killer((0, 1), die), False)
    run_child(job, killer((0,), die))
    assert finished(job, nothing) == [[(i, j, k) for i in range(2) for j in range(2) for k in range(2)][2:]]
    assert left() == []


def test_a_loop_in_a_task_is_not_inside_the_generator_that_has_started_the_event_loop(folder, left):
    """It is on its own, whatever is below on the stack of calls."""
    seen = []

    async def main():
        for _ in simple_counter("own", range(2)):
            seen.append(left())

    def rows():
        for i in simple_counter("outer", range(2)):
            asyncio.run(main())
            yield i

    assert list(rows()) == [0, 1]
    assert [".own.lock" in names for names in seen] == [True] * 4
    assert left() == []


def test_two_counters_of_one_path_that_are_made_before_either_begins_are_an_error(folder, left):
    """In one outer item: the second one would be taken for the first."""
    for _ in simple_counter("outer", range(2)):
        first, second = (enable_counter("inner", each_save=True) for _ in range(2))
        assert list(first(range(3))) == [0, 1, 2]
        with pytest.raises(RestartError, match="inner: used for two loops in one item of outer; give each loop a path"):
            list(second(range(3)))
    assert left() == []


@pytest.mark.parametrize("each_save", [False, True])
def test_an_object_path_of_the_item_before_is_free_again(folder, left, each_save):
    """Another loop may have it, even where a variable holds the counter that had it."""
    kept, seen = [], []
    with enable_counter("outer", each_save=each_save) as outer:
        for i in outer(range(3)):
            with enable_counter(f"inner{i}", each_save=each_save) as counter:
                kept.append(counter)
                values = counter.save_load_object([], "values")
                values += counter(range(2))
                seen.append(list(values))
    assert (seen, left()) == ([[0, 1]] * 3, [])


def test_a_loop_that_saves_before_the_one_inside_begins_again_keeps_what_was_saved_of_that(folder, left):
    """Its own place in the moment has been taken up, and that of the inner one has not."""

    def job(tell, stop):
        for i in simple_counter("outer", range(2)):
            with enable_counter("middle") as middle:
                for j in middle(range(2)):
                    middle.save()
                    for k in simple_counter("inner", range(4)):
                        stop(i, j, k)
                        tell((i, j, k))

    every = [(i, j, k) for i in range(2) for j in range(2) for k in range(4)]
    assert stopped(job, stopper((1, 1, 2))) == every[:14]
    assert stopped(job, stopper((1, 1, 3))) == every[14:15]
    assert finished(job, nothing) == every[15:]
    assert left() == []


def test_a_percent_sign_in_the_path_of_a_loop_inside_is_no_more_than_that(folder, left):
    """It may stand behind the position that is told: until that loop begins again, what was saved of it stays there."""

    def job(tell, stop):
        for i in simple_counter("outer", range(3)):
            stop(i, "before")
            for j in simple_counter("100%d", range(4)):
                stop(i, j)
                tell((i, j))

    def saving(tell, stop):
        with enable_counter("outer") as counter:
            for i in counter(range(3)):
                counter.save()
                stop(i, "before")

    every = [(i, j) for i in range(3) for j in range(4)]
    assert stopped(job, stopper((1, 2))) == every[:6]
    assert stopped(saving, stopper((1, "before"))) == []
    assert finished(job, nothing) == every[6:]
    assert left() == []


def test_functions_of_an_inner_loop_save_and_load_in_each_item_anew(folder, left, run_child, die):
    """A kill in the middle of an inner loop goes on there, with what they have saved in this item."""

    def job(tell, die_at):
        with enable_counter("outer") as outer:
            for i in outer(range(3)):
                text = [""]

                def save(path, text=text):
                    path.write_text(text[0])

                def load(path, text=text):
                    text[0] = path.read_text()

                with enable_counter("inner", each_save=True) as inner:
                    inner.save_load_funcs([save], [load], [Path("text")])
                    for j in inner("abc"):
                        die_at(i, j)
                        text[0] += f"{i}{j}"
                    tell(text[0])

    assert run_child(job, killer((1, "c"), die)).told == ["0a0b0c"]
    assert left() == [".outer.lock", "outer", "text"]
    assert finished(job, nothing) == ["1a1b1c", "2a2b2c"]
    assert left() == []


def test_what_is_registered_inside_a_loop_that_was_broken_off_goes_with_it(folder, left):
    """As with one that was exhausted: nothing is registered in the moment any more, and the item runs again."""

    def job(tell, stop):
        with enable_counter("outer") as counter:
            for _ in counter(range(1)):
                for _ in simple_counter("first", range(2)):
                    inner = enable_counter("inner", each_save=True)
                    seen = inner.save_load_object([], "seen")
                    for j in inner(range(2)):
                        seen.append(j)
                    tell(list(seen))
                    break
                for j in simple_counter("second", range(2)):
                    tell(j)
                stop("behind them")

    assert stopped(job, stopper(("behind them",))) == [[0, 1], 0, 1]
    assert left() == ["outer"]
    assert finished(job, nothing) == [[0, 1], 0, 1]
    assert left() == []


def test_an_inner_object_that_cannot_be_loaded_costs_nothing(folder, left):
    """The outer block ends by that error and saves: what was saved of the inner loop stays in the moment as it is."""
    stopped(joint, stopper(("first", 1, 1)), False, True)
    content = Path("part.pickle").read_bytes()
    Path("part.pickle").write_bytes(b"damaged")
    with pytest.raises(RestartError, match=r"part.pickle: changed or damaged since it was saved.*; put back"):
        joint(print, nothing, False, True)
    Path("part.pickle").write_bytes(content)
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


@pytest.mark.parametrize("way", ["never begun", "looked at"])
def test_an_inner_counter_whose_loop_has_not_begun_changes_nothing(folder, left, way, inside):
    """What was saved of it stays as it is when the outer block fails, also where a `with` of its own has ended."""
    stopped(joint, stopper(("first", 1, 1)), False, True)
    with pytest.raises(Stop):
        with enable_counter("outer") as counter:
            kept = counter.save_load_object([], "seen.pickle")
            for _ in counter(range(3)):
                if way == "looked at":
                    with enable_counter("inner") as inner:
                        assert (inner.position, inner.save_load_object([], "part.pickle")) == (1, [(1, 0)])
                else:
                    assert enable_counter("inner").position == 1
                raise Stop
    assert inside("outer") == [("inner", 1)] and kept
    assert finished(joint, nothing, False, True)[-1] == WHOLE
    assert left() == []


def test_save_and_remove_files_inside_a_moment(folder, left, inside):
    """An inner counter's `save` saves the whole moment; its `remove_files` forgets it alone."""
    with pytest.raises(Stop):
        with enable_counter("outer") as counter:
            seen = counter.save_load_object([], "seen.pickle")
            for _ in counter(range(1)):
                inner = enable_counter("inner", each_save=True, save_span=9)
                part = inner.save_load_object([], "part.pickle")
                inner.save()
                assert left() == [".outer.lock", "outer", "part.pickle", "seen.pickle"]
                for j in inner(range(5)):
                    seen.append(j)
                    part.append(j)
                    if j == 2:
                        inner.save()
                        assert pickle.loads(Path("seen.pickle").read_bytes()) == [0, 1, 2]
                        assert inside("outer") == [("inner", 2)]
                    if j == 3:
                        inner.remove_files()
                        assert left() == [".outer.lock", "outer", "seen.pickle"]
                        assert inside("outer") == []
                        inner.save()
                        assert left() == [".outer.lock", "outer", "part.pickle", "seen.pickle"]
                        raise Stop
    with enable_counter("outer") as counter:
        seen = counter.save_load_object([], "seen.pickle")
        for _ in counter(range(1)):
            inner = enable_counter("inner", each_save=True)
            inner.remove_files()
            assert inner.position == 0
            part = inner.save_load_object(["new"], "part.pickle")
            assert part == ["new"]
            assert list(inner(range(2))) == [0, 1]
    assert left() == [] and seen


def test_what_the_outer_counter_forgets_is_forgotten_for_an_inner_one_that_waits(folder, left):
    """An inner loop that has not begun starts afresh then: what was saved of it is gone with all the rest."""
    for forgets in (False, True):
        with contextlib.suppress(Stop), enable_counter("outer", each_save=True) as outer:
            seen = outer.save_load_object([], "seen.pickle")
            for _ in outer(range(1)):
                inner = enable_counter("inner", each_save=True)
                if forgets:
                    assert inner.position == 2
                    outer.remove_files()
                    assert left() == [".outer.lock"]
                part = inner.save_load_object([], "part.pickle")
                assert (inner.position, part) == (0, [])
                for j in inner(range(4)):
                    if j == 2 and not forgets:
                        raise Stop
                    part.append(j)
                assert part == [0, 1, 2, 3]
    assert left() == [] == seen


def test_what_the_outer_counter_forgets_is_forgotten_for_an_inner_one_that_has_saved(folder, left):
    """It stands in the record already, before its loop has begun."""
    seen = []
    for forgets in (False, True):
        with contextlib.suppress(Stop), enable_counter("outer", each_save=True) as outer:
            for _ in outer(range(1)):
                inner = enable_counter("inner", each_save=True)
                if forgets:
                    inner.save()
                    outer.remove_files()
                    assert inner.position == 0
                for j in inner(range(4)):
                    if j == 2 and not forgets:
                        raise Stop
                    seen.append(j)
    assert (seen, left()) == ([0, 1, 0, 1, 2, 3], [])


def test_what_an_inner_counter_forgets_before_its_loop_is_not_saved_again(folder):
    """A stop before its first item does not bring back what was saved of it."""
    for start, stop, forgets in (0, 2, False), (2, 0, True), (0, 0, False):
        with contextlib.suppress(Stop):
            for _ in simple_counter("outer", range(1)):
                inner = enable_counter("inner", each_save=True)
                assert inner.position == start
                if forgets:
                    inner.remove_files()
                for j in inner(range(4)):
                    if j == stop:
                        raise Stop


def test_an_inner_counter_that_forgets_before_its_loop_leaves_the_path_to_another_one(folder, left):
    """A counter may be made for nothing else than that."""
    seen = []
    for stop in (2, None):
        with contextlib.suppress(Stop):
            for _ in simple_counter("outer", range(1)):
                if stop is None:
                    enable_counter("inner", each_save=True).remove_files()
                for j in simple_counter("inner", range(4)):
                    if j == stop:
                        raise Stop
                    seen.append(j)
    assert (seen, left()) == ([0, 1, 0, 1, 2, 3], [])


def test_a_running_inner_loop_that_forgets_goes_on(folder, left):
    """It is saved again at its next boundary."""
    seen = []
    for _ in simple_counter("outer", range(2)):
        inner = enable_counter("inner", each_save=True)
        for j in inner(range(4)):
            if j == 2:
                inner.remove_files()
            seen.append(inner.position)
    assert seen == 2 * [0, 1, 2, 3] and left() == []


def test_a_running_inner_loop_that_forgets_before_anything_is_saved_saves_nothing(folder, left):
    with enable_counter("outer") as outer:
        for _ in outer(range(2)):
            with enable_counter("inner") as inner:
                for _ in inner(range(2)):
                    inner.remove_files()
                    assert "outer" not in left()
    assert left() == []


def test_a_failure_behind_an_inner_loop_does_not_run_it_again(folder, left):
    """In its `with`, as behind a loop by itself, with nothing registered: what follows the loop is still to be done."""
    seen = []
    for stop in (1, None):
        with contextlib.suppress(Stop), enable_counter("outer") as outer:
            for i in outer(range(2)):
                with enable_counter("inner") as inner:
                    seen += [(i, j) for j in inner(range(2))]
                    if i == stop:
                        raise Stop
    assert (seen, left()) == ([(0, 0), (0, 1), (1, 0), (1, 1)], [])


def test_an_inner_counter_saves_nothing_once_the_work_around_it_is_done(folder, left):
    """It would bring back what has just been removed."""
    with enable_counter("outer") as outer:
        for _ in outer(range(3)):
            inner = enable_counter("inner", each_save=True)
            break
    with pytest.raises(RestartError, match="inner: its work is done; make another counter"):
        inner.save()
    assert left() == []


def test_a_block_in_an_item_saves_nothing_of_loops_that_save_where_they_fail(folder, left):
    """Its end is no failure."""
    with enable_counter("outer") as outer:
        for _ in outer(range(2)):
            with multi_count():
                with enable_counter("inner") as inner:
                    list(inner(range(2)))
            assert left() == [".outer.lock"]
    assert left() == []


def test_a_save_function_that_saves_a_loop_which_has_not_begun_has_it_saved_right_behind(folder, left):
    """With all that is registered with it: the next run would find the moment without what belongs to it."""
    waiting = []

    def save(path):
        Path(path).touch()
        if waiting:
            waiting.pop().save()

    for first in ["first"], []:
        with contextlib.suppress(Stop), enable_counter("outer") as outer:
            outer.save_load_funcs([save], [lambda path: None], ["file"])
            for _ in outer(range(1)):
                inner = enable_counter("inner", each_save=True)
                part = inner.save_load_object(first, "part")
                assert part == ["first"]
                if first:
                    waiting.append(inner)
                    outer.save()
                    raise Stop
                list(inner(range(2)))
    assert left() == []


def test_a_forgotten_inner_counter_that_saved_nothing_leaves_the_moment_unsaved(folder, left):
    """`remove_files` saves nothing where nothing has been saved."""
    with enable_counter("outer") as counter:
        for _ in counter(range(1)):
            enable_counter("inner", each_save=True).remove_files()
            assert left() == [".outer.lock"]


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


def test_a_forked_child_may_leave_the_block_of_its_parent(folder, run_child, position):
    """It ends nothing of it."""

    def job(tell):
        with multi_count():
            for _ in simple_counter("run", range(3)):
                pass
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                tell(position())
        tell("done")

    ended = run_child(job)
    assert sorted(map(str, ended.told)) == ["3", "done", "done"], ended.error


@pytest.mark.parametrize("has_object", [True, False])
def test_a_forked_child_is_inside_no_loop_of_its_parent(folder, left, run_child, has_object, moment):
    """Its loops have files of their own, and leave none, a block or not; the parent's file is the parent's alone."""

    def job(tell):
        counter = enable_counter("outer", each_save=True)
        seen = counter.save_load_object([], "object") if has_object else []
        with multi_count():
            for i in counter(range(2)):
                child = os.fork()
                if child == 0:
                    for j in simple_counter("inner", range(3)):
                        tell((j, moment("inner")["position"] if j else None))
                    tell([name for name in left() if "inner" in name])
                    os._exit(0)
                os.waitpid(child, 0)
                seen.append(i)
        tell(seen)

    assert run_child(job).told == 2 * [(0, None), (1, 1), (2, 2), []] + [[0, 1]]
    assert left() == []


@pytest.mark.parametrize("in_block", [True, False])
def test_an_inner_loop_that_was_killed_before_the_record_of_its_end(folder, left, run_child, die, in_block):
    """All its items are done: in a block it is skipped; without one it runs again with its item."""

    def job(tell, die):
        with multi_count() if in_block else contextlib.nullcontext():
            for i in simple_counter("outer", range(2)):
                for j in simple_counter("inner", Ending(2, die)):
                    tell((i, j))

    assert run_child(job, die).told == [(0, 0), (0, 1)]
    assert finished(job, lambda: None) == ([] if in_block else [(0, 0), (0, 1)]) + [(1, 0), (1, 1)]
    assert left() == []


def raising_at(number, last):
    """Return what raises Stop, as `sys.settrace` has it, at this line from the call of `begin` to the end of `last`."""
    lines, calls = itertools.count(1), []

    def trace(frame, event, argument):
        if (frame.f_code.co_name, event) in (("begin", "call"), (last, "return")):
            calls.append(frame) if event == "call" else calls.clear()
        if event == "line" and calls and next(lines) == number:
            raise Stop
        return trace if calls and "py_restart" in frame.f_code.co_filename else None

    return trace


@pytest.mark.parametrize("is_rich", [True, False])
@pytest.mark.parametrize("done", [0, 2])
def test_a_stop_as_an_inner_loop_begins_neither_ends_it_nor_starts_it_afresh(folder, left, done, is_rich):
    """At each line of it: nothing of it is done, and its place is what was saved."""
    told, before = [], sys.gettrace()

    def job(stop, number=0):
        trace = raising_at(number, "begin")
        with enable_counter("outer") as outer:
            seen = outer.save_load_object([], "seen") if is_rich else told
            for i in outer(range(2)):
                with enable_counter("inner") as inner:
                    sys.settrace(trace if number and i else before)
                    for j in inner(range(3)):
                        sys.settrace(before)
                        stop(i, j)
                        seen.append((i, j))
        return seen

    for number in itertools.count(1):
        told.clear()
        if done:
            with pytest.raises(Stop):
                job(stopper((1, done)))
        gc.collect()
        gc.disable()  # Python drops what is raised in a `__del__`
        try:
            job(nothing, number)
            break
        except Stop:
            pass
        finally:
            gc.enable()
            sys.settrace(before)
        assert (number, job(nothing)) == (number, list(itertools.product(range(2), range(3))))
        assert left() == []
    assert number > 50


def test_a_stop_as_a_loop_of_a_block_begins_keeps_what_was_saved_of_it(folder, left):
    """At each line of it, and although the block ends well: the program has caught it."""
    before = sys.gettrace()

    def job(stop, number=0):
        trace = raising_at(number, "go")
        with multi_count(), contextlib.suppress(Stop), enable_counter("run") as counter:
            loop = counter(range(4))
            sys.settrace(trace if number else before)
            for i in loop:
                sys.settrace(before)
                stop(i)
            return True

    for number in itertools.count(1):
        with pytest.raises(Stop):
            with enable_counter("run") as counter:
                for i in counter(range(4)):
                    stopper((2,))(i)
        gc.collect()
        gc.disable()  # Python drops what is raised in a `__del__`
        try:
            if job(nothing, number):
                break
        finally:
            gc.enable()
            sys.settrace(before)
        assert (number, enable_counter("run").position) == (number, 2)
        enable_counter("run").remove_files()
    assert number > 30
    assert left() == []


def test_an_inner_loop_that_was_saved_and_has_not_begun_is_still_to_be_done(folder, left):
    def job(stop):
        with enable_counter("outer") as outer:
            seen = outer.save_load_object([], "seen")
            for i in outer(range(2)):
                with enable_counter("inner") as inner:
                    inner.save()
                    stop(i)
                    seen.extend((i, j) for j in inner(range(2)))
        return seen

    with pytest.raises(Stop):
        job(stopper((0,)))
    assert job(nothing) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert left() == []


def test_an_inner_loop_that_is_refused_is_still_to_be_done(folder, left):
    """Its path is used twice in one block; the next run has mended that."""

    def job(first):
        told = []
        with multi_count():
            with enable_counter("first") as outer:
                for _ in outer(range(1)):
                    list(simple_counter(first, range(3)))
            with enable_counter("second") as outer:
                for i in outer(range(2)):
                    told.extend((i, j) for j in simple_counter("inner", range(2)))
        return told

    with pytest.raises(RestartError, match="used for two loops of one multi_count block"):
        job("inner")
    assert job("other") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert left() == []


def test_a_finished_loop_that_is_saved_before_it_begins_stays_finished(folder, left, run_child, die):
    """By `save()`; the run is killed right behind it."""

    def job(tell, at):
        with multi_count():
            with enable_counter("first") as first:
                seen = first.save_load_object([], "seen")
                if at == "saved":
                    first.save()
                    die()
                for i in first(range(10)):
                    seen.append(i)
                    if i == 3:
                        break
            tell(seen)
            for _ in simple_counter("second", range(3)):
                if at == "second":
                    raise Stop

    assert run_child(job, "second").told == [[0, 1, 2, 3]]
    assert run_child(job, "saved").told == []
    assert run_child(job, "").told == [[0, 1, 2, 3]]
    assert left() == []


def test_to_forget_an_inner_loop_of_which_nothing_is_saved_saves_nothing(folder, left, run_child, die):
    """The outer loop would be saved halfway through its item."""

    def job(tell, killed):
        with enable_counter("outer", each_save=True) as outer:
            total = outer.save_load_object({"items": 0}, "total")
            for i in outer(range(3)):
                total["items"] += 1
                with enable_counter("inner") as inner:
                    inner.remove_files()
                    if (i, killed) == (1, True):
                        die()
                    list(inner(range(3)))
            tell(total["items"])

    assert run_child(job, True).told == []
    assert run_child(job, False).told == [3]
    assert left() == []


def test_the_path_of_a_loop_around_is_not_free_for_an_object(folder, left):
    """The next run would find a file where that loop has none."""
    with enable_counter("outer") as outer:
        for _ in outer(range(1)):
            with enable_counter("middle") as middle:
                for _ in middle(range(1)):
                    inner = enable_counter("inner")
                    for path in ("outer", "middle", "inner"):
                        with pytest.raises(RestartError, match=rf"{path}: used twice|{path}: in use"):
                            inner.save_load_object([], path)
    assert left() == []


def test_saving_an_inner_loop_when_one_around_it_is_over_does_no_harm(folder, left):
    """It is an error, and the outer loop goes on and is saved."""
    with enable_counter("outer", each_save=True) as outer:
        for _ in outer(range(3)):
            with enable_counter("middle") as middle:
                for _ in middle(range(3)):
                    inner = enable_counter("inner", each_save=True)
                    for _ in inner(range(3)):
                        break
                    break
            with pytest.raises(RestartError, match="its work is done"):
                inner.save()
    assert left() == []


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
            while len(told) < 2:
                await asyncio.sleep(0)
        assert "rows" in left()
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


@pytest.mark.parametrize("left_at", [2, None])
def test_a_look_is_not_in_the_way_of_the_end_of_a_block(folder, left, left_at):
    """A variable holds the counter that was made for it; what was done is over, and a loop of that one is refused."""
    with multi_count():
        for i in simple_counter("run", range(5)):
            if i == left_at:
                break
        look = enable_counter("run", each_save=True)
        assert look.position == (5 if left_at is None else left_at)
        list(simple_counter("other", range(2)))
    assert left() == []
    with pytest.raises(RestartError, match="run: a newer counter for the same path has taken over; use that one"):
        list(look(range(5)))


def test_a_block_whose_finished_loop_a_newer_counter_has_taken_is_not_done_in_silence(folder):
    """In another thread, for the same path; what it finds is not removed under its hands."""
    held, over = threading.Event(), threading.Event()

    def other():
        with multi_count():  # of its own
            with enable_counter("run", each_save=True):
                held.set()
                assert over.wait(10)

    thread = threading.Thread(target=other)
    with pytest.raises(RestartError, match="run: a newer counter for the same path is in use; use that one"):
        with multi_count():
            list(simple_counter("run", range(3)))
            thread.start()
            assert held.wait(10)
    over.set()
    thread.join()


def test_a_loop_that_ends_behind_a_block_that_has_failed_is_kept(folder, left):
    """It goes on in a thread. The next run skips it, as those that had ended before."""

    def rows(name, told, going=None, failed=None):
        for i in simple_counter(name, range(3)):
            told.append((name, i))
            if going and i == 1:
                going.set()
                failed.wait(10)

    def job(*events):
        told = []
        with ThreadPoolExecutor() as pool:
            try:
                with multi_count():
                    pool.submit(rows, "first", told).result()
                    second = pool.submit(rows, "second", told, *events)
                    if not events:
                        return second.result() or told
                    events[0].wait(10)
                    raise Stop
            except Stop:
                events[1].set()
                second.result()
        return told

    assert job(threading.Event(), threading.Event()) == [(name, i) for name in ("first", "second") for i in range(3)]
    assert left() == ["first", "second"]
    assert (job(), left()) == ([], [])


def test_a_stop_as_a_block_begins_leaves_it_closed(folder):
    """At each line of it but the last one."""
    before, opened = sys.gettrace(), []
    for number in itertools.count(1):
        lines = itertools.count(1)

        def trace(frame, event, argument, lines=lines, number=number):
            if event == "line" and next(lines) == number:
                raise Stop
            return trace if frame.f_code.co_qualname == "multi_count.__enter__" else None

        block = multi_count()
        sys.settrace(trace)
        try:
            block.__enter__()
        except Stop:
            sys.settrace(before)
            with ThreadPoolExecutor() as pool:
                opened.append(pool.submit(lambda: config.parent).result() is not None)
        else:
            sys.settrace(before)
            block.__exit__(None, None, None)
            break
        if opened[-1]:
            block.__exit__(None, None, None)
    assert number > 4
    assert not any(opened[:-1])


def test_a_stop_as_a_block_ends_waits_until_all_files_are_gone(folder, left, monkeypatch):
    real, stops = os.unlink, [signal.SIGINT]

    def unlink(path):
        if stops:
            signal.raise_signal(stops.pop())
        real(path)

    with pytest.raises(KeyboardInterrupt), multi_count():
        for name in ("first", "second", "third"):
            list(simple_counter(name, range(2)))
        monkeypatch.setattr(os, "unlink", unlink)
    assert (left(), stops) == ([], [])
    with multi_count():
        pass


def finally_behind_a_return(rows, rest):
    try:
        for number, _ in rows:
            if number == 2:
                return
    finally:
        rest()


def return_behind_a_break(rows, rest):
    for number, _ in rows:
        if number == 2:
            break
    return rest()


@pytest.mark.parametrize("program", [finally_behind_a_return, return_behind_a_break])
def test_what_is_copied_to_where_a_for_is_left_is_behind_it(folder, left, program):
    """Python copies what is short, and a `finally`, into the body; a variable holds the iterator: nothing ends it."""
    seen = []

    def rest():
        for _ in simple_counter("rest", range(3)):
            seen.append(left())

    program(enumerate(simple_counter("run", range(9))), rest)
    assert ["rest" in names for names in seen] == [False, True, True]

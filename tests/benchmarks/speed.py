"""What py_restart costs, beside what it is measured against, in one table.

    python -m pip install ".[bench]"
    python tests/benchmarks/speed.py

Every figure and the one that it is compared with come from the same run, in interleaved rounds; the table shows
medians. The standard library is enough; tqdm, loopz and batchledger join in where they are installed. It takes less
than three minutes and writes nothing outside a temporary folder but the picture that is asked for. That folder must be
on a local disk, since a good part of the rows is about what waits for it.

    --check          exit with 1 where a goal is missed even at best
    --factor F       with --check: allow F times the goal
    --folder FOLDER  where to make the temporary folder; where the system makes them unless it is given
    --markdown       print the main rows as the guide shows them, and nothing else (the table goes to stderr)
    --svg PATH       draw what saving after each item costs, here and elsewhere
    --quick          a few seconds, to see that it runs; the figures mean little
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from table import BYTES, COUNT, Row, draw, guide, print_table

from py_restart import CounterClosier, enable_counter, multi_count, simple_counter

Measure = Callable[[], float]  # runs once; returns a time in seconds
Picture = dict[str, dict[str, float]]  # what is compared, by panel
PATIENCE = 4.0  # seconds for the rounds of one comparison


@dataclass
class Size:
    """How much of everything."""

    rounds: int = 9
    items: int = 1_000_000  # drawn on resuming; a third of a loop in which nothing is saved
    saves: int = 200_000  # of a position
    files: int = 300  # opened, written and closed; loops that start and end
    block: int = 1_000  # loops in a multi_count
    commits: int = 50  # of a small object, in a round
    megabytes: int = 10
    many_megabytes: int = 200
    longest: int = 10_000_000  # items of the longest loop
    interval: float = 3.0  # seconds


QUICK = Size(1, 20_000, 5_000, 20, 20, 3, 1, 2, 10_000, 0.2)


def interleave(rounds: int, *measures: Measure) -> list[list[float]]:
    """Run each once a round, forward and backward in turn, after one to warm up; fewer rounds where they are slow."""
    figures: list[list[float]] = [[] for _ in measures]
    order = list(enumerate(measures))
    start = perf_counter()
    for number in range(rounds + 1):
        for index, measure in order[:: 1 - 2 * (number % 2)]:
            figures[index].append(measure())
        if number >= 3 and perf_counter() - start > PATIENCE:
            break
    return [times[1:] for times in figures]


def per_item(count: int, run: Callable[[], object]) -> Measure:
    def measure() -> float:
        start = perf_counter()
        run()
        return (perf_counter() - start) / count

    return measure


def loop(source: Callable[[], Iterable[object]]) -> Callable[[], None]:
    def run() -> None:
        for _ in source():
            pass

    return run


# Loops in which nothing is saved.


def counting(size: Size, folder: Path, others: dict[str, Any]) -> Iterator[Row]:
    few = list(range(1_000)) * (size.items // 1_000)
    xs = few * 3  # so that what a loop does once does not count
    path = folder / "counting.tmp"

    def on_failure(source: Callable[[], Iterable[int]]) -> Callable[[], None]:
        def run() -> None:
            with enable_counter(path) as counter:
                for _ in counter(source()):
                    pass

        return run

    def each(source: Callable[[], Iterable[int]]) -> Callable[[], None]:
        return loop(lambda: enable_counter(path, each_save=True, save_span=1000)(source()))

    measures = [
        per_item(len(few), loop(lambda: few)),
        per_item(len(xs), loop(lambda: (x for x in xs))),
        per_item(len(xs), on_failure(lambda: xs)),
        per_item(len(xs), each(lambda: xs)),
        per_item(len(xs), on_failure(lambda: iter(xs))),
        per_item(len(xs), each(lambda: iter(xs))),
    ]
    if "tqdm" in others:
        measures.append(per_item(len(few), loop(lambda: others["tqdm"](few, file=io.StringIO()))))
    bare, generator, failure, spans, any_failure, any_spans, *tqdm = interleave(size.rounds, *measures)
    yield Row("an item of a loop that saves on failure", failure, "a generator", generator, 1.3)
    if tqdm:
        adds = [[time - least for time, least in zip(times, bare, strict=True)] for times in (failure, tqdm[0])]
        yield Row("what that adds to `for x in xs`", adds[0], "what tqdm adds", adds[1], 0.2)
    yield Row("an item, on failure, of any iterator", any_failure, "a generator", generator, 1.55)
    yield Row("an item with each_save, save_span=1000", spans, "a generator", generator, 1.6)
    yield Row("an item, save_span=1000, of any iterator", any_spans, "a generator", generator)
    if tqdm:
        yield Row("an item, nothing saved", failure, "tqdm", tqdm[0])
    if "loopz" in others:
        few = few[: len(few) // 20]
        times = interleave(
            min(size.rounds, 5),
            per_item(len(few), loop(lambda: enable_counter(path, each_save=True, save_span=len(few))(few))),
            per_item(len(few), lambda: run_loopz(others["loopz"], few, 10**9)),
        )
        yield Row("an item, nothing saved", times[0], "loopz", times[1])


def run_loopz(loopz: Any, items: list[int], save_every: int, **state: list[int]) -> None:
    """Run a loop of loopz, which prints; with numbers in lists, add the items to them."""

    def work(item: int) -> None:
        for numbers in state.values():
            numbers[0] += item

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loopz.track("benchmark", save_every=save_every, loop_vars=state or None)(work)(items)


# Loops that start and end.


def starting(size: Size, folder: Path) -> Iterator[Row]:
    path, inner, some = folder / "starting.tmp", folder / "inner.tmp", range(3)

    def empty() -> None:
        for _ in range(size.files):
            with enable_counter(path) as counter:
                for _ in counter(()):
                    pass

    def simple() -> None:
        for _ in range(size.files):
            for _ in simple_counter(path, ()):
                pass

    def nested() -> None:
        with enable_counter(path) as counter:
            for _ in counter(range(size.files)):
                for _ in simple_counter(inner, some):
                    pass

    def nested_saving() -> None:
        for _ in simple_counter(path, range(size.files)):
            for _ in simple_counter(inner, some):
                pass

    runs = (empty, simple, nested, nested_saving, lambda: make_files(folder, size.files))
    *times, file = interleave(size.rounds, *(per_item(size.files, run) for run in runs))
    against = "create, write and remove a file"
    yield Row("starting and ending a loop", times[0], against, file, 5)
    yield Row("the same without `with`", times[1], against, file, 5, guide=False)
    yield Row("an inner loop of three items, each saved", times[2], against, file, 3)
    yield Row("the same, its outer loop saving each item too", times[3], against, file)


def make_files(folder: Path, count: int) -> None:
    path = folder / "made.tmp"
    for _ in range(count):
        with open(path, "wb") as file:
            file.write(b"0" * 64)
        os.remove(path)


def many_loops(size: Size, folder: Path) -> Iterator[Row]:
    paths = [folder / f"block{number}.tmp" for number in range(size.block)]
    descriptors: list[float] = []

    def ours() -> None:
        with multi_count():
            for path in paths:
                for _ in simple_counter(path, range(3)):
                    pass
                if path in (paths[0], paths[-1]):
                    descriptors.append(len(os.listdir("/dev/fd")))

    def files() -> None:
        for path in paths:
            with open(path, "wb") as file:
                file.write(b"0" * 64)
        for path in paths:
            os.remove(path)

    # The block keeps a thousand files, and so does its baseline. For one more of them a file system may take twenty
    # times as long as for the same one again and again: without a journal, ext4 looks at all it has deleted lately.
    runs = ours, files, lambda: make_files(folder, size.block)
    times = interleave(min(size.rounds, 5), *(per_item(size.block, run) for run in runs))
    what = "a loop of three items in a `multi_count` of a thousand"
    yield Row(what, times[0], "create, write and remove one of a thousand files", times[1], 15)
    yield Row("the same", times[0], "create, write and remove a file", times[2])
    after = [descriptors[1::2], descriptors[::2]]
    yield Row("descriptors after the last of them", after[0], "after the first", after[1], 1, units=COUNT, guide=False)


def importing(size: Size, others: dict[str, Any]) -> Iterator[Row]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(code: str) -> Measure:
        command = [sys.executable, "-c", code]
        # Without a time limit: with one, `subprocess` looks in steps that double, at 7.5, 15.5, 31.5 ms.
        once = per_item(1, lambda: subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL))
        return lambda: min(once() for _ in range(3))

    codes = ["import py_restart", "pass", *(["import tqdm"] if "tqdm" in others else [])]
    ours, nothing, *tqdm = interleave(size.rounds, *map(run, codes))
    yield Row("import py_restart", ours, "python -c pass", nothing, 2.3)
    if tqdm:
        yield Row("the same", ours, "import tqdm", tqdm[0])


# Saving a position.


def saving(size: Size, folder: Path, others: dict[str, Any], picture: Picture) -> Iterator[Row]:
    path, record = folder / "saving.tmp", b"0" * 64
    few = range(size.files)

    def pwrite() -> None:
        descriptor, write = os.open(path, os.O_RDWR | os.O_CREAT), os.pwrite
        try:
            for _ in range(size.saves):
                write(descriptor, record, 0)
        finally:
            os.close(descriptor)
            os.remove(path)

    def ours() -> float:
        items = iter(simple_counter(path, range(size.saves + 2)))
        next(items), next(items)  # the first save makes the file as it then stays
        return per_item(size.saves, loop(lambda: items))()

    def inside() -> float:
        with enable_counter(folder / "outer.tmp") as counter:
            for _ in counter(range(1)):
                elapsed = ours()
        return elapsed

    def open_write_close() -> None:
        for _ in few:
            with open(path, "wb") as file:
                file.write(record)
        os.remove(path)

    def write_and_replace() -> None:
        staged = folder / "saving.new"
        for _ in few:
            with open(staged, "wb") as file:
                file.write(record)
            os.replace(staged, path)
        os.remove(path)

    measures = {
        "os.pwrite, nothing else": per_item(size.saves, pwrite),
        "py_restart": ours,
        "inside": inside,
        "open, write, close": per_item(size.files, open_write_close),
        "write a new file, os.replace": per_item(size.files, write_and_replace),
    }
    if "loopz" in others:
        measures["loopz"] = per_item(size.files, lambda: run_loopz(others["loopz"], list(few), 1))
    times = dict(zip(measures, interleave(size.rounds, *measures.values()), strict=True))
    saves, inner, bare = times["py_restart"], times.pop("inside"), times["os.pwrite, nothing else"]
    picture["Saving the position after every item"] = {name: median(values) for name, values in times.items()}
    yield Row("saving the position after every item", saves, "a bare os.pwrite", bare, 2.3)
    yield Row("the same in a loop inside a loop", inner, "a bare os.pwrite", bare, 3)
    file = times["open, write, close"]
    yield Row("the position, times cheaper", saves, "open, write, close", file, 100, at_least=True, guide=False)
    if "loopz" in times:
        yield Row("the position, times cheaper", saves, "loopz", times["loopz"], at_least=True)


def growing(size: Size, folder: Path) -> Iterator[Row]:
    """What a longer loop must not change: 10**3 items beside the longest loop, in which every 10**3 items are timed."""
    path, window = folder / "growing.tmp", 1_000

    def saves(length: int) -> tuple[list[float], int]:
        """Return the time of a save in each window, and the size of the file at the end."""
        items, times = iter(simple_counter(path, range(length))), []
        next(items)
        for _ in range(length // window - 1):
            start = perf_counter()
            deque(itertools.islice(items, window), maxlen=0)
            times.append((perf_counter() - start) / window)
        bytes_used = path.stat().st_size
        deque(items, maxlen=0)
        return times, bytes_used

    def peak_memory(length: int) -> int:
        tracemalloc.start()  # which makes every allocation slower: a thousand saves, whatever the length
        deque(simple_counter(path, range(length), save_span=max(1, length // 1_000)), maxlen=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = [saves(2 * window) for _ in range(5 * size.rounds)]
    times, bytes_used = saves(size.longest)
    decades = [times[low : 10 * low] for low in (10**power for power in range(len(str(len(times)))))]
    dearest = max(decades, key=median)
    peak_memory(window)  # to warm up
    memory = [peak_memory(length) for length in (window, size.longest)]
    longest, short = f"10**{round(math.log10(size.longest))} items", "in one of 10**3"
    laps = [time for laps, _ in few for time in laps]
    yield Row(f"a save in a loop of {longest}", dearest, short, laps, 1.25, guide=False)
    yield Row("the size of its progress file", [bytes_used], short, [few[0][1]], 1, units=BYTES, guide=False)
    # One that runs for more than a second flushes, too. What grows with the items would be a thousand times as much.
    yield Row("the memory that it takes", [memory[1]], short, [memory[0]], 2, units=BYTES, guide=False)


# Saving objects and functions.


def saving_little(size: Size, folder: Path, others: dict[str, Any], picture: Picture) -> Iterator[Row]:
    least, count = "write, fsync, replace, fsync folder", size.commits
    staged, final, numbers = folder / "least.new", folder / "least.pickle", itertools.count()
    with contextlib.ExitStack() as stack:
        counter = stack.enter_context(enable_counter(folder / "small.tmp", each_save=True))
        state = counter.save_load_object({"sum": 0}, folder / "small.pickle")
        items = iter(counter(itertools.count()))
        directory = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, directory)

        def ours() -> None:
            for number in itertools.islice(items, count):
                state["sum"] += number

        def write() -> None:
            for _ in range(count):
                with open(staged, "wb") as file:
                    pickle.dump(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staged, final)
                os.fsync(directory)

        runs = {"py_restart": ours, least: write}
        if "batchledger" in others:
            ledger = stack.enter_context(others["batchledger"](folder / "ledger", namespace="benchmark", version="1"))
            runs["batchledger"] = lambda: deque(
                ledger.map(lambda number: {"sum": number}, itertools.islice(numbers, count)), maxlen=0
            )
        if "loopz" in others:
            runs["loopz (flushes nothing)"] = lambda: run_loopz(others["loopz"], list(range(count)), 1, sum=[0])
        figures = interleave(size.rounds, *(per_item(count, run) for run in runs.values()))
    times = dict(zip(runs, figures, strict=True))
    picture["Saving a small object after every item"] = {name: median(values) for name, values in times.items()}
    what = "saving a small object after every item"
    yield Row(what, times["py_restart"], least, times[least], 1.5)
    for name in list(runs)[2:]:
        yield Row("the same", times["py_restart"], name, times[name])


def saving_much(size: Size, folder: Path) -> Iterator[Row]:
    for megabytes in (size.megabytes, size.many_megabytes):
        contents = os.urandom(megabytes * 10**6)
        yield saving_object(size, folder, f"saving {megabytes} MB of bytes", contents)
        if megabytes == size.megabytes:
            numbers = [float(number) for number in range(megabytes * 10**6 // 9)]  # a pickled float takes nine bytes
            yield saving_object(size, folder, f"saving {megabytes} MB of floats in a list", numbers)
    yield saving_function(size, folder, f"saving {megabytes} MB by a function", contents)


def saving_object(size: Size, folder: Path, what: str, contents: object) -> Row:
    with enable_counter(folder / "object.tmp", each_save=True) as counter:
        state = counter.save_load_object({"round": 0, "contents": contents}, folder / "object.pickle")

        def write() -> None:
            state["round"] += 1
            with open(folder / "dumped.pickle", "wb") as file:
                pickle.dump(state, file)
                file.flush()
                os.fsync(file.fileno())

        times = between_saves(size, counter, write)
    os.remove(folder / "dumped.pickle")
    return Row(what, times[0], "pickle.dump, flush, os.fsync", times[1], 1.2, guide=isinstance(contents, bytes))


def saving_function(size: Size, folder: Path, what: str, contents: bytes) -> Row:
    with enable_counter(folder / "function.tmp", each_save=True) as counter:
        counter.save_load_funcs(
            [lambda path: path.write_bytes(contents)], [lambda path: path.read_bytes()], [folder / "function.bin"]
        )

        def write() -> None:
            with open(folder / "written.bin", "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())

        times = between_saves(size, counter, write)
    os.remove(folder / "written.bin")
    return Row(what, times[0], "write, flush, os.fsync", times[1], 1.2)


def between_saves(size: Size, counter: CounterClosier, baseline: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Time the saves between the items of a loop, and the baseline within its items."""
    ours, theirs, left = [], [], 0.0
    for number in counter(range(min(size.rounds, 7) + 2)):
        saved, written = perf_counter() - left, per_item(1, baseline)()
        if number > 1:  # the first save is not like the others
            ours.append(saved)
            theirs.append(written)
        left = perf_counter()
    return ours, theirs


def at_intervals(size: Size, folder: Path) -> Iterator[Row]:
    """Loops of 1 ms items with an object of 10 MB, from the end of the first save to the end of the last."""
    item, periods = 0.001, 2

    def work() -> None:
        until = perf_counter() + item
        while perf_counter() < until:
            pass

    def plain() -> float:
        count = max(1, round(size.interval / item / 2))
        start = perf_counter()
        for _ in range(count):
            work()
        return (perf_counter() - start) / count

    def saved() -> list[float]:
        figures, start, counted, version = [], 0.0, 0, 0
        sum_path, contents = folder / "interval.pickle", os.urandom(size.megabytes * 10**6)
        counter = enable_counter(folder / "interval.tmp", each_save=True, save_interval=size.interval)
        contents = counter.save_load_object(contents, sum_path)
        for number in counter(itertools.count()):
            if number % 16 == 0 and sum_path.exists() and sum_path.stat().st_mtime_ns != version:
                version, now = sum_path.stat().st_mtime_ns, perf_counter()
                if start:
                    figures.append((now - start) / (number - counted))
                start, counted = now, number
                if len(figures) == periods:
                    break
            work()
        counter.remove_files()
        return figures

    before, ours, after = plain(), saved(), plain()
    what = f"a 1 ms item, {size.megabytes} MB saved every {size.interval:g} s"
    yield Row(what, ours, "without saving", [before, after], 1.05, guide=False)


# Resuming.


def resuming_objects(size: Size, folder: Path) -> Iterator[Row]:
    megabytes = size.many_megabytes
    yield resuming_object(size, folder, f"resuming with {megabytes} MB of bytes", lambda: os.urandom(megabytes * 10**6))
    floats = range(megabytes * 10**6 // 9)
    yield resuming_object(
        size, folder, f"resuming with {megabytes} MB of floats in a list", lambda: [float(number) for number in floats]
    )


class StopError(Exception):
    """What ends a run."""


def resuming_object(size: Size, folder: Path, what: str, contents: Callable[[], Sized]) -> Row:
    path, saved = folder / "resuming.tmp", folder / "resuming.pickle"

    def save() -> None:
        with contextlib.suppress(StopError), enable_counter(path) as counter:
            state = counter.save_load_object(contents(), saved)
            for _ in counter(range(2)):
                raise StopError(len(state))

    save()

    def ours() -> float:
        start = perf_counter()
        loaded = enable_counter(path, each_save=True).save_load_object(
            None, saved
        )  # no loop begins: all stays as it is
        elapsed = perf_counter() - start
        assert loaded is not None
        return elapsed

    def load() -> float:
        start = perf_counter()
        with open(saved, "rb") as file:
            loaded = pickle.load(file)
        elapsed = perf_counter() - start
        assert loaded is not None
        return elapsed

    times = interleave(size.rounds, ours, load)
    with enable_counter(path) as counter:
        counter.save_load_object(None, saved)
        counter.remove_files()
    return Row(what, times[0], "pickle.load", times[1], 1.4, guide="bytes" in what)


def resuming(size: Size, folder: Path) -> Iterator[Row]:
    path = folder / "resuming.tmp"
    length, count = 10**12, size.items

    def resume(source: Callable[[], Iterable[int]], position: int) -> float:
        """Time the start of a run up to its first item, which is the one at the position that was saved."""
        iterable = source()
        start = perf_counter()
        items = iter(simple_counter(path, iterable, save_span=length))
        assert next(items) == position
        elapsed = perf_counter() - start
        del items
        path.unlink(missing_ok=True)
        return elapsed

    def at(position: int) -> Measure:
        def once() -> float:
            if position:
                save_position(path, range(length), 1)
                move_position(path, position)  # also from 1 to 1: what has just been written is no quicker to read
            return resume(lambda: range(length), position)

        return lambda: min(once() for _ in range(max(1, size.files // 10)))

    there, early, fresh = interleave(size.rounds, *(at(position) for position in (length // 2, 1, 0)))
    yield Row("resuming range(10**12) at 5·10**11", there, "resuming it at 1", early, 1.1)  # 0 is no save
    yield Row("the same", there, "starting it at 0", fresh)

    def skip(source: Callable[[], Iterable[int]]) -> tuple[Measure, Measure]:
        def ours() -> float:
            save_position(path, source(), count)
            return resume(source, count)

        def islice() -> float:
            iterable = source()
            start = perf_counter()
            assert next(itertools.islice(iterable, count, None)) == count
            return perf_counter() - start

        return ours, islice

    xs = list(range(count + 1))
    for name, source in {"a generator": lambda: (x for x in xs), "a list": lambda: xs}.items():
        times = interleave(size.rounds, *skip(source))
        yield Row(f"resuming {name} at {count:,}", times[0], "itertools.islice", times[1], 1.3, guide=False)


def save_position(path: Path, iterable: Iterable[int], position: int) -> None:
    """Leave the progress file of a run that was killed at `position`."""
    for number in simple_counter(path, iterable, save_span=position):
        if number == position:
            break


def move_position(path: Path, position: int) -> None:
    """Rewrite the progress file of a run that was killed at 1: no run gets to 5·10**11 items."""
    with open(path, "r+b") as file:
        lines = file.readlines()
        for index, line in enumerate(lines[1:], 1):
            text = re.sub(rb'"position": 1\b', b'"position": %d' % position, line.rstrip())
            text = re.sub(rb'-1"}$', b'-%d"}' % position, text)
            lines[index] = text.ljust(len(line) - 1) + b"\n"
        file.seek(0)
        file.writelines(lines)


# All of it.


def find_others(home: Path) -> dict[str, Any]:
    """Import the other libraries. loopz keeps its files in the home folder as it is when it is imported."""
    others: dict[str, Any] = {}
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        others["tqdm"] = tqdm
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    with contextlib.suppress(ImportError):
        import loopz

        others["loopz"] = loopz
    with contextlib.suppress(ImportError):
        from batchledger import Ledger

        others["batchledger"] = Ledger
    return others


def measure(size: Size, folder: Path) -> tuple[list[Row], Picture]:
    others = find_others(folder)
    picture: Picture = {}
    rows = [
        *counting(size, folder, others),
        *saving(size, folder, others, picture),
        *starting(size, folder),
        *many_loops(size, folder),
        *saving_little(size, folder, others, picture),
        *saving_much(size, folder),
        *at_intervals(size, folder),
        *resuming_objects(size, folder),
        *resuming(size, folder),
        *growing(size, folder),
        *importing(size, others),
    ]
    return rows, picture


def file_system(folder: Path) -> str:
    """Say what the folder is on, where the system tells."""
    with contextlib.suppress(OSError, ValueError):
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        return max((len(where), kind) for _, where, kind, *_ in mounts if folder.is_relative_to(where))[1]
    return "a file system that is not told"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir())
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.getLogger("py_restart").addHandler(logging.NullHandler())  # it warns, rightly, that saving takes long here
    out = sys.stderr if options.markdown else sys.stdout
    start = perf_counter()
    with tempfile.TemporaryDirectory(prefix="py_restart-speed-", dir=options.folder) as name:
        folder = Path(name).resolve()
        disk = file_system(folder)
        rows, picture = measure(QUICK if options.quick else Size(), folder)
    system = f"{platform.system()}, {os.cpu_count()} cores, {disk}"
    print(f"CPython {platform.python_version()}, {system}\n", file=out)
    print_table(rows, out)
    if disk == "tmpfs":
        print("nothing waits for a disk here: name a folder on one with --folder", file=out)
    if options.markdown:
        print(guide(rows, f"CPython {'.'.join(platform.python_version_tuple()[:2])}, {system}"))
    if options.svg:
        options.svg.write_text(draw(picture), encoding="utf-8")
    missed = [row.what for row in rows if not row.holds(row.ratios()[1], options.factor)]
    if options.check:
        print(f"missed by more than {options.factor:g} times:", ", ".join(missed) or "nothing", file=out)
    print(f"{perf_counter() - start:.0f} s", file=out)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What py_restart costs, beside what it is measured against, in one table.

    python -m pip install ".[bench]"
    python tests/benchmarks/speed.py

Every figure and the one that it is compared with come from the same run, in interleaved rounds; the table shows
medians. The standard library is enough; tqdm and loopz join in where they are installed. It takes less than two
minutes and writes nothing outside a temporary folder but the picture that is asked for. That folder must be on a local
disk: set TMPDIR where it is not.

    --check       exit with 1 where a goal is missed even in the best round
    --factor F    with --check: allow F times the goal
    --svg PATH    draw what saving the position after each item costs, here and elsewhere
    --quick       a few seconds, to see that it runs; the figures mean little
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
import subprocess
import sys
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from py_restart import enable_counter, simple_counter

Measure = Callable[[], float]  # runs once; returns a time in seconds
PATIENCE = 4.0  # seconds for the rounds of one comparison

SECONDS = [(1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (math.inf, 1.0, "s")]
BYTES = [(1e4, 1.0, "B"), (1e7, 1e-3, "kB"), (math.inf, 1e-6, "MB")]


@dataclass
class Size:
    """How much of everything."""

    rounds: int = 9
    items: int = 1_000_000  # drawn on resuming; a third of a loop in which nothing is saved
    saves: int = 200_000  # of a position
    files: int = 300  # opened, written and closed; loops that start and end
    megabytes: tuple[int, ...] = (10, 40)
    longest: int = 10_000_000  # items of the longest loop
    interval: float = 5.0  # seconds


QUICK = Size(1, 20_000, 5_000, 20, (1,), 10_000, 0.2)


@dataclass
class Row:
    """One line of the table."""

    what: str
    ours: list[float]  # one figure a round
    against: str
    theirs: list[float]
    goal: float | None = None  # None: shown, not judged
    at_least: bool = False  # the goal is how many times cheaper than the baseline
    units: list[tuple[float, float, str]] = field(default_factory=lambda: SECONDS)

    def ratios(self) -> tuple[float, float]:
        """The median and the best of the rounds' ratios: within a round a busy machine slows both sides."""
        if len(self.ours) != len(self.theirs):  # not measured in pairs
            quick = [sorted(values)[len(values) // 10] for values in (self.ours, self.theirs)]
            return self._ratio(median(self.ours), median(self.theirs)), self._ratio(*quick)
        ratios = [self._ratio(ours, theirs) for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return median(ratios), max(ratios) if self.at_least else min(ratios)

    def _ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.at_least else ours / theirs

    def holds(self, ratio: float, factor: float = 1.0) -> bool:
        if self.goal is None:
            return True
        return ratio * factor >= self.goal if self.at_least else ratio <= self.goal * factor

    def cells(self) -> tuple[str, ...]:
        middle, best = self.ratios()
        if self.goal is None:
            goal = verdict = "–"
        else:
            goal = f"{'≥' if self.at_least else '≤'} {self.goal:g}"
            verdict = "yes" if self.holds(middle) else "at best" if self.holds(best) else "NO"
        ours, theirs = (show(median(values), self.units) for values in (self.ours, self.theirs))
        return self.what, ours, f"{theirs} {self.against}", f"{middle:.3g}", f"{best:.3g}", goal, verdict


def show(value: float, units: list[tuple[float, float, str]] = SECONDS) -> str:
    scale, unit = next((scale, unit) for limit, scale, unit in units if value < limit)
    number = value * scale
    return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.3g} {unit}"


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
    xs = few * 3  # so that the first save of a loop, which is flushed, does not count
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
    yield Row("an item of a loop that saves on failure", failure, "generator", generator, 1.4)
    if tqdm:
        adds = [[time - least for time, least in zip(times, bare, strict=True)] for times in (failure, tqdm[0])]
        yield Row("what that adds to `for x in xs`", adds[0], "tqdm adds", adds[1], 0.5)
    yield Row("an item with each_save, save_span=1000", spans, "generator", generator, 1.8)
    yield Row("an item, on failure, of any iterator", any_failure, "generator", generator, 1.4)
    yield Row("an item, save_span=1000, of any iterator", any_spans, "generator", generator, 1.8)
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


def run_loopz(loopz: Any, items: list[int], save_every: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loopz.track("benchmark", save_every=save_every)(lambda item: None)(items)


def starting(size: Size, folder: Path) -> Iterator[Row]:
    path = folder / "starting.tmp"

    def ours() -> None:
        for _ in range(size.files):
            with enable_counter(path) as counter:
                for _ in counter(()):
                    pass

    def a_file() -> None:
        for _ in range(size.files):
            with open(path, "wb") as file:
                file.write(b"0" * 64)
            os.remove(path)

    times = interleave(size.rounds, *(per_item(size.files, run) for run in (ours, a_file)))
    yield Row("starting and ending a loop", times[0], "create, write and remove a file", times[1], 15)


def importing(size: Size) -> Iterator[Row]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdin=subprocess.DEVNULL, timeout=60)

    times = interleave(3 * size.rounds, per_item(1, lambda: run("import py_restart")), per_item(1, lambda: run("pass")))
    yield Row("import py_restart", times[0], "python -c pass", times[1], 2.8)


# Saving a position.


def saving(size: Size, folder: Path, others: dict[str, Any], picture: dict[str, float]) -> Iterator[Row]:
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
        next(items), next(items)  # the first save is flushed, and makes the file as it then stays
        return per_item(size.saves, loop(lambda: items))()

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
        "open, write, close": per_item(size.files, open_write_close),
        "write a new file, os.replace": per_item(size.files, write_and_replace),
    }
    if "loopz" in others:
        measures["loopz"] = per_item(size.files, lambda: run_loopz(others["loopz"], list(few), 1))
    times = dict(zip(measures, interleave(size.rounds, *measures.values()), strict=True))
    picture.update({name: median(values) for name, values in times.items()})
    saves = times["py_restart"]
    yield Row(
        "saving the position after every item", saves, "os.pwrite of 64 bytes", times["os.pwrite, nothing else"], 2.5
    )
    yield Row("the same, times cheaper", saves, "open, write, close", times["open, write, close"], 100, at_least=True)
    if "loopz" in times:
        yield Row("the same, times cheaper", saves, "loopz", times["loopz"], at_least=True)


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
    yield Row(f"a save in a loop of {longest}", dearest, short, [time for laps, _ in few for time in laps], 1.25)
    yield Row("the size of its progress file", [bytes_used], short, [few[0][1]], 1.1, units=BYTES)
    yield Row("the memory that it takes", [memory[1]], short, [memory[0]], 1.25, units=BYTES)


# Saving an object.


def saving_objects(size: Size, folder: Path) -> Iterator[Row]:
    for megabytes in size.megabytes:
        yield saving_object(size, folder, f"saving {megabytes} MB of bytes", os.urandom(megabytes * 10**6))
    numbers = [float(number) for number in range(size.megabytes[0] * 10**6 // 9)]  # a pickled float takes nine bytes
    yield saving_object(size, folder, f"saving {size.megabytes[0]} MB of floats in a list", numbers)


def saving_object(size: Size, folder: Path, what: str, contents: object) -> Row:
    ours, theirs = [], []
    counter = enable_counter(folder / "object.tmp", each_save=True)
    state = counter.save_load_object({"round": 0, "contents": contents}, folder / "object.pickle")
    left = 0.0
    for number in counter(range(size.rounds + 2)):
        if number > 1:
            ours.append(perf_counter() - left)
        state["round"] = number
        start = perf_counter()
        with open(folder / "dumped.pickle", "wb") as file:
            pickle.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        if number > 1:
            theirs.append(perf_counter() - start)
        left = perf_counter()
    return Row(what, ours, "pickle.dump, flush, os.fsync", theirs, 1.3)


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
        sum_path = folder / "interval.pickle"
        counter = enable_counter(folder / "interval.tmp", each_save=True, save_interval=size.interval)
        counter.save_load_object(os.urandom(size.megabytes[0] * 10**6), sum_path)
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
    what = f"a 1 ms item, {size.megabytes[0]} MB saved every {size.interval:g} s"
    yield Row(what, ours, "without saving", [before, after], 1.05)


# Resuming.


def resuming(size: Size, folder: Path) -> Iterator[Row]:
    path = folder / "resuming.tmp"
    length, count = 10**12, size.items

    def at(position: int) -> Measure:
        def measure() -> float:
            if position:
                save_position(path, range(length), position)
            start = perf_counter()
            items = iter(simple_counter(path, range(length), save_span=length))
            assert next(items) == position
            elapsed = perf_counter() - start
            del items
            path.unlink(missing_ok=True)
            return elapsed

        return measure

    def repeated(measure: Measure, times: int = max(1, size.files // 10)) -> Measure:
        return lambda: min(measure() for _ in range(times))

    there, early, fresh = interleave(size.rounds, *(repeated(at(position)) for position in (length // 2, 1, 0)))
    yield Row("resuming range(10**12) at 5·10**11", there, "resuming it at 1 (0 is no save)", early, 1.1)
    yield Row("the same", there, "starting it at 0", fresh)

    def skip(source: Callable[[], Iterable[int]]) -> tuple[Measure, Measure]:
        def ours() -> float:
            save_position(path, source(), count)
            start = perf_counter()
            items = iter(simple_counter(path, source(), save_span=length))
            assert next(items) == count
            elapsed = perf_counter() - start
            del items
            path.unlink()
            return elapsed

        def islice() -> float:
            start = perf_counter()
            assert next(itertools.islice(source(), count, None)) == count
            return perf_counter() - start

        return ours, islice

    xs = list(range(count + 1))
    for name, source in {"a generator": lambda: (x for x in xs), "a list": lambda: xs}.items():
        times = interleave(size.rounds, *skip(source))
        yield Row(f"resuming {name} at {count:,}", times[0], "itertools.islice", times[1], 1.5)


def save_position(path: Path, iterable: Iterable[object], position: int) -> None:
    """Leave the progress file of a run that was killed at `position`: written, since no run gets to 5·10**11 items."""
    from py_restart import _progress

    items = iter(simple_counter(path, iterable))
    next(items), next(items)
    del items
    folder = str(path.parent)
    header = _progress.decode(path.read_bytes(), folder).header
    path.write_bytes(_progress.encode(header, position, folder)[0])


# The table and the picture.


def print_table(rows: list[Row]) -> None:
    heads = ("what", "py_restart", "compared with", "ratio", "best", "goal", "holds")
    lines = [heads, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, tuple("-" * width for width in widths))
    for line in lines:
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), "|")


def draw(picture: dict[str, float]) -> str:
    """Draw bars on a logarithmic axis, in colours that can be read on white and on black."""
    left, right, top, step = 205, 75, 58, 34
    low = math.floor(math.log10(min(picture.values()) / 2))  # so that the shortest bar is one to be seen
    high = math.ceil(math.log10(max(picture.values())))
    width, height = 720, top + step * len(picture) + 34
    scale = (width - left - right) / (high - low)

    def x(seconds: float) -> float:
        return left + scale * (math.log10(seconds) - low)

    bottom = top + step * len(picture)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="13" fill="#7d8590">',
        "<title>What saving the position after every item adds to each item, on a logarithmic axis</title>",
        '<text x="12" y="24" font-size="15" font-weight="600">Saving the position after every item</text>',
        '<text x="12" y="42">time per item, logarithmic; shorter is better</text>',
    ]
    for power in range(low, high + 1):
        at = left + scale * (power - low)
        parts.append(f'<path d="M{at:.1f} {top}V{bottom}" stroke="#7d8590" stroke-opacity="0.35"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{show(1.001 * 10.0**power)}</text>')
    for index, (name, seconds) in enumerate(sorted(picture.items(), key=lambda item: item[1])):
        y = top + step * index
        colour, weight = ("#2f81f7", "600") if name == "py_restart" else ("#7d8590", "400")
        fill = f'fill="{colour}" font-weight="{weight}"'
        parts.append(f'<text x="{left - 10}" y="{y + 22}" text-anchor="end" {fill}>{name}</text>')
        parts.append(
            f'<rect x="{left}" y="{y + 7}" width="{x(seconds) - left:.1f}" height="20" rx="2" fill="{colour}"/>'
        )
        parts.append(f'<text x="{x(seconds) + 7:.1f}" y="{y + 22}" {fill}>{show(seconds)}</text>')
    return "\n".join([*parts, "</svg>", ""])


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
    return others


def measure(size: Size, folder: Path) -> tuple[list[Row], dict[str, float]]:
    others = find_others(folder)
    picture: dict[str, float] = {}
    rows = [
        *counting(size, folder, others),
        *starting(size, folder),
        *saving(size, folder, others, picture),
        *saving_objects(size, folder),
        *resuming(size, folder),
        *growing(size, folder),
        *at_intervals(size, folder),
        *importing(size),
    ]
    return rows, picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.getLogger("py_restart").addHandler(logging.NullHandler())  # it warns, rightly, that saving takes long here
    start = perf_counter()
    with tempfile.TemporaryDirectory(prefix="py_restart-speed-") as folder:
        rows, picture = measure(QUICK if options.quick else Size(), Path(folder).resolve())
    print(f"CPython {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores\n")
    print_table(rows)
    print("\ntimes: medians of the rounds; ratio: median of the rounds' ratios; best: the best of them")
    if options.svg:
        options.svg.write_text(draw(picture), encoding="utf-8")
    missed = [row.what for row in rows if not row.holds(row.ratios()[1], options.factor)]
    if options.check:
        print(f"missed by more than {options.factor:g} times:", ", ".join(missed) or "nothing")
    print(f"{perf_counter() - start:.0f} s")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The jobs that are interrupted: one for each way to use the library, and for each mixture.

Each is written as the README tells users to: results inside the block, changes to registered objects where they are
saved with the position. ``whole`` says of each job what its saves promise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .harness import Job, Run


def positions(run: Run) -> None:
    """The position only, after every item, without ``with``."""
    for i in run.api.enable_counter(run.folder / "run.tmp", each_save=True)(range(4)):
        run.item(i)
    run.result(None)


def every_second(run: Run) -> None:
    """The position only, after every second item, from a generator."""
    for i in run.api.simple_counter(run.folder / "run.tmp", (i for i in range(5)), save_span=2):
        run.item(i)
    run.result(None)


def on_failure(run: Run) -> None:
    """An object, saved when the block ends by an exception: twice."""
    with run.api.enable_counter(run.folder / "run.tmp") as counter:
        done = counter.save_load_object([], run.folder / "done.pickle")
        for i in counter(range(5)):
            run.item(i)
            if i in (2, 3):
                run.stop_once(i)
            done.append(i)
        run.result(done)


def after_the_loop(run: Run) -> None:
    """The position, saved by each item, and an exception after the loop, inside the block."""
    with run.api.enable_counter(run.folder / "run.tmp", each_save=True, save_span=2) as counter:
        for i in counter(range(3)):
            run.item(i)
        run.stop_once("after")
        run.result(None)


class Model:
    """Something that is saved by functions: in a file and in a folder."""

    def __init__(self) -> None:
        self.weights: list[int] = []
        self.layers: dict[str, str] = {}

    def save_weights(self, path: Path) -> None:
        with open(path, "w") as file:
            file.write(" ".join(map(str, self.weights)))

    def load_weights(self, path: Path) -> None:
        self.weights = [int(word) for word in path.read_text().split()]

    def save_layers(self, path: Path) -> None:
        os.mkdir(path)
        os.mkdir(path / "deep")
        for name, text in self.layers.items():
            with open(path / "deep" / name, "w") as file:
                file.write(text)

    def load_layers(self, path: Path) -> None:
        self.layers = {file.name: file.read_text() for file in (path / "deep").iterdir()}

    def step(self, i: int) -> None:
        self.weights.append(i)
        self.layers[f"layer{i % 2}"] = f"{i} in layer {i % 2}"

    def all(self) -> tuple[list[int], dict[str, str]]:
        return self.weights, self.layers


def objects_and_functions(run: Run) -> None:
    """After every item: two objects, a function that writes a file and one that writes a folder."""
    model = Model()
    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    done = counter.save_load_object([], run.folder / "done.pickle")
    total = counter.save_load_object({"sum": 0}, run.folder / "total.pickle")
    counter.save_load_funcs(
        [model.save_weights, model.save_layers],
        [model.load_weights, model.load_layers],
        [run.folder / "weights.txt", run.folder / "layers"],
    )
    for i in counter(range(3)):
        run.item(i)
        done.append(i)
        total["sum"] += i
        model.step(i)
    run.result((done, total, model.all()))


def ended_by_break(run: Run) -> None:
    """The end of the work by ``break``, with an object and a folder to be removed."""
    model = Model()
    with run.api.enable_counter(run.folder / "run.tmp", each_save=True) as counter:
        done = counter.save_load_object([], run.folder / "done.pickle")
        counter.save_load_funcs([model.save_layers], [model.load_layers], [run.folder / "layers"])
        for i in counter(range(9)):
            if i == 2:
                run.result((done, model.all()[1]))
                break
            run.item(i)
            done.append(i)
            model.step(i)
        else:
            raise AssertionError("resumed beyond the break")


def several(run: Run) -> None:
    """Three loops in a ``multi_count`` block, one of them with an object and a function."""
    model = Model()
    with run.api.multi_count():
        for i in run.api.simple_counter(run.folder / "one.tmp", range(2)):
            run.item(("one", i))
        with run.api.enable_counter(run.folder / "two.tmp", each_save=True) as counter:
            done = counter.save_load_object([], run.folder / "done.pickle")
            counter.save_load_funcs([model.save_weights], [model.load_weights], [run.folder / "weights.txt"])
            for i in counter(range(2)):
                run.item(("two", i))
                done.append(i)
                model.step(i)
        for i in run.api.simple_counter(run.folder / "three.tmp", range(2)):
            run.item(("three", i))
        run.result((done, model.weights))


def several_on_failure(run: Run) -> None:
    """Two loops in a ``multi_count`` block that save on failure: one in each."""
    with run.api.multi_count():
        with run.api.enable_counter(run.folder / "one.tmp") as counter:
            done = counter.save_load_object([], run.folder / "done.pickle")
            for i in counter(range(3)):
                run.item(("one", i))
                if i == 1:
                    run.stop_once("one")
                done.append(i)
        with run.api.enable_counter(run.folder / "two.tmp") as counter:
            for i in counter(range(3)):
                run.item(("two", i))
                if i == 2:
                    run.stop_once("two")
        run.result(done)


def nested(run: Run) -> None:
    """A loop in a loop; positions only, in the progress file of the outer one."""
    for i in run.api.enable_counter(run.folder / "outer.tmp", each_save=True)(range(2)):
        for j in run.api.simple_counter(run.folder / "inner.tmp", range(3)):
            run.item((i, j))
    run.result(None)


def nested_on_failure(run: Run) -> None:
    """The description's example: the outer loop in a ``with``, the inner one saves each item; and an exception.

    Each inner save holds the outer position too.
    """
    with run.api.enable_counter(run.folder / "outer.tmp") as counter:
        for i in counter(range(2)):
            for j in run.api.simple_counter(run.folder / "inner.tmp", range(3)):
                run.item((i, j))
                if (i, j) == (1, 1):
                    run.stop_once("stop")
        run.result(None)


def nested_several(run: Run) -> None:
    """Two loops in a loop, in a ``multi_count`` block; positions only. What has ended is skipped there."""
    with run.api.multi_count():
        for i in run.api.enable_counter(run.folder / "outer.tmp", each_save=True)(range(2)):
            for j in run.api.simple_counter(run.folder / "inner.tmp", range(2)):
                run.item((i, "a", j))
            with run.api.enable_counter(run.folder / "other.tmp", each_save=True) as other:
                for j in other(range(2)):
                    run.item((i, "b", j))
        run.result(None)


def nested_object(run: Run) -> None:
    """A loop in a loop, with an object registered inside: it begins anew with each outer item."""
    for i in run.api.simple_counter(run.folder / "outer.tmp", range(2)):
        inner = run.api.enable_counter(run.folder / "inner.tmp", each_save=True)
        mine = inner.save_load_object([], run.folder / "mine.pickle")
        for j in inner(range(2)):
            run.item((i, j))
            if len(mine) != j:
                raise AssertionError(f"of another moment: {mine}")
            mine.append(i)
    run.result(None)


def now_and_then(run: Run) -> None:
    """An object that belongs to an inner loop in the first and in the last item, and to none in between."""
    for i in run.api.simple_counter(run.folder / "outer.tmp", range(4)):
        if i in (1, 2):
            run.item((i, 0))
            continue
        inner = run.api.enable_counter(run.folder / "inner.tmp", each_save=True)
        mine = inner.save_load_object([], run.folder / "mine.pickle")
        for j in inner(range(2)):
            run.item((i, j))
            mine.append(j)
    run.result(None)


def blocks(run: Run) -> None:
    """A ``multi_count`` block in each item of a loop: two loops, an object registered with the second."""
    for i in run.api.enable_counter(run.folder / "outer.tmp", each_save=True)(range(2)):
        with run.api.multi_count():
            for j in run.api.simple_counter(run.folder / "one.tmp", range(2)):
                run.item((i, "one", j))
            with run.api.enable_counter(run.folder / "two.tmp", each_save=True) as two:
                mine = two.save_load_object([], run.folder / "mine.pickle")
                for j in two(range(2)):
                    run.item((i, "two", j))
                    mine.append(j)
                if mine != [0, 1]:
                    raise AssertionError(f"of another moment: {mine}")
    run.result(None)


def joint(run: Run) -> None:
    """A loop in a loop, with an object registered outside: one moment for both."""
    counter = run.api.enable_counter(run.folder / "outer.tmp", each_save=True)
    done = counter.save_load_object([], run.folder / "done.pickle")
    for i in counter(range(2)):
        for j in run.api.simple_counter(run.folder / "inner.tmp", range(2)):
            run.item((i, j))
            done.append((i, j))
    run.result(done)


def joint_deep(run: Run) -> None:
    """Three loops deep in ``multi_count``, objects in the outermost and in the innermost, a function in between."""
    model = Model()
    with run.api.multi_count():
        with run.api.enable_counter(run.folder / "outer.tmp", each_save=True) as outer:
            done = outer.save_load_object([], run.folder / "done.pickle")
            for i in outer(range(1)):
                middle = run.api.enable_counter(run.folder / "middle.tmp", each_save=True)
                middle.save_load_funcs([model.save_weights], [model.load_weights], [run.folder / "weights.txt"])
                for j in middle(range(2)):
                    with run.api.enable_counter(run.folder / "inner.tmp", each_save=True) as inner:
                        mine = inner.save_load_object([], run.folder / "mine.pickle")
                        for k in inner(range(2)):
                            run.item((i, j, k))
                            if model.weights != [last for *_, last in done] or len(mine) != k:
                                raise AssertionError(f"of different moments: {done}, {mine}, {model.weights}")
                            done.append((i, j, k))
                            mine.append(k)
                            model.step(k)
        run.result(done)


def joint_on_failure(run: Run) -> None:
    """A loop in a loop, both in a ``with``, an object outside; an exception in the inner loop."""
    with run.api.enable_counter(run.folder / "outer.tmp") as outer:
        done = outer.save_load_object([], run.folder / "done.pickle")
        for i in outer(range(2)):
            with run.api.enable_counter(run.folder / "inner.tmp") as inner:
                mine = inner.save_load_object([], run.folder / "mine.pickle")
                for j in inner(range(3)):
                    run.item((i, j))
                    if (i, j) in ((0, 1), (1, 2)):
                        run.stop_once((i, j))
                    done.append((i, j))
                    mine.append(j)
        run.result(done)


def broken_off(run: Run) -> None:
    """A block in each item of a loop, and in it a loop that is left by ``break``; an object around both."""
    with run.api.enable_counter(run.folder / "outer.tmp", each_save=True) as counter:
        done = counter.save_load_object([], run.folder / "done.pickle")
        for i in counter(range(2)):
            with run.api.multi_count():
                for j in run.api.simple_counter(run.folder / "inner.tmp", range(3)):
                    run.item((i, j))
                    done.append((i, j))
                    if j == 1:
                        break
        run.result(done)


def growing(run: Run) -> None:
    """A moment that outgrows its records twice: loops with long names, none deep, then three, then twenty."""

    def down(depth: int, i: int) -> None:
        if depth == 0:
            for j in run.api.simple_counter(run.folder / "innermost.tmp", range(2)):
                run.item((i, j))
                done.append((i, j))
        else:
            with run.api.enable_counter(run.folder / f"{depth:0200}.tmp") as counter:
                for _ in counter(range(1)):
                    down(depth - 1, i)

    outer = run.api.enable_counter(run.folder / "outer.tmp", each_save=True)
    done = outer.save_load_object([], run.folder / "done.pickle")
    for i in outer(range(3)):
        down((0, 3, 20)[i], i)
    run.result(done)


def forgotten(run: Run) -> None:
    """A counter that forgets what it has saved, with a folder and an object, and goes on to do it again."""
    model = Model()
    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    done = counter.save_load_object([], run.folder / "done.pickle")
    counter.save_load_funcs([model.save_layers], [model.load_layers], [run.folder / "layers"])
    for i in counter(range(2)):
        run.item(i)
        done.append(i)
        model.step(i)
        if i == 1:
            run.result(None)
            counter.remove_files()
            break


def each(span: int = 1) -> Any:
    """Saves after every ``span``-th item: what may run again are the items since the last boundary."""
    return lambda index: index // span * span


def pairs(size: int) -> Any:
    """A loop of ``size`` items in a loop, nothing registered, both save each item.

    The inner one, when it has ended, runs again with its outer item, until the outer boundary is saved.
    """
    return lambda index: index if index % size != size - 1 else index - size + 1


def inner_pairs(size: int) -> Any:
    """The same where the outer loop has no boundary that is saved: the first inner save of an outer item tells it."""
    return lambda index: pairs(size)(index) if index % size else max(0, index - size)


def job(function: Any, sequence: Any, result: Any, names: str, whole: Any = None, stops: int = 0) -> Job:
    return Job(function, tuple(sequence), result, frozenset(names.split()), whole, stops)


PAIRS = [(i, j) for i in range(2) for j in range(2)]
LONGER = [(i, j) for i in range(2) for j in range(3)]
LAYERS = {"layer0": "0 in layer 0", "layer1": "1 in layer 1"}
TRIPLES = [(i, j, k) for i in range(1) for j in range(2) for k in range(2)]

JOBS = [
    job(positions, range(4), None, "run.tmp", each()),
    job(every_second, range(5), None, "run.tmp", each(2)),
    job(on_failure, range(5), [0, 1, 2, 3, 4], "run.tmp done.pickle", None, 2),
    job(after_the_loop, range(3), None, "run.tmp", each(2), 1),
    job(
        objects_and_functions,
        range(3),
        ([0, 1, 2], {"sum": 3}, ([0, 1, 2], {**LAYERS, "layer0": "2 in layer 0"})),
        "run.tmp done.pickle total.pickle weights.txt layers",
        each(),
    ),
    job(ended_by_break, range(2), ([0, 1], LAYERS), "run.tmp done.pickle layers", each()),
    job(
        several,
        [(name, i) for name in ("one", "two", "three") for i in range(2)],
        ([0, 1], [0, 1]),
        "one.tmp two.tmp three.tmp done.pickle weights.txt",
        each(),
    ),
    job(
        several_on_failure,
        [(name, i) for name in ("one", "two") for i in range(3)],
        [0, 1, 2],
        "one.tmp two.tmp done.pickle",
        None,
        2,
    ),
    job(nested, LONGER, None, "outer.tmp", pairs(3)),
    job(nested_on_failure, LONGER, None, "outer.tmp", inner_pairs(3), 1),
    job(
        nested_several,
        [(i, name, j) for i in range(2) for name in "ab" for j in range(2)],
        None,
        "outer.tmp",
        each(),
    ),
    job(nested_object, PAIRS, None, "outer.tmp mine.pickle", each()),
    job(
        now_and_then,
        [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (3, 1)],
        None,
        "outer.tmp mine.pickle",
        each(),
    ),
    job(
        blocks,
        [(i, name, j) for i in range(2) for name in ("one", "two") for j in range(2)],
        None,
        "outer.tmp mine.pickle",
        each(),
    ),
    job(joint, PAIRS, PAIRS, "outer.tmp done.pickle", each()),
    job(
        joint_deep,
        TRIPLES,
        TRIPLES,
        "outer.tmp done.pickle weights.txt mine.pickle",
        each(),
    ),
    job(
        joint_on_failure,
        LONGER,
        LONGER,
        "outer.tmp done.pickle mine.pickle",
        None,
        2,
    ),
    job(broken_off, PAIRS, PAIRS, "outer.tmp done.pickle", each()),
    job(
        growing,
        [(i, j) for i in range(3) for j in range(2)],
        [(i, j) for i in range(3) for j in range(2)],
        "outer.tmp done.pickle",
        each(),
    ),
    job(forgotten, range(2), None, "run.tmp done.pickle layers", each()),
]

QUICK_NAMES = {"positions", "on_failure", "objects_and_functions", "several", "nested", "joint_on_failure"}
QUICK_JOBS = [job for job in JOBS if job.name in QUICK_NAMES]

"""A power cut at any moment, by the model in ``disk.py``.

And the proof that the model needs each flush of the package.
"""

from __future__ import annotations

import ast
import copy
import importlib
import itertools
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import py_restart

from . import figures
from .disk import Content, Disk, Recorder
from .harness import Child, Job, Run, attempt, listing, restore
from .jobs import JOBS, each, inner_pairs, job

PACKAGE = Path(py_restart.__file__).parent


def large(run: Run) -> None:
    """An object of more than a megabyte, which is flushed and digested at the same time."""
    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    done = counter.save_load_object([b"x" * 1_050_000], run.folder / "done.pickle")
    for i in counter(range(3)):
        run.item(i)
        done.append(i)
    run.result(done[1:])


def stopped(run: Run) -> None:
    """A position that an exception saves, less than a second after the one before."""
    with run.api.enable_counter(run.folder / "run.tmp", each_save=True) as counter:
        for i in counter(range(4)):
            run.item(i)
            if i == 2:
                run.stop_once(i)
        run.result(None)


def by_hand(run: Run) -> None:
    """A position that the program saves by itself, within the first second."""
    with run.api.enable_counter(run.folder / "run.tmp") as counter:
        for i in counter(range(4)):
            run.item(i)
            if i == 2:
                counter.save()
                run.tell("saved", i)
        run.result(None)


def rows(run: Run) -> None:
    """A loop in a loop whose inner loops are over within a second."""
    for i in run.api.simple_counter(run.folder / "outer.tmp", range(4)):
        for j in run.api.simple_counter(run.folder / "inner.tmp", range(3)):
            run.item((i, j))
    run.result(None)


def nothing(last: int) -> set[str]:
    return set()


@dataclass(frozen=True)
class Cut:
    """A job, and what its saves promise while ``seconds`` pass with each item.

    A save with objects is promised at once. One of a position alone is, where the last flush, or the start, is more
    than a second old: of a job whose items take no time, none.
    """

    job: Job
    seconds: float = 2.0
    promised: Callable[[int], int] | None = None  # from the item that runs to the one that may run first
    unsaved: Callable[[int], set[str]] = nothing  # which files hold no promised save yet, while this item runs
    kind: str = ""
    kills: int = 0  # how many moments are tried at which the process is killed before the power is cut
    starts_threads: bool = True
    renames_folders: bool = True

    @property
    def name(self) -> str:
        return self.job.name + self.kind


def jobs_named(*names: str) -> list[Job]:
    return [job for name in names for job in JOBS if job.name == name]


def several_unsaved(last: int) -> set[str]:
    """Of `several`: each file from when the loop before may have ended to the end of its own first item."""
    return {("one.tmp", "two.tmp", "three.tmp", "")[(last + 1) // 2]}


def several_unsaved_quickly(last: int) -> set[str]:
    """The same where nothing is flushed but for the object of the second loop, and then the first loop as well."""
    return {"one.tmp", "two.tmp", "three.tmp"} if last < 3 else {"three.tmp"}


ROWS = job(rows, [(i, j) for i in range(4) for j in range(3)], None, "outer.tmp")
STOPPED = job(stopped, range(4), None, "run.tmp", each(), 1)
CUTS = [
    *map(Cut, jobs_named("positions", "every_second", "on_failure", "ended_by_break", "after_the_loop")),
    *map(Cut, jobs_named("objects_and_functions", "joint", "joint_on_failure", "joint_deep", "forgotten", "growing")),
    *map(Cut, jobs_named("nested_on_failure", "nested_several", "nested_object", "now_and_then", "blocks")),
    # The outer boundary comes right behind the end of the inner loop, whose last save was flushed just now.
    *(Cut(job, promised=inner_pairs(3)) for job in jobs_named("nested")),
    *(Cut(job, unsaved=several_unsaved) for job in jobs_named("several")),
    *(Cut(job, unsaved=lambda last: {"two.tmp"}) for job in jobs_named("several_on_failure")),
    Cut(job(large, range(3), [0, 1, 2], "run.tmp done.pickle", each())),
    Cut(STOPPED),
    # What is promised where items take less than a second: the flush that comes next, and objects at once.
    *(Cut(job, 0.0, lambda index: 0, kind="_quickly") for job in (*jobs_named("positions"), STOPPED)),
    *(Cut(job, 0.6, lambda index: index // 2 * 2, kind="_slowly") for job in (*jobs_named("positions"), STOPPED)),
    # Flushed are positions 4 and 8; behind them the end of a row may be found, which then runs again.
    Cut(ROWS, 0.3, lambda index: (0, 0, 0, 0, 4, 3, 3, 3, 6, 6, 6, 6)[index]),
    Cut(job(by_hand, range(4), None, "run.tmp"), 0.0),
    *(Cut(job, 0.0, kind="_quickly") for job in jobs_named("on_failure", "joint", "nested_object", "forgotten")),
    *(
        Cut(job, 0.0, lambda index: (0, 0, 0, 3, 4, 4)[index], several_unsaved_quickly, "_quickly")
        for job in jobs_named("several")
    ),
]
KILLED = jobs_named("positions", "ended_by_break", "objects_and_functions", "nested_object", "joint_on_failure")
CUTS += [
    *(Cut(job, kills=12, kind="_killed") for job in KILLED),
    Cut(CUTS[-1].job, 0.0, CUTS[-1].promised, CUTS[-1].unsaved, "_quickly_killed", kills=12),
    *(Cut(job, renames_folders=False, kind="_overlay", kills=60) for job in jobs_named("ended_by_break")),
    *(Cut(cut.job, kind="_threadless", starts_threads=False) for cut in CUTS if cut.job.function is large),
]
# The jobs whose work ends with the loop, before they tell their result.
BARE = {"positions", "every_second", "objects_and_functions", "joint", "nested", "nested_object", "growing"}
BARE |= {"large", "rows", "now_and_then", "blocks"}
MOST_STATES = 1_000  # of one job; of more, every second, third ... is tried
MOST_LARGE_STATES = 40


@dataclass
class State:
    """A disk after a power cut, and what is known of the run that it cut short."""

    content: Content
    earliest: int  # the item that may run first
    started: frozenset[int]  # the items that had been started
    seen: frozenset[Any]  # the stops that were behind it
    unsaved: frozenset[str]  # files for which nothing had been promised: they may be empty, or cut short
    over: bool = False  # the job had ended, on the device too: the next run is a new one


def load(package: Path) -> Any:
    """The package from another place, in a child."""
    for name in [name for name in sys.modules if name.split(".")[0] == "py_restart"]:
        del sys.modules[name]
    sys.path.insert(0, str(package.parent))
    return importlib.import_module("py_restart")


class Story:
    """What is known of a job while it runs, stops, is killed and runs again: what it was promised."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self.seen: set[Any] = set()
        self._started: set[int] = set()
        self._earliest = 0  # the item that may run first
        self._is_ended = self._is_over = False  # the work, as far as anybody knows; and on the device
        self._is_known = False  # something was promised
        self._is_resumed = False  # what was promised before this run holds until its first boundary

    def take(self, kind: str, what: Any) -> None:
        """The job has told something."""
        cut, sequence = self._cut, self._cut.job.sequence
        promised = cut.promised or cut.job.whole
        if kind == "item":
            self._started.add(index := sequence.index(what))
            self._is_ended = index == len(sequence) - 1 and cut.job.name in BARE
            if promised:
                self._earliest = min(promised(index), self._earliest if self._is_resumed else index)
            self._is_resumed = False
        elif kind == "saved":
            self._earliest = sequence.index(what)
        elif kind == "seen":
            self.seen.add(what)
        elif kind == "result":
            self._is_ended = True
        elif kind == "end" and what == "done":
            self._is_over = self._is_known
        elif kind == "end" and what == "stopped":
            last = max(self._started)
            self._earliest, self._is_resumed = cut.promised(last) if cut.promised else last, True
        self._is_known = self._is_known or self._earliest > 0

    def killed(self) -> None:
        """The process is gone, and the next one starts."""
        self._earliest = 0 if self._is_ended else self._earliest
        self._is_ended, self._is_resumed = False, True

    def state(self) -> State:
        unsaved = self._cut.unsaved(max(self._started, default=-1)) if self._is_known else self._cut.job.names
        earliest = 0 if self._is_ended else self._earliest
        return State({}, earliest, frozenset(self._started), frozenset(self.seen), frozenset(unsaved), self._is_over)


def record(cut: Cut, folder: Path, disk: Disk, seen: set[Any], package: Path) -> tuple[list[Any], str]:
    """Run the job once and return what happened to its files, and how it ended; the clock jumps with each item."""

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        jumped = [0.0]
        monotonic = time.monotonic
        time.monotonic = lambda: monotonic() + jumped[0]
        api = load(package)  # which may take the clock by name
        recorder = Recorder(folder, disk, cut.renames_folders)

        def note(kind: str, what: Any = None) -> None:
            recorder.mark((kind, what))
            jumped[0] += cut.seconds

        if not cut.starts_threads:
            threading.Thread.start = no_thread
        recorder.install()
        end = attempt(Run(folder, api, frozenset(seen), note), cut.job.function)
        recorder.mark(("end", end[0]))
        tell("recorded", recorder.events)
        return end

    outcome = Child(live).wait()
    assert outcome.end in ("done", "stopped"), f"{cut.name}: {outcome.error}\n{outcome.trace}"
    return outcome.told["recorded"][0], outcome.end


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def crashes(cut: Cut, folder: Path, package: Path) -> list[State]:
    """Every state in which a power cut may leave the folder, at any moment of the job.

    Also of one that was killed before, at a few moments: what it had written is there for the next run, but it may
    not be on the device.
    """
    found: dict[Any, State] = {}
    restore(folder, {})
    moments = follow(cut, folder, Disk(), Story(cut), package, found)
    for disk, story in moments[:: 1 + len(moments) // cut.kills] if cut.kills else ():
        restore(folder, disk.now()[0])
        story.killed()
        follow(cut, folder, disk, story, package, found)
    states = list(found.values())
    return states[:: 1 + len(states) // (MOST_LARGE_STATES if cut.job.function is large else MOST_STATES)]


def follow(
    cut: Cut, folder: Path, disk: Disk, story: Story, package: Path, found: dict[Any, State]
) -> list[tuple[Disk, Story]]:
    """Run the job to its end and add all states to those that were found; return what was behind each operation."""
    moments, end = [], "stopped"
    while end == "stopped":
        events, end = record(cut, folder, disk, story.seen, package)
        for event in events:
            if event[0] != "mark":
                disk.take(event)
                moments += [(copy.deepcopy(disk), copy.deepcopy(story))] if cut.kills else []
            else:
                story.take(*event[1])
            state = story.state()
            for content in disk.states():
                key = tuple(sorted((name, data is None, hash(data)) for name, data in content.items()))
                same = found.setdefault(key, replace(state, content=content))
                # The same disk at two moments: what was promised at either holds.
                same.earliest = max(same.earliest, state.earliest)
                same.unsaved &= state.unsaved
                same.over |= state.over
    return moments


def recover(cut: Cut, folder: Path, states: list[State], package: Path) -> list[str]:
    """Run the job on each of the states; return what went wrong, three at most."""

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        api = load(package)
        os.fsync = lambda fd: None
        wrong = 0
        for number, state in enumerate(states):
            try:
                with warnings.catch_warnings():
                    if state.unsaved:  # an empty file counts as no save
                        warnings.filterwarnings("ignore", ".*empty", UserWarning)
                    judge(cut.job, folder / str(number), state, api)
            except AssertionError as error:
                tell("wrong", f"{cut.name}, state {number}: {error}\nfrom {sorted(state.content)}")
                wrong += 1
                if wrong == 3:
                    break
        return "done", "", ""

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    outcome = Child(live).wait(120)
    assert outcome.end == "done", f"{outcome.error}\n{outcome.trace}"
    return outcome.told.get("wrong", [])


def judge(job: Job, folder: Path, state: State, api: Any) -> None:
    """The job runs to its end from here, starting no earlier than was promised, and leaves nothing out."""
    restore(folder, state.content)
    seen, ran, end = set(state.seen), list[Any](), ("stopped", "", "")
    for attempt_number in itertools.count():
        items, results = list[Any](), list[Any]()
        take = {"item": items.append, "seen": seen.add, "result": results.append, "saved": items.count}
        end = attempt(Run(folder, api, frozenset(seen), lambda kind, what=None, t=take: t[kind](what)), job.function)
        if not attempt_number:
            if end[0] == "error" and any(
                end[1].startswith(f"RestartError: {folder / name}:") for name in state.unsaved
            ):
                return  # what was not promised needs no flush: the file may be cut short; the error names it
            first = job.sequence.index(items[0]) if items else len(job.sequence)
            assert not (state.over and first), f"starts at item {first}, although the job had ended"
            assert first >= state.earliest, f"starts at item {first}, item {state.earliest} was promised"
        ran += items
        if end[0] != "stopped":
            break
    assert end[0] == "done", f"{end[1]}\n{end[2]}"
    missing = set(range(len(job.sequence))) - state.started - {job.sequence.index(item) for item in ran}
    assert not missing, f"never run: {sorted(missing)}"
    assert results == [job.result], f"{results} instead of {job.result}"
    assert listing(folder) == {}, f"left behind: {sorted(listing(folder))}"


states_tried = {"number": 0}


QUICK = {"positions", "positions_quickly", "stopped_slowly", "by_hand", "on_failure", "nested"}


@pytest.mark.parametrize(
    "cut",
    [pytest.param(cut, id=cut.name, marks=[] if cut.name in QUICK else pytest.mark.long) for cut in CUTS],
)
def test_a_power_cut_at_any_moment_leaves_a_promised_save_or_a_newer_one(cut: Cut, tmp_path: Path) -> None:
    """Every state of the disk that the rules allow.

    The last promised save or a newer one, whole, and nothing left at the end.
    """
    states = crashes(cut, tmp_path / "work", PACKAGE)
    states_tried["number"] += len(states)
    wrong = recover(cut, tmp_path / "recovery", states, PACKAGE)
    assert not wrong, "\n\n".join(wrong)
    is_promised = cut.promised is None or any(map(cut.promised, range(len(cut.job.sequence))))
    assert any(state.earliest for state in states) == is_promised


@pytest.mark.long
def test_the_power_has_been_cut_as_often_as_the_readme_says() -> None:
    """The figure in the table is of states that were tried."""
    print(f"\n{states_tried['number']} disks after a power cut")
    if not states_tried["number"]:
        pytest.skip("the power cuts have not run in this session")
    assert states_tried["number"] >= figures.POWER_CUT_STATES


# -------------------------------------------------------------------------------------- without one flush


class _Flushes(ast.NodeTransformer):
    """Finds the calls that flush; replaces the one with the given number.

    Those of the system, under whatever name, and what calls a function with "flush" in its name: a statement, or all
    that a `lambda` does.
    """

    def __init__(self, number: int = -1) -> None:
        self.number, self.found = number, list[str]()

    def _is_it(self, node: ast.AST) -> bool:
        self.found.append(f"line {node.lineno}: {ast.unparse(node)}")
        return len(self.found) - 1 == self.number

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in ("fsync", "fdatasync") and self._is_it(node):
            return ast.copy_location(ast.Constant(None), node)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        name = ast.unparse(node.value.func).rpartition(".")[2] if isinstance(node.value, ast.Call) else ""
        if "flush" in name and self._is_it(node):
            what = node.value.func.value if isinstance(node.value.func, ast.Attribute) else ast.Constant(None)
            return ast.copy_location(ast.Expr(what), node)  # such as `waiting.pop()`, of `waiting.pop().flush()`
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        name = ast.unparse(node.body.func).rpartition(".")[2] if isinstance(node.body, ast.Call) else ""
        if "flush" in name and self._is_it(node.body):
            node.body = ast.copy_location(ast.Constant(None), node.body)
        return self.generic_visit(node)


def flushes() -> list[tuple[str, int, str]]:
    """Where the package flushes: each ``os.fsync``, and each statement that calls a function of its own to flush."""
    found = []
    for path in sorted(PACKAGE.glob("*.py")):
        finder = _Flushes()
        finder.visit(ast.parse(path.read_text(encoding="utf-8")))
        found += [(path.name, number, f"{path.name}, {text}") for number, text in enumerate(finder.found)]
    return found


def without(module: str, number: int, folder: Path) -> Path:
    """A copy of the package without that one flush."""
    shutil.copytree(PACKAGE, folder / "py_restart", ignore=shutil.ignore_patterns("__pycache__"))
    tree = _Flushes(number).visit(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))
    (folder / "py_restart" / module).write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    return folder / "py_restart"


# The cuts that show the most, which come first.
TELLING = {"positions", "on_failure", "ended_by_break", "positions_slowly", "several_quickly", "large_threadless"}
TELLING |= {
    "now_and_then",
    "ended_by_break_killed",
    "ended_by_break_overlay",
    "nested_object_killed",
    "several_quickly_killed",
}


def first_wrong(cuts: Iterable[Cut], folder: Path, package: Path) -> str:
    for cut in cuts:
        wrong = recover(cut, folder / "recovery", crashes(cut, folder / "work", package), package)
        if wrong:
            return wrong[0]
    return ""


@pytest.mark.long
@pytest.mark.parametrize(("module", "number", "what"), flushes(), ids=lambda value: str(value) if value else "")
def test_without_any_one_flush_the_model_finds_a_loss(module: str, number: int, what: str, tmp_path: Path) -> None:
    """Each flush is needed: with that one alone deleted, some power cut loses what was promised, or the file."""
    cuts = sorted(CUTS, key=lambda cut: cut.name not in TELLING)
    wrong = first_wrong(cuts, tmp_path, without(module, number, tmp_path / "copy"))
    print(f"\n{what}: {wrong.splitlines()[0] if wrong else 'nothing lost'}")
    assert wrong, f"{what} can be deleted, and no power cut shows it"

"""A power cut at any moment, by the model in ``disk.py``.

And the proof that the model needs each flush of the package.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import py_restart

from . import figures
from .disk import Content, Disk, Recorder
from .harness import Child, Job, Run, attempt, listing, restore
from .jobs import JOBS, each, job

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


@dataclass(frozen=True)
class Cut:
    """A job, and what its saves promise while ``seconds`` pass with each item.

    A save with objects is promised at once. One of a position alone is, where the last flush is more than a second
    old, and where it is the first of its run: of a job whose items take no time only that first one is counted.
    """

    job: Job
    seconds: float = 0.0
    promised: Callable[[int], int] | None = None  # from the item that runs to the one that may run first
    unsaved: Callable[[int], set[str]] = lambda last: set()  # which files hold no save yet, while this item runs

    @property
    def name(self) -> str:
        return self.job.name + ("" if self.seconds else "_quickly")


def jobs_named(*names: str) -> list[Job]:
    return [job for name in names for job in JOBS if job.name == name]


def inner_unsaved(last: int) -> set[str]:
    """Of `nested`: nothing is saved by the inner loop in its first item, nor when it may have ended."""
    return {"inner.tmp"} if last % 3 != 1 else set()


def several_unsaved(last: int) -> set[str]:
    """Of `several`: each file from when the loop before may have ended to the end of its own first item."""
    return {("one.tmp", "two.tmp", "three.tmp", "")[(last + 1) // 2]}


CUTS = [
    *(Cut(job, 2.0) for job in jobs_named("positions", "every_second", "on_failure", "ended_by_break")),
    Cut(jobs_named("positions")[0], 0.0, lambda index: min(index, 1)),
    Cut(job(stopped, range(4), None, "run.tmp", None, 1)),
    *(
        Cut(job, 2.0)
        for job in jobs_named("objects_and_functions", "joint", "joint_on_failure", "joint_deep", "forgotten")
    ),
    *(Cut(job, 2.0, unsaved=inner_unsaved) for job in jobs_named("nested", "nested_on_failure")),
    *(Cut(job, 2.0, unsaved=several_unsaved) for job in jobs_named("several")),
    *(Cut(job, 2.0, unsaved=lambda last: {"two.tmp"}) for job in jobs_named("several_on_failure")),
    Cut(job(large, range(3), [0, 1, 2], "run.tmp done.pickle", each()), 2.0),
]


WITH_BLOCK = {
    "ended_by_break",
    "several",
    "joint_deep",
    "forgotten",
    "on_failure",
    "stopped_quickly",
}  # the result comes before the removal
MOST_STATES = 1_000  # of one job; of more, every second, third ... is tried
MOST_LARGE_STATES = 40


@dataclass
class State:
    """A disk after a power cut, and what is known of the run that it cut short."""

    content: Content
    earliest: int  # the item that may run first
    started: frozenset[int]  # the items that had been started
    seen: frozenset[Any]  # the stops that were behind it
    unsaved: frozenset[str]  # files for which nothing had been promised: their start may not have reached the disk
    over: bool = False  # the job had ended: the next run is a new one


def load(package: Path) -> Any:
    """The package from another place, in a child."""
    for name in [name for name in sys.modules if name.split(".")[0] == "py_restart"]:
        del sys.modules[name]
    sys.path.insert(0, str(package.parent))
    return importlib.import_module("py_restart")


def record(cut: Cut, folder: Path, content: Content, seen: frozenset[Any], package: Path) -> tuple[Any, ...]:
    """Run the job once and return what happened to its files; the clock jumps with each item."""
    restore(folder, content)

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        api = load(package)
        recorder = Recorder(folder, content)
        jumped = [0.0]
        monotonic = time.monotonic
        time.monotonic = lambda: monotonic() + jumped[0]

        def note(kind: str, what: Any = None) -> None:
            recorder.mark((kind, what))
            jumped[0] += cut.seconds

        recorder.install()
        end = attempt(Run(folder, api, seen, note), cut.job.function)
        recorder.mark(("end", end[0]))
        tell("recorded", (recorder.before, recorder.events, end))
        return end

    outcome = Child(live).wait()
    assert outcome.end in ("done", "stopped"), f"{cut.name}: {outcome.error}\n{outcome.trace}"
    return outcome.told["recorded"][0]


def crashes(cut: Cut, folder: Path, package: Path) -> list[State]:
    """Every state in which a power cut may leave the folder, at any moment of the job."""
    found: dict[Any, State] = {}
    content: Content = {}
    started: set[int] = set()
    seen: set[Any] = set()
    earliest, ended, over, stopped, end = 0, False, False, -1, ("stopped", "", "")
    promised = cut.promised or cut.job.whole
    while end[0] == "stopped":
        before, events, end = record(cut, folder, content, frozenset(seen), package)
        disk = Disk(before)
        for event in events:
            if event[0] != "mark":
                disk.take(event)
            else:
                kind, what = event[1]
                if kind == "item":
                    started.add(index := cut.job.sequence.index(what))
                    ended = index == len(cut.job.sequence) - 1 and cut.name not in WITH_BLOCK
                    if promised:
                        earliest = promised(index)
                    elif cut.job.inner and index > stopped:
                        earliest = earliest // cut.job.inner * cut.job.inner
                elif kind == "seen":
                    seen.add(what)
                elif kind == "result":
                    ended = True
                elif kind == "end" and what == "done":
                    over = True
                elif kind == "end" and what == "stopped":
                    earliest, ended, stopped = index, False, index
            unsaved = cut.unsaved(max(started, default=-1))
            if (not earliest and not ended) or (ended and cut.name == "forgotten"):
                unsaved |= cut.job.names
            state = State({}, 0 if ended else earliest, frozenset(started), frozenset(seen), frozenset(unsaved), over)
            for content in disk.states():
                key = tuple(sorted((name, data is None, hash(data)) for name, data in content.items()))
                known = found.get(key)
                if known is None:
                    found[key] = replace(state, content=content)
                else:  # the same disk at two moments: what was promised at either holds
                    known.earliest = max(known.earliest, state.earliest)
                    known.unsaved &= state.unsaved
                    known.over |= state.over
        content = listing(folder)
    states = list(found.values())
    return states[:: 1 + len(states) // (MOST_LARGE_STATES if cut.job.function is large else MOST_STATES)]


def recover(cut: Cut, folder: Path, states: list[State], package: Path) -> list[str]:
    """Run the job on each of the states; return what went wrong, three at most."""

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        api = load(package)
        os.fsync = lambda fd: None
        wrong = 0
        for number, state in enumerate(states):
            try:
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
        take = {"item": items.append, "seen": seen.add, "result": results.append}
        end = attempt(Run(folder, api, frozenset(seen), lambda kind, what=None, t=take: t[kind](what)), job.function)
        if not attempt_number:
            if end[0] == "error" and any(
                end[1].startswith(f"RestartError: {folder / name}:") for name in state.unsaved
            ):
                return  # a start that counts as no save needs no flush: the file may be empty; the error names it
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


QUICK = {"positions", "positions_quickly", "stopped_quickly", "on_failure", "nested"}


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
    assert any(state.earliest for state in states)


@pytest.mark.long
def test_the_power_has_been_cut_as_often_as_the_readme_says() -> None:
    """The figure in the table is of states that were tried."""
    print(f"\n{states_tried['number']} disks after a power cut")
    if not states_tried["number"]:
        pytest.skip("the power cuts have not run in this session")
    assert states_tried["number"] >= figures.POWER_CUT_STATES


# -------------------------------------------------------------------------------------- without one flush


class _Flushes(ast.NodeTransformer):
    """Finds the calls that flush; replaces the one with the given number."""

    def __init__(self, number: int = -1) -> None:
        self.number, self.found = number, list[str]()

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in ("fsync", "fdatasync"):
            self.found.append(f"line {node.lineno}: os.{node.attr}")
            if len(self.found) - 1 == self.number:
                return ast.copy_location(ast.parse("(lambda fd: None)", mode="eval").body, node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
        if "flush" in name:
            self.found.append(f"line {node.lineno}: {ast.unparse(call)}")
            if len(self.found) - 1 == self.number:
                return ast.copy_location(ast.Pass(), node)
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
    wrong = first_wrong(CUTS, tmp_path, without(module, number, tmp_path / "copy"))
    print(f"\n{what}: {wrong.splitlines()[0] if wrong else 'nothing lost'}")
    assert wrong, f"{what} can be deleted, and no power cut shows it"

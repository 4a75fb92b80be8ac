"""Thousands of random programs against the model in ``model.py``; a failing one is replayed by its seed.

To replay: ``PY_RESTART_SEED=1234 pytest tests/crash/test_model.py -k replay``.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import figures
from .harness import Child, Outcome, Run, attempt, descriptors, listing, py_restart, restore, start
from .model import CHOICES, Model, Plan, Program, execute, random_plan, random_program


def run_real(program: Program, plan: Plan | None, folder: Path) -> Outcome:
    """One run with the library; what will be killed gets a process of its own."""
    if plan and plan.how == "kill":
        return start(lambda run: execute(run, program, plan), folder).wait()
    outcome = Outcome()
    outcome.take(
        "end", attempt(Run(folder, py_restart, frozenset(), outcome.take), lambda run: execute(run, program, plan))
    )
    return outcome


def play(seed: int, folder: Path) -> int:
    """One random program, stopped up to three times and then run to its end; return the number of runs."""
    chance = random.Random(seed)
    program = random_program(chance)
    models = [Model(program, choice) for choice in CHOICES]
    plans: list[Plan | None] = []
    probe = Model(program, CHOICES[0])
    probe.run(None)
    for _ in range(chance.randint(1, 3) if probe.trace else 0):
        plans.append(random_plan(chance, len(probe.trace) + 1))
    plans.append(None)
    restore(folder, {})
    before, killed = descriptors(), set[str]()
    done: list[str] = []
    for plan in plans:
        outcome = run_real(program, plan, folder)
        answers = [(model.run(plan), model.trace) for model in models]
        story = f"seed {seed}: {program}\nruns: {[*done, str(plan)]}\n"
        assert outcome.end in ("done", "stopped", "killed"), f"{story}{outcome.error}\n{outcome.trace}"
        assert not outcome.told.get("unraisable"), (story, outcome.told)
        found = (outcome.end, outcome.items)
        models = [model for model, answer in zip(models, answers, strict=True) if answer == found]
        if not models:
            raise AssertionError(story + explain(found, answers[0]))
        hidden = {name for name in listing(folder) if name.startswith(".")}
        if outcome.end != "killed":
            assert hidden <= killed, f"{story}left behind without a kill: {hidden - killed}"
            assert descriptors() == before, f"{story}left open: {sorted(descriptors() - before)}"
        killed = hidden  # a kill may leave something of a loop that does not run again in the next run
        done.append(f"{plan} -> {outcome.end}")
    assert listing(folder) == {}, f"{story}left behind: {sorted(listing(folder))}"
    return len(plans)


def explain(found: tuple[str, list[object]], expected: tuple[str, list[object]]) -> str:
    for number, (one, other) in enumerate(zip(found[1], expected[1], strict=False)):
        if one != other:
            return f"event {number + 1} is {one}\ninstead of {other}"
    return f"{len(found[1])} events, {found[0]}; instead of {len(expected[1])}, {expected[0]}"


def play_many(first: int, number: int, folder: Path, limit: float = 60) -> int:
    """Play the programs in a child, one after the other; return the number of runs."""

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        os.fsync = lambda fd: None  # a kill does not need it
        try:
            tell("runs", sum(play(seed, folder) for seed in range(first, first + number)))
        except AssertionError as error:
            return "error", str(error), ""
        return "done", "", ""

    outcome = Child(live).wait(limit)
    assert outcome.end == "done", outcome.error
    return outcome.told["runs"][0]


def test_random_programs_do_what_the_model_says(tmp_path: Path) -> None:
    """What runs, with which objects, and what is left, is the same in the library and in the model."""
    assert play_many(0, 25, tmp_path / "work") > 25


@pytest.mark.parametrize("seed", [16000000000335, 17000000002226, 18000000018930])
def test_programs_that_have_found_something_do_what_the_model_says(seed: int, tmp_path: Path) -> None:
    """Rare ones: what was registered inside a loop that has ended, and the end of a block with loops inside loops."""
    assert play_many(seed, 1, tmp_path / "work") > 1


@pytest.mark.long
def test_thousands_of_random_programs_do_what_the_model_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, as often as the guide says, with other seeds each time."""
    first = int(time.time()) * 10_000
    with capsys.disabled():
        print(f"\nrandom programs from seed {first}", end=" ")
    assert play_many(first, figures.RANDOM_PROGRAMS, tmp_path / "work", limit=300) > figures.RANDOM_PROGRAMS


if "PY_RESTART_SEED" in os.environ:

    def test_replay(tmp_path: Path) -> None:
        """The program of one seed again."""
        assert play_many(int(os.environ["PY_RESTART_SEED"]), 1, tmp_path / "work")

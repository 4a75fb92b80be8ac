"""A kill at every file operation, a second one during the recovery, and kills at random moments."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest

from . import figures
from .harness import (
    Job,
    Outcome,
    finish,
    is_lock,
    judge_manners,
    judge_start,
    kill_at,
    listing,
    moments,
    restore,
    run,
    seen_in,
    start,
)
from .jobs import JOBS, QUICK_JOBS

some_jobs = pytest.mark.parametrize("job", QUICK_JOBS, ids=lambda job: job.name)
every_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)


def starts(job: Job, folder: Path) -> list[tuple[dict[str, bytes | None], list[Outcome]]]:
    """What lies in the folder before each run of the uninterrupted job, and the runs before it."""
    found: list[tuple[dict[str, bytes | None], list[Outcome]]] = []
    restore(folder, {})
    outcomes: list[Outcome] = []
    while not outcomes or outcomes[-1].end == "stopped":
        found.append((listing(folder), list(outcomes)))
        outcomes.append(run(job.function, folder, seen_in(outcomes)))
        judge_start(job, outcomes, "uninterrupted")
    assert len(found) == 1 + job.stops
    return found


def killed_at(n: int, after: bool, job: Job, folder: Path, before: list[Outcome]) -> list[Outcome]:
    """Run the job with a kill at operation ``n``; the outcome of that run comes last."""
    outcome = run(job.function, folder, seen_in(before), kill_at(n, after=after))
    return [*before, outcome]


@pytest.mark.long
@every_job
def test_an_uninterrupted_job_gives_what_it_should(job: Job, tmp_path: Path) -> None:
    """Without any kill each job runs its items in order, gives its result and leaves the folder as it was found."""
    content, outcomes = starts(job, tmp_path / job.name)[-1]
    restore(tmp_path / job.name, content)
    finish(job, tmp_path / job.name, outcomes, job.name)


@some_jobs
def test_a_kill_after_a_file_operation_loses_nothing(job: Job, tmp_path: Path) -> None:
    """After SIGKILL behind the n-th file operation the next runs give what an uninterrupted run gives.

    A few operations of each job; the long test takes every one.
    """
    folder = tmp_path / "work"
    for content, before in starts(job, folder):
        restore(folder, content)
        total = len(run(job.function, folder, seen_in(before)).told["operation"])
        for n in range(1, 10_000, max(1, total * (1 + job.stops) // 6)):
            restore(folder, content)
            outcomes = killed_at(n, True, job, folder, before)
            if outcomes[-1].end != "killed":
                break
            finish(job, folder, outcomes, f"{job.name}, run {len(before) + 1}, killed after operation {n}")
        assert total > 4, "hardly a file operation was seen: the harness looks at the wrong calls"


def first_kills(job: Job, folder: Path) -> list[tuple[str, dict[str, bytes | None], list[Outcome]]]:
    """Every state in which a kill at a file operation leaves the folder, with how it came to be."""
    found = []
    for content, before in starts(job, folder):
        for n in range(1, 10_000):
            for after in (False, True):
                restore(folder, content)
                outcomes = killed_at(n, after, job, folder, before)
                if outcomes[-1].end == "killed":
                    place = f"{job.name}, run {len(before) + 1}, killed {'after' if after else 'before'} operation {n}"
                    found.append((place, listing(folder), outcomes))
            if outcomes[-1].end != "killed":
                break
    return found


MOST_STATES = 2  # of each job, from which the second kills are tried
kills = {"first": 0, "second": 0}


@pytest.mark.long
@every_job
def test_a_second_kill_during_the_recovery_loses_nothing_either(job: Job, tmp_path: Path) -> None:
    """After a kill before or behind any file operation, and another one at any of the recovery, nothing is lost.

    Disks that are the same need only one recovery, such as those of a kill behind an operation and before the next.
    """
    folder = tmp_path / "work"
    different = {}
    for place, content, outcomes in first_kills(job, folder):
        kills["first"] += 1
        state = same_state(content), tuple(outcomes[-1].items[-1:]), seen_in(outcomes)
        different.setdefault(state, (place, content, outcomes))
    for place, content, outcomes in different.values():
        restore(folder, content)
        finish(job, folder, outcomes, place)
    chosen = list(different.values())
    for place, content, outcomes in chosen[:: 1 + len(chosen) // MOST_STATES]:
        for m in range(1, 10_000):
            restore(folder, content)
            again = killed_at(m, True, job, folder, outcomes)
            if again[-1].end != "killed" or starts_to_work(again[-1]):
                break
            judge_start_of_killed(job, again, f"{place}, again after operation {m}")
            finish(job, folder, again, f"{place}, again after operation {m}")
            kills["second"] += 1


def hidden_states(job: Job, folder: Path) -> list[tuple[str, dict[str, bytes | None], list[Outcome]]]:
    """The different states after a kill that need a recovery.

    With something staged or moved aside, or with a save that is being removed.
    """
    states = {same_state(content): (place, content, outcomes) for place, content, outcomes in first_kills(job, folder)}
    return [state for state in states.values() if needs_recovery(state[1])]


def needs_recovery(content: dict[str, bytes | None]) -> bool:
    """Whether a commit or a removal was cut short: a lock file alone says nothing."""
    removed = any(
        moment.get("removed") for name in content if is_progress(name) for moment in moments(content[name])[:1]
    )
    return removed or any(name.startswith(".") and not is_lock(name) for name in content)


def is_progress(name: str) -> bool:
    return name.endswith(".tmp") and not name.startswith(".")


def starts_to_work(outcome: Outcome) -> bool:
    """The recovery is over with the save of the second item; what comes then are first kills of another run."""
    return len(outcome.items) > 2


def judge_start_of_killed(job: Job, outcomes: list[Outcome], context: str) -> None:
    """A recovery that was killed had at least started at the right item, if it started."""
    judge_manners(outcomes[-1], context)
    if outcomes[-1].items:
        first = job.sequence.index(outcomes[-1].items[0])
        assert first >= job.earliest(outcomes[:-1]), f"{context}: {outcomes[-1].items}: a save is lost"


OF_ONE_RUN = re.compile(rb'"(id|written|check)": "[^"]*"|"process": \d+')


def same_state(content: dict[str, bytes | None]) -> tuple[tuple[str, bytes | None], ...]:
    """What is on the disk, but for what another run would call otherwise: ids, times, processes, sums over them.

    Of a lock file only that it is there.
    """
    return tuple(
        (name, None if data is None or is_lock(name) else OF_ONE_RUN.sub(b"", data)) for name, data in content.items()
    )


@pytest.mark.long
def test_the_sweeps_have_killed_as_often_as_the_readme_says() -> None:
    """The figures in the table are of kills that took place."""
    print(f"\n{kills['first']} kills at file operations, {kills['second']} second ones")
    if not kills["first"]:
        pytest.skip("the sweeps have not run in this session")
    assert kills["first"] >= figures.OPERATION_KILLS
    assert kills["second"] >= figures.RECOVERY_KILLS


# ---------------------------------------------------------------------------------------- at random moments


def kill_at_random(job: Job, folder: Path, chance: random.Random, span: float) -> int:
    """Kill the job at random moments, three times at most, then let it end; return the number of kills that hit."""
    restore(folder, {})
    outcomes: list[Outcome] = []
    hits = 0
    for _ in range(3):
        child = start(job.function, folder, seen_in(outcomes))
        time.sleep(chance.random() * span)
        hits += child.send(signal.SIGKILL)
        outcomes.append(child.wait())
        if outcomes[-1].end not in ("killed", "stopped"):
            break
    if outcomes[-1].end != "done":
        finish(job, folder, outcomes, f"{job.name}, killed at random")
    return hits


def span_of(job: Job, folder: Path) -> float:
    """How long the job takes, in seconds."""
    restore(folder, {})
    began = time.monotonic()
    start(job.function, folder).wait()
    return time.monotonic() - began


def random_kills(number: int, folder: Path, seed: int) -> int:
    chance = random.Random(seed)
    spans = {job.name: span_of(job, folder) for job in JOBS}
    hits = 0
    while hits < number:
        for job in JOBS:
            hits += kill_at_random(job, folder, chance, spans[job.name])
    return hits


def test_a_few_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL at any instruction, between file operations too: the next runs give what an uninterrupted run gives."""
    assert random_kills(15, tmp_path / "work", seed=1) >= 15


@pytest.mark.long
def test_kills_at_random_moments_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, as often as the guide says."""
    hits = random_kills(figures.RANDOM_KILLS, tmp_path / "work", seed=int(time.time()))
    with capsys.disabled():
        print(f"\n{hits} kills at random moments")
    assert hits >= figures.RANDOM_KILLS

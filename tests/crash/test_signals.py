"""Ctrl-C and SIGTERM at random moments; processes and threads that fight for one path."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from . import figures
from .harness import Outcome, Run, listing, restore, start

ITEMS = 30
STOPS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def saving(each_save: bool) -> Callable[[Run], None]:
    """A job with an object; it says whether the signal handlers were afterwards as they had been."""

    def job(run: Run) -> None:
        before = handlers()
        run.tell("ready")
        try:
            with run.api.enable_counter(run.folder / "run.tmp", each_save=each_save) as counter:
                done = counter.save_load_object([], run.folder / "done.pickle")
                for i in counter(range(ITEMS)):
                    run.item(i)
                    done.append(i)
                    sum(range(300))
                run.result(done)
        finally:
            run.tell("handlers", handlers() == before)

    return job


def interrupt_at_random(job: Callable[[Run], None], folder: Path, chance: random.Random, twice: bool) -> list[Outcome]:
    """Interrupt the job at random moments until it ends; all its runs."""
    restore(folder, {})
    outcomes: list[Outcome] = []
    while not outcomes or outcomes[-1].end != "done":
        child = start(job, folder, prepare=lambda tell: setattr(os, "fsync", lambda fd: None))
        if len(outcomes) < 4:
            time.sleep(0.002 + chance.random() * 0.018)
            for _ in range(1 + twice):
                child.send(chance.choice(STOPS))
                time.sleep(chance.random() * 0.001)
        outcomes.append(child.wait())
        assert len(outcomes) < 6, f"does not get to its end: {outcomes[-1]}"
    return outcomes


def was_stopped(outcome: Outcome) -> bool:
    """A signal ended it: by its exception, by death, or in the few lines of the harness around the job."""
    by_death = outcome.end == "killed" and outcome.status in (*STOPS, 70 << 8)
    return by_death or (outcome.end == "error" and outcome.error.startswith(("KeyboardInterrupt", "SystemExit")))


def judge(outcomes: list[Outcome], each_save: bool) -> int:
    """Compare all runs of a job with one that nobody interrupted; return how often it was interrupted."""
    *stopped, last = outcomes
    for outcome in outcomes:
        assert outcome is last or was_stopped(outcome), (outcome.end, outcome.status, outcome.error, outcome.trace)
        assert all(outcome.told.get("handlers", [])), (outcome.end, outcome.status, outcome.error, outcome.trace)
    assert not last.told.get("unraisable") and not last.told.get("printed"), last.told
    ((result,),) = [last.results]
    if each_save:
        assert result == list(range(ITEMS)), result
    else:
        assert [i for i, _ in groupby(result)] == list(range(ITEMS)), result
        assert len(result) <= ITEMS + len(stopped), (result, len(stopped))
    running = 0
    for before, after in pairwise(outcomes):
        if before.results:
            return len(stopped)  # the end of the work had begun
        running = before.items[-1] if before.items else running
        if after.items:
            assert after.items[0] in (running, running + 1), [outcome.items for outcome in outcomes]
    return len(stopped)


def interrupt(number: int, folder: Path, each_save: bool, seed: int) -> int:
    chance = random.Random(seed)
    hits = 0
    while hits < number:
        hits += judge(interrupt_at_random(saving(each_save), folder, chance, chance.random() < 0.3), each_save)
    return hits


@pytest.mark.parametrize("each_save", [True, False], ids=["each_save", "on_failure"])
def test_a_few_interrupts_at_random_moments_lose_nothing(each_save: bool, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM, one or two at a time: the object is whole, the next run goes on."""
    assert interrupt(12, tmp_path / "work", each_save, seed=1) >= 12


@pytest.mark.long
@pytest.mark.parametrize("each_save", [True, False], ids=["each_save", "on_failure"])
def test_interrupts_at_random_moments_lose_nothing(
    each_save: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, as often as the README says: with ``each_save`` and without."""
    hits = interrupt(figures.RANDOM_SIGNALS // 2, tmp_path / "work", each_save, seed=int(time.time()))
    with capsys.disabled():
        print(f"\n{hits} interrupts at random moments")
    assert hits >= figures.RANDOM_SIGNALS // 2


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("each_save", [True, False], ids=["each_save", "on_failure"])
def test_a_stop_during_a_save_waits_until_it_is_done(number: int, each_save: bool, tmp_path: Path) -> None:
    """A signal that arrives in the middle of writing an object does not cut that save short."""

    class Slow:
        """Sends the signal while it is pickled, in its first save."""

        def __init__(self, armed: bool = True) -> None:
            self.armed, self.items = armed, list[int]()

        def __reduce__(self) -> Any:
            if self.armed and self.items:
                self.armed = False
                os.kill(os.getpid(), number)
            return restored, (self.items,)

    global restored

    def restored(items: list[int]) -> Slow:
        slow = Slow(armed=False)
        slow.items = items
        return slow

    restored.__qualname__ = "restored"

    def job(run: Run) -> None:
        with run.api.enable_counter(run.folder / "run.tmp", each_save=each_save) as counter:
            slow = counter.save_load_object(Slow(), run.folder / "slow.pickle")
            for i in counter(range(3)):
                run.item(i)
                if i == 1 and not each_save:
                    run.stop_once(i)
                slow.items.append(i)
            run.result(slow.items)

    folder = tmp_path / "work"
    restore(folder, {})
    first = start(job, folder).wait()
    assert first.end in ("killed", "error", "stopped"), first
    assert not [name for name in listing(folder) if name.startswith(".")], sorted(listing(folder))
    second = start(job, folder, first.seen).wait()
    assert second.end == "done", second
    assert second.results == [[0, 1, 2]]
    assert second.items == [1, 2]


# ---------------------------------------------------------------------------------------------- fights


def fight(seconds: float, guard: Path) -> Callable[[Run], None]:
    """Work whenever the path is free; complain where somebody else is at work at the same time."""

    def job(run: Run) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
            except run.api.RestartError as error:
                run.tell("refused", str(error))
                continue
            with counter:
                os.close(os.open(guard, os.O_CREAT | os.O_EXCL))  # FileExistsError: two at work
                for i in counter(range(5)):
                    run.item(i)
                guard.unlink()
            run.tell("worked")

    return job


def judge_fight(outcomes: list[Outcome], pids: list[int]) -> None:
    refusals = [text for outcome in outcomes for text in outcome.told.get("refused", [])]
    assert refusals and sum(len(outcome.told.get("worked", [])) for outcome in outcomes)
    assert all("run.tmp" in text and "in use by process" in text for text in refusals), set(refusals)
    assert all({int(word) for word in re.findall(r"\d+", text)} & set(pids) for text in refusals), set(refusals)
    assert all(socket.gethostname() in text for text in refusals)


@pytest.mark.parametrize("seconds", [0.7, pytest.param(5.0, marks=pytest.mark.long)])
def test_of_processes_that_fight_for_a_path_one_works_at_a_time(seconds: float, tmp_path: Path) -> None:
    """Three processes, one path: never two at work; refusals name the process and the host that has it."""
    folder = tmp_path / "work"
    restore(folder, {})
    children = [start(fight(seconds, tmp_path / "guard"), folder) for _ in range(3)]
    outcomes = [child.wait() for child in children]
    assert [outcome.end for outcome in outcomes] == ["done"] * 3, outcomes
    judge_fight(outcomes, [child.pid for child in children])
    assert listing(folder) == {}


def test_a_process_that_is_killed_frees_its_path(tmp_path: Path) -> None:
    """A lock ends with the process that holds it: the next start goes on where the killed one was."""
    folder = tmp_path / "work"

    def job(run: Run) -> None:
        for i in run.api.simple_counter(run.folder / "run.tmp", range(4)):
            run.item(i)
            if i == 2 and "killed" not in run.seen:
                os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(5):
        restore(folder, {})
        assert start(job, folder).wait().items == [0, 1, 2]
        second = start(job, folder, {"killed"}).wait()
        assert (second.end, second.items) == ("done", [2, 3]), second
        assert listing(folder) == {}


def test_of_threads_that_fight_for_a_path_the_newest_works(tmp_path: Path) -> None:
    """A newer counter takes over: once it exists the older one gives no item any more, but an error."""
    folder = tmp_path / "work"
    restore(folder, {})

    def job(run: Run) -> None:
        turn, newest, wrong = threading.Lock(), [0], list[str]()

        def work() -> None:
            while time.monotonic() < end:
                with turn:
                    newest[0] += 1
                    mine = newest[0]
                    loop = run.api.simple_counter(run.folder / "run.tmp", range(20))
                while True:
                    with turn:
                        try:
                            item = next(loop, None)
                        except run.api.RestartError:
                            run.tell("refused")
                            if newest[0] == mine:
                                wrong.append("the newest was refused")
                            break
                        if newest[0] != mine:
                            wrong.append("an older one goes on")
                    if item is None:
                        run.tell("worked")
                        break

        end = time.monotonic() + 0.5
        join([threading.Thread(target=work) for _ in range(4)])
        run.result(wrong)

    outcome = start(job, folder).wait()
    assert outcome.end == "done", outcome
    assert outcome.results == [[]], outcome.results[0][:3]
    assert outcome.told.get("refused") and outcome.told.get("worked")
    finish_alone(folder)


def test_threads_that_fight_for_a_path_without_any_order_get_the_error_and_nothing_else(tmp_path: Path) -> None:
    """Whatever the threads do at the same time: an item, the end, or ``RestartError``; then the path is free."""
    folder = tmp_path / "work"
    restore(folder, {})

    def job(run: Run) -> None:
        wrong: list[str] = []

        def work() -> None:
            while time.monotonic() < end:
                try:
                    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
                    done = counter.save_load_object([], run.folder / "done.pickle")
                    for i in counter(range(5)):
                        done.append(i)
                    if done != list(range(5)):
                        wrong.append(f"object {done}")
                    run.tell("worked")
                except run.api.RestartError:
                    run.tell("refused")
                except BaseException as error:
                    wrong.append(repr(error))

        end = time.monotonic() + 0.5
        join([threading.Thread(target=work) for _ in range(3)])
        run.result(wrong)

    outcome = start(job, folder).wait()
    assert outcome.end == "done", outcome
    assert outcome.results == [[]], outcome.results[0][:3]
    assert outcome.told.get("refused")


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def finish_alone(folder: Path) -> None:
    """Somebody who comes later gets the path, and leaves the folder empty."""

    def job(run: Run) -> None:
        for i in run.api.simple_counter(run.folder / "run.tmp", range(20)):
            run.item(i)

    assert start(job, folder).wait().end == "done"
    assert listing(folder) == {}

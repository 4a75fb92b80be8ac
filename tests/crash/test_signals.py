"""Stops and time limits, at every file operation and at random moments; processes and threads that fight for one path.

Signals reach the main thread between two instructions. What a handler raises there, the program's own included, must
neither cut a save short nor be lost.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import re
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from . import figures
from .harness import (
    Job,
    Outcome,
    Run,
    debris,
    finish,
    is_lock,
    judge_manners,
    listing,
    moments,
    require_whole,
    restore,
    run,
    seen_in,
    send_at,
    sent,
    start,
    watched_close,
)
from .jobs import JOBS
from .test_kills import every_job, some_jobs, span_of, starts

ITEMS = 30
STOPS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[Any]:
    return [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


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
        if len(outcomes) <= 4 and outcomes[-1].results:
            # Behind the block Python drops what is raised in a callback of `weakref`, as ever.
            outcomes[-1].told.pop("unraisable", None)
        if twice and "Lock.__del__" in outcomes[-1].told.get("unraisable", [""])[0]:
            # The first one has ended the run before its block began. As a `__del__` begins, Python drops the second.
            for kind in ("unraisable", "left open"):
                outcomes[-1].told.pop(kind, None)
        judge_manners(outcomes[-1], "interrupted")
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
    """The same, as often as the guide says: with ``each_save`` and without."""
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


# ----------------------------------------------------------------------------------------- time limits


class TimeLimit(Exception):
    """What a SIGALRM handler raises, as those of RQ and Celery do."""


def under_a_limit(job: Job, seconds: float = 0.0) -> Callable[[Run], None]:
    """The job, with a SIGALRM handler that raises, after so many seconds or at an operation.

    One that came where Python would drop it comes again in a moment: it is waited for.
    """

    def function(run: Run) -> None:
        def strike(number: int, frame: Any) -> None:
            run.tell("struck")
            struck.append(number)
            raise TimeLimit("too long")

        struck: list[int] = []
        signal.signal(signal.SIGALRM, strike)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            job.function(run)
            end = time.monotonic() + 5
            while sent and not struck and time.monotonic() < end:
                time.sleep(0.001)
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            finally:  # it may strike in here
                run.tell("handler", signal.getsignal(signal.SIGALRM) is strike)

    return function


def judge_limit(
    job: Job, folder: Path, outcomes: list[Outcome], context: str, locks: Collection[str] = frozenset()
) -> None:
    """The limit struck, once, behind a save that it met; what a second process then finds is a whole moment.

    ``locks``: the lock files that may be left behind.
    """
    last = outcomes[-1]
    assert last.end in ("done", "stopped", "error"), (context, last)
    assert last.end != "error" or last.error.startswith("TimeLimit: "), f"{context}: {last.error}\n{last.trace}"
    assert last.told["handler"] == [True], f"{context}: another handler is there afterwards"
    judge_manners(last, context)
    left = [name for name in debris(job, folder) if name not in locks]
    assert not left, f"{context}: left {left}"
    require_whole(folder, context)
    if last.end == "done":
        assert last.results == [job.result], f"{context}: {last.results}"
        assert listing(folder) == {}, f"{context}: left {sorted(listing(folder))}"
    else:
        finish(with_what_is_saved(job, folder, last), folder, outcomes, context)


def with_what_is_saved(job: Job, folder: Path, last: Outcome) -> Job:
    """The job. An item that the limit met behind its change to the object is twice in the result.

    A save on failure has what the item had changed already, and the item runs again.
    """
    newest = moments(listing(folder).get("run.tmp"))[:1]
    if job.name == "on_failure" and newest and last.items[-1:] == [newest[0]["position"]]:
        (item,) = last.items[-1:]
        if pickle.loads((folder / "done.pickle").read_bytes()) == [*range(item + 1)]:
            return replace(job, result=sorted([*job.result, item]))
    return job


def limit_at(job: Job, folder: Path, steps: int = 0) -> int:
    """Let the limit strike at each operation in its turn, before or after it; return how often it did."""
    tried = 0
    for content, before in starts(job, folder):
        restore(folder, content)
        total = len(run(job.function, folder, seen_in(before)).told["operation"])
        for n in range(1, total + 1, 1 + (total // steps if steps else 0)):
            for after in (False, True):
                restore(folder, content)
                outcome = run(under_a_limit(job), folder, seen_in(before), send_at(n, signal.SIGALRM, after=after))
                if "sent" not in outcome.told:
                    continue  # a slow machine does a little more now and then
                (name,) = outcome.told["sent"]
                when = f"{'after' if after else 'before'} operation {n} ({name})"
                place = f"{job.name}, run {len(before) + 1}, a limit {when}"
                assert len(outcome.told.get("struck", [])) == 1, f"{place}: struck {outcome.told.get('struck')}"
                judge_limit(job, folder, [*before, outcome], place)
                tried += 1
    return tried


limits = {"tried": 0}


@some_jobs
def test_a_time_limit_that_strikes_at_a_file_operation_costs_no_save(job: Job, tmp_path: Path) -> None:
    """A handler that raises at some operations: the former moment or the new one is whole, and the path is free."""
    assert limit_at(job, tmp_path / "work", steps=3)


@pytest.mark.long
@every_job
def test_a_time_limit_that_strikes_at_any_file_operation_costs_no_save(job: Job, tmp_path: Path) -> None:
    """The same at every one: no save is cut short, no descriptor closed twice or left open, the lock is free."""
    limits["tried"] += limit_at(job, tmp_path / "work")


@pytest.mark.long
def test_the_time_limits_have_struck_as_often_as_the_readme_says() -> None:
    """The figure in the table is of limits that struck."""
    print(f"\n{limits['tried']} time limits at file operations")
    if not limits["tried"]:
        pytest.skip("the sweeps have not run in this session")
    assert limits["tried"] >= figures.OPERATION_SIGNALS


LIMITED = [job for job in JOBS if job.name in ("positions", "objects_and_functions", "nested", "joint", "on_failure")]


def limit_at_random(number: int, folder: Path, seed: int) -> int:
    """Let limits strike at random moments of the jobs; return how many did."""
    chance = random.Random(seed)
    hits = 0
    while hits < number:
        for job in LIMITED:
            seconds = 1e-5 + chance.random() * span_of(job, folder)
            restore(folder, {})
            outcome = start(under_a_limit(job, seconds), folder, prepare=watch).wait()
            outcome.told.pop("unraisable", None)  # Python drops what is raised in a callback of `weakref`
            locks = bear_what_nobody_can_hold(outcome)
            judge_limit(job, folder, [outcome], f"{job.name}, a limit after {seconds:.6f} seconds", locks)
            hits += len(outcome.told.get("struck", []))
    return hits


def bear_what_nobody_can_hold(outcome: Outcome) -> set[str]:
    """A handler that no block stands in for may raise before the first line of what leaves the loop or the block.

    Python drops it there, or the block is not left, as with any other; then it has its lock until the process ends,
    and its progress file open. Return the lock files, which the next process takes.
    """
    if all("generator object Run._drive" in what for what in outcome.told.get("unraisable", [])):
        outcome.told.pop("unraisable", None)
    names = {Path(name).name for _, name in left_open(outcome)}
    locks = {name for name in names if is_lock(name)}
    if "in __exit__" in outcome.trace and names <= locks | {name[1:].removesuffix(".lock") for name in locks}:
        outcome.told.pop("left open", None)
        return locks
    return set()


def left_open(outcome: Outcome) -> list[tuple[int, str]]:
    return [one for some in outcome.told.get("left open", []) for one in some]


def watch(tell: Callable[..., None]) -> None:
    """In a child: tell what is closed twice. Flushing takes time, and a kill does not need it."""
    os.close = watched_close(os.close, tell)
    os.fsync = lambda fd: None


def test_a_few_time_limits_at_random_moments_cost_no_save(tmp_path: Path) -> None:
    """A handler that raises between any two instructions: a whole moment is found, and the path is free."""
    assert limit_at_random(10, tmp_path / "work", seed=1) >= 10


@pytest.mark.long
def test_time_limits_at_random_moments_cost_no_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, as often as the guide says."""
    hits = limit_at_random(figures.RANDOM_LIMITS, tmp_path / "work", seed=int(time.time()))
    with capsys.disabled():
        print(f"\n{hits} time limits at random moments")
    assert hits >= figures.RANDOM_LIMITS


# ------------------------------------------------------------------------------------ a handler that saves


def saved_on_demand(run: Run) -> None:
    """An object after each item, and a handler that saves.

    Each item tells how many saves there were before it, and how many of them the handler has asked for.
    """

    def save(number: int, frame: Any) -> None:
        for counter in counters:
            try:
                counter.save()
                asked.append(number)
            except run.api.RestartError as error:
                run.tell("refused", str(error))

    counters, asked, path = list[Any](), list[int](), run.folder / "run.tmp"
    signal.signal(signal.SIGUSR1, save)
    counter = run.api.enable_counter(path, each_save=True)
    done = counter.save_load_object([], run.folder / "done.pickle")
    counters.append(counter)
    for i in counter(range(4)):
        newest = moments(path.read_bytes())[:1] if path.exists() else []
        run.tell("saves", (newest[0]["save"] if newest else 0, len(asked)))
        run.item(i)
        done.append(i)
    run.result(done)


def test_a_save_that_a_handler_asks_for_during_a_save_is_done_right_behind_it(tmp_path: Path) -> None:
    """``counter.save()`` at each file operation: the next item begins with one save more than it usually would."""
    folder, more = tmp_path / "work", 0
    restore(folder, {})
    usual = run(saved_on_demand, folder)
    for n in range(1, len(usual.told["operation"]) + 1):
        outcome = run(saved_on_demand, folder, act=send_at(n, signal.SIGUSR1, after=n % 2 == 0))
        assert (outcome.end, outcome.results) == ("done", [[0, 1, 2, 3]]), (n, outcome)
        judge_manners(outcome, f"asked at operation {n}")
        assert listing(folder) == {}
        for (before, _), (saves, asked) in zip(usual.told["saves"], outcome.told["saves"], strict=True):
            assert saves == before + asked, (n, outcome.told)
        more += outcome.told["saves"][-1][1]
    assert more > n // 2


@pytest.mark.parametrize("name", ["positions", "nested", "object"])
def test_a_handler_that_saves_all_the_time_does_no_harm(name: str, tmp_path: Path) -> None:
    """``counter.save()`` between any two instructions, those of a save of the position alone among them."""

    def job(run: Run) -> None:
        def save(number: int, frame: Any) -> None:
            with contextlib.suppress(run.api.RestartError):  # its work may be done
                counter.save()
                saved.append(number)

        saved = list[int]()
        counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
        done = counter.save_load_object([], run.folder / "done.pickle") if name == "object" else list[Any]()
        signal.signal(signal.SIGALRM, save)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        for i in counter(range(60 if name != "positions" else 20_000)):
            for j in run.api.simple_counter(run.folder / "inner.tmp", range(100)) if name == "nested" else (0,):
                done.append((i, j))
        signal.setitimer(signal.ITIMER_REAL, 0)
        run.result((len(saved) > 3, len(done), len(set(done))))

    folder = tmp_path / "work"
    restore(folder, {})
    outcome = start(job, folder, prepare=watch).wait()
    items = {"positions": 20_000, "nested": 6_000, "object": 60}[name]
    assert (outcome.end, outcome.results) == ("done", [(True, items, items)]), outcome
    judge_manners(outcome, name)
    assert listing(folder) == {}


# ----------------------------------------------------------------------------- stops that Python would drop


class _Dying:
    """Something in whose ``__del__`` the signal comes."""

    def __init__(self, send: Callable[[], None]) -> None:
        self.send = send

    def __del__(self) -> None:
        self.send()


def in_del(send: Callable[[], None]) -> None:
    _Dying(send)


def in_a_finalizer(send: Callable[[], None]) -> None:
    class Some:
        pass

    some = Some()
    weakref.finalize(some, send)


def in_a_weak_reference(send: Callable[[], None]) -> None:
    class Some:
        pass

    some = Some()
    references.append(weakref.ref(some, lambda ref: send()))


references: list[Any] = []  # that live longer than what they refer to


def in_a_generator_that_goes(send: Callable[[], None]) -> None:
    next(_suspended(send, []))


def in_a_generator_that_the_garbage_collector_closes(send: Callable[[], None]) -> None:
    circle: list[Any] = []
    circle.append(_suspended(send, circle))
    next(circle[0])
    del circle
    gc.collect()


def _suspended(send: Callable[[], None], circle: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        send()


DROPPING = [
    *(in_del, in_a_finalizer, in_a_weak_reference),
    *(in_a_generator_that_goes, in_a_generator_that_the_garbage_collector_closes),
]


@pytest.mark.parametrize("place", DROPPING, ids=lambda place: place.__name__)
@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("each_save", [True, False], ids=["each_save", "on_failure"])
def test_a_stop_that_python_would_drop_is_not_lost(
    place: Callable[[Callable[[], None]], None], number: int, each_save: bool, tmp_path: Path
) -> None:
    """In a ``__del__``, a finalizer or a generator that is being closed: it comes again, and the block saves."""

    def job(run: Run) -> None:
        def send() -> None:
            signal.raise_signal(number)
            run.tell("sent")

        with run.api.enable_counter(run.folder / "run.tmp", each_save=each_save) as counter:
            done = counter.save_load_object([], run.folder / "done.pickle")
            for i in counter(range(4)):
                run.item(i)
                if i == 2 and "stopped" not in run.seen:
                    run.tell("seen", "stopped")
                    place(send)
                    end = time.monotonic() + 5
                    while time.monotonic() < end:  # the stop interrupts it
                        time.sleep(0.01)
                    raise AssertionError("the stop is lost")
                done.append(i)
            run.result(done)

    folder = tmp_path / "work"
    restore(folder, {})
    first = start(job, folder).wait()
    assert was_stopped(first) and first.end == "error", first
    judge_manners(first, place.__name__)
    assert not [name for name in listing(folder) if name.startswith(".")], sorted(listing(folder))
    second = start(job, folder, first.seen).wait()
    assert (second.end, second.items, second.results) == ("done", [2, 3], [[0, 1, 2, 3]]), second
    assert listing(folder) == {}


# ---------------------------------------------------------------------------------------------- fights


def fight(seconds: float, guard: Path, met: Path) -> Callable[[Run], None]:
    """Work whenever the path is free; complain where somebody else is at work at the same time.

    That is for so long, and until somebody was refused: `met` is there then.
    """

    def job(run: Run) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end or not met.exists():
            try:
                counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
            except run.api.InUseError as error:
                run.tell("refused", str(error))
                met.touch()
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
    assert all("run.tmp" in text for text in refusals), set(refusals)
    assert all({int(word) for word in re.findall(r"\d+", text)} & set(pids) for text in refusals), set(refusals)
    assert all(socket.gethostname() in text for text in refusals)


@pytest.mark.parametrize("seconds", [0.7, pytest.param(5.0, marks=pytest.mark.long)])
def test_of_processes_that_fight_for_a_path_one_works_at_a_time(seconds: float, tmp_path: Path) -> None:
    """Three processes, one path: never two at work; refusals name the process and the host that has it."""
    folder = tmp_path / "work"
    restore(folder, {})
    children = [start(fight(seconds, tmp_path / "guard", tmp_path / "met"), folder) for _ in range(3)]
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


def test_of_threads_that_fight_for_a_path_the_one_whose_loop_runs_works(tmp_path: Path) -> None:
    """A newer counter takes over from one whose loop has not begun, which then gives an error and no item.

    It does not take over from a loop that runs in another thread: it is refused, and that loop goes on.
    """
    folder = tmp_path / "work"
    restore(folder, {})

    def job(run: Run) -> None:
        turn, newest, running, wrong = threading.Lock(), [0], set[int](), list[str]()
        told = set[str]()

        def tell(kind: str) -> None:
            told.add(kind)
            run.tell(kind)

        def made() -> tuple[int, Any]:
            with turn:
                newest[0] += not running
                try:
                    loop = run.api.simple_counter(run.folder / "run.tmp", range(20))
                except run.api.InUseError:
                    tell("refused")
                    if not running:
                        wrong.append("refused where no loop runs")
                    return 0, None
                if running:
                    wrong.append("took over from a loop that runs")
                return newest[0], loop

        def drawn(mine: int, loop: Any) -> bool:
            """Draw an item; whether there was one."""
            with turn:
                try:
                    item = next(loop, None)
                except run.api.RestartError:
                    tell("superseded")
                    if newest[0] == mine:
                        wrong.append("the newest was refused")
                    return False
                if newest[0] != mine:
                    wrong.append("an older one goes on")
                (running.discard if item is None else running.add)(mine)
                if item is None:
                    tell("worked")
                return item is not None

        def work() -> None:
            while time.monotonic() < end or len(told) < 3:
                mine, loop = made()
                time.sleep(random.random() / 1000)  # now and then another thread makes one before it begins
                while loop is not None and drawn(mine, loop):
                    pass

        end = time.monotonic() + 0.5
        join([threading.Thread(target=work) for _ in range(4)])
        run.result(wrong)

    outcome = start(job, folder).wait()
    assert outcome.end == "done", outcome
    assert outcome.results == [[]], outcome.results[0][:3]
    assert all(outcome.told.get(kind) for kind in ("refused", "superseded", "worked")), outcome.told.keys()
    finish_alone(folder)


def test_threads_that_fight_for_a_path_without_any_order_get_the_error_and_nothing_else(tmp_path: Path) -> None:
    """Whatever the threads do at the same time: an item, the end, or ``RestartError``; then the path is free."""
    folder = tmp_path / "work"
    restore(folder, {})

    def job(run: Run) -> None:
        wrong, refused = list[str](), list[str]()

        def work() -> None:
            while time.monotonic() < end or not refused:
                try:
                    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
                    done = counter.save_load_object([], run.folder / "done.pickle")
                    for i in counter(range(5)):
                        done.append(i)
                    if done != list(range(5)):
                        wrong.append(f"object {done}")
                    run.tell("worked")
                except run.api.RestartError as error:
                    refused.append(str(error))
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

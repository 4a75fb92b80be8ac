"""A failure at every file operation, and mounts that refuse an operation each time.

A full disk, an I/O error, no permission, an interrupted call, a file size limit.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import resource
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from . import figures
from .harness import (
    Act,
    Injector,
    Job,
    Outcome,
    count,
    debris,
    fail_at,
    finish,
    judge_manners,
    kill_at,
    listing,
    refuse,
    restore,
    run,
    seen_in,
    start,
)
from .jobs import JOBS
from .test_kills import every_job, some_jobs, starts

# System calls that are not interrupted by signals (rename, unlink, mkdir) do not return EINTR: signal(7).
INTERRUPTIBLE = {"open", "write", "pwrite", "pwrite in place", "fsync", "fsync folder", "flock", "ftruncate"}
# One that fails may leave what it should have taken away.
REMOVALS = {"unlink", "remove", "rmdir", "rename", "replace", "move a folder aside"}


def may_stay(names: list[str]) -> bool:
    """Whether something staged may be there until the next start.

    What could not be removed, or not before the move that came first was flushed; and what belongs to a record that
    could neither be flushed nor be taken back: nobody knows whether it is on the device.
    """
    is_stuck = "fsync" in names and "pwrite in place" in names[names.index("fsync") :]
    return is_stuck or any(name in (*REMOVALS, "fsync folder") for name in names)


ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}-old")


def left_by(job: Job, folder: Path, failed: list[str]) -> list[str]:
    """What should not be there after these failures; what was moved aside stays while that cannot be flushed."""
    left = debris(job, folder)
    return [name for name in left if not ("fsync folder" in failed and ASIDE.fullmatch(name.split(os.sep)[0]))]


def judge_failure(job: Job, folder: Path, outcomes: list[Outcome], failed: list[str], place: str) -> None:
    """The run that met a failure ended in an error that says where, or got by; it left nothing half-made."""
    last, stays = outcomes[-1], may_stay(failed)
    assert last.end in ("done", "stopped", "error"), (place, last)
    judge_manners(last, place)
    if last.end == "error":
        assert last.error.startswith("RestartError: "), f"{place}: {last.error}\n{last.trace}"
        assert any(name in last.error for name in (*job.names, str(folder))), f"{place}: names no file: {last.error}"
    if not stays:
        left = left_by(job, folder, failed)
        assert not left, f"{place}: {last.error}: left {left}"
    if last.end != "done":
        finish(job, folder, outcomes, f"{place} ({last.error})")
        return
    assert last.results == [job.result], f"{place}: {last.results}"
    if stays:
        finish(job, folder, [], f"{place}, and the whole job again")
    else:
        assert listing(folder) == {}, f"{place}: left {sorted(listing(folder))}"


failures: Counter[str] = Counter()  # what has failed, and how often


def sweep(job: Job, folder: Path, errors: Iterable[tuple[int, bool]], few: bool = False) -> int:
    """Let each operation fail in its turn, with the next of the errors; return how many did."""
    tried = 0
    turns = itertools.cycle(errors)
    for content, before in starts(job, folder):
        restore(folder, content)
        total = len(run(job.function, folder, seen_in(before), closes=True).told["operation"])
        for n in range(1, total + 1, 1 + few * total * (1 + job.stops) // 4):
            number, lasting = next(turns)
            restore(folder, content)
            act = fail_at(n, number, lasting=lasting)
            outcome = run(job.function, folder, seen_in(before), act, closes=True)
            names = outcome.told.get("failed", [])
            if not names or (number == errno.EINTR and names[0] not in INTERRUPTIBLE):
                continue
            place = f"{job.name}, run {len(before) + 1}, {errno.errorcode[number]} at operation {n} ({names[0]})"
            place += " and all later" if lasting else ""
            judge_failure(job, folder, [*before, outcome], names, place)
            failures[names[0]] += 1
            tried += 1
    return tried


@some_jobs
def test_a_full_disk_at_some_file_operation_costs_no_save(job: Job, tmp_path: Path) -> None:
    """ENOSPC at some operations: a clear error, the former save whole, no debris, the next run right."""
    assert sweep(job, tmp_path / "work", [(errno.ENOSPC, False)], few=True)


FULL = [(errno.ENOSPC, False)]
OTHER = [(errno.EIO, False), (errno.ENOSPC, True), (errno.EINTR, False), (errno.EACCES, False), (errno.EINTR, False)]


@pytest.mark.long
@pytest.mark.parametrize("errors", [FULL, OTHER], ids=["full", "other"])
@every_job
def test_a_failure_of_any_file_operation_costs_no_save(
    job: Job, errors: list[tuple[int, bool]], tmp_path: Path
) -> None:
    """A full disk at each operation, then the other errors in turn, a disk that stays full among them.

    Each time a clear error, the former save whole, no debris, the next run right.
    """
    assert sweep(job, tmp_path / "work", errors)


@pytest.mark.long
def test_the_sweeps_have_failed_as_often_as_the_readme_says() -> None:
    """The figure in the table is of failures that took place, those that are easily forgotten among them."""
    print(f"\n{failures.total()} failures at file operations: {dict(failures)}")
    if not failures:
        pytest.skip("the sweeps have not run in this session")
    assert failures.total() >= figures.OPERATION_FAILURES
    assert all(failures[name] for name in ("close", "unlink", "pwrite in place", "fsync", "fsync folder"))


# ------------------------------------------------------------------------------------------ what mounts refuse

IN_PLACE = {"pwrite in place"}
FLUSHES = {"fsync", "fsync folder"}
FOLDERS = {"move a folder aside"}
REFUSALS = [
    pytest.param(IN_PLACE, errno.ESPIPE, id="in place, ESPIPE"),
    pytest.param(IN_PLACE, errno.EPERM, id="in place, EPERM"),
    *(
        pytest.param(FLUSHES, number, id=f"flushing, {errno.errorcode[number]}")
        for number in (errno.EINVAL, errno.EBADF)
    ),
    pytest.param(FLUSHES, errno.ENOSYS, id="flushing, ENOSYS"),
    pytest.param(FLUSHES, errno.ENOTSUP, id="flushing, ENOTSUP"),
    pytest.param(FOLDERS, errno.EXDEV, id="moving a folder aside, EXDEV"),
]


@pytest.mark.parametrize(("kinds", "number"), REFUSALS)
def test_what_a_mount_cannot_do_is_not_needed(kinds: set[str], number: int, tmp_path: Path) -> None:
    """No writing in place, no flushing, no renaming of a folder: every job gives what it gives elsewhere."""
    folder, refused = tmp_path / "work", 0
    for job in JOBS:
        restore(folder, {})
        outcomes = finish(job, folder, [], f"{job.name}, {errno.errorcode[number]}", refuse(kinds, number))
        refused += sum(len(outcome.told.get("refused", [])) for outcome in outcomes)
    assert refused


@pytest.mark.long
@pytest.mark.parametrize(("kinds", "number"), [REFUSALS[0].values, REFUSALS[1].values, REFUSALS[-1].values])
@pytest.mark.parametrize("name", ["positions", "on_failure", "nested_on_failure", "ended_by_break", "joint"])
def test_a_kill_on_such_a_mount_loses_nothing(name: str, kinds: set[str], number: int, tmp_path: Path) -> None:
    """A kill after any file operation, and a recovery, both where a mount refuses something each time."""
    folder = tmp_path / "work"
    job = next(job for job in JOBS if job.name == name)
    for content, before in starts(job, folder):
        for n in range(1, 10_000):
            restore(folder, content)
            act = refuse(kinds, number, kill_at(n, after=True))
            outcomes = [*before, run(job.function, folder, seen_in(before), act)]
            if outcomes[-1].end != "killed":
                break
            place = f"{name}, run {len(before) + 1}, {errno.errorcode[number]}, killed after operation {n}"
            finish(job, folder, outcomes, place, refuse(kinds, number))


def limited(size: int) -> Act:
    """No failure of our own: the kernel refuses what would make a file larger than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return count


@some_jobs
def test_a_file_size_limit_costs_no_save(job: Job, tmp_path: Path) -> None:
    """Under RLIMIT_FSIZE, from nothing to enough.

    A clear error and the former save, or the result; the next run right.
    """
    limit_files(job, tmp_path / "work", (0, 600, 100_000))


@pytest.mark.long
@every_job
def test_any_file_size_limit_costs_no_save(job: Job, tmp_path: Path) -> None:
    """The same with many limits."""
    limit_files(job, tmp_path / "work", (*range(0, 60, 12), *range(60, 2_000, 120), 100_000))


def limit_files(job: Job, folder: Path, sizes: Iterable[int]) -> None:
    ends = set()
    for size in sizes:
        restore(folder, {})
        child = start(job.function, folder, prepare=lambda tell, size=size: Injector(limited(size), tell).install())
        outcome = child.wait()
        place = f"{job.name}, files of at most {size} bytes"
        assert outcome.end in ("done", "stopped", "error"), (place, outcome)
        if outcome.end == "stopped" and size < 100_000:
            outcome.told["failed"] = ["write"]  # the save on the way out may have failed; nobody promised one
        judge_failure(job, folder, [outcome], [], place)
        ends.add(outcome.end)
    assert "error" in ends and ends != {"error"}

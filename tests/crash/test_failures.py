"""A failure at every file operation.

A full disk, an I/O error, no permission, an interrupted call, a file size limit.
"""

from __future__ import annotations

import errno
import itertools
import resource
from collections.abc import Iterable
from pathlib import Path

import pytest

from . import figures
from .harness import Act, Injector, Job, Outcome, _count, debris, fail_at, finish, listing, restore, run, start
from .test_kills import every_job, seen_in, some_jobs, starts

# System calls that are not interrupted by signals (rename, unlink, mkdir) do not return EINTR: signal(7).
INTERRUPTIBLE = {"open", "write", "pwrite", "fsync", "flock", "ftruncate"}
REMOVALS = {"unlink", "remove", "rmdir", "rename", "replace"}  # one that fails may leave what it should have taken away


def judge_failure(job: Job, folder: Path, outcomes: list[Outcome], saved: bool, place: str) -> None:
    """The run that met a failure ended in an error that says where, or got by; it left nothing half-made."""
    last = outcomes[-1]
    assert last.end in ("done", "stopped", "error"), (place, last)
    assert not last.told.get("printed"), (place, last.told)
    if last.end == "error":
        assert last.error.startswith("RestartError: "), f"{place}: {last.error}\n{last.trace}"
        assert any(name in last.error for name in (*job.names, "inner.tmp", "middle.tmp", str(folder))), (
            f"{place}: names no file: {last.error}"
        )
    if not saved:
        assert not debris(job, folder), f"{place}: {last.error}: left {debris(job, folder)}"
    if last.end != "done":
        finish(job, folder, outcomes, f"{place} ({last.error})")
        return
    assert last.results == [job.result], f"{place}: {last.results}"
    if saved:
        finish(job, folder, [], f"{place}, and the whole job again")
    else:
        assert listing(folder) == {}, f"{place}: left {sorted(listing(folder))}"


def sweep(job: Job, folder: Path, errors: Iterable[tuple[int, bool]], few: bool = False) -> int:
    """Let each operation fail in its turn, with the next of the errors; return how many did."""
    tried = 0
    turns = itertools.cycle(errors)
    for content, before in starts(job, folder):
        restore(folder, content)
        total = len(run(job.function, folder, seen_in(before)).told["operation"])
        for n in range(1, total + 1, 1 + few * total * (1 + job.stops) // 4):
            number, lasting = next(turns)
            restore(folder, content)
            outcome = run(job.function, folder, seen_in(before), fail_at(n, number, lasting=lasting))
            names = outcome.told.get("failed", [])
            if not names or (number == errno.EINTR and names[0] not in INTERRUPTIBLE):
                continue
            place = f"{job.name}, run {len(before) + 1}, {errno.errorcode[number]} at operation {n} ({names[0]})"
            # What cannot be removed stays until the next start; and while a disk stays full, nothing new is made.
            stays = any(name in REMOVALS for name in names)
            judge_failure(job, folder, [*before, outcome], stays, place + (" and all later" if lasting else ""))
            tried += 1
    return tried


@some_jobs
def test_a_full_disk_at_some_file_operation_costs_no_save(job: Job, tmp_path: Path) -> None:
    """ENOSPC at some operations: a clear error, the former save whole, no debris, the next run right."""
    assert sweep(job, tmp_path / "work", [(errno.ENOSPC, False)], few=True)


failures = {"tried": 0}


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
    failures["tried"] += sweep(job, tmp_path / "work", errors)


@pytest.mark.long
def test_the_sweeps_have_failed_as_often_as_the_readme_says() -> None:
    """The figure in the table is of failures that took place."""
    print(f"\n{failures['tried']} failures at file operations")
    if not failures["tried"]:
        pytest.skip("the sweeps have not run in this session")
    assert failures["tried"] >= figures.OPERATION_FAILURES


def limited(size: int) -> Act:
    """No failure of our own: the kernel refuses what would make a file larger than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return _count


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
        if outcome.end == "stopped" and size < 2_000:
            outcome.told["failed"] = ["write"]  # the save on the way out may have failed; nobody promised one
        judge_failure(job, folder, [outcome], False, place)
        ends.add(outcome.end)
    assert "error" in ends and ends != {"error"}

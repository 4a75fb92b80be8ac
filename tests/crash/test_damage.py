"""Damaged files: every prefix, every flipped bit, random mutations; of what a cut-short commit or removal leaves, too.

Whatever is in the files: a whole save is found, or ``RestartError`` names a file, and what was not understood stays
untouched. An empty progress file is what a power cut may leave: no save, and a warning.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import figures
from .harness import (
    Outcome,
    Run,
    files_of,
    is_of,
    judge_manners,
    listing,
    moments,
    py_restart,
    restore,
    run,
    seen_in,
    start,
)
from .jobs import JOBS
from .test_kills import hidden_states, is_progress


@dataclass
class Sample:
    """A folder with a save, the progress file in it, and its moments: the position and the object, if there is one.

    A record whose files are gone is no moment.
    """

    content: dict[str, bytes | None]
    name: str
    moments: list[tuple[int, Any]]

    @property
    def data(self) -> bytes:
        data = self.content[self.name]
        assert data
        return data


def make_position(run: Run) -> None:
    for i in run.api.simple_counter(run.folder / "run.tmp", range(10)):
        if i == 7:
            break


def make_object(run: Run) -> None:
    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    done = counter.save_load_object([], run.folder / "done.pickle")
    for i in counter(range(10)):
        done.append(i)
        if i == 3:
            break


def make_joint(run: Run) -> None:
    outer = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    done = outer.save_load_object([], run.folder / "done.pickle")
    for i in outer(range(10)):
        for j in run.api.simple_counter(run.folder / "inner.tmp", range(4)):
            done.append(j)
            if i == 2 and j == 3:
                break
        if i == 2:
            break


def make_finished(run: Run) -> None:
    with run.api.multi_count():
        for _ in run.api.simple_counter(run.folder / "run.tmp", range(3)):
            pass
        run.stop_once("stop")


def make_inner(run: Run) -> None:
    for _ in run.api.simple_counter(run.folder / "run.tmp", range(9)):
        for j in run.api.simple_counter(run.folder / "inner.tmp", range(9)):
            if j == 5:
                run.stop_once("stop")


def make_function(run: Run) -> None:
    """The older record is of the same moment but for the position: its folder is as it was."""
    counter = run.api.enable_counter(run.folder / "run.tmp", each_save=True)
    counter.save_load_funcs([make_layers], [len], [str(run.folder / "layers")])
    for i in counter(range(10)):
        if i == 3:
            break


def make_layers(path: str) -> None:
    os.mkdir(path)
    Path(path, "layer0").write_text("the same each time")


def sample(make: Callable[[Run], None], folder: Path) -> Sample:
    """A real progress file, and the positions in its records."""
    restore(folder, {})
    outcome = start(make, folder).wait()
    assert outcome.end in ("done", "stopped"), outcome
    content = listing(folder)
    records = moments(content["run.tmp"])
    whole = [record for record in records if has_its_files(record, content)]
    assert records[:1] == whole[:1]
    done = content.get("done.pickle")
    return Sample(content, "run.tmp", [(record["position"], done and pickle.loads(done)) for record in whole])


def has_its_files(record: dict[str, Any], content: dict[str, bytes | None]) -> bool:
    files = files_of(record)
    return all(name in content and is_of(stamp, content[name]) for name, stamp in files.items())


MAKERS = [make_position, make_object, make_joint, make_finished, make_inner, make_function]
every_sample = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__[5:])


def overwrite(path: Path, data: bytes) -> None:
    """Not by truncating first, which ext4 answers by writing the blocks at once (auto_da_alloc)."""
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))


def judge_all(sample: Sample, folder: Path, variants: Iterator[bytes], must_fail: bool = False) -> Outcome:
    """Open each variant, in a child that tells the first wrong answer and how many right ones of each kind it got."""

    is_with_object = "done.pickle" in sample.content

    def found_by(counter: Any) -> tuple[int, Any]:
        return counter.position, counter.save_load_object([], folder / "done.pickle") if is_with_object else None

    def look(run: Run) -> None:
        path = folder / sample.name
        found, refused, empty = 0, 0, 0
        for data in variants:
            if data == sample.data:
                continue
            overwrite(path, data)
            try:
                moment = found_by(run.api.enable_counter(path, each_save=True))
            except UserWarning as warning:
                empty += 1
                if data.strip(b"\0") or str(path) not in str(warning) or path.read_bytes() != data:
                    raise AssertionError(f"{warning}, from {data!r}") from warning
            except run.api.RestartError as error:
                refused += 1
                if str(folder) not in str(error):
                    raise AssertionError(f"names no file: {error}; {data!r}") from error
                if path.read_bytes() != data:
                    raise AssertionError(f"touched: {data!r}") from error
            else:
                found += 1
                if must_fail or moment not in sample.moments:
                    raise AssertionError(f"{moment} from {data!r}")
        run.tell("found", found)
        run.tell("refused", refused)
        run.tell("empty", empty)
        run.tell("left", sorted(name for name in os.listdir(folder) if name.startswith(".")))

    restore(folder, sample.content)
    child = start(look, folder, prepare=lambda tell: setattr(os, "fsync", lambda fd: None))
    outcome = child.wait(240)
    assert outcome.end == "done", f"{outcome.error}\n{outcome.trace}"
    judge_manners(outcome, sample.name)
    assert outcome.told["left"] == [[]], outcome.told["left"]
    return outcome


@every_sample
def test_a_progress_file_that_was_cut_short_is_an_error(make: Callable[[Run], None], tmp_path: Path) -> None:
    """Every prefix is refused by name and stays as it is; the empty one is no save, and warned of by name."""
    one = sample(make, tmp_path / "work")
    prefixes = (one.data[:size] for size in range(len(one.data)))
    outcome = judge_all(one, tmp_path / "work", prefixes, must_fail=True)
    assert outcome.told["refused"] == [len(one.data) - 1]
    assert outcome.told["empty"] == [1]


@every_sample
def test_a_progress_file_of_zeros_counts_as_no_save(make: Callable[[Run], None], tmp_path: Path) -> None:
    """A power failure may leave the length and zeros: the same as an empty file, whatever the length."""
    one = sample(make, tmp_path / "work")
    outcome = judge_all(one, tmp_path / "work", iter([bytes(len(one.data)), bytes(10), bytes(4096)]))
    assert outcome.told["empty"] == [3]


FORMAT_1 = (
    b'{"format": "py_restart", "version": 1, "written": "2026-11-25T18:38:26Z", "process": 12962, "host": "vm", '
    b'"finished": false, "length": 10, "around": [], "registered": [], "inside": [], "id": "38185641", "save": 1, '
    b'"files": {}, "before": {}, "inner_files": [], "over": false' + b" " * 216 + b', "check": "b6a3d800"}\n'
    b"position 1 use 1 by process 12962 on vm check 1-a06826cd" + b" " * 71 + b"\n"
    b"position 7 use 1 by process 12962 on vm check 7-a06826cd" + b" " * 71 + b"\n"
)


def test_a_file_of_format_1_is_refused_by_the_name_of_its_format(tmp_path: Path) -> None:
    """What version 1 has saved is neither read nor touched; the error says what it is."""
    path = tmp_path / "run.tmp"
    path.write_bytes(FORMAT_1)
    with pytest.raises(py_restart.RestartError, match=r"run\.tmp: .*format 1\b"):
        py_restart.enable_counter(path)
    assert listing(tmp_path) == {"run.tmp": FORMAT_1}


def judge_flips(one: Sample, folder: Path, bits: Iterable[int]) -> None:
    flipped = [
        one.data[:place] + bytes([one.data[place] ^ (1 << bit)]) + one.data[place + 1 :]
        for place in range(len(one.data))
        for bit in bits
    ]
    outcome = judge_all(one, folder, iter(flipped))
    assert outcome.told["refused"][0] + outcome.told["found"][0] == len(flipped)
    assert outcome.told["refused"] != [0] and outcome.told["found"] != [0]


@every_sample
def test_a_flipped_bit_in_each_byte_of_a_progress_file_never_gives_a_wrong_position(
    make: Callable[[Run], None], tmp_path: Path
) -> None:
    """One bit of each byte: a whole record, or a refusal; both occur."""
    judge_flips(sample(make, tmp_path / "work"), tmp_path / "work", [MAKERS.index(make)])


@pytest.mark.long
@every_sample
def test_any_flipped_bit_in_a_progress_file_never_gives_a_wrong_position(
    make: Callable[[Run], None], tmp_path: Path
) -> None:
    """Every single bit: a whole record, or a refusal; both occur."""
    judge_flips(sample(make, tmp_path / "work"), tmp_path / "work", range(8))


def mutations(data: bytes, number: int, seed: int) -> Iterator[bytes]:
    """Random damage: bytes overwritten, left out, put in, doubled, exchanged, digits counted up, an end cut off."""
    chance = random.Random(seed)
    for _ in range(number):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            size = len(changed)
            a, b = sorted((chance.randrange(size + 1), chance.randrange(size + 1)))
            b = min(b, a + chance.choice((1, 2, 8, 70, 600)))
            kind = chance.randrange(8)
            if kind == 0:
                changed[a:b] = chance.randbytes(b - a)
            elif kind == 1:
                del changed[a:b]
            elif kind == 2:
                changed[a:a] = chance.randbytes(chance.choice((1, 2, 64)))
            elif kind == 3:
                changed[a:a] = changed[a:b]
            elif kind == 4:
                changed[a:b] = bytes(b - a)
            elif kind == 5:
                changed[a:b] = changed[a:b].translate(bytes.maketrans(b"0123456789", b"1234567890"))
            elif kind == 6:
                c = chance.randrange(size + 1)
                changed[a:b], changed[c : c + b - a] = changed[c : c + b - a], changed[a:b]
            else:
                changed[a:] = changed[a:][: chance.randrange(64)]
            changed = changed or bytearray(b"\\n")
        yield bytes(changed)


@every_sample
def test_random_damage_never_gives_a_wrong_position(make: Callable[[Run], None], tmp_path: Path) -> None:
    """A few hundred random mutations of each kind of progress file."""
    one = sample(make, tmp_path / "work")
    judge_all(one, tmp_path / "work", mutations(one.data, 300, seed=1))


@pytest.mark.long
@every_sample
def test_much_random_damage_never_gives_a_wrong_position(make: Callable[[Run], None], tmp_path: Path) -> None:
    """The same, as often as the guide says."""
    one = sample(make, tmp_path / "work")
    each = -(-figures.RANDOM_MUTATIONS // len(MAKERS))
    outcome = judge_all(one, tmp_path / "work", mutations(one.data, each, seed=2))
    # A mutation that changes nothing is passed over; there are few of these.
    assert outcome.told["refused"][0] + outcome.told["found"][0] + outcome.told["empty"][0] > 0.9 * each


# -------------------------------------------------------------------- what a commit or a removal leaves behind


def damages(content: dict[str, bytes | None], chance: random.Random) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Each file of the folder damaged in its turn: a bit flipped, cut short, emptied, gone."""
    for name, data in content.items():
        if data:
            place = chance.randrange(len(data))
            flipped = data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
            for how, changed in (("flipped", flipped), ("cut", data[: len(data) // 2]), ("emptied", b"")):
                yield f"{name} {how}", {**content, name: changed}
            yield f"{name} gone", {other: value for other, value in content.items() if other != name}


DAMAGED = [
    job for job in JOBS if job.name in ("objects_and_functions", "ended_by_break", "several", "joint", "forgotten")
]


def damage_leftovers(index: int, folder: Path, tries: int) -> tuple[int, int]:
    """Damage what kills have left of a job, and run it; return how many runs ended right and how many were refused."""
    job, chance = DAMAGED[index], random.Random(3)
    done = refused = 0
    states = hidden_states(job, folder)
    share = tries / (sum(len(content) for _, content, _ in states) * 4)
    for place, content, outcomes in states:
        for how, damaged in damages(content, chance):
            if chance.random() > share:
                continue
            restore(folder, damaged)
            outcome = run(job.function, folder, seen_in(outcomes))
            context = f"{place}, {how}"
            if outcome.end == "done":
                done += 1
                assert outcome.results == [job.result], f"{context}: {outcome.results}"
                continue
            refused += 1
            name = how.rsplit(" ", 1)[0]
            kind = "UserWarning: " if is_progress(name) and how.endswith("emptied") else "RestartError: "
            assert outcome.error.startswith(kind), f"{context}: {outcome.error}\n{outcome.trace}"
            assert str(folder) in outcome.error, f"{context}: names no file: {outcome.error}"
            if not name.startswith(".") and name in damaged and name in job.names:
                assert listing(folder).get(name) == damaged[name], f"{context}: touched: {outcome.error}"
    return done, refused


@pytest.mark.long
@pytest.mark.parametrize("index", range(len(DAMAGED)), ids=lambda index: DAMAGED[index].name)
def test_damaged_leftovers_of_a_kill_give_the_right_result_or_an_error(index: int, tmp_path: Path) -> None:
    """What a kill leaves of a commit or of a removal, damaged: never a wrong result, never another exception."""
    done, refused = damage_leftovers(index, tmp_path / "work", tries=150)
    assert done and refused

"""Run jobs in child processes that die, or fail, at a chosen file operation.

A job is a function that takes a ``Run``. Each run of it is a fork of this process: a few milliseconds, and SIGKILL
can end it at any instruction without harm to anybody else. What the job has done is told through shared memory,
message by message, so that nothing which was told before a kill is lost, and so that neither a full disk nor a file
size limit can stop it.

Every call by which Python code changes files is replaced in the child, so that an ``Injector`` sees each one and may
kill the process before or after it, or let it fail. A kill takes nothing away from the kernel's page cache; so
``fsync`` does nothing in these children, unless it is told to fail. What a power cut takes away is the business of
``disk.py``.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import gc
import io
import json
import mmap
import os
import pickle
import queue
import select
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import py_restart

# Imported here, once, rather than in each of thousands of children.
WARM = (json, pickle, queue, zlib)

TIME_LIMIT = 30.0  # seconds that a child may take before it is killed and the test fails
ROOM = 64 << 20  # bytes for what one child tells; the system gives only what is used


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(Exception):
    """The exception by which a job is interrupted on purpose."""


@dataclass
class Run:
    """What a job sees of the test: its folder, the library, and somebody to tell what it does."""

    folder: Path
    api: ModuleType
    seen: frozenset[Any]
    tell: Callable[..., None]
    on_item: Callable[[], None] = lambda: None

    def item(self, what: Any) -> None:
        """Say that the item starts now."""
        self.tell("item", what)
        self.on_item()

    def stop_once(self, tag: Any) -> None:
        """Raise ``Stop``, but only in the first run that comes here."""
        if tag not in self.seen:
            self.tell("seen", tag)
            raise Stop(str(tag))

    def result(self, what: Any) -> None:
        """Say what came out; what follows is the end of the work."""
        self.tell("result", what)


@dataclass
class Outcome:
    """What one run of a job has told, and how it ended: done, stopped, error or killed."""

    items: list[Any] = field(default_factory=list)
    seen: set[Any] = field(default_factory=set)
    results: list[Any] = field(default_factory=list)
    told: dict[str, list[Any]] = field(default_factory=dict)
    end: str = "killed"
    error: str = ""
    trace: str = ""
    status: int = 0

    def take(self, kind: str, what: Any) -> None:
        if kind == "item":
            self.items.append(what)
        elif kind == "seen":
            self.seen.add(what)
        elif kind == "result":
            self.results.append(what)
        elif kind == "end":
            self.end, self.error, self.trace = what
        else:
            self.told.setdefault(kind, []).append(what)


class Child:
    """A running fork that runs ``function(tell)``."""

    def __init__(self, function: Callable[[Callable[..., None]], tuple[str, str, str]]) -> None:
        self._told = mmap.mmap(-1, ROOM)
        reading, writing = os.pipe()  # its end is that of the child
        # A signal that comes too early waits until the child has its own handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with warnings.catch_warnings():
            # 3.12 warns of a fork beside threads; the child touches nothing that another thread could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            gc.freeze()
            self.pid = os.fork()
        if self.pid == 0:
            _live(function, self._told, reading, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
        self._pipe = reading

    def send(self, number: int) -> bool:
        """Send a signal; False where the child has ended already."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        os.kill(self.pid, number)
        return True

    def wait(self, limit: float = TIME_LIMIT) -> Outcome:
        """Collect what it tells until it ends."""
        outcome = Outcome()
        is_late = not select.select([self._pipe], [], [], limit)[0]
        if is_late:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._pipe)
        outcome.status = os.waitpid(self.pid, 0)[1]
        while size := int.from_bytes(self._told.read(4), "big"):
            message = self._told.read(size)
            if not message.endswith(pickle.STOP):
                break  # killed while it told that
            outcome.take(*pickle.loads(message))
        self._told.close()
        if is_late:
            outcome.end, outcome.error = "error", f"no end after {limit} seconds; told {outcome}"
        return outcome


def _live(
    function: Callable[[Callable[..., None]], tuple[str, str, str]], told: mmap.mmap, other: int, mask: Any
) -> None:
    """The whole life of a child."""
    write = os.write
    try:
        os.close(other)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        def tell(kind: str, what: Any = None) -> None:
            data = pickle.dumps((kind, what))
            told.write(len(data).to_bytes(4, "big") + data)  # in one step: threads and signal handlers tell, too

        sys.unraisablehook = lambda what: tell("unraisable", f"{what.exc_value!r} in {what.object!r}")
        sys.stdout = sys.stderr = io.StringIO()
        warnings.resetwarnings()
        warnings.simplefilter("error")
        tell("end", function(tell))
        if sys.stdout.getvalue():
            tell("printed", sys.stdout.getvalue())
    except BaseException:
        write(2, traceback.format_exc().encode())
        os._exit(70)
    os._exit(0)


def attempt(run: Run, function: Callable[[Run], None]) -> tuple[str, str, str]:
    """Run a job and say how it ended."""
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            function(run)
        finally:  # what comes from here on comes too late
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    except Stop as error:
        return "stopped", "; ".join([str(error), *getattr(error, "__notes__", ())]), ""
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}", traceback.format_exc()
    return "done", "", ""


def start(
    function: Callable[[Run], None],
    folder: Path,
    seen: Iterable[Any] = (),
    *,
    prepare: Callable[[Callable[..., None]], None] = lambda tell: None,
) -> Child:
    """Fork a child that runs the job in the folder, after ``prepare(tell)``."""

    def live(tell: Callable[..., None]) -> tuple[str, str, str]:
        prepare(tell)
        return attempt(Run(folder, py_restart, frozenset(seen), tell), function)

    return Child(live)


def run(
    function: Callable[[Run], None],
    folder: Path,
    seen: Iterable[Any] = (),
    act: Act | None = None,
) -> Outcome:
    """Run the job once, to its end or to that of ``act``."""
    return start(function, folder, seen, prepare=lambda tell: Injector(act or _count, tell).install()).wait()


# What may happen at an operation: act(number, name, call, tell) makes the call, or not.
Act = Callable[[int, str, Callable[[], Any], Callable[..., None]], Any]


def _count(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
    tell("operation", name)
    return call()


def kill_at(n: int, *, after: bool) -> Act:
    """SIGKILL at the n-th operation, before or after it takes effect."""

    def act(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        tell("operation", name)
        result = call() if number != n or after else None
        if number == n:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(TIME_LIMIT)  # where the kill comes to another thread first
        return result

    return act


GROWING = {"open", "write", "pwrite", "fsync", "mkdir", "ftruncate", "truncate"}


def fail_at(n: int, number_of_error: int, *, lasting: bool = False) -> Act:
    """OSError at the n-th operation; ``lasting``: also at each later one that needs room on the disk."""

    def act(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        tell("operation", name)
        if number == n or (lasting and number > n and name in GROWING):
            tell("failed", name)
            raise OSError(number_of_error, os.strerror(number_of_error))
        return call()

    return act


class Injector:
    """Sees each file-changing call of this process, one at a time, and lets ``act`` decide."""

    def __init__(self, act: Act, tell: Callable[..., None]) -> None:
        self._act, self._tell = act, tell
        self._number = 0
        self._lock = threading.RLock()

    def do(self, name: str, call: Callable[[], Any], *what: Any) -> Any:
        with self._lock:
            self._number += 1
            return self._act(self._number, name, call, self._tell)

    def install(self) -> None:
        """Replace the calls; for good, since the process is a child of its own."""
        for name in (*CHANGES, "fsync", "fdatasync"):
            if hasattr(os, name):
                setattr(os, name, self._wrapped(name, getattr(os, name)))
        real_open, real_flock = os.open, fcntl.flock
        fcntl.flock = lambda fd, how: (
            real_flock(fd, how) if how & fcntl.LOCK_UN else self.do("flock", lambda: real_flock(fd, how))
        )
        os.open = lambda path, flags, *rest, **named: (
            self.do("open", lambda: real_open(path, flags, *rest, **named))
            if flags & WRITING
            else real_open(path, flags, *rest, **named)
        )
        builtins.open = io.open = opener(self.do)
        rebind(TAKEN)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        if name in ("fsync", "fdatasync"):
            return lambda fd: self.do("fsync", lambda: None)
        return lambda *args, **named: self.do(name, lambda: real(*args, **named))


def taken_by_name() -> list[tuple[ModuleType, str, str]]:
    """Which modules of the library have taken which calls of ``os`` by name, and what they call them."""
    real = {getattr(os, call, None): call for call in (*CHANGES, "open", "fsync", "fdatasync", "dup")}
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "py_restart"]
    return [
        (module, name, real[value])
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, BuiltinFunctionType) and value in real
    ]


def rebind(taken: list[tuple[ModuleType, str, str]]) -> None:
    """Hand them the replaced calls."""
    for module, name, call in taken:
        setattr(module, name, getattr(os, call))


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = (
    *("write", "pwrite", "writev", "pwritev", "ftruncate", "truncate"),
    *("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link", "symlink"),
)


TAKEN = taken_by_name()  # here, since to look for it makes a child copy a thousand pages


def opener(do: Callable[..., Any]) -> Any:
    """An ``open`` whose files call ``do(name, call, ...)`` for being opened for writing and for each write that
    leaves them.
    """
    real = io.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            return do("write", lambda: io.FileIO.write(self, data), self.fileno(), self.tell(), data)

        def truncate(self, size: int | None = None) -> int:
            return do("truncate", lambda: io.FileIO.truncate(self, size), self.fileno(), size)

    def open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+"):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)

        def make() -> Raw:
            return Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)

        raw = make() if isinstance(file, int) else do("open", make, file, mode)
        if buffering == 0:
            return raw
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    return open


# --------------------------------------------------------------------------------------------- folders


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below the folder with its content; None for a folder."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def restore(folder: Path, content: dict[str, bytes | None]) -> None:
    """Make the folder hold exactly this."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in content.items():
        if data is None:
            (folder / name).mkdir(exist_ok=True)
    for name, data in content.items():
        if data is not None:
            (folder / name).write_bytes(data)


# ------------------------------------------------------------------------------------------- judgements


@dataclass(frozen=True)
class Job:
    """A job, the items of its uninterrupted run in order, and what may be said of an interrupted one."""

    function: Callable[[Run], None]
    sequence: tuple[Any, ...]
    result: Any
    names: frozenset[str]  # of the files that a save of it may hold
    whole: Callable[[int], int] | None = None  # from the item that was running to the first that may run next
    stops: int = 0  # how many times it stops of itself
    inner: int = 0  # items of an inner loop whose end removes its save; the outer loop saves on failure only

    @property
    def name(self) -> str:
        return self.function.__name__

    def earliest(self, outcomes: list[Outcome]) -> int:
        """Where the next run may start at the earliest after these runs, as an index into the sequence."""
        for number, outcome in reversed(list(enumerate(outcomes))):
            saved = outcome.end == "stopped" and "failed" not in outcome.told
            if saved and outcome.error.startswith("after"):
                return len(self.sequence)  # stopped behind the loop: nothing of it runs again
            if outcome.results or (outcome.items and outcome.items[-1] == self.sequence[-1] and not saved):
                return 0  # the end of the work had begun: the next run may be a new one
            if outcome.items and (saved or self.whole):
                index = self.sequence.index(outcome.items[-1])
                index = self.whole(index) if self.whole else index
                later = {item for other in outcomes[number + 1 :] for item in other.items}
                if self.inner and self.sequence[index // self.inner * self.inner + self.inner - 1] in later:
                    index = index // self.inner * self.inner
                return index
        return 0


def finish(job: Job, folder: Path, outcomes: list[Outcome], context: str = "") -> list[Outcome]:
    """Run the job until it is done, and judge all its runs together."""
    outcomes = list(outcomes)
    for _ in range(job.stops + 2):
        seen = frozenset().union(*(outcome.seen for outcome in outcomes))
        outcomes.append(run(job.function, folder, seen))
        judge_start(job, outcomes, context)
        if outcomes[-1].end != "stopped":
            break
    judge(job, folder, outcomes, context)
    return outcomes


def judge_start(job: Job, outcomes: list[Outcome], context: str) -> None:
    """The run that was the last started where the ones before it had left off: nothing left out, nothing lost."""
    *before, last = outcomes
    assert last.end in ("done", "stopped"), f"{context}: {last.error}\n{last.trace}"
    assert not last.told.get("unraisable"), (context, last.told["unraisable"])
    assert not last.told.get("printed"), (context, last.told["printed"])
    if before and last.items:
        first = job.sequence.index(last.items[0])
        assert first >= job.earliest(before), (
            f"{context}: {last.items} after {[o.items for o in before]}: a save is lost"
        )
    expected = job.sequence[job.sequence.index(last.items[0]) :] if last.items else ()
    assert tuple(last.items) == expected[: len(last.items)], f"{context}: {last.items} leaves something out"


def judge(job: Job, folder: Path, outcomes: list[Outcome], context: str) -> None:
    """The same as without an interruption: result, every item, an empty folder."""
    last = outcomes[-1]
    assert last.end == "done", f"{context}: {last.error}\n{last.trace}"
    assert last.results == [job.result], f"{context}: {last.results} instead of {job.result}"
    ran = {item for outcome in outcomes for item in outcome.items}
    assert ran == set(job.sequence), f"{context}: never run: {set(job.sequence) - ran}"
    assert listing(folder) == {}, f"{context}: left behind: {sorted(listing(folder))}"


def debris(job: Job, folder: Path) -> list[str]:
    """What lies in the folder and belongs to no save.

    What a progress file counts as saved, and could not be moved to its place, does: the next start moves it.
    """
    saved = set()
    for path in folder.glob("*.tmp"):
        header = json.loads(path.read_bytes().partition(b"\n")[0])
        saved |= {f".{name}.{header['id']}-{header['save']}" for name in {*header["files"], *header["before"]}}
    return [name for name in listing(folder) if name.split(os.sep)[0] not in job.names | saved]


def error_number(name: str) -> int:
    return int(getattr(errno, name))

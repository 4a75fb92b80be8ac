"""Run jobs in child processes that die, or fail, at a chosen file operation.

A job is a function that takes a ``Run``. Each run of it is a fork of this process: a few milliseconds, and SIGKILL
can end it at any instruction without harm to anybody else. What the job has done is told through shared memory,
message by message, so that nothing which was told before a kill is lost, and so that neither a full disk nor a file
size limit can stop it.

Every call by which Python code changes files is replaced in the child, so that an ``Injector`` sees each one and may
kill the process before or after it, let it fail, or send a signal. A kill takes nothing away from the kernel's page
cache; so ``fsync`` does nothing in these children, unless it is told to fail. What a power cut takes away is the
business of ``disk.py``. ``os.close`` changes no file, so nobody is killed there, but it may fail, and it is watched: no
job may close a descriptor twice, or leave one open.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import io
import json
import mmap
import os
import pickle
import re
import select
import shutil
import signal
import stat
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
WARM = (json, pickle, zlib)

TIME_LIMIT = 100.0  # seconds that a child may take before it is killed and the test fails
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
        before = descriptors()
        end = attempt(Run(folder, py_restart, frozenset(seen), tell), function)
        if left := descriptors() - before:
            tell("left open", sorted(left))
        return end

    return Child(live)


def descriptors() -> set[tuple[int, str]]:
    """The open descriptors of this process, and what they lead to."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself is gone
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


# What may happen at an operation: act(number, name, call, tell) makes the call, or not.
Act = Callable[[int, str, Callable[[], Any], Callable[..., None]], Any]


def count(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
    """Nothing happens; how many operations there are is told."""
    tell("operation", name)
    return call()


def run(
    function: Callable[[Run], None],
    folder: Path,
    seen: Iterable[Any] = (),
    act: Act = count,
    closes: bool = False,
) -> Outcome:
    """Run the job once, to its end or to that of ``act``."""
    return start(function, folder, seen, prepare=lambda tell: Injector(act, tell, closes).install()).wait()


def kill_at(n: int, *, after: bool) -> Act:
    """SIGKILL at the n-th operation, before or after it takes effect, or fails."""

    def act(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        tell("operation", name)
        try:
            return call() if number != n or after else None
        finally:
            if number == n:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(TIME_LIMIT)  # where the kill comes to another thread first

    return act


GROWING = {"open", "write", "pwrite", "fsync", "mkdir", "ftruncate", "truncate"}


def fail_at(n: int, number_of_error: int, *, lasting: bool = False) -> Act:
    """OSError at the n-th operation; ``lasting``: also at each later one that needs room on the disk.

    A descriptor is closed by a ``close`` that fails: "Linux always releases the file descriptor early" (close(2)).
    """

    def act(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        tell("operation", name)
        if number == n or (lasting and number > n and name.split()[0] in GROWING):
            tell("failed", name)
            if name == "close":
                call()
            raise OSError(number_of_error, os.strerror(number_of_error))
        return call()

    return act


def refuse(kinds: Iterable[str], number_of_error: int, act: Act = count) -> Act:
    """OSError at each operation of these kinds, as on a mount that cannot do it; beside what else happens."""

    def refusing(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        def refused() -> Any:
            tell("refused", name)
            raise OSError(number_of_error, os.strerror(number_of_error))

        return act(number, name, refused if name in kinds else call, tell)

    return refusing


sent: list[str] = []  # in a child: at which operation it has got a signal


def send_at(n: int, number_of_signal: int, *, after: bool) -> Act:
    """The signal at the n-th operation, before or after it takes effect; its handler, if any, runs within the act."""

    def send(name: str, tell: Callable[..., None]) -> None:
        sent.append(name)
        tell("sent", name)
        signal.raise_signal(number_of_signal)

    def act(number: int, name: str, call: Callable[[], Any], tell: Callable[..., None]) -> Any:
        tell("operation", name)
        if number == n and not after:
            send(name, tell)
        try:
            return call()
        finally:
            if number == n and after:
                send(name, tell)

    return act


class Injector:
    """Sees each file-changing call of this process, one at a time, and lets ``act`` decide.

    Where ``closes`` is true, ``close`` is one of them. A second ``close`` of a descriptor is told in any case.
    """

    def __init__(self, act: Act, tell: Callable[..., None], closes: bool = False) -> None:
        self._act, self._tell, self._closes = act, tell, closes
        self._number = 0
        self._old: set[int] = set()  # descriptors of files that were there before
        self._lock = threading.RLock()

    def do(self, name: str, call: Callable[[], Any], *what: Any) -> Any:
        if name == "close" and not self._closes:
            return call()
        with self._lock:
            self._number += 1
            return self._act(self._number, name, call, self._tell)

    def install(self) -> None:
        """Replace the calls; for good, since the process is a child of its own."""
        for name in (*CHANGES, *FLUSHES, "close", "open"):
            if hasattr(os, name):
                setattr(os, name, getattr(self, f"_{name}", self._wrapped)(getattr(os, name), name))
        real_flock = fcntl.flock
        fcntl.flock = lambda fd, how: (
            real_flock(fd, how) if how & fcntl.LOCK_UN else self.do("flock", lambda: real_flock(fd, how))
        )
        builtins.open = io.open = opener(self.do)
        rebind(TAKEN)

    def _wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda *args, **named: self.do(name, lambda: real(*args, **named))

    def _open(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if not flags & WRITING:
                return int(real(path, flags, *rest, **named))
            fd = int(self.do(name, lambda: real(path, flags, *rest, **named)))
            (self._old.discard if flags & (os.O_EXCL | os.O_TRUNC) else self._old.add)(fd)
            return fd

        return call

    def _pwrite(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda fd, data, offset: self.do(
            name if fd not in self._old else f"{name} in place", lambda: real(fd, data, offset)
        )

    def _rename(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(old: Any, new: Any, **named: Any) -> None:
            self.do("move a folder aside" if is_in_place(old) else name, lambda: real(old, new, **named))

        return call

    _replace = _rename

    def _fsync(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda fd: self.do("fsync" if not stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync folder", lambda: None)

    _fdatasync = _fsync

    def _close(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        watched = watched_close(real, self._tell)
        return lambda fd: self.do(name, lambda: watched(fd))


def is_in_place(path: Any) -> bool:
    """Whether it is a folder that was saved and is in its place. What is staged has a hidden name, or is in such."""
    return os.path.isdir(path) and not any(part.startswith(".") for part in Path(path).parts[-2:])


def watched_close(real: Callable[[int], None], tell: Callable[..., None]) -> Callable[[int], None]:
    """A ``close`` that tells where a descriptor is closed that is not open."""

    def close(fd: int) -> None:
        try:
            real(fd)
        except OSError as error:
            tell("closed twice", f"{fd}: {error}")
            raise

    return close


def taken_by_name() -> list[tuple[ModuleType, str, str]]:
    """Which modules of the library have taken which calls of ``os`` by name, and what they call them."""
    real = {getattr(os, call, None): call for call in (*CHANGES, *FLUSHES, "close", "open", "dup")}
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


FLUSHES = ("fsync", "fdatasync")
TAKEN = taken_by_name()  # here, since to look for it makes a child copy a thousand pages


def opener(do: Callable[..., Any]) -> Any:
    """An ``open`` whose files call ``do(name, call, ...)`` for being opened for writing, for each write that leaves
    them, and for being closed.
    """
    real = io.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            return do("write", lambda: io.FileIO.write(self, data), self.fileno(), self.tell(), data)

        def truncate(self, size: int | None = None) -> int:
            return do("truncate", lambda: io.FileIO.truncate(self, size), self.fileno(), size)

        def close(self) -> None:
            if not self.closed:
                do("close", lambda: io.FileIO.close(self), self.fileno())

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


def moments(data: bytes | None) -> list[dict[str, Any]]:
    """The whole records of a progress file, the newest first."""
    found = []
    for line in (data or b"").splitlines()[1:]:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return sorted(found, key=lambda record: record["save"], reverse=True)


def files_of(moment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What belongs to a moment, by path, with sizes and digests."""
    found = dict(moment["files"])
    for inner in moment["inside"]:
        found |= files_of(inner)
    return found


def is_of(stamp: dict[str, Any], data: bytes | None) -> bool:
    """Whether this is what a record names; of a folder, of which it takes the package to know, True."""
    return data is None or (len(data), f"{zlib.crc32(data):08x}") == (stamp["size"], stamp["digest"])


def require_whole(folder: Path, context: str) -> None:
    """All that the newest record of each progress file names is there, with its size and digest."""
    content = listing(folder)
    for name in [name for name in content if name.endswith(".tmp") and not name.startswith(".")]:
        newest = moments(content[name])[0]
        for path, stamp in files_of(newest).items():
            assert path in content and is_of(stamp, content[path]), f"{context}: {path} is not of the moment {newest}"


def is_lock(name: str) -> bool:
    """Whether it is a lock file: what a kill leaves behind, and the next user takes and removes."""
    return name.startswith(".") and name.endswith(".tmp.lock")


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

    @property
    def name(self) -> str:
        return self.function.__name__

    def earliest(self, outcomes: list[Outcome]) -> int:
        """Where the next run may start at the earliest after these runs, as an index into the sequence."""
        for outcome in reversed(outcomes):
            saved = outcome.end == "stopped" and "failed" not in outcome.told
            if saved and outcome.error.startswith("after"):
                return len(self.sequence)  # stopped behind the loop: nothing of it runs again
            if outcome.results or (outcome.items and outcome.items[-1] == self.sequence[-1] and not saved):
                return 0  # the end of the work had begun: the next run may be a new one
            if outcome.items and (saved or self.whole):
                index = self.sequence.index(outcome.items[-1])
                return self.whole(index) if self.whole and not saved else index
        return 0


def finish(job: Job, folder: Path, outcomes: list[Outcome], context: str = "", act: Act = count) -> list[Outcome]:
    """Run the job until it is done, and judge all its runs together."""
    outcomes = list(outcomes)
    for _ in range(job.stops + 2):
        outcomes.append(run(job.function, folder, seen_in(outcomes), act))
        judge_start(job, outcomes, context)
        if outcomes[-1].end != "stopped":
            break
    judge(job, folder, outcomes, context)
    return outcomes


def seen_in(outcomes: Iterable[Outcome]) -> frozenset[Any]:
    """The stops that are behind these runs."""
    return frozenset().union(*(outcome.seen for outcome in outcomes))


NEVER = ("unraisable", "printed", "closed twice", "left open")


def judge_manners(outcome: Outcome, context: str) -> None:
    """Whatever happened: nothing printed, no exception dropped, no descriptor closed twice or left open."""
    told = {kind: outcome.told[kind] for kind in NEVER if kind in outcome.told}
    assert not told, f"{context}: {told}\n{outcome.error}\n{outcome.trace}"


def judge_start(job: Job, outcomes: list[Outcome], context: str) -> None:
    """The run that was the last started where the ones before it had left off: nothing left out, nothing lost."""
    *before, last = outcomes
    assert last.end in ("done", "stopped"), f"{context}: {last.error}\n{last.trace}"
    judge_manners(last, context)
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


STAGED = re.compile(r"\.(.+)\.[0-9a-f]{8}-[ab]")


def debris(job: Job, folder: Path) -> list[str]:
    """What lies in the folder and belongs to no save.

    What the newest record of a progress file names, and could not be moved to its place, does: the next start moves it.
    """
    content = listing(folder)
    saved: dict[str, dict[str, Any]] = {}
    for path in folder.glob("*.tmp"):
        for moment in moments(content[path.name])[:1]:
            saved |= files_of(moment)

    def belongs(name: str) -> bool:
        top = name.split(os.sep)[0]
        staged = STAGED.fullmatch(top)
        if staged and staged[1] in saved:
            inner = os.path.join(top, staged[1])  # a function writes into a folder
            return is_of(saved[staged[1]], content.get(inner) if inner in content else content[top])
        return top in job.names

    return [name for name in content if not belongs(name)]

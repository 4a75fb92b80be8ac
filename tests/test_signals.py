"""Stops that should save, and signals that wait for a save."""

import _signal
import _thread
import asyncio
import contextlib
import ctypes
import dis
import errno
import fcntl
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from py_restart import RestartError, enable_counter, multi_count, simple_counter

LIMIT = 10  # seconds in which a stop must come
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
OTHERS = [signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGRTMIN]
OPERATIONS = ("open", "pwrite", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


def me(number):
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def handlers():
    """Return what happens at each signal: which it is, since what stands in for a handler is equal to that."""
    return [repr(_signal.getsignal(number)) for number in range(1, 65) if number not in (32, 33)]


def counted(tell, inside, **options):
    """Count ten items with an object, and do something in item 4."""
    with enable_counter("run", **options) as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(10)):
            if i == 4:
                inside()
            seen.append(i)
    tell(seen)


def resumed(path="run"):
    """Return what the next run starts with."""
    counter = enable_counter(path)
    return counter.position, counter.save_load_object([], "seen")


class Limit(Exception):
    """What a time limit raises."""


def raise_limit(number, frame):
    raise Limit(number)


class Saved:
    """An object during whose pickling something happens."""

    def __init__(self, during):
        self.during, self.armed = during, False

    def __reduce__(self):
        if self.armed:
            self.during()
        return (str, ("whole",))


# Inside a block.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_in_a_with_saves_and_ends_with_the_shells_status(folder, run_child, number):
    """SIGTERM and SIGHUP, where the program left them at their default."""
    child = run_child(counted, lambda: me(number))
    assert (child.status, child.error) == (128 + number, f"SystemExit: {128 + number}")
    assert resumed() == (4, [0, 1, 2, 3])


def test_ctrl_c_in_a_with_saves(folder, run_child):
    """As any exception does."""
    assert run_child(counted, lambda: me(signal.SIGINT)).error == "KeyboardInterrupt"
    assert resumed() == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_outside_of_a_with_does_what_it_does_elsewhere(folder, run_child, number):
    """A loop without a block has its last boundary."""

    def job(tell):
        for i in simple_counter("run", range(10)):
            if i == 4:
                me(number)

    assert run_child(job).status == -number
    assert enable_counter("run").position == 4


@pytest.mark.parametrize("number", [*STOPS, *OTHERS])
def test_a_handler_of_the_program_is_called_as_it_would_have_been(folder, run_child, number):
    """With the number and a frame; whether it raises is its own business."""

    def job(tell):
        signal.signal(number, lambda got, frame: tell((got, frame is not None)))
        counted(tell, lambda: me(number))

    assert run_child(job).told == [(number, True), list(range(10))]


@pytest.mark.parametrize("number", [*STOPS, signal.SIGALRM])
def test_what_a_handler_of_the_program_raises_ends_the_block(folder, run_child, number):
    """Which saves, as at any exception."""

    def job(tell):
        signal.signal(number, raise_limit)
        counted(tell, lambda: me(number))

    assert run_child(job).error == f"test_signals.Limit: {int(number)}"
    assert resumed() == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("number", [*STOPS, signal.SIGUSR1])
def test_what_the_program_ignores_stays_ignored(folder, run_child, number):
    """As under `nohup`; during a save too."""

    def job(tell):
        signal.signal(number, signal.SIG_IGN)
        value = Saved(lambda: me(number))
        value.armed = True
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object(value, "object")
            for _ in counter(range(3)):
                me(number)
        counted(tell, lambda: me(number))
        assert signal.getsignal(number) == signal.SIG_IGN

    child = run_child(job)
    assert (child.told, child.status) == ([list(range(10))], 0)


def test_the_handlers_that_were_there_come_back(folder):
    """With the end of the last block, whatever ended it; and after each save outside a block."""
    before = handlers()
    with enable_counter("outer"):
        assert handlers() != before
        with enable_counter("inner"):
            pass
        assert handlers() != before
    assert handlers() == before
    with pytest.raises(KeyError):
        with enable_counter("outer") as counter:
            for _ in counter(range(3)):
                raise KeyError
    assert handlers() == before
    counter = enable_counter("run", each_save=True)
    _kept = counter.save_load_object([], "seen")
    for _ in counter(range(3)):
        assert handlers() == before
    with multi_count():
        for _ in simple_counter("run", range(3)):
            assert handlers() == before
    assert handlers() == before


@pytest.mark.parametrize("numbers", [[], [signal.SIGTERM, signal.SIGALRM]], ids=["none", "of the program"])
def test_no_handler_is_left_behind_by_a_loop_that_ends_by_a_stop(folder, run_child, numbers):
    """Or by a time limit in the middle of a save."""

    def job(tell):
        for number in numbers:
            signal.signal(number, raise_limit)
        before = handlers()
        for number in numbers or [signal.SIGINT, signal.SIGTERM]:
            value = Saved(lambda number=number: me(number))
            for each_save in (False, True):
                for is_in_save in (False, True):
                    with contextlib.suppress(Limit, KeyboardInterrupt, SystemExit):
                        with enable_counter("run", each_save=each_save) as counter:
                            _kept = counter.save_load_object(value, "object")
                            for i in counter(range(4)):
                                value.armed = is_in_save and i == 2
                                if i == 2 and not is_in_save:
                                    me(number)
                                if i == 3 and not each_save:
                                    raise KeyboardInterrupt
                    value.armed = False
                    tell(handlers() == before)
                    enable_counter("run").remove_files()

    assert set(run_child(job).told) == {True}


@pytest.mark.parametrize("number", STOPS)
def test_who_compares_a_handler_finds_that_of_the_program_and_who_puts_it_back_that_of_the_block(
    folder, run_child, number
):
    """Twisted and trio handle Ctrl-C where its handler is Python's own: else it ends in the middle of their loops."""

    def job(tell):
        def look():
            tell(former == signal.getsignal(number))
            signal.signal(number, signal.signal(number, signal.SIG_IGN))
            me(number)

        former = signal.getsignal(number)
        counted(tell, look)

    assert run_child(job).told == [True]
    assert resumed() == (4, list(range(4)))


def test_a_handler_that_the_program_sets_inside_the_block_stays(folder, run_child):
    """The library puts back only what is its own."""

    def job(tell):
        def mine(number, frame):
            tell("mine")

        def inside():
            signal.signal(signal.SIGTERM, mine)
            me(signal.SIGTERM)

        counted(tell, inside, each_save=True)
        assert signal.getsignal(signal.SIGTERM) == mine
        me(signal.SIGTERM)

    assert run_child(job).told == ["mine", list(range(10)), "mine"]


@pytest.mark.parametrize("is_first_to_end", [True, False])
def test_blocks_that_overlap_save_at_a_stop_until_the_last_one_ends(folder, run_child, is_first_to_end):
    """Tasks and generators do not end in the order in which they began."""

    def job(tell):
        before = handlers()
        one, two = enable_counter("one"), enable_counter("two")
        one.__enter__()
        two.__enter__()
        first, last = (one, two) if is_first_to_end else (two, one)
        first.__exit__(None, None, None)
        with pytest.raises(SystemExit):
            me(signal.SIGTERM)
        last.__exit__(None, None, None)
        tell(handlers() == before)

    assert run_child(job).told == [True]


# During a save.


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_during_a_save_waits_until_it_is_done(folder, run_child, number):
    """The save is whole, and the stop takes effect then."""

    def job(tell):
        value = Saved(lambda: (me(number), tell("saving")))
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object(value, "seen")
            for i in counter(range(10)):
                tell(i)
                value.armed = i == 3

    child = run_child(job)
    assert child.told == [0, 1, 2, 3, "saving"]
    assert child.error == "KeyboardInterrupt" if number == signal.SIGINT else child.status == 128 + number
    assert resumed() == (4, "whole")


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_during_a_save_outside_a_block(folder, run_child, number):
    """Ctrl-C has a Python handler and waits; what ends the process at once is as safe as `kill -9`."""

    def job(tell):
        value = Saved(lambda: (me(number), tell("saving")))
        counter = enable_counter("run", each_save=True)
        _kept = counter.save_load_object(value, "seen")
        for i in counter(range(10)):
            tell(i)
            value.armed = i == 3

    child = run_child(job)
    if number == signal.SIGINT:
        assert (child.told, child.error) == ([0, 1, 2, 3, "saving"], "KeyboardInterrupt")
        assert resumed() == (4, "whole")
    else:
        assert (child.told[:4], child.status) == ([0, 1, 2, 3], -number)
        assert resumed() in ((3, "whole"), (4, "whole"))


@pytest.mark.parametrize("number", [*STOPS, *OTHERS])
@pytest.mark.parametrize("way", ["with", "without", "at the end of a with"])
def test_every_signal_that_has_a_python_handler_waits_for_the_save(folder, run_child, number, way):
    """A time limit that raises in the middle of a commit would break it off: RQ, Celery, `signal.alarm`."""

    def job(tell):
        signal.signal(number, raise_limit)
        value = Saved(lambda: (me(number), tell("saving")))
        counter = enable_counter("run", each_save=way != "at the end of a with")
        with counter if way != "without" else contextlib.nullcontext():
            _kept = counter.save_load_object(value, "seen")
            for i in counter(range(10)):
                value.armed = i == (4 if way == "at the end of a with" else 3)
                if i == 4:
                    raise KeyError

    child = run_child(job)
    assert child.told == ["saving"]
    assert child.error == f"test_signals.Limit: {int(number)}"
    assert resumed() == (4, "whole")


def test_a_time_limit_at_any_operation_of_a_save_leaves_it_whole(folder):
    """Each in turn; no descriptor stays open, the lock is free, and what was saved is one moment."""
    real = {name: getattr(os, name) for name in OPERATIONS}
    before, former, left = len(os.listdir("/proc/self/fd")), signal.signal(signal.SIGALRM, raise_limit), [-1]

    def striking(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                me(signal.SIGALRM)
            return function(*arguments, **options)

        return call

    def save(path):
        os.mkdir(path)
        Path(path, "x").write_text("text")

    for name in OPERATIONS:
        setattr(os, name, striking(real[name]))
    try:
        for number in itertools.count(1):
            os.mkdir(f"{number}")
            os.chdir(f"{number}")
            is_struck = False
            try:
                with enable_counter("run", each_save=True) as counter:
                    seen = counter.save_load_object([], "seen")
                    counter.save_load_funcs([save], [os.listdir], ["model"])
                    for i in counter(range(3)):
                        seen.append(i)
                        if i == 1:
                            left[0] = number
                        if i == 2:
                            is_struck, left[0] = left[0] <= 0, -1
                            raise KeyError
            except Limit:
                is_struck = True
            except KeyError:
                pass
            left[0] = -1
            del counter
            assert len(os.listdir("/proc/self/fd")) == before
            assert resumed() in ((1, [0]), (2, [0, 1]))
            assert sorted(os.listdir()) == ["model", "run", "seen"]
            os.chdir("..")
            if not is_struck:
                break
        assert number > 5
    finally:
        signal.signal(signal.SIGALRM, former)
        for name in OPERATIONS:
            setattr(os, name, real[name])


@pytest.mark.parametrize(
    "module, name, is_first, what",
    [
        ("os", "getcwd", True, ()),
        ("os", "lstat", True, ()),
        ("_input", "crc32", True, ()),
        ("_files", "pwrite", False, ()),
        ("_files", "pwrite", False, (errno.ETIMEDOUT,)),
    ],
)
def test_a_time_limit_that_raises_an_oserror_is_no_failure_of_ours(folder, monkeypatch, module, name, is_first, what):
    """`TimeoutError` is one. Whatever a handler raises while nothing is saved ends the loop, or its beginning."""
    place, left, done = sys.modules.get(f"py_restart.{module}", os), [int(is_first)], []
    real = getattr(place, name)

    def raise_timeout(number, frame):
        raise TimeoutError(*what, "the time is over")

    def call(*arguments):
        result = real(*arguments)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGALRM)
        return result

    former = signal.signal(signal.SIGALRM, raise_timeout)
    try:
        with monkeypatch.context() as patch, pytest.raises(TimeoutError, match="the time is over"):
            patch.setattr(place, name, call)
            for i in simple_counter("run", range(9)):
                done.append(i)
                if i == 4:
                    left[0] = 1
    finally:
        signal.signal(signal.SIGALRM, former)
    assert done == ([] if is_first else [0, 1, 2, 3, 4])
    assert enable_counter("run").position == len(done)


def test_a_time_limit_while_files_are_forgotten_waits(folder, left, monkeypatch):
    """`remove_files` is whole, like a save."""
    with contextlib.suppress(Limit), enable_counter("run") as counter:
        _kept = counter.save_load_object([], "seen")
        for _ in counter(range(3)):
            raise Limit
    real, former = os.unlink, signal.signal(signal.SIGALRM, raise_limit)
    try:
        counter = enable_counter("run")
        with monkeypatch.context() as patch, pytest.raises(Limit):
            patch.setattr(os, "unlink", lambda path, **more: (me(signal.SIGALRM), real(path, **more)))
            counter.remove_files()
    finally:
        signal.signal(signal.SIGALRM, former)
    assert left() == [".run.lock"]


def test_signals_that_come_again_and_again_during_a_save_take_effect_once(folder):
    """As those of a profiler do, a thousand times a second: the system keeps one of each that waits, too."""
    told = []

    def save(path):
        for _ in range(3000):
            signal.raise_signal(signal.SIGUSR1)
        Path(path).write_text("saved")

    former = signal.signal(signal.SIGUSR1, lambda *_: told.append("SIGUSR1"))
    try:
        counter = enable_counter("run")
        counter.save_load_funcs([save], [print], ["model"])
        counter.save()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert told == ["SIGUSR1"]


def test_an_event_loop_is_told_once_of_a_signal_that_waits_for_a_save(folder):
    """It is told when the signal arrives, by its wakeup descriptor, and need not be told again behind the save."""
    told = []

    def save(path):
        signal.raise_signal(signal.SIGUSR1)
        Path(path).write_text("saved")

    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: told.append("SIGUSR1"))
        with enable_counter("run") as counter:
            counter.save_load_funcs([save], [print], ["model"])
            for i in counter(range(3)):
                if i == 1:
                    counter.save()
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert told == ["SIGUSR1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("way", ["object", "function"])
def test_a_signal_while_a_saved_object_is_loaded_waits(folder, run_child, number, way):
    """Else a time limit there becomes "cannot be loaded … delete what was saved"."""
    with pytest.raises(KeyError), enable_counter("run") as counter:
        _kept = counter.save_load_object(Loaded(), "seen")
        counter.save_load_funcs([lambda path: Path(path).touch()], [print], ["file"])
        for _ in counter(range(3)):
            raise KeyError

    def job(tell):
        signal.signal(number, raise_limit)
        Loaded.during = lambda: (me(number), tell("loading"))
        counter = enable_counter("run")
        if way == "object":
            _kept = counter.save_load_object(Loaded(), "seen")
        else:
            counter.save_load_funcs([print], [lambda path: Loaded.during()], ["file"])

    child = run_child(job)
    assert child.told == ["loading"]
    assert child.error == f"test_signals.Limit: {int(number)}"


class Loaded:
    """An object during whose loading something happens."""

    during = staticmethod(lambda: None)

    def __setstate__(self, state):
        type(self).during()

    def __getstate__(self):
        return 1


@pytest.mark.parametrize("second", STOPS)
def test_a_second_stop_during_the_save_of_the_first_waits(folder, run_child, second):
    """Ctrl-C twice, or Ctrl-C and then the scheduler's SIGTERM: the save is whole."""

    def job(tell):
        value = Saved(lambda: (me(second), tell("saving")))
        with enable_counter("run") as counter:
            _kept = counter.save_load_object(value, "seen")
            for i in counter(range(10)):
                if i == 4:
                    value.armed = True
                    me(signal.SIGINT)

    child = run_child(job)
    assert child.told == ["saving"]
    if second == signal.SIGINT:
        assert child.error == "KeyboardInterrupt"
    else:
        assert child.status in (-second, 128 + second)
    assert resumed() == (4, "whole")


def test_all_signals_that_came_during_a_save_count(folder, run_child):
    """Each of them, in their order."""

    def job(tell):
        numbers = [signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGINT]
        for number in numbers:
            signal.signal(number, lambda got, frame: tell(got))
        value = Saved(lambda: ([me(number) for number in numbers], tell("saving")))
        counter = enable_counter("run", each_save=True)
        _kept = counter.save_load_object(value, "seen")
        for i in counter(range(2)):
            value.armed = i == 0

    assert run_child(job).told == ["saving", signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGINT]


def test_a_signal_that_nobody_handles_ends_the_process_in_the_middle_of_a_save(folder, run_child):
    """At once, as `kill -9` would: the save before is whole."""

    def job(tell):
        value = Saved(lambda: (me(signal.SIGTERM), tell("behind it")))
        counter = enable_counter("run", each_save=True)
        _kept = counter.save_load_object(value, "seen")
        for i in counter(range(4)):
            value.armed = i == 2

    child = run_child(job)
    assert (child.told, child.status) == ([], -signal.SIGTERM)
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "seen")) == (2, "whole")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "default"])
def test_a_signal_that_came_before_its_handler_was_taken_away_does_what_is_due_behind_the_save(
    folder, run_child, number, handler
):
    """As the kernel would have it with one that it holds back: what counts is who answers it then."""

    def job(tell):
        signal.signal(number, lambda *arguments: tell("answered"))

        def during():
            me(number)
            signal.signal(number, handler)

        with enable_counter("run") as counter:
            value = Saved(during)
            counter.object = counter.save_load_object(value, "seen")
            for i in counter(range(4)):
                if i == 2:
                    value.armed = True
                    counter.save()
                    value.armed = False
                    tell("behind the save")
                    os._exit(0)

    child = run_child(job)
    if handler == signal.SIG_IGN:
        assert (child.told, child.status) == (["behind the save"], 0)
    else:
        assert (child.told, child.status) == ([], -number)
    assert resumed() == (2, "whole")


class Strict(Exception):
    """An exception that does not let itself be changed, as that of a frozen dataclass."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


def test_what_a_handler_raises_may_have_no_room_for_a_mark(folder, left):
    """It goes through as it is, and the block saves."""

    def raising(number, frame):
        raise Strict(number)

    before = signal.signal(signal.SIGTERM, raising)
    try:
        with pytest.raises(Strict, match=str(int(signal.SIGTERM))):
            counted(None, lambda: me(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left() == ["run", "seen"]
    assert resumed() == (4, [0, 1, 2, 3])


def test_what_waits_behind_a_handler_that_raises_counts_too(folder, run_child):
    """The first one raises; the second one must not wait for the next save, which may never come."""

    def job(tell):
        signal.signal(signal.SIGALRM, raise_limit)
        signal.signal(signal.SIGUSR1, lambda number, frame: tell("second"))
        value = Saved(lambda: (me(signal.SIGALRM), me(signal.SIGUSR1)))
        with contextlib.suppress(Limit):
            counter = enable_counter("run", each_save=True)
            _kept = counter.save_load_object(value, "seen")
            for i in counter(range(9)):
                value.armed = i == 1
        tell("behind")

    assert run_child(job).told == ["second", "behind"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_handler_that_has_waited_for_a_save_is_given_a_frame_as_ever(folder, number):
    """It may walk the stack from there, as `faulthandler` and debuggers do."""
    frames = []
    former = signal.signal(number, lambda number, frame: frames.append(frame))
    try:
        with enable_counter("run") as counter:
            value = Saved(lambda: me(number))
            _kept = counter.save_load_object(value, "seen")
            value.armed = True
            counter.save()
    finally:
        signal.signal(number, former)
    assert frames and None not in frames


def test_a_handler_that_saves_during_a_save_gets_one_right_after(folder, run_child, moment):
    """A scheduler's warning, answered by `counter.save()`: neither lost, nor an error, nor one inside the other."""

    def job(tell):
        counter = enable_counter("run", each_save=True)
        signal.signal(signal.SIGUSR1, lambda number, frame: (counter.save(), tell(moment()["save"])))

        def during():
            value.armed = False
            me(signal.SIGUSR1)

        value = Saved(during)
        _kept = counter.save_load_object(value, "seen")
        for i in counter(range(9)):
            value.armed = i == 3
            if i == 3:
                tell(moment()["save"])
            if i == 4:
                tell(moment()["save"])
                os._exit(0)

    before, after, then = run_child(job).told
    assert (before <= after) and then == before + 2
    assert resumed() == (4, "whole")


@pytest.mark.parametrize("operation", ["pwrite", "fsync", "close"])
def test_a_handler_that_saves_during_the_write_of_a_position(folder, monkeypatch, position, operation):
    """There is nothing to wait for in a bare write; the position told is that of what was done."""
    real, left, counter = getattr(os, operation), [0], enable_counter("run", each_save=True)

    def call(*arguments):
        left[0] -= 1
        if left[0] == 0:
            me(signal.SIGUSR1)
        return real(*arguments)

    for module in [os, *(module for at, module in list(sys.modules.items()) if at.startswith("py_restart"))]:
        for name, value in list(vars(module).items()):
            if value is real:
                monkeypatch.setattr(module, name, call)
    former = signal.signal(signal.SIGUSR1, lambda number, frame: counter.save())
    try:
        for i in counter(range(50)):
            assert (position() or 0) == i
            left[0] = 1 + i % 3 if i < 49 else 0
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert os.listdir() == []


def test_a_save_function_that_saves_gets_one_right_after(folder, moment):
    """`counter.save()` that finds a save running in its own thread asks for one more behind it, and not for ever."""
    with pytest.raises(KeyError), enable_counter("run", each_save=True) as counter:
        called = []

        def save(path):
            called.append(moment())
            Path(path).touch()
            if len(called) == 1:
                counter.save()

        counter.save_load_funcs([save], [print], ["file"])
        for i in counter(range(9)):
            if i == 1:
                assert (len(called), moment()["position"]) == (2, 1)
                raise KeyError


MAY_HANDLE = ("CALL", "RESUME", "JUMP_BACKWARD")


def test_a_handler_may_save_between_any_two_instructions_of_a_write(folder, position):
    """The write must find its descriptor gone, and take the slow way; no file that has its number now is written to.

    At each one of ours in turn behind which CPython looks for signals, from the end of an item to the begin of the
    next: no item is told too early.
    """
    import py_restart

    home, counter = os.path.dirname(py_restart.__file__), enable_counter("run", each_save=True)
    before, others, left = sys.gettrace(), [], 0

    last = {}

    def trace(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(home):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before, last[frame] = last.get(frame, "RESUME"), dis.opname[frame.f_code.co_code[frame.f_lasti]]
            left -= before.startswith(MAY_HANDLE)
            if left == 0:
                sys.settrace(None)
                counter.save()
                others.append(os.open("mine", os.O_RDWR | os.O_CREAT))
        return trace

    sys._getframe().f_trace_opcodes = True  # or CPython 3.12 would tell of none
    for i in counter(range(5000)):
        sys.settrace(before)
        assert (position() or 0) == i
        if others:
            os.close(others.pop())
            assert os.path.getsize("mine") == 0
        if left > 0:
            break  # the next item has come before the n-th instruction
        left = i + 1
        last.clear()
        sys.settrace(trace)
    assert 3 < i < 4999


def test_a_stop_that_comes_as_enter_returns_takes_effect_before_the_first_item(folder):
    """Nothing of `__enter__` can be interrupted, its last instruction neither; the loop looks what has come."""
    before, seen, counter = sys.gettrace(), [], enable_counter("run")

    def trace(frame, event, argument):
        if frame.f_code is not type(counter).__enter__.__code__:
            return None
        if event == "return":
            sys.settrace(None)
            me(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    with pytest.raises(SystemExit), counter:
        sys.settrace(before)
        seen.extend(counter(range(3)))
    sys.settrace(before)
    assert seen == []


# Two stops at once, and stops that Python would drop.


def at_once(*numbers):
    """Have signals handled one right behind the other, where `os.kill` would handle the first one itself."""
    libc, none = ctypes.PyDLL(None), ctypes.create_string_buffer(1024)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    for number in numbers:
        me(number)
    libc.sigemptyset(none)
    libc.sigprocmask(signal.SIG_SETMASK, none, None)


def wait():
    """Wait for a stop."""
    time.sleep(LIMIT)


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("item", [4, 10], ids=["in the loop", "behind it"])
def test_the_second_of_two_stops_that_come_at_once_waits(folder, run_child, first, item):
    """A scheduler that sends SIGHUP and SIGTERM: the second one must not come before the block saves."""

    def job(tell):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                if i == item:
                    at_once(first, signal.SIGTERM)
                seen.append(i)
            at_once(first, signal.SIGTERM)

    assert run_child(job).status in (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + first, 1)
    assert resumed() == (item, [*range(item)])


def test_a_stop_as_a_loop_is_told_that_it_was_left_waits_until_that_knows_its_position(folder, run_child):
    """Before the first line of what is told so: the item in which it was left by an exception is still to be done."""

    def trace(frame, event, argument):
        if frame.f_code.co_name == "__exit__" and frame.f_code.co_filename.endswith("_loop.py"):
            sys.settrace(None)
            me(signal.SIGTERM)

    def job(tell):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            loop = counter(range(10))
            for i in loop:
                if i == 4:
                    sys.settrace(trace)
                    loop.throw(KeyError)
                seen.append(i)

    assert run_child(job).status == 128 + signal.SIGTERM
    assert resumed() == (4, [0, 1, 2, 3])


def test_the_second_of_two_stops_while_a_counter_is_made_leaves_no_lock_file_open(folder, left, monkeypatch):
    """The first one takes effect behind what is saved there; the lock is let go of then, whatever comes."""
    before, flock = len(os.listdir("/proc/self/fd")), fcntl.flock

    def interrupted(file, way):
        me(signal.SIGINT)
        flock(file, way)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        patch.setattr(fcntl, "flock", interrupted)
        enable_counter("run")
    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert len(os.listdir("/proc/self/fd")) == before
    assert left() == []
    assert list(simple_counter("run", range(3))) == [0, 1, 2]


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGINT])
def test_the_second_of_two_stops_counts_where_the_first_one_is_caught(folder, run_child, first):
    """It does not wait for the end of the block then, which may be hours away."""

    def twice():
        try:
            at_once(first, signal.SIGTERM)
        except BaseException:
            wait()

    assert run_child(counted, twice).status == 128 + signal.SIGTERM
    assert resumed() == (4, [0, 1, 2, 3])


def status_of(number):
    """Return the status of a child that a stop has ended in its block."""
    return 1 if number == signal.SIGINT else 128 + number


class Closing:
    """A context that does something when it is left."""

    def __init__(self, do):
        self.do = do

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.do()


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_a_generator_is_closed_comes_a_moment_later(folder, run_child, number):
    """Python drops what is raised there: nobody would hear of the stop."""

    def source():
        with Closing(lambda: me(number)):
            yield from range(10)

    def job(tell):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(source()):
                if i == 4:
                    break
                seen.append(i)
            wait()

    assert run_child(job).status == status_of(number)
    assert resumed()[1] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", STOPS)
def test_what_a_generator_does_as_it_is_closed_is_not_broken_off_by_a_stop(folder, run_child, number):
    """It comes a moment later for that, too."""

    def source(tell):
        with Closing(lambda: (me(number), tell("closed"))):
            yield from range(10)

    def job(tell):
        with enable_counter("run") as counter:
            for i in counter(source(tell)):
                if i == 4:
                    break
            wait()

    child = run_child(job)
    assert (child.told, child.status) == (["closed"], status_of(number))


def finalize(where, function):
    """Have it called where Python prints what is raised, and goes on; return what has to live until then."""
    import weakref

    class Thing:
        pass

    class Dying:
        def __del__(self):
            function()

    thing = Dying() if where == "__del__" else Thing()
    if where == "weakref":
        return weakref.ref(thing, lambda _: function())
    return weakref.finalize(thing, function) if where == "finalize" else None


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("where", ["__del__", "weakref", "finalize"])
def test_a_stop_in_a_finalizer_comes_a_moment_later(folder, run_child, number, where):
    def job(tell):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                if i == 4:
                    kept = finalize(where, lambda: me(number))
                    wait()
                    del kept
                seen.append(i)

    assert run_child(job).status == status_of(number)
    assert resumed() == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("where", ["__del__", "weakref", "finalize"])
def test_a_stop_that_has_waited_for_a_save_in_a_finalizer_comes_a_moment_later(folder, run_child, number, where):
    """Without a `with`, too: we have held it back, and Python would drop what it raises then."""

    def save():
        os.fsync = lambda file: (me(number), fsync(file))
        counter.save()

    def job(tell):
        global counter
        signal.signal(number, raise_limit)
        counter = enable_counter("run", each_save=True)
        seen = counter.save_load_object([], "seen")
        for i in counter(range(10)):
            if i == 4:
                kept = finalize(where, save)
                os.fsync = fsync
                wait()
                del kept
            seen.append(i)

    fsync = os.fsync
    assert run_child(job).error == f"test_signals.Limit: {int(number)}"
    assert resumed() == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("way", ["break", "thrown away"])
def test_a_signal_while_a_loop_lets_go_comes_a_moment_later(folder, run_child, number, way):
    """What held it back then is in a generator that is being closed."""

    def job(tell):
        signal.signal(number, raise_limit)
        unlink = os.unlink
        loop = simple_counter("run", range(3))
        if way == "thrown away":
            loop = iter(loop)
            next(loop)
        os.unlink = lambda path, **options: (me(number), unlink(path, **options))
        if way == "break":
            for _ in loop:
                break
        else:
            del loop
        wait()

    assert run_child(job).error == f"test_signals.Limit: {int(number)}"
    assert os.listdir() == []


def test_the_second_of_two_signals_while_a_counter_that_is_thrown_away_lets_go_is_not_dropped_either(folder, run_child):
    """Both come a moment later."""

    def job(tell):
        numbers, unlink = [signal.SIGALRM, signal.SIGUSR1], os.unlink
        for number in numbers:
            signal.signal(number, raise_limit)
        sys.unraisablehook = lambda dropped: tell(str(dropped.exc_value))
        counter = enable_counter("run")
        os.unlink = lambda path, **options: ([me(number) for number in numbers], unlink(path, **options))
        del counter
        wait()

    child = run_child(job)
    assert (child.told, os.listdir()) == ([], [])


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_an_inner_loop_is_left_comes_a_moment_later(folder, run_child, number):
    """In the block that is around it."""

    def source():
        with Closing(lambda: me(number)):
            yield from range(3)

    def job(tell):
        with enable_counter("run") as counter:
            for i in counter(range(10)):
                if i == 4:
                    for _ in simple_counter("inner", source()):
                        break
                    wait()

    assert run_child(job).status == status_of(number)
    assert enable_counter("run").position == 4


def test_a_stop_that_comes_again_comes_once_from_a_thread_that_ends(folder, run_child, monkeypatch):
    """It is a signal like the first one: what waits for one wakes up."""

    def source():
        with Closing(lambda: me(signal.SIGINT)):
            yield from range(10)

    def starting(function, arguments):
        threads.append(threading.Thread(target=function, args=arguments))
        threads[-1].start()

    def job(tell):
        monkeypatch.setattr(_thread, "start_new_thread", starting)
        with enable_counter("run") as counter:
            for i in counter(source()):
                if i == 4:
                    break
            try:
                wait()
            except KeyboardInterrupt:
                for thread in threads:  # more than one where closing takes longer than a moment
                    thread.join(LIMIT)
                tell((len(threads) > 0, [thread for thread in threads if thread.is_alive()]))
                raise

    threads = []
    child = run_child(job)
    assert (child.told, child.error) == ([(True, [])], "KeyboardInterrupt")
    assert enable_counter("run").position == 4


def test_a_stop_that_cannot_come_again_waits_for_the_end_of_the_block(folder, run_child):
    """Where there are too many threads it is not lost either."""

    def source():
        with Closing(lambda: me(signal.SIGTERM)):
            yield from range(10)

    def refuse(*arguments, **options):
        raise RuntimeError("can't start new thread")

    def job(tell):
        _thread.start_new_thread = _thread.start_joinable_thread = refuse
        threading.Thread.start = refuse
        try:
            with enable_counter("run") as counter:
                for i in counter(source()):
                    if i == 4:
                        break
                tell("behind the loop")
        finally:
            tell("behind the block")
        wait()

    child = run_child(job)
    assert child.status in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert child.told[0] == "behind the loop"


def test_a_ctrl_c_that_cannot_come_again_ends_the_program_behind_the_loop(folder, run_child):
    """Too many threads, and a program that has an answer to it: with the block at the latest."""

    def source():
        with Closing(lambda: me(signal.SIGINT)):
            yield from range(10)

    def refuse(*arguments, **options):
        raise RuntimeError("can't start new thread")

    def job(tell):
        _thread.start_new_thread = refuse
        try:
            with enable_counter("run") as counter:
                for i in counter(source()):
                    if i == 4:
                        break
                tell("behind the loop")
        finally:
            tell("behind the block")
        tell("never")

    child = run_child(job)
    assert child.error == "KeyboardInterrupt"
    assert child.told in (["behind the loop", "behind the block"], ["behind the block"])


@pytest.mark.parametrize("numbers", [[signal.SIGALRM], [signal.SIGALRM, signal.SIGUSR1]])
def test_a_signal_that_has_waited_and_cannot_come_again_waits_for_the_next_save(folder, run_child, numbers):
    """It is not tried again and again while a generator is closed, in which Python would drop it."""

    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    def job(tell):
        for number in numbers:
            signal.signal(number, raise_limit)
        sys.unraisablehook = lambda dropped: tell(str(dropped.exc_value))
        unlink, _thread.start_new_thread = os.unlink, refuse
        os.unlink = lambda path, **options: ([me(number) for number in numbers], unlink(path, **options))
        for _ in simple_counter("run", range(3)):
            break
        os.unlink = unlink
        tell("behind the loop")
        with pytest.raises(Limit) as limit:
            enable_counter("run")
        error, raised = limit.value, []
        while error is not None:  # each as the one before is on its way
            raised, error = [*error.args, *raised], error.__context__
        tell(sorted(raised))

    child = run_child(job)
    assert (child.error, child.told) == (None, ["behind the loop", sorted(numbers)])


def test_a_stop_as_the_block_begins_to_end_waits(folder, run_child):
    """The first instruction of the end of the block: no `try` can stand there."""

    def job(tell):
        end = type(enable_counter("other")).__exit__.__code__

        def trace(frame, event, argument):
            if frame.f_code is end:
                sys.settrace(None)
                me(signal.SIGINT)
            return None

        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                if i == 4:
                    sys.settrace(trace)
                    raise KeyError
                seen.append(i)

    child = run_child(job)
    assert child.error == "KeyboardInterrupt"
    assert resumed() == (4, [0, 1, 2, 3])


def test_a_stop_in_what_is_shielded_waits_for_the_end_of_the_block(folder):
    """It is not broken off, whatever it calls."""
    told = []

    @sys.modules["py_restart._signals"].shielded
    def shielded():
        me(signal.SIGINT)
        told.append("whole")

    with pytest.raises(KeyboardInterrupt):
        with enable_counter("run"):
            shielded()
            told.append("behind it")
    assert told == ["whole", "behind it"]


# Handlers that are put in place and back.


def test_a_handler_of_ours_that_is_called_outside_a_block_does_what_the_signal_does(folder):
    """The program had found it inside, and has put it back behind the block."""
    before = signal.getsignal(signal.SIGINT)
    with enable_counter("run"):
        found = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, found)
        with pytest.raises(KeyboardInterrupt):
            me(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_of_ours_that_the_program_puts_back_after_the_block_does_no_harm(folder):
    """It had found it inside: the next block saves at a stop as ever, and leaves in place what it has found."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an event loop of another test may have left its own
    defaults = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    for number, handler in zip(STOPS, defaults, strict=True):
        signal.signal(number, handler)  # a block that was thrown away late may have put back that of an event loop
    before = handlers()
    with enable_counter("run") as counter:
        found = [signal.signal(number, lambda *arguments: None) for number in STOPS]
        for _ in counter(range(2)):
            pass
    for number, handler in zip(STOPS, found, strict=True):
        signal.signal(number, handler)
    try:
        with pytest.raises(SystemExit) as stop:
            with enable_counter("run") as counter:
                for _ in counter(range(2)):
                    me(signal.SIGTERM)
        assert stop.value.code == 143
        assert [repr(signal.getsignal(number)) for number in STOPS] == [*map(repr, found)]
    finally:
        for number, handler in zip(STOPS, defaults, strict=True):
            signal.signal(number, handler)
    assert handlers() == before


def setting(monkeypatch, number, strike, is_after):
    """Have something happen before or after the n-th handler that is set from now on; return how many were set."""
    real, calls = _signal.signal, []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == number and not is_after:
            strike(*arguments)
        former = real(*arguments)
        if len(calls) == number and is_after:
            strike(*arguments)
        return former

    monkeypatch.setattr(_signal, "signal", call)
    return calls


def test_two_time_limits_while_a_block_is_entered_leave_no_block_open(folder, left, monkeypatch):
    """The second one comes as the first is on its way out. What begins later is saved when the interpreter ends."""
    before, former, real, calls = handlers(), signal.signal(signal.SIGALRM, raise_limit), _signal.signal, []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) <= 2:
            me(signal.SIGALRM)
        return real(*arguments)

    try:
        counter = enable_counter("run")
        with monkeypatch.context() as patch:
            patch.setattr(_signal, "signal", call)
            with pytest.raises(Limit):
                counter.__enter__()
        del counter
        gc.collect()
        assert len(calls) >= 2
        assert left() == []
        with enable_counter("other") as other:
            list(other(range(3)))
    finally:
        signal.signal(signal.SIGALRM, former)
    assert handlers() == before


def test_a_time_limit_as_a_counter_is_made_prints_nothing(folder, left):
    """At each line of what is made: what has only begun to be made has nothing to let go of."""
    former, before = signal.signal(signal.SIGALRM, raise_limit), sys.gettrace()
    try:
        for number in itertools.count(1):
            seen = [0]

            def trace(frame, event, argument, seen=seen, number=number):
                if "py_restart" in frame.f_code.co_filename and frame.f_code.co_name == "__init__":
                    seen[0] += 1
                    if seen[0] == number:
                        sys.settrace(before)
                        me(signal.SIGALRM)
                    return trace
                return None

            made = None
            sys.settrace(trace)
            try:
                made = enable_counter("run")
            except Limit:
                pass
            finally:
                sys.settrace(before)
            del made
            gc.collect()
            assert left() == []
            if seen[0] < number:
                break
    finally:
        signal.signal(signal.SIGALRM, former)
    assert number > 50


def test_a_stop_while_a_counter_that_is_thrown_away_lets_go_comes_a_moment_later(folder, left, monkeypatch):
    """Outside of any block, where it is the program's own: in a `__del__` Python would drop it."""
    loop, real = simple_counter("run", range(3)), os.unlink

    def interrupted(path, **options):
        me(signal.SIGINT)
        real(path, **options)

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(os, "unlink", interrupted)
        del loop
        patch.undo()
        time.sleep(LIMIT)
    assert left() == []


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("is_inner", [False, True], ids=["outer", "inner"])
def test_a_ctrl_c_while_a_block_is_entered_leaves_the_handlers_as_they_were(folder, monkeypatch, is_after, is_inner):
    """No `__exit__` will be called: what was put in their place goes at once. A block around it keeps its own."""
    gc.collect()
    for number in itertools.count(1):
        with enable_counter("outer") if is_inner else contextlib.nullcontext():
            before = handlers()
            counter, is_entered = enable_counter("run"), True
            with monkeypatch.context() as patch:
                calls = setting(patch, number, lambda *_: me(signal.SIGINT), is_after)
                try:
                    counter.__enter__()
                except KeyboardInterrupt:
                    is_entered = False
            if is_entered:
                counter.__exit__(None, None, None)
            assert handlers() == before
            if is_inner:
                with pytest.raises(SystemExit):
                    me(signal.SIGTERM)
            del counter
        if len(calls) < number:
            break
    assert is_inner or number > 2
    assert os.listdir() == []


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGALRM])
def test_a_signal_while_handlers_are_put_in_place_and_back_meets_the_programs_own(folder, monkeypatch, is_after, stop):
    """Set it, then drop it from the table: in the other order a signal in between meets nobody, and kills."""
    came, former = [], signal.signal(stop, lambda number, frame: came.append(number))
    try:
        for number in itertools.count(1):
            came.clear()
            before = handlers()
            with monkeypatch.context() as patch:
                calls = setting(patch, number, lambda *_: me(stop), is_after)
                with enable_counter("run", each_save=True) as counter:
                    _kept = counter.save_load_object([], "seen")
                    for _ in counter(range(2)):
                        pass
            assert handlers() == before
            if len(calls) < number:
                break
            assert came == [stop]
        assert number > 4
    finally:
        signal.signal(stop, former)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_stop_while_handlers_are_put_in_place_and_back_is_never_lost(folder, run_child, monkeypatch, is_after):
    """At its default: it ends the process or the block."""

    def job(tell, number):
        calls = setting(monkeypatch, number, lambda *_: me(signal.SIGTERM), is_after)
        with enable_counter("run") as counter:
            for _ in counter(range(2)):
                pass
        tell(len(calls) < number)

    for number in itertools.count(1):
        child = run_child(job, number)
        if child.told == [True]:
            break
        assert child.status in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert number > 2


def test_a_handler_that_is_back_and_raises_at_once_does_not_keep_the_others_away(folder, monkeypatch):
    """All of them go back first; then it is raised."""
    gc.collect()
    before = handlers()
    counter = enable_counter("run")
    counter.__enter__()
    with monkeypatch.context() as patch:

        def strike(*_):
            raise KeyboardInterrupt

        setting(patch, 1, strike, True)
        with pytest.raises(KeyboardInterrupt):
            counter.__exit__(None, None, None)
    assert handlers() == before


@pytest.mark.parametrize("way", ["in place", "back"])
def test_a_time_limit_at_any_call_of_what_puts_handlers_in_place_and_back_does_not_keep_its_own_away(folder, way):
    """Python looks for signals as a function begins, and behind each call, between the lines of any `try`."""

    def strike(frame, event, argument):
        if frame.f_code.co_filename == signals.__file__ and event in ("call", "c_return"):
            seen.append(event)
            if len(seen) == number:
                signal.raise_signal(signal.SIGALRM)

    signals, former = sys.modules["py_restart._signals"], signal.signal(signal.SIGALRM, raise_limit)
    try:
        for number in itertools.count(1):
            seen, before, held = [], handlers(), signals.held()
            is_entered = False
            if way == "back":
                held.__enter__()
            sys.setprofile(strike)
            try:
                if way == "in place":
                    held.__enter__()
                    is_entered = True
                else:
                    held.__exit__()
            except Limit:
                pass
            finally:
                sys.setprofile(None)
            if is_entered:
                with contextlib.suppress(Limit):  # it waited
                    held.__exit__()
            assert handlers() == before, number
            with contextlib.suppress(KeyboardInterrupt), enable_counter("run"):  # no save is left that a stop waits for
                me(signal.SIGINT)
                pytest.fail(f"a Ctrl-C was lost behind {number}")
            if len(seen) < number:
                break
        assert number > 4
    finally:
        signal.signal(signal.SIGALRM, former)


# Threads, forks, other interpreters, and the end of this one.


def test_saves_that_take_turns_put_the_handlers_back(folder):
    """As in greenlets: a save function may wait for a network, and another save runs meanwhile."""
    signals, before = sys.modules["py_restart._signals"], handlers()
    first, second = signals.held(), signals.held()
    first.__enter__()
    second.__enter__()
    first.__exit__()
    second.__exit__()
    assert handlers() == before
    with pytest.raises(KeyboardInterrupt), enable_counter("run"):
        me(signal.SIGINT)


def test_where_no_handler_may_be_set_all_other_promises_are_kept(folder, monkeypatch):
    """Such as in an interpreter inside another one, whose thread calls itself the main one."""
    before = handlers()

    def refuse(number, handler):
        raise ValueError("signal only works in main thread of the main interpreter")

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(_signal, "signal", refuse)
        with enable_counter("run", each_save=True) as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(10)):
                assert handlers() == before
                if i == 4:
                    raise KeyError(i)
                seen.append(i)
    assert handlers() == before
    assert resumed() == (4, [0, 1, 2, 3])


def test_what_else_python_drops_in_a_block_is_told_as_ever(folder, monkeypatch):
    """The hook of the program hears of it, and is back behind the block."""

    class Failing:
        def __del__(self):
            raise KeyError("dropped")

    def hook(dropped):
        told.append((dropped.exc_type, str(dropped.exc_value)))

    told = []
    monkeypatch.setattr(sys, "unraisablehook", hook)
    with enable_counter("run") as counter:
        for _ in counter(range(2)):
            Failing()
        assert told == [(KeyError, "'dropped'")] * 2
    assert sys.unraisablehook is hook


def test_a_hook_for_dropped_exceptions_that_was_set_in_a_block_and_calls_the_one_before_outlives_it(
    folder, monkeypatch
):
    """It is the one that the next block finds: neither calls the other without end."""

    class Failing:
        def __del__(self):
            raise KeyError("dropped")

    told, before = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append("program"))
    for path in ("first", "second"):
        with enable_counter(path) as counter:
            for _ in counter(range(1)):
                if path == "first":
                    before.append(sys.unraisablehook)
                    sys.unraisablehook = lambda dropped: (told.append("set in a block"), before[0](dropped))
                Failing()
        Failing()
    assert told == ["set in a block", "program"] * 4


def test_other_threads_leave_the_signals_alone(folder, left):
    """Signals can be handled in the main thread alone; all other promises hold elsewhere."""
    before, seen = handlers(), []

    def work(stop_at):
        try:
            with enable_counter("run") as counter:
                kept = counter.save_load_object([], "seen")
                for i in counter(range(6)):
                    seen.append(handlers() == before)
                    if i == stop_at:
                        raise KeyError
                    kept.append(i)
        except KeyError:
            assert pickle.loads(Path("seen").read_bytes()) == kept
            results.append(left())

    results = []
    for stop_at in (3, None):
        thread = threading.Thread(target=work, args=(stop_at,))
        thread.start()
        thread.join(LIMIT)
    assert results == [["run", "seen"]]
    assert len(seen) == 4 + 3 and all(seen)
    assert left() == []


def test_a_block_that_has_nothing_to_save_puts_the_handlers_back(folder):
    """At its end, not with the next save of the loop around."""
    before = handlers()
    for _ in simple_counter("outer", range(2), save_span=100):
        with enable_counter("inner") as counter:
            assert list(counter(range(3))) == [0, 1, 2]
        assert handlers() == before


def test_a_signal_that_waits_for_a_save_is_not_that_of_a_child_which_is_forked_in_it(folder, run_child):
    """It was sent to its parent."""

    def job(tell):
        def save(path):
            Path(path).touch()
            me(signal.SIGUSR1)
            if child := os.fork():
                tell(os.waitpid(child, 0)[1])
            else:
                list(simple_counter("child", range(2)))
                os._exit(len(came))

        came = []
        signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
        with enable_counter("run") as counter:
            counter.save_load_funcs([save], [print], ["file"])
            for _ in counter(range(1)):
                counter.save()
        tell(came)

    assert run_child(job).told == [0, [signal.SIGUSR1]]


def test_a_block_in_another_thread_keeps_no_handler_in_place(folder):
    """Nor is it in the way of one in the main thread, which has its own for as long as it is open."""
    before, inside, go_on = handlers(), threading.Event(), threading.Event()

    def work():
        with enable_counter("other"):
            inside.set()
            go_on.wait(LIMIT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(LIMIT)
        with pytest.raises(SystemExit), enable_counter("run") as counter:
            for _ in counter(range(3)):
                me(signal.SIGTERM)
        assert handlers() == before
    finally:
        go_on.set()
        thread.join(LIMIT)


def test_a_save_in_another_thread_holds_no_signal_back(folder):
    """The main thread's handlers run as ever."""
    came, inside, go_on = [], threading.Event(), threading.Event()

    def save(path):
        Path(path).touch()
        inside.set()
        go_on.wait(LIMIT)

    def work():
        with enable_counter("run", each_save=True) as counter:
            counter.save_load_funcs([save], [print], ["file"])
            for _ in counter(range(1)):
                pass

    former = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(LIMIT)
        me(signal.SIGUSR1)
        assert came == [signal.SIGUSR1]
    finally:
        go_on.set()
        thread.join(LIMIT)
        signal.signal(signal.SIGUSR1, former)


def test_a_forked_child_has_the_handlers_that_were_there(folder, run_child):
    """Inside the parent's block, and inside its save."""

    def job(tell):
        own = signal.signal(signal.SIGALRM, raise_limit)
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)

        def fork():
            child = os.fork()
            if child == 0:
                tell([signal.getsignal(number) for number in watched])
                os._exit(0)
            os.waitpid(child, 0)

        value = Saved(fork)
        value.armed = True
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object(1, "seen")
            counter.object = value
            for _ in counter(range(1)):
                fork()
        signal.signal(signal.SIGALRM, own)

    told = run_child(job).told
    expected = [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL, raise_limit]
    assert len(told) >= 3 and all(one == expected for one in told)


def test_a_forked_child_dies_of_sigterm(folder, run_child):
    """As any other process does: `multiprocessing` ends its workers so."""

    def job(tell):
        with enable_counter("run") as counter:
            for i in counter(range(3)):
                if i == 1:
                    reading, writing = os.pipe()
                    child = os.fork()
                    if child == 0:
                        os.write(writing, b"!")
                        signal.pause()
                    os.read(reading, 1)  # what comes before it is itself again, CPython forgets
                    os.kill(child, signal.SIGTERM)
                    tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert run_child(job).told == [-signal.SIGTERM]


def script(code, *arguments):
    """Run a program to its end."""
    import py_restart

    home = str(Path(py_restart.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": home},
    )


HELD = """
import sys, threading
from py_restart import enable_counter
def work():
    with enable_counter("run") as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(9)):
            seen.append(i)
            yield i
if sys.argv[1] == "in a cycle":
    class Holder: pass
    holder = Holder()
    holder.me, holder.work = holder, work()
    held = holder.work
    del holder
else:
    held = work()
thread = threading.current_thread
if sys.argv[1] == "in a greenlet":  # which gevent takes for a thread that lives
    green = threading.Thread()
    green.is_alive = lambda: True
    threading.current_thread = lambda: green
for _ in range(3):
    next(held)
threading.current_thread = thread
if sys.argv[1] == "by an exception":
    raise SystemExit(5)
"""


@pytest.mark.parametrize("way", ["at its end", "by an exception", "in a cycle", "in a greenlet"])
def test_a_block_that_is_still_open_when_the_interpreter_ends_is_saved(folder, left, way):
    """Its generator is held by a variable: as if it had ended by an exception."""
    done = script(HELD, way)
    assert (done.returncode, done.stderr) == (5 if way == "by an exception" else 0, "")
    assert left() == ["run", "seen"]
    assert resumed() == (2, [0, 1, 2])


@pytest.mark.parametrize("way", ["a variable", "a cycle", "a class", "a module"])
def test_a_lock_that_is_held_when_the_interpreter_ends_leaves_no_file(folder, left, way):
    """Without a `with`, whatever holds the loop: it keeps its last save, and nothing is printed."""
    held = {
        "a variable": "held = loop",
        "a cycle": "loop = [loop]; loop.append(loop)",
        "a class": "import functools; functools.held = type('Held', (), {'loop': loop})",
        "a module": "import py_restart._lock; py_restart._lock.loop = loop",
    }
    code = f"""
from py_restart import enable_counter
counter = enable_counter("run", each_save=True)
loop = iter(counter(range(9)))
for _ in range(3):
    next(loop)
{held[way]}
"""
    done = script(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert left() == ["run"]
    assert enable_counter("run").position == 2


def test_a_counter_that_goes_when_all_modules_have_gone_says_nothing(folder, left):
    """A program that gives `os` a function of its own has it hold all that is in the program."""
    code = """
from py_restart import enable_counter
counter = enable_counter("run", each_save=True)
for _ in counter(range(9)):
    pass
import os
os.urandom = lambda size: bytes(size)
"""
    done = script(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert left() == []


def test_the_lock_of_a_loop_that_a_thread_still_runs_stays_until_the_process_is_gone(folder, left):
    """Other exit functions may take long, and the thread goes on meanwhile: nobody else gets in."""
    code = """
import atexit, threading, time
atexit.register(lambda: (time.sleep(0.2), print(*sorted(__import__("os").listdir()))))
from py_restart import simple_counter
begun = threading.Event()
def work():
    for i in simple_counter("run", range(10**9)):
        if i == 2:
            begun.set()
        time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
    done = script(code)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", ".run.lock run\n")
    assert simple_counter("run", range(10**9)).position > 2


@pytest.mark.parametrize("way", ["at its end", "by an exception"])
def test_a_block_that_the_program_closes_after_the_interpreter_has_saved_it_is_saved_once(folder, left, way):
    """A program that closes its generators when it exits: that is no end of the work."""
    closing = "import atexit\natexit.register(lambda: held.close())\n"
    done = script(closing + HELD, way)
    assert (done.returncode, done.stderr) == (5 if way == "by an exception" else 0, "")
    assert left() == ["run", "seen"]
    assert resumed() == (2, [0, 1, 2])


BUSY = """
import threading
from py_restart import enable_counter
inside = threading.Event()
def work():
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(9)):
            if i == 3:
                inside.set()
                threading.Event().wait()
            seen.append(i)
threading.Thread(target=work, daemon=True).start()
inside.wait(10)
"""


@pytest.mark.parametrize("each_save", [True, False])
def test_a_block_in_a_thread_that_runs_when_the_interpreter_ends_keeps_its_last_boundary(folder, left, each_save):
    """Nobody but its own thread can say at which moment it is; where it has no boundaries, nothing is saved."""
    done = script(BUSY.replace("each_save=True", f"each_save={each_save}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in left() if name != ".run.lock"] == (["run", "seen"] if each_save else [])
    if each_save:
        assert resumed() == (3, [0, 1, 2])


INTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import sys
sys.path[:] = {path!r}
from py_restart import enable_counter, simple_counter
for stop in (3, None):
    try:
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(range(6)):
                if i == stop:
                    raise KeyError
                seen.append(i)
    except KeyError:
        pass
assert list(simple_counter("run", range(3))) == [0, 1, 2]
with open("result", "w") as file:
    file.write(repr(seen))
'''
import sys
one = interpreters.create()
answer = interpreters.run_string(one, code.format(path=sys.path))
assert answer is None, answer
interpreters.destroy(one)
"""


def test_a_subinterpreter_keeps_all_other_promises(folder, left, monkeypatch):
    """Its thread calls itself the main one, and may set no handler."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # it would start in there as well, and say that it cannot
    done = script(INTERPRETER)
    assert (done.returncode, done.stderr) == (0, "")
    assert left() == ["result"] and Path("result").read_text() == "[0, 1, 2, 3, 4, 5]"


def test_a_system_without_sighup(folder):
    """Windows."""
    done = script(
        "import _signal, signal\n"
        "del _signal.SIGHUP, signal.SIGHUP\n"
        "from py_restart import enable_counter\n"
        "try:\n"
        "    with enable_counter('run') as counter:\n"
        "        for i in counter(range(9)):\n"
        "            if i == 3: signal.raise_signal(signal.SIGTERM)\n"
        "finally:\n"
        "    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, enable_counter('run').position)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "True 3\n", "")


def test_an_error_of_a_save_is_not_hidden_by_a_signal_that_waited(folder, run_child):
    """The one that is raised says it, or the other carries it."""

    def job(tell):
        signal.signal(signal.SIGALRM, raise_limit)
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object(Saved(lambda: None), "seen")

            def fail():
                me(signal.SIGALRM)
                raise OSError("disk full")

            counter.object = value = Saved(fail)
            try:
                for i in counter(range(9)):
                    value.armed = i == 1
            except BaseException as error:
                chain = [error, error.__context__, error.__cause__]
                tell([type(one).__name__ for one in chain if one is not None])
            value.armed = False

    (chain,) = run_child(job).told
    assert "Limit" in chain or RestartError.__name__ in chain


STRIKE = """
import os, signal, sys
from py_restart import enable_counter, simple_counter
def strike(number, frame):
    raise TimeoutError
def at_call(frame, event, argument):
    if event == "call" and frame.f_code.co_qualname == "Counted.__exit__":
        sys.setprofile(None)
        signal.raise_signal(signal.SIGALRM)
signal.signal(signal.SIGALRM, strike)
"""
LIMITED = """
with enable_counter("run") as counter:
    seen = counter.save_load_object([], "seen")
    for i in counter(range(9)):
        if i == 3:
            sys.setprofile(at_call)
            sys.exit(5)
        seen.append(i)
"""


def test_a_time_limit_that_keeps_a_loop_from_being_told_that_it_was_left_costs_no_item(folder, left):
    """Python drops what a handler raises before the first line of the exit of a generator. The item was not done."""
    assert script(STRIKE + LIMITED).returncode == 5
    assert resumed() == (3, [0, 1, 2])


WORKER = """
def task(path, hook):
    for i in simple_counter(path, range(9)):
        if i == 3:
            sys.setprofile(hook)
            raise KeyError
sys.unraisablehook = lambda dropped: None
for path, hook in ("one", at_call), ("two", None), ("three", None), ("one", None):
    try:
        task(path, hook)
    except KeyError:
        print(path, *sorted(os.listdir()))
"""


def test_a_time_limit_that_keeps_a_loop_from_being_told_that_it_was_left_is_not_in_the_way_of_later_loops(folder, left):
    """It was left: the next loop of the same function is neither inside it nor part of its source."""
    done = script(STRIKE + WORKER)
    assert done.stderr == ""
    assert done.stdout == "one .one.lock one\ntwo one two\nthree one three two\none one three two\n"


def chain():
    """Do what libraries do: have SIGTERM pass by them, to what was there before."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: (calls.append("library"), before(number, frame)))


calls = []


def test_a_handler_of_a_library_that_calls_ours_reaches_that_of_the_program_behind_the_block(folder, run_child):
    """A worker that ends when its job is done, say."""

    def job(tell):
        signal.signal(signal.SIGTERM, lambda number, frame: calls.append("program"))
        with enable_counter("run") as counter:
            chain()
            for _ in counter(range(3)):
                pass
        me(signal.SIGTERM)
        tell(calls)

    child = run_child(job)
    assert (child.error, child.told) == (None, [["library", "program"]])


def test_a_handler_of_a_library_that_calls_ours_does_so_once_in_the_next_block(folder, run_child):
    """It was set in the first one, and stands where ours would stand: SIGTERM ends the block, which saves."""

    def job(tell):
        for last in (9, 3):
            with enable_counter("run") as counter:
                if last == 9:
                    chain()
                try:
                    for i in counter(range(6)):
                        if i == last:
                            me(signal.SIGTERM)
                finally:
                    tell(calls)

    child = run_child(job)
    assert (child.status, child.told) == (143, [[], ["library"]])
    assert enable_counter("run").position == 3


def test_a_handler_of_a_library_that_calls_ours_does_so_once_where_a_save_has_held_it_back(folder, run_child):
    """The save at the end of a loop, which is still being told that it is over: nothing waits a second time."""

    def job(tell):
        value = Saved(lambda: me(signal.SIGTERM))
        try:
            with enable_counter("run", each_save=True, save_span=10) as counter:
                _kept = counter.save_load_object(value, "seen")
                chain()
                for i in counter(range(3)):
                    value.armed = i == 2
        finally:
            tell(calls)

    child = run_child(job)
    assert (child.status, child.told) == (143, [["library"]])
    assert resumed() == (3, "whole")

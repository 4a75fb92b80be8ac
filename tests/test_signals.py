"""Stops that should save, and stops that wait for a save."""

import ctypes
import gc
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from py_restart import _files, _signals, enable_counter, simple_counter

LIMIT = 10  # seconds in which a stop must come
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def me(number):
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def handlers():
    """Return what happens at each stop."""
    return [signal.getsignal(number) for number in STOPS]


def counted(tell, inside, **options):
    """Count ten items with an object, and do something in item 4."""
    with enable_counter("run", **options) as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(10)):
            if i == 4:
                inside()
            seen.append(i)
    tell(seen)


def resumed():
    """Return what the next run starts with."""
    counter = enable_counter("run")
    return counter.position, counter.save_load_object([], "seen")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_in_a_with_saves_and_ends_with_the_shells_status(folder, run_child, number):
    """SIGTERM and SIGHUP, where the program left them at their default."""
    assert run_child(counted, lambda: me(number)).status == 128 + number
    assert resumed() == (4, [0, 1, 2, 3])


def test_ctrl_c_in_a_with_saves(folder, run_child):
    """As any exception does."""
    assert run_child(counted, lambda: me(signal.SIGINT)).error == "KeyboardInterrupt"
    assert resumed() == (4, [0, 1, 2, 3])


@pytest.mark.parametrize("number", STOPS)
def test_a_handler_of_the_program_is_called_as_it_would_have_been(folder, run_child, number):
    """With the number and a frame; whether it raises is its own business."""

    def job(tell):
        signal.signal(number, lambda got, frame: tell((got, frame is not None)))
        counted(tell, lambda: me(number))

    assert run_child(job).told == [(number, True), list(range(10))]


@pytest.mark.parametrize("number", STOPS)
def test_what_the_program_ignores_stays_ignored(folder, run_child, number):
    """As under `nohup`; during a save too."""

    def job(tell):
        signal.signal(number, signal.SIG_IGN)
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
        with enable_counter("outer"):
            raise KeyError
    assert handlers() == before
    assert list(simple_counter("run", range(3))) == [0, 1, 2]
    assert handlers() == before


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


class Saved:
    """An object during whose pickling something happens."""

    def __init__(self, during):
        self.during, self.armed = during, False

    def __reduce__(self):
        if self.armed:
            self.during()
        return (str, ("whole",))


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("way", ["with", "without"])
def test_a_stop_during_a_save_waits_until_it_is_done(folder, run_child, number, way):
    """The save is whole, and the stop takes effect then: as an exception in a `with`, as its default elsewhere."""

    def job(tell):
        value = Saved(lambda: (me(number), tell("saving")))
        counter = enable_counter("run", each_save=True)
        if way == "with":
            counter.__enter__()
        counter.save_load_object(value, "seen")
        for i in counter(range(10)):
            tell(i)
            value.armed = i == 3

    child = run_child(job)
    assert child.told == [0, 1, 2, 3, "saving"]
    if number == signal.SIGINT:
        assert child.error == "KeyboardInterrupt"
    else:
        assert child.status == (128 + number if way == "with" else -number)
    assert resumed() == (4, "whole")


@pytest.mark.parametrize("second", STOPS)
def test_a_second_stop_during_the_save_of_the_first_waits(folder, run_child, second):
    """Ctrl-C twice, or Ctrl-C and then the scheduler's SIGTERM: the save is whole."""

    def job(tell):
        value = Saved(lambda: (me(second), tell("saving")))
        with enable_counter("run") as counter:
            counter.save_load_object(value, "seen")
            for i in counter(range(10)):
                if i == 4:
                    value.armed = True
                    me(signal.SIGINT)

    child = run_child(job)
    assert child.told == ["saving"]
    if second == signal.SIGINT:
        assert child.error == "KeyboardInterrupt"
    else:
        assert child.status == -second  # the block is over: it does what it does elsewhere
    assert resumed() == (4, "whole")


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


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_a_generator_is_closed_comes_a_moment_later(folder, run_child, number):
    """Python drops what is raised there: nobody would hear of the stop."""

    def source():
        try:
            yield from range(10)
        finally:
            me(number)

    def job(tell):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            for i in counter(source()):
                if i == 4:
                    break
                seen.append(i)
            wait()

    assert run_child(job).status == (1 if number == signal.SIGINT else 128 + number)
    assert resumed()[1] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_a_loop_that_was_left_lets_go_comes_a_moment_later(folder, run_child, number):
    """What held it back then is in a generator that is being closed."""

    def job(tell):
        unlock = _files.unlock
        with enable_counter("run") as counter:
            for i in counter(range(10)):
                for _ in simple_counter("inner", range(3)):
                    _files.unlock = lambda file: (me(number), unlock(file))
                    if i == 4:
                        break
                    _files.unlock = unlock
                _files.unlock = unlock
                if i == 4:
                    wait()

    assert run_child(job).status == (1 if number == signal.SIGINT else 128 + number)
    assert enable_counter("run").position == 4


def test_a_ctrl_c_while_a_loop_without_a_block_lets_go_comes_a_moment_later(folder, run_child):
    """The program's own handler raises it, and it is not dropped either."""

    def job(tell):
        unlock = _files.unlock
        for _ in simple_counter("run", range(3)):
            _files.unlock = lambda file: (me(signal.SIGINT), unlock(file))
            break
        wait()

    assert run_child(job).error == "KeyboardInterrupt"


def test_what_comes_again_comes_to_this_process():
    """A moment later."""
    came, before = [], signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, lambda number, frame: came.append(number))
    try:
        _signals._send_later(signal.SIGHUP)
        assert came == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_that_cannot_come_again_waits_for_the_end_of_the_block(monkeypatch):
    """Where there are too many threads."""

    def refuse(function, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_signals._thread, "start_new_thread", refuse)
    _signals._send_again(signal.SIGTERM)
    assert _signals._waiting.pop() == signal.SIGTERM


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


def test_a_stop_as_the_block_begins_to_end_waits(folder, run_child):
    """The first instruction of the end of the block: no `try` can stand there."""

    def job(tell):
        import sys

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


def test_all_stops_that_came_during_a_save_count(folder, run_child):
    """Each of them, in their order."""

    def job(tell):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, frame: tell(got))
        value = Saved(lambda: (me(signal.SIGTERM), me(signal.SIGHUP), tell("saving")))
        counter = enable_counter("run", each_save=True)
        counter.save_load_object(value, "seen")
        for i in counter(range(2)):
            value.armed = i == 0

    assert run_child(job).told == ["saving", signal.SIGTERM, signal.SIGHUP]


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
        thread.join(10)
    assert results == [["run", "seen"]]
    assert len(seen) == 4 + 3 and all(seen)
    assert left() == []


def test_a_forked_child_has_the_handlers_that_were_there(folder, run_child):
    """Inside the parent's block, and inside its save."""

    def job(tell):
        def fork():
            child = os.fork()
            if child == 0:
                tell((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))
                os._exit(0)
            os.waitpid(child, 0)

        value = Saved(fork)
        value.armed = True
        with enable_counter("run", each_save=True) as counter:
            counter.save_load_object(1, "seen")
            counter.object = value
            for _ in counter(range(1)):
                fork()

    told = run_child(job).told
    assert len(told) == 3 and set(told) == {(signal.SIG_DFL, signal.default_int_handler)}


def test_a_system_without_sighup(folder, monkeypatch):
    """Windows."""
    monkeypatch.delattr(_signals.signal, "SIGHUP")
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with enable_counter("run"):
        assert signal.getsignal(signal.SIGTERM) == _signals._on_stop
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before


def test_a_stop_in_what_is_shielded_waits_for_the_end_of_the_block(folder):
    """From the very first instruction on."""

    @_signals.shielded
    def end():
        me(signal.SIGINT)
        passed.append(True)

    passed = []
    with pytest.raises(KeyboardInterrupt):
        with enable_counter("run"):
            end()
            passed.append(True)
    assert passed == [True, True]


def test_a_stop_during_a_save_outside_a_block_does_what_it_does_elsewhere(folder, monkeypatch):
    """With its default handler back in place."""
    raised = []
    told = lambda number: raised.append((number, signal.getsignal(number)))  # noqa: E731
    monkeypatch.setattr(_signals.signal, "raise_signal", told)
    value = Saved(lambda: me(signal.SIGTERM))
    counter = enable_counter("run", each_save=True)
    counter.save_load_object(value, "seen")
    for i in counter(range(3)):
        value.armed = i == 1
    assert raised == [(signal.SIGTERM, signal.SIG_DFL)]


def test_a_ctrl_c_while_a_block_is_entered_leaves_the_handlers_as_they_were(folder, monkeypatch):
    """No `__exit__` will be called: what was put in their place goes at once."""
    before, watch = handlers(), _signals.watch

    def watch_and_stop():
        me(signal.SIGINT)
        return watch()

    monkeypatch.setattr(_signals, "watch", watch_and_stop)
    with pytest.raises(KeyboardInterrupt):
        enable_counter("run").__enter__()
    assert handlers() == before
    assert not any(_signals._stood_in_for.values())


def test_a_block_that_could_not_be_entered_ends_none_of_the_others(folder, monkeypatch):
    """A stop between two handlers: what is around it goes on being told of stops."""
    with pytest.raises(SystemExit), enable_counter("outer"):
        with monkeypatch.context() as patch:
            patch.setattr(_signals, "watch", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                enable_counter("inner").__enter__()
        me(signal.SIGTERM)


def test_a_stop_between_two_handlers_leaves_all_as_they_were(monkeypatch):
    """The first is replaced already, the second is not, and the program's own raises."""
    gc.collect()  # what earlier tests have left in cycles ends now, and not with a handler of this one
    before, getsignal = handlers(), _signals.signal.getsignal

    def getsignal_and_stop(number):
        if number == signal.SIGTERM:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return getsignal(number)

    monkeypatch.setattr(_signals.signal, "getsignal", getsignal_and_stop)
    with pytest.raises(KeyboardInterrupt):
        _signals.watch()
    assert handlers() == before
    assert not any(_signals._stood_in_for.values())


def test_a_handler_that_is_back_and_raises_at_once_does_not_keep_the_others_away(monkeypatch):
    """All of them go back first; then it is raised."""
    gc.collect()  # what earlier tests have left in cycles ends now, and not with a handler of this one
    before, set_handler = handlers(), _signals.signal.signal

    def set_and_stop(number, handler):
        set_handler(number, handler)
        if number == signal.SIGTERM and handler != _signals._on_stop:
            raise KeyboardInterrupt

    assert _signals.watch()
    monkeypatch.setattr(_signals.signal, "signal", set_and_stop)
    with pytest.raises(KeyboardInterrupt):
        _signals.unwatch()
    assert handlers() == before
    assert not any(_signals._stood_in_for.values())


def test_a_ctrl_c_while_an_inner_block_is_entered_leaves_the_outer_one_its_handlers(folder, monkeypatch):
    """The outer block is still to save; the inner one had put nothing in their place."""
    watch = _signals.watch

    def watch_and_stop():
        me(signal.SIGINT)
        return watch()

    with enable_counter("outer"):
        inside = handlers()
        monkeypatch.setattr(_signals, "watch", watch_and_stop)
        with pytest.raises(KeyboardInterrupt):
            enable_counter("inner").__enter__()
        assert handlers() == inside != [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


def test_a_handler_of_ours_that_the_program_puts_back_after_the_block_does_no_harm(folder):
    """It had found it inside: the next block saves at a stop as ever, and the default comes back behind it."""
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
        assert handlers() == before == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)

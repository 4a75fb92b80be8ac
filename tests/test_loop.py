"""Loop: skip, yield, count. What it saves is read from the disk."""

import _thread
import contextlib
import gc
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Generator

import pytest

from py_restart import RestartError, enable_counter, simple_counter
from py_restart._loop import Counted

NEVER = None  # a span: in a `with` that saves only where it fails
SPANS = pytest.mark.parametrize("span", [1, 3, NEVER])
KINDS = pytest.mark.parametrize(
    "kind", [list, tuple, iter, lambda source: source], ids=["list", "tuple", "any", "range"]
)
WAS_LEFT = "run: this loop has been run or left; make another counter to go on"


class Stop(Exception):
    """How a job is interrupted."""


class Source:
    """An iterator that notes how far it was drawn, and may fail."""

    def __init__(self, length, fails_at=None):
        self.drawn, self.length, self.fails_at = 0, length, fails_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.drawn == self.fails_at:
            raise ArithmeticError
        if self.drawn == self.length:
            raise StopIteration
        self.drawn += 1
        return self.drawn - 1


@pytest.fixture
def counted(folder):
    """Wrap a source in a loop: `counted(source, span)`."""
    with contextlib.ExitStack() as blocks:

        def counted(source, span=1, path="run"):
            if span is NEVER:
                return blocks.enter_context(enable_counter(path))(source)
            return simple_counter(path, source, save_span=span)

        yield counted


def saved_at(start, source, path="run"):
    """Stop a loop in the item at `start`; at the end of the source, behind the loop."""
    with contextlib.suppress(Stop), enable_counter(path) as counter:
        for n, _ in enumerate(counter(source)):
            if n == start:
                raise Stop
        raise Stop


@pytest.mark.parametrize("start", [0, 1, 5, 7, 10])
@pytest.mark.parametrize("span", [1, 2, 3, 5, 10, 11, sys.maxsize])
def test_it_saves_at_each_multiple_of_the_span_and_nowhere_else(counted, position, start, span):
    """Boundaries count from item 0, whatever the start."""
    saved_at(start, range(10))
    seen = []
    for item in counted(range(10), span):
        seen.append(item)
        assert position() == max([start, *(n for n in range(start, item + 1) if n % span == 0)])
    assert seen == list(range(start, 10))
    assert os.listdir() == []


def test_a_loop_is_a_generator(counted):
    """As a type checker and a progress bar see it; asking takes no item."""
    loop = counted(range(3))
    assert isinstance(loop, Generator)
    assert list(loop) == [0, 1, 2]


@KINDS
@SPANS
def test_the_position_is_that_of_the_running_item(counted, span, kind):
    """Before the loop, in it, after it."""
    saved_at(2, kind(range(8)))
    loop = counted(kind(range(8)), span)
    assert loop.position == 2
    seen = [(item, loop.position) for item in loop]
    assert seen == [(n, n) for n in range(2, 8)]
    assert loop.position == 8


@SPANS
@pytest.mark.parametrize("start", [0, 2])
def test_the_position_in_a_list_that_grows_while_it_is_iterated(counted, position, span, start):
    """A list of work to do, to which the items add."""
    saved_at(start, [0, 1, 2])
    todo, seen = [0, 1, 2], []
    loop = counted(todo, span)
    for item in loop:
        if len(todo) < 8:
            todo += [len(todo), len(todo) + 1]
        assert len(loop) == len(todo) and f"position {item} of {len(todo)}" in repr(loop)
        seen.append((item, loop.position))
        assert span is NEVER or position() == max(start, item - item % span)
    assert seen == [(n, n) for n in range(start, 9)] and loop.position == 9


@SPANS
def test_the_position_in_a_list_that_shrinks_while_it_is_iterated(counted, span):
    """It does not turn back; a list that is over for that counts as done."""
    todo, seen = list(range(10)), []
    loop = counted(todo, span)
    for item in loop:
        if item == 6:
            del todo[4:]
        seen.append((item, loop.position))
    assert seen == [(n, n) for n in range(7)] and loop.position == 10


@pytest.mark.parametrize("kind", [list, iter])
def test_a_loop_that_was_left_keeps_its_position_and_not_its_items(counted, kind):
    """A variable may hold the loop for the rest of the program."""

    class Item:
        pass

    items = [Item(), Item(), Item()]
    gone, source = weakref.ref(items[2]), kind(items)
    loop = counted(source)
    for _ in loop:
        if loop.position == 1:
            break
    del items, source, _
    gc.collect()
    assert loop.position == 1 and gone() is None


def test_a_generator_is_closed_when_its_loop_is_left(counted):
    """As by a `for` without us: what it holds open is let go of at once."""
    closed = []

    def source():
        try:
            yield from range(5)
        finally:
            closed.append(True)

    loop = counted(source())
    for _ in loop:
        break
    assert closed == [True]


@SPANS
def test_an_item_is_drawn_when_it_is_asked_for_and_not_before(counted, span):
    """A source may have side effects: no item is drawn ahead, at no boundary."""
    source = Source(10)
    for item in counted(source, span):
        assert source.drawn == item + 1


@SPANS
@pytest.mark.parametrize("fails_at", range(5))
def test_the_position_when_the_source_raises_is_that_of_the_item_that_is_missing(counted, position, span, fails_at):
    """The items before it had ended, and the last boundary was saved."""
    loop = counted(Source(9, fails_at), span)
    with pytest.raises(ArithmeticError):
        for _ in loop:
            pass
    assert loop.position == fails_at
    assert span is NEVER or position() == (fails_at - fails_at % span or None)


@SPANS
@pytest.mark.parametrize("through", ["the loop", "its iterator"])
@KINDS
def test_the_position_when_an_exception_is_thrown_in_is_that_of_the_running_item(counted, span, through, kind):
    """As if the item had raised it; the three ways in which `throw` may be called."""
    for number, arguments in enumerate([(KeyError(),), (KeyError, KeyError("x")), (KeyError, KeyError("x"), None)]):
        for items in (1, 2, 3, 4):
            loop = counted(kind(range(9)), span, f"run{number}{items}")
            driver = loop if through == "the loop" else iter(loop)
            for _ in range(items):
                next(driver)
            with pytest.raises(KeyError):
                if through == "the loop" or len(arguments) == 1:
                    driver.throw(*arguments)
                else:
                    driver.throw(arguments[1])
            assert loop.position == items - 1


@SPANS
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "any"])
def test_what_goes_with_the_last_reference_to_an_item_finds_the_next_one_still_to_run(counted, kind, span):
    """What runs then, a finalizer or a handler of a signal, may save: the item that is due would be lost."""
    found = []

    class Item:
        def __del__(self):
            found.append(loop.position)

    items = [Item() for _ in range(5)]
    loop = counted(items if kind is list else map(items.pop, [0] * 5), span)
    for item in loop:
        if kind is list:
            items[loop.position] = None
        del item
    assert found == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("source", [list, iter])
def test_a_stop_iteration_that_is_thrown_in_is_an_error_as_in_any_generator(folder, source):
    """It is not taken for the end of the source."""
    with pytest.raises(RuntimeError, match="generator raised StopIteration"), enable_counter("run") as counter:
        loop = counter(source([1, 2, 3]))
        next(loop)
        loop.throw(StopIteration)
    assert enable_counter("run").position == 0


@pytest.mark.parametrize("source", [list, iter])
def test_what_is_sent_into_a_loop_is_of_no_account(folder, source):
    """An iterable has no use for it."""
    with enable_counter("run") as counter:
        loop = counter(source([1, 2, 3]))
        assert [next(loop), loop.send(5), next(loop)] == [1, 2, 3]


@pytest.mark.parametrize("value", [KeyError("x"), None], ids=["a value", "a class alone"])
def test_throwing_with_a_traceback(counted, value):
    """The traceback is the one that was given, as with a generator."""
    try:
        raise ArithmeticError
    except ArithmeticError as error:
        trace = error.__traceback__
    loop = counted(range(3))
    next(loop)
    with pytest.raises(KeyError) as raised:
        loop.throw(KeyError, value, trace)
    frames = []
    step = raised.value.__traceback__
    while step:
        frames.append(step)
        step = step.tb_next
    assert any(frame.tb_frame is trace.tb_frame and frame.tb_lineno == trace.tb_lineno for frame in frames)


@pytest.mark.parametrize("way", ["break", "close", "exception", "thrown away"])
@pytest.mark.parametrize("span", [1, 3])
def test_the_position_when_the_loop_is_left_is_that_of_the_running_item(counted, position, left, way, span):
    """However it is left, no boundary is saved any more, and nothing is locked."""
    loop = counted(range(9), span)
    if way == "close":
        for _ in range(5):
            next(loop)
        loop.close()
    elif way == "thrown away":
        iterator = iter(loop)
        for _ in range(5):
            next(iterator)
        del iterator
    else:
        with contextlib.suppress(KeyError):
            for item in loop:
                if item == 4:
                    if way == "break":
                        break
                    raise KeyError
    assert loop.position == 4
    assert position() == 4 - 4 % span
    assert left() == ["run"]


def test_a_second_for_over_a_left_loop_is_an_error(counted):
    """Never an empty loop."""
    for leave in (False, True):
        loop = counted(range(3))
        for _ in loop:
            if leave:
                break
        for again in (iter, next, list):
            with pytest.raises(RestartError, match=WAS_LEFT):
                again(loop)


def test_a_second_for_over_a_running_loop_is_an_error(counted):
    """They would share the items."""
    loop = counted(range(3))
    with pytest.raises(RestartError, match="run: this loop has been run or left"):
        for _ in loop:
            for _ in loop:
                pass


def test_an_iterator_that_was_never_used_is_no_run(counted):
    """Something may ask for one and throw it away."""
    loop = counted(range(3))
    iter(loop)
    gc.collect()
    assert list(loop) == [0, 1, 2]


@SPANS
def test_next_and_for_go_on_with_each_other(counted, span):
    """The first item by `next`, the rest by `for`, and `next` inside of it; then it is exhausted."""
    loop = counted(range(6), span)
    assert next(loop) == 0
    assert loop.send(None) == 1
    seen = []
    for item in loop:
        seen.append(item)
        if item == 2:
            assert next(loop) == 3
    assert seen == [2, 4, 5]
    loop = counted(range(1), span, "other")
    assert next(loop) == 0
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loop)


def test_a_loop_that_is_held_by_next_saves_what_was_done(counted, position):
    """An item is done when the next one is asked for, by whatever."""
    loop = counted(range(5))
    assert [next(loop), next(loop), next(loop)] == [0, 1, 2]
    assert (position(), loop.position) == (2, 2)
    del loop
    assert list(counted(range(5))) == [2, 3, 4]


def test_a_for_over_a_loop_that_next_has_ended_is_an_error(counted):
    """Never an empty loop."""
    exhausted, closed, failed = (counted([1], path=f"run{n}") for n in range(3))
    assert [next(exhausted), next(exhausted, None), next(closed)] == [1, None, 1]
    closed.close()
    next(failed)
    with pytest.raises(KeyError):
        failed.throw(KeyError, None, None)
    for loop in (exhausted, closed, failed):
        assert next(loop, None) is None
        with pytest.raises(RestartError, match="run.: this loop has been run or left"):
            iter(loop)


def test_closing_a_loop_that_never_ran_is_nothing(counted):
    """It may still run."""
    loop = counted(range(2))
    loop.close()
    assert list(loop) == [0, 1]


def test_len_is_that_of_the_whole_iterable(counted):
    """So that a progress bar that starts at the position draws the right bar; whatever its length, a loop is true."""
    saved_at(3, [1, 2, 3, 4])
    loop = counted([1, 2, 3, 4])
    assert (len(loop), loop.position, list(loop)) == (4, 3, [4])
    assert counted([], path="other")
    with pytest.raises(TypeError, match="last: the iterable of this loop has no length"):
        len(counted(Source(3), path="last"))


def test_whatever_cannot_tell_its_length_has_none(counted, moment):
    """A loader over a stream raises another error than a generator; `len` cannot say what is too large for it."""

    class Stream:
        def __len__(self):
            raise NotImplementedError

        def __iter__(self):
            return iter("ab")

    for n, source in enumerate([Stream(), range(10**30)]):
        loop = counted(source, path=f"run{n}")
        with pytest.raises(TypeError, match="has no length"):
            len(loop)
        for _ in itertools.islice(loop, 2):
            pass
        assert moment(f"run{n}")["length"] is None
    loop = counted(range(7))
    next(loop), next(loop)
    assert (len(loop), moment()["length"]) == (7, 7)


def test_an_item_that_can_be_printed_in_no_thread_is_not_recognised(counted, moment, monkeypatch):
    """Where no thread can be started the loop runs all the same; what is not known is not warned of."""

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        loop = counted([{1: "a"}, {2: "b"}, {3: "c"}])
        assert [next(loop) for _ in range(2)] == [{1: "a"}, {2: "b"}]
    assert (moment()["position"], moment()["first"]) == (1, None)
    del loop
    assert list(counted([{4: "d"}, {5: "e"}, {6: "f"}])) == [{5: "e"}, {6: "f"}]


def from_position(start):
    """Return what is left to do: a source given as a function."""
    return iter(range(start, 9))


@pytest.mark.parametrize("kind", ["range", "list", "tuple", "iterator", "generator", "function"])
@pytest.mark.parametrize("start", [0, 1, 4, 8, 9])
@SPANS
def test_it_resumes_at_the_item_that_failed_whatever_the_source(counted, kind, start, span):
    """A second stop counts from the same zero."""
    make = {
        "range": lambda: range(9),
        "list": lambda: [*range(9)],
        "tuple": lambda: (*range(9),),
        "iterator": lambda: iter(range(9)),
        "generator": lambda: (n for n in range(9)),
        "function": lambda: from_position,
    }[kind]
    saved_at(start // 2, make())
    saved_at(start - start // 2, make())
    loop = counted(make(), span)
    assert loop.position == start
    assert list(loop) == list(range(start, 9))


def test_resuming_a_function_asks_it_for_the_rest_alone(counted):
    """Once, with the position; nothing is drawn and dropped."""
    source, asked = Source(9), []

    def rest(start):
        asked.append(start)
        source.drawn = start
        return source

    saved_at(4, rest)
    assert asked == [0]
    loop = counted(rest)
    assert (next(loop), source.drawn, asked) == (4, 5, [0, 4])


@pytest.mark.parametrize(
    "name, method", [("__iter__", lambda rows: iter("abc")), ("__getitem__", lambda rows, n: "abc"[n])]
)
def test_a_class_that_is_iterable_is_iterated_and_not_called(counted, name, method):
    """A data set may have a `__call__` for something else."""

    class Both:
        def __call__(self, start):
            raise AssertionError

    setattr(Both, name, method)
    saved_at(1, Both())
    assert list(counted(Both())) == ["b", "c"]


def test_a_list_that_has_grown_has_its_length_at_the_end_as_well(folder):
    """When the loop lets go of it."""
    items = ["a"]
    loop = simple_counter("run", items, save_span=100)
    for _ in loop:
        if len(items) < 4:
            items.append("next")
    assert (len(loop), loop.position) == (4, 4)


def test_what_has_items_by_number_alone_is_iterable(counted):
    """As for a `for`: until an IndexError."""

    class Rows:
        def __getitem__(self, number):
            return "abc"[number]

    saved_at(1, Rows())
    assert list(counted(Rows())) == ["b", "c"]


def test_skipping_draws_as_many_as_were_done(counted):
    """Not one item more."""
    saved_at(4, Source(10))
    source = Source(10)
    loop = counted(source)
    assert next(loop) == 4
    assert source.drawn == 5


def test_skipping_beyond_the_end_is_an_error(counted, position):
    """Exactly to the end is none. What was saved stays."""
    saved_at(4, Source(9))
    with pytest.raises(RestartError, match="run: .*position 4.*ends before"):
        next(counted(Source(3)))
    assert position() == 4
    assert list(counted(Source(4))) == []


def test_an_exception_while_skipping_leaves_the_position(counted, position):
    """Nothing has begun."""
    saved_at(4, Source(9))
    loop = counted(Source(9, fails_at=2))
    with pytest.raises(ArithmeticError):
        next(loop)
    assert (loop.position, position()) == (4, 4)


def test_a_finished_loop_has_no_items(counted, moment):
    """It is at its end, and asks its source for nothing."""
    saved_at(3, Source(3))
    assert moment()["finished"] is True
    loop = counted(Source(3, fails_at=0))
    assert list(loop) == []
    assert loop.position == 3


class Refusing:
    """What can be pickled until it is told not to be."""

    is_armed = False

    def __reduce__(self):
        if self.is_armed:
            raise OSError("disk full")
        return (Refusing, ())


@pytest.mark.parametrize("span", [1, 3])
def test_a_save_that_fails_ends_the_loop(folder, position, span):
    """At the boundary: the item before it had ended."""
    counter = enable_counter("run", each_save=True, save_span=span)
    value = counter.save_load_object(Refusing(), "object")
    loop = counter(range(9))
    with pytest.raises(RestartError, match="disk full"):
        for item in loop:
            value.is_armed = item == 2 * span - 1
    assert (loop.position, counter.position, position()) == (2 * span, 2 * span, span)


def test_a_loop_says_where_it_stands(counted):
    """`repr` is for a person who looks at it in a debugger."""
    saved_at(3, range(8))
    loop = counted(range(8))
    assert repr(loop) == "<loop run: position 3 of 8>"
    for _ in loop:
        assert repr(loop) == f"<loop run: position {loop.position} of 8>"
    assert repr(counted(Source(3), path="other")).startswith("<loop other: position 0")


@pytest.mark.parametrize("span", [1, 2])
@pytest.mark.parametrize("source", [range(3), [0, 1, 2], (0, 1, 2), "abc"])
def test_what_a_trace_function_stops_is_lost_at_no_line(folder, source, span):
    """A debugger that is left, or a thread that is ended so: at each line of what the `for` drives in turn."""

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code is not Counted._drive.__code__:
            return None
        left -= event == "line"
        if not left:
            raise Stop
        return trace

    before = sys.gettrace()
    for number in itertools.count(1):
        left, done = number, []
        with contextlib.suppress(Stop), enable_counter("run", each_save=True, save_span=span) as counter:
            loop = counter(source)
            sys.settrace(trace)
            try:
                for item in loop:
                    done.append(item)
            finally:
                sys.settrace(before)
        if left > 0:
            break
        with enable_counter("run") as counter:
            assert done + list(counter(source)) == list(source), number
    assert number > 5


def test_a_loop_that_is_run_where_no_python_has_called_it(counted, left):
    """A thread that runs nothing but `extend`; so does `atexit`, and a program in C that Python is embedded in."""
    done = []
    _thread.start_new_thread(done.extend, (counted([1, 2, 3]),))
    end = time.monotonic() + 30
    while len(done) < 3 or left():
        assert time.monotonic() < end, done
        time.sleep(0.01)
    assert done == [1, 2, 3]

"""Loop: skip, yield, count. Without files: the counter is a stand-in."""

import gc
import sys
import weakref

import pytest

from py_restart import RestartError
from py_restart._loop import Loop, length_of


class Counter:
    """A counter that notes what it is asked."""

    _name, _is_superseded = "run", False

    def __init__(self, start=0, saves=True, is_finished=False):
        self._start, self.saves, self._is_finished = start, saves, is_finished
        self.saved, self.calls = [], []

    def _begin(self, loop):
        self.calls.append("begin")
        return self.saved.append if self.saves else None

    def _end(self):
        self.calls.append("end")

    def _leave(self):
        self.calls.append("leave")


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


@pytest.mark.parametrize("start", [0, 1, 5, 7, 10])
@pytest.mark.parametrize("span", [1, 2, 3, 5, 10, 11, sys.maxsize])
def test_it_saves_at_each_multiple_of_the_span_and_nowhere_else(start, span):
    """Boundaries count from item 0, whatever the start; the end is the counter's business."""
    counter = Counter(start)
    assert list(Loop(counter, range(10), span)) == list(range(start, 10))
    assert counter.saved == [n for n in range(start + 1, 11) if n % span == 0]
    assert counter.calls == ["begin", "end", "leave"]


KINDS = pytest.mark.parametrize(
    "kind", [list, tuple, iter, lambda source: source], ids=["list", "tuple", "any", "range"]
)


@KINDS
@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
def test_the_position_is_that_of_the_running_item(span, saves, kind):
    """Before the loop, in it, at a boundary, after it."""
    counter = Counter(2, saves)
    loop = Loop(counter, kind(range(8)), span)
    counter.begin = lambda loop: (lambda position: places.append((position, loop.position))) if saves else None
    places, seen = [], []
    assert loop.position == 2
    for item in loop:
        seen.append((item, loop.position))
    assert seen == [(n, n) for n in range(2, 8)]
    assert all(position == at for position, at in places)
    assert loop.position == 8


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("start", [0, 2])
def test_the_position_in_a_list_that_grows_while_it_is_iterated(span, saves, start):
    """A list of work to do, to which the items add."""
    counter, todo, seen = Counter(start, saves), [0, 1, 2], []
    loop = Loop(counter, todo, span)
    for item in loop:
        if len(todo) < 8:
            todo += [len(todo), len(todo) + 1]
        seen.append((item, loop.position))
    assert seen == [(n, n) for n in range(start, 9)] and loop.position == 9
    assert counter.saved == [n for n in range(start + 1, 10) if n % span == 0 and saves]


@pytest.mark.parametrize("kind", [list, iter])
def test_a_loop_that_was_left_keeps_its_position_and_not_its_items(kind):
    """A variable may hold the loop for the rest of the program."""

    class Item:
        pass

    items = [Item(), Item(), Item()]
    gone, source = weakref.ref(items[2]), kind(items)
    loop = Loop(Counter(), source, 1)
    for _ in loop:
        if loop.position == 1:
            break
    del items, source, _
    gc.collect()
    assert loop.position == 1 and gone() is None


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
def test_an_item_is_drawn_when_it_is_asked_for_and_not_before(span, saves):
    """A source may have side effects: no item is drawn ahead, at no boundary."""
    source = Source(10)
    for item in Loop(Counter(0, saves), source, span):
        assert source.drawn == item + 1


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
def test_the_position_when_the_source_raises_is_that_of_the_item_that_is_missing(span, saves):
    """The items before it had ended."""
    for fails_at in range(5):
        loop = Loop(Counter(0, saves), Source(9, fails_at), span)
        with pytest.raises(ArithmeticError):
            for _ in loop:
                pass
        assert loop.position == fails_at


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("through", ["the loop", "its iterator"])
@KINDS
def test_the_position_when_an_exception_is_thrown_in_is_that_of_the_running_item(span, saves, through, kind):
    """As if the item had raised it; the three ways in which `throw` may be called."""
    for arguments in ((KeyError(),), (KeyError, KeyError("x")), (KeyError, KeyError("x"), None)):
        for items in (1, 2, 3, 4):
            loop = Loop(Counter(0, saves), kind(range(9)), span)
            driver = loop if through == "the loop" else iter(loop)
            for _ in range(items):
                next(driver)
            with pytest.raises(KeyError):
                if through == "the loop" or len(arguments) == 1:
                    driver.throw(*arguments)
                else:
                    driver.throw(arguments[1])
            assert loop.position == items - 1


def test_throwing_with_a_traceback():
    """The traceback is the one that was given."""
    try:
        raise KeyError
    except KeyError as error:
        trace = error.__traceback__
    loop = Loop(Counter(), range(3), 1)
    next(loop)
    with pytest.raises(KeyError) as raised:
        loop.throw(KeyError, KeyError("x"), trace)
    frames = []
    step = raised.value.__traceback__
    while step:
        frames.append(step)
        step = step.tb_next
    assert any(frame.tb_frame is trace.tb_frame and frame.tb_lineno == trace.tb_lineno for frame in frames)


@pytest.mark.parametrize("way", ["break", "close", "exception", "thrown away"])
@pytest.mark.parametrize("span", [1, 3])
def test_the_position_when_the_loop_is_left_is_that_of_the_running_item(way, span):
    """However it is left, it is told that it was, and no boundary is saved any more."""
    counter = Counter(0)
    loop = Loop(counter, range(9), span)
    if way == "close":
        for _ in range(5):
            next(loop)
        loop.close()
    elif way == "thrown away":
        iterator = iter(loop)
        for _ in range(5):
            next(iterator)
        del iterator
        gc.collect()
    else:
        try:
            for item in loop:
                if item == 4:
                    if way == "break":
                        break
                    raise KeyError
        except KeyError:
            pass
    assert loop.position == 4
    assert counter.calls == ["begin", "leave"]
    assert counter.saved == [n for n in range(1, 5) if n % span == 0]
    assert not loop._is_running


def test_a_second_for_over_a_left_loop_is_an_error():
    """Never an empty loop."""
    for leave in (False, True):
        loop = Loop(Counter(), range(3), 1)
        for _ in loop:
            if leave:
                break
        for again in (iter, next, list):
            with pytest.raises(RestartError, match="run: this loop has been run or left; make another counter to go"):
                again(loop)


def test_a_second_for_over_a_running_loop_is_an_error():
    """They would share the items."""
    with pytest.raises(RestartError, match="run: this loop has been run or left"):
        loop = Loop(Counter(), range(3), 1)
        for _ in loop:
            for _ in loop:
                pass


def test_an_iterator_that_was_never_used_is_no_run():
    """Something may ask for one and throw it away."""
    loop = Loop(Counter(), range(3), 1)
    iter(loop)
    gc.collect()
    assert list(loop) == [0, 1, 2]


def test_next_and_for_go_on_with_each_other():
    """The first item by `next`, the rest by `for`, and `next` inside of it; then it is exhausted."""
    loop = Loop(Counter(), range(6), 1)
    assert next(loop) == 0
    assert loop.send(None) == 1
    seen = []
    for item in loop:
        seen.append(item)
        if item == 2:
            assert next(loop) == 3
    assert seen == [2, 4, 5]
    loop = Loop(Counter(), range(1), 1)
    assert next(loop) == 0
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loop)


def test_closing_a_loop_that_never_ran_is_nothing():
    """It may still run."""
    loop = Loop(Counter(), range(2), 1)
    loop.close()
    assert list(loop) == [0, 1]


def test_len_is_that_of_the_whole_iterable():
    """So that a progress bar that starts at the position draws the right bar; whatever its length, a loop is true."""
    loop = Loop(Counter(3), [1, 2, 3, 4], 1)
    assert (len(loop), loop.position, list(loop)) == (4, 3, [4])
    assert Loop(Counter(), [], 1)
    with pytest.raises(TypeError, match="run: the iterable of this loop has no length"):
        len(Loop(Counter(), Source(3), 1))


def test_whatever_cannot_tell_its_length_has_none():
    """A loader over a stream raises another error than a generator; `len` cannot say what is too large for it."""

    class Stream:
        def __len__(self):
            raise NotImplementedError

    assert length_of(Stream()) is None
    assert length_of(range(10**30)) is None
    assert length_of(range(7)) == 7


def test_skipping_draws_as_many_as_were_done():
    """Not one item more."""
    source = Source(10)
    loop = Loop(Counter(4), source, 1)
    assert next(loop) == 4
    assert source.drawn == 5


def test_skipping_beyond_the_end_is_an_error():
    """Exactly to the end is none."""
    with pytest.raises(RestartError, match="run: saved at position 4, but the iterable ends before"):
        next(Loop(Counter(4), Source(3), 1))
    assert list(Loop(Counter(3), Source(3), 1)) == []


def test_an_exception_while_skipping_leaves_the_position():
    """Nothing has begun."""
    loop = Loop(Counter(4), Source(9, fails_at=2), 1)
    with pytest.raises(ArithmeticError):
        next(loop)
    assert (loop.position, loop._has_begun) == (4, False)


def test_a_function_is_called_with_the_position():
    """And a class that is iterable is iterated, not called."""
    assert list(Loop(Counter(4), lambda start: iter(range(start, 6)), 1)) == [4, 5]

    class Both:
        def __iter__(self):
            return iter("abc")

        def __call__(self, start):
            raise AssertionError

    assert list(Loop(Counter(1), Both(), 1)) == ["b", "c"]


def test_a_finished_loop_has_no_items():
    """It is at its end, and asks its source for nothing."""
    counter = Counter(3, is_finished=True)
    loop = Loop(counter, Source(0, fails_at=0), 1)
    assert list(loop) == []
    assert (loop.position, counter.calls) == (3, ["begin", "end", "leave"])


@pytest.mark.parametrize("span", [1, 3])
def test_a_save_that_fails_ends_the_loop(span):
    """At the boundary: the item before it had ended."""
    counter = Counter()

    def fails(position):
        raise RestartError("disk full")

    counter._begin = lambda loop: fails
    loop = Loop(counter, range(9), span)
    with pytest.raises(RestartError, match="disk full"):
        list(loop)
    assert loop.position == span
    assert counter.calls == ["leave"]


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("saves", [True, False])
def test_the_position_in_a_list_that_shrinks_while_it_is_iterated(span, saves):
    """It does not turn back; a list that is over for that counts as done."""
    counter, todo, seen = Counter(0, saves), list(range(10)), []
    loop = Loop(counter, todo, span)
    for item in loop:
        if item == 6:
            del todo[4:]
        seen.append((item, loop.position))
    assert seen == [(n, n) for n in range(7)] and loop.position == 10


def test_a_for_over_a_loop_that_next_has_ended_is_an_error():
    """Never an empty loop."""
    exhausted, closed, failed = (Loop(Counter(), [1], 1) for _ in range(3))
    assert [next(exhausted), next(exhausted, None), next(closed)] == [1, None, 1]
    closed.close()
    with pytest.raises(KeyError):
        failed.throw(KeyError, None, None)
    for loop in (exhausted, closed, failed):
        assert next(loop, None) is None
        with pytest.raises(RestartError, match="run: this loop has been run or left"):
            iter(loop)


def test_throw_takes_a_class_and_a_traceback():
    """As a generator does."""
    loop = Loop(Counter(), [1, 2], 1)
    next(loop)
    try:
        raise ArithmeticError
    except ArithmeticError as error:
        trace = error.__traceback__
    with pytest.raises(KeyError):
        loop.throw(KeyError, None, trace)

"""Loop: skip, yield, count.

The `for` drives a generator that hands through the items of the source. Counting them costs no Python code: the
iterator of a list, a tuple or a range knows where it is; the items of all others pass `itertools.compress`, which draws
one tick for each item that was delivered, and the ticks that are left tell the position.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import compress, islice, repeat
from operator import length_hint
from types import CodeType, FrameType, GeneratorType, TracebackType

from . import _scope
from ._errors import RestartError

__all__ = ["Loop", "length_of", "rest_of"]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    T = TypeVar("T")

    class Counter(Protocol):
        """What a loop asks of its counter."""

        _start: int  # the position at which the loop begins
        _name: str
        _is_finished: bool  # nothing is left to run

        @property
        def _is_superseded(self) -> bool:
            """Whether a newer counter has taken over its place."""

        def _begin(self, loop: Loop[Any]) -> Callable[[int], object] | None:
            """Check that all is as it was; return what saves at a boundary, or None where nothing does."""

        def _end(self) -> None:
            """Do what is to be done when the source is exhausted."""

        def _leave(self) -> None:
            """Do what is to be done when the loop is left, in whatever way."""


_END = object()
CO_GENERATOR = 0x20  # as in `inspect`, which takes longer to import than all of this


def _throw(items: _Items | _Part, kind: Any, value: Any = None, trace: TracebackType | None = None) -> None:
    """Tell an exception that is thrown in by whoever drives the loop from one that the source has raised."""
    items.loop._is_thrown = True
    raise kind if value is None else value


class _Items(compress):  # type: ignore[type-arg]
    """All items."""

    loop: Loop[Any]
    throw = _throw


class _Part(islice):  # type: ignore[type-arg]
    """The items up to a boundary."""

    loop: Loop[Any]
    throw = _throw


class Loop(Generator["T", None, None]):
    """The items of an iterable from the saved position on: what a `for` iterates.

    `len()` is the length of the whole iterable, where it has one.
    """

    def __init__(self, counter: Counter, source: Iterable[T] | Callable[[int], Iterable[T]], span: int) -> None:
        self._counter = counter
        self._source, self._span = source, span
        self._length = length_of(source)
        self._drawn: Callable[[], int] = lambda: counter._start  # how many items were drawn, in this run and before
        self._driver: weakref.ref[GeneratorType[T, None, None]] | None = None
        self._held: GeneratorType[T, None, None] | None = None  # a driver that no `for` has taken yet
        self._is_between = False  # it was left while no item was running
        self._is_thrown = False
        self._has_begun = False  # what was done is skipped
        self._owner: tuple[object, object] | None = None  # the thread and task that run it
        self._driven_by: tuple[int, CodeType] | None = None  # the frame of its `for`, which must not live for that

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        drawn = self._drawn()
        return drawn if self._is_between or self._is_drawing else max(self._counter._start, drawn - 1)

    @property
    def _is_running(self) -> bool:
        """Whether a `for` is iterating it just now."""
        driver = self._live_driver()
        return driver is not None and driver.gi_frame is not None and not self._counter._is_superseded

    @property
    def _is_driven_here(self) -> bool:
        """Whether its `for` is in this very stack of calls. Else a variable may hold what an earlier run has left."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and (id(frame), frame.f_code) != self._driven_by:
            frame = frame.f_back
        return frame is not None

    @property
    def _is_drawing(self) -> bool:
        """Whether the source is being asked for an item just now."""
        driver = self._live_driver()
        return driver is not None and driver.gi_running

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"{self._counter._name}: the iterable of this loop has no length")
        return self._length

    def __bool__(self) -> bool:
        return True  # whatever its length

    def __iter__(self) -> Generator[T, None, None]:
        """Hand the driver to the `for`, and keep it nowhere else, so that it goes when the `for` is left."""
        driver = self._held or self._new_driver()
        if driver.gi_frame is None:  # `next` has come to its end
            raise RestartError(self._was_left())
        self._held = None
        return driver

    def __next__(self) -> T:
        return next(self._kept_driver())

    def send(self, value: None) -> T:
        """Same as `next`."""
        return self._kept_driver().send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> T:
        """Leave the loop by an exception, as if the item that is running had raised it."""
        self._is_thrown = True
        error = value if value is not None else kind() if isinstance(kind, type) else kind
        return self._kept_driver().throw(error if trace is None else error.with_traceback(trace))

    def close(self) -> None:
        """Leave the loop, as `break` does."""
        driver = self._live_driver()
        if driver is not None:
            driver.close()

    def _live_driver(self) -> GeneratorType[T, None, None] | None:
        return self._driver() if self._driver is not None else None

    def _new_driver(self) -> GeneratorType[T, None, None]:
        if self._owner is not None or self._live_driver() is not None:
            raise RestartError(self._was_left())
        driver: GeneratorType[T, None, None] = self._drive()  # type: ignore[assignment]
        self._driver = weakref.ref(driver)
        return driver

    def _was_left(self) -> str:
        return f"{self._counter._name}: this loop has been run or left; make another counter to go on"

    def _kept_driver(self) -> GeneratorType[T, None, None]:
        driver = self._live_driver()
        if driver is None:
            driver = self._held = self._new_driver()
        return driver

    def _drive(self) -> Generator[T, None, None]:
        self._owner = _scope.owner()
        frame: Any = sys._getframe(1)
        while frame.f_back and frame.f_code.co_flags & CO_GENERATOR:  # such as that of a progress bar
            frame = frame.f_back
        self._driven_by = id(frame), frame.f_code
        del frame  # and all its variables
        try:
            save = self._counter._begin(self)
            source, self._source = self._source, ()  # or it would live, locks and all, until the garbage is collected
            items = self._counted(source, rest_of(source, self._counter))
            del source
            self._has_begun = True
            if save is None:
                self._is_thrown = not isinstance(items, _Items)  # a list, a tuple or a range raises nothing itself
                yield from items
            elif self._span == 1:
                for position, item in enumerate(items, self._counter._start + 1):
                    try:
                        yield item
                    except BaseException:
                        self._is_thrown = True
                        raise
                    save(position)
            else:
                drawn, boundary = self._counter._start, 0
                while drawn >= boundary:  # else the source was exhausted before it
                    if boundary:
                        save(drawn)
                    boundary = drawn + self._span - drawn % self._span
                    part = _Part(items, boundary - drawn)
                    part.loop = self
                    yield from part
                    drawn = self._drawn()
        except GeneratorExit:
            raise
        except BaseException:
            self._is_between = not self._is_thrown
            raise
        else:
            self._is_between = True
            self._counter._end()
        finally:
            self._drawn = self._drawn().__int__
            _scope.stop_running(self)
            self._counter._leave()

    def _counted(self, source: Any, items: Iterator[T]) -> Iterator[T]:
        """Return the items, and find out what tells how many were drawn."""
        length = self._length
        if length is not None and not self._counter._is_finished:
            if type(source) is range:
                self._drawn = lambda: length - length_hint(items)
                return items
            if type(source) in (list, tuple):
                state: Any = items.__reduce__  # iter, the source, and where it is; not where it was, once it is over
                self._drawn = lambda: (*state()[2:], max(length, len(source)))[0]
                return items
        total, ticks = self._counter._start + sys.maxsize, repeat(True, sys.maxsize)
        self._drawn = lambda: total - length_hint(ticks)
        counted = _Items(items, ticks)
        counted.loop = self
        return counted


def length_of(source: object) -> int | None:
    """Return the length of an iterable, or None where it has none."""
    try:
        return len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, OverflowError):  # such as a DataLoader over a stream
        return None


def rest_of(source: Iterable[T] | Callable[[int], Iterable[T]], counter: Counter) -> Iterator[T]:
    """Return the items from the start of the loop on: at once where that can be, else by drawing and dropping."""
    start = counter._start
    if counter._is_finished:
        return iter(())
    if isinstance(source, range):
        return iter(source[start:])  # type: ignore[arg-type]
    if not hasattr(type(source), "__iter__") and callable(source):
        return iter(source(start))
    items = iter(source)  # type: ignore[arg-type]
    if start and next(islice(items, start - 1, None), _END) is _END:
        raise RestartError(
            f"{counter._name}: saved at position {start}, but the iterable ends before; "
            "give the iterable it was saved with, or delete the file to start afresh"
        )
    return items

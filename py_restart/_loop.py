"""The loop: skip, yield, count.

The `for` drives a generator that hands through the items of the source, and is kept nowhere else: it goes when the
`for` is left. Counting costs no Python code: the iterator of a list, a tuple or a range knows where it is; the items of
all others pass `itertools.compress`, which draws one tick for each item that was delivered, and the ticks that are left
tell the position.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import compress, islice, repeat
from operator import length_hint
from types import GeneratorType, TracebackType

from ._errors import RestartError, face, shorten
from ._frames import Driver
from ._signals import held, shielded
from ._typing import Any, T


class Counted:
    """A loop that is counted, as if the library were not there: `_node` has the one that saves."""

    start: int = 0  # the position at which the loop begins
    is_finished: bool = False  # an earlier run has finished it: nothing is left to run
    length: int | None = None
    source: Any = None  # until it has an iterable
    _drawn: Any = lambda self: self.start  # tells how many items were drawn, in earlier runs too
    driver: Callable[[], GeneratorType[Any, None, None] | None] = staticmethod(lambda: None)  # of its `for`, weakly
    driven_by: Any = None  # the `for`, once it has begun
    _is_over: bool = False  # no item can be running any more

    def __init__(self, name: str, span: int) -> None:
        self.name: str = name
        self._span = span
        self.states: list[Any] = []  # what is registered

    @property
    def position(self) -> int:
        drawn: int = self._drawn()
        return drawn - (drawn > self.start and self.is_in_item)

    @property
    def is_in_item(self) -> bool:
        """Whether an item is running, once it has begun: the source is not being asked for the next one.

        A handler that raises may keep `__exit__` from its first line: what was running then is not done either.
        """
        driver = self.driver()
        return not (self._is_over or (driver is not None and driver.gi_running))

    def describe(self) -> str:
        """Say where the job stands: "job.progress: position 30 of 200, with total.pickle"."""
        of = "" if self.measure() is None else f" of {self.length}"
        names = ", ".join(state.name for state in self.states)
        return f"{self.name}: position {self.position}{of}{names and f', with {names}'}"

    def drive(self) -> GeneratorType[Any, None, None]:
        if self.driven_by is not None or self.driver() is not None:
            way_out = "make another counter to go on, or let both share one iter() of it"
            raise RestartError(f"{self.name}: this loop has been run or left; {way_out}")
        driver: GeneratorType[Any, None, None] = self._drive()  # type: ignore[assignment]
        self.driver = weakref.ref(driver)
        return driver

    def _drive(self) -> Generator[Any, None, None]:
        # The variable `item` is there while one runs, and no longer: `__exit__` looks for it. It goes in the line of
        # `yield`, since a tracer may raise at each line. And what runs when an item goes may save: if the next one had
        # been drawn by then, that would count as done.
        with self:
            save, span = self.begin(), self._span
            for items in self._parts():
                count = self._drawn
                drawn = count()
                if save is not None and span == 1:  # as below, but without an `islice` for each item
                    for item in items:
                        yield item; del item  # noqa: E702  # fmt: skip
                        drawn += 1
                        save(drawn)
                    continue
                while True:
                    boundary = drawn + span - drawn % span
                    for item in items if save is None else islice(items, boundary - drawn):
                        yield item; del item  # noqa: E702  # fmt: skip
                    drawn = count()
                    if save is None or drawn < boundary:  # exhausted
                        break
                    save(drawn)
            self._is_over = True  # exhausted

    def __enter__(self) -> None:
        self.driven_by = Driver(sys._getframe(1))

    @shielded
    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """The `for` is over, or has been left. A second stop waits until that is known."""
        is_in_item = error is not None and "item" in sys._getframe(1).f_locals  # else it asked for the next
        with held():
            try:
                if error is None:
                    self.end()
                elif kind is not GeneratorExit:
                    shorten(error)
            except BaseException as failure:
                shorten(failure)
                raise
            finally:
                position = self._drawn() - is_in_item
                self.measure()
                self._drawn, self.source, self._is_over = lambda: position, (), True  # lets go of the source
                self.leave()

    def measure(self) -> int | None:
        """Return the length of the iterable, now: a list may have grown."""
        if type(self.source) is list:
            self.length = max(self.length or 0, len(self.source))
        return self.length

    def _parts(self) -> list[Iterator[Any]]:
        """Return the items from the start of the loop on: at once where that can be, else by drawing and dropping.

        Show the first item of all to what counts, and find out what tells how many were drawn. Where the first one had
        to be drawn for that, and is still to run, it is a part of its own.
        """
        length, start, source = self.length, self.start, self.source
        if type(source) is not list:
            self.source = ()  # or it would live, locks and all, until the garbage is collected
        is_indexed = type(source) in (range, list, tuple) and length is not None  # a range may have more than that
        is_function = not (hasattr(type(source), "__iter__") or hasattr(type(source), "__getitem__"))
        skips = type(source) is range or is_function
        if self.is_finished:
            for item in source[:1] if is_indexed else ():
                self.meet(item, source)
            return []
        items: Any = iter(source[start:] if type(source) is range else source(start) if skips else source)
        first = list(source[:1]) if is_indexed else list(islice(items, 0 if skips and start else 1))
        for item in first:
            self.meet(item, source)
        if start and not skips:
            if is_indexed:
                items.__setstate__(start - 1)  # at once, as with a range
            left = 1 if is_indexed else start - 1
            if not first or (left and not list(islice(items, left - 1, left))):
                self.refuse("ends before")
        if type(source) is list:  # it may grow and shrink
            state = items.__reduce__  # `iter`, `(source,)`, the index; without that once it is exhausted
            self._drawn = lambda: now[2] if len(now := state()) > 2 else max(length or 0, len(source))
        elif is_indexed:
            self._drawn = lambda: length - length_hint(items)  # type: ignore[operator]
        else:
            total, ticks = start + sys.maxsize, repeat(True, sys.maxsize)
            self._drawn = lambda: total - length_hint(ticks)
            return [compress(part, ticks) for part in ([items] if start else [iter(first), items])]
        return [items]

    def _nothing(self, *_: Any) -> Any: ...

    # What `_node` does more, see there: `begin` to `leave` are of the `for`, `enter` and `close` of the `with`.
    begin = meet = refuse = end = leave = enter = close = save_now = forget = _nothing

    def register(self, states: Sequence[Any]) -> None:
        self.states += states


class Loop(Generator["T", None, None]):
    """The items of an iterable from the saved position on. `len()` is that of the whole iterable, where it has one."""

    def __init__(self, counted: Any, source: Iterable[T] | Callable[[int], Iterable[T]]) -> None:
        self._counted: Counted = counted
        counted.source = source
        try:
            counted.length = len(source)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError, OverflowError):  # it has none, such as a DataLoader over a stream
            counted.length = None
        self._held: GeneratorType[T, None, None] | None = None  # a driver that no `for` has taken yet

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        return self._counted.position

    def __len__(self) -> int:
        length = self._counted.measure()
        if length is None:
            raise TypeError(f"{self._counted.name}: the iterable of this loop has no length")
        return length

    def __bool__(self) -> bool:
        return True  # whatever its length

    def __repr__(self) -> str:
        return f"<loop {self._counted.describe()}>"

    @face
    def __iter__(self) -> Generator[T, None, None]:
        held, self._held = self._held, None
        return self._counted.drive() if held is None or held.gi_frame is None else held

    def send(self, value: None) -> T:
        return next(self._kept())

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> T:
        """Leave the loop by an exception, as if the item that is running had raised it."""
        error = value if value is not None else kind() if isinstance(kind, type) else kind
        return self._kept().throw(error if trace is None else error.with_traceback(trace))

    def close(self) -> None:
        """Leave the loop, as `break` does."""
        driver = self._counted.driver()
        if driver is not None:
            driver.close()

    @face
    def _kept(self) -> GeneratorType[T, None, None]:
        driver = self._counted.driver()
        if driver is None:
            driver = self._held = self._counted.drive()
        return driver

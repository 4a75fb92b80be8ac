"""The loop: skip, yield, count.

The `for` drives a generator that hands through the items of the source. Counting them costs no Python code: the
iterator of a list, a tuple or a range knows where it is; the items of all others pass `itertools.compress`, which draws
one tick for each item that was delivered, and the ticks that are left tell the position.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import compress, islice, repeat
from operator import length_hint
from types import CodeType, FrameType, GeneratorType, TracebackType

from ._errors import RestartError, face, shorten
from ._input import length_of
from ._signals import held, shielded
from ._typing import Any, T

_END = object()
_GENERATOR = 0x20  # `inspect.CO_GENERATOR`; to import that takes longer than all of this


class Counted:
    """What counts a loop. This one does it as if the library were not there; `_node` has the one that saves."""

    start: int = 0  # the position at which the loop begins
    is_finished: bool = False  # an earlier run has finished it: nothing is left to run

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: list[Any] = []  # what is registered
        self.run: Run[Any] | None = None  # while it runs
        self.length: int | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        return self._position if self.run is None else self.run.position

    def begin(self, run: Run[Any]) -> Callable[[int], object] | None:
        """Begin; return what saves at a boundary, or None where nothing does."""
        self.run, self.length = run, run.length
        return None

    def meet(self, item: object) -> None:
        """Look at the first item of the whole iterable."""

    def end(self) -> None:
        """The source is exhausted."""

    def leave(self) -> None:
        """The `for` is left, in whatever way."""
        if self.run is not None:
            self._position, self.run = self.run.position, None

    def enter(self) -> None:
        """The `with` begins."""

    def close(self, error: BaseException | None) -> None:
        """The `with` ends."""

    def register(self, states: Sequence[Any]) -> None:
        """Register what is saved with the position."""
        self.states += states

    def save_now(self) -> None:
        """Save."""

    def forget(self) -> None:
        """Delete what was saved."""

    def describe(self) -> str:
        """Say where the job stands: "job.progress: position 30 of 200, with total.pickle"."""
        of = "" if self.length is None else f" of {self.length}"
        names = ", ".join(state.name for state in self.states)
        return f"{self.name}: position {self.position}{of}{names and f', with {names}'}"


class Run(Iterable["T"]):
    """One iteration of a source: where it is, and the generator that a `for` drives, which is kept nowhere else."""

    def __init__(self, counted: Counted, source: Iterable[T] | Callable[[int], Iterable[T]], span: int) -> None:
        self.counted: Counted = counted
        self.length: int | None = length_of(source)
        self._source, self._span = source, span
        self._drawn: Callable[[], int] = lambda: counted.start  # how many items were drawn, in this run and before
        self._driver: weakref.ref[GeneratorType[T, None, None]] | None = None
        self._driven_by: tuple[int, CodeType] | None = None  # the frame of its `for`, which must not live for that
        self._is_thrown = False  # whoever drives it has thrown an exception in; else the source raised it
        self._is_between = False  # it was left while no item was running
        self._is_left = False

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        drawn = self._drawn()
        is_between = self._is_between or (self.is_drawing and not self._is_left)
        return drawn if is_between else max(self.counted.start, drawn - 1)

    @property
    def driver(self) -> GeneratorType[T, None, None] | None:
        """The generator, while somebody holds it."""
        return self._driver() if self._driver is not None else None

    @property
    def is_drawing(self) -> bool:
        """Whether the source is being asked for an item just now."""
        driver = self.driver
        return driver is not None and driver.gi_running

    @property
    def is_driven_here(self) -> bool:
        """Whether its `for` is in this very stack of calls. Else a variable may hold what an earlier run has left."""
        frame: FrameType | None = sys._getframe()
        known, code = self._driven_by or (0, None)
        while frame is not None and (id(frame) != known or frame.f_code is not code):
            frame = frame.f_back
        return frame is not None

    def __iter__(self) -> GeneratorType[T, None, None]:
        """Return the driver; there is one."""
        if self._driven_by is not None or self.driver is not None:
            raise RestartError(self.was_left())
        driver: GeneratorType[T, None, None] = self._drive()  # type: ignore[assignment]
        self._driver = weakref.ref(driver)
        return driver

    def was_left(self) -> str:
        return f"{self.counted.name}: this loop has been run or left; make another counter to go on"

    def _drive(self) -> Generator[T, None, None]:
        self._see_driver(sys._getframe(1))
        with self:
            save = self.counted.begin(self)
            items, is_first_unseen = self._items()
            span = self._span if save is not None else sys.maxsize
            for item in islice(items, 1 if is_first_unseen else 0):
                try:
                    self.counted.meet(item)
                    yield item
                except BaseException:
                    self._is_thrown = True
                    raise
                if save is not None and span == 1:
                    save(1)
            if save is not None and span == 1:
                for position, item in enumerate(items, self._drawn() + 1):
                    try:
                        yield item
                    except BaseException:
                        self._is_thrown = True
                        raise
                    save(position)
                return
            drawn, boundary = self._drawn(), 0
            while drawn >= boundary:  # else the source was exhausted before it
                if save is not None and boundary:
                    save(drawn)
                boundary = drawn + span - drawn % span
                for item in items if save is None else islice(items, boundary - drawn):
                    try:
                        yield item
                    except BaseException:
                        self._is_thrown = True
                        raise
                drawn = self._drawn()

    def _see_driver(self, frame: Any) -> None:
        while frame.f_back and frame.f_code.co_flags & _GENERATOR:  # such as that of a progress bar
            frame = frame.f_back
        self._driven_by = id(frame), frame.f_code

    def __enter__(self) -> None:
        pass

    @shielded
    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        """The `for` is over, or has been left. A second stop waits until that is known."""
        with held():
            try:
                if error is None:
                    self._is_between = True
                    self.counted.end()
                elif kind is not GeneratorExit:
                    self._is_between = not self._is_thrown
                    shorten(error)
            finally:
                self._drawn, self._is_left = self._drawn().__int__, True
                self.counted.leave()

    def _items(self) -> tuple[Iterator[T], bool]:
        """Return the items from the start of the loop on, and whether the first of all is still to come unseen.

        They come at once where that can be, else by drawing and dropping. Find out what tells how many were drawn.
        """
        counted, length, start = self.counted, self.length, self.counted.start
        source: Any = self._source
        self._source = ()  # or it would live, locks and all, until the garbage is collected
        is_indexed = type(source) in (range, list, tuple) and length is not None  # a range may have more than that
        if counted.is_finished:
            is_indexed, items = False, iter(())
        elif type(source) is range:
            items = iter(source[start:])  # type: ignore[arg-type]
        elif not hasattr(type(source), "__iter__") and callable(source):
            items = iter(source(start))
        else:
            items = iter(source)
            self._drop(items, start, is_met=not is_indexed)
        if is_indexed:
            for item in source[:1]:
                counted.meet(item)
            state: Any = items.__reduce__  # iter, the source, where it is; not where it was, once it is over
            if type(source) is range:
                self._drawn = lambda: length - length_hint(items)  # type: ignore[operator]
            else:
                self._drawn = lambda: (*state()[2:], max(length or 0, len(source)))[0]
            return items, False
        total, ticks = start + sys.maxsize, repeat(True, sys.maxsize)
        self._drawn = lambda: total - length_hint(ticks)
        return compress(items, ticks), not start and not counted.is_finished

    def _drop(self, items: Iterator[T], number: int, is_met: bool) -> None:
        """Draw what was done, and drop it."""
        for left in (1, number - 1) if number else ():
            item = next(islice(items, left - 1, None), _END) if left else None
            if item is _END:
                raise RestartError(
                    f"{self.counted.name}: saved at position {number}, but the iterable ends before; give the one it "
                    "was saved with, or to start afresh delete what was saved"
                )
            if left == 1 and is_met:
                self.counted.meet(item)
                is_met = False


class Loop(Generator["T", None, None]):
    """The items of an iterable from the saved position on: what a `for` iterates.

    `len()` is the length of the whole iterable, where it has one.
    """

    def __init__(self, run: Run[T]) -> None:
        self._run = run
        self._held: GeneratorType[T, None, None] | None = None  # a driver that no `for` has taken yet

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        return self._run.position

    def __len__(self) -> int:
        if self._run.length is None:
            raise TypeError(f"{self._run.counted.name}: the iterable of this loop has no length")
        return self._run.length

    def __bool__(self) -> bool:
        return True  # whatever its length

    def __repr__(self) -> str:
        return f"<loop {self._run.counted.describe()}>"

    @face
    def __iter__(self) -> Generator[T, None, None]:
        """Hand the driver to the `for`, and keep it nowhere else, so that it goes when the `for` is left."""
        driver, self._held = self._held or iter(self._run), None
        if driver.gi_frame is None:  # `next` has come to its end
            raise RestartError(self._run.was_left())
        return driver

    def __next__(self) -> T:
        return next(self._kept())

    def send(self, value: None) -> T:
        """Same as `next`."""
        return self._kept().send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> T:
        """Leave the loop by an exception, as if the item that is running had raised it."""
        error = value if value is not None else kind() if isinstance(kind, type) else kind
        return self._kept().throw(error if trace is None else error.with_traceback(trace))

    def close(self) -> None:
        """Leave the loop, as `break` does."""
        driver = self._run.driver
        if driver is not None:
            driver.close()

    def _kept(self) -> GeneratorType[T, None, None]:
        driver = self._run.driver
        if driver is None:
            driver = self._held = iter(self._run)
        return driver

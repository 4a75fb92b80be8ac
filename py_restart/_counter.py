"""What a user sees: CounterClosier, enable_counter, simple_counter. Arguments are checked here; see `_node`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from ._arguments import (
    checked_interval,
    checked_path,
    checked_place,
    checked_span,
    checked_triples,
    maker_of,
    require_iterable,
)
from ._errors import RestartError, face, warn
from ._loop import Counted, Loop, Run
from ._node import Node
from ._signals import shielded
from ._state import Functions, Object
from ._typing import Any, T


class CounterClosier:
    """Counts one loop, and saves where it is together with what is registered. `enable_counter` makes it.

    Use it in a `with` statement, which saves when the block ends by an exception and deletes what was saved when it
    ends without one, or with `each_save`, or both. See `enable_counter` for the arguments.
    """

    @face
    def __init__(
        self,
        file_path: str | os.PathLike[str],
        use_tempfile: bool = True,
        each_save: bool = False,
        save_span: int = 1,
        *,
        save_interval: float = 0.0,
    ) -> None:
        self._name = name = checked_path(file_path)
        self._span, interval = checked_span(save_span), checked_interval(save_interval)
        if (self._span != 1 or interval) and not each_save:
            what = "save_interval" if interval else "save_span"
            raise ValueError(f"{name}: {what} does nothing without each_save; pass each_save=True")
        self._has_loop = False
        if use_tempfile:
            self._node: Counted = Node(name, bool(each_save), self._span, interval)
        else:
            self._node = Counted(name)

    @face
    def __call__(self, iterable: Iterable[T] | Callable[[int], Iterable[T]]) -> Loop[T]:
        """Wrap the loop that this counter counts.

        Args:
            iterable: What to iterate. It must give the same items in the same order in every run. A function is called
                with the position and returns the rest, for sources that need not be read from their beginning.

        Raises:
            TypeError: not iterable.
            RestartError: this counter has a loop already, or the iterable is a loop itself.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     for letter in counter("abc"):
            ...         print(letter)
            a
            b
            c
        """
        if self._has_loop:
            raise RestartError(f"{self._name}: this counter has counted a loop already; make another counter")
        require_iterable(iterable, self._name)
        if isinstance(iterable, set | frozenset) and isinstance(self._node, Node):
            warn(f"{self._name}: the order of a {type(iterable).__name__} changes from run to run; give sorted() of it")
        self._has_loop = True
        return Loop(Run(self._node, iterable, self._span))

    @face
    def save_load_object(self, obj: T, obj_path: str | os.PathLike[str]) -> T:
        """Register an object, and return it as it was saved, or as it is where nothing was saved.

        Args:
            obj: Anything that can be pickled. Changes made to it in place are saved; of an immutable one, assign the
                new value to `object`.
            obj_path: The file to pickle it to. It must not exist unless this counter has saved it.

        Raises:
            RestartError: it cannot be pickled, or its file is missing, changed, damaged, or somebody else's.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     seen = counter.save_load_object([], "seen.pickle")
            ...     for i in counter(range(3)):
            ...         seen.append(i)
            >>> seen
            [0, 1, 2]
        """
        self._node.register([Object(obj, checked_place(obj_path), os.fspath(obj_path))])
        loaded: T = self._node.states[-1].value
        return loaded

    @face
    def save_load_funcs(
        self,
        save_funcs: Sequence[Callable[[Any], object]],
        load_funcs: Sequence[Callable[[Any], object]],
        func_paths: Sequence[str | os.PathLike[str]],
    ) -> None:
        """Register functions that save and load, and call those that load where something was saved.

        Args:
            save_funcs: Each is called with a path, and writes a file or a folder there.
            load_funcs: Each is called with the path of what was saved.
            func_paths: For each pair its path. The functions get one of the type and with the file name given here.

        Raises:
            TypeError: one of them is not a function.
            ValueError: the three are not of one length.
            RestartError: what was saved is missing, changed, damaged, or somebody else's, or cannot be loaded.

        Example:
            >>> from pathlib import Path
            >>> text = "to be saved"
            >>> def load(path):
            ...     global text
            ...     text = path.read_text()
            >>> with enable_counter("run.tmp") as counter:
            ...     counter.save_load_funcs([lambda path: path.write_text(text)], [load], [Path("text.txt")])
            ...     for i in counter(range(3)):
            ...         pass
        """
        triples = checked_triples(self._name, save_funcs, load_funcs, func_paths)
        self._node.register(
            [
                Functions(save, load, checked_place(path), os.fspath(path), maker_of(path))
                for save, load, path in triples
            ]
        )

    @property
    @face
    def object(self) -> Any:
        """The object that was registered last. Assign to it where a variable was given a new value.

        Raises:
            RestartError: no object is registered.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     total = counter.save_load_object(0, "total.pickle")
            ...     for i in counter(range(5)):
            ...         counter.object = total = total + i
            >>> counter.object
            10
        """
        state = self._last_object()
        state.is_reached = True
        return state.value

    @object.setter
    @face
    def object(self, value: Any) -> None:
        state = self._last_object()
        state.value, state.is_reached = value, True

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the running one; after a failure, the failed one.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     for letter in counter("ab"):
            ...         print(counter.position, letter)
            0 a
            1 b
            >>> counter.position
            2
        """
        return self._node.position

    @face
    def save(self) -> None:
        """Save now: the position and everything registered, as they are.

        Raises:
            RestartError: the work is done, or the save fails. The save before is still whole then.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     for i in counter(range(100)):
            ...         if i == 50:
            ...             counter.save()  # where even a `kill -9` would be worth a save
        """
        self._node.save_now()

    @face
    def remove_files(self) -> None:
        """Forget: delete the progress and all that was saved with it. A loop that has not begun starts afresh.

        Raises:
            RestartError: something cannot be deleted.

        Example:
            >>> with enable_counter("run.tmp") as counter:
            ...     counter.remove_files()  # what an earlier run has saved is not wanted
            ...     for i in counter(range(3)):
            ...         pass
        """
        self._node.forget()

    def __repr__(self) -> str:
        return f"<counter {self._node.describe()}>"

    @shielded
    def __enter__(self) -> CounterClosier:
        self._node.enter()
        return self

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._node.close(error)

    def _last_object(self) -> Object:
        for state in reversed(self._node.states):
            if isinstance(state, Object):
                return state
        raise RestartError(f"{self._name}: no object is registered; call save_load_object first")


def enable_counter(
    file_path: str | os.PathLike[str],
    use_tempfile: bool = True,
    each_save: bool = False,
    save_span: int = 1,
    *,
    save_interval: float = 0.0,
) -> CounterClosier:
    """Make a counter for one loop, and take up what the last run has saved.

    Only the position and what is registered come back. In a plain `with` they are saved when the block ends by an
    exception, Ctrl-C, SIGTERM and SIGHUP included: after `kill -9` or a power failure it starts from the save before.
    With `each_save` they are saved at every boundary between two items as well. When the block ends without an
    exception, all that was saved is deleted: write results inside it.

    Args:
        file_path: The progress file. Its folder must exist.
        use_tempfile: False: as if this library were not there.
        each_save: Save after every `save_span` items, with or without a `with` statement.
        save_span: Items from one save to the next, counted from item 0.
        save_interval: Seconds; a boundary that comes sooner after the last save is passed over.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RestartError: the path is in use by another process, or holds something else, or its folder cannot be written.

    Example:
        >>> with enable_counter("run.tmp") as counter:
        ...     total = counter.save_load_object({"sum": 0}, "sum.pickle")
        ...     for i in counter(range(10)):
        ...         total["sum"] += i
        >>> total
        {'sum': 45}
    """
    return CounterClosier(file_path, use_tempfile, each_save, save_span, save_interval=save_interval)


def simple_counter(
    file_path: str | os.PathLike[str],
    iterable: Iterable[T] | Callable[[int], Iterable[T]],
    use_tempfile: bool = True,
    save_span: int = 1,
    *,
    save_interval: float = 0.0,
) -> Loop[T]:
    """Wrap a loop without a `with` statement: its position is saved at every boundary, and goes when it is exhausted.

    Args:
        file_path: The progress file. Its folder must exist.
        iterable: What to iterate; see `CounterClosier.__call__`.
        use_tempfile: False: as if this library were not there.
        save_span: Items from one save to the next, counted from item 0.
        save_interval: Seconds; a boundary that comes sooner after the last save is passed over.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RestartError: the path is in use by another process, or holds something else, or its folder cannot be written.

    Example:
        >>> for i in simple_counter("run.tmp", range(3)):
        ...     print(i)
        0
        1
        2
    """
    require_iterable(iterable, file_path)  # before a file is made
    return CounterClosier(file_path, use_tempfile, True, save_span, save_interval=save_interval)(iterable)

"""CounterClosier, enable_counter, simple_counter: what is registered, when it is saved, when it is over.

A counter keeps its progress in a progress file of its own, unless a loop around it has something registered: then it
is part of that loop's *moment*. The outermost such counter is the *host*. Its progress file holds the whole tree of
loops that are running, or have ended, inside its current item, and whoever saves, saves that tree and all that is
registered in it, in one commit. A counter by itself is a host with nothing inside: there is no other way to save.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from . import _scope, _signals
from ._errors import RestartError, describe, note
from ._loop import Loop, length_of
from ._state import Functions, Object
from ._storage import Storage, opened, require_folder

__all__ = ["CounterClosier", "enable_counter", "simple_counter"]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
_users: weakref.WeakValueDictionary[str, CounterClosier] = weakref.WeakValueDictionary()  # who registered which path
_COSTLY = 0.1  # the share of a loop's time from which on saving is worth a warning
_NOTICEABLE = 0.05  # seconds of saving below which nobody minds


class CounterClosier:
    """Counts one loop, and saves where it is together with what is registered. `enable_counter` makes it.

    Use it in a `with` statement, which saves when the block ends by an exception and deletes what was saved when it
    ends without one, or with `each_save`, or both.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        use_tempfile: bool = True,
        each_save: bool = False,
        save_span: int = 1,
        *,
        save_interval: float = 0.0,
    ) -> None:
        self._name = _checked_path(file_path)
        path = os.path.realpath(self._name)
        self._span, self._interval = _checked_span(save_span), _checked_interval(save_interval)
        self._each_save = bool(each_save)
        self._loop: Loop[Any] | None = None
        self._states: list[Object | Functions] = []
        self._saved: dict[str, Any] | None = None  # what was saved of this one when it was made
        self._inside: list[CounterClosier] = []  # the counters made inside the item that was running then
        self._around: list[tuple[CounterClosier, int]] = []  # the counters around, and where each one was
        self._storage: Storage | None = None
        self._path = path
        self._joined: CounterClosier | None = None  # the host, where that is another one
        self._block: _scope.Block | None = None
        self._is_entered = self._is_left = self._is_watching = self._is_judged = self._is_taken_up = False
        self._began = self._last_save = self._spent = 0.0
        self._saves = 0
        self._is_finished = False
        self._start = 0
        if use_tempfile:
            try:
                with _signals.held():
                    self._open(path)
            except BaseException:  # a signal that came meanwhile
                if self._storage is not None and self._host is self:
                    self._storage.release()
                raise

    # The public face.

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
        if self._loop is not None:
            raise RestartError(f"{self._name}: this counter has counted a loop already; make another counter")
        _require_iterable(iterable, self._name)
        self._loop = Loop(self, iterable, self._span)
        return self._loop

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
        state = Object(obj, self._checked_place(obj_path))
        self._register([state])
        loaded: T = state.value
        return loaded

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
        triples = list(save_funcs), list(load_funcs), list(func_paths)
        if len({len(column) for column in triples}) != 1:
            lengths = ", ".join(str(len(column)) for column in triples)
            raise ValueError(
                f"{self._name}: save_funcs, load_funcs and func_paths have {lengths} entries; give as many of each"
            )
        for function in (*triples[0], *triples[1]):
            if not callable(function):
                raise TypeError(f"{self._name}: a {type(function).__name__} is not a function")
        self._register(
            [
                Functions(save, load, self._checked_place(path), _maker_of(path))
                for save, load, path in zip(*triples, strict=True)
            ]
        )

    @property
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
        return self._last_object().value

    @object.setter
    def object(self, value: Any) -> None:
        self._last_object().value = value

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
        return self._start if self._loop is None else self._loop.position

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
        if self._storage is not None:
            self._require_own_thread()
            if self._is_finished or self._host._is_finished:
                raise RestartError(f"{self._name}: its work is done; make another counter")
            self._take_up()
            self._save()
            if self._loop is not None and self._loop._owner is not None and not self._loop._is_running:
                self._leave()

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
        if self._storage is None:
            return
        self._require_own_thread()
        self._forget()
        if self._host is self:
            self._storage.remove()
            if self._loop is None or self._loop._is_running:
                self._storage.acquire()  # the lock, and what names the files of loops inside
        else:
            is_taken_up, self._is_taken_up = self._is_taken_up, False
            try:
                if self._storage.is_saved:
                    self._save()
            finally:
                self._is_taken_up = is_taken_up

    @_signals.shielded
    def __enter__(self) -> CounterClosier:
        if self._is_entered or (self._loop is not None and self._loop._owner is not None):
            raise RestartError(f"{self._name}: this counter was used already; make another counter")
        self._is_entered = True
        try:
            with _signals.held():
                self._is_watching = self._storage is not None and _signals.watch()
            return self
        except BaseException:  # a signal: no `__exit__` will be called
            if self._is_watching:
                with _signals.held():
                    _signals.unwatch()
            raise

    @_signals.shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _signals.held():
            self._is_left = True
            try:
                if error is None:
                    self._finish()
                else:
                    self._save_after(error)
            finally:
                if self._loop is not None:
                    _scope.stop_running(self._loop)
                if self._storage is not None and self._host is self and (error is not None or not self._is_in_block):
                    self._storage.release()
                if self._is_watching:
                    _signals.unwatch()

    # What the loop asks for, and the block.

    def _places_around(self) -> list[list[Any]]:
        """Return the path and position of each loop around it, as they were when it was made."""
        return [[counter._path, position] for counter, position in self._around]

    @property
    def _is_superseded(self) -> bool:
        """Whether a newer counter has taken over its place, or that of a counter around it."""
        lost = self._storage is None or self._storage.is_lost
        return lost or any(counter._is_superseded for counter, _ in self._around)

    def _begin(self, loop: Loop[Any]) -> Callable[[int], Any] | None:
        """Check that all is as it was when the counter was made; return what saves at a boundary, if anything does."""
        storage = self._storage
        if storage is None:
            return None
        _signals.act_on_waiting()
        storage.require_current()
        if self._is_left:
            raise RestartError(f"{self._name}: its with block has ended; run the loop inside it")
        if self._host is self and not self._is_entered and not self._is_in_block:
            self._enter_block()  # it was made outside, or in another one
        self._require_same_loops_around()
        _scope.start_running(loop)
        self._compare_length(length_of(loop))
        self._take_up()
        for other in self._around[-1][0]._inside if self._host is not self else ():
            if other is not self and other._loop is not None and other._loop._has_begun:
                other._is_finished = True
        storage.loop = self._host._describe()
        if not (self._is_entered or self._each_save):
            import warnings

            text = f"{self._name}: this loop is never saved; use a with statement, or each_save=True"
            warnings.warn(text, UserWarning, stacklevel=3)
        self._log_start(storage)
        self._began = self._last_save = time.monotonic()
        if not self._each_save:
            return None
        return storage.write if self._is_plain else self._save_at_boundary

    def _end(self) -> None:
        """Do what is to be done when the source is exhausted: in a `with`, the block goes on."""
        if self._storage is None:
            return
        if self._is_plain and not self._is_finished:
            self._estimate()
        if not self._is_in_with:
            self._finish()
        elif self._each_save and not self._is_finished:
            self._save_timed()
        self._judge()
        _log("INFO", f"{self._name}: done at position {self.position}")

    def _leave(self) -> None:
        """Do what is to be done when the loop is left: without a `with` nobody else lets go of the file."""
        if self._storage is not None and self._host is self and not self._is_in_with and not self._is_in_block:
            self._storage.release()

    # The start of a counter.

    def _open(self, path: str) -> None:
        """Find out what is around, and what is saved."""
        loops = _scope.running()
        for index, loop in enumerate(loops):
            if _counter_of(loop)._path == path:
                if loop._is_driven_here:
                    raise RestartError(f"{self._name}: used for the loop around it as well; give it a path of its own")
                loops = loops[:index]  # run again, while a variable holds what the last run has left
                break
        if any(loop._is_drawing for loop in loops):
            raise RestartError(f"{self._name}: {_NO_SOURCE}")
        self._around = [(_counter_of(loop), loop.position) for loop in loops]
        self._require_free(path, self._name)
        hosts = [counter for counter, _ in self._around if counter._states and counter._can_save]
        hosts = [counter for counter in hosts if _storage_of(counter).is_of_this_process]
        if hosts:
            self._join(hosts[0], path)
        else:
            self._open_own(path)
        if self._saved is not None:
            self._start, self._is_finished = self._saved["position"], self._saved["finished"]

    @property
    def _is_in_with(self) -> bool:
        return self._is_entered and not self._is_left

    @property
    def _is_in_block(self) -> bool:
        """Whether a `multi_count` block, which is not over yet, keeps its files."""
        return self._block is not None and not self._block.is_over

    def _enter_block(self) -> None:
        self._block = _scope.config.parent
        if self._block is not None:
            self._block.enter(self)

    def _open_own(self, path: str) -> None:
        self._enter_block()
        if self._around:
            _storage_of(self._around[-1][0]).claim(path)
        self._storage = storage = Storage(path, self._name, self._describe())
        known = dict(storage.header.loop["around"])
        if any(known.get(counter._path, position) != position for counter, position in self._around):
            storage.remove()  # out of date: a loop around is at another item now
            storage.acquire()
        elif storage.is_saved:
            self._saved = {"position": storage.position, **storage.header.loop}
            for counter, _ in self._around:
                if counter._path not in known:
                    _log("WARNING", f"{self._name}: saved outside the loop of {counter._name}, in which it runs now")
        weakref.finalize(self, storage.release)

    def _join(self, host: CounterClosier, path: str) -> None:
        """Become part of the moment of a counter around this one: its progress file holds this one's progress."""
        parent = self._around[-1][0]
        storage = _storage_of(host)
        require_folder(os.path.dirname(path), self._name)
        if os.path.lexists(path):
            raise RestartError(
                f"{self._name}: is there, but this loop is saved in {host._name}; move it away, or give another path"
            )
        if any(counter._path == path for counter in parent._current_inside()):
            raise RestartError(
                f"{self._name}: used for two loops in one item of {parent._name}; give each loop a path of its own"
            )
        self._joined, self._storage = host, storage
        self._saved = next((record for record in parent._left_inside() if record["path"] == path), None)
        parent._inside = [*parent._current_inside(), self]

    # Checks.

    @property
    def _host(self) -> CounterClosier:
        """The counter in whose progress file this one is saved."""
        return self._joined or self

    @property
    def _is_plain(self) -> bool:
        """Whether the position is saved alone, at each boundary."""
        return self._each_save and self._host is self and not self._states and not self._interval

    def _require_own_thread(self) -> None:
        """Raise where another thread runs the loop: what is saved then would not be one moment."""
        loop = self._loop
        if loop is not None and loop._is_running and loop._owner and loop._owner[0] is not threading.current_thread():
            raise RestartError(f"{self._name}: its loop runs in another thread; call this in that one")

    @property
    def _can_save(self) -> bool:
        return self._is_entered or self._each_save

    @property
    def _is_current(self) -> bool:
        """Whether what it uses may not be used by another counter."""
        if self._host is self:
            return True
        parent, position = self._around[-1]
        return parent._is_current and parent.position == position

    def _require_free(self, path: str, name: str) -> None:
        user, storages = _users.get(path), opened()
        is_registered = user is not None and user._is_current and user._storage in storages
        if is_registered or (name is not self._name and any(storage.path == path for storage in storages)):
            raise RestartError(f"{name}: in use for something else in this program; give it a path of its own")

    def _require_same_loops_around(self) -> None:
        loops = _scope.running()
        if any(loop._is_drawing for loop in loops):
            raise RestartError(f"{self._name}: {_NO_SOURCE}")
        if [(loop._counter, loop.position) for loop in loops] != self._around:
            raise RestartError(
                f"{self._name}: the loops around it are not those in which its counter was made; "
                "make the counter right before its own for, inside the loop around it; "
                "for a zip, count the zip itself: counter(zip(a, b))"
            )

    def _take_up(self) -> None:
        """Stand for what was saved from now on; until then, that stays in the moment as it is."""
        self._require_registered()
        self._is_taken_up = True

    def _require_registered(self) -> None:
        """Raise where what is registered is not what was saved."""
        if self._saved is None:
            return
        saved = set(self._saved["registered"])
        registered = {state.path for state in self._states}
        for path in sorted(saved - registered):
            raise RestartError(f"{self._name}: saved with {path}, which is not registered; register it, or {_AFRESH}")
        for path in sorted(registered - saved):
            raise RestartError(f"{self._name}: saved without {path}, which is registered; remove that, or {_AFRESH}")

    def _compare_length(self, length: int | None) -> None:
        former = self._saved and self._saved["length"]
        if length is not None and self._start > length and not self._is_finished:
            raise RestartError(
                f"{self._name}: saved at position {self._start}, but the iterable has {length} items; {_GIVE_SAME}"
            )
        if former is not None and length is not None and former != length:
            _log("WARNING", f"{self._name}: saved with an iterable of {former} items, which has {length} now")

    # Registering.

    def _checked_place(self, path: str | os.PathLike[str]) -> str:
        name = _checked_path(path)
        folder, base = os.path.split(os.path.abspath(name))
        place = os.path.join(os.path.realpath(folder), base)
        if self._storage is not None:
            require_folder(os.path.dirname(place), name)
            if place == self._path:
                raise RestartError(f"{name}: the path of the progress itself; give another one")
        return place

    def _register(self, states: Sequence[Object | Functions]) -> None:
        storage = self._storage
        if storage is None:
            self._states += states  # for `object`
            return
        if self._loop is not None and self._loop._owner is not None:
            raise RestartError(f"{self._name}: its loop has begun; register before the loop")
        used = {state.path for state in self._states}
        saved = self._saved["registered"] if self._saved else ()
        for state in states:
            if state.path in used:
                raise RestartError(f"{state.path}: registered twice; give each object and function a path of its own")
            used.add(state.path)
            self._require_free(state.path, state.path)
        for state in states:
            try:
                is_saved = state.path in saved and storage.holds(state.path)
                if not is_saved:
                    storage.check(state.path)
            except OSError as error:
                raise RestartError(
                    f"{state.path}: cannot be read: {describe(error)}; mend that, or {_AFRESH}"
                ) from error
            if is_saved:
                _attempt(state.load, f"{state.path}: cannot be loaded", _AFRESH)
            else:
                _attempt(state.rehearse, f"{state.path}: the object cannot be pickled", "register one that can")
        self._states += states
        _users.update({state.path: self for state in states})

    def _last_object(self) -> Object:
        for state in reversed(self._states):
            if isinstance(state, Object):
                return state
        raise RestartError(f"{self._name}: no object is registered; call save_load_object first")

    # Saving.

    def _save(self, is_boundary: bool = False) -> None:
        """Save the whole moment. A position alone need not be flushed at a boundary: the next one will come."""
        host, storage = self._host, _storage_of(self)
        storage.loop = host._describe()
        writers = {state.path: state.save for counter in host._tree() for state in counter._states}
        if writers or storage.header.files:
            storage.commit(host.position, writers, set(host._kept()) - writers.keys())
        else:
            if storage.loop != storage.header.loop:
                storage.pause()  # or it would write a record alone
            storage.write(host.position)
            if not is_boundary:
                storage.flush()
        self._last_save = time.monotonic()

    def _save_timed(self) -> None:
        began = time.monotonic()
        self._save(is_boundary=not self._is_finished)
        self._spent += self._last_save - began
        self._saves += 1

    def _save_at_boundary(self, position: int) -> None:
        if time.monotonic() - self._last_save >= self._interval:
            self._save_timed()
            if self._last_save - self._began > 1.0:
                self._judge()

    def _save_after(self, error: BaseException) -> None:
        """Save what is to be saved when the block ends by an exception, which stays the one that is raised."""
        if self._storage is None or self._loop is None or not self._loop._has_begun or self._is_finished:
            return
        moment = list(self._host._tree())
        if any(counter._each_save for counter in moment) and any(counter._states for counter in moment):
            return  # the objects are halfway through an item; the last boundary is whole
        try:
            self._save()
        except BaseException as failure:  # a save function may even want to exit
            note(error, str(failure))
            _log("ERROR", str(failure))

    def _finish(self) -> None:
        """The work is done."""
        storage = self._storage
        if storage is None:
            return
        was_finished, self._is_finished = self._is_finished, True
        if self._host is self and not self._is_in_block:
            storage.remove()
        elif not was_finished:
            self._take_up()
            if self._host is self or (self._each_save and not self._is_entered):
                self._save_timed()
                storage.pause()  # a block may hold thousands of finished loops

    def _leave_block(self, is_over: bool) -> None:
        storage, loop = self._storage, self._loop
        if storage is None or (loop is not None and loop._is_running and loop._owner != _scope.owner()):
            return  # it never came to be, or goes on in a task that has outlived the block
        if is_over and not storage.is_lost and (storage.is_saved or storage in opened()):
            storage.remove()
        else:
            storage.release()

    # The moment: this counter and those inside its current item.

    def _current_inside(self) -> list[CounterClosier]:
        return [counter for counter in self._inside if counter._around[-1][1] == self.position]

    def _left_inside(self) -> list[dict[str, Any]]:
        """What is saved of loops inside its current item, and was neither taken up nor forgotten since."""
        if self._saved is None or self.position != self._start:
            return []
        gone = {counter._path for counter in self._current_inside() if counter._is_taken_up or counter._saved is None}
        return [record for record in self._saved["inside"] if record["path"] not in gone]

    def _tree(self) -> Iterator[CounterClosier]:
        yield self
        for counter in self._current_inside():
            if counter._is_taken_up:
                yield from counter._tree()

    def _kept(self) -> Iterator[str]:
        """The paths of what is saved of loops that have not been taken up yet."""
        for counter in self._tree():
            records = counter._left_inside()
            for record in records:
                yield from record["registered"]
                records += record["inside"]

    def _forget(self) -> None:
        """Have nothing saved, of the loops inside the current item neither."""
        self._saved = None
        if self._loop is None or self._loop._owner is None:
            self._start, self._is_finished = 0, False
        for counter in self._current_inside():
            counter._forget()

    def _describe(self) -> dict[str, Any]:
        """What a progress file says of this loop, beside its position."""
        inside = [counter._record() for counter in self._current_inside() if counter._is_taken_up]
        return {
            "finished": self._is_finished,
            "length": length_of(self._loop) if self._loop else (self._saved or {}).get("length"),
            "around": self._places_around(),
            "registered": [state.path for state in self._states],
            "inside": inside + self._left_inside(),
        }

    def _record(self) -> dict[str, Any]:
        """What the progress file of the host says of this loop."""
        return {"path": self._path, "position": self.position, **self._describe()}

    # What it says.

    def _log_start(self, storage: Storage) -> None:
        length = length_of(self._loop)
        of = "" if length is None else f" of {length}"
        if self._is_finished:
            _log("INFO", f"{self._name}: finished before, at position {self._start}{of}; skipped")
        elif self._saved is None:
            _log("INFO", f"{self._name}: starts afresh, at position 0{of}")
        else:
            _log("INFO", f"{self._name}: resumes at position {self._start}{of}, saved {_ago(storage.age)}")

    def _estimate(self) -> None:
        """Tell what saving has taken where it was too quick to be timed: save the position ten times more."""
        saves = self.position // self._span - self._start // self._span
        began = time.monotonic()
        if saves and began - self._began > _NOTICEABLE:
            for _ in range(10):
                _storage_of(self).write(self.position)
            self._spent, self._saves = saves * (time.monotonic() - began) / 10, saves

    def _judge(self) -> None:
        """Say, once, that saving takes too much of the loop's time, and what would help."""
        total = time.monotonic() - self._began
        if self._saves and not self._is_judged and self._spent > max(_COSTLY * total, _NOTICEABLE):
            self._is_judged = True
            interval = float(f"{self._spent / self._saves / _COSTLY:.2g}")
            share = f"saving takes {min(1, self._spent / total):.0%} of the time of this loop"
            _log("WARNING", f"{self._name}: {share}; save_interval={interval:g} would make it less than {_COSTLY:.0%}")


def enable_counter(
    file_path: str | os.PathLike[str],
    use_tempfile: bool = True,
    each_save: bool = False,
    save_span: int = 1,
    *,
    save_interval: float = 0.0,
) -> CounterClosier:
    """Make a counter for one loop, and take up what the last run has saved.

    In a `with` statement everything is saved when the block ends by an exception, Ctrl-C, SIGTERM and SIGHUP
    included, and deleted when it ends without one. With `each_save` everything is saved at every boundary between two
    items.

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
    _require_iterable(iterable, file_path)  # before a file is made
    return enable_counter(file_path, use_tempfile, True, save_span, save_interval=save_interval)(iterable)


_AFRESH = "delete what was saved to start afresh"
_GIVE_SAME = f"give the iterable it was saved with, or {_AFRESH}"
_NO_SOURCE = (
    "a loop cannot be part of the source of another loop, which would draw from it twice; "
    "nest the two, or zip their sources"
)


def _require_iterable(source: object, name: object) -> None:
    if isinstance(source, Loop):
        raise RestartError(f"{name}: {_NO_SOURCE}")
    if not (hasattr(type(source), "__iter__") or hasattr(type(source), "__getitem__") or callable(source)):
        raise TypeError(f"{name}: {source!r} is not iterable; give an iterable, or a function that returns one")


def _storage_of(counter: CounterClosier) -> Storage:
    assert counter._storage is not None
    return counter._storage


def _counter_of(loop: Loop[Any]) -> CounterClosier:
    assert isinstance(loop._counter, CounterClosier)
    return loop._counter


def _attempt(action: Callable[[], None], what: str, advice: str) -> None:
    try:
        action()
    except Exception as error:
        raise RestartError(f"{what}: {describe(error)}; {advice}") from error


def _checked_path(path: Any) -> str:
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"{path!r} is not a path; give a str or a pathlib.Path")
    if not name:
        raise ValueError("the path is empty; give the path of a file")
    return name


def _maker_of(path: Any) -> Callable[[str], Any]:
    if isinstance(path, str):
        return str
    from pathlib import Path

    return Path


def _checked_span(span: Any) -> int:
    if isinstance(span, bool) or not hasattr(span, "__index__"):
        raise TypeError(f"save_span is {span!r}; give a whole number of items")
    if span < 1:
        raise ValueError(f"save_span is {span!r}; give 1 or more items")
    return min(int(span), sys.maxsize)


def _checked_interval(interval: Any) -> float:
    try:
        seconds = interval + 0.0
    except (TypeError, ValueError):
        raise TypeError(f"save_interval is {interval!r}; give a number of seconds") from None
    if not seconds >= 0:
        raise ValueError(f"save_interval is {interval!r}; give 0 or more seconds")
    return float(seconds)


def _ago(seconds: float) -> str:
    """Say how long ago something was, in the largest unit of which there are two."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} seconds ago"


def _log(level: str, text: str) -> None:
    """Log a line. Where nobody has imported `logging`, nobody listens, and importing it takes longer than a loop."""
    logging = sys.modules.get("logging")
    if logging is not None:
        logger = logging.getLogger("py_restart")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # or a warning would be printed where logging is not set up
        logger.log(getattr(logging, level), text)

"""One loop that is saved: when, with what, and when its work is done. Its life is the table in `_tree`.

A counter that is made while another loop runs in the same thread or task is inside it. The outermost loop is the
*host*: its progress file holds the tree of all loops that are running, or have ended, inside its current item, and
whoever saves, saves that tree and all that is registered in it. A loop by itself is a host with nothing inside.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from time import perf_counter
from types import FunctionType

from . import _scope
from ._costs import Costs
from ._errors import RestartError, ago, attach, face, failing, log, shorten, warn
from ._files import make_room, require_own
from ._frames import Driver
from ._journal import Teller, behind
from ._signals import act_on_waiting, blocks, held, watch
from ._state import Object, require_free, users, warn_of_lost
from ._storage import Storage, require_place
from ._tree import ENDED, LEFT, MADE, OVER, RUNNING, UNUSED, Place, has_ended, is_rich
from ._typing import Any

_at_exit = cache(atexit.register)  # once: Python keeps a place in its table for each function that was ever registered


class Node(Place):
    """A loop that is saved. `path` is absolute, `name` the same as the user gave it; see `enable_counter`."""

    saves: int = 0  # how many are asked for: one that runs, and one that comes right after it
    _last_save: float = 0.0  # of this host's moment; or the start
    _owes: bool = False  # an inner loop was broken off at no boundary: the next one begins with a save

    def __init__(self, path: str, name: str, each_save: bool, span: int, interval: float) -> None:
        is_there = os.path.lexists(path)
        if is_there:
            with failing(f"{name}: cannot be used", "mend that, or give another path if it is not your work"):
                require_own(path)
            path = os.path.realpath(path)  # it may be a link
        around = _scope.around(name, path)
        super().__init__(path, name, span, around[-1] if around else None)
        self.each_save, self._interval = each_save, interval
        require_free(path, name, path)
        if self.parent is None:
            require_place(path, name, is_file=is_there)
            self.storage = Storage(path, name)
            self.set_saved(self.storage.journal.newest)
            return
        self.storage = self.host.storage
        if is_there:
            what = f"is there, but this loop is saved in {self.host.name}"
            raise RestartError(f"{name}: {what}; move it away, or give another path")
        saved, is_skipped = self.former(self.parent), self.host.was_rich or _scope.config.parent is not None
        self.set_saved(None if saved is None or (has_ended(saved) and not is_skipped) else saved)

    def __reduce__(self) -> Any:
        way_out = "keep it out of the object; another process makes its own"
        raise TypeError(f"{self.name}: a counter cannot be pickled or copied; {way_out}")

    def is_busy(self) -> bool:
        """Whether its loop is running in another live thread."""
        return self.state == RUNNING and self.driven_by.is_in(self.owner[0])

    def is_open(self) -> bool:
        """Whether its `with` is open in another live thread."""
        return self in blocks and self._opened_by.is_in(self._opened_in)

    def begin(self) -> Callable[[int], object] | None:
        """Check that all is as it was when the counter was made; return what saves at a boundary, if anything does."""
        act_on_waiting()
        self._require_usable()
        if self.state == UNUSED:
            raise RestartError(f"{self.name}: its with block has ended; run the loop inside it")
        if self.stale:
            what = f"{' and '.join(self.stale)} was loaded before remove_files(), and still is as it was"
            raise RestartError(f"{self.name}: {what}; run again, and call that before anything is registered")
        if _scope.around(self.name) != self.around or self.is_past:
            what = "the loops around it are not those in which its counter was made"
            way_out = "make it right before its own for; for a zip, count the zip itself: counter(zip(a, b))"
            raise RestartError(f"{self.name}: {what}; {way_out}")
        self.compare_length()
        if not (self in blocks or self.each_save):
            warn(f"{self.name}: this loop is never saved; use a with statement, or each_save=True")
        self.join()
        self.block = _scope.config.parent
        if self.block is not None:
            self.block._enter(self)
        if self.parent is not None:
            self.parent.warn_of_carried(self.states)
            for other in self.parent.inside().values():
                if other.state == LEFT and other.block in (None, self.block) and other.driven_by.is_settled:
                    other.go("finish")  # broken off counts as ended as soon as another one starts
        with self.storage.turn:  # nobody takes over from here on
            self.storage.require_current()
            self.go("begin")
        self.storage.journal.stop_telling()
        at = f"at position {self.start}{'' if self.length is None else f' of {self.length}'}"
        how = f"resumes {at}, saved {ago(self.storage.journal.age)}" if self.was_saved else f"starts afresh, {at}"
        log("info", f"{self.path}: {f'finished before, {at}; skipped' if self.is_finished else how}")
        if not self.around:
            self._costs, self._last_save = Costs(), perf_counter()
        self._boundary = self.start // self._span
        if self.host._owes:
            self._save()
        if not self.each_save:
            return None
        return partial(self._tell, None) if self._interval else Teller(self._tell).write

    def end(self) -> None:
        """The source is exhausted. In a `with`, the block goes on."""
        if self.state == OVER:  # its `with` has ended before it
            return
        self.whole()  # raises where loops take turns: then it has not ended
        self.go("end")
        self._save_end() if self in blocks else self._finish()

    def leave(self) -> None:
        """The `for` has been left. Without a `with` nobody else lets go of the file."""
        self.go("leave")
        self.host._owes |= self.each_save and self.state == LEFT and not self._is_too_soon
        self._release_if_idle()

    def enter(self) -> None:
        if self in blocks or self.state != MADE:
            raise RestartError(f"{self.name}: this counter was used already; make another counter")
        try:
            _at_exit(_close_all)
            self._opened_by, self._opened_in = Driver(sys._getframe(1)), _scope.owner()[0]
            watch(self)
        except BaseException:  # a signal that came meanwhile: the handlers that were there come back
            with held():
                raise

    @face
    def close(self, error: BaseException | None) -> None:
        with held():
            try:
                if blocks.pop(self, None) is None:
                    return  # the interpreter ends, and has done it
                if not self.is_busy():
                    self.go("leave")  # a variable holds what drives it
                if error is not None:
                    shorten(error)
                    self._save_after(error)
                elif self.state in (LEFT, ENDED):
                    is_ended = self.state == ENDED
                    # An end was saved as it came; but an inner one of a moment with nothing in it is left out now, to
                    # run again with its item. What was left inside goes with the next save around it.
                    is_said = is_ended if self.parent is None else not is_ended or is_rich(self.host.tree())
                    self._finish(is_said)
            finally:
                self._release_if_idle()

    def register(self, states: Sequence[Any]) -> None:
        """Register what is saved with the position, and load what was saved of it."""
        self._require_usable()
        if self.state != MADE:
            raise RestartError(f"{self.name}: its loop has begun; register before the loop")
        paths, saved = [one.path for one in (*self.around, self, *self.states, *states)], self.saved["files"]
        for state in states:
            if paths.count(state.path) > 1:
                raise RestartError(f"{state.path}: used twice; give each loop, object and function a path of its own")
            require_place(state.path, state.name)
            require_free(state.path, state.path, self.path)
            self.storage.load(state, saved.get(state.path))
            if isinstance(state, Object) and isinstance(state.value, type | FunctionType):
                what = "a class or function is saved by its name alone, without contents"
                warn(f"{state.path}: {what}; register an object")
            if self.was_saved and state.path not in saved:
                warn(f"{state.path}: {self.name} was saved without it; it starts as it is given")
        self.states += states
        users.update({state.path: self for state in states})

    def save_now(self) -> None:
        if self.storage.is_of_this_process:
            self._require_usable()
            is_done = any(loop.state in (UNUSED, OVER) for loop in (*self.around, self))
            if is_done or (self.state != RUNNING and self.is_past):
                raise RestartError(f"{self.name}: its work is done; make another counter")
            self.join()
            self._save(flush=True)

    def forget(self) -> None:
        if self.storage.is_of_this_process:
            self._require_usable()
            if self.host.saves:
                raise RestartError(f"{self.name}: is being saved just now; call this after the function that saves")
            if self.state != RUNNING and self.is_past:
                return
            self.forget_saved()
            if self.parent is None:
                self.storage.remove(is_done=self.state not in (MADE, RUNNING) and self not in blocks)
            elif self.path in self.parent.inside() | self.parent.moments:
                self.parent.inside().pop(self.path, None)
                self.parent.moments.pop(self.path, None)
                if self.storage.journal.newest is not None:
                    self.host._save()
                if self.state == RUNNING:
                    self.join()

    def leave_block(self) -> None:
        """The `multi_count` block has ended; where its work is done, so is this loop's."""
        if self.state == RUNNING and self.owner != _scope.owner():
            return  # it goes on in a task that has outlived the block
        self.go("leave")  # something may hold what drives it
        if self.parent is None:
            stays = self.is_kept or self.state == UNUSED or self.storage.is_lost
            self.storage.release() if stays else self.storage.remove()
        elif not self.is_kept:
            if self.state == LEFT and self not in blocks:
                self.go("finish")  # broken off counts as ended here, too
            is_inside = self.parent.state == RUNNING and self.parent.position == self.items[-1]
            if self.each_save and is_inside and not self._is_too_soon:
                self.host._save()

    def _require_usable(self) -> None:
        if not self.storage.is_of_this_process:
            what = "made before this process was forked"
            raise RestartError(f"{self.name}: its counter was {what}; make it here, with a path of its own")
        self.storage.require_current()
        if self.is_busy():
            raise RestartError(f"{self.name}: its loop runs in another thread; call this in that one")
        if self.parent is not None and self.was_saved and self.path not in self.parent.inside() | self.parent.moments:
            self.forget_saved()  # with the loop around it

    def _save(self, teller: Teller | None = None, flush: bool = False) -> None:
        """Save the moment. A save that is asked for during a save comes right after it."""
        host, nodes = self.host, self.whole()
        warn_of_lost([*self.around, self])
        host.saves += 1
        if host.saves > 1:
            return
        try:
            for _ in range(2):
                moment = host.record(is_rich(nodes))
                states = [state for node in nodes for state in node.states]
                told = self.moment if self.state != OVER else moment  # what is over may not be in the record
                self.storage.save(moment, told, states, teller, flush, close=bool(self._interval))
                if host.saves == 1:
                    break
                nodes = host.tree()
            host._last_save, host._owes = perf_counter(), False
        finally:
            host.saves = 0
            host._release_if_idle()

    @property
    def _is_too_soon(self) -> bool:
        last: float = self.host._last_save  # whoever has saved, saved the moment
        return 0 <= perf_counter() - last < self._interval

    def _tell(self, teller: Teller | None, position: int) -> None:
        """Save at a boundary, in full; not behind the end of the work, and not too soon."""
        if self.state == OVER or self._is_too_soon:
            return
        began, boundary = perf_counter(), position // self._span
        self._save(teller=teller)
        quick = partial(teller.write, position) if teller is not None and teller.file >= 0 else None
        others = 0 if teller is None else boundary - self._boundary - 1
        self._boundary = boundary
        self.host._costs.note(self.name, began, others, quick)

    def _save_after(self, error: BaseException) -> None:
        """Save what is to be saved when the block ends by an exception, which stays the one that is raised."""
        if self.storage.is_lost or self.state in (UNUSED, OVER) or self.host.state == OVER:
            return
        try:
            apart = (self.driven_by.is_apart_from(loop.driven_by) for loop in self.around)
            if self not in self.host.tree() and (self.state == ENDED or all(apart)):
                return  # those around have gone on since it ended or was left
            make_room()
            nodes = self.whole()
            if is_rich(nodes) and any(node.each_save for node in nodes):
                return  # the objects are halfway through an item; the last boundary is whole
            self._save(flush=True)
        except BaseException as failure:  # a save function may even want to exit
            if not self.storage.is_of_this_process:  # it has forked, and this is the child
                raise
            attach(error, failure)
            if isinstance(failure, UserWarning):  # warnings are errors here; it comes once, and must not cost the save
                self._save_after(error)

    def _save_end(self) -> None:
        """Save that the loop has ended: a boundary, or the next run skips it. Not where the last save says all that."""
        is_wanted = self.each_save or (self.parent is None and self.is_kept)
        if self.is_finished or not is_wanted or (self.around and self._is_too_soon):  # many short ones have many ends
            return
        tree, position = self.host.tree(), self.position
        is_at_boundary = 0 < position == self.length and position % self._span == 0 and not self._interval
        if self in tree and (not is_at_boundary or self.is_kept or is_rich(tree)):  # else those around have gone on
            self._save()

    def _finish(self, is_said: bool = False) -> None:
        """The work is done, of all that is inside as well. `is_said`: the last save says so."""
        self.go("finish")
        if not is_said and (self.parent is not None or self.is_kept):
            self._save_end()
        if self.parent is None and self.is_kept:
            # The block keeps the files until it ends, but no object in memory: those are the counter's alone.
            self.states = [Object(None, state.path, state.name) for state in self.states]
            behind[self.path] = self.storage.journal
        elif self.parent is None:
            self.storage.remove()
        log("info", f"{self.path}: done at position {self.position}")

    def _release_if_idle(self) -> None:
        """Let go of the file where neither a `for` nor a `with` needs it."""
        if self.parent is None and self.state not in (MADE, RUNNING) and self not in blocks:
            self.storage.release()


def _close_all() -> None:
    """The interpreter ends: save what is still open, held by a variable, as if it ended by an exception."""
    for node in reversed(list(blocks)):
        if node.is_busy() and node.owner[0].ident not in sys._current_frames():
            node.owner = _scope.owner()  # a greenlet of gevent looks like a thread that lives, but does not go on
        if not node.is_busy():
            node.close(SystemExit("the interpreter ends"))

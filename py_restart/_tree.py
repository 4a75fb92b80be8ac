"""The tree of a moment: where a loop is, which loops are inside its current item, and what a record says of them.

The life of a loop is one state, and what may come next is one table.
"""

from __future__ import annotations

import sys

from ._errors import RestartError, warn
from ._frames import stack_of
from ._input import is_within, mark_of, parts_of
from ._loop import Counted
from ._progress import files_of
from ._scope import owner, running
from ._state import Object
from ._typing import Any, Moment

MADE, UNUSED, RUNNING, LEFT, ENDED, OVER = "made", "unused", "running", "left", "ended", "over"
_NEXT: dict[str, dict[str, str]] = {
    MADE: {"begin": RUNNING, "leave": UNUSED},  # its loop has not begun
    UNUSED: {"leave": UNUSED},  # its loop could not begin, or its `with` has ended before it: nothing is done
    RUNNING: {"end": ENDED, "leave": LEFT},
    # Its `for` was left, by `break` or an exception; "end": a variable may hold what drives it, behind its `with`.
    LEFT: {"end": ENDED, "leave": LEFT, "finish": OVER},
    ENDED: {"leave": ENDED, "finish": OVER},  # its source is exhausted; its `with` goes on, or has failed
    OVER: {"leave": OVER},  # its work is done
}
_NOTHING: Moment = {"position": 0, "finished": False, "length": None, "first": None, "files": {}, "inside": []}


class Place(Counted):
    """The place of a loop in the tree. `path` is absolute and without links; `parent` is the loop around it."""

    storage: Any  # of the outermost loop around
    state: str = MADE
    owner: tuple[Any, object] = (None, None)  # the thread and task that run it
    stale: tuple[str, ...] = ()  # what was loaded and then forgotten, before it began
    block: Any = None  # the `multi_count` block that it is in
    is_told: bool = False  # of this host: that an object is carried from item to item
    torn: str = ""  # how loops inside this host have taken turns: nothing of it is one moment any more

    def __init__(self, path: str, name: str, span: int, parent: Place | None) -> None:
        super().__init__(name, span)
        self.path, self.parent = path, parent
        self.around: list[Any] = [] if parent is None else [*parent.around, parent]  # the outermost first
        self.items: list[int] = [] if parent is None else [*parent.items, parent.position]  # of theirs, in which it is
        self._inside: dict[str, Place] = {}  # by path: see `inside`
        self._carried: dict[str, object] = {}  # what was registered in the item before, and is still referred to

    @property
    def host(self) -> Any:
        """The outermost loop around, in whose progress file it is saved."""
        return self.around[0] if self.around else self

    @property
    def is_past(self) -> bool:
        """Whether an item that it was in is over."""
        return self.items != [loop.position for loop in self.around]

    @property
    def is_kept(self) -> bool:
        """Whether the next run skips it once it is over, since its block is not done: it is open, or has failed."""
        return self.block is not None and not self.block._is_done

    def go(self, event: str) -> None:
        state = _NEXT[self.state][event]
        if state == RUNNING:
            self.owner = owner()
            running.append(self)
        elif self in running:
            running.remove(self)
            for one in self.states:  # the function that has the object may be over by the next save
                one.is_judged = one.is_judged or not one.is_out_of_reach()
        self.state = state

    def set_saved(self, saved: Moment | None) -> None:
        """Begin where this was saved, or afresh."""
        self.was_saved, self.was_rich = saved is not None, bool(files_of(saved))
        self.saved = saved or _NOTHING
        self.start = self._inside_of = self.saved["position"]  # the second: of what `inside` stands for
        self.is_finished, self.length = self.saved["finished"], self.saved["length"] or self.length
        self.first: str | None = self.saved["first"]  # the check sum of its first item
        # What was saved of the loops in the current item that have not begun.
        self.moments: dict[str, Moment] = {one["path"]: one for one in self.saved["inside"]}

    def compare_length(self) -> None:
        """Raise where the iterable ends before the position; warn where it is another one than was saved."""
        length, former = self.length, self.saved["length"]
        if former is not None and self.start > former and type(self.source) is not range:
            return  # a table may have the length of its rows, and iterate its columns: `_parts` finds the end
        if length is not None and self.start > length and not self.is_finished:
            self.refuse(f"has {length} items")
        if None not in (former, length) and former != length:
            self._warn_of_input(f"an iterable of {former} items, which has {length} now", [self.source])

    def refuse(self, what: str) -> None:
        way_out = f"give the one it was saved with, or {self.storage.journal.way_out}"
        raise RestartError(f"{self.name}: saved at position {self.start}, but the iterable {what}; {way_out}")

    def meet(self, item: object, source: object) -> None:
        mark = mark_of(item)
        if None not in (mark, self.first) and mark != self.first:
            parts = [part for part in parts_of([item], item) if not isinstance(part, tuple)]  # which cannot change
            kind = type(source)
            if kind.__module__ == "builtins" and not (hasattr(kind, "__getitem__") or hasattr(kind, "send")):
                # A view, such as that of `items()`, or an iterator, such as that of `enumerate`; not one that calls.
                drawn = [one for one in parts_of(source) if not callable(one)]
                parts += [*drawn, *parts_of(*drawn)]
            self._warn_of_input("an iterable that had another first item", [source, *parts])
        self.first = self.first or mark

    def _warn_of_input(self, what: str, parts: list[object]) -> None:
        """Warn, but for an input that is saved with the loop: it may have been changed in place."""
        values = [state.value for loop in (*self.around, self) for state in loop.states if isinstance(state, Object)]
        if not is_within(parts, values):
            way_out = "count as done; give the whole input in each run, or another input a path of its own"
            warn(f"{self.name}: saved with {what}; {'all' if self.is_finished else self.start} of this one {way_out}")

    def inside(self) -> dict[str, Any]:
        """Return the loops that have begun inside the current item. Whoever has begun last stands last."""
        if self.state == OVER:
            self._inside, self.moments = {}, {}
        elif (self._inside or self.moments) and self._inside_of != (position := self.position):
            loops, left = self._inside, self.moments
            self._inside, self.moments, self._inside_of = {}, {}, position
            states = [state for loop in loops.values() for state in loop.states if isinstance(state, Object)]
            self._carried = {one.path: one.value for one in states if one.is_mutable and not one.is_out_of_reach()}
            for loop in loops.values():
                if loop.state == RUNNING:
                    if loop.owner == owner() and not loop.driven_by.is_here(stack_of(sys._getframe(1)), True):
                        loop.leave()  # where it goes on nevertheless, `whole` sees it
                    else:
                        self._tear(loop)
            for path, moment in left.items():
                files = files_of(moment)
                if files or not (moment["finished"] or has_ended(moment)):
                    at = f"position {moment['position']} in an item of {self.name}"
                    lost = f"{' and '.join(files)} will go" if files else "register what decides whether it runs"
                    warn(f"{path}: saved at {at}, which has ended without it; {lost}")
        return self._inside

    def warn_of_carried(self, states: list[Any]) -> None:
        """Warn, once, of an object that is the one of the item before: the next item would start without it."""
        for state in states:
            former = self._carried.pop(state.path, self._carried)  # what begins later may have the others
            if isinstance(state, Object) and state.value is former and not self.host.is_told:
                self.host.is_told = True
                what = f"the same object in each item of {self.name}, but saved for one item alone"
                way_out = f"give another object in each item, or, once this run is done, register it with {self.name}"
                warn(f"{state.path}: {what}; {way_out}")

    def former(self, parent: Place) -> Moment | None:
        """Return what was saved of this loop; raise where another one in the same item has its path."""
        if parent.inside().get(self.path, self) is not self:
            what = f"used for two loops in one item of {parent.name}"
            way_out = "give each loop a path of its own; to try one again, let it end the run, and run again"
            raise RestartError(f"{self.name}: {what}; {way_out}")
        return parent.moments.get(self.path)

    def join(self) -> None:
        """From now on, stand in the tree for what was saved; until then, that stays in the moment as it is."""
        for path in sorted(self.saved["files"].keys() - {state.path for state in self.states}):
            what = f"saved with {path}, which is not registered"
            raise RestartError(f"{self.name}: {what}; register it, or {self.storage.journal.way_out}")
        if self.parent is not None:
            self.former(self.parent)
            self.parent._inside[self.path], self.parent._inside_of = self, self.parent.position
            self.parent.moments.pop(self.path, None)  # only now: a stop in between would have lost it

    def forget_saved(self) -> None:
        """Have nothing saved of this loop and of those inside."""
        if self.state in (MADE, UNUSED):
            self.stale += tuple(state.path for state in self.states if state.path in self.saved["files"])
            self.set_saved(None)
        self.moments = {}
        for loop in self._inside.values():
            loop.forget_saved()

    def whole(self) -> list[Any]:
        """Return all loops of the moment; raise where one around has moved on meanwhile: they are of none."""
        nodes: list[Any] = self.host.tree()
        for inner in (*self.around, self)[1:]:
            if inner not in nodes or (self.state == RUNNING and inner.parent.state != RUNNING):
                inner.parent._tear(inner)
        if self.host.torn:
            raise RestartError(self.host.torn)
        return nodes

    def _tear(self, inner: Place) -> None:
        what = f"is inside an item of {self.name}, which has moved on meanwhile: they take turns"
        way_out = "count what is combined, counter(zip(a, b)), or give each a thread of its own"
        self.host.torn = f"{inner.name}: {what}; {way_out}"

    def tree(self) -> list[Any]:
        """Return this loop and all that have begun inside its current item."""
        return [self, *(one for loop in self.inside().values() for one in loop.tree())]

    def record(self, is_rich: bool) -> Moment:
        """Return, and remember, what a record says of this loop and of those inside."""
        moments = [*self.moments.values()]
        if is_rich and not self.host.was_rich:  # what runs again with its item would be skipped in a rich moment
            moments = _without_ended(moments)
        loops = (loop for loop in self._inside.values() if loop.state != OVER or is_rich or loop.is_kept)
        self.moment: Moment = {
            "path": self.path,
            "length": self.measure(),
            "first": self.first,
            "finished": self.is_finished or self.state in (ENDED, OVER),
            "files": {state.path: {} for state in self.states},
            "position": self.position,
            "inside": [*moments, *(loop.record(is_rich) for loop in loops)],
        }
        return self.moment


def is_rich(tree: list[Any]) -> bool:
    """Whether anything is registered in the moment of this tree."""
    return any(node.states or any(map(files_of, node.moments.values())) for node in tree)


def has_ended(saved: Moment) -> bool:
    """Whether a loop was saved at its end. Where nothing was registered, it runs again with its item."""
    return bool(saved["position"] == saved["length"] and not saved["finished"])


def _without_ended(moments: list[Moment]) -> list[Moment]:
    return [{**one, "inside": _without_ended(one["inside"])} for one in moments if not has_ended(one)]

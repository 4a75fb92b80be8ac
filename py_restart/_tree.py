"""The tree of a moment: where a loop is, which loops are inside its current item, and what a record says of them.

The life of a loop is one state, and what may come next is one table.
"""

from __future__ import annotations

import weakref

from ._errors import RestartError, warn
from ._input import is_within, mark_of, parts_of
from ._loop import Counted
from ._progress import files_of
from ._scope import owner
from ._state import Object
from ._typing import Any, Moment

MADE = "made"  # its loop has not begun
RUNNING = "running"
LEFT = "left"  # its `for` was left, by `break` or an exception
ENDED = "ended"  # its source is exhausted; its `with` goes on, or has failed
OVER = "over"  # its work is done; or its `with` has ended before it had begun
_NEXT: dict[str, dict[str, str]] = {
    MADE: {"begin": RUNNING, "leave": OVER, "finish": OVER},  # "leave": it could not begin
    RUNNING: {"end": ENDED, "leave": LEFT},
    LEFT: {"finish": OVER, "end": ENDED},  # a variable may hold what drives it, behind its `with`
    ENDED: {"finish": OVER},
    OVER: {},
}


class Place(Counted):
    """The place of a loop in the tree. `path` is absolute and without links; `parent` is the loop around it."""

    def __init__(self, path: str, name: str, span: int, parent: Place | None) -> None:
        super().__init__(name, span)
        self.path, self.parent, self.state = path, parent, MADE
        self.owner: tuple[Any, object] = (None, None)  # the thread and task that run it
        self.item = parent.position if parent is not None else 0  # of the parent's, in which it is
        self.saved: Moment | None = None  # what was saved of it
        self._made: weakref.WeakSet[Place] = weakref.WeakSet()  # the loops that were made inside
        self._inside: dict[str, Any] = {}  # by path: see `inside`
        self._inside_of = 0  # the item for which that stands
        self.moment: Moment = {}  # what the last record says of it
        self.first: str | None = None  # the check sum of its first item
        self.stale: list[str] = []  # what was loaded and then forgotten, before it began
        self.was_rich = False  # something was registered in the moment that was saved of this host
        self.block: Any = None  # the `multi_count` block that it is in
        self.torn = ""  # how loops inside this host have taken turns: nothing of it is one moment any more
        if parent is not None:
            parent._made.add(self)

    @property
    def host(self) -> Any:
        """The outermost loop around, in whose progress file it is saved."""
        return self if self.parent is None else self.parent.host

    @property
    def is_in_block(self) -> bool:
        """Whether a `multi_count` block, which is not over yet, keeps what is saved of it."""
        return self.block is not None and not self.block.is_over

    @property
    def is_kept(self) -> bool:
        """Whether the next run skips it once it is over, since its block is not done: it is open, or has failed."""
        return self.block is not None and not self.block.is_done

    def go(self, event: str) -> None:
        self.state = _NEXT[self.state][event]

    def upwards(self) -> list[Place]:
        """Return it and the loops around it, the innermost first."""
        return [self] if self.parent is None else [self, *self.parent.upwards()]

    def places(self) -> list[tuple[str, int]]:
        """Return the path and position of each loop around it, as they were when it was made."""
        return [] if self.parent is None else [*self.parent.places(), (self.parent.path, self.item)]

    # What was saved.

    def set_saved(self, saved: Moment | None) -> None:
        loops = {
            loop.path: loop for loop in self.loops_inside()
        }  # before its position changes, which would end its item
        self.saved = saved
        if self.state == MADE:
            self.start = self._position = saved["position"] if saved else 0
            self.is_finished = bool(saved and saved["finished"])
            self.length = saved["length"] if saved else self.length
            self.first = saved["first"] if saved else None
        moments = {one["path"]: one for one in saved["inside"]} if saved else {}
        self._inside, self._inside_of = {**moments, **loops}, self.position

    def forget_tree(self) -> None:
        """Have nothing saved of this loop and of those inside."""
        if self.state == MADE and self.saved is not None:
            self.stale += [state.path for state in self.states if state.path in self.saved["files"]]
        self.set_saved(None)
        for loop in list(self._made):
            loop.forget_tree()

    def compare_length(self) -> None:
        """Raise where the iterable ends before the position; warn where it is another one than was saved."""
        length, former = self.length, self.saved and self.saved["length"]
        if length is not None and self.start > length and not self.is_finished:
            self.refuse(f"has {length} items")
        if None not in (former, length) and former != length:
            self._warn_of_input(f"an iterable of {former} items, which has {length} now", [self.source])

    def refuse(self, what: str) -> None:
        way_out = f"give the one it was saved with, or {self.way_out()}"
        raise RestartError(f"{self.name}: saved at position {self.start}, but the iterable {what}; {way_out}")

    def meet(self, item: object, source: object) -> None:
        mark = mark_of(item)
        if None not in (mark, self.first) and mark != self.first:
            self._warn_of_input("an iterable that had another first item", [source, *parts_of([item], item)])
        self.first = self.first or mark

    def _warn_of_input(self, what: str, parts: list[object]) -> None:
        """Warn, but for an input that is saved with the loop: it may have been changed in place."""
        values = [state.value for loop in self.upwards() for state in loop.states if isinstance(state, Object)]
        if not is_within(parts, values):
            warn(f"{self.name}: saved with {what}; if this is another input, give it a path of its own")

    def way_out(self) -> str:
        """How to start afresh."""
        return str(self.host.storage.way_out)

    # The loops inside.

    def inside(self) -> dict[str, Any]:
        """Return what is inside the current item: the loops that have begun, and the moments of those that have not."""
        if self.state == OVER:
            self._inside = {}
        elif self._inside_of != (position := self.position):
            left, self._inside, self._inside_of = self._inside.values(), {}, position
            for one in left:
                if isinstance(one, Place):
                    if one.state == RUNNING and one.owner == owner() and one.whereabouts in ("left", "gone"):
                        one.leave()
                    if one.state == RUNNING:
                        self._tear(one)
                elif files := files_of(one):
                    what = f"saved in an item of {self.name}, which has ended without it"
                    warn(f"{one['path']}: {what}: {' and '.join(files)} will go")
        return self._inside

    def loops_inside(self) -> list[Any]:
        return [one for one in self.inside().values() if isinstance(one, Place)]

    def former(self, parent: Place) -> Any:
        """Return what was saved of this loop; raise where another one in the same item of `parent` has its path."""
        former = parent.inside().get(self.path)
        if isinstance(former, Place) and former is not self:
            what = f"used for two loops in one item of {parent.name}"
            raise RestartError(f"{self.name}: {what}; give each loop a path of its own")
        return former

    def join(self) -> None:
        """From now on, stand in the tree for what was saved; until then, that stays in the moment as it is."""
        if self.parent is not None and self.former(self.parent) is not self:
            self.parent.inside().pop(self.path, None)  # whoever has begun last stands last
            self.parent.inside()[self.path] = self

    def require_in_turn(self) -> None:
        """Raise where a loop around has moved on while one inside it is running: what is saved would be no moment."""
        inner: Place = self
        while inner.parent is not None:
            if inner.parent.position != inner.item or inner.parent.state != RUNNING:
                inner.parent._tear(inner)
            inner = inner.parent
        self.inside()
        if self.host.torn:
            raise RestartError(self.host.torn)

    def _tear(self, inner: Place) -> None:
        what = f"is inside an item of {self.name}, which has moved on meanwhile: they take turns"
        way_out = "count what is combined, counter(zip(a, b)), or give each a thread of its own"
        self.host.torn = f"{inner.name}: {what}; {way_out}"

    # What a record says.

    def tree(self) -> list[Any]:
        """Return this loop and all that have begun inside its current item."""
        return [self, *(node for loop in self.loops_inside() for node in loop.tree())]

    def is_rich(self, tree: list[Any]) -> bool:
        """Whether anything is registered in the moment of this tree."""
        return any(node.states or any(map(files_of, node.moments_inside())) for node in tree)

    def moments_inside(self) -> list[Moment]:
        return [one for one in self._inside.values() if not isinstance(one, Place)]

    def record(self, is_rich: bool) -> Moment:
        """Return what a record says of this loop and of those inside."""
        loops = (one for one in self._inside.values() if isinstance(one, Place))
        self.moment = {
            "path": self.path,
            "length": self.length,
            "first": self.first,
            "finished": self.state in (ENDED, OVER),
            "files": {state.path: None for state in self.states},
            "position": self.position,
            "inside": [
                *self._still_saved(self.moments_inside(), is_rich),
                *(loop.record(is_rich) for loop in loops if loop.state != OVER or is_rich or loop.is_kept),
            ],
        }
        return self.moment

    def _still_saved(self, moments: list[Moment], is_rich: bool) -> list[Moment]:
        """Return what was saved and stays as it is. What runs again with its item would be skipped in a rich moment."""
        if self.host.was_rich or not is_rich:
            return moments
        left = (one for one in moments if not has_ended(one))
        return [{**one, "inside": self._still_saved(one["inside"], is_rich)} for one in left]


def has_ended(saved: Moment) -> bool:
    """Whether a loop was saved at its end. Where nothing was registered, it runs again with its item."""
    return bool(saved["position"] == saved["length"] and not saved["finished"])

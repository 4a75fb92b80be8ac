"""The tree of a moment: where a loop is, which loops are inside its current item, and what a record says of them.

The life of a loop is one state, and what may come next is one table.
"""

from __future__ import annotations

import weakref

from ._errors import RestartError, warn
from ._input import mark_of
from ._loop import Counted
from ._typing import Any, Moment

MADE = "made"  # its loop has not begun
RUNNING = "running"
LEFT = "left"  # its `for` was left, by `break` or an exception
ENDED = "ended"  # its source is exhausted; its `with` goes on, or has failed
OVER = "over"  # its work is done; or its `with` has ended before it had begun
_NEXT: dict[str, dict[str, str]] = {
    MADE: {"begin": RUNNING, "finish": OVER},
    RUNNING: {"end": ENDED, "leave": LEFT},
    LEFT: {"finish": OVER, "end": ENDED},  # a variable may hold what drives it, behind its `with`
    ENDED: {"finish": OVER},
    OVER: {},
}


class Place(Counted):
    """The place of a loop in the tree.

    Args:
        path: Its path, absolute and without links, which tells it from others.
        name: The same as the user gave it.
        parent: The loop around it, if there is one.
    """

    def __init__(self, path: str, name: str, parent: Place | None) -> None:
        super().__init__(name)
        self.path, self.parent, self.state = path, parent, MADE
        self.item = parent.position if parent is not None else 0  # of the parent's, in which it is
        self.made: weakref.WeakSet[Place] = weakref.WeakSet()  # all loops that were made inside
        self.inside: list[Any] = []  # those that have begun inside the item that was running then
        self.saved: Moment | None = None  # what was saved of it, and of those inside that have not begun
        self.was_rich = False  # something was registered in the moment that was saved of this host
        self.first: str | None = None  # the check sum of its first item
        self.block: Any = None  # the `multi_count` block that it is in
        self.is_torn = False  # loops inside have taken turns with it: nothing of it is one moment any more
        if parent is not None:
            parent.made.add(self)

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
        """Go on to the next state."""
        self.state = _NEXT[self.state][event]

    def places(self) -> list[tuple[str, int]]:
        """Return the path and position of each loop around it, as they were when it was made."""
        return [] if self.parent is None else [*self.parent.places(), (self.parent.path, self.item)]

    # What was saved.

    def set_saved(self, saved: Moment | None) -> None:
        """Stand for what was saved of this loop, or for nothing."""
        self.saved = {**saved} if saved else None  # it shrinks as the loops inside begin
        self.first = saved["first"] if saved else None
        if self.state == MADE:
            self.start = self._position = saved["position"] if saved else 0
            self.is_finished = bool(saved and saved["finished"])
            self.length = saved["length"] if saved else None

    def saved_inside(self) -> list[Moment]:
        """Return what is saved of loops inside the current item that have not begun in this run."""
        if self.state == OVER or self.position != self.start:
            return []
        return self.saved["inside"] if self.saved is not None else []

    def forget_saved(self, inner: Place) -> None:
        """Have nothing saved of a loop inside that has not begun."""
        if self.saved is not None:
            self.saved["inside"] = [saved for saved in self.saved["inside"] if saved["path"] != inner.path]

    def forget_tree(self) -> None:
        """Have nothing saved of this loop and of those inside."""
        self.set_saved(None)
        for inner in list(self.made):
            inner.forget_tree()

    def compare_length(self, length: int | None, way_out: str) -> None:
        """Raise where the iterable ends before the position; warn where it is another one than was saved."""
        former = self.saved and self.saved["length"]
        if length is not None and self.start > length and not self.is_finished:
            what = f"saved at position {self.start}, but the iterable has {length} items"
            raise RestartError(f"{self.name}: {what}; give the one it was saved with, or {way_out}")
        if None not in (former, length) and former != length:
            self._warn_of_input(f"an iterable of {former} items, which has {length} now")

    def meet(self, item: object) -> None:
        """Look at the first item of the whole iterable: is it the one that was there before?"""
        mark = mark_of(item)
        if None not in (mark, self.first) and mark != self.first:
            self._warn_of_input("an iterable that had another first item")
        self.first = mark or self.first

    def _warn_of_input(self, what: str) -> None:
        warn(f"{self.name}: saved with {what}; if this is another input, give it a path of its own")

    # The loops inside.

    def current_inside(self) -> list[Any]:
        """Return the loops that have begun inside the current item; what is over, broken off too, is in none."""
        if not self.inside or self.state == OVER:
            return []
        position = self.position
        return [inner for inner in self.inside if inner.item == position]

    def join(self) -> None:
        """Stand for what was saved from now on, in the tree; until then, that stays in the moment as it is."""
        if self.parent is not None:
            self.require_first_of_its_path()
            self.parent.inside = [*(one for one in self.parent.current_inside() if one is not self), self]
            self.parent.forget_saved(self)

    def require_first_of_its_path(self) -> None:
        """Raise where another loop in the same item of the one around has the same path."""
        if self.parent is not None and any(
            other is not self and other.path == self.path for other in self.parent.current_inside()
        ):
            what = f"used for two loops in one item of {self.parent.name}"
            raise RestartError(f"{self.name}: {what}; give each loop a path of its own")

    def require_in_turn(self) -> None:
        """Raise where a loop around has moved on while one inside it is running: what is saved would be no moment."""
        outer: Place | None = self.parent
        inner: Place = self
        while outer is not None and outer.position == inner.item:
            inner, outer = outer, outer.parent
        if outer is None:
            for other in self.inside:
                if other.state == RUNNING and other.item != self.position:
                    outer, inner = self, other
        if outer is not None or self.host.is_torn:
            self.host.is_torn = True
            what = f"is inside an item of {(outer or self.host).name}, which has moved on meanwhile: they take turns"
            way_out = "count what is combined, counter(zip(a, b)), or give each a thread of its own"
            raise RestartError(f"{inner.name}: {what}; {way_out}")

    # What a record says.

    def tree(self) -> list[Any]:
        """Return this loop and all that have begun inside its current item."""
        nodes = [self]
        for inner in self.current_inside():
            nodes += inner.tree()
        return nodes

    def is_rich(self, nodes: list[Any]) -> bool:
        """Whether anything is registered in the moment of these."""
        return any(node.states or any(map(_has_files, node.saved_inside())) for node in nodes)

    def record(self, nodes: list[Any], is_rich: bool) -> dict[Any, Moment]:
        """Return what a record says of each of these loops; what it says of the host has all others in it."""
        records: dict[Any, Moment] = {}
        for node in reversed(nodes):
            kept = [one for one in node.inside if one in records]
            inside = [records[one] for one in kept if one.state != OVER or is_rich or one.is_kept]
            records[node] = {
                "path": node.path,
                "length": node.length,
                "first": node.first,
                "finished": node.state in (ENDED, OVER),
                "files": {state.path: None for state in node.states},
                "position": node.position,
                "inside": [*self._still_saved(node.saved_inside(), is_rich), *inside],
            }
        return records

    def _still_saved(self, moments: list[Moment], is_rich: bool) -> list[Moment]:
        """Return what was saved and stays as it is. What runs again with its item would be skipped in a rich moment."""
        if self.was_rich or not is_rich:
            return moments
        left = (one for one in moments if not has_ended(one))
        return [{**one, "inside": self._still_saved(one["inside"], is_rich)} for one in left]


def has_ended(saved: Moment) -> bool:
    """Whether a loop was saved at its end. Where nothing was registered, it runs again with its item."""
    return bool(saved["position"] == saved["length"] and not saved["finished"])


def _has_files(saved: Moment) -> bool:
    return bool(saved["files"]) or any(map(_has_files, saved["inside"]))

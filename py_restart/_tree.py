"""The tree of a moment: where a loop is, which loops are inside its current item, and what a record says of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence

from ._errors import RestartError
from ._typing import Any, Moment

__all__ = ["ENDED", "LEFT", "MADE", "OVER", "RUNNING", "Place", "Untracked"]

MADE, RUNNING, LEFT, ENDED, OVER = "made", "running", "left", "ended", "over"
_NEXT: dict[str, dict[str, str]] = {
    MADE: {"begin": RUNNING, "finish": OVER},
    RUNNING: {"end": ENDED, "leave": LEFT},
    LEFT: {"finish": OVER},
    ENDED: {"finish": OVER},
    OVER: {},
}


class Untracked:
    """A loop that is counted as if this library were not there: it is neither saved nor around anything."""

    start = 0  # the position at which it begins
    is_finished = False  # it was finished by an earlier run, and is skipped

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: list[Any] = []
        self.run: Any = None  # while it runs
        self._position = 0
        self.length: int | None = None

    @property
    def position(self) -> int:
        """The index of the item to run next; inside the loop, of the one that is running."""
        return self._position if self.run is None else int(self.run.position)

    def begin(self, run: Any) -> Callable[[int], object] | None:
        """Begin; return what saves at a boundary, if anything does."""
        self.run, self.length = run, run.length
        return None

    def meet(self, item: object) -> None:
        """Look at the first item of the whole iterable."""

    def end(self) -> None:
        """Do what is to be done when the source is exhausted."""

    def leave(self) -> None:
        """Do what is to be done when the loop is left, in whatever way."""
        if self.run is not None:
            self._position, self.run = self.run.position, None

    def enter(self) -> None:
        """Do what is to be done where the `with` begins."""

    def close(self, error: BaseException | None) -> None:
        """Do what is to be done where the `with` ends."""

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


class Place(Untracked):
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
        self.inside: list[Any] = []  # the loops that have begun inside the item that was running then
        self.made: weakref.WeakSet[Place] = weakref.WeakSet()  # all that were made inside, and are still there
        if parent is not None:
            parent.made.add(self)
        self.saved: Moment | None = None  # what was saved of it, and has not been taken up yet of those inside
        self.first: str | None = None  # see `_input`
        self.is_torn = False  # loops of this host have taken turns: nothing of it is one moment any more

    @property
    def host(self) -> Any:
        """The outermost loop around, in whose progress file it is saved."""
        return self if self.parent is None else self.parent.host

    def go(self, event: str) -> None:
        """Go on to the next state."""
        self.state = _NEXT[self.state][event]

    def places(self) -> list[tuple[str, int]]:
        """Return the path and position of each loop around it, as they were when it was made."""
        return [] if self.parent is None else [*self.parent.places(), (self.parent.path, self.item)]

    def set_saved(self, saved: Moment | None) -> None:
        """Stand for what was saved of this loop, or for nothing."""
        self.saved = {**saved} if saved else None  # it shrinks as the loops inside begin
        if self.state == MADE:
            self.start = self._position = saved["position"] if saved else 0
            self.is_finished = bool(saved and saved["finished"])
            self.length = saved["length"] if saved else None
        self.first = saved["first"] if saved else None

    def current_inside(self) -> list[Any]:
        """Return the loops that have begun inside the current item."""
        position = self.position
        return [inner for inner in self.inside if inner.item == position]

    def left_inside(self) -> list[Moment]:
        """Return what is saved of loops inside the current item that have not begun in this run."""
        return self.saved["inside"] if self.saved is not None and self.position == self.start else []

    def join(self, inner: Place) -> None:
        """Take a loop in, which stands for what was saved of it from now on."""
        self.inside = [other for other in self.current_inside() if other is not inner]
        self.forget_saved(inner)
        self.inside.append(inner)

    def forget_saved(self, inner: Place) -> None:
        """Have nothing saved of a loop inside that has not begun."""
        if self.saved is not None:
            self.saved["inside"] = [saved for saved in self.saved["inside"] if saved["path"] != inner.path]

    def forget_tree(self) -> None:
        """Have nothing saved of this loop and of those inside."""
        self.set_saved(None)
        for inner in list(self.made):
            inner.forget_tree()

    def tree(self) -> Iterator[Any]:
        """Return this loop and all that have begun inside its current item."""
        yield self
        for inner in self.current_inside():
            yield from inner.tree()

    def is_rich(self) -> bool:
        """Whether anything is registered in the moment of which this is the host."""
        return any(place.states for place in self.tree()) or any(
            map(_has_files, (saved for place in self.tree() for saved in place.left_inside()))
        )

    def is_kept_when_over(self) -> bool:
        """Whether a record tells of it although its work is done, so that it is skipped where its item runs again."""
        return False

    def record(self, is_rich: bool, records: dict[Any, Moment], without: Place | None = None) -> Moment:
        """Return what a record says of this loop and those inside; `records` gets what it says of each."""
        inside = [inner for inner in self.current_inside() if inner is not without]
        kept = [inner for inner in inside if inner.state != OVER or is_rich or inner.is_kept_when_over()]
        records[self] = {
            "path": self.path,
            "length": self.length,
            "first": self.first,
            "finished": self.state in (ENDED, OVER),
            "files": {state.path: None for state in self.states},
            "position": self.position,
            "inside": [*self.left_inside(), *(inner.record(is_rich, records, without) for inner in kept)],
        }
        return records[self]

    def require_in_turn(self) -> None:
        """Raise where a loop around has moved on while one inside it is running: what is saved would be no moment."""
        outer: Place | None = self.parent
        inner: Place = self
        while outer is not None and outer.position == inner.item:
            inner, outer = outer, outer.parent
        running = [other for other in self.inside if other.state == RUNNING and other.item != self.position]
        if outer is None and running:
            outer, inner = self, running[0]
        if outer is not None or self.host.is_torn:
            self.host.is_torn = True
            name = (outer or self.host).name
            raise RestartError(
                f"{inner.name}: is inside an item of {name}, which has moved on meanwhile: the two take turns; count "
                "what is combined, counter(zip(a, b)), or give each a thread of its own"
            )


def _has_files(saved: Moment) -> bool:
    return bool(saved["files"]) or any(map(_has_files, saved["inside"]))

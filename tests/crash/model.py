"""Random programs made of the public API, and a model in memory of what must have run and what must be saved.

A program is a tree of loops. What a run of it does is a list of events: one in each item of an innermost loop, one at
the end of each item of the others; every event is noted, with the content of all registered objects, and then added
to each of them. One event of a run may stop it: by an exception, a kill, or a ``break`` of the loop it is in; before
or after the objects change.

The model is the contract in a few lines, without files: a save is an assignment. Where the contract leaves a choice,
the model has a ``Choice``, and a program must agree with one of them in all its runs.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .harness import Run, Stop


@dataclass
class Loop:
    """``mode``: plain (a with), each (a with and each_save), bare (each_save without with), simple (simple_counter)."""

    path: str
    size: int
    mode: str
    span: int
    objects: int
    inside: list[Loop] = field(default_factory=list)

    @property
    def each(self) -> bool:
        return self.mode != "plain"

    @property
    def with_block(self) -> bool:
        return self.mode in ("plain", "each")


@dataclass
class Program:
    loops: list[Loop]
    several: bool  # in a multi_count block


@dataclass(frozen=True)
class Plan:
    """Where a run stops: at which event, how, and whether the objects have changed by then."""

    event: int
    how: str
    changed: bool


class Killed(Exception):
    """In the model: the process is gone."""


# ------------------------------------------------------------------------------------------ random programs


def random_loop(chance: random.Random, depth: int, names: Iterator[int], joint: bool) -> Loop:
    mode = chance.choice(("plain", "each", "bare", "simple"))
    objects = 0 if mode == "simple" else chance.choice((0, 0, 1, 2))
    loop = Loop(f"{next(names)}.tmp", chance.choice((0, 1, 2, 2, 3, 4)), mode, chance.choice((1, 1, 2, 3)), objects)
    if depth and chance.random() < 0.6:
        inside = range(chance.choice((1, 1, 2)))
        loop.inside = [random_loop(chance, depth - 1, names, joint or bool(objects)) for _ in inside]
        loop.size = min(loop.size, 3)
    return loop


def random_program(chance: random.Random) -> Program:
    names = itertools.count()
    loops = [random_loop(chance, 2, names, False) for _ in range(chance.choice((1, 1, 2, 3)))]
    return Program(loops, chance.random() < 0.4)


def random_plan(chance: random.Random, events: int) -> Plan:
    return Plan(
        chance.randint(1, events), chance.choice(("stop", "stop", "kill", "kill", "break")), chance.random() < 0.5
    )


# -------------------------------------------------------------------------------------------- the real thing


def execute(run: Run, program: Program, plan: Plan | None) -> None:
    """Run the program with the library."""
    number = itertools.count(1)
    api = run.api

    def event(label: Any, objects: list[list[Any]], may_break: bool) -> bool:
        """Note it and change the objects; True for ``break``."""
        here = plan if plan and next(number) == plan.event else None
        run.item((label, tuple(map(tuple, objects))))
        if not (here and not here.changed):
            for one in objects:
                one.append(label)
        if here and here.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and here.how == "break" and may_break:
            return True
        if here:
            raise Stop("here")
        return False

    def items(loop: Loop, iterable: Any, around: tuple[Any, ...], objects: list[list[Any]], joint: bool) -> None:
        for i in iterable:
            label = (*around, (loop.path, i))
            for inner in loop.inside:
                whole(inner, label, objects, joint or bool(loop.objects))
            if event(label, objects, not joint):
                break

    def whole(loop: Loop, around: tuple[Any, ...], objects: list[list[Any]], joint: bool) -> None:
        path = run.folder / loop.path
        if loop.mode == "simple":
            items(loop, api.simple_counter(path, range(loop.size), save_span=loop.span), around, objects, joint)
            return
        counter = api.enable_counter(path, each_save=loop.each, save_span=loop.span)
        if loop.mode == "bare":
            mine = registered(counter, loop)
            items(loop, counter(range(loop.size)), around, objects + mine, joint)
            return
        with counter:
            mine = registered(counter, loop)
            items(loop, counter(range(loop.size)), around, objects + mine, joint)

    def registered(counter: Any, loop: Loop) -> list[list[Any]]:
        return [counter.save_load_object([], run.folder / f"{loop.path}.{n}.pickle") for n in range(loop.objects)]

    def everything() -> None:
        for loop in program.loops:
            whole(loop, (), [], False)

    if program.several:
        with api.multi_count():
            everything()
    else:
        everything()


# ------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Choice:
    """What the contract leaves open."""

    ended_counts: bool  # an inner loop with each_save that has ended in this item still rules what a failure saves
    end_is_saved: bool  # the end of an inner loop that does not save by itself is a save of the moment


CHOICES = [Choice(*flags) for flags in itertools.product((False, True), repeat=2)]


@dataclass
class Entry:
    """What is known of a loop: where it is, its objects, and the loops inside its current item."""

    loop: Loop
    position: int = 0
    ended: bool = False
    objects: list[list[Any]] = field(default_factory=list)
    inside: dict[str, Entry] = field(default_factory=dict)
    around: dict[str, int] = field(default_factory=dict)

    def copied(self) -> Entry:
        inside = {path: entry.copied() for path, entry in self.inside.items()}
        return replace(self, objects=[list(one) for one in self.objects], inside=inside, around=dict(self.around))

    def below(self) -> Iterator[Entry]:
        for entry in self.inside.values():
            yield entry
            yield from entry.below()


class Model:
    """Runs a program as `execute` does, and keeps the saves from run to run."""

    def __init__(self, program: Program, choice: Choice) -> None:
        self.program, self.choice = program, choice
        self.disk: dict[str, Entry] = {}
        self.trace: list[Any] = []

    def run(self, plan: Plan | None) -> str:
        """Return how the run ends; `trace` is what it does."""
        self.trace, self._plan, self._stack = [], plan, list[Entry]()
        try:
            for loop in self.program.loops:
                self._whole(loop, ())
        except Stop:
            return "stopped"
        except Killed:
            return "killed"
        if self.program.several:
            self.disk.clear()
        return "done"

    def _root(self) -> Entry | None:
        """The outermost running loop that has something registered."""
        return next((entry for entry in self._stack if entry.loop.objects), None)

    def _whole(self, loop: Loop, around: tuple[Any, ...]) -> None:
        joint = self._root() is not None
        entry = self._opened(loop, joint)
        if entry.ended:
            return
        self._stack.append(entry)
        try:
            broken = self._items(entry, around, joint)
        except Stop as stop:
            self._fail(entry, stop)
            raise
        finally:
            self._stack.pop()
        if not broken or loop.with_block:
            self._end(entry, joint)

    def _opened(self, loop: Loop, joint: bool) -> Entry:
        fresh = Entry(loop, 0, False, [[] for _ in range(loop.objects)])
        if joint:
            return self._stack[-1].inside.setdefault(loop.path, fresh)
        now = {entry.loop.path: entry.position for entry in self._stack}
        saved = self.disk.get(loop.path)
        if saved and any(saved.around.get(path, position) != position for path, position in now.items()):
            del self.disk[loop.path]  # out of date
            saved = None
        entry = saved.copied() if saved else fresh
        entry.around = now
        return entry

    def _items(self, entry: Entry, around: tuple[Any, ...], joint: bool) -> bool:
        loop = entry.loop
        for i in range(entry.position, loop.size):
            entry.position = i
            label = (*around, (loop.path, i))
            for inner in loop.inside:
                self._whole(inner, label)
            if self._event(label, not joint):
                return True
            entry.position = i + 1
            entry.inside.clear()
            if loop.each and (entry.position % loop.span == 0 or entry.position == loop.size):
                self._save()
        return False

    def _event(self, label: Any, may_break: bool) -> bool:
        objects = [one for entry in self._stack for one in entry.objects]
        self.trace.append((label, tuple(map(tuple, objects))))
        here = self._plan if self._plan and len(self.trace) == self._plan.event else None
        if not (here and not here.changed):
            for one in objects:
                one.append(label)
        if here and here.how == "kill":
            raise Killed
        if here and here.how == "break" and may_break:
            return True
        if here:
            stop = Stop("here")
            root = self._root()
            moment = self._stack[self._stack.index(root) :] if root else []
            ended = [*root.below()] if root and self.choice.ended_counts else []
            stop.each = any(entry.loop.each for entry in (*moment, *ended))  # type: ignore[attr-defined]
            raise stop
        return False

    def _save(self) -> None:
        """The innermost running loop saves: itself, or the whole moment."""
        entry = self._root() or self._stack[-1]
        self.disk[entry.loop.path] = entry.copied()
        if entry is self._stack[-1]:
            self._forget_inside(entry.loop)

    def _forget_inside(self, loop: Loop) -> None:
        for inner in loop.inside:
            self.disk.pop(inner.path, None)
            self._forget_inside(inner)

    def _fail(self, entry: Entry, stop: Any) -> None:
        """A ``with`` ends by an exception."""
        root = self._root()
        if not entry.loop.with_block or (root and stop.each):
            return
        saved = root or entry
        self.disk[saved.loop.path] = saved.copied()

    def _end(self, entry: Entry, joint: bool) -> None:
        """The end of the work of one loop."""
        entry.ended = True
        if joint:
            if entry.loop.each or self.choice.end_is_saved:
                root = self._root()
                assert root
                self.disk[root.loop.path] = root.copied()
            return
        self._forget_inside(entry.loop)
        if self.program.several:
            self.disk[entry.loop.path] = entry.copied()
        else:
            self.disk.pop(entry.loop.path, None)

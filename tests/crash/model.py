"""Random programs made of the public API, and a model in memory of what must have run and what must be saved.

A program is a tree of loops. What a run of it does is a list of events: one in each item of an innermost loop, one at
the end of each item of the others; every event is noted, with the content of all registered objects, and then added
to each of them. At some events a counter is told to ``save()``, at others the loop is left by ``break``. One event of
a run may stop it, by an exception or a kill, before or after the objects change.

The model is the contract in a few lines, without files. There is one kind of save: the *moment*, a copy of the tree of
loops from the outermost one that is running, the *host*, down; it is kept under the host's path. Where the contract
leaves a choice, the model has a ``Choice``, and a program must agree with one of them in all its runs.
"""

from __future__ import annotations

import contextlib
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
    block: bool = False  # the loops inside are in a multi_count block, one in each item

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
    """Where a run stops: at which event, how, and whether the objects have changed by then; what it does before."""

    event: int
    how: str
    changed: bool
    saves: frozenset[int]
    breaks: frozenset[int]


class Killed(Exception):
    """In the model: the process is gone."""


# ------------------------------------------------------------------------------------------ random programs


def random_loop(chance: random.Random, depth: int, names: Iterator[int], in_block: bool) -> Loop:
    mode = chance.choice(("plain", "each", "bare", "simple"))
    objects = 0 if mode == "simple" else chance.choice((0, 0, 0, 1, 2))
    span = 1 if mode == "plain" else chance.choice((1, 1, 2, 3))
    loop = Loop(f"{next(names)}.tmp", chance.choice((0, 1, 2, 2, 3, 4)), mode, span, objects)
    if depth and chance.random() < 0.6:
        loop.block = not in_block and chance.random() < 0.2
        inside = range(chance.choice((1, 1, 2, 2, 3)))
        loop.inside = [random_loop(chance, depth - 1, names, in_block or loop.block) for _ in inside]
        loop.size = min(loop.size, 3)
    return loop


def random_program(chance: random.Random) -> Program:
    names = itertools.count()
    several = chance.random() < 0.3
    loops = [random_loop(chance, 2, names, several) for _ in range(chance.choice((1, 1, 2, 3)))]
    return Program(loops, several)


def random_plan(chance: random.Random, events: int) -> Plan:
    def some() -> frozenset[int]:
        return frozenset(chance.choices(range(1, events + 1), k=chance.choice((0, 0, 0, 1, 2, 4))))

    return Plan(chance.randint(1, events), chance.choice(("stop", "kill")), chance.random() < 0.5, some(), some())


# -------------------------------------------------------------------------------------------- the real thing


def execute(run: Run, program: Program, plan: Plan | None) -> None:
    """Run the program with the library."""
    number = itertools.count(1)
    api = run.api

    def event(label: Any, objects: list[list[Any]], counter: Any) -> bool:
        """Note it and change the objects; True for ``break``."""
        n = next(number)
        here = plan if plan and n == plan.event else None
        run.item((label, tuple(map(tuple, objects))))
        if not (here and not here.changed):
            for one in objects:
                one.append(label)
        if plan and n in plan.saves and counter is not None:
            counter.save()
        if here and here.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if here:
            raise Stop("here")
        return plan is not None and n in plan.breaks

    def items(loop: Loop, counter: Any, iterable: Any, around: tuple[Any, ...], objects: list[list[Any]]) -> None:
        for i in iterable:
            label = (*around, (loop.path, i))
            with api.multi_count() if loop.block else contextlib.nullcontext():
                for inner in loop.inside:
                    whole(inner, label, objects)
            if event(label, objects, counter):
                break

    def whole(loop: Loop, around: tuple[Any, ...], objects: list[list[Any]]) -> None:
        path = run.folder / loop.path
        if loop.mode == "simple":
            items(loop, None, api.simple_counter(path, range(loop.size), save_span=loop.span), around, objects)
            return
        counter = api.enable_counter(path, each_save=loop.each, save_span=loop.span)
        with counter if loop.with_block else contextlib.nullcontext():
            mine = [counter.save_load_object([], run.folder / f"{loop.path}.{n}.pickle") for n in range(loop.objects)]
            items(loop, counter, counter(range(loop.size)), around, objects + mine)

    with api.multi_count() if program.several else contextlib.nullcontext():
        for loop in program.loops:
            whole(loop, (), [])


# ------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Choice:
    """What the contract leaves open."""

    ended_counts: bool  # a loop with each_save that has ended in this item, or was left, rules what a failure saves
    end_is_saved: bool  # the end of an inner loop, or of a block, that does not save by itself is a save of the moment


CHOICES = [Choice(*flags) for flags in itertools.product((False, True), repeat=2)]


@dataclass
class Entry:
    """What is known of a loop: where it is, its objects, and the loops inside its current item.

    `state` is made, or read from the disk; running, or failed; left, that is broken off without a ``with``; ended.
    """

    loop: Loop
    objects: list[list[Any]]
    position: int = 0
    state: str = "made"
    in_block: bool = False  # in a multi_count block that is not over
    owes: bool = False  # a loop inside was broken off at no boundary: the next one begins with a save
    inside: dict[str, Entry] = field(default_factory=dict)

    def tree(self) -> Iterator[Entry]:
        yield self
        for entry in self.inside.values():
            yield from entry.tree()

    def copied(self, skips: bool) -> Entry:
        """As it is saved. What has ended is in it only where it is skipped when its outer item runs again."""
        kept = (entry for entry in self.inside.values() if skips or entry.in_block or entry.state != "ended")
        inside = {entry.loop.path: entry.copied(skips) for entry in kept}
        state = "ended" if self.state == "ended" else "made"
        return replace(self, objects=[list(one) for one in self.objects], state=state, inside=inside)

    def end(self) -> None:
        """Its work is done."""
        self.state = "ended"
        self.inside.clear()


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
                self._whole(loop, (), self.program.several)
        except Stop:
            return "stopped"
        except Killed:
            return "killed"
        if self.program.several:
            self.disk.clear()
        return "done"

    def _whole(self, loop: Loop, around: tuple[Any, ...], in_block: bool) -> None:
        entry = self._opened(loop, in_block)
        if entry.state == "ended":
            return
        entry.state = "running"
        self._stack.append(entry)
        if len(self._stack) > 1 and self._stack[0].owes:
            self._save()
        try:
            broken = self._items(entry, around)
        except Stop:
            if loop.with_block:
                self._fail()
            raise
        else:
            if broken and loop.each and len(self._stack) > 1:
                self._stack[0].owes = True
            if broken and not loop.with_block:
                entry.state = "left"
            else:
                self._end(entry, broken)
        finally:
            self._stack.pop()

    def _opened(self, loop: Loop, in_block: bool) -> Entry:
        """The entry as it was saved, if all loops around it are at the items at which it was."""
        fresh = Entry(loop, [[] for _ in range(loop.objects)], in_block=in_block)
        if not self._stack:
            saved = self.disk.get(loop.path)
            return saved.copied(skips=True) if saved else fresh
        inside = self._stack[-1].inside
        for other in inside.values():
            if other.state == "left" and other.loop is not loop:
                other.end()
        return inside.setdefault(loop.path, fresh)

    def _items(self, entry: Entry, around: tuple[Any, ...]) -> bool:
        loop = entry.loop
        for i in range(entry.position, loop.size):
            entry.position = i
            label = (*around, (loop.path, i))
            for inner in loop.inside:
                self._whole(inner, label, self.program.several or loop.block or entry.in_block)
            if loop.block:
                self._end_block(entry)
            if self._event(label):
                return True
            entry.position = i + 1
            entry.inside.clear()
            if loop.each and (entry.position % loop.span == 0 or entry.position == loop.size):
                self._save()
        return False

    def _end_block(self, entry: Entry) -> None:
        """The work of all loops in a ``multi_count`` block is done; a moment no longer skips them."""
        for inside in entry.inside.values():
            inside.end()
            inside.in_block = False
        if self.choice.end_is_saved or any(inner.each for inner in entry.loop.inside):
            self._save()

    def _event(self, label: Any) -> bool:
        objects = [one for entry in self._stack for one in entry.objects]
        self.trace.append((label, tuple(map(tuple, objects))))
        n, plan = len(self.trace), self._plan
        here = plan if plan and n == plan.event else None
        if not (here and not here.changed):
            for one in objects:
                one.append(label)
        if plan and n in plan.saves and self._stack[-1].loop.mode != "simple":
            self._save()
        if here and here.how == "kill":
            raise Killed
        if here:
            raise Stop("here")
        return plan is not None and n in plan.breaks

    def _save(self) -> None:
        """Save the moment."""
        host = self._stack[0]
        host.owes = False
        self.disk[host.loop.path] = host.copied(self._is_registered())

    def _is_registered(self) -> bool:
        return any(entry.objects for entry in self._stack[0].tree())

    def _fail(self) -> None:
        """A ``with`` ends by an exception: all as it is, unless objects are halfway through an item of a boundary."""
        states = {"running", "left", "ended"} if self.choice.ended_counts else {"running"}
        has_boundary = any(entry.loop.each for entry in self._stack[0].tree() if entry.state in states)
        if not (has_boundary and self._is_registered()):
            self._save()

    def _end(self, entry: Entry, broken: bool) -> None:
        """The end of the work of one loop. One that was broken off is at no boundary."""
        entry.end()
        if len(self._stack) > 1:
            if (entry.loop.each and not broken) or self.choice.end_is_saved:
                self._save()
        elif self.program.several:
            self._save()
        else:
            self.disk.pop(entry.loop.path, None)

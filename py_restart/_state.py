"""What is saved beside the position: objects, and what functions of the user write."""

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace

from . import _files
from ._errors import RestartError, warn
from ._lock import locks
from ._scope import opened
from ._typing import Any

_NUMBERS = (int, float, complex)
_SETTINGS = (bool, str, bytes, type(None))  # more often than what a loop computes
_FIXED = (*_NUMBERS, *_SETTINGS)
_ROWS = (str, bytes, tuple)  # of what cannot be changed
_LONG = 10_000  # items of a row that hardly stands in the code, and costs memory to copy
users: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # who has registered which path


def require_free(path: str, name: str, progress: str) -> None:
    """Raise where something else in this program uses a path than the loop with this progress file."""
    user: Any = users.get(path)
    is_used = user is not None and (user.storage.is_held or user.block in opened) and not user.is_past
    if (is_used and user.path != progress) or (path in locks and path != progress):
        raise RestartError(f"{name}: in use for something else in this program; give it a path of its own")


def warn_of_lost(nodes: list[Any]) -> None:
    """Warn, once, of each object of these loops that nobody can be changing, at the first save after an item.

    An item of a loop is one of those around it as well: they come first.
    """
    for depth, node in enumerate(nodes):
        states = [state for state in node.states if not state.is_judged]
        is_begun = states and any(one.position > one.start for one in nodes[depth:])
        for state in filter(Object.is_out_of_reach, states if is_begun else ()):
            state.is_judged = True
            objects = [one for one in node.states if isinstance(one, Object)]
            if state is objects[-1] and node.driven_by.reaches("object"):
                continue  # by `counter.object`, perhaps in a later item
            what = f"nobody but {node.name} refers to this object any more, or to a part of it: no change can be saved"
            if state.constants:
                what = f"this {state.constants[0]!r} was never assigned, so it stays what is saved"
            way_out = "change in place what was returned, or assign to counter.object, which is the one registered last"
            warn(f"{state.path}: {what}: {way_out}")


class Object:
    """An object that is pickled to its path. What is saved is what `value` is at that time."""

    is_contained = False  # it is staged as a file beside its place
    constants: Sequence[Any] = ()  # what it is, or a number in it, that nobody can change
    advice = "bring back the class, or the version of a library, that it was saved with"  # where it cannot be loaded

    def __init__(self, value: Any, path: str, given: str | os.PathLike[str]) -> None:
        self.value, self.path, self.name = value, path, os.fspath(given)
        self.is_judged = False  # whether it was judged, or the program has reached it through `counter.object`

    def save(self, path: str) -> None:
        _files.create(path, self._pickle, mode=_files.mode_beside(self.path))

    def load(self) -> None:
        import pickle

        with open(self.path, "rb") as file:
            self.value = pickle.load(file)

    def rehearse(self) -> None:
        """Find out before the loop what cannot be pickled. A literal becomes a new one: the code refers to it."""
        if type(self.value) in _NUMBERS:
            self.value = -(-self.value)  # noqa: B002
        elif type(self.value) in _ROWS and len(self.value) < _LONG:
            self.value = self.value[:1] + self.value[1:]
        self._pickle(lambda data: None)

    def _pickle(self, write: Callable[[memoryview], None]) -> None:
        """Hand the pickle to `write`, part by part; a file of Python's own would look at what it has opened first."""
        import pickle

        # An array comes as a buffer of its own items, in its own order: what is written is bytes.
        file: Any = SimpleNamespace(write=lambda data: write(pickle.PickleBuffer(data).raw()))
        pickle.Pickler(file, pickle.HIGHEST_PROTOCOL).dump(self.value)

    @property
    def is_mutable(self) -> bool:
        hashing: Any = type(self.value).__hash__  # what has its own is made to be a key
        return hashing in (None, object.__hash__)

    def is_out_of_reach(self) -> bool:
        """Whether nobody can be changing the object, or one of its parts: it has no more references than a new one."""
        fresh = Object([object()], "", "")
        self.constants = [self.value] if _is_constant(self.value) else []
        if self.constants or sys.getrefcount(self.value) > sys.getrefcount(fresh.value):
            return bool(self.constants)
        if self._fewest_references() <= fresh._fewest_references():
            return True
        self.constants = [part for part in self._parts() if type(part) is int and _is_constant(part)]
        self.is_judged = not self.constants  # there may be many parts: where one is in reach, they are looked at once
        return not self.is_judged

    def _fewest_references(self) -> int:
        if all(type(part) in _FIXED for part in self._parts()):
            return 0  # each may be that of the code
        return min(sys.getrefcount(part) for part in self._parts() if type(part) not in _SETTINGS)

    def _parts(self) -> Iterable[Any]:
        """Return its parts, such as `model` where `model, step = save_load_object(...)`."""
        if type(self.value).__module__ == "numpy":
            return [getattr(self.value, "base", None)]  # what shows a part of one that was loaded refers to that
        parts: Iterable[Any] = self.value.values() if isinstance(self.value, dict) else self.value
        return parts if isinstance(self.value, tuple | list | dict) else ()


def _is_constant(value: Any) -> bool:
    """Whether Python has but one of it (0, 1, None, "", ...): it has many references, and is out of reach."""
    is_only = type(value) in (bool, type(None)) or (type(value) in _ROWS and not value)
    return is_only or (type(value) is int and int(hex(value), 16) is value)


class Functions:
    """A function that saves to its path, and one that loads from it. Paths are handed to them as `given` was."""

    is_judged = True  # who can tell what a function reads?
    is_contained = True  # it is staged in a folder: the functions are promised the name of the file
    advice = "mend the function that loads it, or bring back the version of a library that it was saved with"

    def __init__(self, saver: Any, loader: Any, path: str, given: str | os.PathLike[str]) -> None:
        self.path, self.name = path, os.fspath(given)
        as_given: Any = str
        if not isinstance(given, str):
            from pathlib import Path as as_given
        self.save = lambda place: saver(as_given(place))
        self.load = lambda: loader(as_given(path))

    def rehearse(self) -> None: ...  # what a function writes is known when it has written it

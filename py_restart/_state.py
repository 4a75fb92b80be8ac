"""What is saved beside the position: objects, and what functions of the user write."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable

from ._errors import RestartError, warn
from ._lock import is_locked_here
from ._typing import Any

users: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # who has registered which path


def require_free(path: str, name: str, is_progress: bool) -> None:
    """Raise where something else in this program uses a path."""
    user = users.get(path)
    if (user is not None and user.is_current) or (not is_progress and is_locked_here(path)):
        raise RestartError(f"{name}: in use for something else in this program; give it a path of its own")


def warn_of_lost(node: Any) -> None:
    """Warn of objects that nobody can be changing, at the first save after an item, before it counts."""
    nodes = [node]
    while nodes[-1].parent is not None:
        nodes.append(nodes[-1].parent)
    if any(one.position > one.start for one in nodes):
        for state in [state for one in nodes for state in one.states if state.is_out_of_reach()]:
            warn(
                f"{state.path}: nobody but {node.name} refers to this object any more, so no change of it can be "
                "saved: change in place what was returned, or assign the new value to counter.object"
            )


class Object:
    """An object that is pickled to its path. What is saved is what `value` is at that time."""

    is_contained = False  # it is staged as a file beside its place

    def __init__(self, value: Any, path: str, name: str) -> None:
        self.value, self.path, self.name = value, path, name
        self.is_reached = False  # by the program, through `counter.object`: read or assigned
        self.is_judged = False

    def save(self, path: str) -> None:
        """Pickle the object to a new file."""
        import pickle

        with open(path, "xb") as file:
            pickle.dump(self.value, file, pickle.HIGHEST_PROTOCOL)

    def load(self) -> None:
        """Unpickle the object from its path."""
        import pickle

        with open(self.path, "rb") as file:
            self.value = pickle.load(file)

    def rehearse(self) -> None:
        """Pickle the object to nowhere, so that what cannot be pickled is known before the loop and not after it.

        Of a number a new one, that is equal, is held from now on: a literal is referred to by the code as well.
        """
        import pickle

        if type(self.value) in _NUMBERS:
            self.value = pickle.loads(pickle.dumps(self.value))
        else:
            pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(self.value)

    def is_out_of_reach(self) -> bool:
        """Whether nobody can be changing the object; tells so once.

        The references to it are compared with those to a new object that is held in the same way. Numbers that Python
        keeps (0, 1, ...) have many: they are out of reach as long as none was assigned to `counter.object`.
        """
        if self.is_reached or self.is_judged:
            return False
        self.is_judged = True
        fresh = Object((object(),), "", "")
        if sys.getrefcount(self.value) <= sys.getrefcount(fresh.value):
            parts = self.value if type(self.value) is tuple else ()  # model, optimizer = save_load_object(...)
            alone = max(sys.getrefcount(part) for part in fresh.value)
            return not any(sys.getrefcount(part) > alone and type(part) not in _FIXED for part in parts)
        return isinstance(self.value, bool) or (type(self.value) is int and int(hex(self.value), 16) is self.value)


class Functions:
    """A function that saves to its path, and one that loads from it. `as_given` makes a path of the user's type."""

    is_contained = True  # it is staged in a folder: the functions are promised the name of the file

    def __init__(
        self,
        saver: Callable[[Any], object],
        loader: Callable[[Any], object],
        path: str,
        name: str,
        as_given: Callable[[str], Any],
    ) -> None:
        self.saver, self.loader, self.path, self.name, self.as_given = saver, loader, path, name, as_given

    def save(self, path: str) -> None:
        """Have the user's function write to `path`."""
        self.saver(self.as_given(path))

    def load(self) -> None:
        """Have the user's function read its path."""
        self.loader(self.as_given(self.path))

    def rehearse(self) -> None:
        """Do nothing: what a function writes is known when it has written it."""

    def is_out_of_reach(self) -> bool:
        """Whether nobody can be changing what it saves, which cannot be known."""
        return False


_NUMBERS = (int, float, complex)
_FIXED = (*_NUMBERS, bool, str, bytes, type(None))


class _Nowhere:
    def write(self, data: bytes | os.PathLike[str]) -> int:
        return 0

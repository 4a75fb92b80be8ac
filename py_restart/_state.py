"""What is saved beside the position: objects, and what functions of the user write."""

from __future__ import annotations

import os
from collections.abc import Callable

from ._files import DigestingFile
from ._progress import Stamp

__all__ = ["Functions", "Object"]

TYPE_CHECKING = False  # to import `typing` takes as long as to import all the rest
if TYPE_CHECKING:
    from typing import Any


class Object:
    """An object that is pickled to its path. What is saved is what `value` is at that time."""

    def __init__(self, value: Any, path: str) -> None:
        self.value, self.path = value, path

    def save(self, path: str) -> Stamp:
        """Pickle the object to `path`, flushed."""
        import pickle

        with DigestingFile(path) as file:
            pickle.dump(self.value, file, pickle.HIGHEST_PROTOCOL)
        return file.stamp

    def load(self) -> None:
        """Unpickle the object from its path."""
        import pickle

        with open(self.path, "rb") as file:
            self.value = pickle.load(file)

    def rehearse(self) -> None:
        """Pickle the object to nowhere, so that what cannot be pickled is known before the loop and not after it."""
        import pickle

        pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(self.value)


class Functions:
    """A function that saves to its path, and one that loads from it. `as_given` makes a path of the user's type."""

    def __init__(
        self,
        saver: Callable[[Any], object],
        loader: Callable[[Any], object],
        path: str,
        as_given: Callable[[str], Any],
    ) -> None:
        self.saver, self.loader, self.path, self.as_given = saver, loader, path, as_given

    def save(self, path: str) -> None:
        """Have the user's function write to `path`."""
        self.saver(self.as_given(path))

    def load(self) -> None:
        """Have the user's function read its path."""
        self.loader(self.as_given(self.path))

    def rehearse(self) -> None:
        """Do nothing: what a function writes is known when it has written it."""


class _Nowhere:
    def write(self, data: bytes | os.PathLike[str]) -> int:
        return 0

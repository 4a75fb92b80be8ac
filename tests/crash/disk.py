"""A model of a disk that loses power: from the file operations of a job to the states in which the folder may be found.

The rules are the weakest that the file systems people use have in common, so that what passes here passes there:

1. What was written to a file is safe when the file has been flushed, and not before: "fsync() transfers all modified
   in-core data ... to the disk device" (fsync(2)). Each write that was not flushed may be lost, kept, or cut in the
   middle, whatever became of the others: write-back is in no order (POSIX, fsync(), rationale). A file that grew may
   have its new length and zeros for its content (ext4 delayed allocation: ``auto_da_alloc`` in
   https://docs.kernel.org/admin-guide/ext4.html; XFS FAQ, "Why do I see binary NULLS in some files after recovery").
   Bytes that no write touched keep their content (the "powersafe overwrite" of https://www.sqlite.org/psow.html).
2. A name is safe when its folder has been flushed: "Calling fsync() does not necessarily ensure that the entry in the
   directory containing the file has also reached disk. For that an explicit fsync() on a file descriptor for the
   directory is also needed" (fsync(2)). Until then each creation, renaming and removal may have happened or not,
   whatever became of the others. Journaling file systems keep more order than that; T. S. Pillai et al., "All File
   Systems Are Not Created Equal", OSDI 2014, section 3, found some that do not.
3. One rename is one change, in both folders: it has happened or it has not (rename(2): "there will be no point at which
   another process ... will find it missing"; ext4, XFS and btrfs log it in one transaction). It is safe when
   one of the two folders has been flushed after it.
4. Order is kept across a flush alone: what was flushed is there, whatever became of what came after it. So the
   removal of an emptied folder may be on the disk while the renaming that emptied it is not, and what was in it is
   lost. ``EMPTIED_FIRST`` is for file systems that keep that order; it is off.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .harness import CHANGES, FLUSHES, WRITING, is_in_place, is_lock, opener, rebind, taken_by_name

ROOT = 0
EMPTIED_FIRST = False
Content = dict[str, "bytes | None"]
Event = tuple[Any, ...]
Folders = dict[int, dict[str, int]]  # by node: what is in it, name -> node


class Recorder:
    """Writes down each file operation of this process below a folder, in its order, by node numbers instead of names.

    Events: ``create``, ``mkdir`` (folder, name, node), ``unlink`` (folder, name), ``rename`` (folder, name, folder,
    name, node), ``write`` (node, offset, data), ``size`` (node, size), ``flush`` (node), ``mark`` (anything).

    It begins with what is on the disk, of which the runs before have recorded how it came there. Where
    ``renames_folders`` is false, none but a staged one is renamed, as in the lower layer of an overlay.
    """

    def __init__(self, folder: Path, disk: Disk, renames_folders: bool = True) -> None:
        self.root = os.path.realpath(folder)
        self.folders = disk.now()[1]
        self.events: list[Event] = []
        self._renames_folders = renames_folders
        self._numbers = itertools.count(1 + disk.last)
        self._open: dict[int, int] = {}  # descriptor -> node
        self._lock = threading.RLock()

    def mark(self, what: Any) -> None:
        with self._lock:
            self.events.append(("mark", what))

    def _new(self, kind: str, folder: int, name: str) -> int:
        node = self.folders[folder][name] = next(self._numbers)
        if kind == "mkdir":
            self.folders[node] = {}
        self.events.append((kind, folder, name, node))
        return node

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str]:
        """The folder's node and the name in it; of a path elsewhere, and of a lock file, (-1, "").

        Whether a lock file is there says nothing, and it would double the number of states.
        """
        path = os.fspath(path)
        if dir_fd is not None:
            return self._open.get(dir_fd, -1), path
        parent, base = os.path.split(os.path.abspath(path))
        parent = os.path.realpath(parent)
        if os.path.join(parent, base) == self.root:
            return ROOT, "."
        if is_lock(base) or (parent != self.root and not parent.startswith(self.root + os.sep)):
            return -1, ""
        node = ROOT
        for part in os.path.relpath(parent, self.root).split(os.sep):
            node = node if part == "." else self.folders[node][part]
        return node, base

    def _node(self, path: Any, dir_fd: int | None = None) -> int | None:
        folder, name = self._place(path, dir_fd)
        return folder if name == "." else self.folders[folder].get(name) if folder >= 0 else None

    def install(self) -> None:
        """Replace the calls, in a child, for good."""
        taken = taken_by_name()
        for name in (*CHANGES, *FLUSHES, "open", "close", "dup"):
            if hasattr(os, name):
                setattr(os, name, self._recorded(name, getattr(os, name)))
        builtins.open = io.open = opener(self._file)
        rebind(taken)

    def _recorded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        record = getattr(self, {"open": "_open_file"}.get(name, f"_{name}"), None)

        def call(*args: Any, **named: Any) -> Any:
            with self._lock:
                if record is None:
                    raise NotImplementedError(f"os.{name}: the model does not know it")
                return record(real, *args, **named)

        return call

    def _file(self, name: str, call: Callable[[], Any], *what: Any) -> Any:
        """What a file object of ``open`` does."""
        with self._lock:
            result = call()
            if name == "open":
                self._opened(result.fileno(), what[0], what[1][0] in "wax", "w" in what[1])
            elif name == "write" and what[0] in self._open:
                self.events.append(("write", self._open[what[0]], what[1], bytes(what[2])[:result]))
            elif name == "close":
                self._open.pop(what[0], None)
            elif name == "truncate":
                raise NotImplementedError("truncate: the model does not know it")
            return result

    def _opened(self, fd: int, path: Any, create: bool, cut: bool, dir_fd: int | None = None) -> None:
        self._open.pop(fd, None)
        folder, name = self._place(path, dir_fd)
        if folder < 0:
            return
        node = self._node(path, dir_fd)
        if node is None and create:
            node = self._new("create", folder, name)
        elif cut and node is not None:
            self.events.append(("size", node, 0))
        if node is not None:
            self._open[fd] = node

    def _open_file(self, real: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real(path, flags, mode, dir_fd=dir_fd)
        self._opened(fd, path, bool(flags & os.O_CREAT), bool(flags & os.O_TRUNC and flags & WRITING), dir_fd)
        return fd

    def _close(self, real: Any, fd: int) -> None:
        self._open.pop(fd, None)
        real(fd)

    def _dup(self, real: Any, fd: int) -> int:
        copy = real(fd)
        self._open.pop(copy, None)
        if fd in self._open:
            self._open[copy] = self._open[fd]
        return copy

    def _write(self, real: Any, fd: int, data: Any) -> int:
        offset = os.lseek(fd, 0, os.SEEK_CUR) if fd in self._open else 0
        size = real(fd, data)
        if fd in self._open:
            self.events.append(("write", self._open[fd], offset, bytes(data)[:size]))
        return size

    def _pwrite(self, real: Any, fd: int, data: Any, offset: int) -> int:
        size = real(fd, data, offset)
        if fd in self._open:
            self.events.append(("write", self._open[fd], offset, bytes(data)[:size]))
        return size

    def _ftruncate(self, real: Any, fd: int, size: int) -> None:
        real(fd, size)
        if fd in self._open:
            self.events.append(("size", self._open[fd], size))

    def _fsync(self, real: Any, fd: int) -> None:
        if fd in self._open:
            self.events.append(("flush", self._open[fd]))

    _fdatasync = _fsync

    def _rename(self, real: Any, old: Any, new: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
        if not self._renames_folders and is_in_place(old):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        source, name = self._place(old, src_dir_fd)
        target, base = self._place(new, dst_dir_fd)
        if source >= 0 and target >= 0:
            node = self.folders[target][base] = self.folders[source].pop(name)
            self.events.append(("rename", source, name, target, base, node))

    _replace = _rename

    def _unlink(self, real: Any, path: Any, *, dir_fd: int | None = None) -> None:
        real(path, dir_fd=dir_fd)
        folder, name = self._place(path, dir_fd)
        if folder >= 0:
            del self.folders[folder][name]
            self.events.append(("unlink", folder, name))

    _remove = _rmdir = _unlink

    def _mkdir(self, real: Any, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        folder, name = self._place(path, dir_fd)
        if folder >= 0:
            self._new("mkdir", folder, name)


class _File:
    """A file: what is safe, and what was written since."""

    def __init__(self) -> None:
        self.safe = b""
        self.pending: list[tuple[str, int, bytes]] = []
        self._known: tuple[int, list[bytes]] = (-1, [])

    def variants(self) -> list[bytes]:
        """What it may hold after a power cut: all kept comes first, all lost comes second."""
        if self._known[0] != len(self.pending):
            self._known = len(self.pending), self._variants()
        return self._known[1]

    def _variants(self) -> list[bytes]:
        pending = self.pending
        if not pending:
            return [self.safe]
        found = [self._with(pending), self.safe]
        for n in range(len(pending)):
            found.append(self._with(pending[:n]))
            found.append(self._with(pending[:n] + pending[n + 1 :]))
            kind, offset, data = pending[n]
            if kind == "write":
                for cut in {1, len(data) // 2, len(data) - 1}:
                    found.append(self._with([*pending[:n], (kind, offset, data[:cut])]))
                    found.append(self._with([*pending[:n], (kind, offset, data[:cut]), *pending[n + 1 :]]))
        found.append(self.safe.ljust(len(found[0]), b"\0"))
        return list(dict.fromkeys(found))

    def _with(self, writes: list[tuple[str, int, bytes]]) -> bytes:
        data = bytearray(self.safe)
        for kind, offset, new in writes:
            if kind == "size":
                del data[offset:]
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(new)] = new
        return bytes(data)

    def flush(self) -> None:
        self.safe = self._with(self.pending)
        self.pending.clear()
        self._known = (-1, [])


class Disk:
    """Takes events one by one, and gives the states that a power cut may leave at this moment."""

    def __init__(self, seed: int = 0) -> None:
        self._files: dict[int, _File] = {}
        self._changes: list[tuple[tuple[int, ...], list[tuple[int, str, int | None]], bool]] = []
        self._folders = {ROOT}
        self._chance = random.Random(seed)

    def take(self, event: Event) -> None:
        kind, *what = event
        if kind in ("create", "mkdir"):
            folder, name, node = what
            if kind == "create":
                self._files[node] = _File()
            else:
                self._folders.add(node)
            self._change((folder,), [(folder, name, node)])
        elif kind == "unlink":
            self._change((what[0],), [(what[0], what[1], None)])
        elif kind == "rename":
            source, name, target, base, node = what
            self._change((source, target), [(source, name, None), (target, base, node)])
        elif kind == "write":
            self._files[what[0]].pending.append(("write", what[1], what[2]))
        elif kind == "size":
            self._files[what[0]].pending.append(("size", what[1], b""))
        elif kind == "flush" and what[0] in self._files:
            self._files[what[0]].flush()
        elif kind == "flush":
            self._changes = [(near, made, safe or what[0] in near) for near, made, safe in self._changes]

    def _change(self, folders: tuple[int, ...], made: list[tuple[int, str, int | None]]) -> None:
        self._changes.append((folders, made, False))

    @property
    def last(self) -> int:
        """The highest number of a node, whether it is still there or not."""
        return max([*self._files, *self._folders])

    def now(self) -> tuple[Content, Folders]:
        """What is there for all who look, on the device or not: what a kill leaves."""
        names = self._names(set())
        reached = dict(self._walk(names, ROOT, ""))
        content = {
            name: self._files[node].variants()[0] if node in self._files else None for name, node in reached.items()
        }
        folders = {
            folder: {name: node for name, node in inside.items() if node is not None}
            for folder, inside in names.items()
        }
        return content, folders

    def _names(self, missing: set[int]) -> dict[int, dict[str, int | None]]:
        """What is in each folder where these changes are lost."""
        names: dict[int, dict[str, int | None]] = {folder: {} for folder in self._folders}
        for n, (_, made, _) in enumerate(self._changes):
            if n not in missing:
                for folder, name, node in made:
                    names[folder][name] = node
        return names

    def states(self) -> Iterator[Content]:
        """Each state: all of them where they are few, else the extremes, the single differences and some at random."""
        open_changes = [n for n, (_, _, safe) in enumerate(self._changes) if not safe]
        for lost in self._choices(len(open_changes)):
            missing = {open_changes[n] for n in lost}
            if EMPTIED_FIRST:
                missing = self._with_what_emptied(missing)
            reached = dict(self._walk(self._names(missing), ROOT, ""))
            files = [node for node in reached.values() if node in self._files]
            for choice in self._mixtures([self._files[node].variants() for node in files]):
                content = dict(zip(files, choice, strict=True))
                yield {name: content.get(node) for name, node in reached.items()}

    def _with_what_emptied(self, missing: set[int]) -> set[int]:
        """Where a folder is removed, nothing that was done in it before is missing."""
        names: dict[tuple[int, str], int | None] = {}
        for n, (_, made, _) in enumerate(self._changes):
            removed = {names.get((folder, name)) for folder, name, node in made if node is None} & self._folders
            names.update({(folder, name): node for folder, name, node in made})
            if removed and n not in missing and len(made) == 1:
                missing = {m for m in missing if m > n or not removed & set(self._changes[m][0])}
        return missing

    def _walk(self, names: dict[int, dict[str, int | None]], folder: int, prefix: str) -> Iterator[tuple[str, int]]:
        for name, node in names[folder].items():
            if node is not None:
                yield prefix + name, node
                if node in self._folders:
                    yield from self._walk(names, node, f"{prefix}{name}/")

    def _choices(self, number: int) -> Iterator[set[int]]:
        """Which of the changes of names are lost."""
        everything = range(number)
        if number <= 4:
            for size in range(number + 1):
                yield from map(set, itertools.combinations(everything, size))
            return
        for n in everything:
            yield set(everything[n:])
            yield {n}
            yield {*everything} - {n}
        for _ in range(8):
            yield {n for n in everything if self._chance.random() < 0.5}
        yield set()

    def _mixtures(self, variants: list[list[bytes]]) -> Iterator[tuple[bytes, ...]]:
        """Which content each file has."""
        kept = tuple(options[0] for options in variants)
        yield kept
        yield tuple(options[1 % len(options)] for options in variants)
        for n, options in enumerate(variants):
            for option in options[1:]:
                yield (*kept[:n], option, *kept[n + 1 :])
        if sum(len(options) > 1 for options in variants) > 1:
            for _ in range(4):
                yield tuple(self._chance.choice(options) for options in variants)

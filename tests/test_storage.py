"""What is on disk: the lock, the write in place, the commit in its order, recovery, removal, what is never touched."""

import contextlib
import errno
import gc
import importlib.util
import json
import os
import pickle
import sys
import threading
import warnings
from pathlib import Path

import pytest

from py_restart import RestartError, _files, _storage, enable_counter, simple_counter
from py_restart._progress import RECORD_SIZE
from py_restart._storage import Storage


class Stop(Exception):
    """How a job is interrupted."""


def opened(path="run", **loop):
    """Open a storage as a counter does."""
    return Storage(os.path.abspath(path), path, {"finished": False, **loop})


def writer(text):
    """Return a function that writes a text to a path, and returns no stamp of it."""

    def write(path):
        Path(path).write_text(text)

    return write


def commit(storage, position, **texts):
    """Save a position and a text for each name."""
    storage.commit(position, {os.path.abspath(name): writer(text) for name, text in texts.items()})


def texts():
    """Return what is in each file beside the progress file."""
    return {path.name: path.read_text() for path in Path().iterdir() if path.name != "run"}


def again(path="run"):
    """Open the file as the next process would: nothing of this one is left."""
    for storage in list(_storage._opened.values()):
        storage._process = -1  # as in a forked child: it lets go without a word
        storage._close()
    return opened(path)


@pytest.fixture
def calls(folder, monkeypatch):
    """Record the calls that change or flush files, in their order: ("fsync", name), ("replace", name) ..."""
    gc.collect()  # what an earlier test left in cycles ends its own files now, not among these calls
    made, real = [], {name: getattr(os, name) for name in ("open", "mkdir", "replace", "rename", "unlink", "pwrite")}
    names = {}

    def base(path):
        return os.path.relpath(path, folder)

    def opening(path, *more, **options):
        file = real["open"](path, *more, **options)
        names[file] = base(path)
        return file

    def note(name):
        def call(path, *more):
            made.append((name, names.get(path) if isinstance(path, int) else base(path)))
            return real[name](path, *more)

        return call

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", lambda file: made.append(("fsync", names.get(file))))
    for name in ("mkdir", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, note(name))
    monkeypatch.setattr(_files, "write_at", note("pwrite"))
    return made


def plain(calls):
    """Name the hidden folders alike, whatever the id of their progress file."""
    return [(call, "STAGED/" + name.split("/")[-1] if "-" in name else name) for call, name in calls]


# The write in place.


def test_a_position_is_one_small_write_to_an_open_file(folder, calls):
    """The file keeps its size and its identity; nothing is opened, flushed or replaced."""
    storage = opened()
    storage.write(1)
    storage.write(2)
    before = os.stat("run")
    storage._due = float("inf")  # no flush comes between, however slow the machine is
    calls.clear()
    for position in range(3, 500):
        storage.write(position)
    assert set(calls) == {("pwrite", "run")} and len(calls) == 497
    after = os.stat("run")
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert again().position == 499


def test_the_first_save_is_flushed_before_it_counts(folder, calls):
    """The file that carries the lock is not on the device yet: a power failure must find all of it or nothing."""
    storage = opened()
    assert not any(call == "fsync" for call, _ in calls)
    calls.clear()
    storage.write(1)
    assert calls[:3] == [("fsync", ".run.staged"), ("replace", ".run.staged"), ("fsync", ".")]


def test_a_position_is_flushed_once_a_second(folder, calls, monkeypatch):
    """With the save that comes more than a second after the last flush."""
    now = [100.0]
    monkeypatch.setattr(_storage.time, "monotonic", lambda: now[0])
    storage = opened()
    storage.write(1)
    calls.clear()
    flushed = []
    for position in range(2, 40):
        now[0] += 0.1
        descriptor = storage._writer
        storage.write(position)
        if ("fsync", "run") in calls:
            flushed.append(position)
            assert descriptor is not None
        calls.clear()
    assert flushed in ([12, 23, 34], [11, 21, 31])


def test_the_record_on_the_device_is_not_touched_before_the_next_one_is_there(folder, monkeypatch):
    """Between two flushes one record is overwritten again and again, and the other stays as it was flushed."""
    storage = opened()
    storage.write(1)
    for base in (10, 20, 30):
        storage.flush()
        flushed = Path("run").read_bytes()[-2 * RECORD_SIZE :]
        slots = {0, 1}
        for position in range(base, base + 3):
            storage.write(position)
            now = Path("run").read_bytes()[-2 * RECORD_SIZE :]
            slots &= {
                n for n in (0, 1) if now[n * RECORD_SIZE :][:RECORD_SIZE] == flushed[n * RECORD_SIZE :][:RECORD_SIZE]
            }
        assert len(slots) == 1
        newest = max(flushed.split(b"position ")[1:], key=lambda record: int(record.split()[0]))
        assert newest in now


def test_flushing_closes_and_reopens_the_file(folder, monkeypatch):
    """For folders that publish a file on closing."""
    closed = []
    close = os.close
    storage = opened()
    storage.write(1)
    storage.write(2)
    writing = storage._writer
    monkeypatch.setattr(os, "close", lambda file: (closed.append(file), close(file)))
    storage.flush()
    assert writing in closed
    storage.write(3)
    assert storage._writer is not None


def test_the_size_of_the_file_is_constant(folder):
    """However long the loop."""
    storage = opened()
    storage.write(1)
    size = os.path.getsize("run")
    for position in (10, 10**6, 10**12):
        storage.write(position)
        storage.flush()
        assert os.path.getsize("run") == size


# The commit.


def test_the_order_of_a_commit(folder, calls):
    """Staged beside its final path, flushed with its folders, published by one replacement, settled last."""
    storage = opened()
    commit(storage, 1, a="one")
    calls.clear()
    commit(storage, 2, a="two")
    assert plain(calls)[:9] == [
        ("mkdir", "STAGED/" + plain(calls)[0][1].split("/")[-1]),
        ("fsync", "STAGED/a"),
        ("fsync", plain(calls)[2][1]),  # the hidden folder: the name of what is in it
        ("fsync", "."),  # the name of the hidden folder
        ("fsync", ".run.staged"),
        ("replace", ".run.staged"),
        ("fsync", "."),
        ("rename", "a"),
        ("rename", "STAGED/a"),
    ]
    assert calls[2][1] == calls[0][1]
    assert texts() == {"a": "two"}


def test_a_path_is_named_in_the_progress_file_before_anything_is_made_there(folder, calls):
    """Else a kill would leave a hidden folder that nobody knows of."""
    storage = opened()
    seen = []
    storage.commit(0, {os.path.abspath("a"): lambda path: seen.append(Path("run").read_text()) or Path(path).touch()})
    assert json.loads(seen[0].splitlines()[0])["files"] == {"a": None}


def test_renaming_is_on_the_device_before_the_next_save_counts(folder, calls):
    """The next replacement takes away what the one before could be rolled forward from."""
    other = folder / "other"
    other.mkdir()
    storage = opened()
    storage.commit(1, {str(other / "a"): writer("one")})
    calls.clear()
    storage.commit(2, {})
    assert calls.index(("fsync", "other")) < calls.index(("replace", ".run.staged"))


def test_new_contents_are_staged_beside_their_final_path(folder):
    """Never on another file system, where a rename is a copy."""
    other = folder / "other"
    other.mkdir()
    places = []
    opened().commit(1, {str(other / "a.npy"): lambda path: places.append(Path(path)) or Path(path).touch()})
    assert places[0].name == "a.npy"
    assert places[0].parent.parent == other
    assert os.listdir(other) == ["a.npy"]


def test_what_is_kept_stays_and_what_is_not_goes(folder):
    """A commit names everything that is there after it."""
    storage = opened()
    commit(storage, 1, a="one", b="one", c="one")
    storage.commit(2, {os.path.abspath("a"): writer("two")}, kept=[os.path.abspath("b")])
    assert texts() == {"a": "two", "b": "one"}
    assert set(storage.header.files) == {os.path.abspath("a"), os.path.abspath("b")}


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["small", "large"])
def test_an_object_file_is_a_plain_pickle_at_the_path_that_was_given(folder, size):
    """With nothing of ours around it."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            counter.save_load_object(b"x" * size, "object.pickle")
            for _ in counter(range(3)):
                raise Stop
    assert pickle.loads(Path("object.pickle").read_bytes()) == b"x" * size


def after_step(folder, monkeypatch, name, number):
    """Break a commit off after the n-th call of a kind, as a kill would, and open the file again."""
    storage = opened()
    commit(storage, 1, a="one", b="one")
    count = [0]
    real = getattr(os, name)

    class Kill(BaseException):
        pass

    def call(*arguments, **options):
        count[0] += 1
        if count[0] > number:
            raise Kill
        return real(*arguments, **options)

    def dead(*arguments, **options):
        raise Kill

    monkeypatch.setattr(os, name, call)
    clear = _files.clear
    monkeypatch.setattr(_files, "clear", lambda path: None)  # who was killed clears nothing
    with pytest.raises(Kill):
        commit(storage, 2, a="two", c="two")
    monkeypatch.setattr(os, name, real)
    monkeypatch.setattr(_files, "clear", clear)
    return again()


@pytest.mark.parametrize(
    "name, number, position",
    [
        *[("mkdir", 0, 1), ("mkdir", 1, 1), ("fsync", 3, 1), ("fsync", 6, 1), ("replace", 0, 1), ("replace", 1, 1)],
        *[("rename", 0, 2), ("rename", 1, 2), ("rename", 2, 2), ("rename", 3, 2), ("unlink", 0, 2), ("rmdir", 0, 2)],
    ],
)
def test_a_commit_that_was_cut_short(folder, monkeypatch, name, number, position):
    """Before the replacement the old save is whole, after it the next start rolls the new one forward."""
    storage = after_step(folder, monkeypatch, name, number)
    assert storage.position == position
    whole = {"a": "one", "b": "one"} if position == 1 else {"a": "two", "c": "two"}
    assert texts() == whole
    for path, stamp in storage.header.files.items():
        assert stamp is None or storage.holds(path)
    storage.remove()
    assert os.listdir() == []


def test_rolling_forward_does_not_touch_what_somebody_has_changed_meanwhile(folder, monkeypatch):
    """Another size or digest than the progress file names: an error that names it."""
    with pytest.raises(RestartError, match=r"a: belongs to no save of run; move it away and run again"):
        commit_cut = after_step

        def mine(*arguments):
            Path("a").write_text("mine")
            return opened()

        monkeypatch.setattr(sys.modules[__name__], "again", lambda: (again_as_is(), mine())[1])
        commit_cut(folder, monkeypatch, "rename", 0)
    assert Path("a").read_text() == "mine"
    Path("a").unlink()
    assert again_as_is() is None
    storage = opened()
    assert (storage.position, texts()) == (2, {"a": "two", "c": "two"})


def again_as_is():
    """Let go of every file as a process that dies does."""
    for storage in list(_storage._opened.values()):
        storage._process = -1
        storage._close()


@pytest.mark.parametrize("name, number", [("replace", 0), ("rename", 0), ("rename", 1), ("unlink", 0), ("rmdir", 0)])
def test_a_removal_that_was_cut_short_is_finished_by_the_next_start(folder, monkeypatch, name, number):
    """The progress file says first that the work is done; it goes last, and nobody takes it for a save."""

    class Kill(BaseException):
        pass

    storage = opened()
    commit(storage, 1, a="one", b="one")
    count, real = [0], getattr(os, name)

    def call(*arguments, **options):
        count[0] += 1
        if count[0] > number:
            raise Kill
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    monkeypatch.setattr(_files, "clear", lambda path: None)
    with pytest.raises(Kill):
        storage.remove()
    monkeypatch.undo()
    os.chdir(folder)
    storage = again()
    if name == "replace":  # it was not said yet
        assert (storage.position, texts()) == (1, {"a": "one", "b": "one"})
        storage.remove()
    else:
        assert (storage.position, texts(), storage.is_saved) == (0, {}, False)
        storage.release()
    assert os.listdir() == []


def test_the_order_of_a_removal(folder, calls):
    """It says that the work is done, moves each thing aside, deletes it, and deletes the progress file last."""
    storage = opened()
    commit(storage, 1, a="one")
    calls.clear()
    storage.remove()
    kinds = [call for call in calls if call[0] != "fsync"]
    assert kinds[0] == ("replace", ".run.staged")
    assert kinds[2] == ("rename", "a")
    assert kinds[-1] == ("unlink", "run")
    assert calls[-1] == ("fsync", ".")
    assert calls.index(("fsync", ".")) < calls.index(("rename", "a"))


def test_a_folder_is_renamed_aside_before_it_is_deleted(folder, calls):
    """A half-deleted one is never taken for the real one."""
    storage = opened()

    def save(path):
        os.mkdir(path)
        Path(path, "x").write_text("x")

    storage.commit(1, {os.path.abspath("model"): save})
    calls.clear()
    storage.remove()
    assert calls.index(("rename", "model")) < min(n for n, call in enumerate(calls) if call[0] == "unlink")
    assert not any(name.startswith("model") for call, name in calls if call == "unlink")
    assert os.listdir() == []


def test_removing_does_not_touch_what_somebody_has_changed_meanwhile(folder):
    """It belongs to no save any more."""
    storage = opened()
    commit(storage, 1, a="one", b="one")
    Path("a").write_text("mine")
    storage.remove()
    assert texts() == {"a": "mine"}


def test_saving_does_not_touch_what_somebody_has_changed_meanwhile(folder):
    """An error that names it; what was saved is whole but for what was changed."""
    storage = opened()
    commit(storage, 1, a="one", b="one")
    Path("a").write_text("mine")
    with pytest.raises(RestartError, match="a: changed by somebody else since it was saved with run; move it away"):
        commit(storage, 2, a="two", b="two")
    assert texts() == {"a": "mine", "b": "one"}


def test_a_file_that_was_rewritten_with_the_same_contents_is_ours(folder):
    """What counts is the digest, not the time."""
    storage = opened()
    commit(storage, 1, a="one")
    Path("a").unlink()
    Path("a").write_text("one")
    commit(storage, 2, a="two")
    assert texts() == {"a": "two"}


def test_a_change_inside_a_saved_folder_is_noticed(folder):
    """Also one that leaves the folder's own time and size as they were."""

    def save(path):
        os.mkdir(path)
        Path(path, "x").write_text("one")

    storage = opened()
    storage.commit(1, {os.path.abspath("model"): save})
    Path("model/x").write_text("two")
    with pytest.raises(RestartError, match="model: changed by somebody else"):
        storage.commit(2, {os.path.abspath("model"): save})


@pytest.mark.parametrize(
    "change",
    [
        lambda: os.rename("model/x", "model/y"),
        lambda: os.mkdir("model/new"),
        lambda: Path("model/x").write_text("2"),
        lambda: (os.unlink("model/link"), os.symlink("y", "model/link")),
        lambda: (os.rmdir("model/deep"), Path("model/deep").touch()),
    ],
)
def test_the_digest_of_a_folder_covers_names_kinds_and_contents(folder, change):
    """Whatever was changed in it, the next start notices."""

    def save(path):
        os.makedirs(os.path.join(path, "deep"))
        Path(path, "x").write_text("1")
        os.symlink("x", os.path.join(path, "link"))

    opened().commit(1, {os.path.abspath("model"): save})
    change()
    with pytest.raises(RestartError, match="model: changed or damaged since it was saved"):
        again().holds(os.path.abspath("model"))


def test_a_large_object_is_digested_as_it_was_written(folder):
    """Whatever another thread does to a buffer while it is still to be digested."""
    buffer = bytearray(os.urandom(3 << 20))
    with _files.DigestingFile("large") as file:
        for _ in range(3):
            file.write(buffer)
            file.write(b"")
            buffer[:] = bytes(len(buffer))
    assert file.stamp == _files.stamp_of("large") and file.stamp["size"] == 9 << 20


def test_writing_waits_where_digesting_falls_behind(folder, monkeypatch):
    """Or all that is written would be in memory once more."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        monkeypatch.setattr(_files, "_AHEAD", 32)

    with _files.DigestingFile("large") as file:
        file.write(bytes(2 << 20))
        monkeypatch.setattr(_files, "_AHEAD", -1)
        monkeypatch.setattr(_files.time, "sleep", sleep)
        file.write(bytes(2 << 20))
    assert slept and file.stamp == _files.stamp_of("large")


def test_a_large_object_is_saved_where_no_thread_can_be_started(folder, monkeypatch):
    """At the end of the interpreter."""

    def start(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(threading.Thread, "start", start)
        with enable_counter("run") as counter:
            counter.save_load_object(bytes(3 << 20), "large")
            for _ in counter(range(2)):
                raise Stop
    assert enable_counter("run").save_load_object(b"", "large") == bytes(3 << 20)


# A save that fails.


def refuse(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["mkdir", "fsync", "replace", "rename"])
def test_a_commit_that_fails_leaves_the_former_save_whole(folder, monkeypatch, name):
    """The error says so, nothing half-made stays behind, and the next save works."""
    storage = opened()
    commit(storage, 1, a="one")
    real = getattr(os, name)
    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RestartError, match="run: could not be saved: No space left on device; what was saved is whole"):
        commit(storage, 2, a="two")
    monkeypatch.setattr(os, name, real)
    if name != "rename":  # else it counts already, and settles with the next save or start
        assert (texts(), again().position) == ({"a": "one"}, 1)
    else:
        assert (again().position, texts()) == (2, {"a": "two"})


def test_a_commit_that_could_not_be_settled_is_settled_by_the_next_one(folder, monkeypatch):
    """In the same process, without a start in between."""
    storage = opened()
    commit(storage, 1, a="one")
    real = os.rename
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(RestartError):
        commit(storage, 2, a="two")
    monkeypatch.setattr(os, "rename", real)
    commit(storage, 3, a="three")
    assert texts() == {"a": "three"}


def test_what_cannot_be_cleared_now_the_next_start_clears(folder, monkeypatch):
    """A failing disk does not hide the error that came first."""
    storage = opened()
    commit(storage, 1, a="one")
    real = {name: getattr(os, name) for name in ("replace", "unlink", "rmdir")}
    for name in real:
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RestartError, match="could not be saved: No space left on device"):
        commit(storage, 2, a="two")
    for name, function in real.items():
        monkeypatch.setattr(os, name, function)
    assert len(os.listdir()) > 2
    again()
    assert sorted(os.listdir()) == ["a", "run"]


@pytest.mark.parametrize("wrong", [refuse, lambda file, data, at: 7], ids=["fails", "writes a part"])
def test_a_write_in_place_that_fails_is_an_error(folder, monkeypatch, wrong):
    """The position before is still there."""
    storage = opened()
    storage.write(1)
    storage.flush()
    storage.write(2)
    real = _files.write_at
    monkeypatch.setattr(_files, "write_at", wrong)
    with pytest.raises(RestartError, match="run: could not be saved: (No space left|only a part could be written)"):
        storage.write(3)
    monkeypatch.setattr(_files, "write_at", real)
    assert again().position == 2


@pytest.mark.parametrize("step", ["flush", "first write", "claim", "remove", "start"])
def test_every_other_step_that_fails_is_an_error_too(folder, monkeypatch, step):
    """A RestartError that names the file, never an OSError alone."""
    storage = opened() if step != "start" else None
    if step in ("flush", "remove"):
        commit(storage, 1, a="one")
        storage.write(2)
    real = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RestartError, match="run: (could not be (saved|removed)|cannot be used): No space left"):
        if step == "flush":
            storage.flush()
        elif step == "first write":
            storage.write(1)
        elif step == "claim":
            storage.claim(os.path.abspath("inner"))
        elif step == "remove":
            storage.remove()
        else:
            opened()
    monkeypatch.setattr(os, "fsync", real[0])
    monkeypatch.setattr(os, "replace", real[1])
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["small", "large"])
def test_a_large_file_is_flushed_as_a_small_one_is(folder, calls, size):
    """By a thread of its own, which is waited for, and whose failure is the failure of the save."""
    storage = opened()
    commit(storage, 1, a="x" * size)
    assert [name.endswith("/a") for call, name in calls if call == "fsync"].count(True) == 1
    threads = threading.active_count()

    def fails(file):
        raise OSError(errno.EIO, "Input/output error")

    before = texts()
    real, os.fsync = os.fsync, fails
    try:
        with pytest.raises(RestartError, match="could not be saved: Input/output error"):
            commit(storage, 2, a="y" * size)
    finally:
        os.fsync = real
    assert texts() == before
    assert threading.active_count() == threads


# The lock, and who uses the file.


def test_the_progress_file_exists_from_the_call_on_and_counts_as_no_save(folder):
    """Position 0 with nothing registered: the next start is afresh."""
    storage = opened()
    assert os.listdir() == ["run"]
    assert not storage.is_saved
    storage = again()
    assert not storage.is_saved
    storage.release()
    assert os.listdir() == []


def test_one_that_went_away_or_was_replaced_while_it_was_being_locked_is_looked_at_again(folder, monkeypatch):
    """The lock of a file that is not at its path any more protects nothing."""
    storage = opened()
    storage.write(5)
    again_as_is()
    real, times = os.open, []

    def opening(path, *more):
        file = real(path, *more)
        if os.path.basename(path) == "run" and len(times) < 2:
            times.append(path)
            if len(times) == 1:
                content = Path("run").read_bytes()
                os.unlink("run")
                Path("run").write_bytes(content)  # another file with the same name
            else:
                os.unlink("run")
        return file

    monkeypatch.setattr(os, "open", opening)
    storage = opened()
    assert (storage.position, len(times)) == (0, 2)
    assert _files.identity(os.stat("run")) == _files.identity(os.fstat(storage._lock))


def test_a_start_that_finds_another_ones_file_takes_that_up(folder, monkeypatch):
    """Two that start at once: one makes the file, the other finds it when its own is ready."""
    storage = opened()
    storage.write(5)
    again_as_is()
    real, times = os.path.lexists, []

    def lexists(path):
        if os.path.basename(path) == "run" and not times:
            times.append(path)
            return False
        return real(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    assert opened().position == 5
    assert os.listdir() == ["run"]


def test_a_file_that_is_deleted_while_it_is_opened_is_made(folder, monkeypatch):
    """Another process has finished its work just now."""
    storage = opened()
    storage.write(5)
    again_as_is()
    real, times = os.open, []

    def opening(path, *more):
        if os.path.basename(path) == "run" and not times:
            times.append(path)
            os.unlink("run")
        return real(path, *more)

    monkeypatch.setattr(os, "open", opening)
    assert opened().position == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_does_without(folder, monkeypatch, number):
    """Everything else works as it does elsewhere."""

    def flock(file, operation):
        raise OSError(number, "no locks")

    monkeypatch.setattr(_files.fcntl, "flock", flock)
    with pytest.raises(Stop):
        for i in simple_counter("run", range(5)):
            if i == 3:
                raise Stop
    assert list(simple_counter("run", range(5))) == [3, 4]
    assert os.listdir() == []


def test_a_lock_that_fails_for_another_reason_is_an_error(folder, monkeypatch):
    """It does not mean that there is no lock."""

    def flock(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_files.fcntl, "flock", flock)
    with pytest.raises(RestartError, match="run: cannot be used: Input/output error; choose another path"):
        opened()


def test_a_file_that_is_only_just_being_made_is_in_use_by_another_process(folder, monkeypatch):
    """It does not say by which."""
    opened().release()
    Path("run").touch()
    monkeypatch.setattr(_files, "lock", lambda file: False)
    with pytest.raises(RestartError, match="run: in use by another process; wait for it to end, or stop it"):
        opened()


def test_a_use_of_a_file_is_noted_in_it(folder):
    """`cat` shows which process uses it now, and a position that it saves counts, though it be smaller."""
    storage = opened()
    storage.write(9)
    storage = again()
    assert b"use 2 by process %d" % os.getpid() in Path("run").read_bytes()
    storage.remove()


def test_a_storage_that_let_go_takes_the_file_up_again(folder):
    """A loop that was left may be saved after all, if nobody has saved since."""
    storage = opened()
    storage.write(1)
    storage.release()
    storage.write(2)
    assert again().position == 2


def test_a_storage_that_let_go_does_not_overwrite_what_another_has_saved_since(folder):
    """An old counter in an old notebook cell."""
    storage = opened()
    storage.write(1)
    storage.release()
    newer = opened()
    newer.write(7)
    newer.release()
    with pytest.raises(RestartError, match="run: saved by another counter since; make a new counter"):
        storage.write(2)
    assert again().position == 7


def test_a_thread_that_is_taken_over_writes_to_no_other_file(folder):
    """Its descriptor stays open as long as it may be about to write."""
    old = opened()
    old.write(1)
    old.write(2)
    descriptor = old._writer
    new = opened()
    assert os.fstat(descriptor)
    with pytest.raises(RestartError, match="a newer counter"):
        old.write(3)
    assert new.position == 2


# Loops inside.


def test_what_a_start_of_a_loop_inside_has_left_is_removed(folder):
    """A progress file that was staged and never put in its place."""
    outer = opened()
    outer.claim(os.path.abspath("inner"))
    Path(".inner.staged").write_text("")
    outer.write(1)
    assert os.listdir() == ["run"]


def test_somebody_elses_file_in_the_place_of_a_loop_inside_is_not_touched(folder):
    """The library never deletes what it did not write."""
    outer = opened()
    outer.claim(os.path.abspath("inner"))
    Path("inner").write_text("mine")
    outer.write(1)
    outer.remove()
    assert texts() == {"inner": "mine"}


def test_a_loop_that_is_not_inside_is_not_removed(folder):
    """Its progress file names other loops around it."""
    outer = opened()
    outer.claim(os.path.abspath("inner"))
    inner = opened("inner", around=[["elsewhere", 1]])
    inner.write(3)
    inner.release()
    outer.write(1)
    assert sorted(os.listdir()) == ["inner", "run"]


# Windows, as far as it can be tried elsewhere.


@pytest.fixture
def windows(monkeypatch):
    """No locks, no pwrite, no folders that can be opened, no open file that can be moved."""
    real = os.open

    def opening(path, *more):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *more)

    def replacing(source, target):
        identity = _files.identity(os.stat(source))
        for number in range(3, 100):
            with contextlib.suppress(OSError):
                assert _files.identity(os.fstat(number)) != identity, "an open file is moved"
        return moving(source, target)

    moving = os.replace
    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(_files, "WINDOWS", True)
    monkeypatch.setattr(_files, "fcntl", None)
    monkeypatch.setattr(_files, "write_at", _files._seek_and_write)
    monkeypatch.setattr(_storage, "FLUSH_SECONDS", 0)


@pytest.mark.parametrize("each_save", [False, True])
def test_a_loop_with_an_object_and_a_folder_on_windows(folder, windows, each_save):
    """The same promises by the means that there are."""

    def save(path):
        os.mkdir(path)
        Path(path, "x").write_text("x")

    def job(stop_at):
        with enable_counter("run", each_save=each_save) as counter:
            seen = counter.save_load_object([], "seen")
            counter.save_load_funcs([save], [os.listdir], ["model"])
            for i in counter(range(5)):
                for _ in simple_counter("inner", range(2)):
                    pass
                if i == stop_at:
                    raise Stop
                seen.append(i)
        return seen

    with pytest.raises(Stop):
        job(3)
    assert sorted(os.listdir()) == ["model", "run", "seen"]
    job(None)
    assert os.listdir() == []


def test_positions_are_saved_in_place_on_windows(folder, windows):
    """By seeking and writing."""
    with pytest.raises(Stop):
        for i in simple_counter("run", range(5)):
            if i == 3:
                raise Stop
    assert list(simple_counter("run", range(5))) == [3, 4]


def test_a_replacement_that_another_program_delays_is_tried_again(folder, monkeypatch):
    """For two seconds, on Windows; elsewhere a refusal is final."""
    now, refusals = [0.0], [5]
    real = os.replace

    def replacing(source, target):
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(source, target)

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(_files.time, "sleep", sleep)
    monkeypatch.setattr(_files.time, "monotonic", lambda: now[0])
    Path("a").touch()
    with pytest.raises(PermissionError):
        _files.replace("a", "b")
    assert (now, refusals) == ([0.0], [4])
    monkeypatch.setattr(_files, "WINDOWS", True)
    _files.replace("a", "b")
    assert os.listdir() == ["b"]
    refusals[0] = 10**6
    with pytest.raises(PermissionError):
        _files.replace("b", "a")
    assert 2 <= now[0] < 2.5


def test_a_save_that_fails_on_windows_leaves_nothing(folder, windows, monkeypatch):
    """A staged file is closed before it is deleted."""
    storage = opened()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(RestartError, match="No space left on device"):
            storage.write(1)
    assert os.listdir() == ["run"]
    storage.write(2)
    assert again().position == 2


def test_what_an_earlier_start_has_left_is_deleted_on_windows_too(folder, windows):
    """It is closed before, and not deleted where it is somebody else's."""
    opened().write(2)
    again_as_is()
    Path(".run.staged").write_text("")
    assert opened().position == 2
    assert os.listdir() == ["run"]
    again_as_is()
    Path(".run.staged").write_text("my own")
    with pytest.raises(RestartError, match="is in the way, and not of py_restart; move it away"):
        opened()
    assert Path(".run.staged").read_text() == "my own"


def test_a_machine_without_uname_tells_its_name_otherwise(monkeypatch):
    """Windows has it in the environment."""
    monkeypatch.delattr(os, "uname")
    monkeypatch.setenv("COMPUTERNAME", "DESKTOP-7")
    assert _files.host_name() == "DESKTOP-7"


def test_closing_twice_is_no_error(folder):
    """A failure after a file was closed closes it again."""
    file = os.open("x", os.O_CREAT | os.O_RDWR)
    _files.close(file)
    _files.close(file)


@pytest.mark.parametrize("name", ["_files", "_scope", "_signals", "_storage"])
def test_the_modules_load_without_what_windows_lacks(monkeypatch, name):
    """No fcntl, no pwrite, no fork."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "register_at_fork")
    spec = importlib.util.spec_from_file_location(
        f"py_restart.{name}_elsewhere", Path(_files.__file__).parent / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name == "_files":
        assert module.fcntl is None and module.lock(0)
        module.unlock(0)
        assert module.write_at is module._seek_and_write


# What may go wrong at the same time.


def vanishing(name, monkeypatch, times=1):
    """Let a file be deleted by somebody else just after it was opened."""
    real, left = os.open, [times]

    def opening(path, *more):
        file = real(path, *more)
        if os.path.basename(path) == name and left[0]:
            left[0] -= 1
            os.unlink(path)
        return file

    monkeypatch.setattr(os, "open", opening)


def test_a_staged_file_that_vanishes_is_made_again(folder, monkeypatch):
    """Another process was faster, and has put it in its place or cleared it."""
    vanishing(".run.staged", monkeypatch)
    assert opened().position == 0
    assert os.listdir() == ["run"]


def test_a_staged_file_that_vanishes_during_a_save_is_made_again(folder, monkeypatch):
    """Another process has started, seen that it came too late, and taken back what it staged."""
    storage = opened()
    vanishing(".run.staged", monkeypatch)
    storage.write(1)
    assert again().position == 1
    assert os.listdir() == ["run"]


def test_a_staged_file_that_vanishes_again_and_again_is_an_error(folder, monkeypatch):
    """Where there are no locks two processes may meet there."""
    storage = opened()
    monkeypatch.setattr(_storage, "START_SECONDS", 0.01)
    vanishing(".run.staged", monkeypatch, times=-1)
    with pytest.raises(RestartError, match="run: another process starts with it; stop one of the two"):
        storage.write(1)


def test_a_folder_that_vanishes_during_a_save_is_an_error(folder):
    """It says so, and does not wait for it to come back."""
    os.mkdir("gone")
    storage = opened("gone/run")
    os.rename("gone", "elsewhere")
    with pytest.raises(RestartError, match="gone/run: could not be saved: No such file or directory"):
        storage.write(1)


def locked(path):
    """Lock a file as another process does."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    assert _files.lock(file)
    return file


def test_a_save_waits_for_a_process_that_has_started_too_late(folder):
    """It holds the lock on the staged file until it has seen that there is a progress file."""
    storage, late = opened(), locked(".run.staged")
    timer = threading.Timer(0.05, lambda: (os.unlink(".run.staged"), os.close(late)))
    timer.start()
    storage.write(1)
    timer.join()
    assert again().position == 1
    assert os.listdir() == ["run"]


def test_nobody_deletes_what_another_process_is_staging(folder, monkeypatch):
    """Neither a start, nor a loop around it that moves on."""
    opened().write(1)
    other = locked(".run.staged")
    again()
    _files.clear_unlocked(".run.staged")
    assert sorted(os.listdir()) == [".run.staged", "run"]
    os.close(other)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "lock", refuse)
        _files.clear_unlocked(".run.staged")
    assert sorted(os.listdir()) == [".run.staged", "run"]
    _files.clear_unlocked(".run.staged")
    assert os.listdir() == ["run"]


def test_what_is_staged_is_deleted_before_it_is_unlocked(folder, monkeypatch):
    """Or it would be the file that another process stages right after."""
    storage, order = opened(), []
    clear, close = _files.clear, _files.close
    monkeypatch.setattr(_files, "clear", lambda path: (order.append("clear"), clear(path)))
    monkeypatch.setattr(_files, "close", lambda file: (order.append("close"), close(file)))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RestartError, match="No space left on device"):
        storage.write(1)
    assert order == ["clear", "close"]


def test_what_an_earlier_start_has_left_is_written_over(folder):
    """However long it is, and cut wherever it was, by a power failure too."""
    whole = (opened().write(1), Path("run").read_bytes())[1]
    for left in (b"", b"\0" * 512, whole[:20], whole[:200], whole + b"x" * 10_000):
        again().remove()
        Path(".run.staged").write_bytes(left)
        assert opened().position == 0
        Path(".run.staged").write_bytes(left)
        assert again().position == 0
        assert os.listdir() == ["run"]


@pytest.mark.parametrize("is_saved", [False, True])
@pytest.mark.parametrize("put", [lambda path: path.write_text("my own"), Path.mkdir], ids=["file", "folder"])
def test_a_staged_file_of_somebody_else_is_an_error_at_the_start(folder, is_saved, put):
    """It is not touched, and neither is what was saved."""
    if is_saved:
        opened().write(3)
        again_as_is()
    put(Path(".run.staged"))
    with pytest.raises(RestartError, match="run.*: "):
        opened()
    assert sorted(os.listdir()) == [".run.staged", *["run"] * is_saved]
    assert Path(".run.staged").is_dir() or Path(".run.staged").read_text() == "my own"
    os.rename(".run.staged", "mine")
    assert opened().position == 3 * is_saved


@pytest.mark.parametrize("put", [lambda path: path.write_text("my own"), Path.mkdir], ids=["file", "folder"])
def test_a_staged_file_of_somebody_else_that_comes_later_is_an_error_of_the_save(folder, put):
    """It is not touched then either."""
    storage = opened()
    put(Path(".run.staged"))
    with pytest.raises(RestartError, match="run: "):
        storage.write(1)
    assert sorted(os.listdir()) == [".run.staged", "run"]
    os.rename(".run.staged", "mine")
    storage.write(2)
    assert again().position == 2


def test_a_progress_file_that_vanishes_during_a_start_is_written_anew(folder, monkeypatch):
    """Deleted by hand: the save that was read is the one that counts."""
    opened().write(5)
    again_as_is()
    monkeypatch.setattr(_files, "clear_unlocked", lambda path: not os.unlink("run"))
    storage = opened()
    monkeypatch.undo()
    os.chdir(folder)
    storage.write(6)
    assert again().position == 6


def test_removing_what_is_gone_is_no_error(folder):
    """Somebody has deleted the progress file: that is what was wanted."""
    storage = opened()
    storage.write(3)
    os.unlink("run")
    storage.remove()
    assert os.listdir() == []


def test_a_file_without_a_save_that_cannot_be_deleted_is_no_error(folder, monkeypatch):
    """The garbage collector lets go of it; it counts as no save."""
    storage = opened()
    monkeypatch.setattr(os, "unlink", refuse)
    storage.release()
    monkeypatch.undo()
    os.chdir(folder)
    assert not opened().is_saved


def test_flushing_what_was_not_written_is_nothing(folder, calls):
    """There is no file open."""
    storage = opened()
    calls.clear()
    storage.flush()
    assert calls == []


def test_nothing_is_held_where_nothing_was_saved(folder):
    """A path that is new, and free."""
    assert opened().holds(os.path.abspath("a")) is False


def test_a_failure_after_the_replacement_counts_as_saved(folder, monkeypatch):
    """The new save is whole already: what was staged for it must stay until it is in its place."""
    storage = opened()
    commit(storage, 1, a="one")
    replaced, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (real(*paths), replaced.append(paths)))
    monkeypatch.setattr(os, "fsync", lambda file: refuse() if replaced else None)
    with pytest.raises(RestartError, match="No space left on device"):
        commit(storage, 2, a="two")
    monkeypatch.undo()
    os.chdir(folder)
    assert (again().position, texts()) == (2, {"a": "two"})


def test_a_forked_child_goes_on_without_writing(folder, run_child):
    """A position alone, too."""

    def job(tell):
        for i in simple_counter("run", range(6)):
            if i == 2 and os.fork() == 0:
                tell("child")
            elif i == 2:
                os.wait()
                tell("parent")
                os._exit(0)

    assert run_child(job).told == ["child", "parent"]
    assert list(simple_counter("run", range(6))) == [2, 3, 4, 5]


def test_a_folder_that_was_deleted_during_the_work_needs_no_removal(folder):
    """With it went all that was to be removed."""
    os.mkdir("gone")
    seen = []
    for i in simple_counter("gone/run", range(3)):
        seen.append(i)
        if i == 2:
            os.unlink("gone/run")
            os.rmdir("gone")
    assert seen == [0, 1, 2]


def test_a_folder_that_was_written_read_only_can_be_saved_again_and_removed(folder):
    """As a copy of read-only data is: it could neither be moved nor deleted."""

    def save(path):
        os.makedirs(os.path.join(path, "deep"))
        os.chmod(os.path.join(path, "deep"), 0o555)
        os.chmod(path, 0o555)

    storage = opened()
    storage.commit(1, {os.path.abspath("model"): save})
    assert [os.stat(path).st_mode & 0o777 for path in ("model", "model/deep")] == [0o755, 0o755]
    storage.commit(2, {os.path.abspath("model"): save})
    storage.remove()
    assert os.listdir() == []


def test_what_is_written_to_the_final_path_as_well_is_an_error_before_it_counts(folder, calls):
    """The save before stays whole, and nothing half-made stays behind."""
    storage = opened()
    commit(storage, 1, b="one")

    def save(path):
        Path(path).write_text("two")
        Path("a").write_text("two")

    with pytest.raises(RestartError, match="/a: exists already, and was not saved with run; move it away"):
        storage.commit(2, {os.path.abspath("a"): save}, kept=[os.path.abspath("b")])
    assert sorted(os.listdir()) == ["a", "b", "run"]
    os.unlink("a")
    assert again().position == 1


def test_a_child_that_is_forked_during_a_save_does_not_get_the_lock(folder, monkeypatch):
    """The descriptor of the file that is being written is closed there as well."""
    storage, told = opened(), []

    def fork_and_replace(source, target):
        child = os.fork()
        if child == 0:
            try:
                os.fstat(*staging)
            except OSError:
                os._exit(0)
            os._exit(1)
        told.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return replace(source, target)

    replace, staging = _files.replace, []
    write_over = _storage._write_over
    monkeypatch.setattr(_storage, "_write_over", lambda file, data: (staging.append(file), write_over(file, data)))
    monkeypatch.setattr(_files, "replace", fork_and_replace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        storage.write(1)
    assert (told, len(staging), _storage._staging) == ([0], 1, set())

"""What can go wrong, in words: each row of the table, and what it leaves."""

import errno
import gc
import json
import os
import pickle
import re
import threading
from pathlib import Path

import pytest

from py_restart import RestartError, _errors, _files, enable_counter, multi_count, simple_counter


class Stop(Exception):
    """How a job is interrupted."""


class Plain:
    """Not a path."""


def save(position=3, **objects):
    """Leave a save behind, with an object for each name."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            for name, value in objects.items():
                counter.save_load_object(value, name)
            for i in counter(range(10)):
                if i == position:
                    raise Stop
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def files():
    """Return what is in each file of the folder."""
    gc.collect()
    return {path.name: path.read_bytes() for path in Path().iterdir()}


# Wrong arguments.


@pytest.mark.parametrize("path", [5, None, b"run", Plain(), True])
def test_what_is_not_a_path_is_a_type_error_at_the_call(folder, path):
    """For each path that the library takes."""
    counter = enable_counter("run")
    for call in (
        lambda: enable_counter(path),
        lambda: simple_counter(path, range(3)),
        lambda: counter.save_load_object(1, path),
        lambda: counter.save_load_funcs([print], [print], [path]),
    ):
        with pytest.raises(TypeError, match="path|PathLike"):
            call()


def test_an_empty_path_is_a_value_error(folder):
    """It would be the folder."""
    with pytest.raises(ValueError, match="the path is empty; give the path of a file"):
        enable_counter("")


@pytest.mark.parametrize("span", ["2", 1.0, None, True, [1]])
def test_a_span_that_is_no_integer_is_a_type_error(folder, span):
    """It is a number of items."""
    with pytest.raises(TypeError, match="save_span is .*; give a whole number of items"):
        enable_counter("run", each_save=True, save_span=span)
    with pytest.raises(TypeError, match="save_span is "):
        simple_counter("run", range(3), save_span=span)
    assert files() == {}


@pytest.mark.parametrize("span", [0, -1])
def test_a_span_below_one_is_a_value_error(folder, span):
    """There is no boundary."""
    with pytest.raises(ValueError, match=f"save_span is {span}; give 1 or more items"):
        enable_counter("run", each_save=True, save_span=span)


def test_a_span_may_be_any_integer(folder):
    """One of another library, or a very large one."""

    class Index:
        def __index__(self):
            return 2

        __int__ = __index__

        def __lt__(self, other):
            return other > 2

    assert list(simple_counter("run", range(5), save_span=Index())) == [0, 1, 2, 3, 4]
    assert list(simple_counter("run", range(5), save_span=10**30)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("interval", [-1, -0.001, float("nan")])
def test_an_interval_below_zero_is_a_value_error(folder, interval):
    """A number that is none is below nothing."""
    with pytest.raises(ValueError, match=r"save_interval is .*; give 0 or more seconds"):
        enable_counter("run", each_save=True, save_interval=interval)


@pytest.mark.parametrize("interval", ["often", "5", None, [1]])
def test_an_interval_that_is_no_number_is_a_type_error(folder, interval):
    """It is a number of seconds."""
    with pytest.raises(TypeError, match=r"save_interval is .*; give a number of seconds"):
        simple_counter("run", range(3), save_interval=interval)


def test_lists_of_unequal_length_are_a_value_error(folder):
    """The three belong together, item by item."""
    counter = enable_counter("run")
    for lists in (([print], [], ["a"]), ([print], [print], []), ([], [print], ["a"])):
        with pytest.raises(ValueError, match=r"run: save_funcs, load_funcs and func_paths have \d, \d, \d entries"):
            counter.save_load_funcs(*lists)


def test_what_is_not_a_function_is_a_type_error(folder):
    """A name is no function; nor is what a function has returned."""
    counter = enable_counter("run")
    with pytest.raises(TypeError, match="run: a NoneType is not a function"):
        counter.save_load_funcs([None], [print], ["a"])
    with pytest.raises(TypeError, match="run: a str is not a function"):
        counter.save_load_funcs([print], ["load"], ["a"])


@pytest.mark.parametrize("source", [5, None, 1.5])
def test_what_is_not_iterable_is_a_type_error_at_the_call(folder, source):
    """Before the loop begins; nothing is left."""
    with pytest.raises(TypeError, match="run: .* is not iterable; give an iterable, or a function that returns one"):
        simple_counter("run", source)
    with pytest.raises(TypeError, match="run: .* is not iterable"):
        enable_counter("run", each_save=True)(source)
    assert files() == {}


# At the call.


def test_a_missing_folder_is_an_error_at_once(folder):
    """Not after ten hours: of the progress file, of an object, of a function."""
    counter = enable_counter("run")
    for call in (
        lambda: enable_counter("nowhere/run"),
        lambda: simple_counter(Path("nowhere/run"), range(3)),
        lambda: counter.save_load_object(1, "nowhere/object"),
        lambda: counter.save_load_funcs([print], [print], ["nowhere/function"]),
    ):
        with pytest.raises(RestartError, match="^nowhere/.*: the folder .*nowhere does not exist; create it first$"):
            call()


def test_a_folder_that_is_not_writable_is_an_error_at_once(folder, monkeypatch):
    """As the system says; root may write anywhere."""
    other = folder / "other"
    other.mkdir()
    counter = enable_counter("run")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not str(path).endswith("other"))
    for call in (lambda: enable_counter("other/run"), lambda: counter.save_load_object(1, "other/object")):
        with pytest.raises(RestartError, match=r"^other/.*: the folder .*other cannot be written to; choose another"):
            call()


def test_a_path_that_is_a_folder_is_an_error_at_once(folder):
    """It stays as it is."""
    (folder / "run").mkdir()
    with pytest.raises(RestartError, match="run: a folder; give the path of a file"):
        enable_counter("run")
    assert os.listdir("run") == []


def test_a_path_that_is_no_file_is_an_error_at_once(folder):
    """A pipe would wait for ever."""
    os.mkfifo("run")
    with pytest.raises(RestartError, match="run: not a file; give another path"):
        enable_counter("run")


def test_a_name_that_the_system_refuses_is_an_error_at_once(folder):
    """In its words."""
    with pytest.raises(RestartError, match="cannot be used: File name too long; choose another path"):
        enable_counter("x" * 300)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "empty, no progress file"),
        (b'{"format": "py_re', r"cut short \(17 bytes\)"),
        (b"mine\n", "not a progress file of py_restart"),
        (os.urandom(500), "not a progress file of py_restart"),
        (b'{"format": "py_restart", "version": 2, "x": 1}\n', "written by a newer py_restart"),
    ],
    ids=["empty", "cut", "somebody else's", "garbage", "newer"],
)
def test_a_progress_path_that_holds_something_else_is_an_error_and_stays_untouched(folder, content, says):
    """At the call; whichever way the counter is made."""
    Path("run").write_bytes(content)
    for make in (lambda: enable_counter("run"), lambda: simple_counter("run", range(3))):
        with pytest.raises(RestartError, match=f"^run: {says}.*; move it away, or give another path$"):
            make()
    with pytest.raises(RestartError):
        with multi_count():
            list(simple_counter("run", range(3)))
    assert files() == {"run": content}


def test_a_progress_file_that_was_cut_at_any_place_is_an_error_and_stays_untouched(folder):
    """No position is guessed."""
    whole = save()["run"]
    for length in range(0, len(whole), 7):
        Path("run").write_bytes(whole[:length])
        with pytest.raises(RestartError, match="^run: (cut short|empty)"):
            enable_counter("run")
        assert Path("run").read_bytes() == whole[:length]


def test_a_progress_file_that_cannot_be_read_is_an_error(folder, monkeypatch):
    """The disk's own words; it stays untouched and unlocked."""
    before = save()

    def refuse(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(RestartError, match="run: cannot be used: Input/output error; choose another path"):
            enable_counter("run")
    assert files() == before
    assert list(simple_counter("run", range(10))) == [3, 4, 5, 6, 7, 8, 9]


# When an object is registered.


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 0, (i for i in "x")], ids=["lock", "lambda", "generator"])
def test_an_object_that_cannot_be_pickled_is_an_error_when_it_is_registered(folder, value):
    """Nothing is left, and the counter may be used for another one."""
    with pytest.raises(RestartError, match="object: the object cannot be pickled: .*; register one that can"):
        with enable_counter("run") as counter:
            counter.save_load_object(value, "object")
    assert files() == {}


@pytest.mark.parametrize("change", ["missing", "empty", "cut", "damaged", "longer", "a folder"])
def test_a_saved_file_that_is_not_as_it_was_is_an_error_when_it_is_registered(folder, change):
    """It is never unpickled, and never written over."""
    whole = save(object=[1, 2, 3], other=1)["object"]
    path = Path("object")
    path.unlink()
    if change == "a folder":
        path.mkdir()
    elif change != "missing":
        contents = {"empty": b"", "cut": whole[:-1], "damaged": whole[:5] + b"?" + whole[6:], "longer": whole + b"."}
        path.write_bytes(contents[change])
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir() if name != "run"}
    says = "missing, but run was saved with it" if change == "missing" else "changed or damaged since it was saved"
    with pytest.raises(RestartError, match=f"object: {says}; put it back, or delete run and what was saved with it to"):
        with enable_counter("run") as counter:
            counter.save_load_object([], "object")
            raise AssertionError
    assert before == {name: os.stat(name).st_mtime_ns for name in os.listdir() if name != "run"}


class Trap:
    """Unpickling this is a disaster."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_only_what_the_progress_file_names_is_unpickled(folder):
    """A pickle that somebody has put there is not even opened as one: changed, or beside no save at all."""
    save(object=1)
    Path("object").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RestartError, match="object: changed or damaged"):
        enable_counter("run").save_load_object(1, "object")
    gc.collect()
    os.unlink("run")
    with pytest.raises(RestartError, match="object: exists already, and was not saved with run; move it away, or"):
        enable_counter("run").save_load_object(1, "object")
    assert not os.path.exists("sprung")


def test_an_object_file_that_outlived_its_progress_file_is_an_error_and_untouched(folder):
    """It belongs to no save: whose it is, only the user knows."""
    before = save(object=[1])
    os.unlink("run")
    for make in (
        lambda counter: counter.save_load_object([], "object"),
        lambda counter: counter.save_load_funcs([print], [print], ["object"]),
    ):
        with pytest.raises(RestartError, match="object: exists already, and was not saved with run"):
            with enable_counter("run") as counter:
                make(counter)
    assert files() == {"object": before["object"]}


def test_a_foreign_file_that_appears_after_the_registration_is_not_overwritten(folder):
    """By the first save neither."""
    with pytest.raises(RestartError, match="object: exists already, and was not saved with run"):
        counter = enable_counter("run", each_save=True)
        counter.save_load_object([], "object")
        for _ in counter(range(3)):
            Path("object").write_text("mine")
    assert Path("object").read_text() == "mine"


def test_an_object_that_cannot_be_loaded_is_an_error_when_it_is_registered(folder, monkeypatch):
    """Its class has gone, or a function raises: in its words, and nothing is lost."""
    before = save(object=Plain())
    monkeypatch.delattr("test_errors.Plain")
    with pytest.raises(
        RestartError, match="object: cannot be loaded: AttributeError: .*Plain.*; delete what was saved"
    ) as e:
        with enable_counter("run") as counter:
            counter.save_load_object(None, "object")
    assert isinstance(e.value.__cause__, AttributeError)
    assert files()["object"] == before["object"]


def test_a_name_that_is_too_long_to_be_staged_is_an_error_when_it_is_registered(folder, left):
    """And not at the save, after ten hours: what is staged beside it has a longer name."""
    longest = os.pathconf(".", "PC_NAME_MAX")
    counter = enable_counter("run")
    with pytest.raises(RestartError, match="/x+: cannot be saved: File name too long; give another path"):
        counter.save_load_object(0, "x" * (longest - 5))
    with pytest.raises(RestartError, match="/x+: cannot be saved: File name too long; give another path"):
        counter.save_load_funcs([print], [print], ["x" * (longest - 5)])
    with pytest.raises(RestartError, match="x+: cannot be used: File name too long; choose another path"):
        enable_counter("x" * (longest - 5))
    counter.save_load_object(0, "x" * (longest - 25))
    counter.save()
    assert left() == ["run", "x" * (longest - 25)]


# When the loop starts.


def test_an_object_file_that_cannot_be_read_is_an_error_when_it_is_registered(folder, monkeypatch):
    """Whatever the system says of it, another thread that has just removed it among that."""
    save(total=1)

    def stamp_of(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(_files, "stamp_of", stamp_of)
        with pytest.raises(RestartError, match="total: cannot be read: Permission denied; mend that, or delete"):
            enable_counter("run").save_load_object(0, "total")
    assert enable_counter("run").save_load_object(0, "total") == 1


def test_an_object_that_is_not_registered_any_more_is_an_error_when_the_loop_starts(folder):
    """Going on without it would count from nothing."""
    before = save(first=1, second=2)
    with pytest.raises(RestartError, match="run: saved with .*second, which is not registered; register it, or delete"):
        with enable_counter("run") as counter:
            counter.save_load_object(0, "first")
            list(counter(range(10)))
    assert {name: files()[name] for name in ("first", "second")} == {name: before[name] for name in ("first", "second")}
    assert json.loads(Path("run").read_bytes().splitlines()[0])["registered"] == ["first", "second"]


def test_an_object_that_is_not_in_the_save_is_an_error_when_the_loop_starts(folder):
    """It would start from nothing in the middle of the loop."""
    save(first=1)
    with pytest.raises(RestartError, match="run: saved without .*second, which is registered; remove that, or delete"):
        with enable_counter("run") as counter:
            counter.save_load_object(0, "first")
            counter.save_load_object(0, "second")
            list(counter(range(10)))
    with pytest.raises(RestartError, match="run: saved with"):
        list(simple_counter("run", range(10)))


# When a save fails.


class Fails:
    """An object that can be pickled, until it cannot."""

    def __init__(self):
        self.broken = False

    def __reduce__(self):
        if self.broken:
            raise ValueError("too deep")
        return (str, ("fine",))


@pytest.mark.parametrize("way", ["object", "function", "disk"])
def test_a_save_that_fails_leaves_the_former_save_whole(folder, way, monkeypatch):
    """The error says which file and why; nothing half-made stays behind; the next run goes on from the save before."""
    broken = []

    def write(path):
        Path(path).write_text("half")
        if broken:
            raise ValueError("too deep")
        Path(path).write_text("whole")

    value, counter = Fails(), enable_counter("run", each_save=True)
    counter.save_load_object(value, "object")
    counter.save_load_funcs([write], [print], ["function"])

    def full(path, *mode):
        raise OSError(errno.ENOSPC, "No space left on device")

    reason = "No space left on device" if way == "disk" else "ValueError: too deep"
    with pytest.raises(RestartError, match=f"run: could not be saved, writing .*: {reason}; what was saved is whole"):
        for i in counter(range(9)):
            before = files()
            if i == 4:
                value.broken = way == "object"
                if way == "function":
                    broken.append(True)
                if way == "disk":
                    monkeypatch.setattr("builtins.open", full)
    monkeypatch.undo()
    os.chdir(folder)
    after = files()
    assert set(after) == {"run", "object", "function"}
    assert {name: after[name] for name in ("object", "function")} == {n: before[n] for n in ("object", "function")}
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "object")) == (4, "fine")


@pytest.mark.parametrize("has_notes", [True, False])
def test_a_save_that_fails_while_another_exception_is_on_its_way(folder, log, monkeypatch, has_notes):
    """The user's own stays the one that is raised; the failure is attached to it, and logged."""
    error = Stop()
    if not has_notes:
        monkeypatch.setattr(_errors, "hasattr", lambda thing, name: False, raising=False)
    with pytest.raises(Stop) as raised:
        with enable_counter("run") as counter:
            value = counter.save_load_object(Fails(), "object")
            for i in counter(range(9)):
                if i == 4:
                    value.broken = True
                    raise error
    assert raised.value is error
    says = "run: could not be saved, writing .*object: ValueError: too deep; what was saved is whole"
    assert len(log("ERROR")) == 1
    assert re.fullmatch(says, log("ERROR")[0])
    notes = log("ERROR") if has_notes and hasattr(error, "add_note") else []
    assert getattr(error, "__notes__", []) == notes
    assert files() == {}


def test_an_interrupt_of_the_function_itself_is_no_failure_of_the_save(folder):
    """What a function of the user raises that is no `Exception` goes through; nothing half-made stays behind."""

    def write(path):
        raise KeyboardInterrupt

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([write], [print], ["function"])
    with pytest.raises(KeyboardInterrupt):
        list(counter(range(3)))
    del counter
    assert files() == {}


# The words.


def test_system_errors_are_said_without_their_number():
    """All others with their type."""
    assert _errors.describe(OSError(errno.ENOENT, "No such file")) == "No such file"
    assert _errors.describe(OSError("plain")) == "plain"
    assert _errors.describe(KeyError("x")) == "KeyError: 'x'"

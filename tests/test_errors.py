"""What can go wrong, in words: each row of the table, and what it leaves."""

import builtins
import errno
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import py_restart
from py_restart import RestartError, _files, _journal, enable_counter, multi_count, simple_counter

PACKAGE = os.path.dirname(py_restart.__file__)


class Stop(Exception):
    """How a job is interrupted."""


class Plain:
    """Not a path."""


def save(position=3, **objects):
    """Leave a save behind, with an object for each name."""
    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            kept = [counter.save_load_object(value, name) for name, value in objects.items()]
            for i in counter(range(10)):
                if i == position:
                    raise Stop
    del kept
    return files()


def files():
    """Return what is in each file of the folder."""
    gc.collect()
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


class refused:
    """Expect an error that is the caller's fault: its words, and at most two frames of ours in its traceback."""

    def __init__(self, kind, words):
        self.raises = pytest.raises(kind, match=words)

    def __enter__(self):
        self.info = self.raises.__enter__()
        return self.info

    def __exit__(self, *error):
        is_right = self.raises.__exit__(*error)
        ours = [frame for frame in traceback.extract_tb(error[2]) if frame.filename.startswith(PACKAGE)]
        assert len(ours) <= 2, ours
        return is_right


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
        with refused(TypeError, "path|PathLike"):
            call()


@pytest.mark.parametrize("name", ["", "run\0"])
def test_what_can_be_no_path_is_a_value_error(folder, name):
    """The first would be the folder; no path has a NUL in it."""
    with refused(ValueError, re.escape(f"{name!r} is no path; give the path of a file")):
        enable_counter(name)


@pytest.mark.parametrize(
    "name, value, kind, words",
    [
        *[("save_span", span, TypeError, "whole number of items") for span in ("2", 1.0, None, True, [1])],
        *[("save_span", span, ValueError, "give 1 or more items") for span in (0, -1)],
        *[("save_interval", interval, TypeError, "give a number of seconds") for interval in ("often", "5", None, [1])],
        pytest.param("save_interval", 10**400, TypeError, "give a number of seconds", id="huge"),
        *[("save_interval", interval, ValueError, "give 0 or more seconds") for interval in (-1, float("nan"))],
    ],
)
def test_a_wrong_span_or_interval_is_an_error_at_the_call(folder, name, value, kind, words):
    """It names the argument and its value; nothing is left."""
    for call in (
        lambda: enable_counter("run", each_save=True, **{name: value}),
        lambda: simple_counter("run", range(3), **{name: value}),
    ):
        with refused(kind, f"run: {name} is {re.escape(repr(value))}; .*{words}"):
            call()
    assert files() == {}


@pytest.mark.parametrize("name", ["save_span", "save_interval"])
def test_what_does_nothing_without_each_save_is_named(folder, name):
    """It is the argument that the program gave."""
    with refused(ValueError, f"run: {name} does nothing without each_save; pass each_save=True"):
        enable_counter("run", **{name: 60})
    assert files() == {}


def test_what_is_neither_true_nor_false_is_an_error_at_the_call(folder):
    """A `save_span` without its name would turn on what is on, and save after every item."""
    for call in (
        lambda: simple_counter("run", range(3), 100),
        lambda: enable_counter("run", 100),
        lambda: enable_counter("run", True, 100),
        lambda: enable_counter("run", each_save=None),
    ):
        with refused(TypeError, "run: (use_tempfile|each_save) is (100|None); give True or False, and save_span by"):
            call()
    assert list(simple_counter("run", range(3), 1)) == [0, 1, 2]
    assert files() == {}


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


@pytest.mark.parametrize(
    "lists, kind, words",
    [
        (([print], [], ["a"]), ValueError, "save_funcs, load_funcs and func_paths have 1, 0, 1 entries"),
        (([print], [print], []), ValueError, "1, 1, 0"),
        (([], [print], ["a"]), ValueError, "0, 1, 1"),
        (([None], [print], ["a"]), TypeError, "None is not a function; give one"),
        (([print], ["load"], ["a"]), TypeError, "'load' is not a function; give one"),
        ((print, print, "a"), TypeError, "list"),
        (([print], [print], "a"), TypeError, "list"),
        (([print], [print], Path("a")), TypeError, "list"),
        ((print, [print], ["a"]), TypeError, "list"),
    ],
)
def test_lists_of_functions_that_do_not_fit_are_an_error_at_the_call(folder, lists, kind, words):
    """Of unequal length, of things that are no functions, or no lists at all: one path is not a list of paths."""
    with refused(kind, f"run: .*{words}"):
        enable_counter("run").save_load_funcs(*lists)


@pytest.mark.parametrize("source", [5, None, 1.5, SimpleNamespace(__iter__=lambda: iter([]))])
def test_what_is_not_iterable_is_a_type_error_at_the_call(folder, source):
    """Before the loop begins; nothing is left."""
    for call in (lambda: simple_counter("run", source), lambda: enable_counter("run", each_save=True)(source)):
        with refused(TypeError, "run: .* is not iterable; give an iterable, or a function that returns one"):
            call()
    assert files() == {}


def test_a_drive_is_no_url(folder):
    """One letter is no scheme, even where there is no such drive; nor is the name of a folder in another one."""
    for path in ("q:/x", "sub/data:/x"):
        with refused(RestartError, f"{path}: the folder .* does not exist; create it first"):
            enable_counter(path)


def test_a_folder_with_a_colon_at_its_end_is_no_url(folder):
    """Where it is there, it is meant."""
    os.mkdir("data:")
    assert list(simple_counter("data:/run", range(3))) == [0, 1, 2]
    assert os.listdir("data:") == []


@pytest.mark.parametrize(
    ("error", "why"),
    [(OSError("the model is busy"), "the model is busy"), (TimeoutError(), "TimeoutError"), (KeyError(), "KeyError")],
    ids=repr,
)
def test_an_oserror_without_a_number_that_a_function_raises_is_ours(folder, error, why):
    """A handler of signals may raise such a one anywhere, and has it back; what saves does not."""

    def save(path):
        raise error

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([save], [print], ["model"])
    with pytest.raises(RestartError, match=f"run: could not be saved, writing .*model: {why}; nothing had"):
        counter.save()
    assert files() == {".run.lock": Path(".run.lock").read_bytes()}


def test_a_program_that_sets_no_logging_up_prints_nothing_of_what_is_logged(folder):
    """Python would print what nobody takes, from warnings on; it was warned of as well."""
    code = """
import contextlib, logging
from py_restart import enable_counter

with contextlib.suppress(KeyError), enable_counter("run") as counter:
    counter.save_load_funcs([lambda path: None], [print], ["file"])
    for _ in counter(range(3)):
        raise KeyError
"""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(PACKAGE)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
        with refused(
            RestartError, "^nowhere/.*: the folder .*nowhere does not exist; create it first, or mount its disk$"
        ):
            call()


def test_a_folder_that_is_not_writable_is_an_error_at_once(folder, monkeypatch):
    """As the system says; root may write anywhere. What was saved there is not to be left for a new path."""
    other = folder / "other"
    other.mkdir()
    counter = enable_counter("run")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, *more: real(path, *more) and "other" not in path.split(os.sep))
    for call in (lambda: enable_counter("other/run"), lambda: counter.save_load_object(1, "other/object")):
        with refused(
            RestartError,
            "^other/.*: the folder .*other cannot be read and written to; mend that, or give a path in another",
        ):
            call()


def test_a_folder_that_can_be_written_and_not_read_is_an_error_at_once(folder, monkeypatch):
    """The names in it could not be flushed, and the first save would fail. Root may read anything."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not mode & os.R_OK)
    with refused(RestartError, "^run: the folder .* cannot be read and written to; mend that, or give a path in"):
        enable_counter("run")
    assert os.listdir() == []


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_path_that_is_no_file_is_an_error_at_once(folder, kind):
    """It stays as it is; a pipe would wait for ever."""
    os.mkdir("run") if kind == "folder" else os.mkfifo("run")
    with refused(RestartError, f"run: {'a folder' if kind == 'folder' else 'not a file'}; give the path of a file"):
        enable_counter("run")
    assert os.listdir() == ["run"]


@pytest.mark.parametrize("excess", [300, -5, -12])
def test_a_name_that_is_too_long_is_an_error_at_once(folder, left, excess):
    """And not at the save, after ten hours: what is staged beside it has a longer name."""
    longest = os.pathconf(".", "PC_NAME_MAX")
    name = "x" * (excess if excess > 0 else longest + excess)
    counter = enable_counter("run")
    for call in (
        lambda: enable_counter(name),
        lambda: counter.save_load_object(0, name),
        lambda: counter.save_load_funcs([print], [print], [name]),
    ):
        with refused(RestartError, "x+: .*File name too long"):
            call()
    kept = counter.save_load_object([], "x" * (longest - 25))
    counter.save()
    assert left() == [".run.lock", "run", "x" * (longest - 25)]
    del kept


@pytest.mark.parametrize(
    "content, says",
    [(b'{"format": "py_re', "cut short"), (b"mine\n", "not a progress file"), (os.urandom(500), "not a progress file")],
    ids=["cut", "somebody else's", "garbage"],
)
def test_a_progress_path_that_holds_something_else_is_an_error_and_stays_untouched(folder, content, says):
    """At the call; whichever way the counter is made."""
    Path("run").write_bytes(content)
    for make in (lambda: enable_counter("run"), lambda: simple_counter("run", range(3))):
        with refused(RestartError, f"^run: {says}.*; move it away, or give another path$"):
            make()
    with pytest.raises(RestartError):
        with multi_count():
            list(simple_counter("run", range(3)))
    assert files() == {"run": content}


def test_of_a_large_file_that_is_somebody_elses_no_more_is_read_than_a_progress_file_may_have(folder, monkeypatch):
    """The path of the data in place of that of the progress: reading it all would take the memory of the machine."""
    Path("run").write_bytes(b"data" * 1000_000)
    read, sizes = os.read, []
    monkeypatch.setattr(_journal, "_MOST", 1_000_000)
    monkeypatch.setattr(os, "read", lambda *arguments: sizes.append(len(data := read(*arguments))) or data)
    with refused(RestartError, "^run: not a progress file of py_restart; move it away, or give another path$"):
        enable_counter("run")
    assert sum(sizes) < 1_100_000


@pytest.mark.parametrize("is_saved", [False, True], ids=["afresh", "resumed"])
def test_a_bare_oserror_never_gets_out(folder, monkeypatch, is_saved):
    """Whichever call the system refuses, at the start, in the loop or at its end: our error, and nothing is locked."""
    names = ["open", "read", "write", "fsync", "close", "replace", "rename", "unlink", "listdir", "scandir"]
    places = [(os, name) for name in names] + [(builtins, "open"), (_files, "pwrite")]
    count = moment = refusals = 0

    def refusing(real):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if count != moment:
                return real(*arguments, **named)
            if real.__name__ == "close":  # the descriptor is gone all the same
                real(*arguments)
            raise OSError(errno.EIO, "Input/output error")

        return call

    def job(stop_at, way):
        with enable_counter("run", each_save=way is not Stop) as counter:
            seen = counter.save_load_object([], "object")
            for i in counter(range(10)):
                if i == stop_at and way is Stop:
                    raise Stop
                if i == stop_at:
                    break
                seen.append(i)

    while count >= moment:
        if is_saved:
            with pytest.raises(Stop):
                job(2, Stop)
        count, moment = 0, moment + 1
        with monkeypatch.context() as patch:
            for module, name in places:
                patch.setattr(module, name, refusing(getattr(module, name)))
            try:
                job(4, "break")
            except RestartError as error:
                refusals += 1
                assert re.search("(run|object): .*; ", str(error))
        counter = enable_counter("run")
        seen = counter.save_load_object([], "object")
        assert seen == list(range(counter.position)), moment
        counter.remove_files()
        del counter
        assert os.listdir() == []
    assert refusals > 5


# When an object is registered.


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 0, (i for i in "x")], ids=["lock", "lambda", "generator"])
def test_an_object_that_cannot_be_pickled_is_an_error_when_it_is_registered(folder, value):
    """Nothing is left, and the counter may be used for another one."""
    with refused(RestartError, "object: the object cannot be pickled: .*; register one that can"):
        enable_counter("run").save_load_object(value, "object")
    assert files() == {}


class Trainer:
    """What a person writes: it keeps its counter, and registers itself."""

    def __init__(self):
        self.counter = enable_counter("run")
        self.counter.save_load_object(self, "object")


def test_an_object_that_holds_its_counter_is_told_so(folder):
    """So is whoever hands one to a pool of processes: not a word of what a counter is made of."""
    with refused(RestartError, "object: .*run: a counter cannot be pickled or copied; keep it out of the object"):
        Trainer()
    with refused(TypeError, "run: a counter cannot be pickled or copied; .*makes its own"):
        pickle.dumps(enable_counter("run"))


@pytest.mark.parametrize("change", ["missing", "empty", "cut", "damaged", "longer", "a folder"])
def test_a_saved_file_that_is_not_as_it_was_is_an_error_when_it_is_registered(folder, change):
    """It is never unpickled, and never written over; what starting afresh would delete is named, all of it."""
    whole = save(object=[1, 2, 3], other=[1])["object"]
    path = Path("object")
    path.unlink()
    if change == "a folder":
        path.mkdir()
    elif change != "missing":
        contents = {"empty": b"", "cut": whole[:-1], "damaged": whole[:5] + b"?" + whole[6:], "longer": whole + b"."}
        path.write_bytes(contents[change])
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir()}
    says = "missing, but run was saved with it" if change == "missing" else "changed or damaged since it was saved"
    with refused(RestartError, f"object: {says}.*; put .*back.*, or .*delete ") as error:
        with enable_counter("run") as counter:
            counter.save_load_object([], "object")
    advice = str(error.value).split("delete ")[-1]
    assert re.search(r"\brun\b", advice) and re.search(r"\bother\b", advice)
    gc.collect()
    assert before == {name: os.stat(name).st_mtime_ns for name in os.listdir()}


class Trap:
    """Unpickling this is a disaster."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_only_what_the_progress_file_names_is_unpickled(folder):
    """A pickle that somebody has put there is not even opened as one: changed, or beside no save at all."""
    save(object=[1])
    Path("object").write_bytes(pickle.dumps(Trap()))
    with refused(RestartError, "object: changed or damaged"):
        enable_counter("run").save_load_object([], "object")
    gc.collect()
    os.unlink("run")
    with refused(RestartError, "object: exists already, and was not saved with run; .*move it away"):
        enable_counter("run").save_load_object([], "object")
    assert not os.path.exists("sprung")


def test_an_object_that_somebody_changes_between_two_saves_is_an_error_and_untouched(folder):
    """To move it away, or to give another path, would make the next start an error."""
    with refused(
        RestartError, "object: changed or damaged .*; put back what was saved, or to start afresh delete run and"
    ):
        counter = enable_counter("run", each_save=True)
        kept = counter.save_load_object([], "object")
        for i in counter(range(3)):
            kept.append(i)
            if i == 1:
                saved = Path("object").read_bytes()
                Path("object").write_text("mine")
    assert Path("object").read_text() == "mine"
    Path("object").write_bytes(saved)
    counter = enable_counter("run")
    assert (counter.save_load_object([], "object"), counter.position) == ([0], 1)


def test_a_file_that_belongs_to_no_save_is_an_error_and_untouched(folder):
    """Whose it is, only the user knows: another program's, or from an earlier run whose progress file was deleted."""
    before = save(object=[1])
    os.unlink("run")
    for make in (
        lambda counter: counter.save_load_object([], "object"),
        lambda counter: counter.save_load_funcs([print], [print], ["object"]),
    ):
        with refused(RestartError, "object: exists already, and was not saved with run; give another.*an earlier run"):
            with enable_counter("run") as counter:
                make(counter)
    assert files() == {"object": before["object"]}


def test_a_foreign_file_that_appears_after_the_registration_is_not_overwritten(folder):
    """By the first save neither."""
    with pytest.raises(RestartError, match="object: exists already, and was not saved with run"):
        counter = enable_counter("run", each_save=True)
        seen = counter.save_load_object([], "object")
        for i in counter(range(3)):
            Path("object").write_text("mine")
            seen.append(i)
    assert Path("object").read_text() == "mine"


def test_an_object_that_cannot_be_loaded_is_an_error_when_it_is_registered(folder, monkeypatch):
    """Its class has gone: the way back to it comes before the advice to delete, and nothing is lost."""
    before = save(object=Plain())
    with monkeypatch.context() as patch:
        patch.delattr(f"{__name__}.Plain")
        with refused(
            RestartError, "object: cannot be loaded: AttributeError: .*Plain.*(version|class).*delete"
        ) as error:
            with enable_counter("run") as counter:
                counter.save_load_object([], "object")
    assert isinstance(error.value.__cause__, AttributeError)
    assert files() == before
    assert isinstance(enable_counter("run").save_load_object(None, "object"), Plain)


def test_a_function_that_cannot_load_is_an_error_when_it_is_registered(folder):
    """In its words, and nothing is lost."""

    def load(path):
        raise ArithmeticError("of another shape")

    with pytest.raises(Stop):
        with enable_counter("run") as counter:
            counter.save_load_funcs([lambda path: Path(path).write_text("x")], [print], ["data"])
            for _ in counter(range(3)):
                raise Stop
    before = files()
    with pytest.raises(RestartError, match="data: cannot be loaded: ArithmeticError: of another shape; mend the "):
        enable_counter("run").save_load_funcs([print], [load], ["data"])
    assert files() == before


# When the loop starts.


def test_an_object_that_is_not_registered_any_more_is_an_error_when_the_loop_starts(folder):
    """Going on without it would count from nothing, and would delete it at the end."""
    before = save(first=[1], second=[2])
    with refused(RestartError, "run: saved with .*second, which is not registered; register it, or .*delete"):
        with enable_counter("run") as counter:
            kept = counter.save_load_object([], "first")
            list(counter(range(10)))
    assert (files(), kept) == (before, [1])


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
    kept = counter.save_load_object(value, "object")
    counter.save_load_funcs([write], [print], ["function"])

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    reason = "No space left on device" if way == "disk" else "ValueError: too deep"
    with pytest.raises(RestartError, match=f"run: could not be saved.*: {reason}; .*what was saved before is whole"):
        for i in counter(range(9)):
            before = files()
            if i == 4:
                value.broken = way == "object"
                if way == "function":
                    broken.append(True)
                if way == "disk":
                    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    os.chdir(folder)
    after = files()
    del before[".run.lock"], kept
    assert set(after) == {"run", "object", "function"}
    assert {name: after[name] for name in ("object", "function")} == {n: before[n] for n in ("object", "function")}
    counter = enable_counter("run")
    assert (counter.position, counter.save_load_object(None, "object")) == (4, "fine")


@pytest.mark.parametrize(
    ("name", "at"),
    [("mkdir", r"\.model\.\w+-a"), ("replace", "object"), ("", "nowhere/model")],
    ids=["staging", "settling", "a function"],
)
def test_an_error_names_the_file_at_fault(folder, monkeypatch, name, at):
    """It may be on another disk than the progress file, or another user's."""
    (folder / "other").mkdir()
    real = getattr(os, name, None)

    def refuses(*given):
        paths = [path for path in given if not isinstance(path, int)]  # not the mode
        if not re.fullmatch(at, os.path.basename(paths[-1])):
            return real(*given)
        raise OSError(errno.EPERM, "Operation not permitted", paths[0], None, *paths[1:])

    def write(path):
        Path(path if name else "nowhere/model").write_text("all")

    with (
        monkeypatch.context() as patch,
        pytest.raises(RestartError, match=f"^run: (could not be|saved, but not) .*: .*/?{at}; "),
    ):
        with enable_counter("run", each_save=True) as counter:
            _kept = counter.save_load_object([], "other/object")
            counter.save_load_funcs([write], [print], ["other/model"])
            if name:
                patch.setattr(os, name, refuses)
            for _ in counter(range(2)):
                pass


def test_an_error_of_renaming_names_both_files(folder):
    """Which of the two it is the system does not tell."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: os.replace("missing", path)], [print], ["model"])
    with pytest.raises(
        RestartError, match=r", writing .*/model: No such file or directory: missing -> .*/model; nothing"
    ):
        counter.save()


@pytest.mark.parametrize("is_error", [False, True], ids=["", "warnings are errors"])
@pytest.mark.parametrize("kind", [Stop, SystemExit])
def test_a_save_that_fails_while_another_exception_is_on_its_way(folder, log, kind, is_error, capsys, monkeypatch):
    """The user's own stays the one that is raised; the failure is attached to it, logged, and warned of.

    Where warnings are errors, it is printed like one below a `SystemExit`, which shows nobody its note. What the
    program does at an exception that nobody catches may be to exit: that is not for this one.
    """
    error = kind("enough")
    monkeypatch.setattr(sys, "excepthook", lambda *_: sys.exit(7))

    def job():
        with enable_counter("run") as counter:
            value = counter.save_load_object(Fails(), "object")
            for i in counter(range(9)):
                if i == 4:
                    value.broken = True
                    raise error

    says = "run: could not be saved, writing .*object: ValueError: too deep"
    with pytest.raises(kind) as raised:
        if is_error:
            job()
        else:
            with pytest.warns(UserWarning, match=says):
                job()
    assert raised.value is error
    assert len(log("ERROR")) == 1 and re.search(says, log("ERROR")[0])
    assert any(re.search(says, note) for note in error.__notes__)
    assert bool(re.search(f"^UserWarning: {says}", capsys.readouterr().err)) == (is_error and kind is SystemExit)
    assert files() == {}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_a_function_raises_that_is_no_exception_goes_through(folder, kind):
    """A stop of the user's own is no failure of the save; nothing half-made stays behind."""

    def write(path):
        raise kind

    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([write], [print], ["function"])
    with pytest.raises(kind):
        list(counter(range(3)))
    del counter
    assert files() == {}


def test_a_save_function_that_exits_does_not_hide_the_exception(folder):
    """The one that is on its way stays the one that is raised."""

    def write(path):
        raise SystemExit("no space")

    with pytest.raises(KeyError) as raised, pytest.warns(UserWarning, match="no space"):
        with enable_counter("run") as counter:
            counter.save_load_funcs([write], [print], ["data"])
            for _ in counter(range(3)):
                raise KeyError
    assert any("no space" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("path", ["git+ssh://host/x", Path("s3://bucket/x"), "a-b_c://host/x", "simplecache::s3://x/y"])
def test_what_looks_like_a_url_is_an_error(folder, path):
    """A `Path` has lost one of its slashes."""
    with pytest.raises(ValueError, match="a URL; give the path of a file"):
        enable_counter(path)


def test_a_working_folder_that_was_deleted_is_an_error_that_names_the_path(folder, monkeypatch):
    """No bare OSError gets out."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(RestartError, match="run: cannot be found: .*; give an absolute path"):
        enable_counter("run")
    counter = enable_counter(folder / "run")
    for register in (
        lambda: counter.save_load_object([], "object"),
        lambda: counter.save_load_funcs([print], [print], ["object"]),
    ):
        with pytest.raises(RestartError, match="object: cannot be found: .*; give an absolute path"):
            register()


def test_a_pipe_at_the_name_of_the_lock_file_holds_nobody_up(folder):
    """In a shared folder anybody can put one there."""
    os.mkfifo(".run.lock")
    with pytest.raises(RestartError, match="run: .*.run.lock is in the way, and not of py_restart; move it away"):
        enable_counter("run")
    assert os.listdir() == [".run.lock"]


def test_a_warning_of_the_programs_own_keeps_its_traceback(folder):
    """Where warnings are errors, only ours say all that there is to say."""

    def source():
        warnings.warn("mine", UserWarning, stacklevel=1)
        yield 1

    with pytest.raises(UserWarning, match="mine") as raised:
        list(simple_counter("run", source()))
    assert "source" in [entry.name for entry in raised.traceback]


@pytest.mark.parametrize("name", [{}, {"__name__": "py_restart_jobs"}], ids=["no name", "a name like ours"])
def test_the_frames_of_a_program_stay_in_the_traceback_whatever_its_name(folder, name):
    """Code that is run by `exec` may have none, and a module of the user one that begins as ours does."""
    program = compile("def work(counter):\n    for i in counter(range(3)):\n        1 / 0\n", "job.py", "exec")
    exec(program, name)
    with pytest.raises(ZeroDivisionError) as error, enable_counter("run") as counter:
        name["work"](counter)
    assert [frame.name for frame in traceback.extract_tb(error.value.__traceback__)][-1] == "work"
    assert enable_counter("run").position == 0 and os.path.exists("run")

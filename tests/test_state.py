"""What is saved beside the position: objects, and what functions write."""

import gc
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from py_restart import RestartError, enable_counter


class Stop(Exception):
    """How a job is interrupted."""


def loaded(path):
    """Return the object that is saved at a path."""
    return pickle.loads(Path(path).read_bytes())


# Objects.


def test_a_large_object_is_not_copied_as_it_is_registered(folder):
    """A text, bytes or a tuple that may stand in the code is: a new one tells whether anybody else has it."""
    large, small = b"ab" * 5000, b"ab" * 50
    with enable_counter("run") as counter:
        assert counter.save_load_object(large, "large") is large
        assert counter.save_load_object(small, "small") == small and counter.object is not small


def test_any_number_of_objects_each_with_its_own_path(folder, left):
    """Two objects on one counter, each a plain pickle at its path, and `object` is the last one registered."""

    def job(stop_at):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "seen")
            total = counter.save_load_object(0, Path("total"))
            for i in counter(range(10)):
                if i == stop_at:
                    raise Stop
                seen.append(i)
                total += i
                counter.object = total
            return seen, counter.object

    with pytest.raises(Stop):
        job(4)
    assert (loaded("seen"), loaded("total")) == ([0, 1, 2, 3], 6)
    assert job(None) == (list(range(10)), 45)
    assert left() == []


def test_none_is_an_object_like_any_other(folder):
    """Nothing saved and None saved are two things, in both directions."""
    for first, then in ((None, 1), (1, None)):
        with pytest.raises(Stop):
            with enable_counter("run") as counter:
                assert counter.save_load_object(first, "object") == first
                for i in counter(range(3)):
                    counter.object = then
                    if i == 1:
                        raise Stop
        with enable_counter("run") as counter:
            assert counter.save_load_object("new", "object") == then
            assert counter.object == then
            list(counter(range(3)))


def test_a_copy_of_the_object_is_not_what_is_saved(folder):
    """What was registered or assigned last is saved, with the changes made to it in place."""
    with enable_counter("run", each_save=True) as counter:
        seen = counter.save_load_object([], "seen")
        for i in counter(range(4)):
            if i == 2:
                assert loaded("seen") == [0, 1]
                seen = [*seen, "new"]
                counter.object = seen
            if i == 3:
                assert loaded("seen") == [0, 1, "new", 2]
            seen.append(i)


def test_object_without_an_object_is_an_error(folder):
    """To read it and to assign it; functions are no objects."""
    counter = enable_counter("run")
    counter.save_load_funcs([print], [print], ["function"])
    with pytest.raises(RestartError, match="run: no object is registered; call save_load_object first"):
        _ = counter.object
    with pytest.raises(RestartError, match="run: no object is registered"):
        counter.object = 1


def test_what_the_program_registers_in_its_loop_is_an_error(folder):
    """It would not be in the saves that were made."""
    with enable_counter("run") as counter:
        for _ in counter(range(1)):
            with pytest.raises(RestartError, match="run: its loop has begun; register before the loop"):
                counter.save_load_object([], "seen")


def test_registering_writes_nothing_and_calls_no_function(folder, left):
    """What can be pickled is known before the loop, and costs no file; a model is not written for nothing."""

    def refuse(path):
        raise AssertionError(path)

    counter = enable_counter("run")
    counter.save_load_object(b"x" * 10**6, "object")
    counter.save_load_funcs([refuse], [refuse], ["function"])
    assert left() == [".run.lock"]


class Settings:
    """A class that a program uses as a place for its variables."""

    total = 0


@pytest.mark.parametrize("value", [Settings, loaded], ids=["class", "function"])
def test_what_is_pickled_by_its_name_alone_is_warned_of(folder, value):
    """Nothing that the program puts into it would ever be saved."""
    with enable_counter("run") as counter:
        with pytest.warns(UserWarning, match="saved by its name alone, without contents; register an object"):
            assert counter.save_load_object(value, "object") is value


def test_where_warnings_are_errors_that_one_is_no_failure_to_pickle(folder):
    """It says what is the matter; what cannot be pickled at all is that, and not warned of besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="by its name alone, without contents; register an object$"):
            enable_counter("run").save_load_object(Settings, "object")
        with pytest.raises(RestartError, match="cannot be pickled: .*<lambda>"):
            enable_counter("run").save_load_object(lambda: None, "object")


def test_a_path_is_free_again_when_its_counter_is_done(folder, left):
    """The description uses `temp_sum.pickle` for two counters, one after the other."""
    for _ in range(2):
        with enable_counter("run") as counter:
            seen = counter.save_load_object([], "object")
            seen += counter(range(2))
            assert seen == [0, 1]
    assert left() == []


# Functions.


def test_functions_are_called_with_the_name_that_was_given_and_its_type(folder):
    """The file name, suffix included; a str where a str was given, a Path where a Path was."""
    calls = []

    def save(path):
        calls.append(("save", type(path), os.path.basename(path)))
        Path(path).write_text("x")

    def load(path):
        calls.append(("load", type(path), str(path)))
        assert Path(path).read_text() == "x"

    def job(stop_at):
        with enable_counter("run") as counter:
            counter.save_load_funcs([save, save], [load, load], ["a.b.npy", Path("c.pth")])
            for i in counter(range(3)):
                if i == stop_at:
                    raise Stop

    kind = type(Path())
    with pytest.raises(Stop):
        job(1)
    assert calls == [("save", str, "a.b.npy"), ("save", kind, "c.pth")]
    calls.clear()
    job(None)
    assert calls == [("load", str, str(folder / "a.b.npy")), ("load", kind, str(folder / "c.pth"))]


def test_a_function_may_write_a_folder(folder, left):
    """With folders in it; it is saved, replaced, loaded and removed as a whole."""
    state = {"n": 0}

    def save(path):
        os.makedirs(os.path.join(path, "deep", "empty"))
        for n in range(state["n"]):
            Path(path, "deep", f"{n}.txt").write_text(str(n))
        os.symlink("deep", os.path.join(path, "link"))

    def load(path):
        state["n"] = len(list(Path(path, "link").glob("*.txt")))

    def job(stop_at):
        counter = enable_counter("run", each_save=True)
        counter.save_load_funcs([save], [load], ["folder"])
        for i in counter(range(6)):
            assert state["n"] == i
            if i == stop_at:
                return
            state["n"] += 1

    job(4)
    assert left() == ["folder", "run"]
    assert sorted(os.listdir("folder/deep")) == ["0.txt", "1.txt", "2.txt", "3.txt", "empty"]
    state["n"] = 0
    job(None)
    assert state["n"] == 6
    assert left() == []


def test_a_function_that_writes_another_name_gets_an_error_that_names_it(folder, left):
    """As `numpy.save` does with a name without `.npy`. Nothing stays behind."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: Path(path + ".npy").write_text("x")], [print], ["array"])
    with pytest.raises(
        RestartError, match="array: .*wrote array.npy; have it write all to that path, or give the path its suffix$"
    ):
        for _ in counter(range(3)):
            pass
    del counter
    gc.collect()
    assert left() == []


def test_a_function_that_writes_nothing_gets_an_error(folder):
    """It is said at the first save, not when the next run finds nothing."""
    counter = enable_counter("run", each_save=True)
    counter.save_load_funcs([lambda path: None], [print], ["array"])
    with pytest.raises(
        RestartError, match="array: the function to save it wrote nothing there; have it write all to that path"
    ):
        counter.save()


def test_an_empty_list_of_functions_is_nothing(folder, left):
    """A list that a program makes may be empty."""
    with enable_counter("run") as counter:
        counter.save_load_funcs([], [], [])
        list(counter(range(2)))
    assert left() == []


def test_an_object_of_which_the_system_writes_a_part_at_a_time_is_whole(folder, monkeypatch):
    """It takes 2 GB at most (write(2)), and less where a mount or a signal is in the way."""
    real = os.write
    with pytest.raises(Stop), enable_counter("run") as counter:
        counter.save_load_object([b"x" * 100_000, bytearray(b"y" * 100_000), list(range(1000))], "object")
        monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:4093]))
        for _ in counter(range(1)):
            raise Stop
    assert enable_counter("run").save_load_object([], "object") == [b"x" * 100_000, b"y" * 100_000, [*range(1000)]]


@pytest.mark.parametrize("order", ["C", "F", "none"])
def test_a_large_array_is_an_object_like_any_other(folder, monkeypatch, order):
    """Its pickle hands over its own buffer, which has no length in bytes and is not in the order of C."""
    real, whole = os.write, np.arange(60_000.0).reshape(200, 300)
    array = whole[::2, ::2] if order == "none" else np.array(whole, order=order)
    with pytest.raises(Stop), enable_counter("run") as counter:
        kept = counter.save_load_object({"array": array}, "object")
        monkeypatch.setattr(os, "write", lambda file, data: real(file, memoryview(data).cast("B")[:4093]))
        for _ in counter(range(1)):
            kept["array"][0, 0] = 7
            raise Stop
    loaded = enable_counter("run").save_load_object({}, "object")["array"]
    array[0, 0] = 7
    assert np.array_equal(loaded, array) and loaded.dtype == array.dtype

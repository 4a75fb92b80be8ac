"""What is saved beside the position, by itself."""

import pickle
import threading
from pathlib import Path

import pytest

from py_restart._state import Functions, Object


def test_an_object_is_pickled_as_it_is_when_it_is_saved(folder):
    """Changes made in place count, and a value that was assigned."""
    state = Object([1], "object")
    state.value.append(2)
    state.save("elsewhere")
    assert pickle.loads(Path("elsewhere").read_bytes()) == [1, 2]
    state.value = 3
    state.save("object")
    state.value = None
    state.load()
    assert state.value == 3


def test_the_rehearsal_pickles_to_nowhere(folder, left):
    """What cannot be pickled is known before the loop; what can costs no file."""
    Object(b"x" * 10**6, "object").rehearse()
    with pytest.raises(TypeError, match="pickle"):
        Object(threading.Lock(), "object").rehearse()
    assert left() == []


def test_functions_get_the_path_in_the_type_that_was_given(folder):
    """The path to save to is another one than the path to load from."""
    calls = []
    state = Functions(lambda path: calls.append(path), lambda path: calls.append(path), "final", Path)
    state.save("staged/final")
    state.load()
    assert calls == [Path("staged/final"), Path("final")]


def test_the_rehearsal_calls_no_function(folder):
    """A model is not written for nothing."""

    def refuse(path):
        raise AssertionError(path)

    Functions(refuse, refuse, "final", str).rehearse()

"""The examples in the docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

import py_restart

MODULES = ["py_restart", *(f"py_restart.{module.name}" for module in pkgutil.iter_modules(py_restart.__path__))]


def examples():
    """Find the docstrings that have examples, each once."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        names = {public: getattr(py_restart, public) for public in py_restart.__all__}
        yield from (test for test in finder.find(importlib.import_module(name), extraglobs=names) if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_an_example_in_a_docstring_does_what_it_says(example, folder, left):
    """In an empty folder, which is empty afterwards."""
    results = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example)
    assert results.failed == 0 and results.attempted
    assert left() == []


@pytest.mark.parametrize("name", ["enable_counter", "multi_count", "simple_counter"])
def test_the_documented_names_have_an_example(name):
    """A person who asks for help sees how it is used."""
    assert (
        f">>> with {name}(" in getattr(py_restart, name).__doc__ or f"in {name}(" in getattr(py_restart, name).__doc__
    )


def test_every_public_name_and_method_is_documented():
    """`help()` says what it does, and shows it."""
    for name in py_restart.__all__:
        assert getattr(py_restart, name).__doc__
    for name, member in vars(py_restart.CounterClosier).items():
        if not name.startswith("_") or name == "__call__":
            assert ">>> " in member.__doc__, name

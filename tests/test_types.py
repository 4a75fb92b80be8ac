"""What a type checker knows of the loops: the types of their items, and of what is loaded."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import py_restart

SNIPPET = """
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import assert_type

from py_restart import CounterClosier, InUseError, RestartError, config, enable_counter, multi_count, simple_counter


def lines(start: int) -> Iterator[str]:
    yield str(start)


with multi_count():
    with enable_counter("a.tmp", True, False, 1, save_interval=1.5) as counter:
        assert_type(counter, CounterClosier)
        total = counter.save_load_object({"sum": 0}, Path("sum.pickle"))
        assert_type(total, dict[str, int])
        assert_type(counter.position, int)
        counter.object = total
        counter.save_load_funcs([print], [lambda path: print(path)], [Path("x")])
        counter.save_load_funcs([print], [print], ["x"])
        for i in counter(range(10)):
            assert_type(i, int)
        counter.save()
        counter.remove_files()

for name, number in enable_counter(Path("b.tmp"), each_save=True)(zip(["a"], [1.5])):
    assert_type(name, str)
    assert_type(number, float)
for line in simple_counter("c.tmp", lines, True, 10):
    assert_type(line, str)
for item in simple_counter("d.tmp", [b"x", b"y"]):
    assert_type(item, bytes)

loop = simple_counter("e.tmp", {1: "a"})
generator: Generator[int, None, None] = loop
assert_type(next(loop), int)
assert_type(loop.position, int)
assert_type(len(loop), int)
assert config.parent is None
error: RestartError = InUseError("in use")
assert isinstance(error, Exception)
"""
WRONG = """
from py_restart import enable_counter, simple_counter

simple_counter(1, range(3))
simple_counter("a.tmp", 5)
enable_counter("a.tmp", save_span="often")
enable_counter("a.tmp", True, False, 1, 2.0)
for i in simple_counter("a.tmp", ["x"]):
    i + 1
enable_counter("a.tmp").position = 3
"""


def run(tool, folder, *arguments):
    """Run a type checker that is in the extra dev, and return what it prints."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is in the extra dev")
    package = str(Path(py_restart.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=folder,
        env={**os.environ, "MYPYPATH": package, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def test_element_types_flow_through_the_loops(tmp_path):
    """`mypy --strict` knows them, and finds each wrong argument; one run for both."""
    (tmp_path / "right.py").write_text(SNIPPET)
    (tmp_path / "wrong.py").write_text(WRONG)
    options = ["--strict", "--python-version=3.11", "--cache-dir=cache"]
    lines = run("mypy", tmp_path, *options, "right.py", "wrong.py").splitlines()
    errors = [line for line in lines if ": error:" in line]
    assert [line for line in errors if not line.startswith("wrong.py")] == []
    assert sorted({int(line.split(":")[1]) for line in errors}) == [4, 5, 6, 7, 9, 10]


def test_every_public_name_has_a_complete_type(tmp_path):
    """As `pyright --verifytypes` counts it."""
    output = run("pyright", tmp_path, "--verifytypes", "py_restart", "--ignoreexternal")
    assert "Type completeness score: 100%" in output, output


def test_what_only_a_type_checker_reads_can_be_run():
    """The names that it imports are there; at run time none of them is, and each stands for nothing."""
    code = """
import pathlib, types
from py_restart import _typing

text = pathlib.Path(_typing.__file__).read_text(encoding="utf-8")
for is_checked in (False, True):
    module = types.ModuleType("again")
    text = text.replace(f"TYPE_CHECKING = {not is_checked}", f"TYPE_CHECKING = {is_checked}")
    exec(compile(text, _typing.__file__, "exec"), vars(module))
    print(*(getattr(module, name) for name in ("Any", "T", "F", "Stamp", "Moment")), sep=", ")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(py_restart.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        ", ".join(["<class 'object'>"] * 5),
        "typing.Any, ~T, ~F, dict[str, int | str], dict[str, typing.Any]",
    ]


def test_the_package_says_that_it_is_typed():
    """py.typed, PEP 561."""
    assert (Path(py_restart.__file__).parent / "py.typed").exists()

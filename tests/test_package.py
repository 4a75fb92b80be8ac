"""The package from outside: names, signatures, version, and what it imports."""

import ast
import contextlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

import py_restart
from py_restart import CounterClosier, RestartError, config, enable_counter, multi_count, simple_counter

PACKAGE = Path(py_restart.__file__).parent
SOURCES = sorted(PACKAGE.glob("*.py"))
REPOSITORY = Path(__file__).parents[1]


def test_the_public_names_are_these():
    """The documented three, and three more; nothing else, underscores aside."""
    names = {"enable_counter", "simple_counter", "multi_count", "CounterClosier", "RestartError", "config"}
    assert set(py_restart.__all__) == names
    assert {name for name in vars(py_restart) if not name.startswith("_")} == names


def test_the_modules_are_private():
    """What is public is imported from `py_restart`."""
    assert all(path.name.startswith("_") for path in SOURCES)


@pytest.mark.parametrize(
    "function, signature",
    [
        (enable_counter, "(file_path, use_tempfile=True, each_save=False, save_span=1, *, save_interval=0.0)"),
        (simple_counter, "(file_path, iterable, use_tempfile=True, save_span=1, *, save_interval=0.0)"),
        (multi_count, "()"),
        (CounterClosier.__call__, "(self, iterable)"),
        (CounterClosier.save_load_object, "(self, obj, obj_path)"),
        (CounterClosier.save_load_funcs, "(self, save_funcs, load_funcs, func_paths)"),
        (CounterClosier.save, "(self)"),
        (CounterClosier.remove_files, "(self)"),
    ],
)
def test_the_order_of_the_parameters_and_their_defaults_are_fixed(function, signature):
    """A program that was written for the description runs."""
    found = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    assert str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == signature
    assert found.return_annotation is not inspect.Signature.empty


def test_what_a_counter_has():
    """A context manager with two properties."""
    assert isinstance(CounterClosier.object, property) and CounterClosier.object.fset is not None
    assert isinstance(CounterClosier.position, property) and CounterClosier.position.fset is None
    assert hasattr(CounterClosier, "__enter__") and hasattr(CounterClosier, "__exit__")


def test_a_loop_is_a_generator(folder):
    """With `position`, and with `len()` where the iterable has one."""
    loop = simple_counter("run", range(5))
    assert isinstance(loop, Generator)
    assert (loop.position, len(loop)) == (0, 5)
    loop = simple_counter("other", (i for i in range(5)))
    with pytest.raises(TypeError, match="other: the iterable of this loop has no length"):
        len(loop)


def test_enable_counter_returns_a_counter(folder):
    """And `with` gives the same one."""
    counter = enable_counter("run")
    assert type(counter) is CounterClosier
    with counter as entered:
        assert entered is counter


def test_restart_error_is_an_exception_of_this_package_without_subclasses():
    """One error to catch, under the name by which a program imports it."""
    assert RestartError.__bases__ == (Exception,)
    assert RestartError.__subclasses__() == []
    assert f"{RestartError.__module__}.{RestartError.__qualname__}" == "py_restart.RestartError"


def test_config_has_no_parent_outside_a_block():
    """And it cannot be assigned."""
    assert config.parent is None
    with pytest.raises(AttributeError):
        config.parent = 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_outside_the_standard_library_is_imported(path):
    """Anywhere in the package, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


def test_no_message_is_an_assertion_on_input():
    """`python -O` takes assertions away; what is wrong is said in words."""
    for path in SOURCES:
        assert not re.search(r"raise (Base)?Exception\b", path.read_text(encoding="utf-8")), path


def test_importing_loads_little():
    """What takes long to import is imported where it is used."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); before = set(sys.modules); import py_restart"
    code += "; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-E",
            "-W",
            "error",
            "-c",
            f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    slow = {
        "logging",
        "json",
        "pickle",
        "hashlib",
        "pathlib",
        "socket",
        "tempfile",
        "asyncio",
        "inspect",
        "dataclasses",
    }
    assert not slow & set(done.stdout.split())


def test_the_version_is_the_same_everywhere():
    """In the package, in pyproject.toml and in what is installed, as far as they are there."""
    assert py_restart.__version__ == "1.0.0"
    project = REPOSITORY / "pyproject.toml"
    if project.exists():
        assert re.search(r'^version = "(.*)"$', project.read_text(encoding="utf-8"), re.M)[1] == py_restart.__version__
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        assert importlib.metadata.version("py_restart") == py_restart.__version__


def test_a_counter_and_a_loop_show_what_is_documented_and_nothing_else():
    """Everything else of theirs begins with an underscore, whatever is looked at: class or instance."""
    counter = py_restart.enable_counter("run", use_tempfile=False)
    loop = counter([1])
    assert {name for name in dir(counter) if name[0] != "_"} == {
        "object",
        "position",
        "remove_files",
        "save",
        "save_load_funcs",
        "save_load_object",
    }
    assert {name for name in dir(loop) if name[0] != "_"} == {"close", "position", "send", "throw"}


def test_what_only_a_type_checker_reads_can_be_run():
    """The names that it imports are there. In a process of its own: a module that runs twice hooks into fork twice."""
    code = """
import pathlib, types, py_restart

for path in sorted(pathlib.Path(py_restart.__file__).parent.glob("_*.py")):
    module = types.ModuleType(f"py_restart.{path.stem}_again")
    module.__package__ = "py_restart"
    text = path.read_text(encoding="utf-8").replace("TYPE_CHECKING = False", "TYPE_CHECKING = True")
    exec(compile(text, str(path), "exec"), vars(module))
    print(path.stem, vars(module).get("TYPE_CHECKING"))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(py_restart.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("True") == sum("TYPE_CHECKING = False" in path.read_text() for path in SOURCES) > 0

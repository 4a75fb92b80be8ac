"""The package from outside: names, signatures, version, what it imports, and how it is built."""

import ast
import contextlib
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import py_restart
from py_restart import CounterClosier, InUseError, RestartError, config, enable_counter, multi_count, simple_counter

PACKAGE = Path(py_restart.__file__).parent
SOURCES = sorted(PACKAGE.glob("**/*.py"))
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
REPOSITORY = Path(__file__).parents[1]


def child(code, *options):
    """Run code in a fresh interpreter that finds the package, and return how it ended."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60)


# Names.


def test_the_public_names_are_these():
    """The documented three, and four more; nothing else, underscores aside."""
    names = {"enable_counter", "simple_counter", "multi_count"}
    names |= {"CounterClosier", "RestartError", "InUseError", "config"}
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
    assert isinstance(function, type) or found.return_annotation is not inspect.Signature.empty


def test_a_counter_and_a_loop_show_what_is_documented_and_nothing_else(folder):
    """Everything else of theirs begins with an underscore; a counter is its own context, with two properties."""
    counter = enable_counter("run", use_tempfile=False)
    loop = counter([1])
    methods = {"remove_files", "save", "save_load_funcs", "save_load_object"}
    assert type(counter) is CounterClosier
    assert {name for name in dir(counter) if name[0] != "_"} == {"object", "position", *methods}
    assert {name for name in dir(loop) if name[0] != "_"} == {"close", "position", "send", "throw"}
    assert CounterClosier.object.fset is not None and CounterClosier.position.fset is None
    with counter as entered, multi_count() as block:
        assert entered is counter
        assert [name for name in dir(block) if name[0] != "_"] == []


def test_it_can_be_imported_where_a_process_has_no_limits():
    """Windows has no `resource`, nor has Pyodide."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); sys.modules['resource'] = None; import py_restart"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_errors_are_exceptions_of_this_package():
    """One error to catch, with one that will pass by itself, under the names by which a program imports them."""
    assert RestartError.__bases__ == (Exception,)
    assert RestartError.__subclasses__() == [InUseError] and InUseError.__subclasses__() == []
    for error in (RestartError, InUseError):
        assert f"{error.__module__}.{error.__qualname__}" == f"py_restart.{error.__name__}"


VENDORED = """
import pickle, traceback
from app.vendor.py_restart import InUseError, RestartError, enable_counter, simple_counter

for i in simple_counter("run", {1}): ...
try:
    enable_counter("run")(5)
except TypeError as error:
    print(len(traceback.extract_tb(error.__traceback__)))
for kind in (RestartError, InUseError):
    print(type(pickle.loads(pickle.dumps(kind("why")))) is kind, kind)
"""


def test_a_copy_inside_another_package_is_the_same(folder):
    """Its warnings and tracebacks show the lines of the program, and its errors come back from a worker process."""
    shutil.copytree(PACKAGE, folder / "app" / "vendor" / "py_restart")
    Path("job.py").write_text(VENDORED)
    done = subprocess.run([sys.executable, "job.py"], capture_output=True, text=True, timeout=60)
    assert "/job.py:5: UserWarning: run: the order of set" in done.stderr
    name = "app.vendor.py_restart"
    assert done.stdout.splitlines() == [
        "1",
        f"True <class '{name}.RestartError'>",
        f"True <class '{name}.InUseError'>",
    ]


def test_config_has_no_parent_outside_a_block():
    """And it cannot be assigned."""
    assert config.parent is None
    with pytest.raises(AttributeError):
        config.parent = 1


# Where it runs, and what it imports.


def test_the_version_is_the_same_everywhere():
    """In the package, in pyproject.toml and in what is installed, as far as they are there; and the same Pythons."""
    assert py_restart.__version__ == "2.0.0"
    project = REPOSITORY / "pyproject.toml"
    if project.exists():
        text = project.read_text(encoding="utf-8")
        assert re.search(r'^version = "(.*)"$', text, re.M)[1] == py_restart.__version__
        assert re.search(r'^requires-python = "(.*)"$', text, re.M)[1] == ">=3.11"
        assert "dependencies = []" in text and "Python :: 3.10" not in text
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        assert importlib.metadata.version("py_restart") == py_restart.__version__
        assert importlib.metadata.metadata("py_restart")["Requires-Python"] == ">=3.11"


def test_importing_it_on_pypy_is_an_error_that_says_so():
    """Without reference counts a `for` that is left is not noticed, and work would be lost."""
    done = child("sys.implementation.name = 'pypy'\nimport py_restart")
    assert done.returncode == 1
    assert re.match("(?i)ImportError: .*pypy", done.stderr.splitlines()[-1])


def test_nothing_outside_the_standard_library_is_imported():
    """Anywhere in the package, at its top or in a function."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert all(other.partition(".")[0] in sys.stdlib_module_names for other in names), (name, names)


def test_importing_loads_little():
    """What takes long to import is imported where it is used, or never."""
    done = child("before = set(sys.modules); import py_restart; print(*set(sys.modules) - before)", "-SEWerror")
    assert done.returncode == 0, done.stderr
    slow = {"typing", "logging", "json", "pickle", "hashlib", "pathlib", "socket", "tempfile", "asyncio", "inspect"}
    slow |= {"dataclasses", "datetime", "shutil", "traceback", "random"}
    assert not slow & set(done.stdout.split())


# The house.


def test_no_bare_exception_is_raised():
    """It could not be told from others."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            raised = node.exc if isinstance(node, ast.Raise) else None
            raised = raised.func if isinstance(raised, ast.Call) else raised
            assert getattr(raised, "id", None) not in ("Exception", "BaseException"), (name, node.lineno)


def test_no_part_of_the_house_is_too_large_to_be_read_at_once():
    """No file over 350 lines, no function over 40, no class over 25 methods."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    sizes = [(path.name, len(path.read_text(encoding="utf-8").splitlines()), 350) for path in SOURCES]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, functions):
                sizes.append((f"{name}: {node.name}", node.end_lineno - node.lineno + 1, 40))
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(member, functions) for member in node.body)
                sizes.append((f"{name}: {node.name}", methods, 25))
    assert [(name, size) for name, size, most in sizes if size > most] == []


def test_the_modules_import_each_other_in_no_circle():
    """One way in, one way down; imports for types are imports, too."""
    edges = {name: set() for name in TREES}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                edges[name] |= {node.module} if node.module else {alias.name for alias in node.names}
    free = set()
    while edges:
        free = {name for name, others in edges.items() if not others & set(edges)}
        assert free, f"a circle among {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in free}


def test_the_modules_keep_what_is_private_to_themselves():
    """At most five private attributes that another module defines, and no private name is imported but a module."""
    foreign = set()
    for name, tree in TREES.items():
        own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        own |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        own |= {"_getframe", "_exit"}  # the standard library's
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in own:
                foreign |= {f"{name}: {node.attr}"} if getattr(node.value, "id", "") not in ("self", "cls") else set()
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], name
    assert len(foreign) <= 5, foreign

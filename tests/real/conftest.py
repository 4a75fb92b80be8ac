"""What the tests of real use share: each is marked `real`, and runs its jobs in processes of their own.

The packages of the extra `real` are imported in the tests and their scripts alone: one that is missing is a failure.
"""

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 200  # seconds that a process may take

# One thread each: a sum is the same to the bit only where it is added up in the same order. Examples without pauses:
# they are for a person who presses Ctrl-C.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "SECONDS": "0"})


def pytest_collection_modifyitems(items):
    """Mark every test of this folder."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.real)


class Job:
    """A Python script that runs in a process of its own, in the folder of the test."""

    def __init__(self, command, folder, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        self.process = subprocess.Popen(command, cwd=folder, text=True, errors="replace", **options)
        self._timer = threading.Timer(LIMIT, self.process.kill)
        self._timer.start()
        self.lines = []

    def wait_for(self, pattern):
        """Read what it prints, up to a line that matches; return that line."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return self.lines[-1]
        raise AssertionError(f"no line like {pattern!r} among:\n" + "\n".join(self.lines))

    def stop(self, pattern, by):
        """Send it a signal after such a line, and wait for its end; return its status."""
        self.wait_for(pattern)
        self.process.send_signal(by)
        return self.end()

    def end(self):
        """Wait for its end, with no more input; return its status."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.lines += [line.rstrip("\n") for line in self.process.stdout]
            self.process.stdout.close()
        status = self.process.wait(LIMIT)
        self._timer.cancel()
        return status

    def numbers(self, word="item"):
        """The numbers that it printed behind a word at the beginning of a line."""
        return [int(line.split()[1]) for line in self.lines if re.match(rf"{word} \d+", line)]


@pytest.fixture
def jobs(tmp_path):
    """Start a script in the test's own folder: `jobs(code)` or `jobs(path)`. What still runs at the end is killed."""
    started = []

    def start(code, *arguments, before=(), python=(sys.executable,), **options):
        script = code
        if isinstance(code, str):
            script = tmp_path.with_name(f"{tmp_path.name}-job.py")
            script.write_text(textwrap.dedent(code), encoding="utf-8")
        command = [*before, *python, "-W", "error", str(script), *map(str, arguments)]
        started.append(Job(command, options.pop("folder", tmp_path), **options))
        return started[-1]

    yield start
    for job in started:
        if job.process.poll() is None:
            job.process.kill()
        job.end()


@pytest.fixture
def examples():
    """The folder of the examples."""
    return HERE.parents[1] / "examples"


@pytest.fixture
def told_to_stop():
    """The exit status of a program that a signal told to stop: the shell's number, or the signal itself."""
    return lambda status, by: status in (128 + by, -by)

"""What the tests of the modules share: a folder of their own, the log, and children that may be killed.

Nothing here is used without being asked for.
"""

import logging
import os
import pickle
import signal
import traceback
import warnings

import pytest

LIMIT = 15  # seconds that a child may take

# `nohup`, and shells that run something in the background, have these ignored; a program that is tested has not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Child:
    """A fork of this process that runs `job(tell, *arguments)`. What it tells arrives here, a kill or not."""

    def __init__(self, job, *arguments):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _live(job, arguments, writing)
        os.close(writing)
        self._pipe = os.fdopen(reading, "rb")
        self.told = []  # everything that it has told
        self.error = None  # what it raised: "KeyError: 4"

    def hear(self):
        """Wait for the next thing that it tells, and return it."""
        kind, thing = pickle.load(self._pipe)
        if kind == "error":
            self.error = thing
            raise AssertionError(f"the child raised {thing}")
        self.told.append(thing)
        return thing

    def send(self, number):
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self):
        """Wait for its end. Return itself, with `status` as `subprocess` has it: a signal is a negative number."""
        with self._pipe:
            while True:
                try:
                    kind, thing = pickle.load(self._pipe)
                except EOFError:
                    break
                if kind == "error":
                    self.error = thing
                else:
                    self.told.append(thing)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert self.status != -signal.SIGALRM, f"no end after {LIMIT} seconds; told {self.told}"
        return self


def _live(job, arguments, pipe):
    """Run the job, tell what it raises, and leave without anything that the parent does at its end."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT)
        os.register_at_fork(after_in_child=lambda: signal.alarm(LIMIT))  # or a child of the child would wait forever
        try:
            job(lambda thing: os.write(pipe, pickle.dumps(("told", thing))), *arguments)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
            raise
    except BaseException as error:
        text = traceback.format_exception_only(type(error), error)[0].strip()
        os.write(pipe, pickle.dumps(("error", text)))
    finally:
        os._exit(status)


@pytest.fixture
def start():
    """Start a child: `start(job, *arguments)`; its `hear()`, `send(signal)` and `end()` are above."""
    children = []

    def start(job, *arguments):
        children.append(Child(job, *arguments))
        return children[-1]

    yield start
    for child in children:
        if not hasattr(child, "status"):
            child.send(signal.SIGKILL)
            child.end()


@pytest.fixture
def run_child(start):
    """Run a job in a child to its end, which may be a kill: `run_child(job, *arguments)`."""
    return lambda job, *arguments: start(job, *arguments).end()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The empty folder that the test runs in. A kill takes nothing from the kernel: flushing would only take time."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def left(folder):
    """List the names in the folder."""
    return lambda: sorted(os.listdir(folder))


@pytest.fixture
def log(caplog):
    """List the lines that the logger has got: `log("INFO")`."""
    caplog.set_level(logging.INFO, "py_restart")
    return lambda level: [line.getMessage() for line in caplog.records if line.levelname == level]


@pytest.fixture
def die():
    """End this process by SIGKILL."""
    return lambda: os.kill(os.getpid(), signal.SIGKILL)

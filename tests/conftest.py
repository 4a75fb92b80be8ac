"""What the tests of the modules share: a folder of their own, the log, and children that may be killed.

Nothing here is used without being asked for.
"""

import json
import logging
import os
import pickle
import signal
import sys
import time
import traceback
import warnings

import pytest

LIMIT = 60  # seconds that a child may take

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


def age_of(record):
    """Return what the newest of two records has most of: the number of the save, and within it the position told."""
    return record["save"], int(record["check"].partition("-")[2])


def _moment(path="run"):
    """Return the newest record of a progress file, or None where there is no file."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()[1:]
    except FileNotFoundError:
        return None
    return max((json.loads(line) for line in lines if line.strip()), key=age_of)


@pytest.fixture
def moment(folder):
    """Read what a progress file says, as a person does: `moment()["position"]`; None where there is no file."""
    return _moment


@pytest.fixture
def position(folder):
    """Read the newest position that a progress file tells; None where there is no file."""
    return lambda path="run": (_moment(path) or {"position": None})["position"]


BRAKE = """
import os, re, sys, time

printed, stops, nap = [""], [], time.sleep
naps = os.open(os.environ["BRAKE"] + "/naps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def heard(write):
    def hear(text):
        printed[0] = (printed[0] + text)[-500:]
        if re.match(os.environ["STOP_AT"], re.split("[\\r\\n]", printed[0].rstrip())[-1]):
            try:  # before anybody can read it, and stop this process
                os.mkdir(os.environ["BRAKE"] + "/stopped")
                stops.append(float("inf"))
            except FileExistsError:
                pass
        return write(text)
    return hear

def sleep(seconds):
    os.write(naps, f"{seconds}\\n".encode())  # by no object that a signal could leave open, which Python warns of
    if stops:
        seconds = stops.pop()
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # a signal just before the system call does not interrupt it
        nap(min(seconds, 0.01))

time.sleep = sleep
for stream in (sys.stdout, sys.stderr):
    stream.write = heard(stream.write)
"""


@pytest.fixture
def brake(tmp_path_factory):
    """Make an environment in which a program is not done before it is stopped: `brake("item 7$")`.

    Behind such a line, in the first process that prints one, `time.sleep` has no end. In the folder `BRAKE` the file
    `naps` has all that was slept.
    """

    def brake(pattern):
        folder = tmp_path_factory.mktemp("brake")
        (folder / "sitecustomize.py").write_text(BRAKE, encoding="utf-8")
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "BRAKE": str(folder), "STOP_AT": pattern}

    return brake


class Clock:
    """A clock that is set by hand. Who sleeps by it does not wait."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock of the package: `clock.now += 2`. Whoever has imported the function by its name has this one too."""
    clock, real = Clock(), {time.monotonic, time.perf_counter}
    for module in [time, *(sys.modules[name] for name in list(sys.modules) if name.startswith("py_restart"))]:
        for name, value in list(vars(module).items()):
            if type(value).__name__ == "builtin_function_or_method" and value in real:
                monkeypatch.setattr(module, name, clock)
            elif value is time.sleep:
                monkeypatch.setattr(module, name, clock.sleep)
    return clock


@pytest.fixture
def log(caplog):
    """List the lines that the logger has got: `log("INFO")`."""
    caplog.set_level(logging.INFO, "py_restart")
    return lambda level: [line.getMessage() for line in caplog.records if line.levelname == level]


@pytest.fixture
def die():
    """End this process by SIGKILL."""
    return lambda: os.kill(os.getpid(), signal.SIGKILL)

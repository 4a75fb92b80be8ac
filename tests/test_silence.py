"""Nothing goes wrong in silence: programs that people really write, run in processes of their own.

A program is a text that is written into the folder of its test and run, stopped, and run again, as a person would; what
it prints, what it is warned of, how it ends and what it leaves are compared. The tables run many small programs in one
process, each in a folder of its own: a process is started once for all of them, not once for each.

Whatever has to be said has beside it what must not be said.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

import py_restart

LIMIT = 60  # seconds that a process may take
WARN = "always::UserWarning"
HERE = str(Path(py_restart.__file__).parents[1])
PACKAGE = os.path.dirname(py_restart.__file__)

# What the programs begin with. `stop` is the item at which they stop, `STOP` how.
TOP = """
import os, signal, sys, time
from pathlib import Path
from py_restart import *
from py_restart import RestartError, config

STOP = int(sys.argv[1]) if len(sys.argv) > 1 else -1


class Stop(Exception):
    pass
"""

# Runs many programs in one process, and says in JSON what became of each.
DRIVER = """
import contextlib, faulthandler, gc, io, json, os, runpy, sys, traceback, warnings

faulthandler.dump_traceback_later(50, exit=True)
os.fsync = lambda file: None  # nobody cuts the power: flushing would only take time
found = {}
for name, folder in json.load(open(sys.argv[1])).items():
    os.chdir(folder)
    sys.argv[1:] = json.load(open("arguments"))
    printed, error, trace, notes = io.StringIO(), "", "", []
    with warnings.catch_warnings(record=True) as said, contextlib.redirect_stdout(printed):
        try:
            runpy.run_path("job.py", run_name="__main__")
        except BaseException as failure:
            error, trace = f"{type(failure).__name__}: {failure}", traceback.format_exc()
            notes = getattr(failure, "__notes__", [])
            del failure
        gc.collect()
    found[name] = {
        "out": printed.getvalue().splitlines(),
        "said": [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)],
        "error": error,
        "trace": trace,
        "notes": notes,
        "left": sorted(os.listdir(folder)),
    }
print(json.dumps(found))
sys.stdout.flush()
"""


class Run(NamedTuple):
    """What a process printed, and its exit status as `subprocess` has it."""

    out: list
    err: str
    status: int

    @property
    def said(self):
        """The texts of the `UserWarning`s that it printed."""
        return re.findall(r"UserWarning: (.*)", self.err)

    @property
    def error(self):
        """The last line of its traceback, without the notes below it."""
        lines = [
            line
            for line in self.err.splitlines()
            if re.match(r"[\w.]*(Error|Exception|Interrupt|Warning|Stop|Exit)\b", line)
        ]
        return lines[-1] if lines else ""

    @property
    def numbers(self):
        """The numbers that it printed, one a line."""
        return [int(line) for line in self.out if line.isdigit()]


class Job:
    """A program in a folder of its own."""

    def __init__(self, folder, text=""):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.write(text)

    def write(self, text):
        """Give the program another text."""
        (self.folder / "job.py").write_text(TOP + textwrap.dedent(text), encoding="utf-8")

    def start(self, *arguments, warn=WARN, **environment):
        """Start it. It is killed when it takes too long."""
        path = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-W", warn, "job.py", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.timer = threading.Timer(LIMIT, process.kill)
        process.timer.start()
        return process

    def run(self, *arguments, signal_at=None, **options):
        """Run it to its end; `signal_at=(line, signal)` sends it a signal when it has printed such a line."""
        process = self.start(*arguments, **options)
        before = []
        if signal_at:
            for line in process.stdout:
                before.append(line)
                if line.strip() == signal_at[0]:
                    process.send_signal(signal_at[1])
                    break
        out, err = process.communicate()
        process.timer.cancel()
        return Run(("".join(before) + out).splitlines(), err, process.returncode)

    @property
    def left(self):
        """The names in its folder, without its own."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("job.py", "__pycache__"))

    @property
    def files(self):
        """What is in each file of the folder, its own excepted."""
        own = ("job.py", "arguments")
        return {
            path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file() and path.name not in own
        }

    @property
    def saved(self):
        """The same; of a progress file only that it is there: another process may have said that it uses it."""
        return {name: name.endswith(".progress") or data for name, data in self.files.items()}


@pytest.fixture
def job(tmp_path):
    """A program in the test's folder: `job.write(text)`, `job.run(...)`."""
    return Job(tmp_path / "work")


class Outcome(NamedTuple):
    """What became of a program that shared its process with others."""

    out: list
    said: list
    error: str
    trace: str
    notes: list
    left: list


class Table:
    """Programs by name, run together."""

    def __init__(self, folder, programs):
        self.folder = folder
        self.jobs = {name: Job(folder / f"{number}", text) for number, (name, text) in enumerate(programs.items())}

    def run(self, *arguments, only=None, **options):
        """Run them, or only some, one after the other in one process; return an `Outcome` for each name.

        An argument that is a dictionary is looked up by the program's name.
        """
        jobs = {name: job for name, job in self.jobs.items() if only is None or name in only}
        for name, job in jobs.items():
            chosen = [argument[name] if isinstance(argument, dict) else argument for argument in arguments]
            (job.folder / "arguments").write_text(json.dumps([str(one) for one in chosen]))
        driver = Job(self.folder / "driver")
        (driver.folder / "job.py").write_text(DRIVER)
        (driver.folder / "list").write_text(json.dumps({name: str(job.folder) for name, job in jobs.items()}))
        done = driver.run("list", **options)
        assert done.status == 0, done.err
        found = json.loads(done.out[-1])
        for outcome in found.values():
            outcome["left"] = [name for name in outcome["left"] if name not in ("job.py", "arguments")]
        return {name: Outcome(**outcome) for name, outcome in found.items()}


def frames(trace):
    """The frames of the package in a traceback, those of what caused the exception included."""
    return [line.strip() for line in trace.splitlines() if line.strip().startswith(f'File "{PACKAGE}')]


ADVICE = (
    r"\b(call|change|choose|close|count|create|delete|give|make|mend|move|nest|pass|put|register|restore|run|save|"
    r"start|stop|take|use|wait|write)\b"
)

# 1. Objects that nobody can be changing.

MODES = {
    "with": 'with enable_counter("job.progress") as counter:',
    "each": 'with enable_counter("job.progress", each_save=True) as counter:',
    "bare": 'counter = enable_counter("job.progress", each_save=True)\nif True:',
}
OBJECT_JOB = """
{before}
{mode}
    {register}
    for i in counter(range(6)):
        if i == STOP:
            raise Stop
        {body}
    print({result})
"""
LIST = 't = counter.save_load_object([], "t.pickle")'
ALL = [0, 1, 2, 3, 4, 5]
BOX = "class Box: pass\nbox = Box()"


class Case(NamedTuple):
    """A registered object, what the loop does with it, and what comes out when nothing is lost."""

    register: str
    body: str
    result: str
    right: object
    before: str = ""


LOST = {
    "a list that is made anew": Case(LIST, "t = t + [i]", "t", ALL),
    "a list that is filtered": Case(LIST, "t = [old for old in t if True]; t = [*t, i]", "t", ALL),
    "an int": Case('t = counter.save_load_object(0, "t.pickle")', "t += i", "t", 15),
    "a large int": Case('t = counter.save_load_object(10**12, "t.pickle")', "t += i", "t", 10**12 + 15),
    "a float": Case('t = counter.save_load_object(0.5, "t.pickle")', "t += i", "t", 15.5),
    "a number that is never used": Case('counter.save_load_object(0, "t.pickle")', "n = i", "n", 5),
    "a tuple": Case('t = counter.save_load_object(tuple([9]), "t.pickle")', "t = t + (i,)", "t", (9, *ALL)),
    "a str": Case('t = counter.save_load_object("".join("ab"), "t.pickle")', "t = t + str(i)", "t", "ab012345"),
    "a str that stands in the code": Case(
        't = counter.save_load_object("none yet", "t.pickle")', "t = str(i) if i == 3 else t", "t", "3"
    ),
    "a tuple that stands in the code": Case(
        't = counter.save_load_object((-1, 1e9), "t.pickle")', "t = (i, 0.5) if i == 3 else t", "t", (3, 0.5)
    ),
    "None": Case('t = counter.save_load_object(None, "t.pickle")', "t = t or [i]", "t", [0]),
    "None that others are registered behind": Case(
        't = counter.save_load_object(None, "t.pickle"); counter.save_load_object(0, "n.pickle")',
        "t = t or [i]; counter.object += 1",
        "t",
        [0],
    ),
    "a str that was empty": Case('t = counter.save_load_object("", "t.pickle")', "t += str(i)", "t", "012345"),
    "a tuple that was empty": Case('t = counter.save_load_object((), "t.pickle")', "t = (*t, i)", "t", tuple(ALL)),
    "a number that is looked at behind the loop": Case(
        't = counter.save_load_object(0, "t.pickle")', "t += i", "max(t, counter.object)", 15
    ),
    "a Decimal": Case(
        't = counter.save_load_object(Decimal("0.5"), "t.pickle")',
        "t = t + i",
        "t",
        "15.5",
        "from decimal import Decimal",
    ),
    "an array": Case(
        't = counter.save_load_object(np.zeros(2), "t.pickle")',
        "t = 0.5 * (t + np.roll(t, 1)) + i",
        "t.tolist()",
        [15.0, 15.0],
        "import numpy as np",
    ),
    "an attribute": Case(LIST.replace("t =", "box.t ="), "box.t = box.t + [i]", "box.t", ALL, BOX),
    "a place in a dict": Case(LIST.replace("t =", 'd["t"] ='), 'd["t"] = d["t"] + [i]', 'd["t"]', ALL, "d = {}"),
    "a list that is made anew now and then": Case(LIST, "t = [*t, i] if i == 2 else t", "t", [2]),
    "the best so far": Case('t = counter.save_load_object(2.5, "t.pickle")', "t = i + 0.5 if i == 3 else t", "t", 3.5),
    "a count beside a list": Case(
        'u, t = counter.save_load_object(([], 0), "t.pickle")', "u.append(i); t += 1", "t", 6
    ),
    "a table beside what is kept": Case(
        'u, t = counter.save_load_object((set(), ["row"]), "t.pickle")', "u.add(i); t = t + [i]", "t", ["row", *ALL]
    ),
    "a best number beside what is kept": Case(
        'u, t = counter.save_load_object(([], float("inf")), "t.pickle")', "u.append(i); t = 9 - i", "t", 4
    ),
    "a dict that takes over what is not new": Case(
        't = counter.save_load_object({"u": [], "t": ["row"]}, "t.pickle")',
        't = t | {"t": t["t"] + [i]}',
        't["t"]',
        ["row", *ALL],
    ),
    "a variable that is deleted": Case(LIST + "; u = list(t); del t", "u.append(i)", "u", ALL),
    "a global that a function makes anew": Case(
        LIST, "grow(i)", "t", ALL, "def grow(i):\n    global t\n    t = t + [i]\n"
    ),
    "what is returned and never used": Case(
        'counter.save_load_object([], "t.pickle")', "u.append(i)", "u", ALL, "u = []"
    ),
}
KEPT = {
    "parts of a list": Case(
        's, t = counter.save_load_object([set(), {"n": 0}], "t.pickle")', 's.add(i); t["n"] += i', 't["n"] + len(s)', 21
    ),
    "a part of a dict": Case('t = counter.save_load_object({"w": [0]}, "t.pickle")["w"]', "t[0] += i", "t", [15]),
    "numbers and texts beside a list": Case(
        't, n, f, s = counter.save_load_object(([], 10**6, float("inf"), "".join("ab")), "t.pickle")',
        "t.append(i)",
        "t",
        ALL,
    ),
    "a text beside a list that nothing but the setup needs": Case(
        't, n = counter.save_load_object(([], "".join("ab")), "t.pickle"); del n', "t.append(i)", "t", ALL
    ),
    "the rows of an array": Case(
        'x, y = counter.save_load_object(np.zeros((2, 3)), "t.pickle")',
        "x += i",
        "x.tolist()",
        [15.0] * 3,
        "import numpy as np",
    ),
    "a setting beside a list": Case('t, u = counter.save_load_object(([], True), "t.pickle")', "t.append(i)", "t", ALL),
    "changed in place": Case(LIST, "t.append(i)", "t", ALL),
    "changed in place with +=": Case(LIST, "t += [i]", "t", ALL),
    "a dict": Case('t = counter.save_load_object({"n": 0}, "t.pickle")', 't["n"] += i', 't["n"]', 15),
    "an array in place": Case(
        't = counter.save_load_object(np.zeros(2), "t.pickle")',
        "t += i",
        "t.tolist()",
        [15.0, 15.0],
        "import numpy as np",
    ),
    "a list that is assigned": Case(LIST, "counter.object = t = t + [i]", "t", ALL),
    "a list that is assigned alone": Case(LIST, "counter.object = counter.object + [i]", "counter.object", ALL),
    "None that is assigned now and then": Case(
        't = counter.save_load_object(None, "t.pickle")', "if i == 3: counter.object = t = [i]", "t", [3]
    ),
    "a text that is assigned now and then": Case(
        't = counter.save_load_object("", "t.pickle")', "if i == 3: counter.object = t = str(i)", "t", "3"
    ),
    "a number that is assigned": Case(
        't = counter.save_load_object(0, "t.pickle")', "t += i; counter.object = t", "t", 15
    ),
    "a number that is assigned now and then": Case(
        't = counter.save_load_object(0, "t.pickle")', "if i == 3: counter.object = t = i", "t", 3
    ),
    "a number that is assigned where an item fails": Case(
        'counter.save_load_object(0, "t.pickle")',
        "try: 1 / (3 - i)\nexcept ZeroDivisionError: counter.object += 1",
        "counter.object",
        1,
    ),
    "a list that is reached now and then": Case(
        'counter.save_load_object([], "t.pickle")', "if i == 3: counter.object.append(i)", "counter.object", [3]
    ),
    "a list beside None": Case('t, u = counter.save_load_object(([], None), "t.pickle")', "t.append(i)", "t", ALL),
    "a number that is assigned alone": Case(
        'counter.save_load_object(0, "t.pickle")', "counter.object += i", "counter.object", 15
    ),
    "reached through counter.object": Case(
        'counter.save_load_object([], "t.pickle")', "counter.object.append(i)", "counter.object", ALL
    ),
    "reached through counter.object in a function": Case(
        'counter.save_load_object([], "t.pickle")',
        "add(counter, i)",
        "counter.object",
        ALL,
        "def add(counter, i):\n    counter.object.append(i)",
    ),
    "an attribute in place": Case(LIST.replace("t =", "box.t ="), "box.t.append(i)", "box.t", ALL, BOX),
    "a place in a dict in place": Case(LIST.replace("t =", 'd["t"] ='), 'd["t"].append(i)', 'd["t"]', ALL, "d = {}"),
    "a global": Case(LIST, "add(i)", "t", ALL, "def add(i):\n    t.append(i)"),
    "a method of it": Case('add = counter.save_load_object([], "t.pickle").append', "add(i)", "add.__self__", ALL),
    "a closure": Case(
        'add = adder(counter.save_load_object([], "t.pickle"))',
        "add(i)",
        "add(-1)[:-1]",
        ALL,
        "def adder(t):\n    def add(i):\n        t.append(i)\n        return t\n    return add",
    ),
    "a generator that holds it": Case(
        'adding = adder(counter.save_load_object([], "t.pickle")); next(adding)',
        "adding.send(i)",
        "adding.send(-1)[:-1]",
        ALL,
        "def adder(t):\n    while True:\n        t.append((yield t))",
    ),
    "another registered object that holds it": Case(
        'd = counter.save_load_object({"t": []}, "d.pickle"); d["u"] = counter.save_load_object([], "t.pickle")',
        'd["u"].append(i)',
        'd["u"]',
        ALL,
    ),
    "a run's id in a variable": Case(
        'run = counter.save_load_object("-".join(["run", str(STOP)]), "t.pickle")', "pass", 'run == "run-4"', True
    ),
    "a large number in a variable": Case(
        'seed = counter.save_load_object(20261125, "t.pickle")', "pass", "seed", 20261125
    ),
    "a seed that was drawn": Case(
        'seed = counter.save_load_object(3 ** 50 + 0.5, "t.pickle")', "pass", "seed > 1", True
    ),
    "a tuple in a variable": Case('t = counter.save_load_object(tuple([1, "a"]), "t.pickle")', "pass", "t", (1, "a")),
}


def in_each_mode(cases, modes):
    """The programs for these cases, at the module's level and in a function."""
    programs = {}
    for name, case in cases.items():
        for mode in modes:
            fields = {**case._asdict(), "mode": modes[mode], "body": textwrap.indent(case.body, " " * 8).strip()}
            text = OBJECT_JOB.format(**fields)
            programs[f"{mode}: {name}"] = text
            if "global" not in name:
                programs[f"{mode}, in a function: {name}"] = f"def main():\n{textwrap.indent(text, '    ')}\nmain()\n"
    return programs


def right(cases, name):
    """What the program of that name prints when nothing is lost."""
    return [str(cases[name.split(": ", 1)[1]].right)]


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """Each of the programs that lose an object: stopped at 4; and with `-W error`, then without it to the end."""
    folder, programs = tmp_path_factory.mktemp("lost"), in_each_mode(LOST, MODES)
    table, strict = Table(folder / "a", programs), Table(folder / "b", programs)
    return table.run(4), strict.run(4, warn="error"), strict.run(-1)


@pytest.mark.parametrize("name", in_each_mode(LOST, MODES))
def test_an_object_that_nobody_can_be_changing_is_warned_of_once(lost, name):
    """The warning names the object's path, and both ways out; the program goes on."""
    outcome = lost[0][name]
    assert outcome.error.startswith("Stop")
    assert len(outcome.said) == 1
    assert re.search(r"t\.pickle", outcome.said[0])
    assert re.search(r"in place", outcome.said[0])
    assert re.search(r"counter\.object", outcome.said[0])


@pytest.mark.parametrize("name", [name for name in in_each_mode(LOST, MODES) if not name.startswith("with")])
def test_a_lost_object_is_an_exception_under_w_error_before_anything_is_lost(lost, name):
    """Saves at boundaries: it is raised at the first; run again without `-W error`, nothing is missing."""
    _, strict, again = lost
    assert re.match(r"UserWarning: .*t\.pickle.*counter\.object", strict[name].error)
    assert again[name].out == right(LOST, name)


@pytest.mark.parametrize("name", [name for name in in_each_mode(LOST, MODES) if name.startswith("with")])
def test_a_lost_object_is_a_note_under_w_error_where_an_exception_is_on_its_way(lost, name):
    """The exception that ended the block stays the one that is raised."""
    outcome = lost[1][name]
    assert outcome.error.startswith("Stop")
    assert any(re.search(r"t\.pickle.*counter\.object", note) for note in outcome.notes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Each of the programs that lose nothing: stopped at 4, and run again, as if every warning were an error."""
    table = Table(tmp_path_factory.mktemp("kept"), in_each_mode(KEPT, MODES))
    return table.run(4), table.run(-1), table.run(-1, warn="error")


@pytest.mark.parametrize("name", in_each_mode(KEPT, MODES))
def test_an_object_that_is_changed_as_it_should_be_is_not_warned_of(kept, name):
    """Neither when the program is stopped nor when it is run again, and all of it is there."""
    first, second, _ = kept
    assert first[name].error.startswith("Stop")
    assert first[name].said == first[name].notes == second[name].said == []
    assert second[name].error == ""
    assert second[name].out == right(KEPT, name)


@pytest.mark.parametrize("name", in_each_mode(KEPT, MODES))
def test_a_second_job_with_every_warning_an_error_runs_through(kept, name):
    """From the beginning to the end, where all is as it should be."""
    if "run's id" not in name:
        assert kept[2][name].error == ""
        assert kept[2][name].out == right(KEPT, name)


@pytest.mark.parametrize("mode", MODES)
def test_a_result_that_is_thrown_away_is_warned_of_when_it_matters(job, mode):
    """`results` is what is saved in the first run; what is loaded in the second is another list, that nobody has."""
    job.write(
        f"""
        results = []
        {textwrap.indent(MODES[mode], " " * 8).strip()}
            counter.save_load_object(results, "r.pickle")
            for i in counter(range(6)):
                if i == STOP:
                    raise Stop
                results.append(i)
        """
    )
    assert job.run(2).said == []
    assert len([text for text in job.run(4).said if re.search(r"r\.pickle.*counter\.object", text)]) == 1


def test_the_warning_says_whose_object_it_is_and_whether_it_is_a_constant(job):
    """An inner loop saves; the object is of the outer one. What cannot change in it may be anybody's."""
    job.write(
        """
        with enable_counter("outer.progress") as outer:
            outer.save_load_object(["text", b"bytes", None, True, 1, 0.5], "lost.pickle")
            outer.save_load_object(0, "number.pickle")
            outer.save_load_object(True, "switch.pickle")
            outer.save_load_object(0.5, "rate.pickle")
            outer.save_load_object(1j, "complex.pickle")
            for i in outer(range(2)):
                for j in simple_counter("inner.progress", range(2)):
                    pass
        """
    )
    told, lost, number, rate, switch = sorted(job.run().said)
    assert re.search(r"switch.pickle: this True was never assigned", switch)
    for name, text in ("complex", told), ("lost", lost), ("rate", rate):
        assert re.search(rf"{name}.pickle: nobody but outer.progress refers to this object any more", text)
    assert re.search(r"number.pickle: this 0 was never assigned, so it stays what is saved: change", number)


CARRIED = """
model, number = {{"n": 0}}, 1000
with {outer} as epochs:
    for epoch in epochs(range(4)):
        with enable_counter("batches.progress", each_save=True) as batches:
            kept = batches.save_load_object({registered}, "model.pickle")
            for batch in batches(range(2)):
                pass
"""


@pytest.mark.parametrize(
    "outer", ['enable_counter("epochs.progress")', "multi_count(), enable_counter('epochs.progress')"]
)
def test_an_object_that_is_registered_in_one_item_after_the_other_is_warned_of_once(job, outer):
    """A kill before the first save of the next item would lose what the items before have made of it."""
    job.write(CARRIED.format(outer=outer, registered="model"))
    (text,) = job.run().said
    assert "model.pickle: the same object in each item of epochs.progress, but saved for one item alone" in text
    assert "register it with epochs.progress" in text


@pytest.mark.parametrize("registering", [0, 1])
def test_an_object_is_known_again_in_any_loop_of_an_item(job, registering):
    """Not in the first one alone."""
    job.write(
        f"""
        model = {{"n": 0}}
        with enable_counter("epochs.progress") as epochs:
            for epoch in epochs(range(3)):
                for number in range(2):
                    with enable_counter(f"{{number}}.progress", each_save=True) as counter:
                        if number == {registering}:
                            counter.save_load_object(model, "model.pickle")
                        for batch in counter(range(2)):
                            pass
        """
    )
    (text,) = job.run().said
    assert "model.pickle: the same object in each item of epochs.progress" in text


def test_an_inner_loop_that_has_not_begun_is_not_warned_of(job):
    """It saves before its first item, as where a text file is cut off; the loop around it has had items."""
    job.write(
        """
        with enable_counter("files.progress", each_save=True) as files:
            for name in files("abc"):
                with enable_counter("lines.progress", each_save=True) as lines:
                    lines.save_load_object(0, "length.pickle")
                    lines.save()
                    for line in lines(range(2)):
                        lines.object += 1
        """
    )
    run = job.run()
    assert (run.status, run.said) == (0, [])


def test_an_object_of_one_item_is_not_the_one_of_another_path_or_of_a_function(job):
    """What the item before has registered is carried on; what this one registers is something else."""
    job.write(
        """
        model = {"n": 0}
        with enable_counter("epochs.progress") as epochs:
            for epoch in epochs(range(2)):
                with enable_counter("batches.progress", each_save=True) as batches:
                    if epoch == 0:
                        batches.save_load_object(model, "model.pickle")
                    else:
                        best = batches.save_load_object("none yet", "best.pickle")
                        batches.save_load_funcs([lambda path: open(path, "w").close()], [print], ["text.txt"])
                    for batch in batches(range(2)):
                        pass
        """
    )
    run = job.run()
    assert (run.status, run.said, job.left) == (0, [], [])


@pytest.mark.parametrize("registered", ['{"n": epoch}', "[]", "number", "(1, number)", "__name__", "range(9)", "True"])
def test_an_object_that_is_new_in_each_item_or_cannot_change_is_not(job, registered):
    """It is saved with its item, and goes with it; a constant is as it was."""
    job.write(CARRIED.format(outer='enable_counter("epochs.progress")', registered=registered))
    assert [text for text in job.run().said if "same object" in text] == []


def test_an_object_of_the_item_before_is_not_kept_in_memory(job):
    """Until the next inner loop begins it may be the same one, if the program has it; then it is known."""
    job.write(
        """
        import weakref
        class Model: pass
        alive = []
        def number_alive():
            return sum(one() is not None for one in alive)
        def train():
            with enable_counter("batches.progress", each_save=True) as batches:
                model = batches.save_load_object(Model(), "model.pickle")
                alive.append(weakref.ref(model))
                for batch in batches(range(2)):
                    print(number_alive())
        with enable_counter("epochs.progress", each_save=True) as epochs:
            for epoch in epochs(range(4)):
                train() if epoch != 2 else print(number_alive())
        print(number_alive())
        with enable_counter("epochs.progress") as epochs:
            for epoch in epochs(range(4)):
                with enable_counter("batches.progress", each_save=True) as batches:
                    model = batches.save_load_object(Model(), "model.pickle")
                    alive.append(weakref.ref(model))
                    for batch in batches(range(2)):
                        print(number_alive())
        """
    )
    assert job.run().out == [*"11", *"11", "0", *"11", "0", *["1"] * 8]


def test_each_lost_object_is_warned_of_by_itself(job):
    """Two of three are made anew: two warnings, for each its path; none again at later saves."""
    job.write(
        """
        with enable_counter("job.progress", each_save=True) as counter:
            a = counter.save_load_object([], "a.pickle")
            b = counter.save_load_object([], "b.pickle")
            c = counter.save_load_object([], "c.pickle")
            for i in counter(range(6)):
                a = a + [i]
                b.append(i)
                c = c + [i]
        """
    )
    run = job.run()
    assert run.status == 0
    assert sorted(re.findall(r"\b[abc]\.pickle", " ".join(run.said))) == ["a.pickle", "c.pickle"]


def test_a_lost_object_of_an_inner_loop_or_of_the_loop_around_is_warned_of(job):
    """Whoever saves, saves the moment: what is registered with any of its loops is looked at."""
    job.write(
        """
        with enable_counter("outer.progress") as outer:
            a = outer.save_load_object([], "a.pickle")
            for i in outer(range(2)):
                with enable_counter("inner.progress", each_save=True) as inner:
                    b = inner.save_load_object([], "b.pickle")
                    for j in inner(range(3)):
                        a = a + [(i, j)]
                        b = b + [j]
                        if (i, j) == (0, 2):
                            raise Stop
        """
    )
    said = " ".join(job.run().said)
    assert re.search(r"\ba\.pickle", said) and re.search(r"\bb\.pickle", said)


def test_nothing_is_said_of_an_object_before_an_item_is_done(job):
    """A save in or before the first item: nothing can have been changed yet. Nor where the library is switched off."""
    job.write(
        """
        with enable_counter("job.progress", use_tempfile=len(sys.argv) < 3) as counter:
            t = counter.save_load_object(0, "t.pickle")
            u = counter.save_load_object([], "u.pickle")
            for i in counter(range(6)):
                counter.save()
                if i == STOP:
                    raise Stop
                t += i
                u = u + [i]
        """
    )
    assert job.run(0).said == []
    assert job.run(4, "off").said == []
    assert len(job.run(4).said) == 2


def test_an_object_that_the_failing_function_holds_is_not_warned_of(job):
    """A traceback on its way may hold what the program has; then there is no warning, and the save is right."""
    job.write(
        """
        def work(t, i):
            if i == STOP:
                raise Stop
            t.append(i)

        def main():
            with enable_counter("job.progress") as counter:
                t = counter.save_load_object([], "t.pickle")
                for i in counter(range(6)):
                    work(t, i)
                print(t)
        main()
        """
    )
    assert job.run(4).said == []
    assert job.run().out == ["[0, 1, 2, 3, 4, 5]"]


NUMBERS = """
import enum
from decimal import Decimal
from fractions import Fraction
import numpy as np

class Level(enum.IntEnum):
    LOW = 1

class Named(int):
    def __str__(self):
        return "five"

with enable_counter("job.progress"{mode}) as counter:
    given = {number}
    number = counter.save_load_object(given, "t.pickle")
    assert type(number) is type(given)
    assert number == given or number != number
    print(counter.position)
    for i in counter(range(4)):
        if i == STOP:
            raise Stop
"""
KINDS = ["True", "False", "Level.LOW", "Named(5)", "np.float64(0.1)", "np.int64(3)", "np.bool_(True)", "float('nan')"]
KINDS += ["float('inf')", "-0.0", "1j", "Fraction(1, 3)", "Decimal('0.1')", "10**40", "None"]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Programs that register a number of each kind: stopped at 2, and run to their end."""
    kinds = {f"{kind}{mode}": (kind, mode) for kind in KINDS for mode in ("", ", each_save=True")}
    programs = {name: NUMBERS.replace("{number}", kind).replace("{mode}", mode) for name, (kind, mode) in kinds.items()}
    table = Table(tmp_path_factory.mktemp("numbers"), programs)
    return table.run(2), table.run(-1)


@pytest.mark.parametrize("name", [f"{kind}{mode}" for kind in KINDS for mode in ("", ", each_save=True")])
def test_a_number_of_any_kind_comes_back_as_it_was(numbers, name):
    """What tells whether a number was assigned is not in the way of a flag, a member of an enum, or one of numpy."""
    first, second = numbers
    assert first[name].error.startswith("Stop"), first[name].trace
    assert first[name].notes == []
    assert second[name].error == "", second[name].trace
    assert second[name].out == ["2"]


# 2. Asked to save, and does not.


@pytest.mark.parametrize("call", ["save_interval=60", "save_span=10", "save_span=10, save_interval=60"])
@pytest.mark.parametrize("opened", ["with", "bare"])
def test_a_span_or_an_interval_that_would_do_nothing_is_an_error_at_the_call(tmp_path, call, opened):
    """It names what is missing, and leaves nothing."""
    ask = f'enable_counter("job.progress", {call})'
    table = Table(tmp_path, {"job": f"with {ask} as counter:\n    print('in')" if opened == "with" else ask})
    outcome = table.run()["job"]
    assert re.match(r"ValueError: .*each_save=True", outcome.error)
    assert re.search(r"save_span|save_interval", outcome.error)
    assert outcome.out == outcome.left == []


def test_a_span_or_an_interval_beside_each_save_is_none(job):
    """Nor are the defaults, nor those of `simple_counter`."""
    job.write(
        """
        for options in ({"save_interval": 60}, {"save_span": 10}, {"save_span": 2, "save_interval": 0.5}):
            with enable_counter("job.progress", each_save=True, **options) as counter:
                print(len(list(counter(range(3)))))
            print(len(list(simple_counter("job.progress", range(3), **options))))
        with enable_counter("job.progress", True, False, 1, save_interval=0.0) as counter:
            print(len(list(counter(range(3)))))
        """
    )
    run = job.run(warn="error")
    assert (run.status, run.numbers) == (0, [3] * 7)


FORKS = {
    "each": 'counter = enable_counter("job.progress", each_save=True)\nrun = lambda: counter(range(3))',
    "with": 'counter = enable_counter("job.progress").__enter__()\nrun = lambda: counter(range(3))',
    "wrapped": 'loop = simple_counter("job.progress", range(3))\nrun = lambda: loop',
}


@pytest.mark.parametrize("made", FORKS)
def test_a_loop_that_begins_in_a_forked_process_is_an_error_there(job, made):
    """The child saves nothing; the error says to make the counter there. The parent's loop runs as ever."""
    job.write(
        f"""
        {textwrap.indent(FORKS[made], " " * 8).strip()}
        child = os.fork()
        if child == 0:
            for i in run():
                print("child", i)
            sys.exit(0)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for i in run():
            print(i)
        """
    )
    run = job.run(warn="error")
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress.*(fork|process)", run.error)
    assert re.search(r"make it here, with a path of its own", run.error)
    assert len(frames(run.err)) <= 2
    assert (run.out, run.status) == (["status 1", "0", "1", "2"], 0)


def test_what_a_forked_process_may_do_is_no_error(job):
    """A counter of its own, made there; the rest of a loop that runs already; a pool inside a loop."""
    job.write(
        """
        import multiprocessing

        def in_child(work):
            child = os.fork()
            if child == 0:
                work()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0

        def own():
            print(list(simple_counter("own.progress", range(3))))

        if __name__ == "__main__":
            counter = enable_counter("job.progress", each_save=True)
            in_child(own)
            for i in counter(range(2)):
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    print(pool.map(abs, [-i]))
            loop = simple_counter("job.progress", range(3))
            print(next(loop))
            in_child(lambda: print(list(loop)))
            print(list(loop))
        """
    )
    run = job.run(warn="error")
    assert (run.out, run.status) == (["[0, 1, 2]", "[0]", "[1]", "0", "[1, 2]", "[1, 2]"], 0), run.err
    assert job.left == []


def test_a_counter_that_can_never_save_says_so_when_its_loop_starts(job):
    """No `with`, no `each_save`; under `-W error` no item has run."""
    job.write(
        """
        counter = enable_counter("job.progress")
        for i in counter(range(3)):
            print(i)
        """
    )
    strict, run = job.run(warn="error"), job.run()
    assert re.match(r"UserWarning: .*job\.progress.*each_save=True", strict.error)
    assert (strict.numbers, run.numbers, run.status) == ([], [0, 1, 2], 0)
    assert len(run.said) == 1
    assert job.left == []


HELD = {
    "a variable": "source = rows()",
    "a cycle": "source = rows(); cycle = [source]; cycle.append(cycle)",
    "a class": "class Job:\n    source = rows()\nsource = Job.source",
    "another module": "import string\nsource = string.held = rows()",
    "a generator around it": "def outer():\n    yield from rows()\nsource = outer()",
    "a comprehension": "inner = rows()\nsource = (row for row in inner)",
    "a thread": (
        "import threading\nsource = rows()\nhold = threading.Thread(target=lambda held: time.sleep(60), "
        "args=[source], daemon=True)\nhold.start()"
    ),
}
ENDS = {
    "an error": ("raise Stop", {1}),
    "sys.exit": ("sys.exit(5)", {5}),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", {-signal.SIGTERM, 128 + signal.SIGTERM}),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", {-signal.SIGINT, 1, 130}),
    "the end of the program": ("break", {0}),
}
HELD_JOB = """
class Total:
    def __init__(self):
        self.rows = []


def rows():
    with enable_counter("job.progress"{mode}) as counter:
        total = counter.save_load_object(Total(), "total.pickle")
        for row in counter(range(6)):
            yield row
            total.rows.append(row)
        print(total.rows)


{held}
for row in source:
    if row == STOP:
        {end}
    print(row)
"""


@pytest.mark.parametrize(
    ("held", "end", "mode"),
    [(held, "an error", "") for held in HELD]
    + [("a variable", end, "") for end in ENDS if end != "an error"]
    + [("a variable", "an error", ", each_save=True")],
)
def test_a_block_that_is_still_open_when_the_program_dies_is_saved(job, held, end, mode):
    """Its generator is held: it is saved as if it had ended by an exception, while everything still works."""
    code, status = ENDS[end]
    job.write(HELD_JOB.format(held=HELD[held], end=code, mode=mode))
    first = job.run(3, warn="error")
    assert (first.numbers, first.status in status) == ([0, 1, 2], True), first.err
    assert "Exception ignored" not in first.err
    second = job.run(warn="error")
    assert (second.numbers, second.out[-1], second.status) == ([3, 4, 5], "[0, 1, 2, 3, 4, 5]", 0), second.err
    assert job.left == []


@pytest.mark.parametrize("held", ["a variable", "a cycle"])
def test_a_block_that_is_still_open_and_cannot_be_saved_says_so_once(job, held):
    """When the program dies: in words, and not in what Python prints of an interpreter that is shutting down."""
    job.write(
        f"""
        def rows():
            with enable_counter("job.progress") as counter:
                counter.save_load_object(seen, "seen.pickle")
                for row in counter(range(6)):
                    yield row

        seen = []
        {HELD[held]}
        for row in source:
            if row == STOP:
                seen.append(lambda: None)  # cannot be pickled
                raise Stop
        """
    )
    run = job.run(3)
    assert len(run.said) == 1, run.err
    assert "seen.pickle" in run.said[0]
    assert "Exception ignored" not in run.err
    assert job.left == []


# 3. A save that failed and nobody saw.

FAILS = {
    "an object": """
        import logging
        logging.basicConfig(format="LOG %(levelname)s %(message)s")
        with enable_counter("job.progress") as counter:
            seen = counter.save_load_object([], "seen.pickle")
            for i in counter(range(6)):
                if i == STOP:
                    if len(sys.argv) > 2:
                        seen.append(lambda: None)  # cannot be pickled
                    {end}
                seen.append(i)
            print(seen)
        """,
    "a quota": """
        import logging, resource
        logging.basicConfig(format="LOG %(levelname)s %(message)s")
        with enable_counter("job.progress") as counter:
            for i in counter(range(6)):
                if i == STOP:
                    if len(sys.argv) > 2:
                        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
                    {end}
                print(i)
        """,
    "a function": """
        import logging
        logging.basicConfig(format="LOG %(levelname)s %(message)s")
        seen = []
        def save(path):
            if len(sys.argv) > 2:
                raise OSError(28, "No space left on device")
            Path(path).write_text(repr(seen))
        def load(path):
            seen[:] = eval(Path(path).read_text())
        with enable_counter("job.progress") as counter:
            counter.save_load_funcs([save], [load], ["seen.txt"])
            for i in counter(range(6)):
                if i == STOP:
                    {end}
                seen.append(i)
            print(seen)
        """,
}
GOES = {
    "sys.exit": ('sys.exit("enough for now")', {1}),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", {-signal.SIGTERM, 128 + signal.SIGTERM}),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", {-signal.SIGINT, 1, 130}),
    "an error": ("raise Stop", {1}),
}


@pytest.mark.parametrize("end", GOES)
@pytest.mark.parametrize("fails", FAILS)
def test_a_failed_save_is_seen_whatever_ends_the_program(job, fails, end):
    """Warned of and logged where the exception prints nothing; that one stays; the former save stays whole."""
    code, status = GOES[end]
    job.write(FAILS[fails].format(end=code))
    assert job.run(2).status in status
    before = job.saved
    run = job.run(4, "fail")
    name = {"an object": r"seen\.pickle", "a quota": r"job\.progress", "a function": r"seen\.txt"}[fails]
    assert run.status in status
    assert [text for text in run.said if re.search(name, text)], run.err
    assert re.search(rf"LOG ERROR .*{name}", run.err)
    assert job.saved == before
    last = job.run(warn="error")
    assert last.status == 0
    assert last.out == (["2", "3", "4", "5"] if fails == "a quota" else ["[0, 1, 2, 3, 4, 5]"])


@pytest.mark.parametrize("end", GOES)
@pytest.mark.parametrize("fails", FAILS)
def test_a_failed_save_under_w_error_leaves_the_exception_that_ended_the_block(job, fails, end):
    """The status of the program is its own, and what failed is still told; nothing is lost."""
    code, status = GOES[end]
    job.write(FAILS[fails].format(end=code))
    job.run(2)
    before = job.saved
    run = job.run(4, "fail", warn="error")
    assert run.status in status
    assert re.search(r"LOG ERROR", run.err)
    assert job.saved == before
    assert job.run().status == 0


def test_a_failed_save_is_noted_on_the_exception(job):
    """Whoever catches it finds it there, with the file."""
    job.write(
        """
        try:
            with enable_counter("job.progress") as counter:
                seen = counter.save_load_object([], "seen.pickle")
                for i in counter(range(6)):
                    seen.append(lambda: None)
                    sys.exit("enough for now")
        except SystemExit as stop:
            print(stop, *stop.__notes__)
        """
    )
    run = job.run()
    assert re.match(r"enough for now .*seen\.pickle", run.out[0])
    assert len(run.said) == 1
    assert "whole" not in run.out[0] + run.said[0], "nothing ever was saved"
    assert job.left == []


def test_a_save_that_succeeds_says_nothing(job):
    """Not at any of these ends."""
    job.write(FAILS["an object"].format(end='sys.exit("enough for now")'))
    run = job.run(3)
    assert (run.err.split("\n"), run.status) == (["enough for now", ""], 1)


@pytest.mark.parametrize("fails", FAILS)
def test_what_was_saved_is_not_called_whole_where_nothing_ever_was(job, fails):
    """The first save of all fails: at its end nothing is left, and nothing says otherwise."""
    job.write(FAILS[fails].format(end='sys.exit("enough for now")'))
    run = job.run(2, "fail")
    assert run.said
    assert "whole" not in run.err
    assert job.left == []


# 4. A look that deletes.

LOOKS = {
    "the position": """
        with enable_counter("job.progress") as c:
            print(c.position)
        """,
    "with each_save": """
        with enable_counter("job.progress", each_save=True) as c:
            print(c.position)
        """,
    "without with": """
        c = enable_counter("job.progress")
        print(c.position)
        """,
    "without with, each_save": """
        c = enable_counter("job.progress", each_save=True)
        print(c.position)
        """,
    "the objects": """
        with enable_counter("job.progress") as c:
            seen = c.save_load_object([], "seen.pickle")
            print(c.position)
            assert seen == [0, 1, 2, 3]
        """,
    "a loop that is not run": """
        with enable_counter("job.progress") as c:
            loop = c(range(6))
            assert len(loop) == 6
            assert "position 4" in repr(loop)
            print(loop.position)
        """,
    "a simple loop that is not run": """
        print(simple_counter("job.progress", range(6)).position)
        """,
    "in a block": """
        with multi_count():
            with enable_counter("job.progress") as c:
                print(c.position)
        """,
    "in a block, with a loop beside it": """
        with multi_count():
            with enable_counter("job.progress") as c:
                print(c.position)
            for i in simple_counter("other.progress", range(3)):
                pass
        """,
    "with an error": """
        try:
            with enable_counter("job.progress") as c:
                print(c.position)
                raise Stop
        except Stop:
            pass
        """,
    "with return": """
        def look():
            with enable_counter("job.progress") as c:
                return c.position
        print(look())
        """,
    "two looks": """
        for turn in range(2):
            with enable_counter("job.progress") as c:
                position = c.position
        print(position)
        """,
    "a look that grows": """
        with enable_counter("job.progress") as c:
            c.save_load_object([], "seen.pickle")
            c.save_load_object([], "more.pickle")
            print(c.position)
        """,
    "a loop over nothing else": """
        with enable_counter("job.progress") as c:
            print(c.position, *zip([], c(range(6))))
        """,
    "the library switched off": """
        with enable_counter("job.progress", use_tempfile=False) as c:
            assert list(c(range(2))) == [0, 1]
        print(4)
        """,
}
SEEN = """
        with enable_counter("job.progress") as counter:
            seen = counter.save_load_object([], "seen.pickle")
            for i in counter(range(6)):
                if i == STOP:
                    raise Stop
                seen.append(i)
            print(seen)
        """


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    """A job that is stopped at 4, looked at, and run to its end: what was there before and after each look."""
    table = Table(tmp_path_factory.mktemp("looks"), dict.fromkeys(LOOKS, SEEN))
    table.run(4)
    before = {name: job.files for name, job in table.jobs.items()}
    for name, job in table.jobs.items():
        job.write(LOOKS[name])
    outcomes = table.run()
    after = {name: job.files for name, job in table.jobs.items()}
    for job in table.jobs.values():
        job.write(SEEN)
    return before, outcomes, after, table.run()


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_costs_nothing(looks, name):
    """A block in which the loop has not begun deletes and changes nothing; the job goes on afterwards."""
    before, outcomes, after, ended = looks
    assert outcomes[name].error == ""
    assert outcomes[name].out == ["4"]
    assert after[name] == before[name]
    assert ended[name].out == ["[0, 1, 2, 3, 4, 5]"]
    assert ended[name].left == []


def test_a_look_at_a_program_with_every_warning_an_error_costs_nothing(job):
    """Neither where something is saved nor where nothing is: that leaves nothing."""
    look = 'with enable_counter("job.progress") as c:\n    print(c.position)'
    job.write(look)
    assert (job.run(warn="error").out, job.left) == (["0"], [])
    job.write(SEEN)
    job.run(4)
    job.write(look)
    assert job.run(warn="error").out == ["4"]
    assert job.left == ["job.progress", "seen.pickle"]


def test_a_look_at_a_finished_loop_and_at_an_inner_one_costs_nothing(job):
    """A block that was stopped in its second loop is looked at, and then done."""
    text = """
        with multi_count():
            with enable_counter("a.progress") as a:
                seen = a.save_load_object([], "a.pickle")
                {a}
            with enable_counter("b.progress") as b:
                for i in b(range(4)):
                    for j in simple_counter("c.progress", range(4)):
                        if (i, j) == (2, STOP):
                            raise Stop
                        print(i, j)
        """
    job.write(text.format(a="for i in a(range(3)): seen.append(i)"))
    job.run(2)
    before = job.files
    job.write('for name in "ab":\n    with enable_counter(f"{name}.progress") as c:\n        print(c.position)')
    looked = job.run(warn="error")
    assert (looked.out, looked.err) == (["3", "2"], "")
    assert job.files == before
    job.write(text.format(a="for i in a(range(3)): seen.append(i)\n                print(seen)"))
    assert job.run().out == ["[0, 1, 2]", "2 2", "2 3", "3 0", "3 1", "3 2", "3 3"]
    assert job.left == []


def test_what_is_told_to_forget_is_forgotten_without_a_loop(job):
    """`remove_files` is no look."""
    job.write(SEEN)
    job.run(4)
    job.write('with enable_counter("job.progress") as c:\n    c.remove_files()')
    assert job.run(warn="error").status == 0
    assert job.left == []


# 5. Another input under the same path.

INPUT_JOB = """
import csv, dataclasses, functools, itertools


class Plain:
    pass


class Job:
    def __repr__(self):
        return f"<Job 7\\nstate={os.getpid()}>"


class Frame:  # as pandas prints a wide one, and polars any: as much as the terminal has room for
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text + str(os.getpid())


class Handle:  # as bindings of C++ libraries print theirs
    def __repr__(self):
        return f"<Handle(0x{id(self):x})>"


class Slow:
    def __repr__(self):
        time.sleep(40)
        return "slow"


class Failing:
    def __repr__(self):
        raise ValueError("no repr")


class Leaving:
    def __repr__(self):
        sys.exit("no repr")


class Wrong:
    def __repr__(self):
        return 5


class Deep:
    def __repr__(self):
        return repr(self)


class Huge(list):
    def __repr__(self):
        raise MemoryError


@dataclasses.dataclass
class Row:
    name: str
    tags: set = dataclasses.field(default_factory=set)


def lines(name):
    with open(name) as file:
        yield from file


Path("a.txt").write_text("a\\nb\\nc\\nd\\ne\\nf\\n")
Path("b.txt").write_text("z\\nb\\nc\\nd\\ne\\nf\\n")
source = eval(sys.argv[2])
began = time.monotonic()
<loop>
    if i == STOP:
        raise Stop
print(i, time.monotonic() - began < 15)
"""
LOOPS = {
    "with": (
        'with enable_counter("job.progress") as counter:\n'
        "  for i, item in enumerate(counter(source), counter.position):"
    ),
    "simple": 'loop = simple_counter("job.progress", source)\nfor i, item in enumerate(loop, loop.position):',
}
OTHER = {
    "a longer list": ("list('abcdef')", "list('abcdefg')"),
    "a shorter list": ("list('abcdef')", "list('abcde')"),
    "a longer range": ("range(6)", "range(7)"),
    "a longer list of objects": ("[Plain() for _ in range(6)]", "[Plain() for _ in range(7)]"),
    "a list that begins otherwise": ("list('abcdef')", "list('zbcdef')"),
    "lines of another file": ("open('a.txt').readlines()", "open('b.txt').readlines()"),
    "another open file": ("open('a.txt')", "open('b.txt')"),
    "a generator over another file": ("lines('a.txt')", "lines('b.txt')"),
    "another iterator": ("iter('abcdef')", "iter('zbcdef')"),
    "numbers": ("[0.5, 1, 2, 3, 4, 5]", "[0.25, 1, 2, 3, 4, 5]"),
    "tuples": ("[(i, 'a') for i in range(6)]", "[(i, 'b') for i in range(6)]"),
    "lines of bytes": ("[b'{\"a\": 1}', *'bcdef']", "[b'{\"a\": 2}', *'bcdef']"),
    "bytes": ("map(bytes, [[1], [2], [3], [4], [5], [6]])", "map(bytes, [[9], [2], [3], [4], [5], [6]])"),
    "paths": ("[Path(c) for c in 'abcdef']", "[Path(c) for c in 'zbcdef']"),
    "objects that print their fields": ("[Row(c) for c in 'abcdef']", "[Row(c) for c in 'zbcdef']"),
    "a dict": ("dict.fromkeys('abcdef')", "dict.fromkeys('zbcdef')"),
    "a zip": ("zip('abcdef', range(6))", "zip('zbcdef', range(6))"),
    "another range": ("range(6)", "range(10, 16)"),
    "rows that are dicts": ("[{'id': i, 'b': 2} for i in range(6)]", "[{'id': i + 9, 'b': 2} for i in range(6)]"),
    "rows of a table": ("csv.DictReader(open('a.txt'), 'n')", "csv.DictReader(open('b.txt'), 'n')"),
    "texts with a brace": ("[(1, '{a'), *'bcdef']", "[(1, '{z'), *'bcdef']"),
    "texts like addresses": ("['0x1f', *'bcdef']", "['0x2f', *'bcdef']"),
}
SAME = {
    "a list": ("list('abcdef')", "list('abcdef')"),
    "an open file": ("open('a.txt')", "open('a.txt')"),
    "objects": ("[object() for _ in range(6)]", None),
    "objects of a class": ("(Plain() for _ in range(6))", None),
    "objects in lists": ("[[Plain(), {'a': Plain()}] for _ in range(6)]", None),
    "functions": ("[lambda: None, *'bcdef']", None),
    "partial functions and methods": ("[(functools.partial(lines, 1), Plain().__init__), *'bcdef']", None),
    "a table that is cut to the terminal": ("[(1, Frame('   a  b  ...  ')), *'bcdef']", None),
    "a table in a frame": ("[Frame('shape: (1, 9)\\n┌─────┬───'), *'bcdef']", None),
    "an address of another kind": ("[Handle() for _ in range(6)]", None),
    "what says how far it has come": ("[(1, Job()) for _ in range(6)]", None),
    "generators": ("[lines('a.txt') for _ in range(6)]", None),
    "a slow repr": ("[Slow(), *'bcdef']", None),
    "a slow repr inside": ("iter([[Slow()], *'bcdef'])", None),
    "a failing repr": ("[Failing(), *'bcdef']", None),
    "a repr that exits": ("[Leaving(), *'bcdef']", None),
    "a repr that is no str": ("[Wrong(), *'bcdef']", None),
    "a repr without an end": ("[Deep(), *'bcdef']", None),
    "a repr that needs too much": ("[Huge(), *'bcdef']", None),
    "sets": ("[{'a', 'b', 'c'}, *'bcdef']", None),
    "sets that cannot be sorted": ("[{'a', None, 'b', 3}, *'bcdef']", None),
    "objects that print a set": ("[Row('a', {'a', 'b', 'c'}), *'bcdef']", None),
    "a large item": ("[list(range(10**6)), *'bcdef']", None),
    "a function": ("lambda start: iter('abcdef'[start:])", "lambda start: iter('zbcdef'[start:])"),
    "an iterator of no end": ("itertools.count()", None),
}


# A busy machine takes more than a moment to begin a thread, in which an item is printed.
PATIENT = "from py_restart import _input\n_input._PATIENCE = 30\n"


def inputs(cases):
    """The programs that read these inputs. What has to be warned of may take its time to print."""
    text = INPUT_JOB if cases is SAME else PATIENT + INPUT_JOB
    return {f"{mode}: {name}": text.replace("<loop>", loop) for name in cases for mode, loop in LOOPS.items()}


def texts_of(cases, index):
    """The first or second text of each input; None is the first again."""
    return {f"{mode}: {name}": pair[index] or pair[0] for name, pair in cases.items() for mode in LOOPS}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Stopped at 3, and run with another input; then once more with `-W error` and with the first input to the end."""
    folder = tmp_path_factory.mktemp("others")
    table, strict = Table(folder / "a", inputs(OTHER)), Table(folder / "b", inputs(OTHER))
    table.run(3, texts_of(OTHER, 0), PYTHONHASHSEED="1")
    strict.run(3, texts_of(OTHER, 0), PYTHONHASHSEED="1")
    before = {name: job.saved for name, job in strict.jobs.items()}
    raised = strict.run(-1, texts_of(OTHER, 1), warn="error")
    changed = [name for name, job in strict.jobs.items() if job.saved != before[name]]
    again = strict.run(-1, texts_of(OTHER, 0), PYTHONHASHSEED="2")
    return table.run(-1, texts_of(OTHER, 1), PYTHONHASHSEED="2"), raised, changed, again


@pytest.mark.parametrize("name", inputs(OTHER))
def test_another_input_is_warned_of_when_the_loop_starts(others, name):
    """Another length or another first item: the warning names the progress file, and the loop goes on."""
    outcome = others[0][name]
    assert outcome.error == ""
    assert len(outcome.said) >= 1
    assert all(re.search(r"job\.progress", text) for text in outcome.said)


@pytest.mark.parametrize("name", inputs(OTHER))
def test_another_input_under_w_error_is_an_exception_that_changes_nothing(others, name):
    """With the input that it was saved with the job goes on as if nothing had been."""
    _, raised, changed, again = others
    assert re.match(r"UserWarning: .*job\.progress", raised[name].error)
    assert name not in changed
    assert (again[name].error, again[name].said, again[name].out) == ("", [], ["5 True"])


@pytest.fixture(scope="module")
def sames(tmp_path_factory):
    """Stopped at 3, and run again with an input that is the same for all that can be known."""
    table = Table(tmp_path_factory.mktemp("sames"), inputs(SAME))
    first = table.run(3, texts_of(SAME, 0), PYTHONHASHSEED="1")
    texts = texts_of(SAME, 1)
    return first, table.run({name: 9 if "no end" in name else -1 for name in texts}, texts, PYTHONHASHSEED="2")


@pytest.mark.parametrize("name", inputs(SAME))
def test_the_same_input_is_never_warned_of(sames, name):
    """Not for addresses, not for the order of a set; and no `repr` of an item is in the way of the run."""
    first, second = sames
    assert first[name].error.startswith("Stop")
    assert first[name].said == second[name].said == []
    if "no end" in name:
        assert second[name].error.startswith("Stop")
    else:
        assert (second[name].error, second[name].out) == ("", ["5 True"])


CHANGED = {
    "a list of dicts": ('[{"url": u, "html": None} for u in "abcdef"]', "saved", 'item["html"] = len(done)'),
    "a dict of lists": ('{u: [] for u in "abcdef"}', "saved.items()", "item[1].append(len(done))"),
    "a view of a dict": ('{u: "new" for u in "abcdef"}', "saved.items()", "saved[item[0]] = 'done'"),
    "an enumerated list": ('["new"] * 6', "enumerate(saved)", "saved[item[0]] = 'done'"),
    "agents of a world": ('World("abcdef")', "saved.agents", "item.age += len(done)"),
    "a list beside much else": (
        '{"rows": ["new"] * 6, "seen": [[n] for n in range(9999)]}',
        "saved['rows']",
        "saved['rows'][len(done) - 1] = 'done'",
    ),
    "a queue that grows": ('["a"]', "saved", "saved.extend(next for next in 'bcdef' if next not in saved)"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_an_input_that_is_saved_with_its_loop_may_be_changed_in_place(job, name):
    """It prints otherwise on resuming, or has another length; what the loop is given was loaded, so nobody warns."""
    register, source, body = CHANGED[name]
    job.write(
        f"""
        class Agent:
            def __init__(self, name):
                self.name, self.age = name, 0

            def __repr__(self):
                return f"Agent({{self.name!r}}, {{self.age}})"

        class World:
            def __init__(self, names):
                self.agents = [Agent(name) for name in names]

        with enable_counter("job.progress", each_save=True) as counter:
            saved = counter.save_load_object({register}, "saved.pickle")
            done = counter.save_load_object([1], "done.pickle")
            for item in counter({source}):
                if len(done) == STOP:
                    raise Stop
                {body}
                done.append(1)
            print(len(done))
        """
    )
    assert job.run(4).error.startswith("Stop")
    again = job.run(-1, warn="error")
    assert (again.error, again.out, job.left) == ("", ["7"], [])


def test_another_input_of_dicts_is_warned_of_where_other_things_are_registered(job):
    """What is registered is not the input, and shares with it but a text, a number, and what all programs share.

    It may hold itself. A function refers to all that is in its module.
    """
    job.write(
        """
        from py_restart import _input
        _input._PATIENCE = 30

        def key(row):
            return row["name"]

        rows = [{"name": name, "size": 3, "of": int} for name in (["a", "b", "c"] if STOP == 1 else ["x", "b", "c"])]
        with enable_counter("job.progress", each_save=True) as counter:
            done = counter.save_load_object({"x": 3, "of": int, "by": key}, "done.pickle")
            for row in counter(rows):
                if row["name"] == "b" and STOP == 1:
                    raise Stop
                done[row["name"]] = done
        """
    )
    assert job.run(1).said == []
    assert ["another first item" in text for text in job.run(-1).said] == [True]


def test_an_input_that_is_saved_with_the_loop_around_may_be_changed_in_place(job):
    """The inner loop is given what the outer one has loaded: it is no other input."""
    job.write(
        """
        with enable_counter("job.progress") as outer:
            rows = outer.save_load_object([{"n": n, "seen": 0} for n in range(4)], "rows.pickle")
            for epoch in outer(range(2)):
                with enable_counter("inner.progress") as counter:
                    for row in counter(rows):
                        if row["n"] == STOP:
                            raise Stop
                        row["seen"] += 1
            print([row["seen"] for row in rows])
        """
    )
    assert job.run(2).error.startswith("Stop")
    again = job.run(-1, warn="error")
    assert (again.error, again.out, job.left) == ("", ["[2, 2, 2, 2]"], [])


def test_another_first_item_before_others_that_are_registered_is_warned_of(job):
    """A list of its own is not what is registered, whatever else is in it."""
    job.write(
        """
        from py_restart import _input
        _input._PATIENCE = 30

        with enable_counter("job.progress", each_save=True) as counter:
            rows = counter.save_load_object([{"n": n} for n in range(4)], "rows.pickle")
            for row in counter([{"head": STOP}, *rows]):
                if row.get("n") == STOP:
                    raise Stop
        """
    )
    assert job.run(1).said == []
    assert ["another first item" in text for text in job.run(-1).said] == [True]


@pytest.mark.parametrize("source", ["iter(queue.pop, '')", "map(list.pop, [queue] * 4)", "Draining(queue)"])
def test_a_queue_that_an_iterator_empties_is_another_input(job, source):
    """It calls what takes from it, and skipping would take from it once more."""
    job.write(
        f"""
        class Draining:
            def __init__(self, queue):
                self.queue = queue

            def __iter__(self):
                while self.queue[-1]:
                    yield self.queue.pop()

        with enable_counter("job.progress", each_save=True) as counter:
            queue = counter.save_load_object(["", *"edcba"], "queue.pickle")
            for item in counter({source}):
                if item == "c" and STOP == 1:
                    raise Stop
        """
    )
    assert job.run(1).said == []
    assert ["another first item" in text for text in job.run(-1).said] == [True]


def test_a_queue_that_a_generator_empties_is_another_input(job):
    """It is registered, and the item itself among what was seen; but skipping would take from it once more."""
    job.write(
        """
        from collections import deque
        def drain(queue):
            while queue:
                yield queue.popleft()
        with enable_counter("job.progress", each_save=True) as counter:
            state = {"queue": deque((0, name) for name in "abcdef"), "seen": []}
            state = counter.save_load_object(state, "state.pickle")
            state["seen"] += state["queue"]
            for item in counter(drain(state["queue"])):
                if item[1] == "c" and STOP == 1:
                    raise Stop
                print(item[1])
        """
    )
    assert job.run(1).said == []
    (text,) = job.run(-1).said
    assert "job.progress: saved with an iterable that had another first item; 2 of this one count as done" in text
    assert "give the whole input in each run" in text


@pytest.mark.parametrize("block", ["with open(os.devnull)", "with multi_count()"])
def test_another_input_of_a_loop_that_has_finished_is_warned_of(job, block):
    """Nothing of it would run: the loop is skipped, and what follows it would take the old result for the new one."""
    job.write(
        f"""
        names = sys.argv[2].split(",")
        {block}:
            with enable_counter("job.progress", each_save=True) as counter:
                done = counter.save_load_object([], "done.pickle")
                for name in counter(names):
                    done.append(name)
                if STOP == 1:
                    raise Stop
                print(done)
            if STOP == 2:
                raise Stop
        """
    )
    assert job.run(1 if "open" in block else 2, "a,b").error.startswith("Stop")
    before = job.saved
    strict = job.run(-1, "c,d", warn="error")
    assert re.match(r"UserWarning: job\.progress: .* another first item; all of this one count as done", strict.error)
    longer = job.run(-1, "a,b,c", warn="error").error
    assert re.match(r"UserWarning: job\.progress: .* which has 3 now; all of this one count as done", longer)
    assert job.saved == before
    assert (job.run(3, "a,b", warn="error").error, job.left) == ("", [])


def test_a_loop_that_begins_with_what_was_loaded_and_then_forgotten_is_an_error(job):
    """The objects stay as they were loaded, and every item would be counted into them again; the next run is right."""
    job.write(
        """
        with enable_counter("job.progress", each_save=True) as counter:
            if STOP == 8:
                counter.remove_files()
            done = counter.save_load_object([], "done.pickle")
            if STOP == 7:
                counter.remove_files()
            for i in counter(range(6)):
                if i == STOP:
                    raise Stop
                done.append(i)
            print(done)
        """
    )
    assert job.run(7).out == ["[0, 1, 2, 3, 4, 5]"]  # nothing was loaded
    for again in (7, 8):
        assert job.run(3).error.startswith("Stop")
        refused = job.run(7)
        assert re.match(r"py_restart.RestartError: job\.progress: .*done\.pickle was loaded before", refused.error)
        assert job.left == []
        assert job.run(again).out == ["[0, 1, 2, 3, 4, 5]"]


def test_an_item_that_prints_slowly_does_not_keep_the_program_from_ending(job):
    """Nor from being stopped: the whole run is a matter of moments, and nothing of the item is kept."""
    job.write(
        """
        class Secret:
            def __repr__(self):
                time.sleep(600)

        for item in simple_counter("job.progress", ["pass" + "word", Secret(), 3]):
            if STOP == 1 and item == 3:
                raise Stop
        for item in simple_counter("slow.progress", [Secret(), Secret()]):
            pass
        print("done")
        """
    )
    assert job.run(1).status == 1
    assert b"password" not in (job.folder / "job.progress").read_bytes()
    run = job.run(warn="error")  # the repr takes longer than `LIMIT`: it would be killed
    assert (run.out, run.err, run.status) == (["done"], "", 0)


def test_items_that_print_slowly_are_not_waited_for_in_each_of_many_loops(job):
    """Nor do threads that print them pile up; what prints at once is recognised all the same."""
    job.write(
        """
        class Slow:
            def __repr__(self):
                printed.append(self)
                time.sleep(0.1)

        printed = []
        for n in simple_counter("job.progress", range(90)):
            for item in simple_counter("slow.progress", [Slow()]):
                pass
        print(len(printed) < 30)
        for row in simple_counter("row.progress", [{STOP: 1}, {2: 2}]):
            if row == {2: 2} and STOP == 1:
                raise Stop
        """
    )
    assert job.run(1).out == ["True"]
    assert ["another first item" in text for text in job.run(2).said] == [True]


def test_of_bytes_that_may_change_the_beginning_is_printed(job):
    """A buffer of 30 MB prints as more than 100 MB."""
    job.write(
        """
        import tracemalloc
        tracemalloc.start()
        for buffer in simple_counter("job.progress", [bytearray(30_000_000)]):
            print(tracemalloc.get_traced_memory()[1] < 60_000_000)
        """
    )
    assert job.run().out == ["True"]


# 6. A program that has grown.

GROWN_JOB = """
seen = []
with enable_counter("job.progress", each_save={each}) as counter:
    total = counter.save_load_object({{"sum": 0}}, "total.pickle")
    {more}
    for i in counter(range(6)):
        if i == STOP:
            raise Stop
        total["sum"] += i
        {body}
    print(total["sum"], seen)
"""
GROWN = {
    "an object": ('seen = counter.save_load_object([], "seen.pickle")', "seen.append(i)", "seen.pickle"),
    "a function": (
        "counter.save_load_funcs([lambda path: Path(path).write_text(repr(seen))], "
        '[lambda path: seen.extend(eval(Path(path).read_text()))], ["seen.txt"])',
        "seen.append(i)",
        "seen.txt",
    ),
}


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("grown", GROWN)
def test_a_program_that_has_grown_goes_on_with_a_warning(job, grown, each):
    """What the save does not have starts as it is given, and is saved from then on; `-W error` loses nothing."""
    more, body, name = GROWN[grown]
    job.write(GROWN_JOB.format(each=each, more="pass", body="pass"))
    assert job.run(2).said == []
    before = job.saved
    job.write(GROWN_JOB.format(each=each, more=more, body=body))
    strict = job.run(4, warn="error")
    assert re.match(rf"UserWarning: .*{re.escape(name)}", strict.error)
    assert job.saved == before
    second = job.run(4)
    assert len(second.said) == 1
    assert re.search(re.escape(name), second.said[0])
    third = job.run(warn="error")
    assert (third.out, third.status) == (["15 [2, 3, 4, 5]"], 0), third.err


def test_a_program_that_registers_something_for_the_first_time_is_one_that_has_grown(job):
    """The save has a position alone."""
    job.write(
        'with enable_counter("job.progress") as c:\n    for i in c(range(6)):\n        if i == STOP: raise Stop\n'
    )
    job.run(2)
    job.write(SEEN)
    run = job.run()
    assert (run.out, run.status) == (["[2, 3, 4, 5]"], 0)
    assert len(run.said) == 1
    assert "seen.pickle" in run.said[0]


def test_nothing_has_grown_where_a_loop_starts_afresh(job):
    """A first run, one after `remove_files`, a later loop of a block, and inner loops of another outer item."""
    job.write(
        """
        with multi_count():
            with enable_counter("outer.progress", each_save=True) as outer:
                if STOP == 3:
                    outer.remove_files()
                total = outer.save_load_object([], "total.pickle")
                for i in outer(range(3)):
                    with enable_counter("inner.progress", each_save=True) as inner:
                        seen = inner.save_load_object([], "seen.pickle")
                        for j in inner(range(3)):
                            if (i, j) == (1, 1) and STOP == 0:
                                raise Stop
                            seen.append(j)
                    if i == 1 and STOP == 1:
                        raise Stop
                    total.append(seen)
            print(total)
            if STOP == 2:
                raise Stop
            with enable_counter("last.progress", each_save=True) as last:
                late = last.save_load_object([], "late.pickle")
                for i in last(range(3)):
                    late.append(i)
        """
    )
    runs = [job.run(stop, warn="error") for stop in (0, 1, 2, 3, -1)]
    assert [run.status for run in runs] == [1, 1, 1, 0, 0], [run.err for run in runs]
    assert all("Warning" not in run.err for run in runs)
    assert runs[2].out == runs[3].out == runs[4].out == ["[[0, 1, 2], [0, 1, 2], [0, 1, 2]]"]
    assert job.left == []


# 7. Messages that cost work.

STATS = """
class Stats:
    def __init__(self):
        self.seen = []
"""
STATS_JOB = """
with enable_counter("job.progress") as counter:
    other = counter.save_load_object({"a": 1}, "other.pickle")
    stats = counter.save_load_object(<stats>, "stats.pickle")
    for i in counter(range(6)):
        if i == STOP:
            raise Stop
        stats.seen.append(i)
    print(stats.seen)
"""


@pytest.mark.parametrize("where", ["the program", "a module", "a library"])
def test_an_object_whose_class_is_gone_points_back_to_it_before_anything_else(job, where):
    """The old class or version comes before "delete", which names what it would delete. With the class it goes on."""
    module = job.folder / ("library/__init__.py" if where == "a library" else "stats.py")
    module.parent.mkdir(exist_ok=True)
    loads = STATS_JOB.replace("<stats>", "Stats()")
    if where != "the program":
        module.write_text(STATS)
        job.write(f"from {module.stem if where == 'a module' else 'library'} import Stats\n" + loads)
    else:
        job.write(STATS + loads)
    assert job.run(2).status == 1
    old, code = job.saved, (job.folder / "job.py").read_text()
    job.write(STATS_JOB.replace("<stats>", "None"))
    if where == "a library":
        shutil.rmtree(module.parent)
    elif where == "a module":
        module.write_text("Other = 1\n")
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*stats\.pickle", run.error)
    assert re.search(r"Stats|library", run.error)
    assert re.search(r"(class|version).*\bdelete\b", run.error)
    deleted = run.error[run.error.rindex("delete") :]
    assert all(name in deleted for name in ("job.progress", "stats.pickle", "other.pickle"))
    assert len(frames(run.err)) <= 2
    assert all(job.saved[name] == data for name, data in old.items() if name != "stats.py")
    (job.folder / "job.py").write_text(code)
    if where != "the program":
        module.parent.mkdir(exist_ok=True)
        module.write_text(STATS)
    assert job.run().out == ["[0, 1, 2, 3, 4, 5]"]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_message_that_says_to_start_afresh_names_what_to_delete(job, damage):
    """One of two objects is not as it was saved: the way back comes first, then the files that would go."""
    job.write(STATS + STATS_JOB.replace("<stats>", "Stats()"))
    job.run(2)
    path = job.folder / "stats.pickle"
    data = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(data[::-1])
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*stats\.pickle", run.error)
    assert re.search(r"put .*back|restore", run.error)
    assert all(name in run.error[run.error.rindex("delete") :] for name in ("job.progress", "other.pickle"))
    path.write_bytes(data)
    assert job.run().out == ["[0, 1, 2, 3, 4, 5]"]


def test_a_save_that_a_shorter_program_finds_names_what_it_registers_no_more(job):
    """The way on is to register it; only then to delete, and what."""
    job.write(STATS + STATS_JOB.replace("<stats>", "Stats()"))
    job.run(2)
    job.write('with enable_counter("job.progress") as c:\n    for i in c(range(6)): print(i)')
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress", run.error)
    assert re.search(r"register.*delete", run.error)
    assert all(name in run.error for name in ("stats.pickle", "other.pickle"))
    assert (run.numbers, job.left) == ([], ["job.progress", "other.pickle", "stats.pickle"])


def test_a_progress_file_that_may_not_be_read_is_no_reason_to_choose_another_path(job):
    """It belongs to another user: another path would begin from nothing."""
    job.write(
        """
        if STOP == -1:  # even for root, without its capabilities
            import ctypes
            ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        with enable_counter("job.progress") as c:
            for i in c(range(6)):
                if i == STOP:
                    raise Stop
        """
    )
    job.run(2)
    (job.folder / "job.progress").chmod(0o000)
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress.*(ermission|denied|not .*read)", run.error), run.err
    assert not re.search(r"(another|other) path|\bdelete\b", run.error)
    assert re.search(ADVICE, run.error)
    (job.folder / "job.progress").chmod(0o600)
    assert job.run().status == 0


@pytest.mark.parametrize("closed_late", [False, True])
def test_a_writer_that_is_still_open_is_what_the_message_speaks_of(job, closed_late):
    """What a function left open reaches the file after it was saved: not "somebody else" is to blame."""
    job.write(
        f"""
        files = []
        def save(path):
            file = open(path, "w")
            file.write("x" * 100)
            files.append(file)
            if {closed_late} and len(files) == 2:
                files[0].close()
        with enable_counter("job.progress", each_save=True) as counter:
            counter.save_load_funcs([save], [print], ["notes.txt"])
            for i in counter(range(4)):
                if i == STOP:
                    raise Stop
        """
    )
    errors = [job.run(stop).err for stop in (2, -1)]
    said = re.search(r"RestartError: .*notes\.txt.*", "\n".join(errors))
    assert said, errors
    assert re.search(r"clos|still open", said[0])
    assert not re.search("changed by somebody else", said[0])


@pytest.mark.parametrize(
    "call", ["enable_counter({})", "simple_counter({}, range(3))", "counter.save_load_object([], {})"]
)
@pytest.mark.parametrize("kind", ["str", "Path"])
@pytest.mark.parametrize("path", ["~/job.tmp", "~nobody/job.tmp"])
def test_a_path_that_begins_with_a_tilde_says_that_it_is_not_expanded(tmp_path, call, kind, path):
    """Where there is no such folder; the error names `Path.home()`."""
    ask = f'counter = enable_counter("job.progress")\n{call.format(f"{kind}({path!r})")}\n'
    outcome = Table(tmp_path, {"job": ask}).run()["job"]
    assert re.match(r"RestartError: .*~", outcome.error)
    assert "expand" in outcome.error and "Path.home()" in outcome.error
    assert len(frames(outcome.trace)) <= 2
    assert outcome.left == []


def test_a_folder_that_is_named_tilde_is_a_folder(job):
    """Nothing is said where it is there."""
    job.write(
        """
        os.mkdir("~")
        for i in simple_counter("~/job.progress", range(6)):
            if i == 2:
                break
        print(os.listdir("~"))
        """
    )
    run = job.run(warn="error")
    assert (run.out, run.err) == (["['job.progress']"], "")


@pytest.mark.parametrize(
    "lists",
    [
        'save, load, "x"',
        '[save], [load], "x"',
        'save, [load], ["x"]',
        '[save], load, ["x"]',
        '[save], [load], Path("x")',
    ],
)
def test_functions_that_are_given_without_lists_are_an_error_that_says_so(tmp_path, lists):
    """A str is no list of paths."""
    text = f'save = load = print\ncounter = enable_counter("job.progress")\ncounter.save_load_funcs({lists})\n'
    outcome = Table(tmp_path, {"job": text}).run()["job"]
    assert re.match(r"(TypeError|ValueError): .*job\.progress.*lists?\b", outcome.error)
    assert len(frames(outcome.trace)) <= 2


KILLED_JOB = """
saves = [0]

def save(path):
    Path(path).write_text(f"save {saves[0]}")
    saves[0] += 1
    if saves[0] == STOP:
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly(list):
    def __reduce__(self):
        if len(self) == STOP:
            os.kill(os.getpid(), signal.SIGKILL)
        return Deadly, (), None, iter(list(self))

with enable_counter("job.progress", each_save=True) as counter:
    counter.save_load_funcs([save], [print], ["notes.txt"])
    seen = counter.save_load_object(Deadly(), "seen.pickle")
    for i in counter(range(6)):
        seen.append(i)
    print(list(seen))
"""


@pytest.mark.parametrize("when", ["the first save", "a later save"])
def test_what_a_killed_save_has_staged_goes_even_where_the_progress_file_was_deleted(job, when):
    """By hand, with all that had been saved: the same paths are registered again. What is not ours stays."""
    job.write(KILLED_JOB)
    (job.folder / ".seen.pickle.mine").write_text("not ours")
    (job.folder / ".notes.txt.swp").write_text("not ours")
    assert job.run(1 if when == "the first save" else 3).status == -signal.SIGKILL
    debris = [name for name in job.left if re.match(r"\.(notes|seen).*-[ab]$", name)]
    assert debris
    for name in ("job.progress", ".job.progress.lock", "notes.txt", "seen.pickle"):
        (job.folder / name).unlink(missing_ok=True)
    run = job.run()
    assert (run.out, run.status) == (["[0, 1, 2, 3, 4, 5]"], 0), run.err
    assert job.left == [".notes.txt.swp", ".seen.pickle.mine"]


def test_an_object_that_an_earlier_run_has_left_is_said_to_be_one(job):
    """The progress file alone was deleted: the file that is there may be from an earlier run. It is not touched."""
    job.write(SEEN)
    job.run(3)
    (job.folder / "job.progress").unlink()
    data = (job.folder / "seen.pickle").read_bytes()
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*seen\.pickle.*earlier run", run.error)
    assert re.search(ADVICE, run.error)
    assert len(frames(run.err)) <= 2
    assert (job.folder / "seen.pickle").read_bytes() == data
    (job.folder / "seen.pickle").unlink()
    assert job.run(warn="error").out == ["[0, 1, 2, 3, 4, 5]"]
    assert job.left == []


# 8. The errors, and their tracebacks.


class Fault(NamedTuple):
    """A program whose fault is its author's: what it prints before, the error, the words that it must have."""

    text: str
    kind: str
    words: str
    before: str = ""  # a program that leaves something behind first; its own error does not count
    out: tuple = ()


FOR = '\nfor i in counter(range(6)):\n    if i == {stop}: raise Stop\n    print("item")\n'
OPEN = 'counter = enable_counter("job.progress", each_save=True)\n'
SAVED = (
    OPEN
    + 'seen = counter.save_load_object([], "seen.pickle")'
    + FOR.format(stop=3).replace('print("item")', "seen.append(i)")
)
R, T, V, I = "RestartError", "TypeError", "ValueError", "InUseError"  # noqa: E741
FAULTS = {
    # at the call
    "no path": Fault("enable_counter(5)", T, r"path"),
    "bytes for a path": Fault('enable_counter(b"job")', T, r"path"),
    "no path for an object": Fault(OPEN + "counter.save_load_object([], None)", T, r"path"),
    "an empty path": Fault('enable_counter("")', V, r"path"),
    "a span of text": Fault('enable_counter("job.progress", each_save=True, save_span="2")', T, r"save_span"),
    "a span of 0": Fault('simple_counter("job.progress", range(3), save_span=0)', V, r"save_span.*1"),
    "an interval below 0": Fault(
        'enable_counter("job.progress", each_save=True, save_interval=-1)', V, r"save_interval.*0"
    ),
    "an interval of text": Fault('simple_counter("job.progress", range(3), save_interval="5")', T, r"save_interval"),
    "lists of unequal length": Fault(
        OPEN + 'counter.save_load_funcs([print], [], ["x"])', V, r"job\.progress.*\b1\b.*\b0\b"
    ),
    "no function": Fault(
        OPEN + 'counter.save_load_funcs([print], [5], ["x"])', T, r"job\.progress: 5 is not a function"
    ),
    "not iterable": Fault('simple_counter("job.progress", 5)', T, r"job\.progress.*iterable"),
    "a call that is not iterable": Fault(OPEN + "counter(None)", T, r"job\.progress.*iterable"),
    "a missing folder": Fault('enable_counter("nowhere/job.progress")', R, r"nowhere.*folder"),
    "a missing folder of an object": Fault(
        OPEN + 'counter.save_load_object([], "nowhere/seen.pickle")', R, r"nowhere.*folder"
    ),
    "a missing folder of a simple loop": Fault('simple_counter("nowhere/job", range(3))', R, r"nowhere.*folder"),
    "a folder that is a file": Fault(
        'Path("file").write_text("")\nenable_counter("file/job.progress")', R, r"file.*(folder|directory)"
    ),
    "a folder for a path": Fault(
        'os.mkdir("job.progress")\nenable_counter("job.progress")', R, r"job\.progress.*folder"
    ),
    "garbage": Fault(
        'Path("job.progress").write_bytes(bytes(range(256)) * 9)\nenable_counter("job.progress")', R, r"job\.progress"
    ),
    "a text of somebody": Fault(
        'Path("job.progress").write_text("{\\"step\\": 3}\\n")\nenable_counter("job.progress")', R, r"job\.progress"
    ),
    "cut short": Fault(
        'Path("job.progress").write_bytes(Path("job.progress").read_bytes()[:700])\nenable_counter("job.progress")',
        R,
        r"job\.progress",
        SAVED,
    ),
    "the lock file of somebody": Fault(
        'Path(".job.progress.lock").write_text("mine, a text of some length\\n" * 50)\nenable_counter("job.progress")',
        R,
        r"job\.progress",
    ),
    "a URL": Fault('enable_counter("https://example.org/job.progress")', V, r"https://example\.org.*URL"),
    "a bucket": Fault('simple_counter("s3://bucket/job.progress", range(3))', V, r"s3://bucket.*URL"),
    "a URL for an object": Fault(
        OPEN + 'counter.save_load_object([], "gs://bucket/seen.pickle")', V, r"gs://bucket.*URL"
    ),
    "a URL for a function": Fault(
        OPEN + 'counter.save_load_funcs([print], [print], ["file:///tmp/x"])', V, r"file:///tmp/x.*URL"
    ),
    # when it is registered
    "what cannot be pickled": Fault(OPEN + 'counter.save_load_object(lambda: 0, "f.pickle")', R, r"f\.pickle.*pickle"),
    "a missing file": Fault('os.remove("seen.pickle")\n' + SAVED, R, r"seen\.pickle.*(missing|gone|not there)", SAVED),
    "a changed file": Fault(
        'Path("seen.pickle").write_bytes(b"other")\n' + SAVED, R, r"seen\.pickle.*(changed|damaged)", SAVED
    ),
    "a foreign file": Fault(
        'Path("seen.pickle").write_bytes(b"mine")\n' + SAVED, R, r"seen\.pickle.*(exists|already|there)"
    ),
    "one path for two objects": Fault(
        OPEN + 'a = counter.save_load_object([], "a")\ncounter.save_load_object([], "./a")', R, r"\ba\b.*path"
    ),
    "the path of the progress for an object": Fault(
        OPEN + 'counter.save_load_object([], "job.progress")',
        R,
        r"job\.progress.*another|job\.progress.*path of its own",
    ),
    "registered inside the loop": Fault(
        OPEN + 'for i in counter(range(3)):\n    counter.save_load_object([], "a")', R, r"before the loop"
    ),
    "a loader that fails": Fault(
        OPEN
        + 'def fail(path): raise KeyError("weights")\n'
        + 'counter.save_load_funcs([lambda path: Path(path).write_text("1")], [fail if STOP == 5 else print], ["f"])'
        + FOR.format(stop=2),
        R,
        r"\bf\b.*KeyError.*weights",
        OPEN
        + 'counter.save_load_funcs([lambda path: Path(path).write_text("1")], [print], ["f"])'
        + FOR.format(stop=2),
    ),
    # when the loop starts
    "an object that is not registered": Fault(
        OPEN + FOR.format(stop=9), R, r"job\.progress.*seen\.pickle.*register", SAVED
    ),
    "beyond the end": Fault(
        OPEN + 'counter.save_load_object([], "seen.pickle")\nfor i in counter(range(2)): print("item")',
        R,
        r"job\.progress.*position 3.*2",
        SAVED,
    ),
    "beyond the end of an iterator": Fault(
        OPEN + 'counter.save_load_object([], "seen.pickle")\nfor i in counter(iter("ab")): print("item")',
        R,
        r"job\.progress.*position 3",
        SAVED,
    ),
    "a second call": Fault(OPEN + "counter(range(3))\ncounter(range(3))", R, r"job\.progress.*another counter"),
    "a second for": Fault(
        OPEN + "loop = counter(range(3))\nfor i in loop: break\nfor i in loop: print('item')", R, r"job\.progress"
    ),
    "a second for over an ended loop": Fault(
        OPEN + "loop = counter(range(3))\nfor i in loop: pass\nfor i in loop: print('item')", R, r"job\.progress"
    ),
    "behind its with": Fault(
        'with enable_counter("job.progress") as counter:\n    loop = counter(range(3))\nfor i in loop: print("item")',
        R,
        r"job\.progress.*with",
    ),
    "a loop as a source": Fault(
        OPEN + 'counter(simple_counter("other.progress", range(3)))', R, r"job\.progress.*source.*(nest|zip)"
    ),
    "a loop in a source": Fault(
        OPEN + 'for i in counter(enumerate(simple_counter("other.progress", range(3)))): print("item")',
        R,
        r"source.*(nest|zip)",
    ),
    "no object": Fault(OPEN + "counter.object", R, r"job\.progress.*save_load_object"),
    "no object to assign": Fault(OPEN + "counter.object = 5", R, r"job\.progress.*save_load_object"),
    "a block in a block": Fault(
        "with multi_count():\n    with multi_count():\n        pass",
        R,
        r"MultiCount has already opend\. cannot open another",
    ),
    "one path for two loops of a block": Fault(
        "with multi_count():\n    for turn in range(2):\n"
        '        for i in simple_counter("job.progress", range(2)): print("item")',
        R,
        r"job\.progress.*path of its own",
        out=("item", "item"),
    ),
    "one path twice in an outer item": Fault(
        'for i in simple_counter("outer.progress", range(2)):\n'
        '    for turn in range(2):\n        for j in simple_counter("job.progress", range(2)): print("item")',
        R,
        r"job\.progress.*path of its own",
        out=("item", "item"),
    ),
    "the path of the loop around": Fault(
        'for i in simple_counter("job.progress", range(2)):\n    simple_counter("job.progress", range(2))',
        R,
        r"job\.progress.*path of its own",
    ),
    "a file at an inner path": Fault(
        'Path("job.progress").write_text("")\nfor i in simple_counter("outer.progress", range(2)):\n'
        '    simple_counter("job.progress", range(2))',
        R,
        r"job\.progress.*saved in.*outer\.progress",
    ),
    "a counter that was made around another item": Fault(
        'with enable_counter("outer.progress") as outer:\n    loops = []\n    for i in outer(range(2)):\n'
        '        loops.append(simple_counter("job.progress", range(2)))\n        if i == 1: list(loops[0])',
        R,
        r"job\.progress",
    ),
    "taken over": Fault(
        OPEN + 'newer = enable_counter("job.progress", each_save=True)\nfor i in counter(range(3)): print("item")',
        R,
        r"job\.progress.*newer",
    ),
    "in use by another thread": Fault(
        "import threading\n"
        "there, over = threading.Event(), threading.Event()\n"
        "def run():\n"
        '    for i in simple_counter("job.progress", range(3)):\n        there.set()\n        over.wait(30)\n'
        "thread = threading.Thread(target=run)\nthread.start()\nthere.wait(30)\n"
        'try:\n    enable_counter("job.progress")\nfinally:\n    over.set()\n    thread.join()\n',
        I,
        r"job\.progress.*thread",
    ),
    # at the save
    "a function that fails": Fault(
        OPEN + "def fail(path): raise KeyError('weights')\n"
        "counter.save_load_funcs([fail], [print], ['f'])\nfor i in counter(range(3)): print('item')",
        R,
        r"\bf\b.*KeyError.*weights",
        out=("item",),
    ),
    "a function that writes elsewhere": Fault(
        OPEN + "def save(path): Path(path + '.npy').write_text('x')\n"
        "counter.save_load_funcs([save], [print], ['f'])\nfor i in counter(range(3)): print('item')",
        R,
        r"\bf\b.*f\.npy",
        out=("item",),
    ),
    "a function that writes nothing": Fault(
        OPEN
        + "counter.save_load_funcs([lambda path: None], [print], ['f'])\nfor i in counter(range(3)): print('item')",
        R,
        r"\bf\b.*nothing",
        out=("item",),
    ),
    "an object that cannot be pickled any more": Fault(
        OPEN + "seen = counter.save_load_object([], 'seen.pickle')\nfor i in counter(range(3)):\n"
        "    print('item')\n    seen.append(lambda: 0)",
        R,
        r"seen\.pickle",
        out=("item",),
    ),
    "saved when it is done": Fault(
        OPEN + "for i in counter(range(2)): pass\ncounter.save()", R, r"job\.progress.*done"
    ),
    "saved in another thread": Fault(
        "import concurrent.futures\n" + OPEN + "for i in counter(range(3)):\n"
        "    with concurrent.futures.ThreadPoolExecutor() as pool: pool.submit(counter.save).result()",
        R,
        r"job\.progress.*thread",
    ),
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Each program once, after what it finds; and what was there before it."""
    table = Table(tmp_path_factory.mktemp("faults"), {name: fault.before for name, fault in FAULTS.items()})
    table.run(1, only=[name for name, fault in FAULTS.items() if fault.before])
    before = {name: set(job.files) for name, job in table.jobs.items()}
    for name, job in table.jobs.items():
        job.write(FAULTS[name].text)
    return table.run(5), before, {name: set(job.files) for name, job in table.jobs.items()}


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_says_what_happened_to_which_file_and_what_to_do(faults, name):
    """In its own type, before any item that it could have spared, and never as a bare `OSError`."""
    outcome, fault = faults[0][name], FAULTS[name]
    assert outcome.error.startswith(f"{fault.kind}: "), outcome.trace
    assert re.search(fault.words, outcome.error)
    assert name == "a block in a block" or re.search(ADVICE, outcome.error)
    assert tuple(outcome.out) == fault.out


@pytest.mark.parametrize("name", FAULTS)
def test_a_traceback_shows_the_caller_and_at_most_two_frames_of_ours(faults, name):
    """Nor those of what caused it."""
    outcome = faults[0][name]
    assert "job.py" in outcome.trace
    assert len(frames(outcome.trace)) <= 2, outcome.trace


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name].before])
def test_an_error_deletes_nothing(faults, name):
    """What was saved is there for the run after it."""
    assert faults[1][name] <= faults[2][name] | {
        path for path in faults[1][name] if name == "a missing file" and path.endswith("seen.pickle")
    }


SLEEPS = {
    "with": 'with enable_counter("job.progress") as counter:\n    for i in counter(range(6)):\n        {body}',
    "each": (
        'with enable_counter("job.progress", each_save=True) as counter:\n'
        "    for i in counter(range(6)):\n        {body}"
    ),
    "bare": 'counter = enable_counter("job.progress", each_save=True)\nfor i in counter(range(6)):\n    {body}',
    "simple": 'for i in simple_counter("job.progress", range(6)):\n    {body}',
    "an iterator": 'for i in simple_counter("job.progress", iter(range(6))):\n    {body}',
    "a block": 'with multi_count():\n    for i in simple_counter("job.progress", range(6)):\n        {body}',
    "inside": (
        'with enable_counter("outer.progress") as outer:\n    for o in outer(range(3)):\n'
        '        for i in simple_counter("job.progress", range(6)):\n            {body}'
    ),
    "with an object": (
        'with enable_counter("job.progress") as counter:\n    seen = counter.save_load_object([], "seen.pickle")\n'
        "    for i in counter(range(6)):\n        {body}"
    ),
}


@pytest.mark.parametrize("how", SLEEPS)
def test_a_ctrl_c_shows_no_frame_of_ours(job, how):
    """It arrives where the program sleeps; the traceback is the program's alone."""
    job.write(SLEEPS[how].format(body="if i == 2: print('asleep', flush=True); time.sleep(50)"))
    run = job.run(signal_at=("asleep", signal.SIGINT))
    assert run.err.rstrip().endswith("KeyboardInterrupt"), run.err
    assert frames(run.err) == []
    assert run.err.count("File ") == 1
    assert "job.progress" in job.left or "outer.progress" in job.left


@pytest.mark.parametrize("how", SLEEPS)
def test_a_failing_program_shows_no_frame_of_ours(job, how):
    """Nothing of the library stands between a person and what went wrong."""
    job.write(SLEEPS[how].format(body="if i == 2: {}['key']"))
    run = job.run()
    assert run.error == "KeyError: 'key'"
    assert frames(run.err) == []


def test_a_folder_that_cannot_be_written_is_an_error_at_the_call(job):
    """Not even root can write there."""
    job.write('enable_counter("/proc/job.progress")')
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*/proc/job\.progress", run.error), run.status
    assert re.search(ADVICE, run.error)
    assert len(frames(run.err)) <= 2


def test_a_path_that_another_process_uses_is_said_with_the_other_one(job):
    """Its process id and host, in few lines; the error will pass by itself, and its type says so."""
    job.write(
        """
        for i in simple_counter("job.progress", range(6)):
            print("asleep", flush=True)
            time.sleep(50)
        """
    )
    holder = job.start()
    try:
        assert holder.stdout.readline() == "asleep\n"
        run = job.run()
    finally:
        holder.kill()
        holder.communicate()
        holder.timer.cancel()
    assert re.match(
        rf"(py_restart\.)?InUseError: .*job\.progress.*\b{holder.pid}\b.*{re.escape(os.uname().nodename)}", run.error
    )
    assert re.search(ADVICE, run.error)
    assert len(frames(run.err)) <= 2
    assert len(run.err.splitlines()) < 12


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_comes_to_the_counter_of_the_program_says_how_to_keep_it_out(job, method):
    """It imports the program first. What Python says of that comes later, where the pool begins."""
    job.write(
        f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        with enable_counter("job.progress") as counter:
            with ProcessPoolExecutor(1, multiprocessing.get_context("{method}")) as pool:
                for size in counter(lambda start: pool.map(len, ["a", "b"][start:])):
                    print(size)
        """
    )
    run = job.run()
    says = r'in use by process \d+ .*, or stop it; .* make the counter under if __name__ == "__main__":'
    assert re.search(f"InUseError: job.progress: {says}\n", run.err)


# 9. What a counter and a loop print.


def test_a_counter_and_a_loop_say_where_the_job_stands(job):
    """The last line of a notebook's cell is an answer, in every state, and never an error."""
    job.write(
        """
        def show(what, thing):
            print(what, "|", repr(thing))

        with enable_counter("job.progress") as counter:
            show("new", counter)
            total = counter.save_load_object([], "total.pickle")
            loop = counter(range(200))
            for i in loop:
                if i == 30:
                    show("counter", counter)
                    show("loop", loop)
                    break
            show("left", loop)
        show("over", counter)
        with enable_counter("job.progress") as counter:
            counter.save_load_object([], "total.pickle")
            counter.save_load_funcs([print], [print], ["model.pt"])
            show("two", counter)
        for i in (loop := simple_counter(Path("job.progress"), iter("abc"))):
            if i == "b":
                show("iterator", loop)
        show("ended", loop)
        off = enable_counter("job.progress", use_tempfile=False)
        show("off", off)
        show("off", off("abc"))
        older = enable_counter("job.progress", each_save=True)
        newer = enable_counter("job.progress", each_save=True)
        show("older", older)
        for i in newer(range(5)):
            for j in (loop := simple_counter("inner.progress", range(7))):
                if (i, j) == (1, 3):
                    show("inner", loop)
                    show("outer", newer)
        child = os.fork()
        if child == 0:
            show("child", newer)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    run = job.run(warn="error")
    shown = dict(line.split(" | ") for line in run.out)
    assert run.status == 0, run.err
    assert shown["counter"] == "<counter job.progress: position 30 of 200, with total.pickle>"
    assert "job.progress: position 30 of 200, with total.pickle" in shown["loop"]
    assert shown["new"].startswith("<counter job.progress: ")
    assert "total.pickle" not in shown["new"]
    assert "total.pickle" in shown["two"] and "model.pt" in shown["two"]
    assert "job.progress: position 1" in shown["iterator"] and " of " not in shown["iterator"]
    assert "inner.progress: position 3 of 7" in shown["inner"]
    assert shown["outer"] == "<counter job.progress: position 1 of 5>"
    assert all("job.progress" in shown[what] for what in ("left", "over", "ended", "off", "older", "child"))


def test_a_repr_in_a_later_run_tells_what_was_saved(job):
    """Before the loop begins, and without an effect on it."""
    job.write(SEEN.replace("range(6)", "range(200)"))
    job.run(30)
    before = job.files
    job.write(
        """
        counter = enable_counter("job.progress")
        print(counter)
        """
    )
    run = job.run(warn="error")
    assert re.match(r"<counter job\.progress: position 30\b", run.out[0])
    assert job.files == before


# 10. Sets, URLs, and full paths.


@pytest.mark.parametrize(
    "loop", ['simple_counter("job.progress", items)', 'enable_counter("job.progress", each_save=True)(items)']
)
@pytest.mark.parametrize("items", ["{'a', 'b', 'c'}", "frozenset('abc')"])
def test_a_set_is_warned_of(job, items, loop):
    """Its order changes from run to run. Under `-W error` no item has run, and nothing is left."""
    job.write(f"items = {items}\nfor item in {loop}:\n    print('item')")
    strict = job.run(warn="error")
    assert re.match(r"UserWarning: .*job\.progress.*(set|order)", strict.error)
    assert (strict.out, job.left) == ([], [])
    run = job.run()
    assert (run.out, len(run.said), run.status) == (["item"] * 3, 1, 0)


UNORDERED = {
    "concurrent.futures": """
        from concurrent.futures import ThreadPoolExecutor, as_completed
        with ThreadPoolExecutor() as pool:
            for item in simple_counter("job.progress", as_completed([pool.submit(abs, i) for i in range(3)])):
                print("item")
        """,
    "asyncio": """
        import asyncio
        async def main():
            for item in simple_counter("job.progress", asyncio.as_completed([asyncio.sleep(0) for _ in range(3)])):
                await item
                print("item")
        asyncio.run(main())
        """,
    "multiprocessing": """
        from multiprocessing.pool import ThreadPool
        with ThreadPool(2) as pool:
            for item in simple_counter("job.progress", pool.imap_unordered(abs, range(3))):
                print("item")
        """,
}


@pytest.mark.parametrize("name", UNORDERED)
def test_what_comes_in_the_order_in_which_it_ends_is_warned_of(job, name):
    """Another one in each run: the next one would skip what had not been done."""
    job.write(UNORDERED[name])
    run = job.run()
    assert (run.out, len(run.said), run.status) == (["item"] * 3, 1, 0)
    assert re.match("job.progress: the order of .* changes from run to run; .* the list of the futures", run.said[0])


def test_what_has_an_order_is_not_warned_of(tmp_path):
    """Sorted, a list of it, dicts and what they show; items that are sets; nor a set where nothing is saved."""
    sources = [
        "sorted({'a', 'b'})",
        "list({'a'})",
        "{'a': 1}",
        "{'a': 1}.keys()",
        "{'a': 1}.items()",
        "[{'a'}, {'b'}]",
        "'ab'",
    ]
    programs = {text: f"for item in simple_counter('job.progress', {text}):\n    print('item')" for text in sources}
    programs["off"] = "for item in simple_counter('job.progress', {'a', 'b'}, use_tempfile=False):\n    pass"
    outcomes = Table(tmp_path, programs).run(warn="error")
    assert {name: (outcome.error, outcome.said) for name, outcome in outcomes.items()} == dict.fromkeys(
        programs, ("", [])
    )


@pytest.mark.parametrize("path", ["a:b.progress", "12:30.progress", "http.progress", "c:job"])
def test_a_colon_makes_no_url(tmp_path, path):
    """It is an ordinary character of a name."""
    text = f"for item in simple_counter({path!r}, range(3)):\n    if item == 2: break\nprint(os.listdir())"
    outcome = Table(tmp_path, {"job": text}).run(warn="error")["job"]
    assert outcome.error == ""
    assert path in outcome.out[0]


@pytest.mark.parametrize("scheme", ["https", "s3", "file"])
def test_a_url_in_a_path_object_is_an_error_as_well(tmp_path, scheme):
    """`Path` makes one slash of two: at least nothing is written anywhere."""
    text = f'for item in simple_counter(Path("{scheme}://bucket/job.progress"), range(3)): pass'
    outcome = Table(tmp_path, {"job": text}).run(warn="error")["job"]
    assert re.match(r"(RestartError|ValueError): .*bucket", outcome.error)
    assert outcome.left == []


def test_the_info_lines_have_the_full_path(job):
    """One line where a loop starts afresh, resumes and is done, whatever folder the program has gone to since."""
    job.write(
        """
        import logging
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
        os.makedirs("sub/other", exist_ok=True)
        os.chdir("sub")
        with enable_counter("../job.progress") as counter:
            os.chdir("other")
            for i in counter(range(6)):
                if i == STOP:
                    sys.exit("enough for now")
        """
    )
    first, second = job.run(3), job.run()
    path = re.escape(str(job.folder.resolve() / "job.progress"))
    assert len(first.out) == 1
    assert re.match(rf"INFO py_restart .*{path}.*afresh", first.out[0])
    assert len(second.out) == 2
    assert re.match(rf"INFO py_restart .*{path}.*resumes.*\b3 of 6\b.*ago", second.out[0])
    assert re.match(rf"INFO py_restart .*{path}.*done", second.out[1])


# Loops that take turns.

TURNS = {
    "the program of the issue": (
        """
        import heapq

        def stream(name, items):
            with enable_counter(f"{name}.progress", each_save=True) as counter:
                seen = counter.save_load_object([], f"{name}.pickle")
                for item in counter(items):
                    seen.append(item)
                    yield item
            print(name, seen)

        items = heapq.merge(stream("x", [1, 4, 7]), stream("y", [2, 3, 9, 10, 11]))
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "the same the other way round": (
        """
        import heapq

        def stream(name, items):
            with enable_counter(f"{name}.progress", each_save=True) as counter:
                seen = counter.save_load_object([], f"{name}.pickle")
                for item in counter(items):
                    seen.append(item)
                    yield item
            print(name, seen)

        items = heapq.merge(stream("y", [2, 3, 9, 10, 11]), stream("x", [1, 4, 7]))
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "heapq.merge of simple loops": (
        """
        import heapq

        def stream(name, items):
            for item in simple_counter(f"{name}.progress", items):
                yield item

        items = heapq.merge(stream("x", [1, 4, 7]), stream("y", [2, 3, 9, 10, 11]))
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "heapq.merge of loops": (
        """
        import heapq

        items = heapq.merge(simple_counter("x.progress", [1, 4, 7]), simple_counter("y.progress", [2, 3, 9, 10, 11]))
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "plain blocks in turn": (
        """
        import heapq

        def stream(name, items):
            with enable_counter(f"{name}.progress") as counter:
                for item in counter(items):
                    yield item

        items = heapq.merge(stream("x", [1, 4, 7]), stream("y", [2, 3, 9, 10, 11]))
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "two async generators in one task": (
        """
        import asyncio

        async def stream(name, items):
            with enable_counter(f"{name}.progress", each_save=True) as counter:
                seen = counter.save_load_object([], f"{name}.pickle")
                for item in counter(items):
                    seen.append(item)
                    await asyncio.sleep(0)
                    yield item
            print(name, seen)

        async def main():
            streams = [stream("x", [1, 4, 7]), stream("y", [2, 3, 9, 10, 11])]
            while streams:
                for one in list(streams):
                    item = await anext(one, None)
                    if item is None:
                        streams.remove(one)
                    else:
                        deliver(item)

        asyncio.run(main())
        items = []
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9, 10, 11]},
    ),
    "tasks of a simulation": (
        """
        import heapq

        def task(name, delays):
            with enable_counter(f"{name}.progress", each_save=True) as counter:
                seen = counter.save_load_object([], f"{name}.pickle")
                for delay in counter(delays):
                    yield delay
                    seen.append(delay)
            print(name, seen)

        def simulate():
            events = [(0, number, task(name, delays)) for number, (name, delays) in enumerate(
                {"x": [1, 4, 7], "y": [2, 3, 9], "z": [5, 6]}.items())]
            while events:
                now, number, process = heapq.heappop(events)
                delay = next(process, None)
                if delay is not None:
                    yield delay
                    heapq.heappush(events, (now + delay, number, process))

        items = simulate()
        """,
        {"x": [1, 4, 7], "y": [2, 3, 9], "z": [5, 6]},
    ),
}
DELIVER = """
delivered = 0

def deliver(item):
    global delivered
    print(item, flush=True)
    delivered += 1
    if delivered == STOP:
        {end}
"""
TAKE_TURNS = r"(counter\(zip|count what is combined|combined)"


def follow(job, stops, everything, seen):
    """Run a program with these stops in turn: whatever ends well has lost nothing; whatever fails says why."""
    got, wells = set(), 0
    for stop in stops:
        run = job.run(stop)
        assert "Exception ignored" not in run.err
        got |= set(run.numbers)
        for line in run.out:
            name, _, rest = line.partition(" ")
            if rest.startswith("["):
                assert json.loads(rest) == seen[name], f"run to {stop}: {line}"
        if run.status == 0 and not (stop > 0 and len(run.numbers) >= stop):
            assert sorted(got) == everything, (stop, run)
            got, wells = set(), wells + 1
        elif run.status != -signal.SIGKILL and not re.search("^Stop$", run.err, re.MULTILINE):
            assert re.search(rf"RestartError: .*(x|y|z)\.progress.*{TAKE_TURNS}", run.err), run.err
            assert len(frames(run.err)) <= 4, run.err
    return wells


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize(
    ("end", "stops"),
    [("kill", (-1, -1, -1)), ("kill", (2, -1, -1)), ("kill", (3, 1, -1, -1)), ("raise", (4, 2, -1))],
    ids=str,
)
def test_loops_that_take_turns_lose_nothing_in_silence(job, name, end, stops):
    """Run three times, killed or stopped on the way: all items, or the error that says to count what is combined."""
    text, seen = TURNS[name]
    code = "os.kill(os.getpid(), signal.SIGKILL)" if end == "kill" else "raise Stop"
    job.write(DELIVER.format(end=code) + textwrap.dedent(text) + "\nfor item in items:\n    deliver(item)\n")
    follow(job, stops, sorted(item for items in seen.values() for item in items), seen)


@pytest.mark.parametrize("each", [", each_save=True", ""])
@pytest.mark.parametrize("stops", [(-1, -1, -1), (3, -1, -1), (2, 2, -1)], ids=str)
def test_a_zip_of_two_counted_streams_never_pairs_the_wrong_items(job, stops, each):
    """Right pairs, all of them; or the error of the contract."""
    job.write(
        f"""
        def stream(name, items):
            with enable_counter(f"{{name}}.progress"{each}) as counter:
                for item in counter(items):
                    yield item

        for number, (x, y) in enumerate(zip(stream("x", range(6)), stream("y", range(10, 16)))):
            if number == STOP:
                raise Stop
            print(x, y)
        """
    )
    pairs = {f"{i} {i + 10}" for i in range(6)}
    got = set()
    for stop in stops:
        run = job.run(stop)
        got |= set(run.out)
        assert got <= pairs
        if run.status == 0:
            assert got == pairs
            got = set()
        elif not re.search("^Stop$", run.err, re.MULTILINE):
            assert re.search(rf"RestartError: .*[xy]\.progress.*{TAKE_TURNS}", run.err), run.err


RIGHT_TURNS = {
    "what is combined is counted": """
        import heapq
        for item in simple_counter("job.progress", heapq.merge([1, 4, 7], [2, 3])):
            if item == STOP:
                raise Stop
            print(item)
        """,
    "streams one after the other": """
        import itertools
        def stream(name, items):
            with enable_counter(f"{name}.progress") as counter:
                for item in counter(items):
                    yield item
        with multi_count():
            for item in itertools.chain(stream("x", [1, 2, 3]), stream("y", [4, 7])):
                if item == STOP:
                    raise Stop
                print(item)
        """,
    "a stream inside a stream": """
        def outer():
            for item in simple_counter("outer.progress", [0, 3, 6]):
                yield item
        for item in outer():
            for more in simple_counter("inner.progress", [1, 2, 3]):
                if item + more == STOP:
                    raise Stop
                if item + more in (1, 2, 3, 4, 7):
                    print(item + more)
        """,
    "each in a thread of its own": """
        import threading
        def run(name, items):
            for item in simple_counter(f"{name}.progress", items):
                if item == STOP:
                    break
                sys.stdout.write(f"{item}\\n")
        threads = [threading.Thread(target=run, args=pair) for pair in [("x", [1, 4, 7]), ("y", [2, 3])]]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if STOP > 0:
            raise Stop
        """,
    "each in a task of its own": """
        import asyncio
        async def run(name, items):
            for item in simple_counter(f"{name}.progress", items):
                await asyncio.sleep(0)
                if item == STOP:
                    raise Stop
                print(item)
        async def main():
            await asyncio.gather(run("x", [1, 4, 7]), run("y", [2, 3]))
        asyncio.run(main())
        """,
}


@pytest.mark.parametrize("name", RIGHT_TURNS)
def test_loops_that_are_inside_each_other_or_apart_are_right(job, name):
    """Counted together, in turn, nested, or in threads and tasks of their own: no error, nothing lost."""
    job.write(RIGHT_TURNS[name])
    runs = [job.run(stop, warn="error") for stop in (4, -1)]
    assert [run.status for run in runs] == [1, 0], [run.err for run in runs]
    assert all(run.error.endswith("Stop") for run in runs[:1])
    assert sorted(set(runs[0].numbers + runs[1].numbers)) == [1, 2, 3, 4, 7]
    assert job.left == []


# Neighbours: as silent, and covered by the contract.


def test_an_empty_progress_file_counts_as_no_save_and_is_said(job):
    """A power failure may leave one; under `-W error` nothing happens to it."""
    job.write("for i in simple_counter('job.progress', range(3)):\n    print(i)")
    for content in (b"", bytes(1536)):
        path = job.folder / "job.progress"
        path.write_bytes(content)
        strict = job.run(warn="error")
        assert re.match(r"UserWarning: .*job\.progress.*empty", strict.error), strict.err
        assert (strict.out, path.read_bytes()) == ([], content)
        run = job.run()
        assert (run.numbers, run.status, len(run.said)) == ([0, 1, 2], 0, 1)
        assert job.left == []


def test_an_inner_loop_that_is_in_the_program_no_more_is_warned_of_before_its_object_goes(job):
    """As an error, the warning comes while all is there; nothing is said of one that runs again."""
    text = """
        outer = enable_counter("outer.progress", each_save=True)
        for i in outer(range(3)):
            {guard}:
                inner = enable_counter("inner.progress", each_save=True)
                kept = inner.save_load_object([], "kept.pickle")
                for j in inner(range(3)):
                    if (i, j) == (1, STOP):
                        raise Stop
                    kept.append(j)
                print(kept)
        """
    job.write(text.format(guard="if True"))
    assert job.run(2).said == []
    before, left = job.left, []
    job.write(text.format(guard="if i == 9"))
    for warn in ("error", WARN):
        run = job.run(warn=warn)
        said = " ".join([run.error, *run.said])
        assert "inner.progress: saved at position 2 in an item of outer.progress, which has ended without it; " in said
        assert "kept.pickle will go" in said
        left.append((run.status, job.left))
    assert left == [(1, before), (0, [])]
    job.write(text.format(guard="if True"))
    job.run(2)
    run = job.run()
    assert (run.out, run.said, job.left) == (["[0, 1, 2]"] * 2, [], [])


def test_an_inner_loop_that_is_forgotten_with_its_outer_one_is_not_warned_of(job):
    """The user has said that it is to go."""
    job.write(
        """
        with enable_counter("outer.progress", each_save=True) as outer:
            if STOP < 0:
                outer.remove_files()
            for i in outer(range(3)):
                inner = enable_counter("inner.progress", each_save=True)
                kept = inner.save_load_object([], "kept.pickle")
                for j in inner(range(3)):
                    if (i, j) == (1, STOP):
                        raise Stop
                    kept.append(j)
                print(i, kept)
        """
    )
    job.run(2)
    run = job.run(warn="error")
    assert (run.out, run.status, job.left) == ([f"{i} [0, 1, 2]" for i in range(3)], 0, [])


def test_that_warning_as_an_error_does_not_cost_the_save_of_a_failing_block(job):
    """The failure stays the one that is raised, and what was done is saved."""
    text = """
        with enable_counter("outer.progress") as outer:
            done = outer.save_load_object([], "done.pickle")
            for i in outer(range(6)):
                if {guard}:
                    with enable_counter("inner.progress") as inner:
                        kept = inner.save_load_object([], "kept.pickle")
                        for j in inner(range(3)):
                            if (i, j) == (1, 1):
                                raise Stop
                            kept.append(j)
                done.append(i)
                if i == STOP:
                    raise Stop
            print(done)
        """
    job.write(text.format(guard="i == 1"))
    job.run()
    job.write(text.format(guard="i == 9"))
    run = job.run(3, warn="error")
    assert re.search("^__main__.Stop|^Stop", run.err, re.MULTILINE) and "which has ended without it" in run.err
    assert job.run().out == ["[0, 1, 2, 3, 3, 4, 5]"]


def test_what_follows_a_loop_in_its_with_is_done_once_where_the_block_is_run_again(job):
    """The finished loop is skipped, and what follows it runs again: so it is saved as it was when the loop ended."""
    job.write(
        """
        with multi_count():
            with enable_counter("job.progress") as counter:
                kept = counter.save_load_object([], "kept.pickle")
                for i in counter(range(3)):
                    print(i)
                    kept.append(i)
                kept.append("behind")
            for i in simple_counter("other.progress", range(3)):
                if i == STOP:
                    raise Stop
            print(kept)
        """
    )
    assert job.run(1).out == ["0", "1", "2"]
    assert job.run().out == ["[0, 1, 2, 'behind']"]


def test_another_input_that_is_too_short_is_no_longer_taken_for_the_right_one_in_a_third_run(job):
    """The run that fails for it does not save how its first item looks; the error names what to delete."""
    job.write(
        """
        rows = (f"{sys.argv[2]}{i}" for i in range(int(sys.argv[3])))
        with enable_counter("job.progress") as counter:
            kept = counter.save_load_object([], "kept.pickle")
            for row in counter(rows):
                if row.endswith(sys.argv[1]):
                    raise Stop
                kept.append(row)
        """
    )
    job.run(4, "a", 6)
    run = job.run(-1, "b", 2)
    assert re.search(
        "job.progress: saved at position 4, but the iterable ends before; give the one it was saved with, or to start "
        "afresh delete job.progress and .*kept.pickle",
        run.error,
    )
    run = job.run(-1, "a", 6)
    assert (run.said, run.status, job.left) == ([], 0, [])


def test_a_second_for_over_a_loop_that_was_left_is_never_an_empty_loop(job):
    """The error comes even where the first `for` was over long ago, in another function."""
    job.write(
        """
        def first(loop):
            for i in loop:
                if i == 2:
                    return

        with enable_counter("job.progress") as counter:
            loop = counter(range(6))
            first(loop)
            for i in loop:
                print(i)
            print("went on")
        """
    )
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress", run.error)
    assert run.out == []


def test_a_path_used_for_two_loops_of_a_block_is_no_silent_skip(job):
    """Not in a later run either, where the first one is done."""
    job.write(
        """
        with multi_count():
            for i in simple_counter("job.progress", range(3)):
                print(i)
            for i in simple_counter("other.progress", range(9)):
                if i == STOP:
                    raise Stop
            for i in simple_counter("job.progress", range(3)):
                print(i)
        """
    )
    assert job.run(1).numbers == [0, 1, 2]
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress", run.error)


def test_a_progress_file_that_is_deleted_under_a_running_loop_is_written_anew(job):
    """Noticed at the next flush."""
    job.write(
        """
        with enable_counter("job.progress", each_save=True) as counter:
            for i in counter(range(6)):
                if i == 2 and STOP == 4:
                    os.remove("job.progress")
                if i == STOP:
                    counter.save()
                    os.kill(os.getpid(), signal.SIGKILL)
                print(i)
        """
    )
    assert job.run(4, warn="error").status == -signal.SIGKILL
    assert job.run(warn="error").numbers == [4, 5]


def test_a_progress_file_that_is_replaced_under_a_running_loop_is_an_error(job):
    """What somebody else has put there is not overwritten."""
    job.write(
        """
        with enable_counter("job.progress", each_save=True) as counter:
            for i in counter(range(6)):
                if i == 2:
                    Path("new").write_text("mine")
                    os.replace("new", "job.progress")
                if i == 4:
                    counter.save()
                print(i)
        """
    )
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress", run.error)
    assert run.numbers == [0, 1, 2, 3]
    assert (job.folder / "job.progress").read_text() == "mine"


def test_a_stop_in_a_place_where_python_drops_exceptions_comes_again(job):
    """A Ctrl-C in a `__del__`: the program does not go on as if nothing had been."""
    job.write(
        """
        class Loud:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass

        with enable_counter("job.progress") as counter:
            for i in counter(range(200)):
                if i == STOP:
                    loud = Loud()
                    del loud
                time.sleep(0.05 if STOP >= 0 else 0)  # ten seconds for it to come again in
                print(i)
        """
    )
    first = job.run(3)
    assert first.status in (-signal.SIGINT, 1, 130)
    last = first.numbers[-1] if first.numbers else -1
    assert last < 199
    assert sorted({*first.numbers, *job.run().numbers}) == list(range(200))


def test_an_old_progress_file_is_refused_by_name(job):
    """One of version 1: neither taken for a new one nor for garbage, and not touched."""
    job.write("for i in simple_counter('job.progress', range(3)):\n    print(i)")
    line = (
        b'{"format": "py_restart", "version": 1, "written": "2026-11-25T18:58:20Z", "process": 29670, "host": "vm", '
        b'"finished": false, "length": 6, "around": [], "registered": [], "inside": [], "id": "dc62f813", "save": 1, '
        b'"files": {}, "before": {}, "inner_files": [], "over": false, "check": "15f966f8"}'
    )
    record = b"position 3 use 1 by process 31508 on vm check 3-ab377e09"
    old = line.ljust(511) + b"\n" + 2 * (record.ljust(127) + b"\n")
    (job.folder / "job.progress").write_bytes(old)
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: .*job\.progress.*\b1\b", run.error)
    assert (job.folder / "job.progress").read_bytes() == old


def test_pypy_is_told_that_it_is_not_supported(tmp_path):
    """At the import, before any work would be lost."""
    job = Job(tmp_path)
    (job.folder / "job.py").write_text('import sys\nsys.implementation.name = "pypy"\nimport py_restart')
    run = job.run()
    assert re.match(r"(?i)ImportError: .*pypy", run.error)


@pytest.mark.parametrize("each_save", [True, False])
def test_a_list_that_has_grown_and_is_not_saved_is_another_input(job, each_save):
    """It was longer when it was saved than it is now: a queue, say, that began anew."""
    job.write(
        f"""
        queue = ["root"]
        with enable_counter("job.progress", each_save={each_save}) as counter:
            for name in counter(queue):
                print(name)
                if len(sys.argv) > 1 and name == "roota":
                    raise Stop
                queue += [name + "a", name + "b"] if len(queue) < 4 else []
        """
    )
    assert job.run(1).out == ["root", "roota"]
    run = job.run()
    assert "UserWarning: job.progress: saved with an iterable of 3 items, which has 1 now" in run.err


def test_a_warning_of_a_loop_that_next_drives_points_to_the_line_that_does(job):
    """And not into the library of Python."""
    job.write("rows = enable_counter('job.progress')([1, 2, 3])\nnext(rows)  # here\n")
    assert re.search(
        r"job\.py:\d+: UserWarning: job\.progress: this loop is never saved.*\n *next\(rows\)  # here", job.run().err
    )


FRAMES = {
    "a newer counter has taken over": """
        old = enable_counter("job.progress")
        loop = old(range(2))
        next(loop)
        new = enable_counter("job.progress")
        list(loop)
    """,
    "its file was replaced": """
        for i in simple_counter("job.progress", range(3)):
            pass_on = i and Path("job.progress").write_text("somebody else's")
    """,
    "the same in a with": """
        with enable_counter("job.progress", each_save=True) as counter:
            for i in counter(range(3)):
                pass
            Path("job.progress").write_text("somebody else's")
    """,
    "it has been run": """
        loop = simple_counter("job.progress", range(3))
        list(loop)
        next(loop)
    """,
}


@pytest.mark.parametrize("way", FRAMES)
def test_an_error_at_the_end_shows_two_frames_of_ours_at_most(job, way):
    """The fault is the program's."""
    job.write(FRAMES[way])
    run = job.run()
    assert re.match(r"(py_restart\.)?RestartError: job\.progress: ", run.error), run.err
    assert len(frames(run.err)) <= 2, run.err


def test_a_part_of_a_named_tuple_is_in_reach(job):
    """The variable holds the part, and not the whole that was registered."""
    job.write(
        """
        from typing import NamedTuple

        class Pair(NamedTuple):
            model: list
            losses: dict

        with enable_counter("job.progress", each_save=True) as counter:
            model, losses = counter.save_load_object(Pair([], {}), "pair.pickle")
            for i in counter(range(3)):
                model.append(i)
        """
    )
    run = job.run(warn="error")
    assert (run.err, run.status) == ("", 0)


def test_a_sequence_that_can_be_called_is_iterated(job):
    """It has no `__iter__`, as a data set that also transforms what it is given; a function has no `__getitem__`."""
    job.write(
        """
        class Data:
            def __getitem__(self, index):
                return [10, 20, 30][index]

            def __call__(self, item):
                return item

        for item in simple_counter("job.progress", Data()):
            print(item)
        """
    )
    assert job.run().out == ["10", "20", "30"]

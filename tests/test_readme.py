"""README.md, docs/guide.md and their Japanese versions: every code block is run, and what the pages say is looked at.

A `python` block is a script, job.py. A `text` block right below it is what a person sees in a terminal: `$` begins a
command, `^C` and `Killed` stand where the job is stopped by a real SIGINT or SIGKILL, and `...` for lines left out.
One without a `$` is the output of one run. Jobs do not really sleep: in `time.sleep` they ask whether to go on, so that
each is stopped at the very line that is shown.

The recipes are stopped at one of their lines after the other, by SIGKILL and SIGINT, and end as if nothing had been.
"""

import ast
import contextlib
import importlib
import io
import json
import os
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from py_restart import enable_counter

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.ja.md"]
GUIDES = ["docs/guide.md", "docs/guide.ja.md"]
DOCUMENTS = READMES + GUIDES
RECIPES = {"README.md": "## Recipes", "README.ja.md": "## レシピ"}
MODES = {"README.md": "## Which mode", "README.ja.md": "## どの使い方にするか"}
MISTAKES = {"README.md": "## Common mistakes", "README.ja.md": "## よくある間違い"}
LIMITS = {"README.md": "## Limits", "README.ja.md": "## 限界"}
TESTS = {"README.md": "## Tests", "README.ja.md": "## テスト"}
LIMIT = 60  # seconds that a job may take
ASLEEP = "asleep\0\n"
SLEEP_WITH_LEAVE = f"""
import select, sys, threading, time

turn = threading.Lock()

def sleep(seconds):
    with turn:
        sys.stdout.write({ASLEEP!r})
        sys.stdout.flush()
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            pass  # a signal that comes just before a call that waits is seen behind it
        sys.stdin.readline()

time.sleep = sleep
"""
STOPS = {"^C": signal.SIGINT, "Killed": signal.SIGKILL}
RESULTS = {"job.py", "result.txt", "results.csv", "results.db", "walk.npy", "model.pt", "a.txt", "MyDrive"}

# What a recipe says is the reader's own.
STAND_INS = {
    "train(model": """
import torch

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam(model.parameters(), 0.1)

def train(model, optimizer):
    for _ in range(2):
        work(0)
        optimizer.zero_grad()
        (model(torch.rand(4, 2)) - 1).square().mean().backward()
        optimizer.step()

torch.manual_seed(0)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.rand_like(parameter))
""",
    "google.colab": """
import os, sys, types

os.makedirs("MyDrive", exist_ok=True)
colab = types.ModuleType("google.colab")
colab.drive = types.SimpleNamespace(mount=lambda folder: None)
sys.modules.update({"google": types.ModuleType("google"), "google.colab": colab})
""",
}
AGAIN = {  # how often `work` may run more often than in an unbroken run, where that is not once
    "train(model": 2,  # an epoch
    "google.colab": 6,  # what came within a minute
    "as_completed": 6,  # what the pool was doing
    "tqdm": 6,  # a plain `with`, after a kill
}


class Block(NamedTuple):
    """A fenced block: the headings above it, its language, its text, and what stands between it and the last block."""

    section: str
    heading: str
    language: str
    code: str
    before: str

    def looks_up(self, table, otherwise):
        """Return the value of the key that its code contains."""
        return next((value for key, value in table.items() if key in self.code), otherwise)


def text_of(name):
    """Return a document."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks_of(name):
    """Return the code blocks of a document in order."""
    found, section, heading, end = [], "", "", 0
    text = text_of(name)
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$|^(#+ [^\n]*)$", text, re.MULTILINE | re.DOTALL):
        if match[3]:
            heading = match[3]
            section = heading if heading.startswith("## ") else section
        else:
            found.append(Block(section, heading, match[1], match[2], text[end : match.start()]))
            end = match.end()
    return found


def recipes_of(name):
    """Return the block that all recipes begin with, and the recipes."""
    first, *others = (
        block for block in blocks_of(name) if block.section == RECIPES.get(name) and block.language == "python"
    )
    assert first.heading == RECIPES[name]
    return first, others


def runnable(name, block):
    """Return a block as a script that runs: a recipe begins with the lines that all of them share."""
    if block.section != RECIPES.get(name) or block.heading == block.section:
        return block.code
    code = block.code.replace('"/content/drive/MyDrive/"', '"MyDrive/"')
    return recipes_of(name)[0].code + block.looks_up(STAND_INS, "") + code


def marks_of(code):
    """A block that needs more than the standard library and numpy is one of the tests of real use."""
    return [pytest.mark.real] if re.search(r"import (torch|tqdm)\b|from tqdm\b", code) else []


def examples():
    """Return each `python` block with the `text` block right below it, as parameters of a test."""
    for name in DOCUMENTS:
        blocks = blocks_of(name)
        for number, block in enumerate(blocks):
            if block.language == "python":
                follower = blocks[number + 1]
                shown = follower.code if follower.language == "text" and not follower.before.strip() else None
                code = runnable(name, block)
                yield pytest.param(code, shown, marks=marks_of(code), id=f"{name}-{number}")


class Terminal:
    """A folder with a job.py, and a person who types commands there."""

    def __init__(self, folder, code):
        self.folder, self.support = folder / "folder", folder / "support"
        self.folder.mkdir()
        self.support.mkdir()
        (self.folder / "job.py").write_text(code, encoding="utf-8")
        (self.support / "sitecustomize.py").write_text(SLEEP_WITH_LEAVE, encoding="utf-8")
        paths = [str(self.support), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}

    def type(self, command, expected):
        """Run a command that a page shows, and return the lines that appear; `expected` says where to stop it."""
        if command == "ls":
            return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        program, *arguments = command.split()
        assert program == "python"
        stop = next((mark for mark in STOPS if mark in expected), None)
        return self.run(arguments, stop, expected[expected.index(stop) - 1] if stop else None)

    def run(self, arguments, stop=None, at=None):
        """Run Python; stop it when it sleeps after having printed the line `at`."""
        with (self.support / "errors").open("w+", encoding="utf-8") as errors:
            command = [sys.executable, "-W", "error", *arguments]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            with subprocess.Popen(
                command, cwd=self.folder, env=self.environment, text=True, encoding="utf-8", **pipes
            ) as process:
                timer = threading.Timer(LIMIT, process.kill)
                timer.start()
                lines = []
                for line in process.stdout:
                    if line != ASLEEP:
                        lines.append(line.rstrip("\n"))
                    elif stop and lines and lines[-1] == at:
                        process.send_signal(STOPS[stop])
                        lines.append(stop)
                    else:
                        process.stdin.write("\n")
                        process.stdin.flush()
                timer.cancel()
            errors.seek(0)
            said = errors.read().splitlines()
        self.status, self.errors = process.returncode, said
        return lines + said[-1:]


def commands_in(shown):
    """Split what a terminal shows into the commands and the lines below each."""
    found = []
    for line in shown.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def fits(lines, expected):
    """Whether the lines are those expected, where `...` stands for one or more."""
    pattern = "".join(r"(?:.*\n)+?" if line == "..." else re.escape(line) + r"\n" for line in expected)
    return re.fullmatch(pattern, "".join(line + "\n" for line in lines)) is not None


@pytest.mark.parametrize(("code", "shown"), list(examples()))
def test_a_block_does_what_the_page_shows(code, shown, tmp_path):
    """Each block runs as it stands, prints what it is said to print, and leaves nothing but its results behind."""
    terminal = Terminal(tmp_path, code)
    if shown is None:
        terminal.run(["job.py"])
        assert terminal.status == 0, terminal.errors
    else:
        for command, expected in commands_in(shown if shown.startswith("$ ") else "$ python job.py\n" + shown):
            appeared = terminal.type(command, expected)
            assert fits(appeared, expected), f"$ {command}\n" + "\n".join(appeared)
    assert {path.name for path in terminal.folder.iterdir()} <= RESULTS


# The recipes, the modes and the mistakes: stopped by real signals, in forks of this process, which start at once.


class Ending(NamedTuple):
    """How a run has ended: its status, what it has printed, how many lines it ran, and how often it slept."""

    status: int
    printed: str
    lines: int
    slept: int


def live(tell, code, folder, stop_at, by, begin):
    """Run a script in a folder; stop it at the n-th line that it runs, or in its n-th sleep, by a signal to itself.

    Lines are those of the script from the line `begin` on.
    """
    os.chdir(folder)
    os.fsync = lambda file: None  # a kill takes nothing from the kernel
    sys.stdout = io.StringIO()
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ResourceWarning)  # of a database that is left open
    counts = {"line": 0, "sleep": 0}

    def count(what):
        counts[what] += 1
        if what == "sleep":
            tell("sleep")
        if (what, counts[what]) == stop_at:
            tell(sys.stdout.getvalue())
            os.kill(os.getpid(), by)

    def trace(frame, event, argument):
        if frame.f_code.co_filename != "job.py":
            return None
        if event == "line" and frame.f_lineno > begin:
            count("line")
        return trace

    time.sleep = lambda seconds: count("sleep")
    program = compile(code, "job.py", "exec")
    others = sys.gettrace()  # coverage, perhaps
    sys.settrace(trace)
    try:
        exec(program, {"__name__": "__main__"})
    finally:
        sys.settrace(others)
        tell(sys.stdout.getvalue())
        tell(counts["line"])


@pytest.fixture
def run(run_child, tmp_path):
    """Run a script in a folder of that name: `run(code, "whole")`, `run(code, "stopped", ("line", 7), SIGKILL)`."""

    def run(code, folder, stop_at=None, by=signal.SIGKILL, begin=0):
        (tmp_path / folder).mkdir(exist_ok=True)
        child = run_child(live, code, str(tmp_path / folder), stop_at, by, begin)
        if stop_at is None:
            assert child.error is None, child.error
        told = [thing for thing in child.told if thing != "sleep"]
        lines = told[-1] if told and isinstance(told[-1], int) else 0
        printed = max((thing for thing in told if isinstance(thing, str)), key=len, default="")
        return Ending(child.status, printed, lines, child.told.count("sleep"))

    return run


def results(folder):
    """Return what a job has left behind, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".db":
            with contextlib.closing(sqlite3.connect(path)) as db:
                found[path.name] = db.execute("SELECT * FROM results ORDER BY item").fetchall()
        elif path.suffix == ".pt":
            found[path.name] = loaded(path)
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def loaded(path):
    """Return the numbers of a saved model."""
    import torch

    return {name: tensor.tolist() for name, tensor in torch.load(path).items()}


def recipes():
    """Return what promises something about kills, as parameters of a test; the Japanese pages have the same code.

    That is the README's recipes, and what the guide says to those whose engine delivers twice.
    """
    twice = [block for block in blocks_of("docs/guide.md") if "InUseError" in block.code]
    for block in recipes_of("README.md")[1] + twice:
        code = runnable("README.md", block)
        begin = code.count("\n") - block.code.count("\n")
        name = re.sub(r"\W+", " ", block.heading).strip()
        yield pytest.param(code, begin, block.looks_up(AGAIN, 1), marks=marks_of(code), id=name)


@pytest.mark.parametrize(("code", "begin", "again"), list(recipes()))
def test_a_recipe_stopped_at_any_line_ends_as_if_nothing_had_been(code, begin, again, run, tmp_path):
    """By SIGKILL at each line that it runs in its first half, and at every fifth after it, by SIGINT at every fifth.

    Run again, it ends with the same result, and no item is worked on once more but the one that was stopped.
    """
    for module in ("numpy", "torch", "torch._dynamo", "tqdm"):  # or each fork would import it
        if re.search(rf"(import|from) {module.partition('.')[0]}\b", code):
            importlib.import_module(module)
    whole = run(code, "whole", begin=begin)
    expected = results(tmp_path / "whole")
    assert expected.keys() <= RESULTS
    printed = whole.printed.splitlines()[-1:]
    half, end = whole.lines // 2, whole.lines
    stops = [(signal.SIGKILL, n) for n in [*range(1, half), *range(half, end, 5), end]]
    stops += [(signal.SIGINT, n) for n in range(1, end + 1, 5)]
    assert len(stops) > 10
    for by, number in stops:
        folder = f"{by.name}-{number}"
        stopped = run(code, folder, ("line", number), by, begin)
        assert stopped.status in (-signal.SIGKILL, 1), folder
        ended = run(code, folder)
        assert results(tmp_path / folder) == expected, folder
        assert not printed or ended.printed.splitlines()[-1:] == printed, folder
        assert stopped.slept + ended.slept <= whole.slept + again, folder


def test_recipes_have_at_most_ten_lines():
    """Blank ones are not counted."""
    _, blocks = recipes_of("README.md")
    assert len(blocks) >= 10
    for block in blocks:
        assert len(list(filter(str.strip, block.code.splitlines()))) <= 10, block.heading


def test_where_it_stands_is_what_the_recipe_says(run, tmp_path):
    """`print(counter)` in a job that was stopped in item 3 shows what stands beside it."""
    block = next(block for block in recipes_of("README.md")[1] if "remove_files" in block.code)
    code = runnable("README.md", block)
    run(code, "folder", ("sleep", 4))
    said = re.search(r"print\(counter\)  # (.*)", code)[1]
    assert run(code, "folder").printed.splitlines()[0] == said


def test_git_ignores_what_a_job_leaves_behind(run, tmp_path):
    """All that may lie there after a kill, and nothing else."""
    for name in READMES:
        ignored = next(block.code for block in blocks_of(name) if block.code.startswith("*.progress")).split()
        left = ["job.progress", ".job.progress.lock", ".job.progress.1a2b3c4d-new", "sum.pickle"]
        left += [".sum.pickle.1a2b3c4d-a", ".sum.pickle.1a2b3c4d-b", ".layers.1a2b3c4d-old", ".layers.1a2b3c4d-gone"]
        block = next(block for block in recipes_of(name)[1] if "remove_files" in block.code)
        run(runnable(name, block), name, ("sleep", 4))
        left += os.listdir(tmp_path / name)
        assert [file for file in left if not any(fnmatchcase(file, pattern) for pattern in ignored)] == []
        for file in ("job.py", "results.csv", ".gitignore", ".ci", "a-b.py"):
            assert not any(fnmatchcase(file, pattern) for pattern in ignored), file


def rows_of(name, section):
    """Return the cells of the table in a section of a document."""
    text = text_of(name).partition(section + "\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


MODE_BODIES = [
    "results = counter.save_load_object([], 'results.pickle')\n"
    "    for i in counter(range(6)):\n        print(i, results)\n        results.append(i)\n        time.sleep(1)\n",
    "print(i)\n    time.sleep(1)\n",
    "results = counter.save_load_object([], 'results.pickle')\n"
    "    for i in counter(range(6)):\n        print(i, results)\n        results.append(i)\n        time.sleep(1)\n",
]
GOES_ON = {  # what the first line of the second run is, by mode and signal: stopped in item 3
    (0, signal.SIGINT): "3 [0, 1, 2]",
    (0, signal.SIGTERM): "3 [0, 1, 2]",
    (0, signal.SIGKILL): "3 [0, 1, 2]",
    (1, signal.SIGINT): "3",
    (1, signal.SIGKILL): "3",
    (2, signal.SIGINT): "3 [0, 1, 2, 3]",
    (2, signal.SIGTERM): "3 [0, 1, 2, 3]",
    (2, signal.SIGKILL): "0 []",
}


@pytest.mark.parametrize(("mode", "by"), list(GOES_ON))
def test_the_modes_go_on_where_the_table_says(mode, by, run):
    """The code of the table, stopped in the middle of item 3."""
    rows = rows_of("README.md", MODES["README.md"])
    assert len(rows) == len(rows_of("README.ja.md", MODES["README.ja.md"])) == 3
    begin = re.fullmatch("`(.*)`", rows[mode][1])[1].replace("for item in", "for i in")
    code = f"import time\nfrom py_restart import *\n\npath, items = 'job.progress', range(6)\n{begin}\n"
    code += "    " + MODE_BODIES[mode]
    run(code, "folder", ("sleep", 4), by)
    assert run(code, "folder").printed.splitlines()[0] == GOES_ON[mode, by]


ASIDE = "import os, sys, time\nfrom py_restart import *\n\ndef work(x):\n    time.sleep(1)\n    return x * x\n\n"
IN_A_BLOCK = """
with enable_counter("job.progress", each_save=True) as counter:
    results = counter.save_load_object([], "results.pickle")
    {}
    print(results)
"""
WRONG_AND_RIGHT = [  # for each row of the table: a script with a gap, and what fills it
    (
        IN_A_BLOCK.format("for n, x in {}:\n        results.append((n, work(x)))"),
        ["enumerate(counter(items))"],
        ["counter(enumerate(items))"],
    ),
    (
        "from itertools import islice\nx = range(6)\ndef batched(items, n):\n    items = iter(items)\n"
        "    while batch := [*islice(items, n)]:\n        yield batch\n\n"
        + IN_A_BLOCK.format(
            "for some in {}:\n        for one in some:\n            work(0)\n            results.append(one)"
        ),
        ["zip(counter(names), ages)", "batched(counter(x), 3)"],
        ["counter(zip(names, ages))", "counter(batched(x, 3))"],
    ),
    (
        "with enable_counter('job.progress', each_save=True) as counter:\n"
        "    total = counter.save_load_object([], 'results.pickle')\n"
        "    for x in counter(items):\n        work(x)\n        {}\n    print(total)\n",
        ["total = total + [x]"],
        ["total += [x]", "counter.object = total = total + [x]"],
    ),
    (
        IN_A_BLOCK.format("{}"),
        ["results.extend([work(x) for x in counter(items)])", "results += list(map(work, counter(items)))"],
        ["for x in counter(items):\n        results.append(work(x))"],
    ),
    (
        'path = "rows.txt"\n{}\nprint(open(path).read())\n',
        [
            f"with open(path, {mode}) as file:\n    for x in simple_counter('job.progress', items):\n"
            f"        line = f'{{work(x)}}\\n'\n        file.write(line)\n{after}"
            for mode, after in (('"w"', "        file.flush()"), ('"a"', ""))
        ],
        [
            "with open(path, \"a\") as file, enable_counter('job.progress', each_save=True) as counter:\n"
            "    counter.save_load_object(file.tell(), 'length.pickle')\n    counter.save()\n"
            "    file.truncate(file.seek(counter.object))\n"
            "    for x in counter(items):\n        file.write(f'{work(x)}\\n')\n"
            "        file.flush()\n        os.fsync(file)\n        counter.object = file.tell()",
        ],
    ),
    (
        "import os\nwith enable_counter('job.progress', each_save=True) as counter:\n"
        "    results = counter.save_load_object([], 'results.pickle')\n    try:\n        for x in counter(items):\n"
        "            if x == 3 and not os.path.exists('stopped'):\n                open('stopped', 'w').close()\n"
        "                {}\n            results.append(work(x))\n    except KeyboardInterrupt:\n        pass\n"
        "    print(results)\n",
        ["break", "raise KeyboardInterrupt"],
        ["sys.exit()"],
    ),
    (
        "with enable_counter('job.progress', {}\n",
        [
            ") as counter:\n    results = counter.save_load_object([], 'results.pickle')\n"
            "    for x in counter(items):\n        results.append(work(x))\n        counter.save()\n    print(results)"
        ],
        [
            "each_save=True) as counter:\n    results = counter.save_load_object([], 'results.pickle')\n"
            "    for x in counter(items):\n        results.append(work(x))\n    print(results)"
        ],
    ),
]


@pytest.mark.parametrize("number", range(len(WRONG_AND_RIGHT)))
def test_a_mistake_is_one_and_what_stands_beside_it_is_right(number, run, tmp_path):
    """Both are stopped and run again: the right one ends as if nothing had been, the wrong one does not."""
    script, wrongs, rights = WRONG_AND_RIGHT[number]
    for name in READMES:
        rows = rows_of(name, MISTAKES[name])
        assert len(rows) == len(WRONG_AND_RIGHT)
        spans = [re.findall("`(.+?)`", cell) for cell in rows[number][:2]]
        for fills, cells in zip((wrongs, rights), spans, strict=True):
            for span in cells:  # what the table shows is what is tried; a short one is a name
                assert len(span) < 8 or span in "".join([script, *fills]).replace("\n        ", " "), (name, span)
    begin = ASIDE + "items = [0, 1, 2, 3, 4, 5]\nnames, ages = 'abcdef', iter(range(6))\n"
    for index, fill in enumerate([*wrongs, *rights]):
        code = begin + script.replace("{}", fill).replace("{{", "{").replace("}}", "}")
        stop = None if "stopped" in script else ("sleep", 4)
        whole = run(code.replace("not os.path", "os.path"), f"whole-{index}", ("sleep", 100))
        run(code, f"stopped-{index}", stop or ("sleep", 100), signal.SIGKILL)
        again = run(code, f"stopped-{index}", ("sleep", 100))
        ended_alike = (again.status, again.printed) == (whole.status, whole.printed) and again.slept < whole.slept
        assert ended_alike == (fill in rights), (fill, whole, again)


def test_a_text_file_of_your_own_may_begin_with_a_header(run, tmp_path):
    """Written where the file is empty: after a stop in the first item, too."""
    block = next(block for block in blocks_of("README.md") if "length.pickle" in block.code)
    head = '    if file.tell() == 0:\n        file.write("item,square\\n")\n'
    code = runnable("README.md", block).replace("    for item", f"{head}    for item")
    run(code, "job", ("sleep", 1), signal.SIGINT)
    run(code, "job", ("sleep", 100))
    lines = (tmp_path / "job" / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["item,square", "0,0", "1,1", "2,4", "3,9", "4,16", "5,25"]


def test_a_text_file_of_your_own_is_on_the_disk_before_its_length_is(tmp_path, monkeypatch):
    """A power failure would leave it shorter than was saved, and `truncate` make up for that with zeros."""
    block = next(block for block in blocks_of("README.md") if "length.pickle" in block.code)
    told, fsync = [], os.fsync

    def flush(file):
        told.append("saved" if isinstance(file, int) else (tmp_path / "results.csv").stat().st_size)
        fsync(file)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    exec(runnable("README.md", block), {"__name__": "__main__"})
    lengths = [index for index, what in enumerate(told) if what != "saved"]
    assert [told[index] for index in lengths] == [4, 8, 12, 16, 21, 26]
    assert all(told[index + 1] == "saved" for index in lengths)


def test_a_result_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Its progress goes right after it: a power failure would leave an empty one, which looks like work done."""
    guide = next(block.code for block in blocks_of("docs/guide.md") if "InUseError" in block.code)
    example = (ROOT / "examples" / "many_workers.py").read_text(encoding="utf-8").partition("\nshards = ")[0]
    told, fsync, replace = [], os.fsync, os.replace

    def flush(file):
        told.append(Path(getattr(file, "name", "")).name)
        fsync(file)

    def rename(old, new):
        told.append(Path(new).name)
        replace(old, new)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECONDS", "0")
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    for code, name in ((guide, "a"), (f"{example}\nwork_on(3)\n", "shard-03")):
        exec(code, {"__name__": "__main__"})
        flushed_and_named = [f"{name}.unfinished", f"{name}.txt"]
        assert [what for what in told if what in flushed_and_named] == flushed_and_named


def test_the_limits_are_ten_lines_at_most():
    """A person reads them."""
    for name in READMES:
        section = text_of(name).partition(LIMITS[name] + "\n")[2].partition("\n## ")[0]
        assert 5 <= section.count("\n- ") <= 10


# The pages as pages.


@pytest.mark.parametrize(("english", "japanese"), [READMES, GUIDES])
def test_both_languages_have_the_same_code(english, japanese):
    """What is translated is the prose and the comments; the headings, lists and tables are as many, and as deep."""

    def essence(block):
        return block.language, ast.dump(ast.parse(block.code)) if block.language == "python" else block.code

    def outline(name):
        text = re.sub(r"^```.*?^```$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)
        return re.findall(r"^(#+|-|\d\.|\|) ", text, re.MULTILINE)

    assert [essence(block) for block in blocks_of(english)] == [essence(block) for block in blocks_of(japanese)]
    assert outline(english) == outline(japanese)


def test_the_readme_is_short():
    """Ten kilobytes: what belongs to the second hour stands in the guide."""
    assert 8_000 <= len(text_of("README.md").encode()) <= 10_240


SAID = {  # what no library can know or do for its user, in both languages
    "an interrupted item's changes are in the save": (
        "changed so far, and that item runs again",
        "加えられた変更も保存し",
    ),
    "whole items alone": (
        "each_save=True.*after the last whole item",
        "each_save=True.*最後まで済んだ要素の次から",
    ),
    "results inside the block": ("write your results inside the block", "結果はブロックの中で"),
    "raise, not break": (
        "go on later, raise .`sys.exit..`.; `break` and `return` end",
        "例外で抜けて.*`break`や`return`は",
    ),
    "other threads": (
        "other threads or tasks change .* is not of one moment",
        "ほかのスレッドやタスクが.*同じ一時点のものとは限り",
    ),
    "around inner loops": (
        "does before or between them runs again, so change",
        "前や間で外側の本体がすることは、もう一度実行",
    ),
    "a skipped loop": ("variable set in a skipped one is not set again", "飛ばされたループの中で値を入れた変数"),
    "inner saves": ("inner save writes what is registered around it", "内側の保存は、外側に登録したものもすべて"),
    "cloud drives": ("only when it is left alone for a while: `save_interval=60`", "しばらく.*`save_interval=60`"),
    "trust": (
        "Pickles run code.*would run the programs of all who can write",
        "pickleはコードを実行.*書き込める人全員",
    ),
}


@pytest.mark.parametrize("what", SAID)
@pytest.mark.parametrize("language", [0, 1])
def test_the_readme_says_what_no_library_can_know(what, language):
    """Each of them in one line."""
    lines = text_of(READMES[language]).splitlines()
    assert any(re.search(SAID[what][language], line) for line in lines)


@pytest.mark.parametrize("name", READMES)
def test_the_shell_blocks_are_those_that_ci_runs(name):
    """A newcomer types the first block; below "Tests" stands how to run the tests. CI takes both from the README."""
    blocks = [block for block in blocks_of(name) if block.language == "sh"]
    title = "# py_restart"
    commands = [re.sub(r"^#.*\n", "", block.code, flags=re.MULTILINE) for block in blocks]
    assert [block.heading for block in blocks] == [title, TESTS[name]]
    assert commands == [
        "python -m pip install .\npython examples/quickstart.py\n",
        'python -m pip install ".[test]"\npython -m pytest\n',
    ]
    assert "git clone" in blocks[0].code
    assert (ROOT / "examples" / "quickstart.py").is_file()
    assert 'test = ["pytest' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'readme_block ""' in ci
    assert 'readme_block "## Tests"' in ci


def test_the_first_example_has_nine_lines():
    """It is read at a glance: nine lines, blank ones not counted."""
    first = next(block for block in blocks_of("README.md") if block.language == "python")
    assert len(list(filter(None, first.code.splitlines()))) == 9


def anchors_of(path):
    """Return the anchors of the headings of a page, as they are made on the pages of repositories."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    """A page is read in the checkout: a link names a file that is there, and a heading in it."""
    text = re.sub(r"<!--.*?-->", "", text_of(name), flags=re.DOTALL)
    page = ROOT / name
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if ":" not in link]
    assert len(links) >= 3
    for link in links:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link
        others = ("README.md", "guide.md")
        assert ".ja." not in name or path.name not in others or links.count(link) == 1, f"{link}: another language"


UNWANTED = {  # words that a reader stumbles over, and other spellings of words that have one
    ".md": [
        *("nothing more than the last boundary", "all else holds", "where you say nothing", "for what is saved is"),
        *("[Bb]ehind (its|the) `with`", "[Bb]ehind a block", "belongs? into"),
    ],
    ".ja.md": [
        *("断ります", "拒み", "ほかの約束", "要素がオブジェクトに加えた", "任意の長さ", "ある一瞬", "境界", "切れ目"),
        *("ひとつ", "[1１]つ", "インタプリタ", "フォルダー", "スケジューラー", "コンテナー", "メモリー", "サーバ[^ー]"),
        *(
            "ジェネレータ[^ー]",
            "イテレータ[^ー]",
            "カウンタ[^ー]",
            "ハンドラ[^ー]",
            "ファイナライザ[^ー]",
            "ユーザ[^ー]",
        ),
        *("要素の長さ", "要素が`set`", "版[0-9]", "ターミナル"),  # "要素" is one item
        *("ローダ[^ー]", "エラ[^ー]", "ワーカ[^ー]", "クラスタ[^ー]", "サブクラスター"),
    ],
}
NAMES = ["`Path`", "`CounterClosier`", "`config.parent`", "`global`", "`nonlocal`"]
WANTED = {  # what one who comes from the description looks for, and the words that were chosen
    "docs/guide.md": [*NAMES, "Colab that disconnects"],
    "docs/guide.ja.md": [
        *NAMES,
        "Colabの接続切れ",
        "区切り",
        "一時ファイル",
        "保存されるのは、常にある一時点の状態全体です",
        "それ以外の動作は同じです",
        "要素の処理中に加えられた変更",
        "あらゆる長さでの切り詰め",
    ],
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_words_are_those_that_a_reader_knows(name):
    """One word for one idea, one spelling for one word."""
    text = text_of(name)
    for word in UNWANTED[".ja.md" if ".ja." in name else ".md"]:
        assert not re.search(word, text), word
    for word in WANTED.get(name, []):
        assert word in text, word


@pytest.mark.parametrize("name", GUIDES)
def test_the_proof_table_has_the_figures_of_the_tests(name):
    """How often was tried is what the crash tests really use, so that the table cannot grow stale."""
    table = text_of(name).partition("<!-- proof:begin")[2].partition("<!-- proof:end")[0]
    figures = runpy.run_path(str(ROOT / "tests" / "crash" / "figures.py"))
    expected = [f"{value:,}" for key, value in figures.items() if key.isupper()]
    assert re.findall(r"\| ([\d,]+) \|$", table, re.MULTILINE) == expected


# The progress file.


def as_shown(data):
    """Return a progress file as the guide shows it: lines wrapped, blanks at the ends left out."""
    lines = []
    for line in data.decode().splitlines():
        glued = re.sub(r'(": )(?=["\d\[{tf])', lambda match: '":\N{NO-BREAK SPACE}', line.strip())
        lines += textwrap.wrap(glued, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, ""]).replace("\N{NO-BREAK SPACE}", " ")


def facts(shown):
    """Return what a progress file says, but for what another run, machine or version of pickle says otherwise."""

    def fact(pair):
        key, value = pair
        if key in ("id", "written", "process", "host", "check", "digest", "first"):
            return key, type(value).__name__
        return key, value

    text = re.sub(r"\n(?!\{\"(?:format|save)\")", " ", shown.strip("\n"))
    return [json.loads(line, object_pairs_hook=lambda pairs: list(map(fact, pairs))) for line in text.splitlines()]


@pytest.mark.parametrize("name", GUIDES)
def test_the_progress_file_is_one_that_the_package_writes(name, tmp_path, monkeypatch):
    """It is that of the README's first example after its Ctrl-C: the same fields, and a counter goes on from it."""
    blocks = blocks_of("README.md")
    first = next(number for number, block in enumerate(blocks) if block.language == "python")
    shown = next(block.code for block in blocks_of(name) if block.code.startswith('{"format"'))
    terminal = Terminal(tmp_path, blocks[first].code)
    terminal.type(*commands_in(blocks[first + 1].code)[1])
    progress = terminal.folder / "job.progress"
    data = progress.read_bytes()
    now = f"{name} shall show:\n{as_shown(data)}"
    assert facts(shown) == facts(as_shown(data)), now
    size = data.index(b"\n") + 1
    text = re.sub(r"\n(?!\{\"(?:format|save)\")", " ", shown.strip("\n"))
    progress.write_bytes(b"".join(line.encode().ljust(size - 1) + b"\n" for line in text.splitlines()))
    monkeypatch.chdir(terminal.folder)
    counter = enable_counter("job.progress", each_save=True)
    assert counter.position == 3
    assert counter.save_load_object({"sum": 0}, "total.pickle") == {"sum": 3}, now


# The speed.


def speed_rows(name):
    """Return the cells of the speed table, the words of the language left out."""
    table = text_of(name).partition("<!-- speed:begin")[2].partition("<!-- speed:end")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]


def test_the_speed_tables_show_rows_of_the_benchmark_in_both_languages():
    """The same figures, each of a row that the benchmark prints."""
    english, japanese = map(speed_rows, GUIDES)
    figures = [[re.findall(r"\d[\d.,]*(?: (?:ns|µs|ms|s))?", cell) for cell in row[1:]] for row in english]
    assert figures == [[re.findall(r"\d[\d.,]*(?: (?:ns|µs|ms|s))?", cell) for cell in row[1:]] for row in japanese]
    benchmark = (ROOT / "tests" / "benchmarks" / "speed.py").read_text(encoding="utf-8")
    assert len(english) >= 6
    for row in english:
        assert re.sub(r"\d+ MB", "{megabytes} MB", row[0]) in benchmark, row
        assert all(row), row


@pytest.mark.parametrize("name", GUIDES)
def test_the_picture_shows_the_figure_of_the_table(name):
    """Both are of one run of the benchmark."""
    assert "](../tests/benchmarks/speed.svg)" in re.sub(r"<!--.*?-->", "", text_of(name), flags=re.DOTALL)
    picture = (ROOT / "tests" / "benchmarks" / "speed.svg").read_text(encoding="utf-8")
    ours = next(row for row in speed_rows("docs/guide.md") if row[0] == "saving the position after every item")
    assert f">{ours[1]}</text>" in picture
    assert all(f">{other}</text>" in picture for other in ("py_restart", "loopz", "open, write, close"))

"""README.md and README.ja.md: every code block is run, and prints what the block below it shows.

A `python` block is a script, job.py. A `text` block right below it is what a person sees in a terminal: `$` begins a
command, `^C` and `Killed` stand where the job is stopped by a real SIGINT or SIGKILL, and `...` for lines left out.
One without a `$` is the output of one run. Jobs do not really sleep: in `time.sleep` they ask whether to go on, so that
each is stopped at the very line that is shown.
"""

import ast
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from py_restart import _progress

ROOT = Path(__file__).parents[1]
LANGUAGES = ["README.md", "README.ja.md"]
TESTS = {"README.md": "## Tests", "README.ja.md": "## テスト"}
LIMIT = 60  # seconds that a job may take
ASLEEP = "asleep\0\n"
SLEEP_WITH_LEAVE = f"""
import sys, time

def sleep(seconds):
    sys.stdout.write({ASLEEP!r})
    sys.stdout.flush()
    sys.stdin.readline()

time.sleep = sleep
"""
STOPS = {"^C": signal.SIGINT, "Killed": signal.SIGKILL}
RESULTS = {"job.py", "result.txt"}  # all that may be in the folder when the work is done


class Block(NamedTuple):
    """A fenced block: the heading above it, its language, its text, and what stands between it and the block before."""

    heading: str
    language: str
    code: str
    before: str


def blocks_of(name):
    """Return the code blocks of a README in order."""
    found, heading, end = [], "", 0
    text = (ROOT / name).read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$|^(#+ [^\n]*)$", text, re.MULTILINE | re.DOTALL):
        if match[3]:
            heading = match[3]
        else:
            found.append(Block(heading, match[1], match[2], text[end : match.start()]))
            end = match.end()
    return found


def examples():
    """Return each `python` block with the `text` block right below it, as parameters of a test."""
    for name in LANGUAGES:
        blocks = blocks_of(name)
        for number, block in enumerate(blocks):
            if block.language == "python":
                follower = blocks[number + 1]
                shown = follower.code if follower.language == "text" and not follower.before.strip() else None
                marks = [pytest.mark.real] if re.search(r"import (torch|tqdm)\b", block.code) else []
                yield pytest.param(block.code, shown, marks=marks, id=f"{name}-{number}")


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
        """Run a command that a README shows, and return the lines that appear; `expected` says where to stop it."""
        if command == "ls":
            return sorted(path.name for path in self.folder.iterdir())
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
def test_an_example_does_what_the_readme_shows(code, shown, tmp_path):
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


def test_both_readmes_have_the_same_code():
    """What is translated is the prose and the comments; the headings are as many, and as deep."""

    def essence(block):
        return block.language, ast.dump(ast.parse(block.code)) if block.language == "python" else block.code

    english, japanese = ([essence(block) for block in blocks_of(name)] for name in LANGUAGES)
    assert english == japanese

    def outline(name):
        text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        return [line.split()[0] for line in text.splitlines() if line.startswith("#")], text.count("\n|")

    assert outline("README.md") == outline("README.ja.md")


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_shell_blocks_are_those_that_ci_runs(name):
    """A newcomer types the first block; below "Tests" stands how to run the tests. CI takes both from the README."""
    blocks = [block for block in blocks_of(name) if block.language == "sh"]
    assert [(block.heading, block.code) for block in blocks] == [
        ("# py_restart", "python -m pip install .\npython examples/quickstart.py\n"),
        (TESTS[name], 'python -m pip install ".[test]"\npython -m pytest\n'),
    ]
    assert (ROOT / "examples" / "quickstart.py").is_file()
    assert 'test = ["pytest' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'readme_block ""' in ci
    assert 'readme_block "## Tests"' in ci


def test_the_first_example_has_eight_lines():
    """It is read at a glance: eight lines, blank ones not counted."""
    first = next(block for block in blocks_of("README.md") if block.language == "python")
    assert len(list(filter(None, first.code.splitlines()))) == 8


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_link_leads_somewhere(name):
    """A README is read in the checkout: a link into it names what is there."""
    text = re.sub(r"<!--.*?-->", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_proof_table_has_the_figures_of_the_tests(name):
    """How often was tried is what the crash tests really use, so that the table cannot grow stale."""
    text = (ROOT / name).read_text(encoding="utf-8")
    table = text.partition("<!-- proof:begin")[2].partition("<!-- proof:end")[0]
    figures = runpy.run_path(str(ROOT / "tests" / "crash" / "figures.py"))
    expected = [f"{value:,}" for key, value in figures.items() if key.isupper()]
    assert re.findall(r"\| ([\d,]+) \|$", table, re.MULTILINE) == expected


# The progress file.


def as_shown(data):
    """Return a progress file as the README shows it: the first line wrapped, blanks at the ends left out."""
    header, *records = data.decode().splitlines()
    glued = re.sub(" +, ", ", ", header).replace(": ", ":\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(glued, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, *map(str.rstrip, records), ""]).replace("\N{NO-BREAK SPACE}", " ")


def as_written(shown):
    """Undo `as_shown`."""
    lines = shown.splitlines()
    header, records = " ".join(lines[:-2]), lines[-2:]
    text, check, rest = header.partition(', "check"')
    text += " " * (-len(header + "\n") % (2 * _progress.RECORD_SIZE))
    return "\n".join([text + check + rest, *(r.ljust(_progress.RECORD_SIZE - 1) for r in records), ""]).encode()


def facts(data):
    """Return what a progress file says, but for what another run, machine or version of pickle says otherwise."""
    fields = json.loads(data.partition(b"\n")[0])
    for key in ("id", "written", "process", "host", "check"):
        fields[key] = type(fields[key]).__name__
    for table in ("files", "before"):
        fields[table] = {path: list(stamp) for path, stamp in fields[table].items()}
    return list(fields.items())


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_progress_file_is_one_that_the_package_writes(name, tmp_path):
    """It is that of the first example after its Ctrl-C: whole, to the last check sum, and with the same fields."""
    blocks = blocks_of(name)
    first = next(number for number, block in enumerate(blocks) if block.language == "python")
    shown = next(block.code for block in blocks if block.code.startswith('{"format"'))
    terminal = Terminal(tmp_path, blocks[first].code)
    terminal.type(*commands_in(blocks[first + 1].code)[0])
    data = (terminal.folder / "job.progress").read_bytes()
    now = f"{name} shall show:\n{as_shown(data)}"
    assert as_written(as_shown(data)) == data
    assert as_shown(as_written(shown)) == shown, now
    assert facts(as_written(shown)) == facts(data), now
    ours, theirs = (_progress.decode(text, str(terminal.folder)) for text in (as_written(shown), data))
    assert (ours.position, ours.use, ours.slots) == (theirs.position, theirs.use, theirs.slots), now
    assert ours.position == 3


# The speed.


def speed_rows(name):
    """Return the cells of the speed table, the words of the language left out."""
    text = (ROOT / name).read_text(encoding="utf-8")
    table = text.partition("<!-- speed:begin")[2].partition("<!-- speed:end")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]


def test_the_speed_tables_show_rows_of_the_benchmark_in_both_languages():
    """The same figures, each of a row that the benchmark prints."""
    english, japanese = map(speed_rows, LANGUAGES)
    figures = [[re.findall(r"\d[\d.,]*(?: (?:ns|µs|ms|s))?", cell) for cell in row[1:]] for row in english]
    assert figures == [[re.findall(r"\d[\d.,]*(?: (?:ns|µs|ms|s))?", cell) for cell in row[1:]] for row in japanese]
    benchmark = (ROOT / "tests" / "benchmarks" / "speed.py").read_text(encoding="utf-8")
    assert len(english) >= 6
    for row in english:
        assert re.sub(r"\d+ MB", "{megabytes} MB", row[0]) in benchmark, row
        assert all(row), row


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_picture_shows_the_figure_of_the_table(name):
    """Both are of one run of the benchmark."""
    assert "](tests/benchmarks/speed.svg)" in re.sub(
        r"<!--.*?-->", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL
    )
    picture = (ROOT / "tests" / "benchmarks" / "speed.svg").read_text(encoding="utf-8")
    ours = next(row for row in speed_rows("README.md") if row[0] == "saving the position after every item")
    assert f">{ours[1]}</text>" in picture
    assert all(f">{other}</text>" in picture for other in ("py_restart", "loopz", "open, write, close"))

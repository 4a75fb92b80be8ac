"""Every script in examples/ that needs no more than numpy (and one that needs tqdm), run as a person would run it."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
LIMIT = 60  # seconds that a script may take
QUICK = {**os.environ, "SECONDS": "1"}  # that all its pauses take together, instead of the twenty that a person needs
ENGINES = {"many_workers.py", "torchrun_ddp.py"}  # several processes each: tests/real/test_engines.py
BY_ITSELF = {"quickstart.py", "slurm_job.py", *ENGINES}  # nobody is to press Ctrl-C there

# What is run, after which line it is stopped by which signal, and how many of its lines the next run may print again.
STOPPED = [
    ("an_object.py", r"word 5: ", signal.SIGKILL, 1),
    ("every_n_items.py", r"number 250$", signal.SIGKILL, 2),
    ("functions_numpy.py", r"step 250$", signal.SIGKILL, 1),
    ("nested_loops.py", r"2021-05$", signal.SIGINT, 1),
    ("seekable_source.py", r"block 17$", signal.SIGKILL, 1),
    ("several_loops.py", r"convert page 2$", signal.SIGINT, 1),
    ("slurm_job.py", r"chunk 15$", signal.SIGTERM, 1),
    ("slurm_job.py", r"chunk 15$", signal.SIGKILL, 6),
    ("train_numpy.py", r"step 300: ", signal.SIGKILL, 1),
]


def run(script, folder, stop_at=None, by=signal.SIGINT, **environment):
    """Run an example in a folder and return the lines that it printed; stop it when a line begins with a pattern."""
    command = [sys.executable, "-W", "error", EXAMPLES / script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env={**QUICK, **environment}, text=True, **pipes) as process:
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if stop_at and re.match(stop_at, line):
                process.send_signal(by)
                stop_at = None
        timer.cancel()
    return process.returncode, lines


def progress(lines):
    """Leave out the traceback that a stopped script ends with."""
    end = next((n for n, line in enumerate(lines) if line.startswith("Traceback ")), len(lines))
    return lines[:end]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_has_one_idea_and_under_fifty_lines(script):
    """An example is read in one go: it says what it shows in its first line, and ends on the same screen."""
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert text.count("\n") < 50
    assert re.match(r'""".+[.]("""|\n)', text)


@pytest.mark.parametrize("script", sorted({*SCRIPTS} - BY_ITSELF))
def test_an_example_says_what_to_do_and_lasts_long_enough_to_do_it(script):
    """A person reads "press Ctrl-C, run it again" at its top, and has twenty seconds for it; a test has one."""
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text))
    assert re.search(r"\n\nRun it, press Ctrl-C .*, and run it again", said)
    assert re.search(r'^PAUSE = float\(os.environ.get\("SECONDS", 20\)\) / .*#', text, re.MULTILINE)
    assert text.count("time.sleep(PAUSE)") >= 1


def test_every_example_is_run_by_a_test():
    """A new script in examples/ gets a row above, or a test of its own here or in tests/real."""
    elsewhere = {"quickstart.py", "progress_bar.py", "train_pytorch.py", *ENGINES}
    assert {script for script, *_ in STOPPED} | elsewhere == set(SCRIPTS)


def test_the_quickstart_shows_a_loop_that_resumes_within_ten_seconds(tmp_path, brake):
    """A newcomer types one line and sees: a real interrupt, the saved progress, the rest of the loop, nothing left."""
    environment = brake("item 4$")
    status, lines = run("quickstart.py", tmp_path, **environment)
    assert status == 0, lines
    naps = Path(environment["BRAKE"], "naps").read_text().split()
    assert 1.7 < sum(map(float, naps)) < 8  # and two for three processes to start
    first, second = "\n".join(lines).split("\n\n")[:2]
    assert first.splitlines()[:6] == ["$ python job.py", *(f"item {i}" for i in range(5))]
    assert first.splitlines()[-4:] == ["KeyboardInterrupt", "$ ls", "job.progress", "total.pickle"]
    assert second.splitlines()[1] in ("item 4", "item 5")  # 5 where the interrupt came late, with item 4 done
    assert second.splitlines()[-2:] == ["done, the sum is 45", "$ ls"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("script", "stop_at", "by", "again"), STOPPED)
def test_a_stopped_example_goes_on_and_ends_as_if_it_had_never_been_stopped(
    script, stop_at, by, again, tmp_path, brake
):
    """Stopped and run again, an example prints what is left to do, the same result, and leaves nothing behind."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    with ThreadPoolExecutor() as both:
        never_stopped = both.submit(run, script, tmp_path / "whole")
        status, lines = run(script, tmp_path / "stopped", stop_at, by, **brake(stop_at))
    before = progress(lines)
    ended, whole = never_stopped.result()
    assert ended == 0, whole
    assert list((tmp_path / "whole").iterdir()) == []
    assert status in (-by, 128 + by), lines
    assert before == whole[: len(before)]
    assert list((tmp_path / "stopped").iterdir())
    status, after = run(script, tmp_path / "stopped")
    assert status == 0, after
    assert after == whole[-len(after) :]
    assert 0 <= len(before) + len(after) - len(whole) <= again
    assert list((tmp_path / "stopped").iterdir()) == []


def test_the_notebook_finds_nothing_left_in_its_own_folder(monkeypatch):
    """It is opened where it lies, beside the scripts: its last cell shows what it keeps there, too."""
    monkeypatch.chdir(EXAMPLES)
    cell = json.loads(Path("notebook.ipynb").read_text(encoding="utf-8"))["cells"][-1]
    assert [repr(eval("".join(cell["source"])))] == cell["outputs"][0]["data"]["text/plain"]


@pytest.mark.real  # it needs tqdm
def test_the_progress_bar_starts_where_the_loop_resumes(tmp_path, brake):
    """`tqdm(loop, initial=loop.position)`: the bar of the second run begins where that of the first one stopped."""
    bar = r"\s*\d+%\|.*\| (\d+)/50 "
    # Of what tqdm prints a line ends where the next one begins: it may go on to the thirties.
    status, first = run("progress_bar.py", tmp_path, r"\s*\d+%\|.*\| 2\d/50 ", **brake(r".*\| 3\d/50 "))
    assert status == -signal.SIGINT
    stopped = [int(found[1]) for line in first if (found := re.match(bar, line))]
    status, second = run("progress_bar.py", tmp_path)
    resumed = [int(found[1]) for line in second if (found := re.match(bar, line))]
    assert status == 0, second
    assert stopped[0] == 0
    # The bar counts an item before it asks for the next one, and is drawn ten times a second.
    assert -1 <= resumed[0] - stopped[-1] <= 3
    assert resumed[-1] == 50
    assert list(tmp_path.iterdir()) == []

"""Under what stops programs from outside: `timeout`, `nohup`, a closed terminal, `kill`, a scheduler."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

# With a number, the job stays in that item until it is stopped.
JOB = """
    import sys, time
    from py_restart import enable_counter

    with enable_counter("job.progress") as counter:
        done = counter.save_load_object([], "done.pickle")
        for i in counter(range(40)):
            print("item", i, flush=True)
            time.sleep(0.01)
            while str(i) in sys.argv[1:]:
                time.sleep(0.01)
            done.append(i)
        print("sum", sum(done))
"""

AS_PID_1 = ["unshare", "--pid", "--fork", "--kill-child"]


def assert_goes_on(jobs, tmp_path, first, code=JOB):
    """Run the job once more: it goes on at the item in which it was stopped, and ends with everything done once.

    The stop may have come when that item was done and the next one had not said its number.
    """
    second = jobs(code)
    assert second.end() == 0, second.lines
    begin = first.numbers()[-1] + (second.numbers()[0] > first.numbers()[-1])
    assert second.numbers() == list(range(begin, 40))
    assert second.lines[-1] == f"sum {sum(range(40))}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_told_to_stop_saves_and_goes_on(jobs, tmp_path, told_to_stop, by):
    """`kill PID`, `kill -HUP PID`, Ctrl-C: everything saved, the status of a program that was told to stop."""
    first = jobs(JOB, 7)
    assert told_to_stop(first.stop("item 7", by), by), first.lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done.pickle", "job.progress"]
    assert_goes_on(jobs, tmp_path, first)


def timed_out(jobs, code, *timeout):
    """Run the job under `timeout`, for a second, or for longer where a busy machine has not begun with it by then."""
    for seconds in (1, 2, 4, 8, 16, 32):
        first = jobs(code, 7, before=[*timeout, str(seconds)])
        status = first.end()
        if first.numbers():
            break
    return first, status


def test_timeout_1_python_job_py(jobs, tmp_path):
    """`timeout 1 python job.py` ends with its own status for a time-out, 124, and what was done is saved."""
    first, status = timed_out(jobs, JOB, "timeout")
    assert status == 124, first.lines
    assert_goes_on(jobs, tmp_path, first)


def test_timeout_that_kills_in_the_end_costs_what_came_after_the_last_save(jobs, tmp_path):
    """`timeout -s KILL` leaves no time for anything: with `each_save` the last whole item is there."""
    code = JOB.replace('"job.progress"', '"job.progress", each_save=True')
    first, status = timed_out(jobs, code, "timeout", "-s", "KILL")
    assert status in (137, -signal.SIGKILL), first.lines
    assert_goes_on(jobs, tmp_path, first, code)


def test_a_job_under_nohup_outlives_the_hang_up_and_obeys_kill(jobs, tmp_path, told_to_stop):
    """What `nohup` ignores stays ignored; SIGTERM still saves and ends."""
    first = jobs(JOB, 9, before=["nohup"])
    first.wait_for("item 3")
    first.process.send_signal(signal.SIGHUP)
    assert told_to_stop(first.stop("item 9", signal.SIGTERM), signal.SIGTERM), first.lines
    assert_goes_on(jobs, tmp_path, first)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_the_first_process_of_its_container_saves_and_goes_on(jobs, tmp_path, told_to_stop, by):
    """PID 1, which the system spares signals that it has no handler for: in the block it has one, and obeys."""
    assert shutil.which("unshare"), "unshare is missing: apt-get install util-linux"
    first = jobs(JOB.replace("import sys", "import os; assert os.getpid() == 1; import sys"), 7, before=AS_PID_1)
    first.wait_for("item 7")
    parent = first.process.pid
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        [child] = children.read().split()
    os.kill(int(child), by)
    assert told_to_stop(first.end(), by), first.lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done.pickle", "job.progress"]
    assert_goes_on(jobs, tmp_path, first)


def test_a_job_started_with_sighup_ignored_runs_to_its_end(jobs, tmp_path):
    """A program that was started to survive a hang-up does."""
    job = jobs(JOB, before=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"])
    job.wait_for("item 3")
    job.process.send_signal(signal.SIGHUP)
    assert job.end() == 0
    assert job.numbers() == list(range(40))
    assert list(tmp_path.iterdir()) == []


ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def terminal():
    """A terminal: what its window holds, and what programs run on."""
    window, line = pty.openpty()
    yield window, {"stdin": line, "stdout": line, "stderr": line, "start_new_session": True}
    os.close(line)


def read_until(window, text):
    """Read what programs print on the terminal, up to a text."""
    printed = b""
    while text not in printed:
        printed += os.read(window, 1000)


def test_a_closed_terminal_hangs_up_and_the_job_goes_on_later(jobs, tmp_path, terminal, told_to_stop):
    """The window is closed: SIGHUP goes to the job, and what it still prints goes nowhere."""
    window, on_it = terminal
    first = jobs(JOB, 7, before=[sys.executable, "-c", ON_A_TERMINAL], **on_it)
    read_until(window, b"item 7")
    os.close(window)
    assert told_to_stop(first.end(), signal.SIGHUP)
    second = jobs(JOB)
    assert second.end() == 0, second.lines
    assert second.numbers() in (list(range(7, 40)), list(range(8, 40)))
    assert second.lines[-1] == f"sum {sum(range(40))}"


def test_a_job_in_a_shell_whose_terminal_is_closed_goes_on_later(jobs, tmp_path, terminal):
    """The same where a person started it at the prompt of an interactive shell, which hands the hang-up on."""
    window, on_it = terminal
    script = tmp_path.with_name(f"{tmp_path.name}-typed.py")
    script.write_text(textwrap.dedent(JOB), encoding="utf-8")
    before = [sys.executable, "-c", ON_A_TERMINAL, "bash", "--norc", "-i"]
    shell = subprocess.Popen(before, cwd=tmp_path, **on_it)
    os.write(window, f"'{sys.executable}' '{script}' 7\n".encode())
    read_until(window, b"item 7")
    os.close(window)
    shell.wait(60)
    wait_until(lambda: not (tmp_path / ".job.progress.lock").exists())
    second = jobs(script)
    assert second.end() == 0, second.lines
    assert second.numbers() in (list(range(7, 40)), list(range(8, 40)))
    assert second.lines[-1] == f"sum {sum(range(40))}"


def test_the_handlers_of_the_program_are_chained_and_come_back(jobs, tmp_path):
    """A handler of the program's own is called as ever, in the block too, and is there again after it."""
    job = jobs(
        """
        import signal, time
        from py_restart import enable_counter

        stopping = []
        own = lambda number, frame: stopping.append(number)
        signal.signal(signal.SIGTERM, own)
        before = [repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        try:
            with enable_counter("job.progress") as counter:
                for i in counter(range(1000)):
                    print("item", i, flush=True)
                    time.sleep(0.02)
                    if stopping:
                        raise SystemExit(7)
        finally:
            after = [repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
            print("same", before == after, stopping)
        """
    )
    assert job.stop("item 7", signal.SIGTERM) == 7, job.lines
    assert job.lines[-1] == "same True [15]"
    again = jobs(tmp_path.with_name(f"{tmp_path.name}-job.py"))
    assert again.wait_for("item") == f"item {job.numbers()[-1]}"


SRUN = """#!/bin/sh
# As srun does: run the step, and hand on how it ended, 128 and the signal where one ended it.
echo $$ > ../step
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$@" >> ../requeued
"""


def test_a_slurm_job_is_requeued_until_it_is_done(tmp_path, examples, brake):
    """examples/slurm_job.sh and what a scheduler does: SIGTERM to the step, or SIGKILL to all, and another start."""
    folder, tools = tmp_path / "folder", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    for name in ("slurm_job.py", "slurm_job.sh"):
        (folder / name).write_text((examples / name).read_text())
    python = f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n"
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = (folder / "slurm_job.sh").read_text()
    assert "\n#SBATCH --signal=TERM@60\n" in script
    assert "\n#SBATCH --requeue\n" in script
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "4242", "SECONDS": "2"}
    options = {"cwd": folder, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    printed, ends = [], []
    for by, last in ((signal.SIGTERM, 7), (signal.SIGKILL, 20), (signal.SIGTERM, 27), (None, -1)):
        options["env"] = {**environment, **brake(f"chunk {last}$")}
        with subprocess.Popen(["bash", "slurm_job.sh"], **options) as job:
            lines = []
            for line in job.stdout:
                lines.append(line.strip())
                if line == f"chunk {last}\n" and by == signal.SIGTERM:  # the time is nearly up
                    os.kill(int((tmp_path / "step").read_text()), by)
                if line == f"chunk {last}\n" and by == signal.SIGKILL:  # the node fails
                    os.killpg(job.pid, by)
        printed.append([int(line.split()[1]) for line in lines if line.startswith("chunk")])
        ends.append(job.returncode)
    assert ends == [143, -signal.SIGKILL, 143, 0]
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 4242"] * 2
    assert printed[1][0] == printed[0][-1]  # SIGTERM: exactly
    assert printed[2][0] == printed[1][-1] // 10 * 10  # SIGKILL: the last save
    assert printed[3][0] == printed[2][-1]
    assert printed[3][-1] == 39
    assert sorted(path.name for path in folder.iterdir()) == ["slurm_job.py", "slurm_job.sh"]


def wait_until(condition):
    """Wait for what another process does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

"""See a loop survive Ctrl-C: this script starts a job, interrupts it, looks into its folder, and starts it again."""

import os
import signal
import sys
import tempfile
import time
from subprocess import PIPE, Popen

from py_restart import enable_counter


def job():
    """All that you would write: a loop in a counter, and an object that is saved with it."""
    with enable_counter("job.progress", each_save=True) as counter:
        total = counter.save_load_object({"sum": 0}, "total.pickle")
        for i in counter(range(10)):
            print("item", i, flush=True)
            time.sleep(0.2)
            total["sum"] += i
        print("done, the sum is", total["sum"])


def run_in_a_process(folder, ctrl_c_after=None):
    print("$ python job.py")
    with Popen([sys.executable, __file__, "job"], cwd=folder, stdout=PIPE, stderr=PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="")
            if line.strip() == ctrl_c_after:
                process.send_signal(signal.SIGINT)
        print(*process.stderr.read().splitlines()[-1:], "$ ls", *sorted(os.listdir(folder)), "", sep="\n")


if sys.argv[1:] == ["job"]:
    sys.exit(job())
signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells ignore it in what runs in the background
with tempfile.TemporaryDirectory() as folder:
    run_in_a_process(folder, ctrl_c_after="item 4")
    run_in_a_process(folder)

"""A tqdm bar that starts where the loop resumes.

Run it, press Ctrl-C in the middle, and run it again: the bar begins there.
"""

import os
import time

from tqdm import tqdm

from py_restart import enable_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 50  # SECONDS=1 in the environment is quicker

with enable_counter("progress_bar.progress") as counter:
    loop = counter(range(50))
    for _ in tqdm(loop, initial=loop.position):
        time.sleep(PAUSE)

"""A tqdm bar that starts where the loop resumes."""

import time

from tqdm import tqdm

from py_restart import enable_counter

with enable_counter("progress_bar.progress") as counter:
    loop = counter(range(50))
    for _ in tqdm(loop, initial=loop.position):
        time.sleep(0.04)

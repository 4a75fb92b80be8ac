"""Save with functions of your own: one that writes a file, one that reads it, and the path that both are given.

Run it, press Ctrl-C after a few lines, and run it again: it goes on at the last full fifty steps, with that plate.
"""

import os
import time

import numpy as np

from py_restart import enable_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 500  # SECONDS=1 in the environment is quicker
plate = np.zeros((32, 32))
plate[0] = 100.0


def save(path):
    """Write the plate; the name ends in .npy, since np.save would append that to any other."""
    np.save(path, plate)


def load(path):
    """Read it back into the same array."""
    plate[:] = np.load(path)


with enable_counter("heat.progress", each_save=True, save_span=50) as counter:
    counter.save_load_funcs([save], [load], ["plate.npy"])
    for step in counter(range(500)):
        if step % 50 == 0:
            print("step", step, flush=True)
        plate[1:-1, 1:-1] = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4
        time.sleep(PAUSE)
    print("done: the mean is", plate.mean())

"""Train with numpy, to the bit: the random generator is saved with the weights, as a part of the same object.

Run it, press Ctrl-C after a few lines, and run it again. The checksum at the end is always the same.
"""

import os
import time
import zlib

import numpy as np

from py_restart import enable_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 1000  # SECONDS=1 in the environment is quicker
data = np.random.default_rng(0)
x = data.normal(size=(10_000, 8))
y = x @ data.normal(size=8) + data.normal(size=10_000)

with enable_counter("train_numpy.progress", each_save=True, save_span=20) as counter:
    state = {"weights": np.zeros(8), "velocity": np.zeros(8), "random": np.random.default_rng(1)}
    state = counter.save_load_object(state, "train_numpy.pickle")
    for step in counter(range(1000)):
        batch = state["random"].integers(len(x), size=256)
        error = x[batch] @ state["weights"] - y[batch]
        state["velocity"] = 0.9 * state["velocity"] + x[batch].T @ error / len(batch)
        state["weights"] = state["weights"] - 0.001 * state["velocity"]
        if step % 100 == 0:
            print(f"step {step}: loss {np.mean(error**2):.3f}", flush=True)
        time.sleep(PAUSE)
    print(f"done: the weights' checksum is {zlib.crc32(state['weights'].tobytes()):08x}")

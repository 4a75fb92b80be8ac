"""Train with numpy, to the bit: the random generator is saved with the weights, as a part of the same object."""

import zlib

import numpy as np

from py_restart import enable_counter

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
    print(f"done: the weights' checksum is {zlib.crc32(state['weights'].tobytes()):08x}")

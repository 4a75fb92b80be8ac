"""Training to the bit: killed with SIGKILL at ten random moments and run again, it ends with the very same weights."""

import multiprocessing
import os
import random
import signal
import time

import pytest

KILLS = 10
LIMIT = 200  # seconds that a training may take
IN_A_FOLDER = """
import multiprocessing, os, runpy, sys, warnings
multiprocessing.set_start_method("fork", force=True)
warnings.simplefilter("error")
os.chdir({folder!r})
sys.stdout = open({log!r}, "a", buffering=1)
runpy.run_path({script!r}, run_name="__main__")
"""
# The training stays in batch 14 of epoch 2, three saves behind its beginning, until it is stopped.
STAYS = """
import time

def sleep(seconds, nap=time.sleep, naps=[]):
    naps.append(seconds)
    while len(naps) > 2 * 32 + 14:
        open({log!r} + "-stays", "w").close()
        nap(0.01)

time.sleep = sleep
"""


@pytest.fixture(scope="module")
def warm():
    """Start scripts in processes forked from one that has imported the slow packages and nothing of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "torch._dynamo"])

    first = context.Process(target=exec, args=("",))  # it waits for the imports, and no other has to
    first.start()
    first.join()

    def start(script, folder, log, before=""):
        code = (before + IN_A_FOLDER).format(folder=str(folder), log=str(log), script=str(script))
        process = context.Process(target=exec, args=(code,))
        process.start()
        return process

    return start


def kill_at_random_moments(start):
    """Run a job until it is done, but kill it ten times before."""
    begin = time.monotonic()
    whole = start()
    whole.join(LIMIT)
    seconds = time.monotonic() - begin
    assert whole.exitcode == 0
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    kills = 0
    while True:
        process = start()
        process.join(chance.uniform(0, seconds / 3) if kills < KILLS else LIMIT)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"seed {seed}"
        if process.exitcode == 0 and kills >= KILLS:
            return
        kills += process.exitcode != 0


@pytest.mark.parametrize("script", ["train_pytorch.py", "train_numpy.py"])
def test_an_example_killed_ten_times_ends_with_the_same_weights(jobs, warm, examples, tmp_path, script):
    """The example itself: model, optimizer, scheduler, random state and batches are of one moment in every save."""
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    cold = jobs(examples / script, folder=folder)
    assert cold.end() == 0, cold.lines
    assert list(folder.iterdir()) == []
    kill_at_random_moments(lambda: warm(examples / script, folder, log))
    results = [line for line in log.read_text().splitlines() if line.startswith("done")]
    assert len(results) >= 2
    assert set(results) == {cold.lines[-1]}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_training_that_is_told_to_stop_ends_with_the_same_weights(warm, examples, tmp_path, by, status):
    """Ctrl-C and SIGTERM in the middle of an epoch, while the workers of the loader are alive: saved, to the bit."""
    script, folder, log = examples / "train_pytorch.py", tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    process = warm(script, folder, log, STAYS)
    while process.is_alive() and not (tmp_path / "log-stays").exists():
        time.sleep(0.005)
    os.kill(process.pid, by)
    process.join(LIMIT)
    assert process.exitcode == status
    assert log.read_text().split("\n")[-2] == "epoch 2"
    for _ in range(2):  # to its end, and once more from the beginning
        process = warm(script, folder, log)
        process.join(LIMIT)
        assert process.exitcode == 0
        assert list(folder.iterdir()) == []
    lines = log.read_text().splitlines()
    assert lines[:4] in (["epoch 0", "epoch 1", "epoch 2", "epoch 1"], ["epoch 0", "epoch 1", "epoch 2", "epoch 2"])
    results = [line for line in lines if line.startswith("done")]
    assert len(results) == 2
    assert results[0] == results[1]


SKIPPING = """
    import sys
    import torch
    from py_restart import enable_counter

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            with open("../loaded", "a") as file:
                file.write(f"{index}\\n")
            return torch.tensor(float(index))

    def batches(epoch, start):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).tolist()[4 * start :]
        return torch.utils.data.DataLoader(Data(), 4, sampler=order, num_workers=1, generator=torch.Generator())

    state = {"seen": []}
    with enable_counter("epochs.progress") as epochs:
        state = epochs.save_load_object(state, "state.pickle")
        for epoch in epochs(range(2)):
            counter = enable_counter("batches.progress", each_save=True)
            for batch in counter(lambda start, epoch=epoch: batches(epoch, start)):
                if "stop" in sys.argv and (epoch, counter.position) == (1, 6):
                    sys.exit(3)
                state["seen"] += batch.tolist()
        print("right", [sorted(state["seen"][:40]), sorted(state["seen"][40:])] == [list(range(40))] * 2)
"""


def test_batches_that_were_done_are_not_loaded_again(jobs, tmp_path):
    """Stopped at batch 6 of epoch 1: the next run loads the four batches that are left, and nothing else."""
    folder = tmp_path / "folder"
    folder.mkdir()
    first = jobs(SKIPPING, "stop", folder=folder)
    assert first.end() == 3, first.lines
    (tmp_path / "loaded").unlink()
    second = jobs(SKIPPING, folder=folder)
    assert second.end() == 0, second.lines
    assert second.lines == ["right True"]
    assert len((tmp_path / "loaded").read_text().split()) == 16
    assert list(folder.iterdir()) == []


NUMPY_EPOCHS = """
    import zlib
    import numpy as np
    from py_restart import enable_counter

    x = np.random.default_rng(0).normal(size=(640, 8))
    with enable_counter("epochs.progress") as epochs:
        state = epochs.save_load_object(
            {"weights": np.ones(8), "rate": 0.1, "random": np.random.default_rng(1)}, "state.pickle"
        )
        for epoch in epochs(range(6)):
            print("epoch", epoch, flush=True)
            counter = enable_counter("batches.progress", each_save=True, save_span=3)
            order = np.random.default_rng(epoch).permutation(640)
            for batch in counter(lambda start, order=order: (order[n : n + 32] for n in range(32 * start, 640, 32))):
                noise = state["random"].normal(size=8)
                state["weights"] += state["rate"] * (x[batch].mean(0) - 0.1 * state["weights"] + 0.01 * noise)
            counter = enable_counter("checks.progress", each_save=True, save_span=3)
            for chunk in counter(range(10)):
                state["weights"][chunk % 8] *= 0.999
            state["rate"] *= 0.9
        print(f"done: {zlib.crc32(state['weights'].tobytes()):08x}")
"""


def test_epochs_with_two_loops_in_each_killed_ten_times_end_with_the_same_weights(jobs, warm, tmp_path):
    """Training and checking loops inside the epochs, and a change after them: one moment for all of them."""
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    cold = jobs(NUMPY_EPOCHS, folder=folder)
    assert cold.end() == 0, cold.lines
    script = tmp_path.with_name(f"{tmp_path.name}-job.py")
    kill_at_random_moments(lambda: warm(script, folder, log))
    results = [line for line in log.read_text().splitlines() if line.startswith("done")]
    assert len(results) >= 2
    assert set(results) == {cold.lines[-1]}
    assert list(folder.iterdir()) == []

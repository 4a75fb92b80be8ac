"""Train with PyTorch, to the bit: stopped anywhere, even by `kill -9`, it ends with the weights of an unbroken run.

Run it, press Ctrl-C in the middle of an epoch, and run it again. The sum at the end is always the same.
"""

import os
import time

import torch

from py_restart import enable_counter, simple_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 160  # SECONDS=1 in the environment is quicker
torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(1000, 8), torch.randn(1000, 1))
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Dropout(0.2), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters())
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)


def save(path):
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), torch.get_rng_state()], path)


def load(path):
    setters = [model.load_state_dict, optimizer.load_state_dict, scheduler.load_state_dict, torch.set_rng_state]
    for set_state, state in zip(setters, torch.load(path), strict=True):
        set_state(state)


def batches(epoch, start):  # with generators of their own: neither the shuffling nor the loader uses the global one
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch)).tolist()[32 * start :]
    return torch.utils.data.DataLoader(data, 32, sampler=order, num_workers=2, generator=torch.Generator())


if __name__ == "__main__":  # the loader's workers may import this file
    with enable_counter("epochs.progress") as epochs:
        epochs.save_load_funcs([save], [load], ["training.pt"])
        for epoch in epochs(range(5)):
            print("epoch", epoch, flush=True)
            for x, y in simple_counter("epoch.progress", lambda start, epoch=epoch: batches(epoch, start), save_span=4):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
                scheduler.step()
                time.sleep(PAUSE)
        print("done: the weights add up to", sum(p.double().sum().item() for p in model.parameters()))

"""Train on several processes with DDP, to the bit: rank 0 saves, and after a failure every rank goes on from there.

Run it with `torchrun --nproc-per-node=2 --max-restarts=3 torchrun_ddp.py`, and `kill -9` one of the processes that it
names: torchrun starts all of them again. After Ctrl-C, the same command goes on, too.
"""

import os
import time

import torch
import torch.distributed as dist

from py_restart import enable_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 200  # SECONDS=1 in the environment is quicker
store, rank, ranks = next(dist.rendezvous("env://"))
# A part of torchrun's one store for each attempt: in another's, gloo would find the addresses of ranks that are dead.
store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
torch.manual_seed(0)
x, y = torch.randn(1000, 8), torch.randn(1000, 1)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Dropout(0.2), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters())
parts = [model, optimizer]

# One file for all. With one for each rank, a kill comes between two saves, and the ranks go on at different steps.
with enable_counter("ddp.progress", use_tempfile=rank == 0, each_save=True, save_span=10) as counter:
    save = [lambda path: torch.save([part.state_dict() for part in parts], path)]
    load = [lambda path: [part.load_state_dict(s) for part, s in zip(parts, torch.load(path), strict=True)]]
    counter.save_load_funcs(save, load, ["ddp.pt"])
    start = [counter.position, *(part.state_dict() for part in parts)]
    dist.broadcast_object_list(start, src=0)  # to the other ranks, which have read nothing
    for part, state in zip(parts, start[1:], strict=True):
        part.load_state_dict(state)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    for step in counter(lambda _: range(start[0], 200)):
        print(f"rank {rank} step {step} (process {os.getpid()})", flush=True)
        torch.manual_seed(step * ranks + rank)  # for the batch and the dropout: nothing random has to be saved
        batch = torch.randperm(len(x))[:32]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(ddp(x[batch]), y[batch]).backward()
        optimizer.step()
        time.sleep(PAUSE)
    if rank == 0:
        torch.save(model.state_dict(), "trained.pt")  # inside the block: after it, a kill would lose it
    dist.barrier()  # a rank that fails before all are here is started again, and finds the loop done

"""A job that a scheduler may stop: SIGTERM saves, a failed node costs ten chunks. `sbatch slurm_job.sh` starts it."""

import time

from py_restart import enable_counter

with enable_counter("slurm_job.progress", each_save=True, save_span=10) as counter:
    for chunk in counter(range(40)):
        print("chunk", chunk, flush=True)
        time.sleep(0.05)
    print("done")

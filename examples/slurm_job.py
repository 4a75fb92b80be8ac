"""A job that a scheduler may stop: SIGTERM saves, a failed node costs up to ten chunks. Start it by `slurm_job.sh`."""

import os
import time

from py_restart import enable_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 40  # SECONDS=1 in the environment is quicker
# `sbatch --array=0-3 slurm_job.sh` starts four of them at once: a path for each, as two cannot use the same one.
task = os.environ.get("SLURM_ARRAY_TASK_ID", "0")

with enable_counter(f"slurm_job-{task}.progress", each_save=True, save_span=10) as counter:
    for chunk in counter(range(40)):
        print("chunk", chunk, flush=True)
        time.sleep(PAUSE)
    print("done")

#!/bin/bash
#SBATCH --job-name=py_restart
#SBATCH --time=04:00:00
# A minute before the time is up, SIGTERM goes to the step that srun started: it saves, and ends with status 143.
# No `B:` before TERM: the signal would go to this shell alone, which dies of it, and nobody would ask for another start.
#SBATCH --signal=TERM@60
# A failed node or a more important job: SLURM starts this one again by itself, and its output goes on in the same file.
#SBATCH --requeue
#SBATCH --open-mode=append

srun python slurm_job.py
status=$?
# The time was up: SLURM does not start the job again by itself, so ask for it. 143 is 128 + SIGTERM.
[ $status -eq 143 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status

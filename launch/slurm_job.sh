#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=log.txt
#SBATCH --signal=TERM@180
# What SLURM runs on the first node, in the folder of the job, which all nodes see. SIGTERM comes
# to the tasks three minutes before the time is up, or when the job is preempted; a run that saved
# its state exits with 75 and is put into the queue again.
set -eu
bash host.sh setup
code=0
srun --kill-on-bad-exit=0 --wait=300 bash host.sh run || code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

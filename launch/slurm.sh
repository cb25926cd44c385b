#!/usr/bin/env bash
# A job of SLURM's, from a login node and a folder that all nodes see: launch/slurm.sh JOB.toml
# Options: --dry-run says the commands; --delete cancels the job.
. "$(dirname "$0")/common.sh"
read_job slurm "$@"
need sbatch "call this on a login node"
[ "$JOB_TPU" = 0 ] || fail "accelerator = $JOB_ACCELERATOR: SLURM has GPUs, such as H100:8, or cpu"

if [ -n "$DELETE" ]; then
  run scancel "--name=$JOB_NAME" "--user=$USER"
  exit
fi

queued=(squeue "--user=$USER" "--name=$JOB_NAME" --noheader "--format=%i %T")
if [ -n "$DRY_RUN" ]; then
  echo "# unless this lists a job:"
  show "${queued[@]}"
elif now=$("${queued[@]}") && [ -n "$now" ]; then
  echo "$JOB_NAME is there already: $now; see $STAGE/log.txt"
  exit
fi

stage
machines=("--nodes=$JOB_HOSTS" "--ntasks-per-node=$((JOB_GPUS > 0 ? JOB_GPUS : 1))")
if [ "$JOB_GPUS" -gt 0 ]; then machines+=("--gpus-per-node=$JOB_GPUS"); fi
if [ -n "$JOB_PARTITION" ]; then machines+=("--partition=$JOB_PARTITION"); fi
run sbatch "--job-name=$JOB_NAME" "--chdir=$STAGE" "--time=$JOB_TIME" "${machines[@]}" \
  "${JOB_ARGS[@]}" "$STAGE/slurm_job.sh"

#!/usr/bin/env bash
# A job that SkyPilot finds machines for and moves when they are taken away: launch/sky.sh JOB.toml
# Options: --dry-run says the commands; --delete cancels the job and frees its machines.
. "$(dirname "$0")/common.sh"
read_job sky "$@"
need sky "pip install 'skypilot[gcp]', into an environment of its own"

if [ -n "$DELETE" ]; then
  run sky jobs cancel "--name=$JOB_NAME" --yes
  exit
fi

queued=(sky jobs queue --skip-finished --output=json)
if [ -n "$DRY_RUN" ]; then
  echo "# unless this lists $JOB_NAME:"
  show "${queued[@]}"
elif now=$("${queued[@]}") && grep -E "\"job_name\": *\"$JOB_NAME\"" <<<"$now" >/dev/null; then
  echo "$JOB_NAME is there already: see it by sky jobs queue, its output by sky jobs logs"
  exit
fi

# The machine, and how its processes find each other: a TPU tells them itself.
command="exec bash host.sh run"
case $JOB_ACCELERATOR in
  cpu) accelerators= ;;
  *:*) accelerators=$JOB_ACCELERATOR ;;
  *) accelerators=tpu-$JOB_ACCELERATOR ;;
esac
if [ "$JOB_HOSTS" -gt 1 ]; then
  # shellcheck disable=SC2016
  command+=' --coordinator=$(head -n 1 <<<"$SKYPILOT_NODE_IPS"):8476'
  # shellcheck disable=SC2016
  command+=' --processes=$SKYPILOT_NUM_NODES --process=$SKYPILOT_NODE_RANK'
fi

task() {
  echo "name: $JOB_NAME"
  echo "workdir: $STAGE"
  echo "num_nodes: $JOB_HOSTS"
  echo "resources:"
  if [ -n "$JOB_INFRA" ]; then echo "  infra: $JOB_INFRA"; fi
  if [ -n "$accelerators" ]; then echo "  accelerators: $accelerators"; fi
  if [ -n "$JOB_RUNTIME_VERSION" ]; then
    echo "  accelerator_args: {runtime_version: $JOB_RUNTIME_VERSION}"
  fi
  if [ "$JOB_SPOT" = 1 ]; then echo "  use_spot: true"; fi
  echo "  job_recovery: {max_restarts_on_errors: $JOB_MAX_RESTARTS, recover_on_exit_codes: [75]}"
  echo "setup: bash host.sh setup"
  echo "run: |"
  echo "  $command"
}

stage
if [ -n "$DRY_RUN" ]; then
  echo "# $STAGE.sky.yaml:"
  task | sed 's/^/#   /'
else
  task >"$STAGE.sky.yaml"
fi
run sky jobs launch --yes --detach-run "${JOB_ARGS[@]}" "$STAGE.sky.yaml"

#!/usr/bin/env bash
# A job on a TPU slice that gcloud creates, unless it is there: launch/tpu_vm.sh JOB.toml
# Options: --dry-run says the commands; --delete deletes the slice. See launch/README.md.
. "$(dirname "$0")/common.sh"
read_job gcloud "$@"
need gcloud "install the Google Cloud CLI"
[ "$JOB_TPU" = 1 ] || fail "accelerator = $JOB_ACCELERATOR: take a TPU slice, such as v5litepod-16"

tpu=(gcloud compute tpus tpu-vm)
place=("--project=$JOB_PROJECT" "--zone=$JOB_ZONE")
every=(--worker=all "${place[@]}")

if [ -n "$DELETE" ]; then
  run "${tpu[@]}" delete "$JOB_NAME" "${place[@]}" --quiet
  exit
fi

state=("${tpu[@]}" describe "$JOB_NAME" "${place[@]}" "--format=value(state)")
# A slice that was taken away does not come back.
if [ -z "$DRY_RUN" ] && now=$("${state[@]}" 2>/dev/null); then
  case $now in
    PREEMPTED | TERMINATED) "${tpu[@]}" delete "$JOB_NAME" "${place[@]}" --quiet ;;
  esac
fi

stage
if ! holds "${state[@]}"; then
  create=("--accelerator-type=$JOB_ACCELERATOR" "--version=$JOB_RUNTIME_VERSION")
  if [ "$JOB_SPOT" = 1 ]; then create+=(--spot); fi
  run "${tpu[@]}" create "$JOB_NAME" "${place[@]}" "${create[@]}" "${JOB_ARGS[@]}"
fi
run "${tpu[@]}" scp "$STAGE" "$JOB_NAME:" --recurse "${every[@]}"
run "${tpu[@]}" ssh "$JOB_NAME" "${every[@]}" "--command=bash $JOB_NAME/host.sh setup"
run "${tpu[@]}" ssh "$JOB_NAME" "${every[@]}" "--command=bash $JOB_NAME/host.sh start"

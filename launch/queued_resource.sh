#!/usr/bin/env bash
# A job on a TPU slice that is waited for in Google's queue: launch/queued_resource.sh JOB.toml
# Options: --dry-run says the commands; --delete deletes the request and the slice.
. "$(dirname "$0")/common.sh"
read_job gcloud "$@"
need gcloud "install the Google Cloud CLI"
[ "$JOB_TPU" = 1 ] || fail "accelerator = $JOB_ACCELERATOR: take a TPU slice, such as v5litepod-16"

queue=(gcloud compute tpus queued-resources)
place=("--project=$JOB_PROJECT" "--zone=$JOB_ZONE")
state=("${queue[@]}" describe "$JOB_NAME" "${place[@]}" "--format=value(state.state)")
delete=("${queue[@]}" delete "$JOB_NAME" "${place[@]}" --force --quiet)

if [ -n "$DELETE" ]; then
  run "${delete[@]}"
  exit
fi

# A request whose slice was taken away, or that failed, is never filled again.
if [ -z "$DRY_RUN" ] && now=$("${state[@]}" 2>/dev/null); then
  case $now in
    SUSPENDED | FAILED) "${delete[@]}" ;;
  esac
fi
if ! holds "${state[@]}"; then
  create=("--node-id=$JOB_NAME" "--accelerator-type=$JOB_ACCELERATOR"
    "--runtime-version=$JOB_RUNTIME_VERSION")
  if [ "$JOB_SPOT" = 1 ]; then create+=(--spot); fi
  run "${queue[@]}" create "$JOB_NAME" "${place[@]}" "${create[@]}" "${JOB_ARGS[@]}"
fi

if [ -n "$DRY_RUN" ]; then
  echo "# until this prints ACTIVE:"
  show "${state[@]}"
else
  while now=$("${state[@]}") && [ "$now" != ACTIVE ]; do
    case $now in
      SUSPENDED | FAILED)
        echo "$LAUNCHER: error: $JOB_NAME is $now: run this again to ask anew" >&2
        exit 1
        ;;
    esac
    echo "$JOB_NAME is $now; it is looked at again in a minute, and you may stop and come back"
    sleep 60
  done
fi
exec "$LAUNCH/tpu_vm.sh" "$@"

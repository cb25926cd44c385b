#!/usr/bin/env bash
# A job on a GKE cluster that xpk made: launch/xpk.sh JOB.toml
# Options: --dry-run says the commands; --delete deletes the workload, not the cluster.
. "$(dirname "$0")/common.sh"
read_job xpk "$@"
need docker "it builds the image"
need xpk "pip install xpk, into an environment of its own"

place=("--cluster=$JOB_CLUSTER" "--project=$JOB_PROJECT" "--zone=$JOB_ZONE")
if [ -n "$DELETE" ]; then
  run xpk workload delete "--workload=$JOB_NAME" "${place[@]}" --quiet
  exit
fi

# Names of xpk's machines, for those of its GPUs that come by their kind and number.
case $JOB_ACCELERATOR in
  H100:8) device=h100-80gb-8 ;;
  H200:8) device=h200-141gb-8 ;;
  A100:[1248]) device=a100-40gb-$JOB_GPUS ;;
  L4:[1248]) device=l4-$JOB_GPUS ;;
  *:* | cpu) fail "accelerator = $JOB_ACCELERATOR: take a TPU slice, H100:8, H200:8, A100:N or L4:N" ;;
  *) device=$JOB_ACCELERATOR ;;
esac
machines=("--device-type=$device")
command="exec bash host.sh run"
if [ "$JOB_GPUS" -gt 0 ]; then
  machines+=("--num-nodes=$JOB_HOSTS")
  # shellcheck disable=SC2016
  command+=' --coordinator=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'
  # shellcheck disable=SC2016
  command+=' --processes=$NNODES --process=$NODE_RANK'
fi

# Whether xpk lists the workload under a status.
listed() {
  local list=(xpk workload list "${place[@]}" "--filter-by-job=^$JOB_NAME\$" "--filter-by-status=$1")
  if [ -n "$DRY_RUN" ]; then
    echo "# unless this lists $JOB_NAME:"
    show "${list[@]}"
    return 1
  fi
  "${list[@]}" | grep "^$JOB_NAME " >/dev/null
}

if listed EVERYTHING; then
  if ! listed FINISHED; then
    echo "$JOB_NAME is there already: see it by xpk workload list $(show "${place[@]}")"
    exit
  fi
  xpk workload delete "--workload=$JOB_NAME" "${place[@]}" --quiet
fi

stage
tag=$JOB_IMAGE:$JOB_NAME
run docker build --platform=linux/amd64 "--tag=$tag" "$STAGE"
run docker push "$tag"
# By its digest, because a node that has an image of this tag does not look for a newer one.
digest=(docker inspect "--format={{index .RepoDigests 0}}" "$tag")
if [ -n "$DRY_RUN" ]; then
  echo "# in place of $tag the name that this prints:"
  show "${digest[@]}"
else
  tag=$("${digest[@]}")
fi
# Who loses another process exits with 1, who saved before a preemption with 75.
run xpk workload create "--workload=$JOB_NAME" "${place[@]}" "${machines[@]}" \
  "--docker-image=$tag" "--command=$command" \
  "--max-restarts=$JOB_MAX_RESTARTS" --restart-on-exit-codes=1,75 \
  --termination-grace-period-seconds=120 "${JOB_ARGS[@]}"

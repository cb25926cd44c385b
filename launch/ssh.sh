#!/usr/bin/env bash
# A job on hosts that ssh reaches without a question: launch/ssh.sh JOB.toml
# Options: --dry-run says the commands; --delete stops the job on every host, its folder stays.
. "$(dirname "$0")/common.sh"
read_job ssh "$@"
need ssh "install OpenSSH"

ssh=(ssh -o BatchMode=yes "${JOB_ARGS[@]}")
if [ -n "$DELETE" ]; then
  for host in "${JOB_ADDRESSES[@]}"; do run "${ssh[@]}" "$host" "bash $JOB_NAME/host.sh stop"; done
  exit
fi

# The folder of the job goes through a pipe, so that nothing but ssh is needed.
copy() {
  local pack=(tar "--directory=$STAGE" --create host.sh job.sh "${JOB_FILES[@]}")
  local unpack=("${ssh[@]}" "$1" "mkdir -p $JOB_NAME && tar --directory=$JOB_NAME --extract")
  if [ -n "$DRY_RUN" ]; then
    echo "$(show "${pack[@]}") | $(show "${unpack[@]}")"
  else
    "${pack[@]}" | "${unpack[@]}"
  fi
}

stage
for host in "${JOB_ADDRESSES[@]}"; do
  copy "$host"
  run "${ssh[@]}" "$host" "bash $JOB_NAME/host.sh setup"
done
first=${JOB_ADDRESSES[0]#*@}
for number in "${!JOB_ADDRESSES[@]}"; do
  flags=
  if [ "$JOB_HOSTS" -gt 1 ]; then
    flags=" --coordinator=${JOB_COORDINATOR:-$first:8476} --processes=$JOB_HOSTS --process=$number"
  fi
  run "${ssh[@]}" "${JOB_ADDRESSES[number]}" "bash $JOB_NAME/host.sh start$flags"
done

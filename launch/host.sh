#!/usr/bin/env bash
# On a host, in the folder of a job, which holds job.sh:
#   host.sh setup          installs what the job needs into .venv; again, it changes nothing
#   host.sh run [FLAG...]  the command of the job, with more flags
#   host.sh start [FLAG...] the same in the background, once: output goes to log.txt
#   host.sh stop           SIGTERM to what `start` began, and waits until it has saved and gone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
name='' install=() command=()
# shellcheck source=/dev/null
. ./job.sh

# What `start` began holds this lock as long as it lives.
running() { exec 9>lock && ! flock --nonblock 9; }

case ${1-} in
  setup)
    if [ "${#install[@]}" -eq 0 ]; then exit 0; fi
    PATH=$HOME/.local/bin:$PATH
    if ! command -v uv >/dev/null; then curl -LsSf https://astral.sh/uv/install.sh | sh; fi
    if ! [ -x .venv/bin/python ]; then uv venv --quiet --python 3.11 .venv; fi
    uv pip install --quiet --python .venv/bin/python "${install[@]}"
    ;;
  run)
    shift
    PATH=$PWD/.venv/bin:$PATH
    exec "${command[@]}" "$@"
    ;;
  start)
    shift
    if running; then
      echo "$name already runs on $HOSTNAME: see $PWD/log.txt"
      exit 0
    fi
    setsid nohup bash host.sh run "$@" >>log.txt 2>&1 </dev/null &
    echo $! >pid
    echo "$name runs on $HOSTNAME: see $PWD/log.txt"
    ;;
  stop)
    if ! running; then
      echo "$name does not run on $HOSTNAME"
      exit 0
    fi
    kill -TERM -- "-$(cat pid)"
    if ! flock --timeout 300 9; then
      echo "$name did not stop on $HOSTNAME within 300 s: kill $(cat pid)" >&2
      exit 1
    fi
    echo "$name stopped on $HOSTNAME"
    ;;
  *)
    echo "host.sh: error: setup, run, start or stop, not '${1-}'" >&2
    exit 2
    ;;
esac

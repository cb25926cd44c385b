# shellcheck shell=bash
# What the launchers share. A launcher is called as
#   LAUNCHER JOB.toml [--dry-run] [--delete]
# and reads its job by `read_job PLACE "$@"`, which sets JOB_NAME and what else job.py says,
# STAGE (the folder that goes to every host), DRY_RUN and DELETE.
set -euo pipefail

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAUNCHER=$(basename "$0")
USER=${USER:-$(id -un)}  # not set in every container

fail() {
  echo "$LAUNCHER: error: $*" >&2
  exit 2
}

read_job() {
  [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 404 ] || fail "bash 4.4 or newer is needed"
  local place=$1 argument assignments
  shift
  JOB='' DRY_RUN='' DELETE=''
  for argument in "$@"; do
    case $argument in
      --dry-run) DRY_RUN=1 ;;
      --delete) DELETE=1 ;;
      -*) fail "unknown flag $argument: there are --dry-run and --delete" ;;
      *)
        [ -z "$JOB" ] || fail "two jobs, $JOB and $argument: give one"
        JOB=$argument
        ;;
    esac
  done
  [ -n "$JOB" ] || fail "no job: $LAUNCHER JOB.toml [--dry-run] [--delete]"
  python3 -c 'import tomllib' 2>/dev/null || fail "python3 is older than 3.11, or is not on PATH"
  assignments=$(python3 "$LAUNCH/job.py" variables "$place" "$JOB") || exit 2
  eval "$assignments"
  STAGE=.launch/$JOB_NAME
  export DELETE
}

# Whether a program is there; a dry run needs none.
need() {
  [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || fail "$1 is not on PATH: $2"
}

# A command as one line that a shell reads back to the same words.
show() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

# Runs a command, or says it in a dry run.
run() {
  if [ -n "$DRY_RUN" ]; then show "$@"; else "$@"; fi
}

# Whether a command succeeds; a dry run says the command, and no.
holds() {
  if [ -n "$DRY_RUN" ]; then
    echo "# unless this succeeds:"
    show "$@"
    return 1
  fi
  "$@" >/dev/null 2>&1
}

# Makes the folder that goes to every host.
stage() {
  if [ -n "$DRY_RUN" ]; then
    echo "# to every host goes $STAGE: host.sh ${JOB_FILES[*]-} and job.sh, which holds"
    python3 "$LAUNCH/job.py" show "$JOB" | sed 's/^/#   /'
  else
    python3 "$LAUNCH/job.py" stage "$STAGE" "$JOB" || exit 2
  fi
}

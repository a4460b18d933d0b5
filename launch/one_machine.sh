#!/usr/bin/env bash
# Trains on one machine with all its GPUs, TPU chips or CPU cores, and starts again when preempted.
#
#   launch/one_machine.sh --config configs/stage2.py --config.init_from=runs/stage1
#
# Everything after the script's name goes to `python -m iso3d_jax.train`.
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
WORKDIR=${WORKDIR:-runs/train}       # where the run lives; the same one resumes
PYTHON=${PYTHON:-.venv/bin/python}   # made by `make test` or from the lock, see README.md
RETRY_SECONDS=${RETRY_SECONDS:-10}
# --------------------------------------------------------------------------------------------------

child=
stopped=
stop() {
  stopped=$1
  [ -z "$child" ] || kill "-$stopped" "$child"
}
trap 'stop TERM' TERM
trap 'stop INT' INT

while true; do
  "$PYTHON" -m iso3d_jax.train --workdir "$WORKDIR" "$@" &
  child=$!
  [ -z "$stopped" ] || kill "-$stopped" "$child" # the signal came just before
  # `wait` returns early when this script gets a signal; the child is then still saving.
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=
  # 143: preempted and saved; 75: another process is gone. Both go on from the last checkpoint,
  # unless it was this script that was told to stop: then whoever did so starts it again.
  if [ -n "$stopped" ] || { [ "$status" != 143 ] && [ "$status" != 75 ]; }; then
    exit "$status"
  fi
  echo "stopped with status $status; again in $RETRY_SECONDS s" >&2
  sleep "$RETRY_SECONDS"
done

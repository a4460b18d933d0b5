#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: queues it, installs the checkout on every host, trains.
#
#   launch/tpu.sh create                 # a queued resource; waits until it is there
#   launch/tpu.sh install                # copies this checkout, installs from the lock
#   launch/tpu.sh train --config configs/stage2.py --config.init_from=/mnt/runs/stage1
#   launch/tpu.sh delete
#
# `train` starts again when the slice was preempted: it deletes it, queues a new one and resumes.
# What follows `train` goes to `python -m iso3d_jax.train`.
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
NAME=${NAME:-iso3d}
PROJECT=${PROJECT:?set PROJECT to your Google Cloud project}
ZONE=${ZONE:-us-east5-a}
TYPE=${TYPE:-v5p-128}                # in cores for v5p (64 chips), in chips for v5e and v6e
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}   # v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for v6e
SPOT=${SPOT:---spot}                 # empty for on-demand
BUCKET=${BUCKET:?set BUCKET to a bucket for runs and data}
# --------------------------------------------------------------------------------------------------

WORKDIR=/mnt/runs/${RUN:-train}      # the bucket, mounted on every host
spot=()
[ -z "$SPOT" ] || spot=("$SPOT")
where=(--project "$PROJECT" --zone "$ZONE")

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"
}

create() {
  gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id "$NAME" \
    --accelerator-type "$TYPE" --runtime-version "$RUNTIME" "${spot[@]}"
  until [ "$(state)" = ACTIVE ]; do
    echo "queued: $(state)"
    case $(state) in FAILED | SUSPENDED) exit 1 ;; esac
    sleep 30
  done
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)'
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz -o "$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$NAME:iso3d.tar.gz" "${where[@]}" --worker=all
  rm "$archive"
  on_all_hosts "
    set -e
    mkdir -p iso3d && tar -xzf iso3d.tar.gz -C iso3d && cd iso3d
    python3 -m venv .venv
    .venv/bin/python -m pip install -q -e '.[train,tpu]' -c constraints.txt
    sudo mkdir -p /mnt/runs && sudo chown \"\$USER\" /mnt/runs
    mountpoint -q /mnt/runs || gcsfuse --implicit-dirs '$BUCKET' /mnt/runs"
}

train() {
  local arguments status
  printf -v arguments ' %q' "$@"
  while true; do
    status=0
    on_all_hosts "cd iso3d && .venv/bin/python -m iso3d_jax.train --distributed \
      --workdir $WORKDIR$arguments" || status=$?
    [ "$status" != 0 ] || break
    if [ "$(state)" != ACTIVE ]; then # preempted: the hosts are gone
      delete
      create
      install
    else
      case $status in 143 | 75 | 134) ;; *) exit "$status" ;; esac
    fi
  done
}

case ${1:-} in
  create | install | delete) "$1" ;;
  train)
    shift
    train "$@"
    ;;
  *)
    echo "usage: launch/tpu.sh create | install | train FLAGS | delete" >&2
    exit 2
    ;;
esac

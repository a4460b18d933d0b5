#!/usr/bin/env bash
# A model of 128x128 pixels and 69 million weights, trained and scored in ten minutes of one GPU.
#
#   launch/quarter_hour.sh data/quarter_hour.zip out/quarter_hour
#
# The first argument is the file that `python -m iso3d_jax.tiny.quarter_hour.pack` makes on any
# machine, the second a folder, which gets at most eight files of 16 MB: the model in parts, its
# scores, what was chosen, and the numbers of all steps. The same command goes on with a run that was
# killed or that stopped with status 143.
#
# PYTHON must be able to import jax with a plugin for the device, jaxlib, flax, optax, orbax,
# numpy, scipy, scikit-image, ml_collections, absl, jaxtyping, Pillow, etils, filelock and
# tensorboardX (setup.py has the versions). What the interpreter lacks may lie in folders named in
# EXTRA_PATHS.
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
PYTHON=${PYTHON:-.venv/bin/python}
EXTRA_PATHS=${EXTRA_PATHS:-}                 # folders of Python packages, with colons between
TRAIN_SECONDS=${TRAIN_SECONDS:-570}          # of all parts together, the scores among them
WORKDIR=${WORKDIR:-runs/quarter_hour}        # of checkpoints, some gigabytes, and the log
MEMORY_SHARE=${MEMORY_SHARE:-0.9}            # of the device's memory for jax
# --------------------------------------------------------------------------------------------------

if [ $# != 2 ]; then
  echo "usage: launch/quarter_hour.sh DATA.zip FOLDER" >&2
  exit 2
fi
mkdir -p "$2"
data=$(realpath "$1")
out=$(realpath "$2")
cd "$(dirname "$0")/.."
mkdir -p "$WORKDIR"
export PYTHONPATH=".${EXTRA_PATHS:+:$EXTRA_PATHS}${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_MEM_FRACTION=$MEMORY_SHARE PYTHONUNBUFFERED=1

exec "$PYTHON" -m iso3d_jax.tiny.quarter_hour --data "$data" --out "$out" --workdir "$WORKDIR" \
  --seconds "$TRAIN_SECONDS" > >(tee -a "$WORKDIR/log.txt") 2>&1

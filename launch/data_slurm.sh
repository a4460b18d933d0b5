#!/usr/bin/env bash
# Renders or encodes a data set in shards as an array of SLURM jobs; joins what was rendered.
#
#   job=$(sbatch --parsable --array=0-99 launch/data_slurm.sh render --assets MESHES --out DIR \
#       --resolution 256)
#   job=$(sbatch --parsable --dependency=afterok:"$job" launch/data_slurm.sh join --data DIR)
#   sbatch --dependency=afterok:"$job" --array=0-7 --gpus-per-node=4 launch/data_slurm.sh encode \
#       --data DIR --vae BASE --clip TOWER --out ENCODED
#
# Everything after the command goes to it. DIR and ENCODED are on storage that all nodes see; DIR may
# be in a bucket. What was preempted or failed goes on where it stopped: submit the same again. With
# SHARDS=1000 and an array of 100 each job renders ten shards. `encode` uses all devices of its node,
# cuts the set itself, and whoever ends last says that all of it is there: no join is needed.
#
# --- set these ------------------------------------------------------------------------------------
#SBATCH --job-name=iso3d-data
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
PYTHON=${PYTHON:-.venv/bin/python}
JOBS=${SLURM_ARRAY_TASK_COUNT:-1}
SHARDS=${SHARDS:-$JOBS}
# --------------------------------------------------------------------------------------------------
set -euo pipefail

command=${1:-}
shift || true
case $command in
  join) exec "$PYTHON" -m iso3d_jax.data.join "$@" ;;
  render) own=(--workers "${SLURM_CPUS_PER_TASK:-0}") ;;
  encode) own=() ;;
  *)
    echo "usage: sbatch --array=0-99 launch/data_slurm.sh render | encode FLAGS, or join FLAGS" >&2
    exit 2
    ;;
esac
first=${SLURM_ARRAY_TASK_ID:?submit this with sbatch --array=0-99}
if [ "${SLURM_ARRAY_TASK_MAX:-$((JOBS - 1))}" != $((JOBS - 1)) ]; then
  echo "the array has to be all numbers from 0 on, as in --array=0-99: give the whole one again," \
    "shards that are there are passed over" >&2
  exit 2
fi
for ((shard = first; shard < SHARDS; shard += JOBS)); do
  "$PYTHON" -m "iso3d_jax.data.$command" --shard "$shard/$SHARDS" "${own[@]}" "$@"
done

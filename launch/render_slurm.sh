#!/usr/bin/env bash
# Renders a data set in shards as an array of SLURM jobs, and joins it when all have ended well.
#
#   job=$(sbatch --parsable --array=0-99 launch/render_slurm.sh --assets MESHES --out DIR \
#       --resolution 256)
#   sbatch --dependency=afterok:"$job" launch/render_slurm.sh join DIR
#
# Everything after the script's name goes to `python -m iso3d_jax.data.render`. DIR is on storage
# that all nodes see, or in a bucket. What was preempted or failed goes on where it stopped:
# submit the same again. With SHARDS=1000 and an array of 100 each job makes ten shards.
#
# --- set these ------------------------------------------------------------------------------------
#SBATCH --job-name=iso3d-render
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
PYTHON=${PYTHON:-.venv/bin/python}
SHARDS=${SHARDS:-${SLURM_ARRAY_TASK_COUNT:-1}}
# --------------------------------------------------------------------------------------------------
set -euo pipefail

if [ "${1:-}" = join ]; then
  exec "$PYTHON" -m iso3d_jax.data.join --data "$2"
fi
for ((shard = ${SLURM_ARRAY_TASK_ID:?submit this with sbatch --array=0-99}; shard < SHARDS; \
shard += ${SLURM_ARRAY_TASK_COUNT:-1})); do
  "$PYTHON" -m iso3d_jax.data.render --shard "$shard/$SHARDS" \
    --workers "${SLURM_CPUS_PER_TASK:-0}" "$@"
done

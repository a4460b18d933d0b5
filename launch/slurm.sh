#!/usr/bin/env bash
# Trains on GPUs under SLURM, one process a GPU; put back into the queue when preempted.
#
#   sbatch launch/slurm.sh --config configs/stage2.py --config.init_from=runs/stage1 \
#       --config.mesh.fsdp=8
#
# Everything after the script's name goes to `python -m iso3d_jax.train`. jax finds the processes
# from SLURM's environment. Run it from the repository's folder, on storage that all nodes see.
#
# --- set these ------------------------------------------------------------------------------------
#SBATCH --job-name=iso3d
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
#SBATCH --output=runs/slurm-%j.log
WORKDIR=${WORKDIR:-runs/train}
PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-100}
# --------------------------------------------------------------------------------------------------
set -euo pipefail

# --signal without "B:" sends SIGTERM to the processes, 180 s before the time is over; all save the
# same step and exit with 143. --kill-on-bad-exit ends the rest where one process died.
status=0
srun --kill-on-bad-exit=1 "$PYTHON" -m iso3d_jax.train --distributed --workdir "$WORKDIR" "$@" ||
  status=$?

case $status in
  143 | 75 | 134) # preempted, or a process was lost: go on later
    [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ] || exit "$status"
    scontrol requeue "$SLURM_JOB_ID"
    ;;
  *) exit "$status" ;;
esac

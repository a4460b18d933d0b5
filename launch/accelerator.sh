#!/usr/bin/env bash
# A quarter of an hour on one GPU (or TPU): does it run, what does it reach, do its tests pass.
#
#   launch/accelerator.sh results/here
#
# Everything goes into the folder given as the first argument: a log of each step and
# accelerator.json, which is whole after every figure. The steps come in the order of their worth
# and none keeps the next from running; the script's status is 0 where all were well.
#
# PYTHON must be able to import jax with a plugin for the device, jaxlib, flax, optax, numpy,
# ml_collections, absl, jaxtyping, Pillow, safetensors, trimesh and etils (setup.py has the
# versions); for the GPU's tests also pytest. With torch and diffusers, which nothing else here
# needs, the UNet is compared with theirs. What the interpreter lacks may lie in folders named in
# EXTRA_PATHS.
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
PYTHON=${PYTHON:-.venv/bin/python}
EXTRA_PATHS=${EXTRA_PATHS:-}            # folders of Python packages, with colons between
TOTAL_SECONDS=${TOTAL_SECONDS:-870}     # of the whole script
MEASURE_SECONDS=${MEASURE_SECONDS:-540} # of the measurements
MEMORY_SHARE=${MEMORY_SHARE:-0.85}      # of the device's memory for jax; torch needs some beside it
TESTS=${TESTS:-tests/models tests/nerf tests/diffusion tests/guidance}
# --------------------------------------------------------------------------------------------------

if [ $# != 1 ]; then
  echo "usage: launch/accelerator.sh FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH=".${EXTRA_PATHS:+:$EXTRA_PATHS}${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_MEM_FRACTION=$MEMORY_SHARE
worst=0

left() {
  echo $((TOTAL_SECONDS - SECONDS))
}

# step NAME SECONDS COMMAND...: runs it for at most so long and at most until the end; its output
# goes to NAME.log, its end to the screen.
step() {
  local name=$1 limit=$2 status=0
  shift 2
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    echo "$name: left out, no time"
    return
  fi
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  tail -n 3 "$out/$name.log"
  echo "$name: status $status, $(left) s left"
  [ "$status" = 0 ] || worst=1
  return "$status"
}

# Seconds' worth: does anything run here at all? If not, nothing below would.
step smoke 150 "$PYTHON" -c '
import jax, iso3d_jax
from iso3d_jax.weights.bundle import load_model
print(jax.__version__, jax.devices(), load_model().config.name)
assert jax.default_backend() != "cpu", "jax sees no accelerator"
' || exit 1
step tiny 120 "$PYTHON" benchmarks/accelerator.py --tiny --seconds 60 --out "$out/tiny.json" || true

# A part that takes the process with it is noted as dead, and the next call goes on behind it.
for _ in 1 2 3; do
  seconds=$((MEASURE_SECONDS < $(left) - 20 ? MEASURE_SECONDS : $(left) - 20))
  began=$SECONDS
  step accelerator "$((seconds + 15))" \
    "$PYTHON" benchmarks/accelerator.py --resume --out "$out/accelerator.json" \
    --seconds "$seconds" && break
  MEASURE_SECONDS=$((MEASURE_SECONDS - SECONDS + began))
  [ "$MEASURE_SECONDS" -ge 30 ] || break
done
step table 60 "$PYTHON" benchmarks/accelerator.py --show "$out/accelerator.json" || true

# The tests of what has kernels of its own on the device, or other arithmetic than a CPU. They
# compare in float32, which a GPU rounds further unless it is told not to.
if [ "$(left)" -ge 30 ]; then
  # shellcheck disable=SC2086 # several folders
  JAX_DEFAULT_MATMUL_PRECISION=highest \
    step tests "$(left)" "$PYTHON" -m pytest -q -p no:cacheprovider -m "not slow" $TESTS || true
fi
exit "$worst"

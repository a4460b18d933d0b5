#!/usr/bin/env bash
# Renders or encodes a data set in shards as an indexed job of Kubernetes, one shard a pod.
#
#   IMAGE=... launch/data_job.sh render --assets /mnt/meshes --out /mnt/data/objects --resolution 256 \
#       | kubectl apply -f -
#   kubectl wait --for=condition=complete --timeout=-1s job/iso3d-render
#   python -m iso3d_jax.data.join --data DIR                  # wherever DIR can be seen
#
#   IMAGE=... SHARDS=8 GPUS=4 launch/data_job.sh encode --data /mnt/data/objects --vae /mnt/base \
#       --clip /mnt/tower --out /mnt/data/encoded | kubectl apply -f -       # needs no join
#
# The image is built by launch/Dockerfile with EXTRA=render, and with EXTRA=cuda for `encode`. Meshes
# and sets are on a volume that all pods may write; --out of `render` may also be in a bucket, for
# which the image needs gcsfs or s3fs. A pod that is evicted starts again and goes on where it stopped.
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
NAME=${NAME:-iso3d-${1:-data}}
IMAGE=${IMAGE:?set IMAGE to the pushed container image}
SHARDS=${SHARDS:-100}
PARALLEL=${PARALLEL:-20}        # pods at once
CORES=${CORES:-16}              # of each
MEMORY=${MEMORY:-32Gi}
GPUS=${GPUS:-0}                 # of each, for `encode`
VOLUME_CLAIM=${VOLUME_CLAIM:-iso3d-data}
# --------------------------------------------------------------------------------------------------

command=${1:-}
shift || true
case $command in
  render) own=(--workers "$CORES") ;;
  encode) own=() ;;
  *)
    echo "usage: launch/data_job.sh render | encode FLAGS" >&2
    exit 2
    ;;
esac

flags=
# shellcheck disable=SC2016 # the pod puts its number in
for flag in --shard '$(JOB_COMPLETION_INDEX)'"/$SHARDS" "${own[@]}" "$@"; do
  flags+=$(printf '\n            - "%s"' "${flag//\"/\\\"}")
done
gpus=
[ "$GPUS" = 0 ] || gpus=", nvidia.com/gpu: $GPUS"

cat <<YAML
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
spec:
  completionMode: Indexed
  completions: $SHARDS
  parallelism: $PARALLEL
  backoffLimitPerIndex: 5
  maxFailedIndexes: $SHARDS # the other shards are made all the same
  podFailurePolicy:
    rules:
      - action: FailJob # mistakes in what was given are not repaired by a restart
        onExitCodes: { containerName: $command, operator: In, values: [2] }
      - action: Ignore # evicted or preempted: no failure
        onPodConditions: [{ type: DisruptionTarget }]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: $command
          image: $IMAGE
          command: [python, -m, iso3d_jax.data.$command]
          args:$flags
          resources:
            requests: { cpu: $CORES, memory: $MEMORY }
            limits: { memory: $MEMORY$gpus }
          volumeMounts: [{ name: data, mountPath: /mnt }]
      volumes:
        - name: data
          persistentVolumeClaim: { claimName: $VOLUME_CLAIM }
YAML

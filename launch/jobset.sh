#!/usr/bin/env bash
# Trains on a TPU slice in Kubernetes (GKE) as a JobSet, started again when preempted.
#
#   launch/jobset.sh --config configs/stage2.py --config.init_from=/mnt/runs/stage1 | kubectl apply -f -
#
# The same with XPK, which writes its own JobSet:
#
#   xpk workload create --cluster CLUSTER --workload iso3d --tpu-type v5p-128 --docker-image IMAGE \
#       --max-restarts 100 --restart-on-exit-codes 143,75 \
#       --command 'python -m iso3d_jax.train --distributed --workdir /mnt/runs/train FLAGS'
#
# The image is built by launch/Dockerfile; the cluster needs the JobSet controller, and a volume that
# all pods may write (a bucket through GCS FUSE, or NFS).
set -euo pipefail

# --- set these ------------------------------------------------------------------------------------
NAME=${NAME:-iso3d}
IMAGE=${IMAGE:?set IMAGE to the pushed container image}
ACCELERATOR=${ACCELERATOR:-tpu-v5p-slice}   # tpu-v5-lite-podslice, tpu-v6e-slice
TOPOLOGY=${TOPOLOGY:-4x4x4}
HOSTS=${HOSTS:-16}                          # 4 chips a host
CHIPS_PER_HOST=${CHIPS_PER_HOST:-4}
VOLUME_CLAIM=${VOLUME_CLAIM:-iso3d-runs}
WORKDIR=${WORKDIR:-/mnt/runs/train}
# --------------------------------------------------------------------------------------------------

flags=
for flag in --distributed --workdir "$WORKDIR" "$@"; do
  flags+=$(printf '\n                    - "%s"' "${flag//\"/\\\"}")
done

cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: 100 # every restart resumes from the last checkpoint
    rules:
      - action: FailJobSet # but not after exit status 2, see podFailurePolicy
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          backoffLimit: 0 # one pod gone: the JobSet starts all of them again
          podFailurePolicy:
            rules:
              - action: FailJob # mistakes in config or data are not repaired by a restart
                onExitCodes: { containerName: train, operator: In, values: [2] }
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 180 # SIGTERM saves first
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
              containers:
                - name: train
                  image: $IMAGE
                  args:$flags
                  resources:
                    limits: { google.com/tpu: $CHIPS_PER_HOST }
                  volumeMounts: [{ name: runs, mountPath: /mnt/runs }]
              volumes:
                - name: runs
                  persistentVolumeClaim: { claimName: $VOLUME_CLAIM }
YAML

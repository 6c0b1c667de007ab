#!/bin/bash
# A job on a Cloud TPU slice, one process a machine, each with all of its chips:
#
#   ZONE=us-east5-b tools/launch/tpu.sh my-tpu python train.py PRESET --workdir gs://BUCKET/RUN --distributed
#
# The slice is made before, with the package in ~/transformer on each of its machines:
#
#   gcloud compute tpus tpu-vm create my-tpu --zone=us-east5-b --accelerator-type=v5p-64 --version=v2-alpha-tpuv5
#   gcloud compute tpus tpu-vm ssh my-tpu --zone=us-east5-b --worker=all \
#       --command="git clone URL transformer && pip install -e 'transformer[tpu,gcs]' -c transformer/constraints.txt"
#
# It ends with the code of gcloud, which is not that of the processes: their last lines say why they left.
set -eu
(($# >= 2)) || { echo "usage: ZONE=... tools/launch/tpu.sh SLICE COMMAND" >&2 && exit 2; }
name=$1
shift
exec gcloud compute tpus tpu-vm ssh "$name" --zone="${ZONE:?is where the slice is}" --worker=all \
    --command="cd transformer && $(printf '%q ' "$@")"

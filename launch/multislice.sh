#!/usr/bin/env bash
# Queues for several TPU slices joined by the data-center network, trains on all of them, and gives them back.
#
#   launch/multislice.sh --name run1 --zone us-west4-a --topology v5e:16x16 --slices 4 \
#     --config configs/clip_l14_laion_pretrain.py --workdir gs://your-bucket/clip-l14 [--config.KEY=VALUE ...]
#
# The mesh axis `replica` is the number of slices; the other axes are those of one slice. The batch is that of all of
# them. --dry-run prints what it would do, --keep leaves the slices, --spot takes some that may be preempted.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse_cloud "$@"
[ "$SLICES" -gt 1 ] || fail "--slices must be 2 or more; queued.sh takes one"

request
trap 'kept || release' EXIT
await_active || fail "the request $NAME was refused; gcloud says why"
train_queued

#!/usr/bin/env bash
# Queues for a TPU slice, waits for it, installs this repository on its hosts, trains, and gives it back.
#
#   launch/queued.sh --name run1 --zone us-west4-a --topology v5e:16x16 \
#     --config configs/clip_l14_laion_pretrain.py --workdir gs://your-bucket/clip-l14 [--config.KEY=VALUE ...]
#
# --dry-run prints what it would do; --keep leaves the slice, which costs until it is deleted; --spot takes one that may
# be preempted (spot.sh also queues again).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse_cloud "$@"
[ "$SLICES" = 1 ] || fail "one slice at a time; multislice.sh takes --slices"

request
trap 'kept || release' EXIT
await_active || fail "the request $NAME was refused; gcloud says why"
train_queued

#!/usr/bin/env bash
# Creates a TPU slice at once, installs this repository on its hosts, trains, and deletes the slice.
#
#   launch/tpu_pod.sh --name run1 --zone us-west4-a --topology v5e:16x16 \
#     --config configs/clip_l14_laion_pretrain.py --workdir gs://your-bucket/clip-l14 [--config.KEY=VALUE ...]
#
# --dry-run prints what it would do; --keep leaves the slice, which costs until it is deleted; --spot takes one that may
# be preempted (spot.sh also starts it again). Run it again with the same workdir to go on.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse_cloud "$@"
[ "$SLICES" = 1 ] || fail "one slice at a time; multislice.sh takes --slices"

vm() { run gcloud compute tpus tpu-vm "$@" --zone "$ZONE"; }

options=(--accelerator-type "$ACCELERATOR" --version "$RUNTIME")
if [ "$SPOT" = 1 ]; then options+=(--spot); fi
vm create "$NAME" "${options[@]}"
trap 'kept || vm delete "$NAME" --quiet' EXIT
pack
vm scp "$ARCHIVE" "$NAME:jvlm.tar.gz" --worker=all
vm ssh "$NAME" --worker=all --command="$(install_command)"
vm ssh "$NAME" --worker=all --command="$(train_command)"

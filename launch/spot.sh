#!/usr/bin/env bash
# Trains on spot slices: queues again after every preemption until status.json says finished or failed.
#
#   launch/spot.sh --name run1 --zone us-west4-a --topology v5e:16x16 [--slices N] \
#     --config configs/clip_l14_laion_pretrain.py --workdir gs://your-bucket/clip-l14 [--config.KEY=VALUE ...]
#
# --dry-run prints what it would do. RESTARTS (default 1000) bounds the requests, PAUSE (60) is the seconds in between.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse_cloud "$@"
SPOT=1

if [ "$DRY_RUN" = 0 ] && [ "$(status_field "$WORKDIR" status)" = finished ]; then
  printf '# %s is finished\n' "$WORKDIR"
  exit 0
fi

attempt() {
  request && await_active && train_queued
}

for number in $(seq 1 "${RESTARTS:-1000}"); do
  attempt || true
  release || true
  if [ "$DRY_RUN" = 1 ]; then
    printf '# again until %s/status.json says finished or failed\n' "$WORKDIR"
    exit 0
  fi
  if ended "$WORKDIR"; then
    printf '# %s: %s\n' "$(status_field "$WORKDIR" status)" "$(status_field "$WORKDIR" reason)"
    if [ "$(status_field "$WORKDIR" status)" = finished ]; then exit 0; else exit 1; fi
  fi
  printf '# request %s ended before the run: again\n' "$number"
  sleep "${PAUSE:-60}"
done
fail "gave up after ${RESTARTS:-1000} requests"

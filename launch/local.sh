#!/usr/bin/env bash
# Trains on this machine, and goes on after a crash or a preemption until status.json says finished or failed.
#
#   launch/local.sh --config configs/clip_tiny_emoji_pretrain.py --workdir runs/demo [--config.KEY=VALUE ...]
#
# --dry-run prints what it would do. RESTARTS (default 100) bounds the restarts, PAUSE (10) is the seconds in between.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

WORKDIR="" ARGUMENTS=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      usage
      exit 0
      ;;
    --workdir)
      [ $# -ge 2 ] || fail "--workdir needs a value"
      WORKDIR=$2
      ARGUMENTS+=("$1" "$2")
      shift
      ;;
    *) ARGUMENTS+=("$1") ;;
  esac
  shift
done
[ -n "$WORKDIR" ] || fail "--workdir is missing; --help shows the options"

for attempt in $(seq 0 "${RESTARTS:-100}"); do
  status=0
  run jvlm train "${ARGUMENTS[@]}" || status=$?
  if [ "$DRY_RUN" = 1 ]; then
    printf '# again until %s/status.json says finished or failed\n' "$WORKDIR"
    exit 0
  fi
  if [ "$status" = 2 ]; then exit 2; fi # the command or the configuration is wrong
  if ended "$WORKDIR"; then exit "$status"; fi
  printf '# attempt %s ended with status %s: again\n' "$attempt" "$status"
  sleep "${PAUSE:-10}"
done
fail "gave up after ${RESTARTS:-100} restarts"

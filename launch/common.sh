# shellcheck shell=bash
# What the scripts of this folder share. Sourced, not run.

DRY_RUN=0

# Prints a command, and runs it unless --dry-run was given.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if [ "$DRY_RUN" = 0 ]; then "$@"; fi
}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit 2
}

# The comment at the top of the script is its help.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# Value of a field of the run's status.json, nothing without one. $1: workdir, local or gs://. $2: field.
status_field() {
  local text
  case "$1" in
    gs://*) text=$(gcloud storage cat "$1/status.json" 2>/dev/null || true) ;;
    *) text=$(cat "$1/status.json" 2>/dev/null || true) ;;
  esac
  printf '%s\n' "$text" | sed -n "s/.*\"$2\": *\"\\([^\"]*\\)\".*/\\1/p"
}

# Whether the run has ended for good.
ended() {
  case "$(status_field "$1" status)" in
    finished | failed) return 0 ;;
    *) return 1 ;;
  esac
}

# Options of the scripts for the cloud; what is left goes to `jvlm train`.
parse_cloud() {
  NAME="" ZONE="" TOPOLOGY="" CONFIG="" WORKDIR="" SLICES=1 SPOT=0 KEEP=0 TRAIN=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --dry-run) DRY_RUN=1 ;;
      --spot) SPOT=1 ;;
      --keep) KEEP=1 ;;
      -h | --help)
        usage
        exit 0
        ;;
      --config.*) TRAIN+=("$1") ;;
      --name | --zone | --topology | --config | --workdir | --slices)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case "$1" in
          --name) NAME=$2 ;;
          --zone) ZONE=$2 ;;
          --topology) TOPOLOGY=$2 ;;
          --config) CONFIG=$2 ;;
          --workdir) WORKDIR=$2 ;;
          --slices) SLICES=$2 ;;
        esac
        shift
        ;;
      *) fail "unknown argument $1; --help shows the options" ;;
    esac
    shift
  done
  local option value
  for option in NAME ZONE TOPOLOGY CONFIG WORKDIR; do
    value=${!option}
    [ -n "$value" ] || fail "--$(printf '%s' "$option" | tr '[:upper:]' '[:lower:]') is missing; --help shows the options"
  done
  case "$WORKDIR" in gs://*) ;; *) fail "--workdir must be on gs://, where every host and the next slice find it" ;; esac
  case "$SLICES" in '' | *[!0-9]* | 0) fail "--slices must be a number, 1 or more" ;; esac
  accelerator
}

# Names that Cloud TPU gives a topology such as v5e:16x16: ACCELERATOR and RUNTIME.
accelerator() {
  local kind=${TOPOLOGY%%:*} shape=${TOPOLOGY#*:} chips=1 side
  printf '%s' "$shape" | grep -Eqx '[0-9]+(x[0-9]+)+' || fail "--topology $TOPOLOGY does not read like v5e:16x16"
  for side in ${shape//x/ }; do chips=$((chips * side)); done
  case "$kind" in
    v4) ACCELERATOR=v4-$((2 * chips)) RUNTIME=tpu-ubuntu2204-base ;;
    v5e) ACCELERATOR=v5litepod-$chips RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p) ACCELERATOR=v5p-$((2 * chips)) RUNTIME=v2-alpha-tpuv5 ;;
    v6e) ACCELERATOR=v6e-$chips RUNTIME=v2-alpha-tpuv6e ;;
    *) fail "--topology $TOPOLOGY: Cloud TPU offers v4, v5e, v5p and v6e as VMs" ;;
  esac
}

# Packs the committed state of this repository.
pack() {
  ARCHIVE=${TMPDIR:-/tmp}/jvlm-$NAME.tar.gz
  run git -C "$(dirname "$0")/.." archive --format=tar.gz --prefix=jvlm/ -o "$ARCHIVE" HEAD
}

# What every host does before the first step; its Python must be 3.11 or newer.
install_command() {
  printf '%s' "tar -xzf jvlm.tar.gz && cd jvlm && python3.11 -m venv .venv" \
    " && .venv/bin/pip install -q -c constraints.txt '.[tpu,gcs]'"
}

# What every host runs: the same command; the hosts find each other through the TPU's metadata.
train_command() {
  printf 'cd jvlm && JVLM_DISTRIBUTED=auto .venv/bin/jvlm train'
  printf ' %q' --config "$CONFIG" --workdir "$WORKDIR" ${TRAIN[@]+"${TRAIN[@]}"}
}

queued() { run gcloud alpha compute tpus queued-resources "$@" --zone "$ZONE"; }

# Asks for the slices; Cloud TPU gives them when it has them.
request() {
  local options=(--accelerator-type "$ACCELERATOR" --runtime-version "$RUNTIME")
  if [ "$SLICES" -gt 1 ]; then
    options+=(--node-count "$SLICES" --node-prefix "$NAME")
  else
    options+=(--node-id "$NAME")
  fi
  if [ "$SPOT" = 1 ]; then options+=(--spot); fi
  queued create "$NAME" "${options[@]}"
}

# State of the request: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, FAILED, ... or nothing.
queue_state() {
  gcloud alpha compute tpus queued-resources describe "$NAME" --zone "$ZONE" --format='value(state.state)' 2>/dev/null ||
    true
}

# Waits until the slices are there.
await_active() {
  printf '# wait until %s is ACTIVE\n' "$NAME"
  if [ "$DRY_RUN" = 1 ]; then return; fi
  local state
  while true; do
    state=$(queue_state)
    case "$state" in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) return 1 ;;
      *) sleep 30 ;;
    esac
  done
}

release() { queued delete "$NAME" --force --quiet; }

# Whether --keep was given.
kept() { [ "$KEEP" = 1 ]; }

# Installs and trains on every host of every slice of the request.
train_queued() {
  pack &&
    queued scp "$ARCHIVE" "$NAME:jvlm.tar.gz" --worker=all --node=all &&
    queued ssh "$NAME" --worker=all --node=all --command="$(install_command)" &&
    queued ssh "$NAME" --worker=all --node=all --command="$(train_command)"
}

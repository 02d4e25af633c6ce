#!/usr/bin/env bash
# From a bare machine with Python 3.11 to questions answered, boxes drawn and a fine-tune, with the small model of a family:
#   bash scripts/quickstart.sh [FAMILY]
# scripts/quickstart/FAMILY.sh has the steps; without a name it is qwenvl. Each step is done once: what it made stands in
# build/quickstart, and a later run only shows it again. Remove that folder to start over.
set -euo pipefail
STEPS=$(dirname "$0")/quickstart/${1:-qwenvl}.sh
if (($# > 1)) || [[ ! -f $STEPS ]]; then
    known=$(basename -a -s .sh "$(dirname "$0")"/quickstart/*.sh | paste -sd ' ')
    echo "error: usage: bash scripts/quickstart.sh [FAMILY], one of: $known" >&2
    exit 2
fi
STEPS=$(realpath "$STEPS")
source "$(dirname "$0")/env.sh"
export GLOG_v=3 PYTHONUNBUFFERED=1
export MS_NODE_TIMEOUT=${MS_NODE_TIMEOUT:-300} # seconds that a worker waits for one that compiles; by default 30

OUT=build/quickstart${1:+/$1}
mkdir -p "$OUT"

# step NAME TITLE COMMAND…: run the command once, and keep what it printed.
step() {
    local name=$1 title=$2
    shift 2
    echo
    echo "== $title"
    if [[ -f $OUT/$name.done ]]; then
        cat "$OUT/$name.done"
        return
    fi
    echo "\$ $*" >"$OUT/$name.log"
    if ! "$@" 2>&1 | tee -a "$OUT/$name.log"; then
        echo "error: this step failed; all it printed is in $OUT/$name.log" >&2
        exit 1
    fi
    mv "$OUT/$name.log" "$OUT/$name.done"
}

# quietly LOG COMMAND…: all that the command prints goes to the file; where it fails, the end of it is shown.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 || { tail -n 40 "$log"; return 1; }
}

# on_two_workers DIRECTORY ARGUMENTS: run_mindformer.py under msrun; the workers' logs go to DIRECTORY/msrun_log.
on_two_workers() {
    local port
    port=$(python -c 'import socket; probe = socket.socket(); probe.bind(("127.0.0.1", 0)); print(probe.getsockname()[1])')
    bash scripts/msrun_launcher.sh "run_mindformer.py $2 --use_parallel True" 2 "$port" "$1/msrun_log" True 300
}

# export_trained FAMILY: the last checkpoint of $OUT/finetune, in Hugging Face's layout.
export_trained() {
    local last
    last=$(find "$OUT/finetune/checkpoint" -maxdepth 1 -name 'step_*' | sort | tail -n 1)
    python convert/convert_weight.py --model "$1" --input_path "$last" --output_path "$OUT/hf" --reverse
}

# shellcheck disable=SC1090
source "$STEPS"

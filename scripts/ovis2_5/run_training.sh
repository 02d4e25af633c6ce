#!/usr/bin/env bash
# Fine-tune Ovis2.5 as the original's JSON configuration says, in one process or, with NPROC, in workers of msrun:
#   [NPROC=2] ./scripts/ovis2_5/run_training.sh config/train_config.json [ARGUMENT of run_mindformer.py …]
# The configuration is looked for where the command runs, then beside this script.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=${1:-}
[[ -z $CONFIG || -e $CONFIG || ! -e $HERE/$CONFIG ]] || CONFIG=$HERE/$CONFIG
ROOT=$(cd "$HERE/../.." && pwd)
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec python -m ms_impl.ovis2_5.train_config ${CONFIG:+"$CONFIG"} "${@:2}"

#!/usr/bin/env bash
# Lint, types and the test suite, on two cores. `bash scripts/test.sh --slow` also runs what takes longer; other arguments
# go to pytest: `-n 0` is one process.
set -euo pipefail
source "$(dirname "$0")/env.sh"
export GLOG_v=3 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1  # a worker of pytest has a core
ruff check .
ruff format --check .
mypy
python -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"

#!/usr/bin/env bash
# Lint, types and the test suite. `bash scripts/test.sh --slow` also runs what takes longer; other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/env.sh"
export GLOG_v=3 PYTHONUNBUFFERED=1
ruff check .
ruff format --check .
mypy
python -m pytest "$@"

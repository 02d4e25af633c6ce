#!/usr/bin/env bash
# Every benchmark, one after the other, and the whole table: bash benchmarks/run_all.sh [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec python benchmarks/run_all.py "$@"

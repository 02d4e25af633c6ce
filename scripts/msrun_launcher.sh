#!/usr/bin/env bash
# Start a command on several workers with msrun, wait for them, and say where their logs are.
#
# On one machine, or on each of many:
#   bash scripts/msrun_launcher.sh "run_mindformer.py --config …" [WORKER_NUM]
#   bash scripts/msrun_launcher.sh "…" WORKER_NUM MASTER_PORT LOG_DIR JOIN CLUSTER_TIME_OUT
#   bash scripts/msrun_launcher.sh "…" WORKER_NUM LOCAL_WORKER MASTER_ADDR MASTER_PORT NODE_RANK LOG_DIR JOIN \
#                                      CLUSTER_TIME_OUT
#
# WORKER_NUM counts the workers of all machines (8 if left out), LOCAL_WORKER those of this one. CLUSTER_TIME_OUT is the
# number of seconds to wait for all of them to come. With JOIN False the launcher returns as soon as they are started,
# and they are left to themselves.
#
# With JOIN True they end with the launcher, even if that is killed. The exit status is 0 if all workers ended with 0,
# else that of the first that failed (2: the user's mistake; 128 + N: killed by signal N). On SIGTERM, SIGHUP or Ctrl-C
# the workers have STOP_TIME_OUT seconds (30) to write a checkpoint and leave, before they are killed; a second signal
# kills them at once. MSRUN=echo shows what would be run.
set -uo pipefail

WORKER_NUM=8 LOCAL_WORKER='' MASTER_ADDR=127.0.0.1 MASTER_PORT=8118 NODE_RANK=0
LOG_DIR=output/msrun_log JOIN=True CLUSTER_TIME_OUT=600

fail() {
    echo "error: $1" >&2
    exit 2
}

usage() {
    sed -n '2,18s/^# \{0,1\}//p' "$0"
}

case ${1-} in
    -h | --help) usage; exit 0 ;;
esac
case $# in
    1) ;;
    2) WORKER_NUM=$2 ;;
    6) WORKER_NUM=$2 MASTER_PORT=$3 LOG_DIR=$4 JOIN=$5 CLUSTER_TIME_OUT=$6 ;;
    9)
        WORKER_NUM=$2 LOCAL_WORKER=$3 MASTER_ADDR=$4 MASTER_PORT=$5 NODE_RANK=$6
        LOG_DIR=$7 JOIN=$8 CLUSTER_TIME_OUT=$9
        ;;
    *) usage >&2; fail "$# arguments were given; it takes 1, 2, 6 or 9" ;;
esac
LOCAL_WORKER=${LOCAL_WORKER:-$WORKER_NUM}

for name in WORKER_NUM LOCAL_WORKER MASTER_PORT NODE_RANK CLUSTER_TIME_OUT; do
    [[ ${!name} =~ ^[0-9]+$ ]] || fail "$name is '${!name}', not a number"
done
((WORKER_NUM > 0 && LOCAL_WORKER > 0 && LOCAL_WORKER <= WORKER_NUM)) ||
    fail "LOCAL_WORKER is $LOCAL_WORKER of WORKER_NUM $WORKER_NUM workers"
[[ $JOIN == True || $JOIN == False ]] || fail "JOIN is '$JOIN', not True or False"

# Split the command as a shell would, quotes included, but expand nothing.
mapfile -d '' -t TASK < <(xargs printf '%s\0' <<<"$1")
wait $! && [[ -n ${TASK[0]-} ]] || fail "the command to start is empty or has an open quote: $1"

read -ra MSRUN <<<"${MSRUN:-msrun}"
command -v "${MSRUN[0]}" >/dev/null || fail "${MSRUN[0]} is not on PATH; activate the environment that has MindSpore"
if ((NODE_RANK == 0)) && (exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; then
    fail "port $MASTER_PORT of $MASTER_ADDR is taken; give another MASTER_PORT"
fi

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CORES=$(($(nproc) / LOCAL_WORKER))
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES > 0 ? CORES : 1))}
# A rank may be this many seconds behind the others, at a checkpoint or while it compiles, before they give it up.
export MS_NODE_TIMEOUT=${MS_NODE_TIMEOUT:-300}

# What a worker prints is in its log at once, even if it is killed.
export PYTHONUNBUFFERED=1

# The project's own commands are found from any directory.
[[ -e ${TASK[0]} || ! -e $ROOT/${TASK[0]} ]] || TASK[0]=$ROOT/${TASK[0]}
# As msrun does, which is not told of the wrapper's argument.
[[ ${TASK[0]} == python || ${TASK[0]} == python3 || ${TASK[0]} == pytest ]] || TASK=(python "${TASK[@]}")
COMMAND=("${MSRUN[@]}" --worker_num="$WORKER_NUM" --local_worker_num="$LOCAL_WORKER"
    --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" --node_rank="$NODE_RANK"
    --log_dir="$LOG_DIR" --join=False --cluster_time_out="$CLUSTER_TIME_OUT")

echo "Logs: $LOG_DIR/worker_*.log and $LOG_DIR/scheduler.log"
[[ $JOIN == True ]] || exec "${COMMAND[@]}" "${TASK[@]}"
# The process that waits takes this one's place, so that signals come to it; the workers are bound to its id.
exec python -m ms_impl.launch.workers "$LOG_DIR" "$((NODE_RANK * LOCAL_WORKER))" \
    "${COMMAND[@]}" python -m ms_impl.launch.die_with_parent $$ "${TASK[@]}"

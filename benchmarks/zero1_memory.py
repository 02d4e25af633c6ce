"""What dividing the optimizer's state among ranks (ZeRO-1) saves: state and peak memory of each process.

    python benchmarks/zero1_memory.py [--ranks 2] [--layers 12]

Trains a stack of layers of 2048 × 2048 (12: 50 million parameters) for a few steps under msrun, with whole state and
with divided state, and prints a table; its losses must agree bit for bit. Anchor: the run with whole state.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH, ROWS, STEPS, MIB = 2048, 16, 4, 2**20


def main() -> None:
    """Run both ways and print the table; as a worker of msrun, run one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--as_rank", nargs=2, metavar=("FOLDER", "STATE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        return work(Path(arguments.as_rank[0]), arguments.as_rank[1] == "divided", arguments.layers)
    found = {state: launch(state, arguments) for state in ("whole", "divided")}
    if found["whole"]["losses"] != found["divided"]["losses"]:
        raise SystemExit(f"error: the losses differ: {found}")
    parameters = arguments.layers * WIDTH * (WIDTH + 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores; {arguments.ranks} ranks, {parameters / 1e6:.1f} M parameters")
    print(f"fp32, {STEPS} steps, losses bit-equal\n")
    print(f"{'optimizer state':<16}{'state MiB':>12}{'peak RSS MiB':>14}{'s/step':>9}")
    for state, run in found.items():
        print(f"{state:<16}{run['state'] / MIB:>12.1f}{run['peak'] / MIB:>14.0f}{run['seconds']:>9.2f}")
    ratios = [found["divided"][key] / found["whole"][key] for key in ("state", "peak", "seconds")]
    print(f"{'divided / whole':<16}{ratios[0]:>12.2f}{ratios[1]:>14.2f}{ratios[2]:>9.2f}")


def launch(state: str, arguments: argparse.Namespace) -> dict:
    """What the largest of the ranks needed; losses are rank 0's, since each has its own data."""
    with tempfile.TemporaryDirectory() as folder:
        port = 8460 + (state == "divided")
        command = [
            str(Path(sys.executable).with_name("msrun")), f"--worker_num={arguments.ranks}",
            f"--local_worker_num={arguments.ranks}", f"--master_port={port}", "--join=True", f"--log_dir={folder}/logs",
            __file__, "--as_rank", folder, state, "--layers", str(arguments.layers),
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "GLOG_v": "3", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode:
            logs = "".join(log.read_text(errors="replace")[-2000:] for log in Path(folder).glob("logs/worker_*.log"))
            raise SystemExit(f"error: msrun failed\n{run.stderr[-2000:]}{logs}")
        ranks = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("rank_*.json"))]
    return {**max(ranks, key=lambda rank: rank["peak"]), "losses": ranks[0]["losses"]}


def work(folder: Path, divided: bool, layers: int) -> None:
    """Train as one rank; writes rank_N.json: bytes of state, peak bytes of this process, losses, seconds a step."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn
    from mindspore.communication import get_rank, init

    from ms_impl.train.adamw import AdamW
    from ms_impl.train.ranks import wait_for_ranks

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    init()
    if os.environ["MS_ROLE"] == "MS_SCHED":
        return
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, enable_parallel_optimizer=divided
    )
    ms.set_seed(0)
    network = nn.SequentialCell([nn.Dense(WIDTH, WIDTH, activation="tanh") for _ in range(layers)])
    optimizer = AdamW(network.trainable_params(), learning_rate=1e-4)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.MSELoss()), optimizer).set_train()
    rng = np.random.default_rng(get_rank())
    losses, began = [], 0.0
    for number in range(STEPS):
        if number == 1:
            began = time.perf_counter()  # the first step compiles
        data = Tensor(rng.normal(0, 1, (ROWS, WIDTH)).astype(np.float32))
        losses.append(float(step(data, data).asnumpy()))
    seconds = (time.perf_counter() - began) / (STEPS - 1)
    held = (p for s in optimizer.states for p in (s.exp_avg, s.exp_avg_sq))
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    result = {"state": sum(p.nbytes for p in held), "peak": peak, "losses": losses, "seconds": seconds}
    (folder / f"rank_{get_rank()}.json").write_text(json.dumps(result))
    wait_for_ranks()


if __name__ == "__main__":
    main()

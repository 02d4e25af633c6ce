"""Two real ranks against one process: global loss, micro-batches, an overflow on one rank, divided optimizer state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("rank_steps.py")
WEIGHTS = ("embedding", "head", "bias")
STATE = tuple(f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in WEIGHTS)


def run(command: list, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GLOG_v": "3", "OMP_NUM_THREADS": "1", "LOG_MF_PATH": str(folder / "mf")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    logs = "".join(log.read_text(errors="replace")[-2000:] for log in folder.glob("logs/worker_*.log"))
    assert done.returncode == 0, done.stderr + logs


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict[str, np.ndarray]:
    """What one process computes on the global batch."""
    folder = tmp_path_factory.mktemp("one")
    run([sys.executable, SCRIPT, folder, "graph"], folder)
    return dict(np.load(folder / "rank_0.npz"))


@pytest.fixture(scope="module", params=["graph", pytest.param("pynative", marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What each of two ranks has after the same steps."""
    folder, port = tmp_path_factory.mktemp("two"), {"graph": "8441", "pynative": "8442"}[request.param]
    launcher = ["msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True"]
    run([*launcher, "--log_dir=logs", "--cluster_time_out=60", SCRIPT, folder, request.param], folder)
    return [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(2)]


def test_micro_batches_equal_the_whole_batch(one):
    for name in ("losses", "norms", *WEIGHTS):
        np.testing.assert_allclose(one[f"accumulated/{name}"], one[f"plain/{name}"], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("scenario", ["plain", "accumulated", "sharded"])
def test_two_ranks_train_as_one_process(one, ranks, scenario):
    """The ranks' labels differ in number and weight, one micro-batch has none, and rank 1 sees no image."""
    for name in ("losses", "norms", *WEIGHTS):
        found, wanted = ranks[0][f"{scenario}/{name}"], one[f"plain/{name}"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(ranks[1][f"{scenario}/{name}"], found, err_msg=name)


@pytest.mark.parametrize("scenario", ["plain", "accumulated", "sharded"])
def test_an_overflow_on_one_rank_skips_the_step_and_halves_the_scale_on_all(ranks, scenario):
    for rank in ranks:
        assert rank[f"{scenario}/overflows"].tolist() == [0, 1, 0, 0]
        assert rank[f"{scenario}/scales"].tolist() == [8, 4, 4, 4]
    assert ranks[0][f"{scenario}/step"].tolist() == [3]


def test_divided_state_trains_bit_for_bit_as_whole_state_does(ranks):
    for name in ("losses", "norms", *WEIGHTS, *STATE):
        np.testing.assert_array_equal(ranks[0][f"sharded/{name}"], ranks[0][f"plain/{name}"], err_msg=name)


def test_each_rank_holds_half_of_the_state(ranks):
    """55 + 55 + 11 elements: 28 + 28 + 6 of each moment."""
    for rank in ranks:
        assert rank["plain/held"] == 2 * 121 and rank["sharded/held"] == 2 * 62


def test_state_goes_from_whole_to_divided_and_back(ranks):
    rank = ranks[0]
    losses = [*rank["sharded from whole/losses"], *rank["whole from sharded/losses"]]
    assert losses == rank["bfloat16/losses"][2:].tolist()
    for name in (*WEIGHTS, *STATE, *(f"remainder.{name}" for name in WEIGHTS)):
        np.testing.assert_array_equal(rank[f"whole from sharded/{name}"], rank[f"bfloat16/{name}"], err_msg=name)
    assert rank["bfloat16/remainder.head"].any()

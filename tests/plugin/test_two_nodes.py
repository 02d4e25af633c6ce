"""Two nodes, and four workers: what they train is what one process trains on the global batch.

The nodes are two network namespaces joined by a cable (veth); each has its own working directory.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.77.0.1", "10.77.0.2")  # each is known in the two namespaces only
PORT = 7118  # workers listen where they like, from 8118 on
CALLBACKS = "callbacks=[{type: LossRecorder}]"
JOINT_BATCH = 4  # of the 6 conversations: two epochs make three steps
STEPS = 3


@pytest.fixture(scope="module")
def nodes():
    """The commands that run another command on each node."""
    names = [f"vlm-{os.getpid()}-{number}" for number in range(2)]
    if shutil.which("ip") is None:
        pytest.skip("the command ip (iproute2), which makes network namespaces, is not installed")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                ip("-n", name, "link", "set", device, "up")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"network namespaces are not to be had here: ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, run_mindformer, finetune_arguments) -> np.ndarray:
    """The losses of one process on the global batch."""
    folder = tmp_path_factory.mktemp("one_process")
    run = run_mindformer(folder, *finetune_arguments, *training(JOINT_BATCH))
    assert run.returncode == 0, run.stderr
    return losses(folder)


def training(batch_size: int) -> list[str]:
    return ["--epochs", "2", "--batch_size", str(batch_size), "--options", CALLBACKS]


def launch(folder: Path, arguments: list[str], *launcher: object, node: tuple[str, ...] = ()) -> subprocess.Popen:
    """The launcher in a folder of its own, with what it prints as the process's stdout."""
    folder.mkdir()
    task = shlex.join([f"{ROOT}/run_mindformer.py", *arguments, "--use_parallel", "True"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [*node, "bash", f"{ROOT}/scripts/msrun_launcher.sh", task, *map(str, launcher)],
        cwd=folder, env={**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "1", "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """Wait for launchers, ending them all if one takes too long. Returns what each printed."""
    try:
        return [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def losses(folder: Path, rank: int = 0) -> np.ndarray:
    return np.array([step["loss"] for step in read_losses(folder / f"output/losses/rank_{rank}.jsonl")])


@pytest.mark.slow  # a node that waits is quick, and two ranks of one node are in test_training.py
def test_two_nodes_train_as_one_process_on_the_global_batch(nodes, one_process, finetune_arguments, tmp_path):
    arguments = [*finetune_arguments, *training(JOINT_BATCH // 2)]
    launchers = [
        launch(tmp_path / f"node_{rank}", arguments, 2, 1, ADDRESSES[0], PORT, rank, "logs", True, 120, node=node)
        for rank, node in enumerate(nodes)
    ]
    printed = finish(launchers)
    assert [process.returncode for process in launchers] == [0, 0], "\n".join(printed)
    assert len(one_process) == STEPS
    for rank in range(2):
        np.testing.assert_allclose(losses(tmp_path / f"node_{rank}", rank), one_process, rtol=1e-5)


def test_a_node_whose_other_does_not_come_says_so(nodes, finetune_arguments, tmp_path):
    arguments = [*finetune_arguments, *training(1)]
    launcher = launch(tmp_path / "node", arguments, 2, 1, ADDRESSES[0], PORT, 0, "logs", True, 5, node=nodes[0])
    (printed,) = finish([launcher])
    assert launcher.returncode == 1
    assert "error: not all workers came in time; start the launcher on every node" in printed


@pytest.mark.slow
def test_four_workers_train_as_one_process_on_the_global_batch(one_process, finetune_arguments, tmp_path):
    arguments = [*finetune_arguments, *training(JOINT_BATCH // 4)]
    launcher = launch(tmp_path / "four", arguments, 4, PORT, "logs", True, 120)
    (printed,) = finish([launcher])
    assert launcher.returncode == 0, printed
    for rank in range(4):
        np.testing.assert_allclose(losses(tmp_path / "four", rank), one_process, rtol=1e-5)

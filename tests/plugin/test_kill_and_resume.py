"""A run of two ranks that is killed or stopped at a random moment, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from training_cases import CASES

from ms_impl.launch.supervisor import newest_step
from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
STEPS, SAVED_EVERY = 60, 7
RANKS = 2
CALLBACKS = (
    f"callbacks=[{{type: LossRecorder}}, {{type: CheckpointMonitor, save_checkpoint_steps: {SAVED_EVERY},"
    " keep_checkpoint_max: 3}]"
)
PATIENCE = 240  # seconds for whatever a busy machine may take
MARK = "KILL_TEST"  # an environment variable that all processes of a run have


@pytest.fixture(scope="module", params=["qwenvl", *(pytest.param(family, marks=pytest.mark.slow) for family in CASES)])
def task(request, finetune_arguments, tmp_path_factory):
    """The 60 steps that write to ``output`` of the working directory, as one word; of other families when slow."""
    if request.param == "qwenvl":
        arguments = [*finetune_arguments, "--epochs", "20", "--batch_size", "1", "--use_parallel", "True"]
        arguments += ["--output_dir", "output", "--options", CALLBACKS]
    else:  # eight records, a row each, two rows a step
        runs = CASES[request.param].make(tmp_path_factory.mktemp(request.param))
        given = {"epochs": 15, "batch_size": 1, "use_parallel": True}
        arguments = runs.arguments(Path("output"), "train_dataset.packing=False", CALLBACKS, **given)
    return shlex.join([f"{ROOT}/run_mindformer.py", *arguments])


@pytest.fixture(scope="module")
def start():
    """Start a command in a folder; at the end of the tests all are ended."""
    runs = []

    def start_run(folder: Path, command: list[str]) -> Run:
        runs.append(Run(folder, command))
        return runs[-1]

    yield start_run
    for run in runs:
        run.process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start, task) -> Path:
    """The output of the run that nothing happened to."""
    run = start(tmp_path_factory.mktemp("undisturbed"), launcher(task))
    assert run.wait() == 0, run.printed()
    return run.output


class Run:
    """A started run of the training task, in a session of its own."""

    def __init__(self, folder: Path, command: list[str]):
        self.output, self._log = folder / "output", folder / f"printed_{time.monotonic_ns()}"
        self._mark = uuid.uuid4().hex
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "1", "PATH": path, MARK: self._mark}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def wait_for_step(self, number: int) -> None:
        end = time.monotonic() + PATIENCE
        while steps_done(self.output) < number:
            assert self.process.poll() is None and time.monotonic() < end, self.printed()
            time.sleep(0.01)

    def processes(self) -> dict[str, psutil.Process]:
        """Those that run, by name: launcher, scheduler, worker_0, …"""
        return {_name(process): process for process in psutil.process_iter() if self._is_ours(process)}

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def _name(process: psutil.Process) -> str:
    environment = process.environ()
    if "ms_impl.launch.workers" in process.cmdline():
        return "launcher"
    if (role := environment.get("MS_ROLE")) is None:
        return f"process {process.pid}"
    return "scheduler" if role == "MS_SCHED" else f"worker_{environment['RANK_ID']}"


def steps_done(output: Path) -> int:
    log = output / "losses/rank_0.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def launcher(task: str) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ["bash", f"{ROOT}/scripts/msrun_launcher.sh", task, str(RANKS), str(port), "logs", "True", "120"]


def assert_as_undisturbed(output: Path, undisturbed: Path) -> None:
    """Every loss, and the weights and optimizer state at the end, bit for bit."""
    for rank in range(RANKS):
        losses, expected = (read_losses(folder / f"losses/rank_{rank}.jsonl") for folder in (output, undisturbed))
        assert [step["step"] for step in losses] == list(range(1, STEPS + 1))
        for key in ("loss", "grad_norm"):
            assert [step[key] for step in losses] == [step[key] for step in expected]
    manifests = [folder / f"checkpoint/step_{STEPS:08d}/manifest.json" for folder in (output, undisturbed)]
    resumed, whole = (json.loads(path.read_text()) for path in manifests)
    weights = {name for name in whole if name.endswith(".safetensors")}
    assert weights and {name: resumed[name] for name in weights} == {name: whole[name] for name in weights}
    assert (output / "completed.json").exists()


def resumed_from(run: Run) -> int:
    """The step it says that it went on from; 0 if it began."""
    found = re.search(rf"resuming from .*: (\d+) of {STEPS} steps are done", run.printed())
    return int(found[1]) if found else 0


VICTIMS = ("worker_0", "worker_1", "scheduler", "launcher", "everything")


def strike(run: Run, victim: str, draw: random.Random) -> None:
    """SIGKILL at a random moment of a random step."""
    run.wait_for_step(1)
    processes = run.processes()
    run.wait_for_step(draw.randint(1, STEPS - 5))
    time.sleep(draw.uniform(0, 0.1))
    victims = draw.sample(sorted(processes), len(processes)) if victim == "everything" else [victim]
    for name in victims:
        processes[name].kill()
    print(f"after step {steps_done(run.output)}: SIGKILL of {', '.join(victims)}")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["qwenvl"], indirect=True)
@pytest.mark.parametrize("number", range(10))
def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(undisturbed, start, task, tmp_path, number):
    draw = random.Random(number)
    run = start(tmp_path, launcher(task))
    strike(run, VICTIMS[number % len(VICTIMS)], draw)
    assert run.wait() != 0
    time.sleep(1)
    assert not run.processes()
    assert not (run.output / "completed.json").exists()
    done = steps_done(run.output)

    resumed = start(tmp_path, launcher(f"{task} --resume_training True"))
    assert resumed.wait() == 0, resumed.printed()
    assert done - SAVED_EVERY <= resumed_from(resumed) <= done
    assert not resumed.processes()
    assert_as_undisturbed(run.output, undisturbed)


def test_a_supervised_run_survives_a_kill_and_stops_when_asked(undisturbed, start, task, tmp_path):
    """The killed attempt is started again; SIGTERM then saves after the step at hand; that is gone on from."""
    draw = random.Random(7)
    script = [sys.executable, f"{ROOT}/scripts/train_supervised.py", "--workers", str(RANKS), "--pause", "0"]
    run = start(tmp_path, [*script, task])
    run.wait_for_step(draw.randint(SAVED_EVERY, 25))
    run.processes()[f"worker_{draw.randrange(RANKS)}"].kill()
    killed_at = steps_done(run.output)
    run.wait_for_step(min(killed_at + draw.randint(3, 20), STEPS - 5))

    asked = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0, run.printed()
    assert time.monotonic() - asked < 30
    assert killed_at - SAVED_EVERY <= resumed_from(run) <= killed_at
    assert not run.processes()
    done = steps_done(run.output)
    assert newest_step(run.output) == done < STEPS  # nothing that was done is lost
    assert not (run.output / "completed.json").exists()

    resumed = start(tmp_path, launcher(f"{task} --resume_training True"))
    assert resumed.wait() == 0, resumed.printed()
    assert resumed_from(resumed) == done
    assert_as_undisturbed(run.output, undisturbed)

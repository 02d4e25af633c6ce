"""Restarting failed runs: with a small program in the place of run_mindformer.py, and with msrun."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/train_supervised.py"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
# What a run does in attempt N is the N-th of the words, the last of them from then on.
PROGRAM = """
import os, pathlib, signal, sys, time
out, plan = pathlib.Path("out"), sys.argv[1].split(",")
with open("attempts", "a") as file:
    file.write(" ".join(sys.argv[2:]) + " port " + os.environ.get("MS_SCHED_PORT", "") + chr(10))
attempt = len(open("attempts").readlines())
word = plan[min(attempt, len(plan)) - 1]
open("pid", "w").write(str(os.getpid()))
if "save" in word:
    (out / f"checkpoint/step_{attempt:08d}").mkdir(parents=True)
if "done" in word:
    (out / "completed.json").write_text("{}")
if "hang" in word:
    time.sleep(60)
if "stop" in word:
    def stop(number, frame):
        (out / "stopped_by").write_text(signal.Signals(number).name)
        sys.exit(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    time.sleep(60)
if "killed" in word:
    os.kill(os.getpid(), signal.SIGKILL)
print("I say", word)
sys.exit(2 if "mistake" in word else 1 if "fail" in word else 0)
"""


@pytest.fixture
def supervise(tmp_path):
    (tmp_path / "run.py").write_text(PROGRAM)

    def run(plan: str, *options, task: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            command(plan, *options, task=task), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
            timeout=90,
        )  # fmt: skip

    return run


def command(plan: str, *options, task: str = "") -> list[str]:
    task = f"run.py {plan} --output_dir out {task}"
    return [sys.executable, str(SCRIPT), "--pause", "0", *map(str, options), task]


def attempts(folder: Path) -> list[str]:
    return (folder / "attempts").read_text().splitlines()


def test_a_failed_run_is_resumed_until_it_says_that_it_is_complete(supervise, tmp_path):
    """An exit status of 0 is not enough, and one of 1 does not spoil a run that is complete."""
    run = supervise("save,killed+save,save+fail+done")
    assert run.returncode == 0, run.stderr
    assert [" --resume_training True" in line for line in attempts(tmp_path)] == [False, True, True]
    assert "attempt 2 ended with status 137" in run.stdout and "newest checkpoint: step 2" in run.stdout
    assert "attempt 3 completed the run" in run.stdout
    assert "I say save\n" in run.stdout
    assert (tmp_path / "out/msrun_log/attempt_1/output.log").read_text() == "I say save\n"


def test_a_mistake_of_the_users_is_not_tried_again(supervise, tmp_path):
    run = supervise("mistake")
    assert run.returncode == 2 and len(attempts(tmp_path)) == 1
    assert "error: the run is not complete: another attempt would meet the same error" in run.stderr


def test_a_run_that_saves_nothing_new_in_two_attempts_is_given_up(supervise, tmp_path):
    run = supervise("save+fail,fail", "--max_restarts", 9)
    assert run.returncode == 1 and len(attempts(tmp_path)) == 3
    assert "error: the run is not complete: 2 attempts in succession saved nothing new" in run.stderr


def test_restarts_are_bounded(supervise, tmp_path):
    run = supervise("save+fail", "--max_restarts", 3)
    assert run.returncode == 1 and len(attempts(tmp_path)) == 4
    assert "error: the run is not complete: that was the last of 4 attempts" in run.stderr


def test_the_mark_of_an_earlier_run_does_not_count(supervise, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/completed.json").write_text("{}")
    assert supervise("fail", "--max_restarts", 0).returncode == 1


def test_checkpoints_of_an_earlier_run_must_be_meant(supervise, tmp_path):
    (tmp_path / "out/checkpoint/step_00000003").mkdir(parents=True)
    run = supervise("done")
    assert run.returncode == 2 and not (tmp_path / "attempts").exists()
    assert "error: out: an earlier run saved step 3 here; give --resume_training True" in run.stderr
    assert supervise("done", task="--resume_training True").returncode == 0


def test_a_run_without_a_step_for_too_long_is_killed_and_started_again(supervise, tmp_path):
    run = supervise("hang,done", "--stall_timeout", 2)
    assert run.returncode == 0, run.stderr
    assert "no step for 2 s: the run hangs and is killed" in run.stdout and len(attempts(tmp_path)) == 2


def test_the_command_must_say_where_its_checkpoints_are(tmp_path):
    run = subprocess.run([sys.executable, SCRIPT, "run.py --x"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "error: the command to start needs --output_dir" in run.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("plan", ["stop", "hang"])
def test_a_signal_is_passed_on_and_ends_the_attempts(supervise, tmp_path, plan, number):
    supervisor = subprocess.Popen(command(plan), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    pid = wait_for_pid(tmp_path)
    time.sleep(0.5)
    supervisor.send_signal(number)
    assert supervisor.wait(20) == (0 if plan == "stop" else 128 + number)
    if plan == "stop":
        assert (tmp_path / "out/stopped_by").read_text() == number.name
    assert len(attempts(tmp_path)) == 1 and not alive(pid)


def test_the_run_ends_with_a_supervisor_that_is_killed(supervise, tmp_path):
    supervisor = subprocess.Popen(command("hang"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    pid = wait_for_pid(tmp_path)
    supervisor.kill()
    supervisor.wait()
    time.sleep(1)
    assert not alive(pid)


def test_workers_are_started_again_on_another_port(supervise, tmp_path):
    """The scheduler runs the program, too, and may be the first to fail."""
    run = supervise("save+killed", "--workers", 2, "--max_restarts", 1)
    assert run.returncode == 1
    ports = [re.search(r"port (\d+)", line)[1] for line in attempts(tmp_path)]
    assert len(set(ports)) == 2
    assert {path.name for path in (tmp_path / "out/msrun_log").iterdir()} == {"attempt_1", "attempt_2"}
    assert (tmp_path / "out/msrun_log/attempt_2/worker_1.log").exists()


def test_a_second_supervisor_is_refused_and_disturbs_nothing(supervise, tmp_path):
    """Between the attempts of the first, too; the second one would take away its mark and its attempts."""
    first = subprocess.Popen(command("hang"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        wait_for_pid(tmp_path)
        (tmp_path / "out/completed.json").write_text("{}")
        second = supervise("done")
        assert second.returncode == 2 and f"process {first.pid} on" in second.stderr
        assert (tmp_path / "out/completed.json").exists() and len(attempts(tmp_path)) == 1
    finally:
        first.kill()
        first.wait()


def wait_for_pid(folder: Path) -> int:
    for _ in range(200):
        if (folder / "pid").exists() and (text := (folder / "pid").read_text()):
            return int(text)
        time.sleep(0.1)
    raise AssertionError("the run was not started")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

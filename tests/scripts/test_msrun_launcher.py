"""The launcher, with msrun itself starting small workers; MSRUN=echo shows what it would run."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "scripts/msrun_launcher.sh"
# msrun and python of the environment that runs the tests, activated or not
NOTE_PID = 'open(f"{role}_{rank}.pid", "w").write(str(os.getpid()))\n'
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def launch(folder, *arguments, **environment) -> subprocess.CompletedProcess:
    command = ["bash", LAUNCHER, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=60
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def worker(tmp_path):
    """Write the program that every worker (and the scheduler) runs; ``role`` and ``rank`` are defined in it."""

    def write(body: str) -> Path:
        head = 'import os, sys, time\nrole, rank = os.environ["MS_ROLE"], os.environ["RANK_ID"]\n'
        (tmp_path / "worker.py").write_text(head + body)
        return tmp_path / "worker.py"

    return write


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--worker_num=8 --local_worker_num=8 --master_addr=127.0.0.1 --master_port=8118 --node_rank=0 "
             "--log_dir=output/msrun_log --join=False --cluster_time_out=600"),
        (["2"], "--worker_num=2 --local_worker_num=2 --master_addr=127.0.0.1 --master_port=8118 --node_rank=0 "
                "--log_dir=output/msrun_log --join=False --cluster_time_out=600"),
        (["4", "8120", "logs", "False", "300"],
         "--worker_num=4 --local_worker_num=4 --master_addr=127.0.0.1 --master_port=8120 --node_rank=0 "
         "--log_dir=logs --join=False --cluster_time_out=300"),
        (["16", "8", "192.168.1.1", "8118", "1", "logs", "False", "300"],
         "--worker_num=16 --local_worker_num=8 --master_addr=192.168.1.1 --master_port=8118 --node_rank=1 "
         "--log_dir=logs --join=False --cluster_time_out=300"),
    ],
)  # fmt: skip
def test_one_two_six_or_nine_arguments_have_msruns_meaning(tmp_path, arguments, expected):
    run = launch(tmp_path, "run.py --text 'a b' \"c  d\" $HOME", *arguments, MSRUN="printf <%s>")
    if "is taken" in run.stderr:  # MindSpore's workers listen on 8118 or a little above: those of another run may
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr
    logs, command = run.stdout.split("\n", 1)
    assert logs == f"Logs: {expected.split('--log_dir=')[1].split()[0]}/worker_*.log and " + logs.rpartition(" ")[2]
    given = "".join(f"<{word}>" for word in expected.split())
    assert command.startswith(given)
    assert command.endswith("<python><run.py><--text><a b><c  d><$HOME>")


@pytest.mark.parametrize("count", [0, 3, 4, 5, 7, 8, 10])
def test_any_other_number_of_arguments_prints_the_usage(tmp_path, count):
    run = launch(tmp_path, *["1"] * count, MSRUN="echo")
    assert run.returncode == 2 and run.stdout == ""
    assert "CLUSTER_TIME_OUT" in run.stderr and f"error: {count} arguments were given" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.py", "two"], "WORKER_NUM is 'two', not a number"),
        (["x.py", "0"], "LOCAL_WORKER is 0 of WORKER_NUM 0 workers"),
        (["x.py", "2", "8118", "logs", "yes", "60"], "JOIN is 'yes', not True or False"),
        (["x.py", "2", "4", "127.0.0.1", "8118", "0", "logs", "True", "60"], "LOCAL_WORKER is 4 of WORKER_NUM 2"),
        (["", "2"], "the command to start is empty or has an open quote"),
        (["x.py 'open", "2"], "the command to start is empty or has an open quote"),
    ],
)
def test_a_bad_argument_is_named(tmp_path, arguments, message):
    run = launch(tmp_path, *arguments, MSRUN="echo")
    assert run.returncode == 2 and run.stdout == "" and f"error: {message}" in run.stderr


def test_a_stop_time_that_is_no_number_is_refused(tmp_path):
    run = launch(tmp_path, "x.py", "2", MSRUN="echo", STOP_TIME_OUT="soon")
    assert run.returncode == 2 and run.stderr == "error: STOP_TIME_OUT is 'soon', not a number of seconds\n"


def test_a_taken_port_is_noticed_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = launch(tmp_path, "x.py", "2", port, "logs", "True", "60", MSRUN="echo")
    assert run.returncode == 2 and f"error: port {port} of 127.0.0.1 is taken" in run.stderr


def test_workers_share_the_cores_and_the_exit_status_is_0(tmp_path, worker):
    program = worker('print("threads", os.environ["OMP_NUM_THREADS"])')
    run = launch(tmp_path, program, "2", free_port(), "logs", "True", "60", OMP_NUM_THREADS="")
    assert run.returncode == 0, run.stderr
    expected = f"threads {max((os.cpu_count() or 1) // 2, 1)}\n"
    assert [(tmp_path / f"logs/worker_{rank}.log").read_text() for rank in (0, 1)] == [expected] * 2


def test_the_first_failure_ends_the_run_with_its_status_and_the_end_of_its_log(tmp_path, worker):
    """status 2 of run_mindformer.py, the user's mistake, is the launcher's, too."""
    program = worker(
        'if role == "MS_WORKER" and rank == "1":\n    print("this is what went wrong")\n    sys.exit(2)\n'
        "time.sleep(60)\n"
    )
    run = launch(tmp_path, program, "2", free_port(), "logs", "True", "60")
    assert run.returncode == 2
    assert "The end of logs/worker_1.log:\nthis is what went wrong\n" in run.stderr
    assert run.stderr.endswith("error: worker_1 ended with status 2; the logs are in logs\n")


def test_the_log_of_the_first_worker_is_shown_to_its_end(tmp_path, worker):
    run = launch(tmp_path, worker('print("I am", role, rank)'), "2", free_port(), "logs", "True", "60")
    assert run.returncode == 0, run.stderr
    assert "I am MS_WORKER 0\n" in run.stdout and "I am MS_WORKER 1\n" not in run.stdout


def test_when_msrun_fails_no_log_of_an_earlier_run_is_shown(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/worker_0.log").write_text("said earlier")
    run = launch(tmp_path, "x.py", "2", free_port(), "logs", "True", "60", MSRUN="false")
    assert run.returncode == 1 and run.stderr == "error: msrun ended with status 1\n"
    assert "said earlier" not in run.stdout


SLEEP = "time.sleep(60)\n"
SAVE = """
import signal
def save(number, _):
    time.sleep(1)
    open(f"saved_{rank}_{signal.Signals(number).name}", "w").close()
    sys.exit(0)
if role == "MS_WORKER":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, save)
    time.sleep(60)
else:
    while len([name for name in os.listdir() if name.startswith("saved")]) < 2:
        time.sleep(0.1)
"""
DEAF = (
    "import signal\nfor name in ('TERM', 'INT'):\n    signal.signal(signal.Signals['SIG' + name], signal.SIG_IGN)\n"
    + SLEEP
)


@pytest.fixture
def started(tmp_path, worker):
    """Start the launcher on two workers and return it with the process ids of them and their scheduler."""
    launchers = []

    def start(body: str, **environment) -> tuple[subprocess.Popen, list[int]]:
        program = worker(NOTE_PID + body)
        command = ["bash", LAUNCHER, str(program), "2", str(free_port()), "logs", "True", "60"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**ENVIRONMENT, **environment}
        launchers.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **quiet))
        wait_until(lambda: len(read_pids(tmp_path)) == 3)
        return launchers[0], read_pids(tmp_path)

    yield start
    for launcher in launchers:
        launcher.kill()
        launcher.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_workers_that_do_not_know_it(started, number):
    launcher, pids = started(SLEEP)
    launcher.send_signal(number)
    assert launcher.wait(20) == 128 + number
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_that_save_and_leave_when_asked_end_the_run_with_status_0(started, tmp_path, number):
    """They are asked by the signal that was sent, and can say so."""
    launcher, pids = started(SAVE)
    launcher.send_signal(number)
    assert launcher.wait(20) == 0
    assert {path.name for path in tmp_path.glob("saved_*")} == {f"saved_{rank}_{number.name}" for rank in range(2)}
    assert not any(alive(pid) for pid in pids)


def test_a_scheduler_that_is_signalled_with_all_others_waits_for_the_workers(started, tmp_path):
    """As a batch system or systemd does it."""
    launcher, pids = started(SAVE)
    for pid in [launcher.pid, *pids]:
        os.kill(pid, signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert len(list(tmp_path.glob("saved_*"))) == 2


def test_workers_that_stay_when_asked_to_stop_are_killed_after_a_while(started):
    launcher, pids = started(DEAF, STOP_TIME_OUT="1")
    launcher.terminate()
    assert launcher.wait(20) == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in pids)


def test_a_second_signal_kills_the_workers_at_once(started):
    launcher, pids = started(DEAF)
    launcher.send_signal(signal.SIGINT)
    time.sleep(1)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(10) == 128 + signal.SIGINT
    assert not any(alive(pid) for pid in pids)


def test_all_end_with_a_launcher_that_is_killed(started):
    launcher, pids = started(DEAF)
    launcher.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), 5)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_process_that_is_killed_takes_the_others_with_it(started, victim):
    launcher, pids = started(DEAF)
    os.kill(pids[victim], signal.SIGKILL)
    assert launcher.wait(20) == 128 + signal.SIGKILL
    assert not any(alive(pid) for pid in pids)


def test_what_a_killed_worker_leaves_behind_is_ended(started, tmp_path):
    child = 'import subprocess\nchild = subprocess.Popen(["sleep", "60"], start_new_session=True)\n'
    launcher, pids = started(child + 'open(f"child_{role}_{rank}", "w").write(str(child.pid))\n' + SLEEP)
    wait_until(lambda: len(list(tmp_path.glob("child_*"))) == 3)
    children = [int(path.read_text()) for path in tmp_path.glob("child_*")]
    os.kill(pids[0], signal.SIGKILL)
    launcher.wait(20)
    assert not any(alive(pid) for pid in children)


def test_without_joining_the_workers_are_left_to_themselves(tmp_path, worker):
    program = worker(NOTE_PID + SLEEP)
    run = launch(tmp_path, program, "2", free_port(), "logs", "False", "60")
    assert run.returncode == 0, run.stderr
    wait_until(lambda: len(read_pids(tmp_path)) == 3)
    pids = read_pids(tmp_path)
    assert all(alive(pid) for pid in pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def read_pids(folder: Path) -> list[int]:
    return [int(text) for path in folder.glob("*.pid") if (text := path.read_text())]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.1)

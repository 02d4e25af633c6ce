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
             "--log_dir=output/msrun_log --join=True --cluster_time_out=600"),
        (["2"], "--worker_num=2 --local_worker_num=2 --master_addr=127.0.0.1 --master_port=8118 --node_rank=0 "
                "--log_dir=output/msrun_log --join=True --cluster_time_out=600"),
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
    assert run.returncode == 0, run.stderr
    logs, command = run.stdout.split("\n", 1)
    assert logs == f"Logs: {expected.split('--log_dir=')[1].split()[0]}/worker_*.log and " + logs.rpartition(" ")[2]
    given = "".join(f"<{word}>" for word in expected.split())
    assert command.startswith(given)
    assert command.endswith("<run.py><--text><a b><c  d><$HOME>")


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


def test_a_failing_worker_fails_the_run_and_its_log_is_shown(tmp_path, worker):
    program = worker(
        'if role == "MS_WORKER" and rank == "1":\n    sys.exit("error: this is what went wrong")\n'
        'if role == "MS_WORKER":\n    time.sleep(30)\n'
    )
    run = launch(tmp_path, program, "2", free_port(), "logs", "True", "60")
    assert run.returncode == 1
    assert "The end of logs/worker_1.log:\nerror: this is what went wrong" in run.stderr
    assert "error: msrun ended with status 1; the logs are in logs" in run.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_too(tmp_path, worker, number):
    program = worker('open(f"{role}_{rank}.pid", "w").write(str(os.getpid()))\ntime.sleep(60)\n')
    command = ["bash", LAUNCHER, str(program), "2", str(free_port()), "logs", "True", "60"]
    launcher = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(read_pids(tmp_path)) == 3)
    pids = read_pids(tmp_path)
    launcher.send_signal(number)
    assert launcher.wait(20) == 128 + number
    wait_until(lambda: not any(alive(pid) for pid in pids))


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

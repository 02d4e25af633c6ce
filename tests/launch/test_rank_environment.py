"""What an earlier job has left in the environment never makes a rank of a process."""

import os

import pytest

from ms_impl.errors import InputError
from ms_impl.launch.rank_environment import settle_ranks

LEFT = {
    "RANK_ID": "3", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "/t.json", "MS_WORKER_NUM": "8",
    "MS_SCHED_HOST": "10.0.0.1", "MS_SCHED_PORT": "8118", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}  # fmt: skip
MSRUN = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*LEFT, *MSRUN):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(*pair) for pair in values.items()]


def test_leftovers_are_ignored_and_told(environment):
    environment(LEFT)
    (line,) = settle_ranks(use_parallel=False)
    assert line.startswith("ignored") and all(f"{name}={value}" in line for name, value in LEFT.items())
    assert not LEFT.keys() & os.environ.keys()
    assert settle_ranks(use_parallel=False) == []


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_a_worker_that_would_train_alone_is_refused(environment, role):
    environment({**MSRUN, "MS_ROLE": role})
    with pytest.raises(InputError, match=f"use_parallel: not True, but MS_ROLE={role} .*--use_parallel True, or unset"):
        settle_ranks(use_parallel=False)


def test_the_ranks_of_msrun_stay_but_a_foreign_number_of_them(environment):
    environment({**MSRUN, "RANK_ID": "1", "RANK_SIZE": "8"})
    assert "RANK_SIZE=8" in settle_ranks(use_parallel=True)[0]
    assert os.environ["RANK_ID"] == "1" and "RANK_SIZE" not in os.environ and os.environ["MS_WORKER_NUM"] == "2"


def test_a_role_without_a_cluster_is_refused(environment):
    environment({"MS_ROLE": "MS_WORKER"})
    with pytest.raises(InputError, match="MS_ROLE=MS_WORKER is set without MS_WORKER_NUM, MS_SCHED_HOST"):
        settle_ranks(use_parallel=True)


def test_without_msrun_a_parallel_run_has_what_is_there(environment):
    """A rank table, MPI or a simulation."""
    environment(LEFT)
    assert settle_ranks(use_parallel=True) == [] and LEFT.keys() <= os.environ.keys()

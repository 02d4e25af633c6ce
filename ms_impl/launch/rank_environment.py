"""What the environment says of ranks, made to agree with ``use_parallel`` before any framework reads it.

MindFormers falls back on RANK_ID and RANK_SIZE where no communicator was set up, so that what an earlier job has left
in a shell would have one process train on a part of the data. No framework is imported here.
"""

from __future__ import annotations

import os

from ms_impl.errors import InputError

_ROLE, _WORKERS = "MS_ROLE", "MS_WORKER_NUM"
_OF_RANKS = ("RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "DEVICE_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID")
_MPI = "OMPI_COMM_WORLD_"
_CLUSTER = (_WORKERS, "MS_SCHED_HOST", "MS_SCHED_PORT")


def settle_ranks(use_parallel: bool) -> list[str]:
    """Take out of the environment what belongs to other runs; returns a line to print if there was any.

    Raises InputError for a process of msrun's without ``use_parallel``, and for half of what msrun sets.
    """
    if role := os.environ.get(_ROLE):
        _check_role(role, use_parallel)
        return _dropped(["RANK_SIZE"] if os.environ.get("RANK_SIZE") != os.environ[_WORKERS] else [])
    if use_parallel:  # without msrun: a rank table, MPI or a simulation, which MindSpore knows to read
        return []
    return _dropped([*_OF_RANKS, _WORKERS, *(name for name in os.environ if name.startswith(_MPI))])


def _check_role(role: str, use_parallel: bool) -> None:
    if not use_parallel:
        raise InputError(
            f"use_parallel: not True, but {_ROLE}={role} says that this process is one of msrun's, which would each "
            f"train alone; add --use_parallel True, or unset {_ROLE} if msrun has not started it"
        )
    if missing := [name for name in _CLUSTER if not os.environ.get(name)]:
        raise InputError(f"{_ROLE}={role} is set without {', '.join(missing)}: start the ranks with the launcher")


def _dropped(names: list[str]) -> list[str]:
    found = {name: os.environ.pop(name) for name in names if name in os.environ}
    told = ", ".join(f"{name}={value[:60]}" for name, value in found.items())
    return [f"ignored, as this run has no such ranks: {told} (environment)"] if found else []

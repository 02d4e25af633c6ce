"""Which rank this process is, and what the ranks of a run agree on.

There is one notion of rank, that of the communicator. MindFormers' get_real_rank and get_real_group_size read the
environment where there is none (``ms_impl.launch.rank_environment``).
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank

_EXACT = 4096
_WHOLE_PARAMETERS = (ms.ParallelMode.STAND_ALONE, ms.ParallelMode.DATA_PARALLEL)


def rank() -> int:
    """The number of this process in the communicator that was set up; 0 without one."""
    return get_rank() if GlobalComm.INITED else 0


def world_size() -> int:
    """How many processes the communicator has; 1 without one."""
    return get_group_size() if GlobalComm.INITED else 1


def is_first_rank() -> bool:
    """Whether this is rank 0, or the only process."""
    return rank() == 0


def parameters_are_whole() -> bool:
    """Whether each rank holds whole parameters, as it does not in semi-automatic parallelism."""
    return ms.get_auto_parallel_context("parallel_mode") in _WHOLE_PARAMETERS


def wait_for_ranks() -> None:
    """Return when every rank has come here. (On CPU there is no Barrier operator.)"""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank. Collective: every rank has to call it."""
    if world_size() == 1:
        return flag
    return bool(ops.AllReduce()(Tensor([float(flag)], ms.float32)).asnumpy()[0] > 0)


def same_on_all_ranks(number: int) -> bool:
    """Whether every rank has the same whole number, from 0. Collective: every rank has to call it."""
    if world_size() == 1:
        return True
    parts = divmod(number, _EXACT)  # sums of these are exact in fp32
    sums = ops.AllReduce()(Tensor(parts, ms.float32)).asnumpy()
    return not any_rank(any(total != part * world_size() for total, part in zip(sums, parts)))

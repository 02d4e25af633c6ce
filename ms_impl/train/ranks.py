"""What the ranks of a run agree on."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank

_EXACT = 4096
_WHOLE_PARAMETERS = (ms.ParallelMode.STAND_ALONE, ms.ParallelMode.DATA_PARALLEL)


def is_first_rank() -> bool:
    """Whether this is rank 0, or the only process."""
    return not GlobalComm.INITED or get_rank() == 0


def parameters_are_whole() -> bool:
    """Whether each rank holds whole parameters, as it does not in semi-automatic parallelism."""
    return ms.get_auto_parallel_context("parallel_mode") in _WHOLE_PARAMETERS


def wait_for_ranks() -> None:
    """Return when every rank has come here. (On CPU there is no Barrier operator.)"""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank. Collective: every rank has to call it."""
    if not GlobalComm.INITED or get_group_size() == 1:
        return flag
    return bool(ops.AllReduce()(Tensor([float(flag)], ms.float32)).asnumpy()[0] > 0)


def same_on_all_ranks(number: int) -> bool:
    """Whether every rank has the same whole number, from 0. Collective: every rank has to call it."""
    if not GlobalComm.INITED or get_group_size() == 1:
        return True
    parts = divmod(number, _EXACT)  # sums of these are exact in fp32
    sums = ops.AllReduce()(Tensor(parts, ms.float32)).asnumpy()
    return not any_rank(any(total != part * get_group_size() for total, part in zip(sums, parts)))

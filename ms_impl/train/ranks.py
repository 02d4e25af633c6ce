"""What the ranks of a run agree on."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank


def is_first_rank() -> bool:
    """Whether this is rank 0, or the only process."""
    return not GlobalComm.INITED or get_rank() == 0


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank. Collective: every rank has to call it."""
    if not GlobalComm.INITED or get_group_size() == 1:
        return flag
    return bool(ops.AllReduce()(Tensor([float(flag)], ms.float32)).asnumpy()[0] > 0)

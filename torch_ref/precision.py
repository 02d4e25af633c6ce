"""The precision that sensitive steps are computed in."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """x in fp32, as the originals compute; fp64, in which the proofs measure rounding, stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def angle_dtype(dtype: torch.dtype) -> torch.dtype:
    """What rotary angles are computed in: fp32, as in the originals; fp64 beside weights of fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32

"""Weights of a checkpoint into a MindSpore model."""

from __future__ import annotations

import logging
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn
from mindspore.common.np_dtype import bfloat16

from ms_impl.adapters.files import read as read_adapter
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.families import Family
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.conversion import for_mindspore, weights_of
from ms_impl.io.dtypes import BF16, FP16, FP32, CastLoss, DType
from ms_impl.io.tensors import CastTensor, CheckpointTensor

logger = logging.getLogger(__name__)

MINDSPORE_DTYPES = {FP32: ms.float32, FP16: ms.float16, BF16: ms.bfloat16}
_DTYPES = {theirs: ours for ours, theirs in MINDSPORE_DTYPES.items()}


def load_weights(model: nn.Cell, path: str | Path, family: Family, adapter: str | Path | None = None) -> None:
    """Set every parameter of a model from a checkpoint of either layout and any kind, cast to the parameter's dtype.

    Where dtype and layout are the file's own, the parameter is the file, mapped copy-on-write. Values that the
    parameter's dtype cannot hold and that become infinite are counted in a warning.

    Args:
        adapter: the directory of an adapter, which is merged into the weights as convert/merge_adapter.py does it, in
            the base's own dtype: the parameters are those of the merged checkpoint, bit for bit.

    Raises:
        InputError: the checkpoint is damaged, or has not the model's tensors, or not their shapes; all are listed.
            The adapter does not fit it.
    """
    checkpoint = weights_of(open_checkpoint(path), family)
    if adapter is not None:
        stored = read_adapter(adapter, family)
        checkpoint = merged_checkpoint(checkpoint, stored, family, model.config)
    parameters, lost = model.parameters_dict(), CastLoss()
    for tensor in for_mindspore(checkpoint, family, model.config):
        set_parameter(parameters[tensor.name], tensor, lost)
    overflow = lost.overflow + sum(
        tensor.loss.overflow for tensor in checkpoint.tensors.values() if isinstance(tensor, CastTensor)
    )
    if overflow:
        logger.warning("%s: %d values are too large for the model's dtype and became infinite", path, overflow)


def set_parameter(parameter: Parameter, stored: CheckpointTensor, lost: CastLoss) -> None:
    """Give a parameter the values of a stored tensor, cast to its dtype; what the cast loses is added to ``lost``."""
    dtype = _DTYPES[parameter.dtype]
    if dtype != stored.dtype:
        stored = CastTensor(stored, dtype, lost)
    parameter.set_data(_tensor(stored.array(), dtype))


class ParameterTensor(CheckpointTensor):
    """A parameter as ``convert`` takes tensors: to be written, or compared with what a file holds."""

    def __init__(self, parameter: Parameter):
        self.name, self.shape, self.dtype = parameter.name, tuple(parameter.shape), _DTYPES[parameter.dtype]
        self._parameter = parameter

    def array(self) -> np.ndarray:
        return self._parameter.asnumpy().view(self.dtype.carrier)


def _tensor(values: np.ndarray, dtype: DType) -> ms.Tensor:
    # Not Tensor.view(): each graph would copy what that gives, whole, before it runs.
    return ms.Tensor.from_numpy(values.view(bfloat16) if dtype == BF16 else values)

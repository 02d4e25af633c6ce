"""An optimizer's state as whole arrays, whatever the number of ranks that hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from mindspore import Parameter, Tensor

from ms_impl.errors import InputError
from ms_impl.train.adamw import AdamW
from ms_impl.train.ranks import is_first_rank
from ms_impl.train.zero1 import Partition

STEP = "step"


def gather_state(optimizer: AdamW) -> dict[str, np.ndarray]:
    """The optimizer's whole state, on rank 0; an empty dict on the others. Collective: every rank has to call it.

    Returns:
        ``step`` int32 [1], and for each trained parameter ``exp_avg.<name>`` and ``exp_avg_sq.<name>``, fp32 in the
        parameter's shape; for one of 16 bits also ``remainder.<name>``: parameter + remainder is its fp32 master copy.
    """
    kept = {STEP: optimizer.global_step.asnumpy().copy()}
    for parameter, partition in _parts(optimizer):
        whole = partition.join(Tensor(parameter)).asnumpy()
        if is_first_rank():
            kept[parameter.name] = whole.copy()
    return kept if is_first_rank() else {}


def restore_state(optimizer: AdamW, state: Mapping[str, np.ndarray], source: str = "optimizer state") -> None:
    """Take over what ``gather_state`` returned, on every rank, whichever number of ranks there were and are.

    Args:
        state: read one array at a time, so that it may be lazy.
        source: the file that errors name.

    Raises:
        InputError: a name is missing or not the optimizer's, or a shape differs; nothing is changed then.
    """
    expected = {parameter.name: partition.shape for parameter, partition in _parts(optimizer)}
    expected[STEP] = optimizer.global_step.shape
    _check(expected, state, source)
    optimizer.global_step.set_data(Tensor(np.asarray(state[STEP], np.int32)))
    for parameter, partition in _parts(optimizer):
        part = partition.take(Tensor(np.asarray(state[parameter.name], np.float32)))
        parameter.set_data(Tensor(part.asnumpy()))  # in PyNative mode a part is a view, which Assign refuses


def _parts(optimizer: AdamW) -> Iterator[tuple[Parameter, Partition]]:
    for state in optimizer.states:
        for parameter in (state.exp_avg, state.exp_avg_sq, state.remainder):
            if parameter is not None:
                yield parameter, state.partition


def _check(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray], source: str) -> None:
    if missing := sorted(expected.keys() - state.keys()):
        raise InputError(f"{source}: '{missing[0]}' is missing ({len(missing)} names are); is it of another training?")
    if extra := sorted(state.keys() - expected.keys()):
        raise InputError(f"{source}: '{extra[0]}' is not trained here ({len(extra)} names are not)")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise InputError(f"{source}: '{name}' has shape {tuple(state[name].shape)}, not {shape}")

"""Which base weights an adapter belongs to: a few of their values, kept with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ms_impl.errors import InputError, quote
from ms_impl.io.dtypes import FP32, cast
from ms_impl.io.json_files import parse_json
from ms_impl.io.tensors import CheckpointTensor

ValueSample = dict[str, list[float]]

_COUNT = 8  # values of each weight
# The same base may come in 16 bits, bfloat16 or float16, on either side.
_RELATIVE, _ABSOLUTE = 2.0**-7, 2.0**-24


def sample(weights: Mapping[str, CheckpointTensor]) -> ValueSample:
    """Evenly spaced values of each weight, which stand under their names."""
    return {name: _pick(weight).tolist() for name, weight in weights.items()}


def check(expected: ValueSample, weights: Mapping[str, CheckpointTensor], adapter: str, base: str) -> None:
    """Compare a sample with the weights of a base.

    Raises:
        InputError: they are not the weights the sample was taken of, roundings to 16 bits aside. ``adapter`` and
            ``base`` name the two in the message.
    """
    differ = [
        name
        for name, values in expected.items()
        if name not in weights or not np.allclose(_pick(weights[name]), values, rtol=_RELATIVE, atol=_ABSOLUTE)
    ]
    if differ:
        raise InputError(
            f"{adapter} fits another base than {base}: {len(differ)} of the {len(expected)} weights "
            f"that it adapts differ, {differ[0]:.120} among them"
        )


def dump(taken: ValueSample) -> str:
    """As the text that goes into the adapter's file."""
    return json.dumps(taken, separators=(",", ":"))


def parse(text: Any, where: str) -> ValueSample:
    """The inverse of ``dump``; ``where`` names the file in the InputError that a damaged text raises."""
    if not isinstance(text, str):
        raise InputError(f"{where}: its sample of the base weights is {quote(text)}; expected a text")
    taken = parse_json(text, f"{where}: its sample of the base weights")
    if not all(map(_is_numbers, taken.values())):
        raise InputError(f"{where}: its sample of the base weights is damaged")
    return taken


def _pick(weight: CheckpointTensor) -> np.ndarray:
    flat = weight.array().reshape(-1)
    return cast(flat[np.linspace(0, flat.size - 1, _COUNT).astype(np.int64)], weight.dtype, FP32)


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and len(values) == _COUNT and all(isinstance(value, float) for value in values)

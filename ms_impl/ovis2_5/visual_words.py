"""What the visual words' scores mix of their table, on the host: neither matrix is ever in fp32 as a whole."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter

from ms_impl.generate.host_weights import content, pieces, widened

TOKENS_AT_ONCE = 256


def mix_on_host(
    x: np.ndarray, weight: Parameter, gain: Parameter, shift: Parameter, table: Parameter, eps: float
) -> np.ndarray:
    """softmax(layer_norm(x·Wᵀ)·gain + shift) times the first rows of a table, as ``MixOverChunks``.

    x float32 [M, F], weight [W, F], gain and shift [W], table [≥ W, D] → float32 [M, D].
    """
    scale, offset = widened(content(gain)), widened(content(shift))
    mixed = np.zeros((len(x), table.shape[1]), np.float32)
    for start in range(0, len(x), TOKENS_AT_ONCE):
        part = slice(start, start + TOKENS_AT_ONCE)
        scores = np.empty((len(x[part]), weight.shape[0]), np.float32)
        for words, values in pieces(weight):
            np.matmul(x[part], values.T, out=scores[:, words])
        _to_shares(scores, scale, offset, eps)
        for words, values in pieces(table, weight.shape[0]):
            mixed[part] += scores[:, words] @ values
    return mixed


def _to_shares(scores: np.ndarray, scale: np.ndarray, offset: np.ndarray, eps: float) -> None:
    """Layer norm and softmax of each row, in place."""
    for row in scores:
        row -= row.mean()
        row *= 1 / np.sqrt(np.square(row).mean() + np.float32(eps))
        row *= scale
        row += offset
        row -= row.max()
        np.exp(row, out=row)
        row /= row.sum()

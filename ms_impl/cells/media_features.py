"""Features of images, videos and sounds laid over the columns of token embeddings."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops


def merge_features(hidden: Tensor, features: Tensor, columns: Tensor) -> Tensor:
    """Token embeddings with features in place of those at some columns: [B, T, D], in hidden's dtype.

    Args:
        hidden: [B, T, D].
        features: [B, F, D].
        columns: int [B, F], each once in a row; T for a feature that has no place. That column is cut off again, so
            that an absent feature's gradient is zeros, not missing.
    """
    batch, length, width = hidden.shape
    padded = ops.concat((hidden, ops.zeros((batch, 1, width), hidden.dtype)), 1).reshape(-1, width)
    rows = ops.arange(batch).astype(ms.int32).reshape(-1, 1) * (length + 1)
    index = (columns.reshape(batch, -1) + rows).reshape(-1, 1)
    padded = ops.tensor_scatter_update(padded, index, features.reshape(-1, width).astype(hidden.dtype))
    return padded.reshape(batch, length + 1, width)[:, :length]

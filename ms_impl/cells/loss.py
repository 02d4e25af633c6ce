"""Losses."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

IGNORED_LABEL = -100


def shift_labels(labels: Tensor) -> Tensor:
    """labels [B, T] moved one to the left: what each column has to predict; the last column predicts nothing."""
    return ops.concat((labels[:, 1:], ops.full_like(labels[:, :1], IGNORED_LABEL)), 1)


def causal_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits [B, T, vocab] against labels int [B, T] ≠ −100, shifted by one: a scalar in fp32.

    Without any label the loss is 0 rather than NaN, so that a rank that drew none does not spoil the others.
    """
    targets = shift_labels(labels).reshape(-1)
    learnt = (targets != IGNORED_LABEL).astype(ms.float32)
    log_probs = ops.log_softmax(logits.astype(ms.float32).reshape(-1, logits.shape[-1]), -1)
    picked = ops.gather_elements(log_probs, 1, ops.maximum(targets, ops.zeros_like(targets)).reshape(-1, 1))
    return -(picked.reshape(-1) * learnt).sum() / ops.maximum(learnt.sum(), ms.Tensor(1.0, ms.float32))

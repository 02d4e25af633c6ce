"""Losses."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

IGNORED_LABEL = -100


def shift_labels(labels: Tensor) -> Tensor:
    """labels [B, T] moved one to the left: what each column has to predict; the last column predicts nothing."""
    return ops.concat((labels[:, 1:], ops.full_like(labels[:, :1], IGNORED_LABEL)), 1)


def total_weight(labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
    """What the labels [B, T] count together, as ``causal_cross_entropy`` weighs them: a scalar in fp32."""
    return prediction_weights(labels, loss_weights).sum()


def causal_cross_entropy(logits: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
    """Weighted mean cross entropy of logits [B, T, vocab] against labels shifted by one: a scalar in fp32.

    Args:
        labels: int [B, T], −100 where nothing is learnt.
        loss_weights: fp32 [B, T], the weight of the label in the same column. None: every label counts 1.

    If the weights sum to 0 the loss is 0 rather than NaN, so that a rank that drew no label does not spoil the others.
    """
    targets = shift_labels(labels).reshape(-1)
    weights = prediction_weights(labels, loss_weights).reshape(-1)
    log_probs = ops.log_softmax(logits.astype(ms.float32).reshape(-1, logits.shape[-1]), -1)
    picked = ops.gather_elements(log_probs, 1, ops.maximum(targets, ops.zeros_like(targets)).reshape(-1, 1))
    return share(-(picked.reshape(-1) * weights).sum(), weights.sum())


def share(part: Tensor, total: Tensor) -> Tensor:
    """part / total, and 0 where there is no total: fp32 scalars."""
    return ops.where(total > 0, part / ops.where(total > 0, total, ops.ones_like(total)), ops.zeros_like(total))


def prediction_weights(labels: Tensor, loss_weights: Tensor | None) -> Tensor:
    """The weight of what each column predicts: fp32 [B, T], 0 in the last column and where there is no label."""
    learnt = (shift_labels(labels) != IGNORED_LABEL).astype(ms.float32)
    if loss_weights is None:
        return learnt
    return learnt * ops.concat((loss_weights[:, 1:], ops.zeros_like(loss_weights[:, :1])), 1)

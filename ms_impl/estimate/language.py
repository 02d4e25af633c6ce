"""Language models on paper: what decoder layers and the head of every family keep and compute.

What a layer keeps for the backward pass, in numbers for each position, D being the width, K that of all key heads and F
the feed-forward one: its input, the first norm's output, q, the heads' output in attention's layout and in that of the
next matrix, the second norm's input and output: 7 D; k and v: 2 K; both branches of the gated layer, silu of one, and
the product: 4 F. Composed norms keep the normalised input beside the scaled one (2 D more), composed attention the
softmax of its scores, heads × keys, in place of its output (1 D less).

The head keeps the logits themselves in fp32 as log-probabilities, their gradient and the gradient before the softmax:
12 bytes for each token and entry of the vocabulary, and the logits in the compute dtype where that is another.
"""

from __future__ import annotations

from collections.abc import Mapping

from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part

Shapes = Mapping[str, tuple[int, ...]]


def below(shapes: Shapes, *prefixes: str) -> dict[str, tuple[int, ...]]:
    """The weights of modules: those whose names are, or begin with, one of the modules' paths."""
    starts = tuple(f"{prefix}." for prefix in prefixes)
    return {name: shape for name, shape in shapes.items() if name.startswith(starts) or name in prefixes}


def decoder_part(
    plan: RunLayout, weights: Shapes, layers: int, heads: int, head_dim: int, width: int, kv_width: int, inner: int,
    cut: bool = False,
) -> Part:  # fmt: skip
    """The decoder layers, for rows of ``plan.length`` tokens."""
    length, q_width = plan.length, heads * head_dim
    split = 3 * q_width + 2 * kv_width if plan.flash else 2 * q_width + 2 * kv_width
    whole = 4 * width if plan.flash else 6 * width
    return Part(
        "decoder layers", weights, length, "layers", layers,
        scores=heads * length**2, score_flops=4 * length**2 * q_width, entry=length * width,
        kept=length * (whole + split + 4 * inner), split_kept=length * (split + 4 * inner),
        work=length * (2 * width + 3 * inner), cut=cut, cached=2 * kv_width,
        recomputes=True,
    )  # fmt: skip


def head_part(plan: RunLayout, weights: Shapes, width: int, vocabulary: int, cut: bool = False) -> Part:
    """The last norm, the output head and the loss."""
    cast = plan.compute_bytes if plan.compute_bytes != 4 else 0
    return Part(
        "head", weights, plan.length, "last", kept=(2 if plan.flash else 3) * plan.length * width, cut=cut,
        extra_bytes=(12 + cast) * plan.length * vocabulary,
    )  # fmt: skip

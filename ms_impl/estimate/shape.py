"""One part of a model on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Part:
    """A part of a model, of one layer or of ``layers`` alike.

    Attributes:
        weights: shape by name, of all its layers.
        positions: positions of a row that pass through its matrices; ``others`` says so for single weights, by the end
            of their name (0: the weight is looked up or added, not multiplied by).
        scores: elements of all heads' score matrices of a row, in one layer.
        score_flops: to multiply queries with keys and weights with values, for a row, in one layer.
        entry: numbers that enter a layer, for a row; what recomputing keeps of it.
        kept: numbers that a layer keeps for the backward pass, for a row, in the compute dtype, but for scores.
        split_kept: those of them that model parallelism divides.
        work: numbers that a layer's backward pass needs for itself, for a row.
        stage: which pipeline stage has it: ``first``, ``last``, or ``layers``: spread over all.
        cut: whether model parallelism divides its matrices.
        extra_bytes: bytes a row that it needs beside, in whatever dtype, in its own forward and backward pass.
        cached: numbers that a token leaves in a layer's caches of keys and values when the model answers.
        recomputes: whether the YAML's ``recompute`` applies to its layers.
    """

    name: str
    weights: Mapping[str, tuple[int, ...]]
    positions: int
    stage: str
    layers: int = 1
    others: Mapping[str, float] | None = None
    scores: int = 0
    score_flops: int = 0
    entry: int = 0
    kept: int = 0
    split_kept: int = 0
    work: int = 0
    cut: bool = False
    extra_bytes: int = 0
    cached: int = 0
    recomputes: bool = False

    @cached_property
    def size(self) -> int:
        """Numbers in its weights."""
        return sum(map(math.prod, self.weights.values()))

    def passes(self, name: str) -> float:
        """Positions of a row that are multiplied by a weight."""
        if len(self.weights[name]) < 2:
            return 0
        for end, positions in (self.others or {}).items():
            if name.endswith(end):
                return positions
        return self.positions

    @cached_property
    def matrix_flops(self) -> float:
        """Floating point operations of its matrix products, forward, for a row: two for each number and position."""
        return sum(2 * math.prod(shape) * self.passes(name) for name, shape in self.weights.items())

    @property
    def attention_flops(self) -> float:
        """The same of its scores and of mixing values."""
        return self.layers * self.score_flops

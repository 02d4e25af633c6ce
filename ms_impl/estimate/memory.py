"""Memory of a device at the peak of a training step.

Parameters, the optimizer's state (two fp32 moments; for 16-bit parameters an fp32 remainder, too) and gradients, plus
what the forward pass keeps for the backward pass, plus what the operator at work needs for itself. While the backward
pass goes from the last layer to the first, activations give way to gradients, so that the peak is at one of its ends,
unless gradients of earlier micro-batches are there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from ms_impl.estimate.parts import Trained
from ms_impl.estimate.plan import RunLayout

MOMENTS, REMAINDER = 8, 4  # bytes of optimizer state for a trained number
SCORES_AT_WORK = 2  # score matrices that composed attention has at once, beside the one it keeps: both gradients


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: float
    casts: float
    state: float
    gradients: float
    activations: float
    work: float
    peak: float

    def __str__(self) -> str:
        named = [f"{field.name} {getattr(self, field.name) / 1e9:.1f}" for field in fields(self)]
        return ", ".join(named) + " GB"


@dataclass(frozen=True)
class OnStage:
    """A part with the layers of it that a pipeline stage has."""

    trained: Trained
    layers: int

    @property
    def share(self) -> float:
        return self.layers / self.trained.part.layers


def on_stage(parts: Sequence[Trained], plan: RunLayout, stage: int) -> Iterator[OnStage]:
    """The parts of a pipeline stage; layers are spread in order, as evenly as they go."""
    for trained in parts:
        part, last = trained.part, plan.stages - 1
        if part.stage == "layers":
            yield OnStage(trained, sum(i * plan.stages // part.layers == stage for i in range(part.layers)))
        elif stage == (last if part.stage == "last" else 0):
            yield OnStage(trained, part.layers)


def memory(parts: Sequence[Trained], plan: RunLayout) -> Memory:
    """Of the stage that needs most."""
    stages = (_stage_memory(list(on_stage(parts, plan, stage)), plan, stage) for stage in range(plan.stages))
    return max(stages, key=lambda stage: stage.peak)


def _stage_memory(parts: Sequence[OnStage], plan: RunLayout, stage: int) -> Memory:
    ranks = plan.data_parallel
    trained = sum(p.trained.trained * p.share / _cut(p, plan) for p in parts)
    accumulating = plan.micro_batches > 1
    gradients = trained * (4 if accumulating else plan.parameter_bytes) / (ranks if plan.zero >= 2 else 1)
    state = trained * (MOMENTS + (REMAINDER if plan.parameter_bytes < 4 else 0)) / (ranks if plan.zero >= 1 else 1)
    parameters, casts = _parameters(parts, plan), _casts(parts, plan)
    held = min(plan.stages - stage, plan.micro_batches)
    activations = sum(_activations(p, plan) for p in parts) * held + _mask(parts, plan)
    work = max((_work(p, plan) for p in parts), default=0)
    before = activations + work + (gradients if accumulating else 0)
    peak = parameters + casts + state + max(before, gradients + _update_work(parts, plan))
    return Memory(parameters, casts, state, gradients, activations, work, peak)


def _cut(on: OnStage, plan: RunLayout) -> int:
    return plan.model_parallel if on.trained.part.cut else 1


def _parameters(parts: Sequence[OnStage], plan: RunLayout) -> float:
    """Stored parameters; where they are divided, also one layer's, gathered."""
    stored = [p.trained.numbers * p.share / _cut(p, plan) * plan.parameter_bytes for p in parts]
    if plan.zero < 3:
        return sum(stored)
    gathered = max((size / max(p.layers, 1) for size, p in zip(stored, parts)), default=0)
    return sum(stored) / plan.data_parallel + gathered


def _casts(parts: Sequence[OnStage], plan: RunLayout) -> float:
    """Copies of the weights in the compute dtype, which the backward pass takes up again."""
    if plan.compute_bytes == plan.parameter_bytes:
        return 0
    copies = [p.trained.numbers * p.share / _cut(p, plan) * plan.compute_bytes for p in parts]
    single = [size / max(p.layers, 1) for size, p in zip(copies, parts)]
    kept = [s if _forgets(p, plan) else c for c, s, p in zip(copies, single, parts) if p.trained.backward]
    return sum(kept) + max((s for s, p in zip(single, parts) if not p.trained.backward), default=0)


def _forgets(on: OnStage, plan: RunLayout) -> bool:
    """Whether its layers are computed again in the backward pass."""
    return plan.recompute and on.trained.part.recomputes


def _kept(on: OnStage, plan: RunLayout) -> float:
    """Bytes that one layer keeps of a micro-batch."""
    part = on.trained.part
    numbers = part.kept - part.split_kept + part.split_kept / plan.model_parallel + _scores(on, plan)
    return plan.rows * numbers * plan.compute_bytes


def _scores(on: OnStage, plan: RunLayout) -> float:
    """Numbers of a row's score matrices that are in memory."""
    return 0 if plan.flash else on.trained.part.scores / _cut(on, plan)


def _activations(on: OnStage, plan: RunLayout) -> float:
    if not on.trained.backward:
        return 0
    if _forgets(on, plan):
        return plan.rows * on.trained.part.entry * plan.compute_bytes * on.layers
    return _kept(on, plan) * on.layers


def _mask(parts: Sequence[OnStage], plan: RunLayout) -> float:
    """Composed attention's mask, expanded over the heads once for all decoder layers."""
    masked = [_scores(p, plan) for p in parts if p.trained.part.stage == "layers"]
    return plan.rows * max(masked, default=0) * plan.compute_bytes


def _work(on: OnStage, plan: RunLayout) -> float:
    """What a layer needs while it is at work: where it keeps nothing, all that it would keep."""
    part = on.trained.part
    again = _kept(on, plan) if _forgets(on, plan) or not on.trained.backward else 0
    numbers = part.work / _cut(on, plan) + SCORES_AT_WORK * _scores(on, plan)
    return again + plan.rows * (numbers * plan.compute_bytes + part.extra_bytes)


def _update_work(parts: Sequence[OnStage], plan: RunLayout) -> float:
    """What the optimizer needs for the largest of the weights: the gradient and three results in fp32."""
    sizes = [
        p.trained.trained / p.layers * p.share / _cut(p, plan) / len(p.trained.part.weights) * p.layers
        for p in parts if p.layers
    ]  # fmt: skip
    return 4 * 4 * max(sizes, default=0) / (plan.data_parallel if plan.zero >= 1 else 1)

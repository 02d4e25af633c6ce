"""Time of a training step: work of the slowest pipeline stage, waiting for the pipeline, and communication.

Nothing is taken to overlap: what overlaps in truth is in the utilisation that one assumes. A ring or a full mesh sends
(n − 1) / n of a tensor to gather or to reduce and scatter it among n devices, and twice that to reduce it on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ms_impl.estimate.memory import OnStage, on_stage
from ms_impl.estimate.parts import Trained
from ms_impl.estimate.plan import Device, RunLayout

ATTENTION_BACKWARD = {True: 2.5, False: 2.0}  # of the forward pass: flash attention computes the scores again


@dataclass(frozen=True)
class Communication:
    """Bytes that a device sends in a step."""

    gradients: float
    parameters: float
    tensor: float
    pipeline: float

    def seconds(self, plan: RunLayout, device: Device) -> float:
        inner = plan.model_parallel
        stage = plan.data_parallel * inner
        return (
            (self.gradients + self.parameters) / device.bandwidth(stage)
            + self.tensor / device.bandwidth(inner)
            + self.pipeline / device.bandwidth(2 * stage)
        )


@dataclass(frozen=True)
class Speed:
    """A step on paper. Flops are of all devices together, ``flops`` with what is computed again."""

    forward_flops: float
    flops: float
    compute_seconds: float
    communication: Communication
    communication_seconds: float
    tokens: int
    useful_tokens: float
    devices: int

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.communication_seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second and device, padding counted, as MindFormers publishes them."""
        return self.tokens / self.seconds / self.devices

    @property
    def useful_tokens_per_second(self) -> float:
        return self.useful_tokens / self.seconds / self.devices


def forward_flops(trained: Trained) -> float:
    """Of a row through a part, LoRA factors too."""
    return trained.part.matrix_flops + trained.part.attention_flops + _added_flops(trained)


def row_flops(trained: Trained, plan: RunLayout) -> float:
    """Of a row through a part, forward and backward, and forward again where it is recomputed.

    The gradient of a product costs as much as the product for what entered it, where something before it is trained,
    and as much again for its weights, where they are. LoRA factors need both.
    """
    part = trained.part
    flops = forward_flops(trained)
    if trained.backward:
        flops += part.attention_flops * ATTENTION_BACKWARD[plan.flash] + 2 * _added_flops(trained)
        flops += part.matrix_flops * (trained.reached + trained.own / max(part.size, 1))
        if plan.recompute and part.recomputes:
            flops += forward_flops(trained)
    return flops


def _added_flops(trained: Trained) -> float:
    part = trained.part
    modules = {name: f"{name.rsplit('.lora_', 1)[0]}.weight" for name in trained.added}
    return sum(2 * prod(shape) * part.passes(modules[name]) for name, shape in trained.added.items())


def speed(parts: Sequence[Trained], plan: RunLayout, device: Device) -> Speed:
    """Of a step of a run."""
    slowest = max(_stage_flops(list(on_stage(parts, plan, stage)), plan) for stage in range(plan.stages))
    compute = plan.micro_batches * slowest / (device.tflops * 1e12 * device.utilisation) * plan.bubble
    sent = communication(parts, plan)
    rows = plan.global_rows
    return Speed(
        forward_flops=rows * sum(map(forward_flops, parts)),
        flops=rows * sum(row_flops(trained, plan) for trained in parts),
        compute_seconds=compute,
        communication=sent,
        communication_seconds=sent.seconds(plan, device),
        tokens=rows * plan.length,
        useful_tokens=rows * plan.length * plan.useful,
        devices=plan.devices,
    )


def _stage_flops(parts: Sequence[OnStage], plan: RunLayout) -> float:
    """Of one micro-batch, on each device of a stage; what model parallelism does not cut, each computes whole."""
    return plan.rows * sum(
        row_flops(p.trained, plan) * p.share / (plan.model_parallel if p.trained.part.cut else 1) for p in parts
    )


def communication(parts: Sequence[Trained], plan: RunLayout) -> Communication:
    """Of the stage that sends most."""
    stages = [_stage_communication(list(on_stage(parts, plan, stage)), plan) for stage in range(plan.stages)]
    return max(stages, key=lambda sent: sent.gradients + sent.parameters + sent.tensor)


def _stage_communication(parts: Sequence[OnStage], plan: RunLayout) -> Communication:
    cut = [p.share / (plan.model_parallel if p.trained.part.cut else 1) for p in parts]
    trained = sum(p.trained.trained * share for p, share in zip(parts, cut))
    stored = sum(p.trained.numbers * share for p, share in zip(parts, cut))
    twice = sum(p.trained.numbers * share for p, share in zip(parts, cut) if p.trained.backward)
    hidden = plan.rows * next(p.trained.part.entry for p in parts if p.trained.part.stage == "layers")
    part = _fraction(plan.data_parallel)
    gathers = {0: 0, 1: trained, 2: stored, 3: plan.micro_batches * (stored + twice)}[plan.zero]
    return Communication(
        gradients=(2 if plan.zero < 2 else 1) * part * trained * plan.parameter_bytes,
        parameters=part * gathers * plan.parameter_bytes,
        tensor=plan.micro_batches * _tensor_parallel(parts, plan, hidden),
        pipeline=(2 if plan.stages > 1 else 0) * plan.micro_batches * hidden * plan.compute_bytes,
    )


def _tensor_parallel(parts: Sequence[OnStage], plan: RunLayout, hidden: float) -> float:
    """Bytes of a micro-batch: a layer's two AllReduces and the gathering of c_attn's product, forward and backward."""
    layers = sum(p.layers for p in parts if p.trained.part.stage == "layers")
    passes = 3 if plan.recompute else 2
    return layers * passes * (2 * 2 + 3) * _fraction(plan.model_parallel) * hidden * plan.compute_bytes


def _fraction(devices: int) -> float:
    return (devices - 1) / devices

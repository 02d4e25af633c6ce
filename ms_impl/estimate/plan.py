"""What an estimate takes for given: the device, and how a run trains on how many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ms_impl.cli.schema import lookup
from ms_impl.errors import InputError
from ms_impl.families import Scope
from ms_impl.io.dtypes import float_named

SEMI_AUTO = (1, 2)  # parallel.parallel_mode: semi-automatic, automatic


@dataclass(frozen=True)
class Device:
    """A device and its links. The defaults are an Ascend 910B in an Atlas 800T A2 of eight.

    Attributes:
        tflops: 24 cores × 1.8 GHz × 2 · 16³ operations a cycle (CANN's platform_config/Ascend910B2C.ini). Others quote
            313 (20 cores) and 376. A 4096³ product in bfloat16 was measured at 315 on a 910B2.
        hbm_gb: memory, in 10⁹ bytes · 1.0737 (64 GiB); ``reserved`` of it is the runtime's (MindFormers' YAMLs for
            this device have max_device_memory 57 to 59 GB).
        link_gbs: bytes/s · 10⁻⁹ that a device sends within its node: HCCS's 392 GB/s in both directions, halved.
        network_gbs: the same to another node: RoCE of 200 Gbit/s.
        utilisation: of tflops, what the matrix products of a whole step reach.
    """

    tflops: float = 354.0
    hbm_gb: float = 64 * 1.073741824
    link_gbs: float = 196.0
    network_gbs: float = 25.0
    node: int = 8
    utilisation: float = 0.50
    reserved: float = 0.10

    @property
    def memory(self) -> float:
        """Bytes that training may use."""
        return self.hbm_gb * 1e9 * (1 - self.reserved)

    def bandwidth(self, span: int) -> float:
        """Bytes/s between the members of a group that spans ``span`` consecutive devices."""
        return (self.link_gbs if span <= self.node else self.network_gbs) * 1e9


@dataclass(frozen=True)
class RunLayout:
    """How a run trains: ``rows`` of ``length`` tokens a micro-batch and data-parallel rank, cut over devices.

    Attributes:
        micro_batches: of a step, on each data-parallel rank.
        images: image slots of a row, each of which runs through the vision tower.
        useful: share of a row's tokens that is not padding.
        zero: 0: every data-parallel rank has everything; 1: the optimizer's state is divided among them; 2: gradients,
            too; 3: parameters, too, gathered layer by layer and again in the backward pass.
        flash: attention without its score matrix in memory; else composed of plain operators, norms and rotation too.
        frozen, only: what is trained, as in ``ms_impl.families.Scope``.
        lora: the YAML's section, or None.
    """

    rows: int
    length: int
    images: int = 1
    useful: float = 1.0
    micro_batches: int = 1
    data_parallel: int = 1
    model_parallel: int = 1
    stages: int = 1
    zero: int = 0
    recompute: bool = False
    flash: bool = True
    cut_vocabulary: bool = True
    compute_bytes: int = 2
    parameter_bytes: int = 4
    frozen: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    lora: Mapping[str, Any] | None = None

    @property
    def devices(self) -> int:
        return self.data_parallel * self.model_parallel * self.stages

    @property
    def global_rows(self) -> int:
        """Rows of a step, over all devices."""
        return self.rows * self.micro_batches * self.data_parallel

    @property
    def bubble(self) -> float:
        """Time that a step takes over what it would without waiting for the pipeline to fill and to drain."""
        return (self.micro_batches + self.stages - 1) / self.micro_batches

    def describe(self) -> str:
        """In a line."""
        return (
            f"data {self.data_parallel} × model {self.model_parallel} × pipeline {self.stages}, ZeRO-{self.zero}, "
            f"recompute {'on' if self.recompute else 'off'}, {self.micro_batches} × {self.rows} rows a rank"
        )


def plan_of(settings: Mapping[str, Any], scope: Scope, dialogue: int, flash: bool) -> RunLayout:
    """What a training YAML asks for.

    In semi-automatic parallelism MindSpore's optimizer parallelism divides the parameters too (ZeRO-3), or keeps them
    gathered until the backward pass (counted as ZeRO-2) where ``parallel_optimizer_comm_recompute`` is off. Otherwise
    our AdamW divides its state alone (ZeRO-1).

    Args:
        dialogue: tokens of a mean dialogue of one image: how many share a packed row, how much padding is left.
    """
    length = _number(settings, "train_dataset.modal_to_text_transform.max_length")
    packed = bool(lookup(settings, "train_dataset.packing"))
    together = max(1, length // dialogue) if packed else 1
    template = "train_dataset.modal_to_text_transform.model_transform_template"
    stages = _number(settings, "parallel_config.pipeline_stage", 1)
    accumulation = _number(settings, "runner_config.gradient_accumulation_steps", 1)
    return RunLayout(
        rows=_number(settings, "runner_config.batch_size"),
        length=length,
        images=together if packed else _number(settings, f"{template}.modal_content_padding_size", 1),
        useful=min(1.0, together * dialogue / length),
        micro_batches=_number(settings, "parallel_config.micro_batch_num", 1) if stages > 1 else accumulation,
        data_parallel=_number(settings, "parallel_config.data_parallel", 1),
        model_parallel=_number(settings, "parallel_config.model_parallel", 1),
        stages=stages,
        zero=_zero(settings),
        recompute=bool(lookup(settings, "recompute_config.recompute")),
        flash=flash,
        cut_vocabulary=not lookup(settings, "parallel_config.vocab_emb_dp"),
        compute_bytes=_bytes(settings, "compute_dtype"),
        parameter_bytes=_bytes(settings, "param_init_type"),
        frozen=scope.frozen,
        only=scope.only,
        lora=lookup(settings, "model.model_config.lora"),
    )


def _zero(settings: Mapping[str, Any]) -> int:
    if not lookup(settings, "parallel.enable_parallel_optimizer"):
        return 0
    if lookup(settings, "parallel.parallel_mode") not in SEMI_AUTO:
        return 1
    return 3 if lookup(settings, "recompute_config.parallel_optimizer_comm_recompute") else 2


def _number(settings: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = lookup(settings, key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise InputError(f"{key}: expected a whole number above 0, found {value!r}")
    return value


def _bytes(settings: Mapping[str, Any], key: str) -> int:
    name = lookup(settings, f"model.model_config.{key}") or "float32"
    return float_named(name, f"model.model_config.{key}").itemsize

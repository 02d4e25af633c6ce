"""A small model in Qwen-VL's shape, trained by the step that the Trainer runs and by torch_ref in eager mode.

Both take the same weights, columns, learning rate, decay and clipping; threads are bounded by the processor cores that
this process may use.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

LORA = {"r": 64, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["c_attn", "attn.c_proj", "w1", "w2"]}
ADAMW = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
LEARNING_RATE, MAX_NORM = 1e-5, 1.0


@dataclass(frozen=True)
class Shape:
    """A model in Qwen-VL's shape: heads of 64, a gated layer of 2.7 widths; a frozen tower of small images."""

    width: int = 512
    layers: int = 8
    vocab: int = 16384
    vision_width: int = 256
    vision_layers: int = 4
    image_size: int = 112
    queries: int = 64

    def config(self) -> dict[str, Any]:
        """As Hugging Face's config.json has it."""
        visual = {
            "heads": self.vision_width // 64, "image_size": self.image_size, "image_start_id": self.vocab - 3,
            "layers": self.vision_layers, "mlp_ratio": 4.0, "output_dim": self.width, "patch_size": 14,
            "width": self.vision_width, "n_queries": self.queries, "n_positions": (self.image_size // 14) ** 2,
        }  # fmt: skip
        return {
            "vocab_size": self.vocab, "hidden_size": self.width, "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // 64, "kv_channels": 64, "intermediate_size": 2 * 43 * self.width // 16,
            "seq_length": 2048, "visual": visual,
        }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained: the model's shape, the batch's [B, T, images a row], and how."""

    shape: Shape = Shape()
    rows: int = 1
    length: int = 1024
    images: int = 1
    labelled: float = 0.5
    lora: bool = False
    recompute: bool = False

    def changed(self, **fields: Any) -> "Case":
        """This case with other fields."""
        return replace(self, **fields)


def use_cores(number: int | None) -> int:
    """Bind this process to ``number`` cores (None: all it may use), for both frameworks, before they are imported."""
    cores = sorted(os.sched_getaffinity(0))[:number]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    return len(cores)


def columns(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch of full rows: images first, then text, of which the last part is labelled."""
    rng, shape = np.random.default_rng(seed), case.shape
    ids = rng.integers(0, shape.vocab, (case.rows, case.length)).astype(np.int32)
    labels = np.where(np.arange(case.length) >= round(case.length * (1 - case.labelled)), ids, -100).astype(np.int32)
    sizes = (case.rows, case.images, 3, shape.image_size, shape.image_size)
    slots = np.arange(case.images * shape.queries, dtype=np.int32).reshape(1, case.images, shape.queries) + 1
    return {
        "input_ids": ids,
        "images": rng.normal(0, 1, sizes).astype(np.float32),
        "image_context_pos": np.tile(slots, (case.rows, 1, 1)),
        "labels": labels,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(case.length, dtype=np.int32), (case.rows, 1)),
        "loss_weights": (labels != -100).astype(np.float32),
        "seeds": rng.integers(0, 2**31 - 1, case.rows).astype(np.int32),
    }


def our_step(case: Case) -> OurStep:
    """Our training step, from columns to the loss."""
    import mindspore as ms
    from mindformers.modules.transformer import TransformerOpParallelConfig
    from mindformers.modules.transformer.transformer import TransformerRecomputeConfig

    from ms_impl.plugin.family_classes import config_class, model_class
    from ms_impl.train.feed import step_columns

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(case.shape.config()))
        parallel = TransformerOpParallelConfig(recompute=TransformerRecomputeConfig(recompute=case.recompute))
        lora = LORA if case.lora else None
        section = config_class("qwenvl")(
            folder, freeze_vision=True, lora=lora, rows=case.rows, parallel_config=parallel
        )
    from ms_impl.qwenvl.template import QwenVLTemplate

    return step_of(model_class("qwenvl")(section), step_columns(QwenVLTemplate))


def step_of(model, names: Sequence[str]) -> OurStep:
    """The step that the Trainer runs, of a model as it takes it and the names of its columns."""
    from ms_impl.plugin.optimizer import AdamWDecayAll
    from ms_impl.plugin.train_step import TrainStep

    optimizer = AdamWDecayAll([{"params": model.trainable_params()}], learning_rate=LEARNING_RATE, **ADAMW)
    step = TrainStep(model, optimizer, use_clip_grad=True, max_grad_norm=MAX_NORM, scale_sense=1.0).set_train()
    return OurStep(step, model.network, names)


class OurStep:
    """The compiled training step: from columns to the loss."""

    def __init__(self, step, network, names: Sequence[str]):
        self.step, self.network, self.names = step, network, names

    def __call__(self, batch: Mapping[str, np.ndarray]) -> float:
        return float(self.step(*self.tensors(batch))[0].asnumpy())

    def weights(self) -> dict[str, np.ndarray]:
        """A copy of what the parameters hold."""
        return {parameter.name: parameter.asnumpy().copy() for parameter in self.network.get_parameters()}

    def compile(self, batch: Mapping[str, np.ndarray]) -> None:
        """Compile the graph for columns like these; run nothing."""
        self.step.compile(*self.tensors(batch))

    def tensors(self, batch: Mapping[str, np.ndarray]) -> list[Any]:
        """The columns as the step takes them."""
        import mindspore as ms

        return [ms.Tensor(batch[name]) for name in self.names]


def torch_step(
    case: Case, weights: Mapping[str, np.ndarray] | None = None
) -> Callable[[Mapping[str, np.ndarray]], float]:
    """torch_ref's training step on these base weights (None: random ones), with PEFT and ``torch.optim.AdamW``."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from ms_impl.qwenvl.config import QwenVLConfig
    from torch_ref.qwenvl.model import QwenVL

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = QwenVL(QwenVLConfig.from_dict(case.shape.config())).train()
    if weights:
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    model.freeze(("vision_tower",))
    if case.lora:
        from peft import LoraConfig, get_peft_model

        get_peft_model(model, LoraConfig(**LORA))
    if case.recompute:
        for block in (*model.transformer.h, *model.transformer.visual.transformer.resblocks):
            inner = block.forward
            block.forward = lambda *given, inner=inner: checkpoint(inner, *given, use_reentrant=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, **ADAMW)
    names = ("input_ids", "images", "image_context_pos", "labels", "segment_ids", "position_ids", "loss_weights")

    def train(batch: Mapping[str, np.ndarray]) -> float:
        optimizer.zero_grad()
        loss = model(*(torch.from_numpy(batch[name]) for name in names))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        return loss.item()

    return train

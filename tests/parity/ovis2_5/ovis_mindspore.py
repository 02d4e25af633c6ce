"""ms_impl as the parity suite drives it: numpy in, numpy out; few graphs, each of one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from ovis_reference import Stages
from ovis_vectors import COLUMNS, MEDIA, Batch
from safetensors.numpy import load_file
from stages import LOSS_SCALE

from ms_impl.kernels.operators import train_by_kernels
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.model import Ovis2_5
from ms_impl.ovis2_5.train_modules import TrainModule, trained
from ms_impl.train.adamw import AdamW
from ms_impl.train.gradient_norm import ClipByGlobalNorm

Weights = Mapping[str, np.ndarray]


class LogitsProbe(nn.Cell):
    """Embeddings and logits of a batch."""

    def __init__(self, model: Ovis2_5):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, input_ids, patches, segments, places, taps, columns, indicators, where, segment_ids, positions):
        media = self.model.media(patches, segments, places, taps, columns, indicators, where)
        hidden = self.model.embed(input_ids, media)
        return hidden, self.model.llm.logits(self.model.llm.model(hidden, segment_ids, positions))


class TowerProbe(nn.Cell):
    """What becomes of rows of patches, stage by stage."""

    def __init__(self, model: Ovis2_5):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, patches, segments, places, taps):
        tokenizer, table = self.model.visual_tokenizer, self.model.vte
        vision = tokenizer.vit.vision_model
        states = vision.hidden_states(patches, segments, places, taps)
        x = states[-1].reshape(states[-1].shape[0], -1, tokenizer.unit * states[-1].shape[-1]).astype(ms.float32)
        norm = tokenizer.head[1]
        rows = x.reshape(-1, x.shape[-1])
        shares = tokenizer.mix_over_chunks.shares(rows, tokenizer.head[0].weight, norm.weight, norm.bias)[2]
        return vision.embeddings.positions(taps), states, shares, tokenizer.embed(x, table)


class ScaledLoss(nn.Cell):
    """The training loss times the loss scale."""

    def __init__(self, model: Ovis2_5, scale: float):
        super().__init__(auto_prefix=False)
        self.model = model
        self.scale = scale

    def construct(self, input_ids, patches, segments, places, taps, columns, indicators, where, labels, own, positions):
        arrays = patches, segments, places, taps, columns, indicators, where
        return self.model(input_ids, *arrays, labels, own, positions) * self.scale


class OvisSide:
    """An Ovis2.5 in MindSpore with the weights of a checkpoint directory.

    ``mode``: "graph", "pynative", or "kernels", which computes by them what has one, in training, too, like "pynative".
    ``alter`` changes the weights: negative controls.
    """

    def __init__(
        self, directory: Path, mode: str, dtype: str, alter: Callable[[dict], Weights] = lambda weights: weights
    ):
        ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
        self.half = dtype == "fp16"
        self.name = f"ms_impl {mode} {dtype}"
        compute = ms.float16 if self.half else ms.float32
        self.config = Ovis2_5Config.from_file(directory)
        self.model = Ovis2_5(self.config, compute, param_dtype=ms.float32)
        self.weights = alter(load_file(directory / "model.safetensors"))
        self.restore()
        if mode == "kernels":
            train_by_kernels(self.model)
        self.logits_probe, self.tower_probes = LogitsProbe(self.model), {}
        self.parameters = ms.ParameterTuple(self.model.trainable_params())
        loss = ScaledLoss(self.model, LOSS_SCALE if self.half else 1.0).set_train(True)
        self.loss_and_gradients = ms.value_and_grad(loss, None, self.parameters)

    def restore(self) -> None:
        """Set every parameter; names must agree to the last one."""
        parameters = self.model.parameters_dict()
        assert set(parameters) == set(self.weights)
        for name, parameter in parameters.items():
            # set_data would be ignored by the graphs that have used the parameter after an optimizer's
            ms.ops.assign(parameter, Tensor(self.weights[name].astype(np.float32)))

    def logits(self, batch: Batch) -> Stages:
        """Embeddings [B, T, D] and logits [B, T, vocab]."""
        names = ("input_ids", *MEDIA, "segment_ids", "position_ids")
        embeds, logits = self.logits_probe.set_train(False)(*(Tensor(batch[name]) for name in names))
        return {"embeddings": embeds.asnumpy(), "logits": logits.asnumpy()}

    def tower(self, batch: Batch, full_layers: tuple[int, ...] | None = None) -> Stages:
        """What becomes of rows of patches, stage by stage."""
        encoder = self.model.visual_tokenizer.vit.vision_model.encoder
        own, encoder.full_layers = encoder.full_layers, full_layers or encoder.full_layers
        probe = self.tower_probes.setdefault(encoder.full_layers, TowerProbe(self.model).set_train(False))
        positions, states, shares, mixed = probe(*(Tensor(batch[name]) for name in MEDIA[:4]))
        encoder.full_layers = own
        stages = {"positions": positions, "patch embeddings": states[0]}
        stages |= {f"layer {number}": state for number, state in enumerate(states[1:])}
        return {name: a.asnumpy() for name, a in (stages | {"shares": shares, "visual tokens": mixed}).items()}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
        """The training loss and the gradient of every parameter that is ever trained."""
        scale = LOSS_SCALE if self.half else 1.0
        loss, gradients = self._gradients(batch)
        return float(loss.asnumpy()) / scale, {p.name: g.asnumpy() / scale for p, g in zip(self.parameters, gradients)}

    def _gradients(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.model.set_train(True)
        found = self.loss_and_gradients(*(Tensor(batch[name]) for name in COLUMNS if name in batch))
        self.model.set_train(False)
        return found

    def five_steps(self, batch: Batch, modules: list[TrainModule]) -> tuple[list[float], list[float]]:
        """Losses and gradient norms before each of five steps of AdamW, gradients clipped to norm 1."""
        owners = trained(modules, (p.name for p in self.parameters))
        chosen = [p for p in self.parameters if p.name in owners]
        rates = {owner.learning_rate or 1e-3 for owner in owners.values()}
        groups = [
            {"params": [p for p in chosen if (owners[p.name].learning_rate or 1e-3) == rate], "lr": rate}
            for rate in rates
        ]
        optimizer = AdamW(groups, 1e-3, (0.9, 0.95), 1e-8, weight_decay=0.1)
        clip, names = ClipByGlobalNorm(1.0), [p.name for p in self.parameters]
        places = [names.index(p.name) for p in optimizer.parameters]
        losses, norms, mode = [], [], ms.get_context("mode")
        for _ in range(5):
            loss, gradients = self._gradients(batch)
            ms.set_context(mode=ms.PYNATIVE_MODE)  # an optimizer's graph would be compiled for each variant
            clipped, norm = clip(tuple(gradients[place] for place in places))
            optimizer(clipped)
            ms.set_context(mode=mode)
            losses.append(float(loss.asnumpy()))
            norms.append(float(norm.asnumpy()[0]))
        return losses, norms

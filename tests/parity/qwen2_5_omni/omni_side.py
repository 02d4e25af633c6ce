"""ms_impl as the thinker's parity tests drive it: rows in, numpy out, one shape and so one graph for all cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from omni_vectors import AUDIO, COLUMNS, PATCHES, Batch, OmniVectors, Row
from stages import LOSS_SCALE

from ms_impl import families
from ms_impl.generate.decode import TokenStep
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.kernels.operators import train_by_kernels
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.model import Qwen2_5OmniThinker
from ms_impl.qwen2_5_omni.template import kinds_of
from ms_impl.train.adamw import AdamW
from ms_impl.train.gradient_norm import ClipByGlobalNorm

Weights = Mapping[str, np.ndarray]
Answers = tuple[np.ndarray, np.ndarray]


def converted(vectors: OmniVectors) -> dict[str, np.ndarray]:
    """The folder's weights through the project's own conversion, in fp32."""
    family = families.get("qwen2_5_omni")
    tensors = load_for_mindspore(vectors.folder, family, vectors.configuration, "fp32")
    return {tensor.name: tensor.array() for tensor in tensors}


class Probe(nn.Cell):
    """Both towers' features and the logits of one forward pass."""

    def __init__(self, model: Qwen2_5OmniThinker):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(
        self, input_ids, patches, patch_segments, patch_places, patch_columns, mel, mel_frames, mel_columns,
        segment_ids, position_ids,
    ):  # fmt: skip
        """Features [B · R, L / 4, D] and [B · C, 50, D], logits [B, T, vocab]."""
        media = self.model.media_features(
            patches, patch_segments, patch_places, patch_columns, mel, mel_frames, mel_columns
        )
        hidden = self.model.model(self.model.embed(input_ids, media), segment_ids, position_ids)
        return media[0][0], media[1][0], self.model.lm_head(hidden)


class ScaledLoss(nn.Cell):
    """The loss times the loss scale."""

    def __init__(self, model: Qwen2_5OmniThinker, scale: float):
        super().__init__(auto_prefix=False)
        self.model = model
        self.scale = scale

    def construct(
        self, input_ids, patches, patch_segments, patch_places, patch_columns, mel, mel_frames, mel_columns, labels,
        segment_ids, position_ids, loss_weights,
    ):  # fmt: skip
        """A scalar."""
        loss = self.model(
            input_ids, patches, patch_segments, patch_places, patch_columns, mel, mel_frames, mel_columns, labels,
            segment_ids, position_ids, loss_weights,
        )  # fmt: skip
        return loss * self.scale


class OmniSide:
    """A thinker in MindSpore with the weights of a folder.

    ``mode``: "graph", "pynative", or "kernels", which computes by them what has one, in training, too, like "pynative".
    ``alter`` changes the weights on their way, ``config`` replaces the folder's: negative controls.
    """

    def __init__(
        self, vectors: OmniVectors, mode: str, dtype: str = "fp32",
        alter: Callable[[dict], Weights] = lambda weights: weights, config: Qwen2_5OmniConfig | None = None,
    ):  # fmt: skip
        self.mode = ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE
        ms.set_context(mode=self.mode)
        self.vectors, self.half = vectors, dtype == "fp16"
        self.name = f"omni {mode} {dtype}"
        compute = ms.float16 if self.half else ms.float32
        self.model = Qwen2_5OmniThinker(config or vectors.configuration, compute, param_dtype=ms.float32)
        self.load(alter(converted(vectors)))
        self.probe = Probe(self.model)
        self.model.set_train(False)
        if mode == "kernels":
            train_by_kernels(self.model)

    def load(self, weights: Weights) -> None:
        """Set every parameter; names and shapes must agree to the last one."""
        parameters = self.model.parameters_dict()
        assert set(parameters) == set(weights)
        for name, parameter in parameters.items():
            assert parameter.shape == weights[name].shape, name
            parameter.set_data(Tensor(np.ascontiguousarray(weights[name])))

    def call(self, **arrays: np.ndarray) -> np.ndarray:
        """The model's own construct in eval mode: logits, or the loss where there are labels."""
        ms.set_context(mode=self.mode)
        return self.model.set_train(False)(**{name: Tensor(array) for name, array in arrays.items()}).asnumpy()

    def run(self, batch: Batch) -> list[np.ndarray]:
        """The probe's patch features [B, R, L / 4, D], audio features [B, C, 50, D] and logits [B, T, vocab]."""
        ms.set_context(mode=self.mode)
        self.probe.set_train(False)
        given = [Tensor(batch[key]) for key in COLUMNS if key not in ("labels", "loss_weights")]
        patches, mel, logits = (array.asnumpy() for array in self.probe(*given))
        rows = len(batch["input_ids"])
        return [patches.reshape(rows, -1, *patches.shape[1:]), mel.reshape(rows, -1, *mel.shape[1:]), logits]

    def logits(self, rows: Sequence[Row], batch: Batch | None = None) -> list[np.ndarray]:
        """Of each row at its own columns: [t, vocab]."""
        found = self.run(batch or self.vectors.batch(rows))[2]
        return [found[number, : len(row.ids)] for number, row in enumerate(rows)]

    def features(self, row: Row, batch: Batch | None = None) -> np.ndarray:
        """What stands at the columns of a row that holds nothing but placeholders: [t, D]."""
        batch = batch or self.vectors.batch([row])
        patches, mel, _ = self.run(batch)
        out = np.full((len(row.ids), patches.shape[-1]), np.nan, patches.dtype)
        for features, name in ((patches, PATCHES[-1]), (mel, AUDIO[-1])):
            columns = batch[name][0]
            out[columns[columns < len(out)]] = features[0][columns < len(out)]
        return out

    def gradients(self, batch: Batch, without: Sequence[str] = ()) -> tuple[float, dict[str, np.ndarray]]:
        """The training loss and the gradient of every trained parameter; ``without``: arrays given as None."""
        ms.set_context(mode=self.mode)
        given = [Tensor(batch[key]) if key in batch and key not in without else None for key in COLUMNS]
        scaled, step = self.training
        scaled.set_train(True)
        loss, gradients = step(*given)
        scaled.set_train(False)
        names = [parameter.name for parameter in self.model.trainable_params()]
        found = {name: gradient.asnumpy() / scaled.scale for name, gradient in zip(names, gradients)}
        return float(loss.asnumpy()) / scaled.scale, found

    @cached_property
    def training(self) -> tuple[ScaledLoss, Callable]:
        """The loss and what computes it with its gradients, compiled once a shape."""
        loss = ScaledLoss(self.model, LOSS_SCALE if self.half else 1.0)
        return loss, ms.value_and_grad(loss, None, ms.ParameterTuple(self.model.trainable_params()))

    def greedy(self, rows: Sequence[Row], next_positions: Sequence[int], count: int, plain: bool = False) -> Answers:
        """Tokens [B, count], and the logits [count, B, vocab] that they were taken from, by ``ms_impl.generate``.

        ``plain``: tokens by MindSpore's operators, even where there is a kernel.
        """
        batch = self.vectors.batch(rows, self.vectors.sizes_of(rows))
        del batch["labels"]
        batch["next_positions"] = np.array(next_positions, np.int32)
        room = batch["input_ids"].shape[1] + count
        with self.model.decoders.lend(len(rows), room) as decoder:
            if plain:
                decoder.token_step = TokenStep(self.model, decoder.cache)
            logits = [decoder.prefill(batch, kinds_of(self.vectors.configuration.audio_config.num_mel_bins))]
            for _ in range(count - 1):
                logits.append(decoder.step(logits[-1].argmax(-1)))
            if plain:
                del decoder.token_step
        return np.stack(logits).argmax(-1).T, np.stack(logits)

    def trained(self, groups: Sequence[str]) -> list[ms.Parameter]:
        """The parameters that are trained where these groups are frozen."""
        self.model.freeze(tuple(groups))
        left = list(self.model.trainable_params())
        self.model.freeze(())
        return left

    def five_losses(self, trained: Sequence[ms.Parameter], batch: Batch) -> tuple[list[float], list[float]]:
        """Before each of five steps of AdamW: losses, and norms of the unclipped gradients of what is trained."""
        groups = [{"params": list(trained), "weight_decay": 0.1}]
        optimizer = AdamW(groups, learning_rate=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        clip, losses, norms = ClipByGlobalNorm(1.0), [], []
        for _ in range(5):
            loss, gradients = self.gradients(batch)
            ms.set_context(mode=ms.PYNATIVE_MODE)  # an optimizer's graph would be compiled for each variant
            clipped, norm = clip(tuple(Tensor(gradients[parameter.name]) for parameter in optimizer.parameters))
            optimizer(clipped)
            losses.append(loss)
            norms.append(float(norm.asnumpy().reshape(())))
        return losses, norms

    def restore(self) -> None:
        """The folder's weights. ``set_data`` would be ignored by graphs that have used a parameter after an optimizer's."""
        ms.set_context(mode=ms.PYNATIVE_MODE)
        for name, array in converted(self.vectors).items():
            ops.assign(self.model.parameters_dict()[name], Tensor(array))

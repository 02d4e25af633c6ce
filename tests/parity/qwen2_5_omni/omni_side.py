"""ms_impl as the thinker's parity tests drive it: rows in, numpy out, one shape and so one graph for all cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from omni_vectors import AUDIO, COLUMNS, PATCHES, Batch, OmniVectors, Row
from safetensors.numpy import load_file
from stages import LOSS_SCALE

from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.model import Qwen2_5OmniThinker

Weights = Mapping[str, np.ndarray]


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

    ``alter`` changes the weights on their way, ``config`` replaces the folder's: negative controls.
    """

    def __init__(
        self, vectors: OmniVectors, mode: str, dtype: str = "fp32",
        alter: Callable[[dict], Weights] = lambda weights: weights, config: Qwen2_5OmniConfig | None = None,
    ):  # fmt: skip
        self.mode = ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE
        ms.set_context(mode=self.mode)
        self.vectors, self.half = vectors, dtype == "fp16"
        self.name = f"ms_impl {mode} {dtype}"
        compute = ms.float16 if self.half else ms.float32
        self.model = Qwen2_5OmniThinker(config or vectors.configuration, compute, param_dtype=ms.float32)
        self.load(alter(load_file(vectors.folder / "model.safetensors")))
        self.probe = Probe(self.model)
        self.model.set_train(False)

    def load(self, weights: Weights) -> None:
        """Set every parameter; names and shapes must agree to the last one."""
        parameters = self.model.parameters_dict()
        assert set(parameters) == set(weights)
        for name, parameter in parameters.items():
            assert parameter.shape == weights[name].shape, name
            parameter.set_data(Tensor(np.ascontiguousarray(weights[name])))

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
        scale = LOSS_SCALE if self.half else 1.0
        network = ScaledLoss(self.model, scale).set_train(True)
        parameters = self.model.trainable_params()
        given = [Tensor(batch[key]) if key in batch and key not in without else None for key in COLUMNS]
        loss, gradients = ms.value_and_grad(network, None, ms.ParameterTuple(parameters))(*given)
        self.model.set_train(False)
        found = {p.name: g.asnumpy() / scale for p, g in zip(parameters, gradients)}
        return float(loss.asnumpy()) / scale, found

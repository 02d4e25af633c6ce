"""ms_impl as the parity suite drives it: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from stages import LOSS_SCALE

from ms_impl import families
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.kernels.operators import train_by_kernels
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL

Weights = Mapping[str, np.ndarray]


class Probe(nn.Cell):
    """Hidden states and logits of one forward pass."""

    def __init__(self, model: QwenVL):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, input_ids, images=None, image_context_pos=None, segment_ids=None):
        """(embeddings, each layer's output, the normalised last one, logits)."""
        states = self.model.hidden_states(input_ids, images, image_context_pos, segment_ids)
        return (*states, self.model.lm_head(states[-1]))


class ScaledLoss(nn.Cell):
    """The training loss times the loss scale."""

    def __init__(self, model: QwenVL, scale: float):
        super().__init__(auto_prefix=False)
        self.model = model
        self.scale = scale

    def construct(self, input_ids, images, image_context_pos, segment_ids, labels):
        """A scalar."""
        return self.model(input_ids, images, image_context_pos, labels, segment_ids) * self.scale


class MindSporeSide:
    """A Qwen-VL in MindSpore with the converted weights of a checkpoint directory.

    ``mode``: "graph", "pynative", or "kernels", which computes by them what has one, in training, too, like "pynative".
    ``alter`` changes the weights on their way: negative controls.
    """

    def __init__(
        self, directory: Path, mode: str, dtype: str, alter: Callable[[dict], Weights] = lambda weights: weights
    ):
        ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
        self.half = dtype == "fp16"
        self.name = f"ms_impl {mode} {dtype}"
        compute = ms.float16 if self.half else ms.float32
        self.model = QwenVL(QwenVLConfig.from_file(directory), compute, param_dtype=ms.float32)
        self.load(alter(converted(directory)))
        self.probe = Probe(self.model)
        self.model.set_train(False)
        if mode == "kernels":
            train_by_kernels(self.model)

    def load(self, weights: Weights) -> None:
        """Set every parameter; names must agree to the last one."""
        parameters = self.model.parameters_dict()
        assert set(parameters) == set(weights)
        for name, parameter in parameters.items():
            parameter.set_data(Tensor(np.ascontiguousarray(weights[name])))

    def features(self, images: np.ndarray) -> np.ndarray:
        """[N, 3, S, S] → [N, Q, D]."""
        return self.model.transformer.visual(Tensor(images)).asnumpy()

    def states(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Embeddings, hidden states and, last, logits."""
        keys = ("images", "image_context_pos", "segment_ids")
        images = [Tensor(batch[key]) if key in batch else None for key in keys]
        self.probe.set_train(False)
        return [state.asnumpy() for state in self.probe(Tensor(batch["input_ids"].astype(np.int32)), *images)]

    def gradients(self, batch: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The training loss and the gradient of every parameter."""
        scale = LOSS_SCALE if self.half else 1.0
        network = ScaledLoss(self.model, scale).set_train(True)
        parameters = self.model.trainable_params()
        loss, gradients = ms.value_and_grad(network, None, parameters)(
            *(Tensor(batch[key]) for key in ("input_ids", "images", "image_context_pos", "segment_ids")),
            Tensor(labels.astype(np.int32)),
        )
        found = {p.name: g.asnumpy() / scale for p, g in zip(parameters, gradients)}
        return float(loss.asnumpy()) / scale, found


def converted(directory: Path) -> dict[str, np.ndarray]:
    """The MindSpore weights of a Hugging Face directory, through the project's own conversion, in fp32."""
    family = families.get("qwenvl")
    tensors = load_for_mindspore(directory, family, QwenVLConfig.from_file(directory), "fp32")
    return {tensor.name: tensor.array() for tensor in tensors}

"""Ovis2.5's visual tokenizer in MindSpore: what a visual token is mixed of (the original's ``VisualTokenizer``)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from ms_impl.cells.device import unless_on_ascend
from ms_impl.cells.linear import INIT_SIGMA, Linear, parameter
from ms_impl.cells.norms import LayerNorm
from ms_impl.kernels.operators import weighted_rows_operator
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.vision import VisionTower
from ms_impl.ovis2_5.visual_table import MixOverChunks
from ms_impl.ovis2_5.visual_words import TOKENS_AT_ONCE, mix_on_host

HEAD_EPS = 1e-5


class VisualTable(nn.Cell):
    """Embeddings of the visual vocabulary; its last rows stand for where a visual begins and ends (``vte``)."""

    kernel = None  # mixes the table's rows as they are, where nothing is trained

    def __init__(self, config: Ovis2_5Config, dtype: ms.Type):
        super().__init__()
        shape = (config.visual_vocab_size, config.hidden_size)
        self.weight = parameter("weight", shape, dtype, Normal(INIT_SIGMA))
        self.words = config.visual_tokens
        self.gather = ops.Gather()
        self.softmax = ops.Softmax(-1)
        self.matmul = ops.MatMul()

    def use_kernel(self) -> None:
        """Mix by a kernel where nothing is trained."""
        self.kernel = weighted_rows_operator()

    def indicators(self, ids: Tensor) -> Tensor:
        """Embeddings of indicators, int […] from 0 on: […, D], in fp32."""
        return self.gather(self.weight.astype(ms.float32), ids + self.words, 0)

    def mix(self, scores: Tensor) -> Tensor:
        """scores [M, W − 4] → softmax(scores), in fp32, times the table: [M, D]."""
        shares = self.softmax(scores.astype(ms.float32))
        if self.kernel is not None and not self.training:
            return self.kernel(shares, self.weight)
        return self.matmul(shares, self.weight[: self.words].astype(ms.float32))


class VisualTokenizer(nn.Cell):
    """The tower, and the head that scores the visual vocabulary."""

    def __init__(self, config: Ovis2_5Config, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        vision = config.vit_config
        self.unit = vision.hidden_stride**2
        self.vit = VisionTower(vision, compute_dtype, dtype)
        self.head = nn.CellList([
            Linear(vision.merged_width, config.visual_tokens, bias=False, dtype=dtype),
            LayerNorm(config.visual_tokens, HEAD_EPS, dtype),
        ])  # fmt: skip
        self.mix_over_chunks = unless_on_ascend(MixOverChunks, HEAD_EPS)

    def features(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """What the head scores: the patches of a visual token side by side, [N, L / 4, 4 · width]."""
        return self.side_by_side(self.vit(patches, segments, places, taps))

    def side_by_side(self, x: Tensor) -> Tensor:
        """Patches [N, L, width] → those of each visual token, [N, L / 4, 4 · width]."""
        return x.reshape(x.shape[0], x.shape[1] // self.unit, -1)

    def embed_on_host(self, x: np.ndarray, table: VisualTable) -> np.ndarray:
        """``embed`` of what the tower gives, [N, L, width], where the weights have 16 bits and there is no kernel."""
        count, length, width = x.shape
        linear, norm = self.head[0], self.head[1]
        features = x.astype(np.float32).reshape(-1, self.unit * width)
        mixed = mix_on_host(features, linear.weight, norm.weight, norm.bias, table.weight, HEAD_EPS)
        return mixed.reshape(count, length // self.unit, -1)

    def embed(self, features: Tensor, table: VisualTable) -> Tensor:
        """features […, 4 · width] → embeddings of visual tokens […, D], in fp32."""
        rows = features.astype(ms.float32).reshape(-1, features.shape[-1])
        linear, norm = self.head[0], self.head[1]
        if self.mix_over_chunks is None or linear.adapted is not None:
            mixed = table.mix(norm(linear(rows)))
        elif table.kernel is not None and not self.training:
            parts = ()
            for start in range(0, rows.shape[0], TOKENS_AT_ONCE):
                parts += (table.mix(norm(linear(rows[start : start + TOKENS_AT_ONCE]))),)
            mixed = parts[0] if len(parts) == 1 else ops.concat(parts, 0)
        else:
            weights = (linear.weight, norm.weight, norm.bias, table.weight)
            mixed = self.mix_over_chunks(rows, *[weight.astype(ms.float32) for weight in weights])
        return mixed.reshape(*features.shape[:-1], -1)

"""Ovis2.5's visual tokenizer in PyTorch: what a visual token is mixed of (the original's ``VisualTokenizer``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.ovis2_5.config import INDICATORS, Ovis2_5Config
from torch_ref.ovis2_5.vision import VisionTower
from torch_ref.precision import at_least_fp32

HEAD_EPS = 1e-5


class VisualTable(nn.Module):
    """Embeddings of the visual vocabulary; its last rows stand for where a visual begins and ends (``vte``)."""

    def __init__(self, config: Ovis2_5Config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.visual_vocab_size, config.hidden_size))

    def indicators(self, ids: Tensor) -> Tensor:
        """Embeddings of indicators, int […] from 0 on: […, D]."""
        return F.embedding(ids.long(), self.weight[-INDICATORS:])

    def mix(self, scores: Tensor) -> Tensor:
        """scores […, W − 4] → softmax(scores), in fp32, times the table: […, D]."""
        return at_least_fp32(scores).softmax(-1) @ at_least_fp32(self.weight[:-INDICATORS])


class VisualTokenizer(nn.Module):
    """The tower, and the head that scores the visual vocabulary."""

    def __init__(self, config: Ovis2_5Config):
        super().__init__()
        vision = config.vit_config
        self.unit = vision.hidden_stride**2
        self.vit = VisionTower(vision)
        self.head = nn.Sequential(
            nn.Linear(vision.merged_width, config.visual_tokens, bias=False),
            nn.LayerNorm(config.visual_tokens, HEAD_EPS),
        )

    def features(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """What the head scores: the patches of a visual token side by side, [N, L / 4, 4 · width]."""
        return self.vit(patches, segments, places, taps).unflatten(1, (-1, self.unit)).flatten(2)

    def embed(self, features: Tensor, table: VisualTable) -> Tensor:
        """features […, 4 · width] → embeddings of visual tokens […, D]."""
        return table.mix(self.head(features))

"""Qwen2.5-Omni's vision tower in MindSpore: rows of patches, in which frames and windows are segments.

Nothing is reordered: a patch attends to those of its frame or of its window, wherever they stand in the row, and the
2 × 2 patches of a merged unit are neighbours already.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from ms_impl.cells.add import Add
from ms_impl.cells.decoder import GatedMLP
from ms_impl.cells.encoder_attention import EncoderAttention
from ms_impl.cells.gelu import Gelu
from ms_impl.cells.linear import Linear
from ms_impl.cells.norms import RMSNorm
from ms_impl.cells.patch_convolution import PatchConvolution
from ms_impl.cells.rotary import PlaneAngles
from ms_impl.qwen2_5_omni.config import VisionConfig

NORM_EPS = 1e-6


class PatchEmbedding(nn.Cell):
    """The checkpoint's ``patch_embed``."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        shape = (config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = PatchConvolution(config.hidden_size, shape, False, dtype)

    def construct(self, patches: Tensor) -> Tensor:
        """[N, L, patch features] → [N, L, width]."""
        return self.proj(patches)


class VisionAttention(nn.Cell):
    """Self-attention within segments, rotated by the patches' places."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        width = config.hidden_size
        self.q, self.k, self.v, self.proj = (Linear(width, width, dtype=dtype) for _ in range(4))
        self.attention = EncoderAttention(config.num_heads, config.head_dim)

    def construct(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.proj(self.attention(self.q(x), self.k(x), self.v(x), mask, cos, sin))


class VisionBlock(nn.Cell):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, NORM_EPS, dtype)
        self.attn = VisionAttention(config, dtype)
        self.norm2 = RMSNorm(config.hidden_size, NORM_EPS, dtype)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, dtype, bias=True)
        self.add = Add()

    def construct(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        x = self.add(x, self.attn(self.norm1(x), mask, cos, sin))
        return self.add(x, self.mlp(self.norm2(x)))


class PatchMerger(nn.Cell):
    """The aligner: each unit of 2 × 2 patches becomes one feature of the language model's width."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.merged_width = config.merged_width
        self.ln_q = RMSNorm(config.hidden_size, NORM_EPS, dtype)
        first = Linear(config.merged_width, config.merged_width, dtype=dtype)
        self.mlp = nn.SequentialCell(first, Gelu(), Linear(config.merged_width, config.out_hidden_size, dtype=dtype))

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L / 4, D]."""
        return self.mlp(self.ln_q(x).reshape(x.shape[0], -1, self.merged_width))


class VisionTower(nn.Cell):
    """Patches → blocks → merger: the checkpoint's ``visual``."""

    def __init__(self, config: VisionConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.whole_frames = config.fullatt_block_indexes
        self.patch_embed = PatchEmbedding(config, dtype)
        self.blocks = nn.CellList([VisionBlock(config, dtype) for _ in range(config.depth)])
        self.merger = PatchMerger(config, dtype)
        self.angles = PlaneAngles(config.head_dim)
        self.attention = EncoderAttention(config.num_heads, config.head_dim)

    @property
    def beside(self) -> list[tuple[int, ...]]:
        """Which of what ``begin`` gives behind x each block takes: the mask of frames or of windows, cos and sin."""
        return [(0 if number in self.whole_frames else 1, 2, 3) for number in range(len(self.blocks))]

    def begin(self, patches: Tensor, segments: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """Embedded patches [N, L, width], masks of frames and windows, cos and sin; arguments as of ``construct``."""
        x = self.patch_embed(patches.astype(self.compute_dtype))
        by_frame = self.attention.within(segments[:, :, 0], x.dtype)
        by_window = self.attention.within(segments[:, :, 1], x.dtype)
        return x, by_frame, by_window, *self.angles(places)

    def construct(self, patches: Tensor, segments: Tensor, places: Tensor) -> Tensor:
        """[N, L, patch features] → features [N, L / 4, D].

        Args:
            segments: int [N, L, 2], the number of each patch's frame and of its window, unique in the row; 0 is
                padding.
            places: int [N, L, 2], row and column of each patch in its frame.
        """
        x, by_frame, by_window, cos, sin = self.begin(patches, segments, places)
        for number, block in enumerate(self.blocks):
            x = block(x, by_frame if number in self.whole_frames else by_window, cos, sin)
        return self.merger(x)

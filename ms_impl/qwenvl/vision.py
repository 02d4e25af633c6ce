"""Qwen-VL's vision tower in MindSpore (``visual.py`` of the original: VisionTransformer and its parts)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.common.initializer import Normal

from ms_impl.cells.add import Add
from ms_impl.cells.attention import attention
from ms_impl.cells.gelu import Gelu
from ms_impl.cells.heads import JoinHeads, SplitPacked
from ms_impl.cells.linear import INIT_SIGMA, Linear, linear, parameter
from ms_impl.cells.norms import LayerNorm
from ms_impl.cells.patch_convolution import PatchConvolution
from ms_impl.kernels.operators import weighted_rows_operator
from ms_impl.qwenvl.config import VisionConfig
from ms_impl.qwenvl.resampler import LAYER_NORM_EPS, PositionResizer, Resampler


class VisionAttention(nn.Cell):
    """Self-attention whose ``in_proj`` is packed per head: [heads][q, k, v][head_dim]."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.head_dim
        self.in_proj = Linear(config.width, 3 * config.width, dtype=dtype)
        self.out_proj = Linear(config.width, config.width, dtype=dtype)
        self.split_heads = SplitPacked(self.heads, self.head_dim, by_head=True, rotary=False)
        self.join_heads = JoinHeads()
        self.attention = attention(self.heads, self.head_dim)

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        q, k, v = self.split_heads(self.in_proj(x))
        return self.out_proj(self.join_heads(self.attention(q, k, v)))


class VisionMLP(nn.Cell):
    """Two linear layers around the exact (erf) GELU."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.c_fc = Linear(config.width, config.mlp_width, dtype=dtype)
        self.c_proj = Linear(config.mlp_width, config.width, dtype=dtype)
        self.gelu = Gelu()

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.c_proj(self.gelu(self.c_fc(x)))


class VisionBlock(nn.Cell):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.ln_1 = LayerNorm(config.width, LAYER_NORM_EPS, dtype)
        self.attn = VisionAttention(config, dtype)
        self.ln_2 = LayerNorm(config.width, LAYER_NORM_EPS, dtype)
        self.mlp = VisionMLP(config, dtype)
        self.add = Add()

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        x = self.add(x, self.attn(self.ln_1(x)))
        return self.add(x, self.mlp(self.ln_2(x)))


class VisionBlocks(nn.Cell):
    """The stack of blocks; a cell of its own because the checkpoint names it ``transformer.resblocks``."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        self.resblocks = nn.CellList([VisionBlock(config, dtype) for _ in range(config.layers)])

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        for block in self.resblocks:
            x = block(x)
        return x


class PatchEmbedding(PatchConvolution):
    """The patches of images, embedded."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__(config.width, (3, config.patch_size, config.patch_size), False, dtype)
        self.patch = config.patch_size

    def construct(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → patches [N, grid², width], row by row."""
        n, channels, size, _ = images.shape
        grid, patch = size // self.patch, self.patch
        x = images.reshape(n, channels, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
        return self.embed(x.reshape(n, grid * grid, channels * patch * patch))


class VisionTower(nn.Cell):
    """Patches → transformer → resampler → ``num_queries`` features an image."""

    kernel = None  # of the last product, where nothing is trained

    def __init__(self, config: VisionConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.conv1 = PatchEmbedding(config, dtype)
        self.positional_embedding = parameter(
            "positional_embedding", (config.n_positions, config.width), dtype, Normal(INIT_SIGMA)
        )
        self.resize = PositionResizer(config.n_positions, config.grid)
        self.ln_pre = LayerNorm(config.width, LAYER_NORM_EPS, dtype)
        self.transformer = VisionBlocks(config, dtype)
        self.attn_pool = Resampler(config, dtype)
        self.ln_post = LayerNorm(config.output_dim, LAYER_NORM_EPS, dtype)
        self.proj = parameter("proj", (config.output_dim, config.output_dim), dtype, Normal(config.output_dim**-0.5))

    def use_kernel(self) -> None:
        """Compute the last product by a kernel where nothing is trained."""
        self.kernel = weighted_rows_operator()

    def patches(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → embedded patches with positions [N, grid², width]."""
        x = self.conv1(images.astype(self.compute_dtype))
        return self.ln_pre(x + self.resize(self.positional_embedding).astype(x.dtype).expand_dims(0))

    def features(self, x: Tensor) -> Tensor:
        """The last block's output [N, grid², width] → features [N, num_queries, output_dim]."""
        x = self.ln_post(self.attn_pool(x))
        if self.kernel is not None and not self.training:
            return self.kernel(x, self.proj)
        return linear(x, self.proj.astype(x.dtype).T)

    def construct(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → features [N, num_queries, output_dim]."""
        return self.features(self.transformer(self.patches(images)))

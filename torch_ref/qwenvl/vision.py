"""Qwen-VL's vision tower in PyTorch (``visual.py`` of the original: VisionTransformer and its parts)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.qwenvl.config import VisionConfig
from torch_ref.qwenvl.resampler import LAYER_NORM_EPS, Resampler, resize_positions


class VisionAttention(nn.Module):
    """Self-attention whose ``in_proj`` is packed per head: [heads][q, k, v][head_dim]."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.head_dim
        self.in_proj = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        n, length, width = x.shape
        qkv = self.in_proj(x).reshape(n, length, self.heads, 3, self.head_dim)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-1, -2)
        y = scores.softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).reshape(n, length, width))


class VisionMLP(nn.Module):
    """Two linear layers around the exact (erf) GELU."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.width, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.c_proj(F.gelu(self.c_fc(x)))


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class VisionBlocks(nn.Module):
    """The stack of blocks; a module of its own because the checkpoint names it ``transformer.resblocks``."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTower(nn.Module):
    """Patches → transformer → resampler → ``num_queries`` features an image."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.grid = config.grid
        self.conv1 = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(config.n_positions, config.width))
        self.ln_pre = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.transformer = VisionBlocks(config)
        self.attn_pool = Resampler(config)
        self.ln_post = nn.LayerNorm(config.output_dim, eps=LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(config.output_dim, config.output_dim))

    def patches(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → embedded patches with positions [N, grid², width]."""
        x = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        return self.ln_pre(x + resize_positions(self.positional_embedding, self.grid))

    def forward(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → features [N, num_queries, output_dim]."""
        x = self.transformer(self.patches(images))
        return self.ln_post(self.attn_pool(x)) @ self.proj

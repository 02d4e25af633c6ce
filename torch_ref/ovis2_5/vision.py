"""Ovis2.5's vision tower in PyTorch: SigLIP 2 at native resolution (the original's ``Siglip2NavitModel``).

Patches of a frame stand in blocks of hidden_stride × hidden_stride, so that a visual token's are neighbours. Frames and
windows are segments: nothing is reordered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.ovis2_5.config import VitConfig
from torch_ref.decoder import attend, rotate, same_segment
from torch_ref.precision import angle_dtype, at_least_fp32

ROTARY_BASE = 10000.0


class PlaneAngles(nn.Module):
    """Rotary angles of a patch: half of a head's pairs turn by its row, half by its column."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Row and column, int [N, L, 2] → cos and sin, in ``dtype``, [N, 1, L, dim]."""
        half = self.dim // 2
        inv_freq = 1.0 / ROTARY_BASE ** (torch.arange(0, half, 2, dtype=dtype) / half)
        angles = (places[..., None].to(dtype) * inv_freq).flatten(2)
        angles = torch.cat((angles, angles), -1)[:, None]
        return angles.cos(), angles.sin()


class VisionEmbeddings(nn.Module):
    """Patches times the patch convolution's kernel, plus the learned positions, resized to the patch's grid."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.position_embedding = nn.Embedding(config.position_side**2, config.hidden_size)

    def positions(self, taps: Tensor) -> Tensor:
        """Σ a_i·b_j·P_ij for taps a, b [N, L, 2, side]: [N, L, width], in fp32."""
        rows, columns = at_least_fp32(taps).unbind(2)
        table = at_least_fp32(self.position_embedding.weight)
        return (rows[..., None] * columns[..., None, :]).flatten(2).to(table.dtype) @ table

    def forward(self, patches: Tensor, taps: Tensor) -> Tensor:
        """patches [N, L, channels · patch²] → [N, L, width]."""
        kernel = self.patch_embedding.weight
        x = F.linear(patches.to(kernel.dtype), kernel.flatten(1), self.patch_embedding.bias)
        return x + self.positions(taps).to(x.dtype)


class VisionAttention(nn.Module):
    """Self-attention within segments, q and k rotated by row and column."""

    def __init__(self, config: VitConfig):
        super().__init__()
        width = config.hidden_size
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, heads, L, head_dim]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, visible: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]; bool [N, 1, L, L], cos and sin [N, 1, L, head_dim]."""
        q = rotate(self.split_heads(self.q_proj(x)), cos, sin)
        k = rotate(self.split_heads(self.k_proj(x)), cos, sin)
        v = self.split_heads(self.v_proj(x))
        return self.out_proj(attend(q, k, v, visible).transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    """Two linear layers around GELU by tanh."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, visible: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]; the other arguments as in ``VisionAttention``."""
        x = x + self.self_attn(self.layer_norm1(x), visible, cos, sin)
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    """The stack of layers; a module of its own because the checkpoint names it ``encoder.layers``."""

    def __init__(self, config: VitConfig):
        super().__init__()
        layers = config.num_hidden_layers
        self.full_layers = range(layers) if config.fullatt_block_indexes is None else config.fullatt_block_indexes
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(layers))
        self.angles = PlaneAngles(config.head_dim)

    def visible(self, segments: Tensor, layer: int) -> Tensor:
        """Which patches attend to which in a layer, by frame or by window: bool [N, 1, L, L]."""
        return same_segment(segments[..., 0 if layer in self.full_layers else 1])

    def hidden_states(self, x: Tensor, segments: Tensor, places: Tensor) -> list[Tensor]:
        """Each layer's output [N, L, width]; segments and places int [N, L, 2]."""
        cos, sin = self.angles(places, angle_dtype(x.dtype))
        states = []
        for number, layer in enumerate(self.layers):
            x = layer(x, self.visible(segments, number), cos, sin)
            states.append(x)
        return states


class VisionTransformer(nn.Module):
    """Embeddings and layers. ``post_layernorm`` is in the checkpoint and takes no part."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def hidden_states(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> list[Tensor]:
        """The embeddings and each layer's output: [N, L, width] each."""
        x = self.embeddings(patches, taps)
        return [x, *self.encoder.hidden_states(x, segments, places)]


class VisionTower(nn.Module):
    """What the checkpoint names ``vit``."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.vision_model = VisionTransformer(config)

    def forward(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """The last layer's output, not normalised: [N, L, width].

        Args:
            patches: fp32 [N, L, channels · patch²], rows of whole frames.
            segments: int [N, L, 2], frame and window of each patch, told apart within a row; 0 is padding.
            places: int [N, L, 2], its row and column.
            taps: fp32 [N, L, 2, side], what each row and each column of learned positions counts for it.
        """
        return self.vision_model.hidden_states(patches, segments, places, taps)[-1]

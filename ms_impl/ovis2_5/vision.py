"""Ovis2.5's vision tower in MindSpore: SigLIP 2 at native resolution (the original's ``Siglip2NavitModel``).

Patches of a frame stand in blocks of hidden_stride × hidden_stride, so that a visual token's are neighbours. Frames and
windows are segments: nothing is reordered.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.add import Add
from ms_impl.cells.encoder_attention import EncoderAttention
from ms_impl.cells.expand import expand
from ms_impl.cells.gelu import GeluTanh
from ms_impl.cells.linear import Embedding, Linear
from ms_impl.cells.norms import LayerNorm
from ms_impl.cells.patch_convolution import PatchConvolution
from ms_impl.cells.rotary import PlaneAngles
from ms_impl.kernels.operators import weighted_rows_operator
from ms_impl.ovis2_5.config import VitConfig


class VisionEmbeddings(nn.Cell):
    """Patches times the patch convolution's kernel, plus the learned positions, resized to the patch's grid."""

    kernel = None

    def __init__(self, config: VitConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        shape = (config.num_channels, config.patch_size, config.patch_size)
        self.patch_embedding = PatchConvolution(config.hidden_size, shape, True, dtype)
        self.position_embedding = Embedding(config.position_side**2, config.hidden_size, dtype)
        self.matmul = ops.MatMul()

    def use_kernel(self) -> None:
        """Sum positions by a kernel where nothing is trained."""
        self.kernel = weighted_rows_operator()

    def positions(self, taps: Tensor) -> Tensor:
        """Σ a_i·b_j·P_ij for taps a, b [N, L, 2, side]: [N, L, width], in fp32."""
        side = taps.shape[-1]
        shape = (taps.shape[0] * taps.shape[1], side, side)
        taps = taps.astype(ms.float32).reshape(-1, 2, side)
        products = expand(taps[:, 0].expand_dims(-1), shape) * expand(taps[:, 1].expand_dims(1), shape)
        products, table = products.reshape(shape[0], -1), self.position_embedding.weight
        if self.kernel is not None and not self.training:
            return self.kernel(products, table)
        return self.matmul(products, table.astype(ms.float32))

    def construct(self, patches: Tensor, taps: Tensor) -> Tensor:
        """patches [N, L, channels · patch²] → [N, L, width]."""
        x = self.patch_embedding(patches.astype(self.compute_dtype))
        return x + self.positions(taps).astype(x.dtype).reshape(x.shape)


class VisionAttention(nn.Cell):
    """Self-attention within segments, q and k rotated by row and column."""

    def __init__(self, config: VitConfig, dtype: ms.Type):
        super().__init__()
        width = config.hidden_size
        self.q_proj = Linear(width, width, dtype=dtype)
        self.k_proj = Linear(width, width, dtype=dtype)
        self.v_proj = Linear(width, width, dtype=dtype)
        self.out_proj = Linear(width, width, dtype=dtype)
        self.attention = EncoderAttention(config.num_attention_heads, config.head_dim)

    def construct(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width].

        Args:
            mask: what the attention cell's ``mask`` made of bool [N, 1, L, L].
            cos, sin: fp32 [N, 1, L, head_dim].
        """
        return self.out_proj(self.attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask, cos, sin))


class VisionMLP(nn.Cell):
    """Two linear layers around GELU by tanh."""

    def __init__(self, config: VitConfig, dtype: ms.Type):
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, dtype=dtype)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, dtype=dtype)
        self.gelu = GeluTanh()

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.fc2(self.gelu(self.fc1(x)))


class VisionLayer(nn.Cell):
    """Pre-norm transformer layer."""

    def __init__(self, config: VitConfig, dtype: ms.Type):
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype)
        self.self_attn = VisionAttention(config, dtype)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype)
        self.mlp = VisionMLP(config, dtype)
        self.add = Add()

    def construct(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]; the other arguments as in ``VisionAttention``."""
        x = self.add(x, self.self_attn(self.layer_norm1(x), mask, cos, sin))
        return self.add(x, self.mlp(self.layer_norm2(x)))


class VisionEncoder(nn.Cell):
    """The stack of layers; a cell of its own because the checkpoint names it ``encoder.layers``."""

    def __init__(self, config: VitConfig, dtype: ms.Type):
        super().__init__()
        layers = config.num_hidden_layers
        full = range(layers) if config.fullatt_block_indexes is None else config.fullatt_block_indexes
        self.full_layers = tuple(full)
        self.layers = nn.CellList([VisionLayer(config, dtype) for _ in range(layers)])
        self.angles = PlaneAngles(config.head_dim)

    def masks(self, segments: Tensor, dtype: ms.Type) -> tuple[Tensor, Tensor]:
        """Which patches attend to which, by frame and by window, as the attention cell takes it."""
        attention = self.layers[0].self_attn.attention
        frames = attention.within(segments[:, :, 0], dtype)
        if len(self.full_layers) == len(self.layers):
            return frames, frames
        return frames, attention.within(segments[:, :, 1], dtype)

    @property
    def beside(self) -> list[tuple[int, ...]]:
        """Which of frames' mask, windows' mask, cos and sin each layer takes."""
        return [(0 if number in self.full_layers else 1, 2, 3) for number in range(len(self.layers))]

    def hidden_states(self, x: Tensor, segments: Tensor, places: Tensor) -> list[Tensor]:
        """Each layer's output [N, L, width]; segments and places int [N, L, 2]."""
        cos, sin = self.angles(places)
        frames, windows = self.masks(segments, x.dtype)
        states = []
        for number, layer in enumerate(self.layers):
            x = layer(x, frames if number in self.full_layers else windows, cos, sin)
            states.append(x)
        return states


class VisionTransformer(nn.Cell):
    """Embeddings and layers. ``post_layernorm`` is in the checkpoint and takes no part."""

    def __init__(self, config: VitConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.embeddings = VisionEmbeddings(config, compute_dtype, dtype)
        self.encoder = VisionEncoder(config, dtype)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype)

    def begin(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> tuple[Tensor, ...]:
        """Embeddings [N, L, width], masks of frames and of windows, cos and sin; arguments as of ``VisionTower``."""
        x = self.embeddings(patches, taps)
        return x, *self.encoder.masks(segments, x.dtype), *self.encoder.angles(places)

    def hidden_states(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> list[Tensor]:
        """The embeddings and each layer's output: [N, L, width] each."""
        x = self.embeddings(patches, taps)
        return [x] + self.encoder.hidden_states(x, segments, places)


class VisionTower(nn.Cell):
    """What the checkpoint names ``vit``."""

    def __init__(self, config: VitConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.vision_model = VisionTransformer(config, compute_dtype, dtype)

    def construct(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """The last layer's output, not normalised: [N, L, width].

        Args:
            patches: fp32 [N, L, channels · patch²], rows of whole frames.
            segments: int [N, L, 2], frame and window of each patch, told apart within a row; 0 is padding.
            places: int [N, L, 2], its row and column.
            taps: fp32 [N, L, 2, side], what each row and each column of learned positions counts for it.
        """
        return self.vision_model.hidden_states(patches, segments, places, taps)[-1]

"""Qwen-VL's language model in MindSpore (``modeling_qwen.py`` of the original: QWenAttention, QWenMLP, QWenBlock)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import SiLU

from ms_impl.cells.add import Add
from ms_impl.cells.attention import attention
from ms_impl.cells.heads import JoinHeads, SplitPacked
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.kv_cache import LayerCache
from ms_impl.cells.linear import Linear
from ms_impl.cells.norms import RMSNorm
from ms_impl.generate.decoder_model import DecoderLayerParts, Projection
from ms_impl.kernels.operators import activation_operator
from ms_impl.qwenvl.config import QwenVLConfig


class Attention(nn.Cell):
    """Multi-head self-attention; ``c_attn`` rows are [Q|K|V], head-major inside."""

    def __init__(self, config: QwenVLConfig, dtype: ms.Type):
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_dim = config.kv_channels
        self.c_attn = Linear(config.hidden_size, 3 * config.hidden_size, dtype=dtype)
        self.c_proj = Linear(config.hidden_size, config.hidden_size, bias=False, dtype=dtype)
        self.split_heads = SplitPacked(self.heads, self.head_dim, by_head=False, rotary=True)
        self.join_heads = JoinHeads()
        self.attention = attention(self.heads, self.head_dim)

    def construct(
        self,
        x: Tensor,
        mask: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_scale: Tensor | None = None,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D].

        Args:
            mask: what the attention cell's ``mask`` made of bool [B, 1, T, S].
            cos, sin: fp32 [B or 1, 1, T, head_dim].
            q_scale: log-n factors [B or 1, 1, T, 1], or None.
            cache, columns: take keys and values of all S columns from the cache after ``columns`` int [B, T] of it are
                written.
        """
        q, k, v = self.split_heads(self.c_attn(x), cos, sin)
        if q_scale is not None:
            q = q * q_scale.astype(q.dtype)
        if cache is None:
            mixed = self.attention(q, k, v, mask)
        else:
            mixed = self.attention.cached(q, k, v, mask, cache, columns)
        return self.c_proj(self.join_heads(mixed))


class MLP(KernelCell):
    """Gated feed-forward layer; **w2** is the gate."""

    def __init__(self, config: QwenVLConfig, dtype: ms.Type):
        super().__init__()
        self.w1 = Linear(config.hidden_size, config.ffn_size, bias=False, dtype=dtype)
        self.w2 = Linear(config.hidden_size, config.ffn_size, bias=False, dtype=dtype)
        self.c_proj = Linear(config.ffn_size, config.hidden_size, bias=False, dtype=dtype)
        self.silu = SiLU()
        self.mul = ops.Mul()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = activation_operator("gated_silu")

    def construct(self, x: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]."""
        if self.by_kernel():
            return self.c_proj(self.kernel(self.w2(x), self.w1(x)))
        return self.c_proj(self.mul(self.w1(x), self.silu(self.w2(x))))


class Block(nn.Cell):
    """Pre-norm decoder layer."""

    def __init__(self, config: QwenVLConfig, dtype: ms.Type):
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon, dtype)
        self.attn = Attention(config, dtype)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon, dtype)
        self.mlp = MLP(config, dtype)
        self.add = Add()

    @property
    def linears(self) -> tuple[nn.Cell, ...]:
        """The layers that an adapter may stand in place of."""
        return self.attn.c_attn, self.attn.c_proj, self.mlp.w1, self.mlp.w2, self.mlp.c_proj

    def parts(self) -> DecoderLayerParts:
        """The layer by its parameters: q, k and v are thirds of one matrix."""
        packed, width = self.attn.c_attn, self.attn.c_attn.weight.shape[1]
        q, k, v = (Projection(packed.weight, packed.bias, third * width) for third in range(3))
        o, up, gate, down = (Projection(linear.weight) for linear in self.linears[1:])
        return DecoderLayerParts(self.ln_1.weight, q, k, v, o, self.ln_2.weight, gate, up, down)

    def construct(
        self,
        x: Tensor,
        mask: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_scale: Tensor | None = None,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] → [B, T, D]; the other arguments as in ``Attention``."""
        x = self.add(x, self.attn(self.ln_1(x), mask, cos, sin, q_scale, cache, columns))
        return self.add(x, self.mlp(self.ln_2(x)))

"""The decoder layer of families whose checkpoints are laid out as Llama's: pre-norm, GQA, gated feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import SiLU

from ms_impl.cells.add import Add
from ms_impl.cells.attention import attention
from ms_impl.cells.heads import JoinHeads, SplitHeads
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.kv_cache import LayerCache
from ms_impl.cells.linear import Linear
from ms_impl.cells.norms import RMSNorm
from ms_impl.kernels.operators import activation_operator


@dataclass(frozen=True)
class DecoderShape:
    """The sizes and options of a decoder layer; ``heads`` · ``head_dim`` need not be ``hidden_size``."""

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm of each head of q and k, before the rotation


class DecoderAttention(nn.Cell):
    """Self-attention with as many or fewer key heads than query heads (``self_attn``)."""

    def __init__(self, shape: DecoderShape, dtype: ms.Type):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden_size, queries, bias=shape.qkv_bias, dtype=dtype)
        self.k_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias, dtype=dtype)
        self.v_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias, dtype=dtype)
        self.o_proj = Linear(queries, shape.hidden_size, bias=False, dtype=dtype)
        self.q_norm = RMSNorm(shape.head_dim, shape.eps, dtype) if shape.qk_norm else None
        self.k_norm = RMSNorm(shape.head_dim, shape.eps, dtype) if shape.qk_norm else None
        self.split_queries = SplitHeads(shape.heads, shape.head_dim)
        self.split_keys = SplitHeads(shape.kv_heads, shape.head_dim)
        self.join_heads = JoinHeads()
        self.attention = attention(shape.heads, shape.head_dim)

    def normed(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        """[B, T, heads · head_dim], each head normalised if there is a norm."""
        return x if norm is None else norm(x.reshape(*x.shape[:2], -1, self.shape.head_dim)).reshape(x.shape)

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
            cos, sin: fp32 [B, 1, T, head_dim].
            q_scale: what queries are multiplied by, [B, 1, T, 1], or None.
            cache, columns: take keys and values of all S columns from the cache after these T ``columns`` are written.
        """
        q = self.split_queries(self.normed(self.q_proj(x), self.q_norm), cos, sin)
        k = self.split_keys(self.normed(self.k_proj(x), self.k_norm), cos, sin)
        v = self.split_keys(self.v_proj(x))
        if q_scale is not None:
            q = q * q_scale.astype(q.dtype)
        if cache is None:
            mixed = self.attention(q, k, v, mask)
        else:
            mixed = self.attention.cached(q, k, v, mask, cache, columns)
        return self.o_proj(self.join_heads(mixed))


class GatedMLP(KernelCell):
    """down(silu(gate(x)) · up(x)), with or without biases (``mlp``)."""

    def __init__(self, width: int, inner: int, dtype: ms.Type, bias: bool = False):
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=bias, dtype=dtype)
        self.up_proj = Linear(width, inner, bias=bias, dtype=dtype)
        self.down_proj = Linear(inner, width, bias=bias, dtype=dtype)
        self.silu = SiLU()
        self.mul = ops.Mul()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = activation_operator("gated_silu")

    def construct(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D]."""
        if self.by_kernel():
            return self.down_proj(self.kernel(self.gate_proj(x), self.up_proj(x)))
        return self.down_proj(self.mul(self.silu(self.gate_proj(x)), self.up_proj(x)))


class DecoderLayer(nn.Cell):
    """x + attention(norm(x)), then x + mlp(norm(x)); parameters carry Hugging Face's names."""

    def __init__(self, shape: DecoderShape, dtype: ms.Type):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps, dtype)
        self.self_attn = DecoderAttention(shape, dtype)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps, dtype)
        self.mlp = GatedMLP(shape.hidden_size, shape.intermediate_size, dtype)
        self.add = Add()

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
        """[B, T, D] → [B, T, D]; the other arguments as in ``DecoderAttention``."""
        x = self.add(x, self.self_attn(self.input_layernorm(x), mask, cos, sin, q_scale, cache, columns))
        return self.add(x, self.mlp(self.post_attention_layernorm(x)))

"""One token through a decoder that is described by its parts, in fp64: what the kernel is held to."""

from __future__ import annotations

from itertools import count

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from ms_impl.cells.kv_cache import LayerCache
from ms_impl.generate.decoder_model import DecoderLayerParts, DecoderParts, Projection

names = map("parameter_{}".format, count())


def random_parameter(rng: np.random.Generator, dtype: ms.Type, *shape: int, about: float = 0.0) -> Parameter:
    values = about + rng.normal(scale=0.2, size=shape)
    return Parameter(ms.Tensor(values.astype(np.float32), dtype), name=next(names))


def random_decoder(
    rng: np.random.Generator, dtype: ms.Type, *, heads: int, kv_heads: int, dim: int, width: int, inner: int = 44,
    vocabulary: int = 23, layers: int = 2, packed: bool = False, bias: bool = False, qk_norm: bool = False,
    tied: bool = False,
) -> DecoderParts:  # fmt: skip
    """A decoder with random weights; ``packed``: q, k and v are rows of one matrix."""

    def projection(rows: int, columns: int) -> Projection:
        made = random_parameter(rng, dtype, rows, columns), random_parameter(rng, dtype, rows)
        return Projection(made[0], made[1] if bias else None)

    def layer() -> DecoderLayerParts:
        rows = (heads * dim, kv_heads * dim, kv_heads * dim)
        if packed:
            whole = projection(sum(rows), width)
            q, k, v = (Projection(whole.weight, whole.bias, sum(rows[:n])) for n in range(3))
        else:
            q, k, v = (projection(count, width) for count in rows)
        norms = [random_parameter(rng, dtype, size, about=1.0) for size in (width, width, dim, dim)]
        return DecoderLayerParts(
            norms[0], q, k, v, projection(width, heads * dim), norms[1], projection(inner, width),
            projection(inner, width), projection(width, inner), *(norms[2:] if qk_norm else (None, None)),
        )  # fmt: skip

    embedding = random_parameter(rng, dtype, vocabulary, width)
    head = embedding if tied else random_parameter(rng, dtype, vocabulary, width)
    norm = random_parameter(rng, dtype, width, about=1.0)
    return DecoderParts(embedding, [layer() for _ in range(layers)], norm, head, heads, kv_heads, dim, eps=1e-6)


def random_cache(rng: np.random.Generator, parts: DecoderParts, batch: int, columns: int, dtype: ms.Type):
    """A cache filled with random keys and values."""
    shape = (batch, parts.kv_heads, columns, parts.head_dim)
    cache = nn.CellList([LayerCache(*shape, dtype) for _ in parts.layers])
    for parameter in cache.get_parameters():
        parameter.set_data(random_parameter(rng, dtype, *parameter.shape))
    return cache


def numbers(parameter: Parameter) -> np.ndarray:
    """Its values in fp64."""
    return parameter.asnumpy().astype(np.float64)


def as_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16, to even, in fp64."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


def exact_step(parts: DecoderParts, cache, tokens, segments, columns, cos, sin, q_scale, by_tiles=False) -> np.ndarray:
    """Logits fp64 [B, vocab]; shapes as the kernel takes them. The cache is read, and not written.

    Of ``parts.of_bf16`` the factors of linear layers, keys and values are rounded to bf16; ``by_tiles``, those of
    attention, too.
    """
    rounded = as_bf16 if parts.of_bf16 else np.asarray
    x = numbers(parts.embedding)[tokens[:, 0]]
    cos, sin, dim = cos[:, :, 0], sin[:, :, 0], parts.head_dim  # [B, 1, dim]
    for layer, cached in zip(parts.layers, cache):
        normal = rounded(rms_norm(x, layer.ln_1, parts.eps))
        q, k, v = (project(normal, each, n * dim).reshape(len(x), n, dim) for each, n in
                   ((layer.q, parts.heads), (layer.k, parts.kv_heads), (layer.v, parts.kv_heads)))  # fmt: skip
        if layer.q_norm is not None:
            q, k = rms_norm(q, layer.q_norm, parts.eps), rms_norm(k, layer.k_norm, parts.eps)
        q, k = rotate(q, cos, sin) / np.sqrt(dim), rotate(k, cos, sin)
        if q_scale is not None:
            q = q * q_scale[:, :, 0]
        keys, values = (numbers(each).reshape(cached.shape) for each in (cached.keys, cached.values))
        q, k, v = rounded(q) if by_tiles else q, rounded(k), rounded(v)
        weighed = rounded if by_tiles else np.asarray
        mixed = [attend(*row, weighed) for row in zip(q, k, v, keys, values, segments, columns[:, 0])]
        x = x + project(rounded(np.stack(mixed)), layer.o, x.shape[1])
        normal, inner = rounded(rms_norm(x, layer.ln_2, parts.eps)), layer.down.weight.shape[1]
        gate, up = project(normal, layer.gate, inner), project(normal, layer.up, inner)
        x = x + project(rounded(gate / (1 + np.exp(-gate)) * up), layer.down, x.shape[1])
    return rounded(rms_norm(x, parts.norm, parts.eps)) @ numbers(parts.head).T


def project(x: np.ndarray, projection: Projection, rows: int) -> np.ndarray:
    own = slice(projection.first, projection.first + rows)
    y = x @ numbers(projection.weight)[own].T
    return y if projection.bias is None else y + numbers(projection.bias)[own]


def rms_norm(x: np.ndarray, weight: Parameter, eps: float) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * numbers(weight)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    first, second = np.split(x, 2, -1)
    return x * cos + np.concatenate((-second, first), -1) * sin


def attend(q, k, v, keys, values, segments, column: int, weighed=np.asarray) -> np.ndarray:
    """One row: q [H, d], k and v [KV, d], keys and values [KV, S, d] → [H · d]. What values are weighted with is
    ``weighed`` first."""
    keys, values = keys.copy(), values.copy()
    keys[:, column], values[:, column] = k, v
    visible = (segments == segments[column]) & (np.arange(len(segments)) <= column)
    mixed = []
    for head, query in enumerate(q):
        shared = head // (len(q) // len(k))
        scores = np.where(visible, keys[shared] @ query, -np.inf)
        weights = np.exp(scores - scores.max())
        mixed.append(weighed(weights) @ values[shared] / weights.sum())
    return np.concatenate(mixed)

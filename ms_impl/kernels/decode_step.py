"""One column of decoding in one kernel call, for every decoder that ``DecoderParts`` describes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from ms_impl.cells.device import on_ascend
from ms_impl.generate.decoder_model import DecoderLayerParts, DecoderParts, Projection
from ms_impl.kernels.build import library

KERNEL = "decode_step"
_LETTERS = {ms.float32: ord("f"), ms.float16: ord("h"), ms.bfloat16: ord("b")}
_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


class _Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int64)]


class _Layer(ctypes.Structure):
    """One layer; decode_step.cc has the same fields."""

    _fields_ = [
        (name, _Array)
        for name in (
            "ln_1", "q", "q_b", "k", "k_b", "v", "v_b", "q_norm", "k_norm", "o", "o_b", "ln_2", "gate", "gate_b", "up",
            "up_b", "down", "down_b", "keys", "values",
        )
    ]  # fmt: skip


class _Step(ctypes.Structure):
    """What the kernel takes; decode_step.cc has the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("size", "layer_size", "batch", "columns", "layers", "heads")),
        *((name, ctypes.c_int64) for name in ("kv_heads", "dim", "width", "inner", "vocabulary", "rounded")),
        *((name, ctypes.c_void_p) for name in ("tokens", "segments", "column", "cos", "sin", "q_scale", "logits")),
        *((name, _Array) for name in ("embedding", "norm", "head")),
        ("layer", ctypes.POINTER(_Layer)),
        ("epsilon", ctypes.c_double),
    ]


class FusedTokenStep:
    """As ``ms_impl.generate.decode.TokenStep``: one column of tokens [B, 1] → logits fp32 [B, vocab].

    The kernel computes in fp32 from weights and caches in fp32, fp16 or bf16, and writes the new keys and values into
    the cache in place. Of ``parts.of_bf16`` it rounds the factors of linear layers to bf16, and those of attention over
    a cache in bf16, where queries share keys and the processor has tiles of it (AMX). The last rows, if their segment
    is 0 in that column, are not computed; their logits are zeros. It is called on the parameters' memory: as an
    operator of a graph (``ops.Custom``), with all weights among its inputs, it would wait longer for its turn than it
    computes.

    Args:
        parts: the decoder.
        cache: what ``model.new_cache`` gave.
        library: the compiled kernel.

    Raises:
        ValueError: the shapes of ``parts`` do not fit each other.
    """

    def __init__(self, parts: DecoderParts, cache: nn.CellList, library: Path):
        check_shapes(parts)
        self.kernel = getattr(ctypes.CDLL(str(library)), KERNEL)
        self.kernel.restype = ctypes.c_int32
        batch, _, columns, _ = cache[0].shape
        self.layers = (_Layer * len(parts.layers))()
        self.step = _Step(
            size=ctypes.sizeof(_Step), layer_size=ctypes.sizeof(_Layer), batch=batch, columns=columns,
            layers=len(parts.layers), heads=parts.heads, kv_heads=parts.kv_heads, dim=parts.head_dim,
            width=parts.embedding.shape[1], inner=parts.layers[0].down.weight.shape[1],
            vocabulary=parts.head.shape[0], rounded=parts.of_bf16, layer=self.layers, epsilon=parts.eps,
        )  # fmt: skip
        self.given = {
            "tokens": np.zeros((batch, 1), np.int32), "column": np.zeros((batch, 1), np.int32),
            "cos": np.zeros((batch, 1, 1, parts.head_dim), np.float32),
            "sin": np.zeros((batch, 1, 1, parts.head_dim), np.float32),
            "q_scale": np.zeros((batch, 1, 1, 1), np.float32),
        }  # fmt: skip
        self.places = {name: array.ctypes.data for name, array in self.given.items()}
        for name, place in self.places.items():
            setattr(self.step, name, place)
        self.segments: np.ndarray | None = None  # those whose place the kernel has
        self.arrays: dict[int, tuple[Parameter, list[tuple[_Array, int]]]] = {}
        self.addresses: list[int] = []
        for name in ("embedding", "norm", "head"):
            self._describe(getattr(self.step, name), getattr(parts, name))
        for layer, described, cached in zip(self.layers, parts.layers, cache):
            for name, parameter, first in layer_arrays(described):
                self._describe(getattr(layer, name), parameter, first)
            self._describe(layer.keys, cached.keys)
            self._describe(layer.values, cached.values)

    def _describe(self, array: _Array, parameter: Parameter, first: int = 0) -> None:
        """Let ``array`` be the rows of a parameter from ``first`` on."""
        array.type = _LETTERS[parameter.dtype]
        row_bytes = parameter.nbytes // parameter.shape[0]
        self.arrays.setdefault(id(parameter), (parameter, []))[1].append((array, first * row_bytes))

    def _find_parameters(self) -> None:
        """Where they are now: ``set_data`` may have given one other memory."""
        addresses = [parameter.data_ptr() for parameter, _ in self.arrays.values()]
        if addresses == self.addresses:
            return
        self.addresses = addresses
        for address, (_, uses) in zip(addresses, self.arrays.values()):
            for array, offset in uses:
                array.data = address + offset

    def __call__(
        self,
        tokens: np.ndarray,
        segment_ids: np.ndarray,
        columns: np.ndarray,
        cos: np.ndarray,
        sin: np.ndarray,
        q_scale: np.ndarray | None,
    ) -> np.ndarray:
        """int32 tokens [B, 1], segments [B, length] and columns [B, 1]; rotary float32 of one column of each row."""
        step = self.step
        self._find_parameters()
        given = self.given
        given["tokens"][...], given["column"][...] = tokens, columns
        given["cos"][...], given["sin"][...] = cos, sin
        if q_scale is None:
            step.q_scale = None
        else:
            given["q_scale"][...], step.q_scale = q_scale, self.places["q_scale"]
        if segment_ids is not self.segments:
            self.segments = np.ascontiguousarray(segment_ids, np.int32)
            step.segments = self.segments.ctypes.data
        logits = np.zeros((step.batch, step.vocabulary), np.float32)
        step.logits = logits.ctypes.data
        if self.kernel(ctypes.byref(step)):
            raise RuntimeError(f"{KERNEL}.cc and {__name__} describe a decoder by different structures")
        return logits


def layer_arrays(layer: DecoderLayerParts) -> Iterator[tuple[str, Parameter, int]]:
    """The arrays of a layer that are there: name, parameter, and the row that it begins with."""
    for name in ("ln_1", "ln_2", "q_norm", "k_norm"):
        if (norm := getattr(layer, name)) is not None:
            yield name, norm, 0
    for name in _PROJECTIONS:
        projection: Projection = getattr(layer, name)
        yield name, projection.weight, projection.first
        if projection.bias is not None:
            yield f"{name}_b", projection.bias, projection.first


def check_shapes(parts: DecoderParts) -> None:
    """Raises ValueError where the kernel would read beyond an array."""
    width, dim = parts.embedding.shape[1], parts.head_dim
    queries, keys, inner = parts.heads * dim, parts.kv_heads * dim, parts.layers[0].down.weight.shape[1]
    if parts.heads % parts.kv_heads or dim % 2 or parts.head.shape[1] != width or parts.norm.shape != (width,):
        raise ValueError(f"no decoder has {parts.heads} heads, {parts.kv_heads} key heads of {dim}, width {width}")
    shapes = {
        "q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries), "gate": (inner, width),
        "up": (inner, width), "down": (width, inner),
    }  # fmt: skip
    shapes |= {f"{name}_b": shape[:1] for name, shape in shapes.items()}
    shapes |= {"ln_1": (width,), "ln_2": (width,), "q_norm": (dim,), "k_norm": (dim,)}
    for number, layer in enumerate(parts.layers):
        for name, parameter, first in layer_arrays(layer):
            rows, *rest = shapes[name]
            if parameter.shape[0] < first + rows or parameter.shape[1:] != tuple(rest):
                raise ValueError(f"layer {number}: {name} has shape {parameter.shape}, not {shapes[name]}")


def fused_token_step(parts: DecoderParts | None, cache: nn.CellList) -> FusedTokenStep | None:
    """The kernel for a decoder as it is now; None on Ascend, without ``parts``, or where it cannot be compiled."""
    if on_ascend() or parts is None:
        return None
    path = library(KERNEL)
    return path and FusedTokenStep(parts, cache, path)


def fused_logits(parts: DecoderParts, states: np.ndarray) -> np.ndarray | None:
    """The last norm and the head of states float32 [N, width], by the kernel: float32 [N, vocab]; None without it.

    To the kernel it is a decoder without layers, whose embeddings are the states.
    """
    path = None if on_ascend() else library(KERNEL)
    if path is None:
        return None
    kernel = getattr(ctypes.CDLL(str(path)), KERNEL)
    kernel.restype = ctypes.c_int32
    count, states = len(states), np.ascontiguousarray(states, np.float32)
    tokens, segments, column = np.arange(count, dtype=np.int32), np.ones(count, np.int32), np.zeros(count, np.int32)
    logits = np.zeros((count, parts.head.shape[0]), np.float32)
    step = _Step(
        size=ctypes.sizeof(_Step), layer_size=ctypes.sizeof(_Layer), batch=count, columns=1, layers=0,
        heads=parts.heads, kv_heads=parts.kv_heads, dim=parts.head_dim, width=parts.embedding.shape[1],
        inner=0, vocabulary=parts.head.shape[0], rounded=parts.of_bf16, epsilon=parts.eps, tokens=tokens.ctypes.data,
        segments=segments.ctypes.data, column=column.ctypes.data, logits=logits.ctypes.data,
        embedding=_Array(states.ctypes.data, ord("f")),
        norm=_Array(parts.norm.data_ptr(), _LETTERS[parts.norm.dtype]),
        head=_Array(parts.head.data_ptr(), _LETTERS[parts.head.dtype]),
    )  # fmt: skip
    if kernel(ctypes.byref(step)):
        raise RuntimeError(f"{KERNEL}.cc and {__name__} describe a decoder by different structures")
    return logits

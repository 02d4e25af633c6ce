"""One column of decoding in one kernel call, for language models built as Qwen's is (``ms_impl.qwenvl.language``)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from ms_impl.cells.device import on_ascend
from ms_impl.cells.linear import Linear
from ms_impl.kernels.build import library

KERNEL = "decode_step"
_LETTERS = {ms.float32: b"f", ms.float16: b"h", ms.bfloat16: b"b"}


class _Step(ctypes.Structure):
    """What the kernel takes; decode_step.cc has the same fields."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tokens", "segments", "cos", "sin", "logits", "parameters")),
        ("types", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("batch", "columns", "column", "layers", "heads", "dim")),
        *((name, ctypes.c_int64) for name in ("inner", "vocabulary")),
        *((name, ctypes.c_float) for name in ("epsilon", "log_seq_length")),
    ]


class FusedTokenStep:
    """As ``ms_impl.generate.decode.TokenStep``: one column of tokens [B, 1] → logits fp32 [B, vocab].

    The kernel computes in fp32 from weights and caches in fp32, fp16 or bf16, and writes the new keys and values into
    the cache in place. Rows whose segment is 0 in that column are not computed; their logits are zeros. It is called
    on the parameters' memory: as an operator of a graph (``ops.Custom``), with all weights among its inputs, it would
    wait longer for its turn than it computes.

    Args:
        model: one with ``transformer.{wte, h, ln_f}``, ``lm_head`` and Qwen-VL's configuration.
        cache: what ``model.new_cache`` gave.
        library: the compiled kernel.
    """

    def __init__(self, model: nn.Cell, cache: nn.CellList, library: Path):
        config, shape = model.config, cache[0].shape
        self.parameters = list(kernel_parameters(model, cache))
        self.fixed = {
            "types": b"".join(_LETTERS[parameter.dtype] for parameter in self.parameters),
            "batch": shape[0], "columns": shape[2], "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads, "dim": config.kv_channels, "inner": config.ffn_size,
            "vocabulary": config.vocab_size, "epsilon": config.layer_norm_epsilon,
            # log(i)/∞ never exceeds 1
            "log_seq_length": math.log(config.seq_length) if config.use_logn_attn else math.inf,
        }  # fmt: skip
        self.kernel = getattr(ctypes.CDLL(str(library)), KERNEL)
        self.kernel.restype = None

    def __call__(
        self, tokens: np.ndarray, segment_ids: np.ndarray, columns: np.ndarray, table: np.ndarray
    ) -> np.ndarray:
        """int32 tokens [B, 1], segments [B, length] and the column [1]; the table of the prefill's NTK factor."""
        logits = np.zeros((self.fixed["batch"], self.fixed["vocabulary"]), np.float32)
        cos, sin = table
        arrays = {"tokens": tokens, "segments": segment_ids, "cos": cos, "sin": sin, "logits": logits}
        # Asked for at each step: set_data may have given a parameter other memory.
        places = (ctypes.c_void_p * len(self.parameters))(*(parameter.data_ptr() for parameter in self.parameters))
        pointers = {name: array.ctypes.data for name, array in arrays.items()}
        step = _Step(**pointers, parameters=ctypes.addressof(places), column=int(columns[0]), **self.fixed)
        self.kernel(ctypes.byref(step))
        return logits


def kernel_parameters(model: nn.Cell, cache: nn.CellList) -> Iterator[Parameter]:
    """The kernel's weights and caches, in its order."""
    decoder = model.transformer
    yield from (decoder.wte.weight, decoder.ln_f.weight, model.lm_head.weight)
    for block, layer in zip(decoder.h, cache):
        yield from (block.ln_1.weight, block.attn.c_attn.weight, block.attn.c_attn.bias, block.attn.c_proj.weight)
        yield from (block.ln_2.weight, block.mlp.w1.weight, block.mlp.w2.weight, block.mlp.c_proj.weight)
        yield from (layer.keys, layer.values)


def fused_token_step(model: nn.Cell, cache: nn.CellList) -> FusedTokenStep | None:
    """The kernel for this model as it is now; None on Ascend, with adapters, or where it cannot be compiled."""
    if on_ascend() or not all(type(layer) is Linear for layer in linear_layers(model)):
        return None
    path = library(KERNEL)
    return path and FusedTokenStep(model, cache, path)


def linear_layers(model: nn.Cell) -> Iterable[nn.Cell]:
    """The layers whose weights the kernel reads; an adapter would stand in their places."""
    yield model.lm_head
    for block in model.transformer.h:
        yield from (block.attn.c_attn, block.attn.c_proj, block.mlp.w1, block.mlp.w2, block.mlp.c_proj)

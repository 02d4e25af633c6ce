"""One column of decoding in one kernel call, for language models built as Qwen's is (``ms_impl.qwenvl.language``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl.cells.device import on_ascend
from ms_impl.cells.linear import Linear
from ms_impl.kernels.build import library

KERNEL = "decode_step"


class FusedTokenStep(nn.Cell):
    """As ``ms_impl.generate.decode.TokenStep``, compiled: one column of tokens [B, 1] → logits fp32 [B, vocab].

    The kernel computes in fp32 from weights and caches in fp32, fp16 or bf16, and writes the new keys and values into
    the cache in place. Rows whose segment is 0 in that column are not computed; their logits are zeros.

    Args:
        model: one with ``transformer.{wte, h, ln_f}``, ``lm_head`` and Qwen-VL's configuration.
        cache: what ``model.new_cache`` gave.
        library: the compiled kernel.
    """

    def __init__(self, model: nn.Cell, cache: nn.CellList, library: Path):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cache = cache
        config, rows = model.config, cache[0].shape[0]
        log_n = np.log(config.seq_length) if config.use_logn_attn else np.inf  # log(i)/∞ never exceeds 1
        self.settings = Tensor(np.array([config.layer_norm_epsilon, log_n], np.float32))
        self.kernel = ops.Custom(f"{library}:{KERNEL}", (rows, config.vocab_size), ms.float32, "aot")

    def construct(self, tokens: Tensor, segment_ids: Tensor, columns: Tensor, table: Tensor) -> Tensor:
        """Arguments as of the model's ``step``, the table of the prefill's NTK factor among them."""
        model = self.model.transformer
        inputs = (tokens, segment_ids, columns, table, self.settings)
        inputs += (model.wte.weight, model.ln_f.weight, self.model.lm_head.weight)
        for block, layer in zip(model.h, self.cache):
            inputs += (block.ln_1.weight, block.attn.c_attn.weight, block.attn.c_attn.bias, block.attn.c_proj.weight)
            inputs += (block.ln_2.weight, block.mlp.w1.weight, block.mlp.w2.weight, block.mlp.c_proj.weight)
            inputs += (layer.keys, layer.values)
        return self.kernel(*inputs)


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

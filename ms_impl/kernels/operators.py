"""Kernels of our own as operators of MindSpore's graphs: on a CPU, where a compiler is.

A cell that has one beside its plain path takes it in evaluation mode, once ``use_kernels`` has said so; where it has a
gradient, in training, too, if that is wanted. What a row gives does not depend on the rows beside it, nor on how many
threads there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import mindspore as ms
from mindspore import nn

from ms_impl.cells.device import graphs_are_cut, on_ascend
from ms_impl.errors import InputError
from ms_impl.kernels import gradients
from ms_impl.kernels.build import library
from ms_impl.kernels.operator import (
    Operator,
    Shape,
    Update,
    first_dtype,
    first_shape,
    one_number,
    operator,
    products_shape,
    weighted_shape,
)


def use_kernels(model: nn.Cell) -> None:
    """Let the model's cells, as they are now, compute by kernels in evaluation mode; on a CPU, where they compile.

    Cells that have one say so by a method ``use_kernel``. Graphs that have been compiled before stay as they are.
    """
    if on_ascend():
        return
    for _, cell in model.cells_and_names():
        if hasattr(cell, "use_kernel"):
            cell.use_kernel()


def train_by_kernels(model: nn.Cell) -> None:
    """The same, also in training where kernels have a gradient: those cells are of ``KernelCell``.

    Not where MindSpore cuts graphs among the ranks: it knows no way to cut these.
    """
    if on_ascend() or graphs_are_cut():
        return
    use_kernels(model)
    for _, cell in model.cells_and_names():
        if hasattr(cell, "trains"):
            cell.trains = True


def linear_operator(bias: bool, of_bf16: bool = False) -> Operator | None:
    """(x [..., in], weight [out, in]) → [..., out] in x's dtype; with a ``bias``, that [out] is given as third.

    x is fp32 or fp16; weight and bias may be bf16, too. ``of_bf16`` rounds both factors to bf16, where
    the processor multiplies it (``multiplies_bf16``); that one has no gradient.
    None where there is no kernel.
    """
    if of_bf16:
        return operator("linear", "linear_of_bf16", _linear_shape, first_dtype)
    gradient = gradients.affine_gradient if bias else gradients.linear_gradient
    return operator("linear", "linear", _linear_shape, first_dtype, gradient)


def linear_rows_operator(of_bf16: bool = False) -> Operator | None:
    """(x [..., in], weight [rows, in], bias [rows], which int32 [out]) → [..., out]: as above, of some rows alone.

    ``which`` follow each other.
    """
    return operator("linear", "linear_rows_of_bf16" if of_bf16 else "linear_rows", _rows_shape, first_dtype)


def weighted_rows_operator() -> Operator | None:
    """(weights [..., n] fp32 or fp16, table [n or more, width]) → [..., width]: sums of the table's first rows.

    The table may be bf16, too, and may have more dimensions that make the width. Sums are fp32.
    """
    return operator("linear", "weighted_rows", weighted_shape, first_dtype)


def summed_products_operator() -> Operator | None:
    """(x [..., n], y [..., m]) → [n, m] in x's dtype: xᵀ·y, all rows one after the other; both fp32 or fp16."""
    return operator("linear", "summed_products", products_shape, first_dtype)


@cache
def multiplies_bf16() -> bool:
    """Whether this processor multiplies bf16 (AMX or AVX512-BF16), and there is a kernel that does."""
    path = library("linear")
    if path is None:
        return False
    function = ctypes.CDLL(str(path)).multiplies_bf16
    function.restype = ctypes.c_bool
    return function()


def multiply_in_bf16(model: nn.Cell) -> None:
    """Let the products of linear layers and of attention, when kernels compute them, round their factors to bf16.

    New caches hold keys and values as bf16. Sums, and all else, stay fp32.

    Raises:
        InputError: this processor does not multiply bf16, so that nothing were won.
    """
    if not multiplies_bf16():
        raise InputError(
            "this processor does not multiply bf16 (AMX or AVX512-BF16), or there is no compiler: compute in fp32"
        )
    for _, cell in model.cells_and_names():
        if hasattr(cell, "of_bf16"):
            cell.of_bf16 = True


def in_training(make: Callable[[], Operator | None]) -> Operator | None:
    """What ``make`` gives for graphs that train: None on Ascend, and where MindSpore cuts graphs among the ranks."""
    return None if on_ascend() or graphs_are_cut() else make()


def adamw_operator() -> Operator | None:
    """(parameter, exp_avg, exp_avg_sq, gradient, factors [6]) → [1], which says nothing; all fp32.

    The first three are parameters, which are written to. Factors: what the parameter is multiplied by, the rate of the
    mean's share, what is added to the root, 1 − β₁, β₂, 1 − β₂.
    """
    return operator("adamw", "adamw", one_number, first_dtype, kind=Update)


def squares_operator() -> Operator | None:
    """x fp32 of any shape → [1]: the sum of its squares."""
    return operator("adamw", "squares", one_number, first_dtype)


def cross_entropy_operator() -> Operator | None:
    """(logits fp32 [N, V], targets int32 [N]) → each row's gradient of its cross entropy by them, and that [N]."""
    return operator("cross_entropy", "cross_entropy", _entropy_shapes, _entropy_dtypes)


def activation_operator(name: str) -> Operator | None:
    """``gelu`` or ``gelu_tanh``: x → y; ``gated_silu``: (gate, up) → silu(gate)·up; ``add``: (x, y) → x + y.

    All of one shape, fp32 or fp16.
    """
    return operator("rows", name, first_shape, first_dtype, gradients.ACTIVATION_GRADIENTS[name])


def layer_norm_operator() -> Operator | None:
    """(x [..., width], weight, bias [width], epsilon fp32 [1]) → as x, which is fp32 or fp16."""
    return operator("rows", "layer_norm", first_shape, first_dtype, gradients.layer_norm_gradient)


def rms_norm_operator() -> Operator | None:
    """(x [..., width], weight [width], epsilon fp32 [1]) → as x, which is fp32 or fp16."""
    return operator("rows", "rms_norm", first_shape, first_dtype, gradients.rms_norm_gradient)


def attention_operator(of_bf16: bool = False) -> Operator | None:
    """(q [B, H, T, d], k, v [B, KV, S, d], sight int32 [B, S + 2·T]) → as q, all fp32 or all fp16.

    ``sight`` has the segments of the keys and of the queries, 0 for none, and each query's last column: it sees the
    keys of its segment up to there. ``of_bf16`` rounds the factors of both products to bf16, where the processor has
    tiles of it (AMX); that one has no gradient.
    """
    if of_bf16:
        return operator("segment_attention", "segment_attention_of_bf16", first_shape, first_dtype)
    return operator("segment_attention", "segment_attention", first_shape, first_dtype, gradients.attention_gradient)


def cached_attention_operator(of_bf16: bool = False) -> Operator | None:
    """(q [B, H, T, d], k, v [B, KV, T, d], keys, values [B · KV, S, d], sight) → as q, after k and v are in the cache.

    keys and values are a cache's parameters, of k's type or bf16, and are written to, at each query's last column. Else
    as above.
    """
    name = "cached_attention_of_bf16" if of_bf16 else "cached_attention"
    return operator("segment_attention", name, first_shape, first_dtype)


def to_heads_operator(packed: bool, rotary: bool) -> Operator | None:
    """(x [B, T, C], columns int32 [1, H, d]; if ``rotary``, cos and sin fp32 [B or 1, 1, T, d]) → [B, H, T, d].

    x is fp32 or fp16. ``columns`` of x make the heads, those of one beside each other; it is rotated where there are
    cos and sin. ``packed``: of columns [3, H, d], three of them, of which the last is not rotated.
    """
    gradient = gradients.HEADS_GRADIENTS[packed, rotary]
    shape, dtype = (_packed_shapes, _packed_dtypes) if packed else (_to_heads_shape, first_dtype)
    return operator("heads", "to_heads", shape, dtype, gradient)


def from_heads_operator() -> Operator | None:
    """x [B, H, T, d], fp32 or fp16 → [B, T, H · d]."""
    return operator("heads", "from_heads", _from_heads_shape, first_dtype, gradients.from_heads_gradient)


def _linear_shape(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    return (*x[:-1], weight[0])


def _rows_shape(x: Shape, weight: Shape, bias: Shape, which: Shape) -> Shape:
    return (*x[:-1], which[0])


def _to_heads_shape(x: Shape, columns: Shape, *_: Shape) -> Shape:
    return x[0], columns[1], x[1], columns[2]


def _packed_shapes(x: Shape, columns: Shape, *_: Shape) -> tuple[Shape, Shape, Shape]:
    shape = _to_heads_shape(x, columns)
    return shape, shape, shape


def _packed_dtypes(x: ms.Type, *_: ms.Type) -> tuple[ms.Type, ms.Type, ms.Type]:
    return x, x, x


def _from_heads_shape(x: Shape) -> Shape:
    return x[0], x[2], x[1] * x[3]


def _entropy_shapes(logits: Shape, targets: Shape) -> tuple[Shape, Shape]:
    return logits, targets


def _entropy_dtypes(logits: ms.Type, targets: ms.Type) -> tuple[ms.Type, ms.Type]:
    return logits, logits

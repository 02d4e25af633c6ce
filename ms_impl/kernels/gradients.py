"""The gradients of operators, as MindSpore takes them: from the inputs, what came of them, and the gradient by that."""

from __future__ import annotations

import math
from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, ops

from ms_impl.kernels.operator import (
    Shape,
    first_dtype,
    first_shape,
    last_shape,
    operator,
    products_shape,
    weighted_shape,
)


def linear_gradient() -> Callable:
    by_rows = operator("linear", "weighted_rows", weighted_shape, first_dtype)
    summed = operator("linear", "summed_products", products_shape, first_dtype)

    def gradient(x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return by_rows(dout, weight), summed(dout, x).reshape(weight.shape).astype(weight.dtype)

    return gradient


def affine_gradient() -> Callable:
    by_rows = operator("linear", "weighted_rows", weighted_shape, first_dtype)
    summed = operator("linear", "summed_products", products_shape, first_dtype)
    sums = operator("rows", "column_sums", last_shape, first_dtype)

    def gradient(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_weight = summed(dout, x).reshape(weight.shape).astype(weight.dtype)
        return by_rows(dout, weight), by_weight, sums(dout).astype(bias.dtype)

    return gradient


def gelu_gradient() -> Callable:
    slopes = operator("rows", "gelu_gradient", first_shape, first_dtype)

    def gradient(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (slopes(x, dout),)

    return gradient


def gelu_tanh_gradient() -> Callable:
    slopes = operator("rows", "gelu_tanh_gradient", first_shape, first_dtype)

    def gradient(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (slopes(x, dout),)

    return gradient


def gated_silu_gradient() -> Callable:
    slopes = operator("rows", "gated_silu_gradient", _two_shapes, _two_dtypes)

    def gradient(gate: Tensor, up: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        by_gate, by_up = slopes(gate, up, dout)
        return by_gate, by_up

    return gradient


def add_gradient() -> Callable:
    def gradient(x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return dout, dout

    return gradient


ACTIVATION_GRADIENTS = {
    "gelu": gelu_gradient,
    "gelu_tanh": gelu_tanh_gradient,
    "gated_silu": gated_silu_gradient,
    "add": add_gradient,
}


def rms_norm_gradient() -> Callable:
    slopes = operator("rows", "rms_norm_gradient", _two_shapes, _two_dtypes)

    def gradient(x: Tensor, weight: Tensor, epsilon: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        by_x, by_weight = slopes(x, weight, epsilon, dout)
        return by_x, by_weight, ops.zeros_like(epsilon)

    return gradient


def layer_norm_gradient() -> Callable:
    slopes = operator("rows", "layer_norm_gradient", _norm_shapes, _norm_dtypes)

    def gradient(
        x: Tensor, weight: Tensor, bias: Tensor, epsilon: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        by_x, by_weight, by_bias = slopes(x, weight, epsilon, dout)
        return by_x, by_weight, by_bias, ops.zeros_like(epsilon)

    return gradient


def attention_gradient() -> Callable:
    slopes = operator("attention_gradient", "attention_gradient", _attention_shapes, _attention_dtypes)

    def gradient(q: Tensor, k: Tensor, v: Tensor, sight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        by_q, by_k, by_v = slopes(q, k, v, sight, out, dout)
        return by_q, by_k, by_v, ops.zeros_like(sight)

    return gradient


def heads_gradient() -> Callable:
    turned = operator("heads", "to_heads_gradient", _rows_of_heads, first_dtype)

    def gradient(x: Tensor, columns: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return turned(dout, columns), ops.zeros_like(columns)

    return gradient


def turned_heads_gradient() -> Callable:
    turned = operator("heads", "to_heads_gradient", _rows_of_heads, first_dtype)

    def gradient(x: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return turned(dout, columns, cos, sin), ops.zeros_like(columns), ops.zeros_like(cos), ops.zeros_like(sin)

    return gradient


def packed_heads_gradient() -> Callable:
    turned = operator("heads", "to_heads_gradient", _rows_of_packed_heads, first_dtype)

    def gradient(x: Tensor, columns: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, Tensor]:
        return turned(dout[0], dout[1], dout[2], columns), ops.zeros_like(columns)

    return gradient


def packed_turned_heads_gradient() -> Callable:
    turned = operator("heads", "to_heads_gradient", _rows_of_packed_heads, first_dtype)

    def gradient(x: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, out: tuple, dout: tuple) -> tuple[Tensor, ...]:
        by_x = turned(dout[0], dout[1], dout[2], columns, cos, sin)
        return by_x, ops.zeros_like(columns), ops.zeros_like(cos), ops.zeros_like(sin)

    return gradient


HEADS_GRADIENTS = {  # by whether packed, and whether rotated
    (False, False): heads_gradient,
    (False, True): turned_heads_gradient,
    (True, False): packed_heads_gradient,
    (True, True): packed_turned_heads_gradient,
}


def from_heads_gradient() -> Callable:
    apart = operator("heads", "from_heads_gradient", first_shape, first_dtype)

    def gradient(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (apart(x, dout),)

    return gradient


def _two_shapes(x: Shape, y: Shape, *_: Shape) -> tuple[Shape, Shape]:
    return x, y


def _two_dtypes(x: ms.Type, y: ms.Type, *_: ms.Type) -> tuple[ms.Type, ms.Type]:
    return x, y


def _norm_shapes(x: Shape, weight: Shape, *_: Shape) -> tuple[Shape, Shape, Shape]:
    return x, weight, weight


def _norm_dtypes(x: ms.Type, weight: ms.Type, *_: ms.Type) -> tuple[ms.Type, ms.Type, ms.Type]:
    return x, weight, weight


def _attention_shapes(q: Shape, k: Shape, v: Shape, *_: Shape) -> tuple[Shape, Shape, Shape]:
    return q, k, v


def _attention_dtypes(q: ms.Type, k: ms.Type, v: ms.Type, *_: ms.Type) -> tuple[ms.Type, ms.Type, ms.Type]:
    return q, k, v


def _rows_of_heads(dout: Shape, columns: Shape, *_: Shape) -> Shape:
    return dout[0], dout[2], math.prod(columns)


def _rows_of_packed_heads(q: Shape, k: Shape, v: Shape, columns: Shape, *_: Shape) -> Shape:
    return _rows_of_heads(q, columns)

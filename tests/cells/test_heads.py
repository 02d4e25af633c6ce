"""Axes swapped by rows: the bits of a transpose, forward and backward."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ms_impl.cells.heads import JoinHeads, SplitHeads, SwapAxes

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_go_where_a_transpose_puts_them_and_gradients_come_back(dtype):
    x = GENERATOR.normal(size=(2, 5, 3, 4)).astype(dtype)
    slope = GENERATOR.normal(size=(2, 3, 5, 4)).astype(dtype)
    cell = SwapAxes()
    np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), x.swapaxes(1, 2))
    gradient = ops.GradOperation(sens_param=True)(cell)(Tensor(x), Tensor(slope))
    np.testing.assert_array_equal(gradient.asnumpy(), slope.swapaxes(1, 2))


class Both(nn.Cell):
    """To heads and back: what was given."""

    def __init__(self):
        super().__init__()
        self.split, self.join = SplitHeads(3, 4, rotary=False), JoinHeads()

    def construct(self, x):
        return self.join(self.split(x))


def test_heads_are_split_and_joined_in_a_static_graph():
    x = GENERATOR.normal(size=(2, 5, 12)).astype(np.float32)
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        cell = Both().set_train()
        np.testing.assert_array_equal(cell(Tensor(x)).asnumpy(), x)
        gradient = ops.GradOperation(sens_param=True)(cell)(Tensor(x), Tensor(x))
        np.testing.assert_array_equal(gradient.asnumpy(), x)
        heads = cell.split(Tensor(x)).asnumpy()
        np.testing.assert_array_equal(heads, x.reshape(2, 5, 3, 4).swapaxes(1, 2))
    finally:
        ms.set_context(mode=mode)

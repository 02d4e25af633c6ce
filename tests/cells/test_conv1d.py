"""The convolution along a sequence against torch's: values and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from ms_impl.cells.conv1d import Conv1d


@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_torchs(stride):
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(stride)
    x = rng.normal(size=(2, 12, 5)).astype(np.float32)
    ours, theirs = Conv1d(5, 7, stride), torch.nn.Conv1d(5, 7, 3, stride, 1)
    ours.weight.set_data(Tensor(theirs.weight.detach().numpy()))
    ours.bias.set_data(Tensor(theirs.bias.detach().numpy()))
    given = torch.from_numpy(x).requires_grad_()
    wanted = theirs(given.swapaxes(1, 2)).swapaxes(1, 2)
    (wanted**2).sum().backward()
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), wanted.detach().numpy(), rtol=0, atol=1e-6)

    def square(x):
        return (ours(x) ** 2).sum()

    by_x, (by_weight, by_bias) = ms.grad(square, 0, ours.trainable_params())(Tensor(x))
    for found, tensor in ((by_x, given), (by_weight, theirs.weight), (by_bias, theirs.bias)):
        np.testing.assert_allclose(found.asnumpy(), tensor.grad.numpy(), rtol=0, atol=1e-5)


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="stride"):
        Conv1d(5, 7, 3)

"""The joint norm of gradients, by the kernel and by plain operators, against fp64; and what is clipped by it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_impl.train.gradient_norm import ClipByGlobalNorm, SquaredNorm

SHAPES = ((3, 40961), (513,), (1,), (4, 1, 8))
TOLERANCE = 2e-7  # relative; seen: 2e-8


@pytest.fixture(params=["kernel", "plain"])
def way(request):
    ms.set_context(mode=ms.GRAPH_MODE)
    return request.param


def norm_cell(way: str) -> SquaredNorm:
    cell = SquaredNorm()
    if way == "plain":
        cell.kernel = None
    elif cell.kernel is None:
        pytest.skip("no C++ compiler here, or kernels are switched off")
    return cell


def gradients(scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(0, scale * 10.0**-number, shape).astype(np.float32) for number, shape in enumerate(SHAPES)]


def test_the_sum_of_squares(way):
    expected = sum(np.square(each.astype(np.float64)).sum() for each in gradients())
    found = norm_cell(way)(tuple(map(Tensor, gradients()))).asnumpy()
    assert found.shape == () and abs(found / expected - 1) <= TOLERANCE
    fewer = gradients()
    fewer[0][-1, -1] += 1  # one number counts
    assert abs(norm_cell(way)(tuple(map(Tensor, fewer))).asnumpy() / expected - 1) > TOLERANCE


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, 1e30])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_what_is_not_finite_is_seen(way, wrong, number):
    broken = gradients()
    broken[number].reshape(-1)[-1] = wrong
    assert not np.isfinite(norm_cell(way)(tuple(map(Tensor, broken))).asnumpy())


def test_clipping_keeps_what_is_short_and_shortens_what_is_long(way):
    cell = ClipByGlobalNorm(1.0)
    cell.squared_norm = norm_cell(way)
    for scale in (1e-4, 1.0):
        given = gradients(scale)
        length = np.sqrt(sum(np.square(each.astype(np.float64)).sum() for each in given))
        clipped, norm = cell(tuple(map(Tensor, given)))
        assert abs(norm.asnumpy()[0] / length - 1) <= TOLERANCE
        for before, after in zip(given, clipped):
            np.testing.assert_allclose(after.asnumpy(), before * min(1, 1 / (length + 1e-6)), rtol=5e-7)

"""Angles of positions in the graph and on the host."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from ms_impl.cells.rotary import PlaneAngles, RotaryAngles, host_angles, sectioned_turns


def test_places_turn_half_of_the_pairs_each():
    places = np.array([[[0, 0], [3, 1], [2, 7]]], np.int32)
    cos, sin = PlaneAngles(16)(Tensor(places))
    angles = places[..., None] / 1e4 ** (np.arange(0, 8, 2) / 8)
    angles = np.tile(angles.reshape(1, 1, 3, 8), 2)
    np.testing.assert_allclose(cos.asnumpy(), np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin.asnumpy(), np.sin(angles), atol=1e-6)


@pytest.mark.parametrize("sections", [None, (2, 3, 3)])
def test_the_host_computes_what_the_graph_does(sections):
    rng = np.random.default_rng(0)
    for shape in ((2, 5), (2, 3, 5) if sections else (2, 1, 5)):
        positions = rng.integers(0, 1000, shape).astype(np.int32)
        graph = RotaryAngles(16, 1e6, sections)(Tensor(positions))
        host = host_angles(positions, sectioned_turns(16, 1e6, sections))
        for found, wanted in zip(host, graph):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted.asnumpy(), rtol=0, atol=5e-7)

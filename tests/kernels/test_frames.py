"""Frames by the kernel have the bits of the numpy code, for every shape."""

import numpy as np
import pytest

from ms_impl.kernels.frames import frame_kernels
from ms_impl.media import resize
from ms_impl.qwen2_5_omni import preprocessing

pytestmark = pytest.mark.skipif(frame_kernels() is None, reason="no compiler")
SIZES = [
    ((120, 160), (280, 392)), ((97, 131), (56, 84)), ((64, 64), (64, 140)), ((300, 200), (112, 200)), ((37, 53), (28, 28)),
    ((1, 1), (28, 28)), ((720, 1280), (560, 1008)), ((5, 400), (28, 1120)),
]  # fmt: skip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[0]).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_resizing(size, out):
    for image in (noise(*size, 3), np.ascontiguousarray(noise(*size, 3)[::-1, ::-1])[::-1]):
        found = resize.resize_in_float(image, *out)
        np.testing.assert_array_equal(found, resize._resize_in_numpy(image, *out))


@pytest.mark.parametrize("size", [(28, 28), (56, 84), (140, 28), (560, 1008)])
def test_patches(size):
    pair, table = noise(2, *size, 3), preprocessing.Normalisation().video_table()
    found, expected = np.zeros((2, size[0] * size[1] // 196, 1176), np.float32)
    preprocessing.patches_of(pair, table, found)
    preprocessing._patches_in_numpy(pair, table, expected)
    np.testing.assert_array_equal(found, expected)


def test_without_a_kernel_nothing_changes(monkeypatch):
    image = noise(97, 131, 3)
    expected = resize.resize_in_float(image, 56, 84)
    monkeypatch.setattr("ms_impl.media.resize.frame_kernels", lambda: None)
    np.testing.assert_array_equal(resize.resize_in_float(image, 56, 84), expected)

"""The kernel's pixels are to the bit those of Pillow's resizing and of ``to_pixels``, whatever the image's size."""

from __future__ import annotations

import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

from ms_impl.data.images import to_pixels
from ms_impl.kernels import resize as kernel
from ms_impl.kernels.build import library
from ms_impl.kernels.resize import resize_kernel

pytestmark = pytest.mark.skipif(
    library(kernel.KERNEL) is None, reason="no C++ compiler here, or kernels are switched off"
)

LEVELS = np.tile(np.arange(256, dtype=np.float32), (3, 1))
# Width and height: one pixel, lines, odd sizes, extreme aspect ratios, photographs in both orientations, as they are.
SIZES = [
    (1, 1), (1, 9), (9, 1), (2, 3), (7, 5), (1, 1500), (1500, 1), (3, 701), (701, 3), (61, 64), (64, 61), (449, 447),
    (448, 448), (448, 100), (100, 448), (640, 480), (480, 640), (481, 641), (1025, 767), (28, 28), (33, 28), (28, 33),
]  # fmt: skip


def picture(width: int, height: int, contrast: bool = False) -> Image.Image:
    """Noise; with ``contrast`` of darkest and brightest levels only, so that sums leave the range of levels."""
    rng = np.random.default_rng(width * 10_000 + height)
    levels = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels // 128 * 255 if contrast else levels)


def resized(image: Image.Image, width: int, height: int) -> np.ndarray:
    """The kernel's levels [height, width, 3]."""
    out = np.full((3, height, width), np.nan, np.float32)
    resize_kernel()(image, LEVELS, out)
    return out.transpose(1, 2, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contrast", [False, True])
def test_levels_are_those_of_pillow(size, contrast):
    image = picture(*size, contrast)
    for target in ((28, 28), (448, 448), (33, 14), (1, 1)):
        expected = np.asarray(image.resize(target, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(resized(image, *target), expected)


def test_another_filter_is_noticed():
    image = picture(64, 61)
    assert not np.array_equal(resized(image, 28, 28), np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS)))


def test_pixels_are_shared_and_outlive_the_image():
    image = picture(64, 61)
    address, owner = kernel._pixels(image)
    assert isinstance(address, int) and address == kernel._pixels(image)[0]
    expected = np.asarray(image)
    del image
    gc.collect()
    shared = np.ctypeslib.as_array((kernel.ctypes.c_uint8 * (61 * 64 * 4)).from_address(address)).reshape(61, 64, 4)
    np.testing.assert_array_equal(shared[..., :3], expected)
    del owner


def test_a_large_image_is_shared_and_one_in_several_blocks_is_copied():
    image = picture(2600, 1700)  # over the 16 MB of Pillow's blocks
    assert resize_kernel() and kernel._pixels(image)[0] == kernel._pixels(image)[0]
    Image.core.set_block_size(1 << 24)
    try:
        in_blocks = image.copy()
    finally:
        Image.core.set_block_size(kernel._BLOCK)
    with pytest.raises(ValueError, match="block|contiguous"):
        in_blocks.__arrow_c_array__()
    expected = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resized(image, 28, 28), expected)
    np.testing.assert_array_equal(resized(in_blocks, 28, 28), expected)


def test_several_threads_at_once():
    images = [picture(200 + index, 150) for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: resized(image, 56, 56), images))
    for image, levels in zip(images, found):
        np.testing.assert_array_equal(levels, np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC)))


def test_an_array_that_cannot_be_written_is_refused():
    out = np.empty((3, 28, 28), np.float32)
    for wrong in (out.transpose(0, 2, 1), out.astype(np.float64), out[0], out[:, ::2]):
        with pytest.raises(Exception, match="argument 5|unpack"):
            resize_kernel()(picture(9, 9), LEVELS, wrong)


def test_a_pillow_that_resizes_otherwise_gets_no_kernel(monkeypatch, caplog):
    plain = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, size, _: plain(image, size, Image.Resampling.LANCZOS))
    resize_kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert resize_kernel() is None
    finally:
        resize_kernel.cache_clear()
    assert "resizes otherwise than the kernel" in caplog.text


def test_the_order_of_the_axes_is_noticed_when_the_kernel_is_loaded():
    function, in_use = resize_kernel().args
    for other in set(kernel._ORDERS) - {in_use}:
        assert not kernel._agrees_with_pillow(partial(kernel._resize, function, other))


def test_normalised_levels_are_those_of_to_pixels():
    image = picture(640, 480)
    out = np.empty((3, 448, 448), np.float32)
    table = to_pixels(LEVELS.T[None].astype(np.uint8))[:, 0]
    resize_kernel()(image, table, out)
    expected = to_pixels(image.resize((448, 448), Image.Resampling.BICUBIC))
    assert out.tobytes() == expected.tobytes()
    table[1, 77] = np.nextafter(table[1, 77], np.float32(2))
    resize_kernel()(image, table, out)
    assert out.tobytes() != expected.tobytes()

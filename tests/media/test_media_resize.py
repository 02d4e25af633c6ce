"""Both ways of resizing equal torch's own kernels, which torchvision calls."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from ms_impl.media.resize import resize_in_fixed_point, resize_in_float

SIZES = [
    ((120, 160), (280, 392)), ((97, 131), (56, 84)), ((64, 64), (64, 140)), ((300, 200), (112, 200)), ((37, 53), (28, 28)),
    ((28, 28), (336, 336)), ((270, 480), (168, 280)), ((5, 400), (28, 1120)),
]  # fmt: skip


def images(height: int, width: int):
    generator = np.random.default_rng(height)
    y, x, c = np.ogrid[:height, :width, :3]
    yield "noise", generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    yield "smooth", (127.5 + 127.5 * np.sin(x / 9 + y / 13 + c)).astype(np.uint8)
    yield "edges", (255 * ((x // 7 + y // 5 + c) % 2)).astype(np.uint8)


def by_torch(image, size, kind):
    values = torch.from_numpy(image).permute(2, 0, 1)[None]
    values = values.to(kind)
    if kind == torch.uint8:
        values = values.contiguous(memory_format=torch.channels_last)
    out = interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False)
    if kind != torch.uint8:
        out = out.clamp(0, 255).round().to(torch.uint8)
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_in_float(size, out):
    """Up to sums that end on a half, which the last bit decides: one level, on 1e-4 of the values; many more of them
    where an image has two levels only."""
    for name, image in images(*size):
        found, expected = resize_in_float(image, *out), by_torch(image, out, torch.float32)
        off = np.abs(found.astype(int) - expected)
        assert off.max(initial=0) <= 1 and (off > 0).mean() <= (2e-2 if name == "edges" else 1e-4), name


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_in_fixed_point(size, out):
    for name, image in images(*size):
        np.testing.assert_array_equal(resize_in_fixed_point(image, *out), by_torch(image, out, torch.uint8), name)


def test_the_ways_differ_on_noise():
    noise = dict(images(120, 160))["noise"]
    off = np.abs(resize_in_float(noise, 280, 392).astype(int) - resize_in_fixed_point(noise, 280, 392))
    assert off.max() >= 2


def test_nothing_is_done_at_the_same_size():
    noise = dict(images(20, 30))["noise"]
    for resize in (resize_in_float, resize_in_fixed_point):
        np.testing.assert_array_equal(resize(noise, 20, 30), noise)

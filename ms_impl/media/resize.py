"""Bicubic resizing of 8-bit images as the originals do it, in numpy: an antialiased kernel, width and height apart.

Three libraries, three roundings, which differ by up to 23 levels on noise:

- stills by Pillow: rounded between the two passes (``ms_impl.data.images`` and Pillow itself);
- ``resize_in_float``: no rounding between the passes (torchvision on float32 frames);
- ``resize_in_fixed_point``: rounded between the passes, weights of 15 bits (torchvision on uint8 frames).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ms_impl.kernels.frames import frame_kernels

Array = np.ndarray

_SHARPNESS = -0.5  # of the cubic kernel
_SUPPORT = 2  # source pixels on each side, before scaling
_WEIGHT_BITS = 15
_MOST_BITS = 22


def resize_in_float(image: Array, height: int, width: int) -> Array:
    """uint8 [h, w, channels] → uint8 [height, width, channels]; sums in float32, rounded once, half to even."""
    if image.shape[:2] == (height, width):
        return image
    if (kernels := frame_kernels()) is not None:
        down, across = (
            None if old == new else taps(old, new, np.float32) for old, new in zip(image.shape, (height, width))
        )
        return kernels.resize(image, height, width, down, across)
    return _resize_in_numpy(image, height, width)


def _resize_in_numpy(image: Array, height: int, width: int) -> Array:
    values = _weighted_rows(image, height)  # rows first: they lie together in memory
    values = _weighted_rows(np.ascontiguousarray(values.swapaxes(0, 1)), width).swapaxes(0, 1)
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def resize_in_fixed_point(image: Array, height: int, width: int) -> Array:
    """uint8 [h, w, channels] → uint8 [height, width, channels]; whole numbers, rounded after width and after height."""
    across = _fixed_rows(image.swapaxes(0, 1), width).swapaxes(0, 1)
    return np.ascontiguousarray(_fixed_rows(across, height))


@lru_cache(maxsize=64)
def taps(size: int, out: int, real: type) -> tuple[Array, Array]:
    """Source rows int64 [out, n] and their weights [out, n] of every row of the result, computed in the type ``real``.

    Rows beyond the image have weight 0 and stand at its last row.
    """
    scale = real(size) / real(out)
    stretch = max(scale, real(1))
    support = real(_SUPPORT) * stretch
    half = real(0.5)
    centres = scale * (np.arange(out, dtype=real) + half)
    first = np.maximum((centres - support + half).astype(np.int64), 0)
    end = np.minimum((centres + support + half).astype(np.int64), size)
    steps = np.arange((end - first).max())
    offsets = steps.astype(real) + (first.astype(real) - centres)[:, None] + half
    weights = _cubic(offsets * (real(1) / stretch)) * (first[:, None] + steps < end[:, None])
    sums = np.add.accumulate(weights, axis=1)[:, -1:]  # one after another, as the originals add
    return np.minimum(first[:, None] + steps, size - 1), weights / sums


def _cubic(x: Array) -> Array:
    x, a = np.abs(x), x.dtype.type(_SHARPNESS)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, x.dtype.type(0)))


def _weighted_rows(image: Array, out: int) -> Array:
    """float32 [out, …]: sums of rows."""
    if len(image) == out:
        return image.astype(np.float32)
    rows, weights = taps(len(image), out, np.float32)
    result = np.zeros((out, *image.shape[1:]), np.float32)
    term = np.empty_like(result)
    for row, weight in zip(rows.T, weights.T):
        np.multiply(image[row], weight[:, None, None], out=term)
        result += term
    return result


def _fixed_rows(image: Array, out: int) -> Array:
    """uint8 [out, …]: sums of rows in whole numbers."""
    if len(image) == out:
        return image
    rows, weights = taps(len(image), out, np.float64)
    bits = next(p for p in range(_MOST_BITS, -1, -1) if int(0.5 + weights.max() * (1 << p)) < 1 << _WEIGHT_BITS)
    whole = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int32)
    result = np.full((out, *image.shape[1:]), 1 << (bits - 1) if bits else 0, np.int32)
    for row, weight in zip(rows.T, whole.T):
        result += image[row] * weight[:, None, None]
    return (result >> bits).clip(0, 255).astype(np.uint8)

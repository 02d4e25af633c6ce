"""An image resized, normalised and laid out in one call, with the levels that Pillow's bicubic resizing gives."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import PIL
from PIL import Image

from ms_impl.kernels.build import library

KERNEL = "resize"
_LEVELS = 256  # of a channel of 8 bits
# Bytes of memory in one piece that Pillow may take for an image (16 MB unless set): only such an image can be read
# where it stands, and a copy would take as much again. https://pillow.readthedocs.io "Block allocator"
_BLOCK = 1 << 30
Size = tuple[int, int]  # width, height

# resize(image in RGB, table fp32 [3, 256], out fp32 [3, height, width]): out[c] = table[c][levels of channel c].
Resize = Callable[[Image.Image, np.ndarray, np.ndarray], None]

logger = logging.getLogger(__name__)

# Widths and heights on both sides of where Pillow's ways of ordering the axes part, for results of _SIDE × _SIDE.
_SIDE, _PROBES = 8, (
    (5, 3), (5, 9), (10, 12), (10, 13), (20, 32), (20, 33), (33, 20), (3, 300), (3, 301), (3, 400),
)  # fmt: skip
_Array = np.ctypeslib.ndpointer


@cache
def resize_kernel() -> Resize | None:
    """The compiled kernel, which runs without the GIL.

    None without a compiler, or where the installed Pillow resizes otherwise.
    """
    path = library(KERNEL)
    if path is None:
        return None
    Image.core.set_block_size(_BLOCK)
    function = ctypes.CDLL(str(path)).resize
    table, out = _Array(np.float32, 2, (3, _LEVELS), "C"), _Array(np.float32, 3, flags=("C", "W"))
    integer = ctypes.c_int64
    function.argtypes = (ctypes.c_void_p, integer, integer, table, out, integer, integer, ctypes.c_bool)
    function.restype = ctypes.c_bool
    for columns_first in _ORDERS:
        resize = partial(_resize, function, columns_first)
        if _agrees_with_pillow(resize):
            return resize
    logger.warning("Pillow %s resizes otherwise than the kernel: images are read without it, slower", PIL.__version__)
    return None


def _tall_by_columns(before: Size, after: Size) -> bool:
    """Pillow from 13 on resizes columns before rows where the height loses over twice the pixels of the width."""
    lost_width, lost_height = (old - new for old, new in zip(before, after))
    return lost_height > max(0, 2 * lost_width)


def _very_tall_by_columns(before: Size, after: Size) -> bool:
    """Pillow 12.2 and 12.3 do so with an image over a hundred times as high as wide that becomes lower."""
    (width, height), (_, lower) = before, after
    return height > max(100 * width, lower)


def _never(before: Size, after: Size) -> bool:
    """Pillow before 12.2 always resizes rows first."""
    return False


_ORDERS = (_tall_by_columns, _very_tall_by_columns, _never)


def _resize(
    function: Callable[..., None],
    columns_first: Callable[[Size, Size], bool],
    image: Image.Image,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    (width, height), (_, rows, columns) = image.size, out.shape
    pixels, owner = _pixels(image)
    order = columns_first(image.size, (columns, rows))
    if not function(pixels, height, width, table, out, rows, columns, order):
        raise MemoryError(f"not enough memory to resize an image of {width}×{height} pixels")
    del owner  # not before: the pixels are its


def _agrees_with_pillow(resize: Resize) -> bool:
    levels = np.tile(np.arange(_LEVELS, dtype=np.float32), (3, 1))
    rng, out = np.random.default_rng(0), np.empty((3, _SIDE, _SIDE), np.float32)
    for width, height in _PROBES:
        image = Image.fromarray(255 * rng.integers(0, 2, (height, width, 3), np.uint8))
        resize(image, levels, out)
        expected = image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        if not np.array_equal(out.transpose(1, 2, 0), np.asarray(expected)):
            return False
    return True


class _ArrowArray(ctypes.Structure):
    """What is needed of an array of Arrow's C data interface."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.POINTER(_ArrowArray), ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _pixels(image: Image.Image) -> tuple[int, object]:
    """The address of levels uint8 [height, width, 4] of an image in RGB, with what keeps them in memory.

    They are the image's own where it stands in one block, as images do that are made after the kernel is loaded; else
    those of a copy. Pillow exports a list of pixels whose only child is their levels.
    """
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:
        _, capsule = image.copy().__arrow_c_array__()
    levels = _capsule_pointer(capsule, b"arrow_array").contents.children[0].contents
    return levels.buffers[1], capsule

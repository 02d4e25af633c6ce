"""Which image files are read, and what reading one may cost: told from its header, before anything is decoded.

Memory and time are estimates from measured rates, which the header of a file of any shape decides. A clock or the
memory at hand would give the check of a data set another answer than training.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import Image

from ms_impl.data.image_headers import jpeg2000_tiles, jpeg_scans, sizes_before_open, tiff_block
from ms_impl.errors import InputError

MAX_PIXELS = 178_956_970  # Pillow's own hard limit at its default setting: 0.7 GB as RGB
MAX_SIDE = 1 << 18  # pixels: resizing needs some 20 bytes a pixel of the longer side, and its weights 32 with Pillow's
MAX_BYTES = 1 << 31  # that decoding takes at its peak, the image in RGB among them
MAX_SECONDS = 10  # of decoding on one core of a server of 2023
MAX_READS = 5_000  # of a file's header, and for each of them 1,000 bytes more of the file: tiny pieces take long
# Raster formats that Pillow decodes itself, by size told beforehand. Left out: those for which it starts programs or
# libraries of the system (EPS, WMF), needs others' code (BUFR, GRIB, HDF5), or decodes several layers or resources
# (PSD, ICNS, DCX, FLI: a history of memory faults, and no pictures of data sets).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "PCX", "SGI", "QOI")
# TGA has no signature: what merely looks like one is read where the file is named so.
_NAMED = {".tga": "TGA", ".vda": "TGA", ".icb": "TGA", ".vst": "TGA"}
KNOWN = (*FORMATS, "TGA (named .tga)")
_EXCERPT = 200  # characters of a decoder's message


class _Rate(NamedTuple):
    """Of decoding: bytes a pixel at the peak with the conversion to RGB, and nanoseconds a pixel, at most."""

    memory: float
    time: float


# Measured with Pillow 13 on images of 16 million pixels, smooth and random, with and without alpha; rounded up.
_RATES = {
    "JPEG": _Rate(12, 10), "MPO": _Rate(12, 10), "PNG": _Rate(8, 40), "GIF": _Rate(8, 20), "BMP": _Rate(8, 15),
    "DIB": _Rate(8, 15), "PPM": _Rate(8, 15), "TGA": _Rate(8, 20), "PCX": _Rate(8, 25), "TIFF": _Rate(8, 50),
    "SGI": _Rate(12, 25), "WEBP": _Rate(17, 50), "AVIF": _Rate(40, 260), "JPEG2000": _Rate(28, 400),
    "ICO": _Rate(24, 300), "QOI": _Rate(16, 1900),
}  # fmt: skip
# Decoders that are written in Python, whatever the format.
_SLOW = {"bmp_rle": _Rate(8, 300), "ppm": _Rate(24, 1700), "ppm_plain": _Rate(24, 1700), "SGI16": _Rate(12, 25)}
_WHOLE = ("WEBP", "AVIF", "SGI")  # the file is held in memory, too
_SCAN, _ARITHMETIC_SCAN = 0.6, 10  # nanoseconds a pixel
_CODED_BYTE, _PLAIN_BYTE = 30, 150  # nanoseconds a byte of a JPEG, of a run-length coded or plain file
_COMMENT = 50_000  # nanoseconds each in a plain PPM: what stands behind it is moved
_LZMA, _BLOCK = 200, 20_000  # nanoseconds a pixel, and a tile or strip of any coding
_TILE_MEMORY, _TILE_TIME = 12_000, 12_000  # bytes and nanoseconds a tile of JPEG 2000


class _TooManyReads(Exception):
    """Outside of what Pillow's readers catch."""


class _CountedFile(io.BufferedReader):
    """A file that counts how often it is read from Python: a loop over tiny pieces is ended, not waited for."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size
        self.left: float = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise _TooManyReads
        return super().read(size)


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """An image as Pillow opens it, not yet decoded: one that may be decoded, by its header.

    Raises InputError that names the file and the number over a limit, or what is wrong with the file; also for what
    goes wrong within the context.
    """
    if not os.path.isfile(path):
        raise InputError(f"image '{path}' {'is not a file' if os.path.exists(path) else 'does not exist'}")
    named = _NAMED.get(os.path.splitext(path)[1].lower())
    try:
        with _CountedFile(path) as file:
            _check_before_open(file, path)
            with Image.open(file, formats=(*FORMATS, named) if named else FORMATS) as image:
                _check(image, file, path)
                yield image
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError(f"image '{path}' is not an image file (known: {', '.join(KNOWN)})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"image '{path}' has more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except MemoryError as error:
        raise InputError(f"image '{path}' needs more memory than there is; make it smaller") from error
    except _TooManyReads as error:
        raise InputError(f"image '{path}' is cut into too many small pieces; save it again") from error
    except Exception as error:  # Pillow's decoders raise many kinds for one cause: the file is damaged.
        raise InputError(f"image '{path}' cannot be decoded: {str(error)[:_EXCERPT]}") from error


def _check_before_open(file: _CountedFile, path: str | os.PathLike) -> None:
    kind, sizes = sizes_before_open(file.fileno())
    for size in sizes:
        _check_size(size, path)
        rate, pixels = _RATES[kind], size[0] * size[1]
        _check_cost(rate.memory * pixels, rate.time * pixels, f"{size[0]}×{size[1]} pixels of {kind}", path)
    if kind in _WHOLE:  # in pieces, then joined
        _check_cost(2 * file.size, 0, f"a file of {file.size:,} bytes", path)


def _check(image: Image.Image, file: _CountedFile, path: str | os.PathLike) -> None:
    """Raise InputError if the opened image is too large by any limit."""
    _check_size(image.size, path)
    _check_cost(*_cost(image, file), path)
    slow = _decoder(image) in _SLOW or image.format == "QOI"  # reads pixel by pixel, which the estimate has
    file.left = float("inf") if slow else MAX_READS + file.size / 1000 + 2 * _tiles(image)


def _cost(image: Image.Image, file: _CountedFile) -> tuple[float, float, str]:
    """Bytes and nanoseconds that decoding takes, and in words of what."""
    (width, height), kind, decoder = image.size, image.format or "", _decoder(image)
    pixels, what = width * height, f"{width}×{height} pixels of {image.format}"
    rate = _SLOW.get(decoder) or _RATES[kind]
    memory, time = rate.memory * pixels, rate.time * pixels + _BLOCK * _tiles(image)
    if kind in _WHOLE:
        memory += file.size
    if kind in ("JPEG", "MPO"):
        scans, arithmetic = jpeg_scans(file.fileno())
        time += scans * pixels * (_ARITHMETIC_SCAN if arithmetic else _SCAN) + _CODED_BYTE * file.size
        what += f" in {scans:,} scans"
    elif kind == "JPEG2000":
        tiles = jpeg2000_tiles(file.fileno())
        memory, time = memory + _TILE_MEMORY * tiles, time + _TILE_TIME * tiles
        what += f" in {tiles:,} tiles"
    elif decoder == "libtiff":
        block, blocks = tiff_block(image)
        memory = max(memory, 4 * pixels + block + min(file.size, max(block, file.size // blocks)))
        time += _BLOCK * blocks + _LZMA * pixels * (image.info.get("compression") == "lzma")
        what += f" in {blocks:,} blocks of {block:,} bytes"
    elif decoder in ("bmp_rle", "ppm_plain"):
        time += _PLAIN_BYTE * file.size + (_COMMENT * _count(file.fileno(), b"#") if decoder == "ppm_plain" else 0)
    return memory, time, what


def _decoder(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)  # of a file
    return tiles[0][0] if tiles else ""


def _tiles(image: Image.Image) -> int:
    return len(getattr(image, "tile", ()))


def _count(descriptor: int, byte: bytes, block: int = 1 << 20) -> int:
    size = os.fstat(descriptor).st_size
    return sum(os.pread(descriptor, block, start).count(byte) for start in range(0, size, block))


def _check_size(size: tuple[int, int], path: str | os.PathLike) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(f"image '{path}' has {width}×{height} pixels, more than {MAX_PIXELS:,}; make it smaller")
    if max(size) > MAX_SIDE:
        raise InputError(
            f"image '{path}' has {width}×{height} pixels, a side of more than {MAX_SIDE:,}; cut it or make it smaller"
        )


def _check_cost(memory: float, time: float, what: str, path: str | os.PathLike) -> None:
    if memory > MAX_BYTES:
        raise InputError(
            f"image '{path}' ({what}) takes {memory / 1e9:.1f} GB to decode, more than {MAX_BYTES / 1e9:.1f}; "
            "make it smaller"
        )
    if time > MAX_SECONDS * 1e9:
        raise InputError(
            f"image '{path}' ({what}) takes about {time / 1e9:,.0f} s to decode, more than {MAX_SECONDS}; "
            "make it smaller, or save it as a baseline JPEG or PNG"
        )

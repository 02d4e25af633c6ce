"""Image files of every format, cut, flipped and with other numbers: pixels as Pillow's, or both refuse."""

import io
import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ms_impl.data.image_cost import FORMATS
from ms_impl.data.images import CLIP_MEAN, CLIP_STD, load_pixels, read_image, to_pixels
from ms_impl.errors import InputError

SIZE = 28
SAVED = [
    ("JPEG", ("RGB", "L", "CMYK"), ({}, {"progressive": True}, {"restart_marker_blocks": 2})),
    ("PNG", ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"), ({}, {"compress_level": 0})),
    ("WEBP", ("RGB", "RGBA"), ({}, {"lossless": True}, {"save_all": True})),
    ("GIF", ("P", "L", "RGB"), ({}, {"save_all": True}, {"comment": b"made"})),
    ("BMP", ("RGB", "L", "P", "1", "RGBA"), ({},)),
    ("TIFF", ("RGB", "L", "P", "RGBA", "CMYK", "1", "F", "I;16"),
     ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"})),
    ("TIFF", ("RGB", "L"), ({"compression": "jpeg"}, {"compression": "zstd"}, {"compression": "lzma"})),
    ("PPM", ("RGB", "L", "1", "I;16", "F"), ({},)),
    ("AVIF", ("RGB", "RGBA"), ({"speed": 10}, {"speed": 10, "save_all": True})),
    ("JPEG2000", ("RGB", "L", "RGBA", "LA"), ({}, {"tile_size": (16, 16)}, {"no_jp2": True})),
    ("TGA", ("RGB", "L", "P", "RGBA"), ({}, {"compression": "tga_rle"})),
    ("ICO", ("RGB", "RGBA", "P"), ({}, {"bitmap_format": "bmp"})),
    ("PCX", ("RGB", "L", "P", "1"), ({},)),
    ("SGI", ("RGB", "L", "RGBA"), ({}, {"bpc": 2})),
    ("QOI", ("RGB", "RGBA"), ({},)),
    ("MPO", ("RGB",), ({"save_all": True},)),
]  # fmt: skip
LIMITS = (" more than ", "too many small pieces", "more memory than there is")
EXTREMES = (0, 1, 2, 127, 255, 256, 32767, 65535, 1 << 18, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
PLAIN = (b"P3\n20 9\n255\n" + b"7 250 1 " * 180, b"P2\n20 9\n900\n" + b"77 " * 180, b"P1\n20 9\n" + b"01" * 90,
         b"P6\n20 9\n100\n" + bytes(range(180)) * 3, b"P5\n20 9\n900\n" + bytes(range(180)) * 2)  # fmt: skip


@cache
def whole_files() -> list[tuple[str, bytes]]:
    """The formats' files before they are damaged."""
    rng = np.random.default_rng(0)
    levels = np.add.outer(np.arange(37), np.arange(43))[..., None] * 3 + rng.integers(0, 9, (37, 43, 4))
    image = Image.fromarray((levels % 256).astype(np.uint8))
    files = [("a.ppm", content) for content in PLAIN] + [("a.bmp", run_length_coded(rng))] * 3
    for kind, modes, options in SAVED:
        for mode in modes:
            for option in options:
                buffer = io.BytesIO()
                try:
                    image.convert("RGB").convert(mode).save(buffer, kind, **option)
                except (OSError, ValueError):
                    continue  # a mode that Pillow does not write so
                files.append(("a.tga" if kind == "TGA" else "a.image", buffer.getvalue()))
    return files


def run_length_coded(rng: np.random.Generator) -> bytes:
    """A bitmap of 40×30 pixels in runs, literal pixels, jumps and ends of lines."""
    coded = b"".join(
        (bytes([rng.integers(1, 40), rng.integers(256)]), b"\0\4abcd", b"\0\0", b"\0\2\3\1")[rng.integers(4)]
        for _ in range(200)
    )
    header = struct.pack("<IiiHHIIiiII", 40, 40, 30, 1, 8, 1, len(coded), 0, 0, 0, 0)
    palette = b"".join(bytes([255 - level, level, 0, 0]) for level in range(256))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + palette + coded


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One change: bits, a number in the header, a cut, or a piece doubled, moved or left out."""
    data, size = bytearray(content), len(content)
    place = int(rng.integers(size if rng.integers(2) else min(size, 100)))
    kind = rng.integers(7)
    if kind < 2:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        form = "<>"[rng.integers(2)] + "BHI"[rng.integers(3)]
        value = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * struct.calcsize(form))
        data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    elif kind == 3:
        del data[place:]
    else:
        end = place + int(rng.integers(1, 40))
        piece = data[place:end]
        if kind == 4:
            del data[place:end]
        else:
            data[place:place] = piece * (1 if kind == 5 else 30)
    return bytes(data)


def make(rng: np.random.Generator, folder: Path) -> Path:
    files = whole_files()
    name, content = files[rng.integers(len(files))]
    for _ in range(rng.integers(4)):
        content = damaged(content, rng) if content else content
    path = folder / name
    path.write_bytes(content)
    return path


def run(path: Path) -> None:
    warnings.simplefilter("ignore")
    try:
        ours = read_image(path)
    except InputError as error:
        if not any(words in str(error) for words in LIMITS):
            expect_refusal(path)
        raise
    expected = by_pillow(path)
    assert np.array_equal(ours, expected)
    small = expected.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(load_pixels(path, SIZE), to_pixels(small, CLIP_MEAN, CLIP_STD))


def by_pillow(path: Path) -> Image.Image:
    formats = (*FORMATS, "TGA") if path.suffix == ".tga" else FORMATS
    # Not by its name: Pillow would map the file, and read TIFFs without rows, which it refuses otherwise.
    with open(path, "rb") as file, Image.open(file, formats=formats) as image:
        return image.convert("RGB")


def expect_refusal(path: Path) -> None:
    try:
        by_pillow(path)
    except Exception:  # of any kind
        return
    raise AssertionError("refused, though Pillow reads it")


def test_images(fuzz):
    whole_files()
    fuzz("images", make, run)

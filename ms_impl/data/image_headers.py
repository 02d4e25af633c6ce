"""What the headers of image files say beyond what Pillow tells of an image before it is decoded."""

from __future__ import annotations

import os
import re
import struct

from PIL import Image

Size = tuple[int, int]  # width, height

_PREFIX = 32  # bytes that tell a format
_ICO, _ICO_ENTRY, _PNG = b"\0\0\1\0", 16, b"\x89PNG\r\n\x1a\n"
_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of a JPEG's frame
_SOF_ARITHMETIC, _EOI, _SOS = 0xC9, 0xD9, 0xDA
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither a stuffed byte nor a restart
_TIFF_SIDES = {"tile": (322, 323), "strip": (256, 278)}  # tags of width and height


def sizes_before_open(descriptor: int) -> tuple[str, list[Size]]:
    """The format and sizes of what Pillow allocates or decodes in opening already; ("", []) for other formats."""
    prefix = os.pread(descriptor, _PREFIX, 0)
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP", _webp_sizes(prefix)
    if prefix[:4] == _ICO and len(prefix) == _PREFIX:
        return "ICO", _ico_sizes(descriptor, *struct.unpack_from("<H", prefix, 4))
    return ("AVIF" if prefix[4:8] == b"ftyp" else ""), []


def _webp_sizes(prefix: bytes) -> list[Size]:
    if prefix[12:16] != b"VP8X" or len(prefix) < 30:
        return []  # at most 16,383 × 16,383, and Pillow tells it before it decodes
    width, height = (int.from_bytes(prefix[start : start + 3], "little") + 1 for start in (24, 27))
    return [(width, height)]


def _ico_sizes(descriptor: int, count: int) -> list[Size]:
    """Of all images in an ICO file: each a PNG, or a bitmap whose height counts a mask of as many rows, too."""
    table, sizes = os.pread(descriptor, count * _ICO_ENTRY, 6), []
    for (offset,) in struct.iter_unpack("<12xI", table[: len(table) // _ICO_ENTRY * _ICO_ENTRY]):
        header = os.pread(descriptor, 24, offset)
        if len(header) < 24:
            continue  # Pillow finds it damaged
        if header.startswith(_PNG):
            sizes.append(struct.unpack_from(">II", header, 16))
        else:
            width, height = struct.unpack_from("<HH" if header[0] == 12 else "<Ii", header, 4)
            sizes.append((width, abs(height) // 2))
    return sizes


def jpeg_scans(descriptor: int) -> tuple[int, bool]:
    """How often a JPEG's decoder goes over the image, and whether the coding is arithmetic.

    Only a progressive image, or one whose first scan lacks a component, has several scans: of those, the coded data is
    looked through for markers. What is cut or damaged has the scans that were found, at least one.
    """
    frame, components, scans, place = 0, 0, 0, 0
    while found := _next_marker(descriptor, place, in_scan=scans > 0):
        marker, place = found
        head = os.pread(descriptor, 8, place)
        if marker == _EOI or len(head) < 8:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _SOF:
            frame, components = marker, head[7]
        elif marker == _SOS:
            scans += 1
            if frame % 4 != 2 and head[2] >= components:
                break
        place += max(int.from_bytes(head[:2], "big"), 2)
    return max(scans, 1), frame >= _SOF_ARITHMETIC


def _next_marker(descriptor: int, place: int, in_scan: bool) -> tuple[int, int] | None:
    """The next marker from ``place`` on, and the place behind it; None at the end. Restarts in a scan do not count."""
    pattern, block = (_MARKER_IN_SCAN, 1 << 16) if in_scan else (_MARKER, 64)
    while len(data := os.pread(descriptor, block, place)) > 1:
        if found := pattern.search(data):
            return found[1][0], place + found.end()
        place += len(data) - 1  # a marker may lie across blocks
    return None


def jpeg2000_tiles(descriptor: int) -> int:
    """The number of tiles of a JPEG 2000 image whose codestream begins in the first 64 KB; else 1."""
    start = os.pread(descriptor, 1 << 16, 0)
    at = start.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(start) < at + 40:
        return 1
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", start, at + 8)
    return -(-(right - left) // max(width, 1)) * -(-(bottom - top) // max(height, 1))


def tiff_block(image: Image.Image) -> tuple[int, int]:
    """Bytes of a compressed TIFF's tile or strip once decoded, and the number of them."""
    tags, (width, height) = image.tag_v2, image.size  # type: ignore[attr-defined]
    kind = "tile" if 322 in tags else "strip"
    across, down = (tags.get(tag) or default for tag, default in zip(_TIFF_SIDES[kind], (width, height), strict=True))
    if kind == "strip":
        across, down = width, min(down, height)
    bits = tags.get(258, (1,))
    bits = sum(bits) if isinstance(bits, tuple) else bits
    bits = max(bits, 32 if tags.get(262) == 6 else 0)  # YCbCr is decoded to four bytes a pixel
    blocks = -(-width // max(across, 1)) * -(-height // max(down, 1))
    return across * down * bits // 8, blocks * len(image.getbands())

"""What is read and what is refused, by the header alone: memory, time, shapes, formats; check and training agree."""

import io
import json
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from released_template import released_template

from ms_impl.data import image_cost
from ms_impl.data.batch import collate
from ms_impl.data.check import Checker
from ms_impl.data.files import ConversationFile
from ms_impl.data.image_headers import jpeg2000_tiles, jpeg_scans
from ms_impl.data.images import load_pixels, read_image
from ms_impl.errors import InputError

SIDE = 1000


@cache
def photograph(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(side), np.arange(side))[..., None] // 8 + rng.integers(0, 9, (side, side, 4))
    return Image.fromarray((slope % 256).astype(np.uint8)).convert(mode)


def bmp(width: int, height: int, coded: bytes = b"", compression: int = 0, bits: int = 24) -> bytes:
    """A bitmap's headers, a grey palette where it has one, and coded rows."""
    palette = b"".join(bytes([255 - level, level, 0, 0]) for level in range(1 << bits)) if bits <= 8 else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(coded), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + coded


def tiff(width: int, height: int, coded: bytes, sides: dict[int, int]) -> bytes:
    """A grey TIFF of one strip or tile in Deflate; ``sides``: the tags of its sides."""
    offset, count = (324, 325) if 322 in sides else (273, 279)
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1} | sides
    tags |= {offset: 8 + 2 + 12 * (len(tags) + 2) + 4, count: len(coded)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + coded


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"", between: bytes = b"") -> bytes:
    rows = zlib.compress(bytes(height * ((width + 7) // 8 + 1)), 1) if width * height < 1 << 24 else b""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = before + png_chunk(b"IDAT", rows[:20]) + between + png_chunk(b"IDAT", rows[20:])
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND")


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(width: int, height: int, scans: int, refining: bool = False) -> bytes:
    """A progressive JPEG of grey blocks, whose every scan says that nothing comes: a few bytes for 32,767 blocks."""
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    runs = [min(32767, blocks - start) for start in range(0, blocks, 32767)]
    bits = "".join("0" + format(max(run - 16384, 0), "014b") for run in runs)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    tables = segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    one = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10 if refining else 0])) + coded
    return b"\xff\xd8" + tables + frame + one * scans + b"\xff\xd9"


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


# --- memory -----------------------------------------------------------------------------------------------------------

_PEAKS = """
import json, sys, warnings
from PIL import Image
from ms_impl.data import image_cost
from ms_impl.data.images import load_pixels, resize_kernel
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
Image.init()
resize_kernel()
load_pixels(sys.argv[1], 448)
found = {}
for path in sys.argv[1:]:
    with image_cost._CountedFile(path) as file, Image.open(file) as image:
        stated = image_cost._cost(image, file)[0]
        del image
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = peak()
    load_pixels(path, 448)
    found[path] = peak() - before, stated
print(json.dumps(found))
"""
KINDS = {
    "a.jpg": ("RGB", {}), "progressive.jpg": ("RGB", {"progressive": True, "subsampling": 0, "quality": 95}),
    "cmyk.jpg": ("CMYK", {"progressive": True}), "a.png": ("RGB", {}), "alpha.png": ("RGBA", {}),
    "deep.png": ("I;16", {}), "a.gif": ("P", {}), "a.bmp": ("RGB", {}), "a.dib": ("RGB", {}), "a.ppm": ("RGB", {}),
    "deep.pgm": ("I;16", {}), "a.tif": ("RGB", {}), "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "one.tif": ("RGBA", {"compression": "tiff_lzw", "tiffinfo": {278: SIDE}}),
    "turned.tif": ("RGB", {"compression": "tiff_adobe_deflate", "tiffinfo": {274: 6}}),
    "jpeg.tif": ("RGB", {"compression": "jpeg"}), "float.tif": ("F", {"compression": "tiff_adobe_deflate"}),
    "a.webp": ("RGB", {}), "alpha.webp": ("RGBA", {}), "lossless.webp": ("RGBA", {"lossless": True, "quality": 0}),
    "a.avif": ("RGB", {"speed": 10}), "alpha.avif": ("RGBA", {"speed": 10, "subsampling": "4:4:4", "quality": 100}),
    "a.jp2": ("RGB", {}), "alpha.jp2": ("RGBA", {}), "tiled.jp2": ("RGB", {"tile_size": (64, 64)}), "a.tga": ("RGBA", {}),
    "run.tga": ("RGB", {"compression": "tga_rle"}), "a.pcx": ("RGB", {}), "a.sgi": ("RGB", {}), "a.qoi": ("RGBA", {}),
}  # fmt: skip
OTHER_MEMORY = 6 << 20  # of which the size of an image does not decide: tables, buffers, the allocator's rest


def test_peaks_are_below_what_is_stated_for_every_format(tmp_path):
    for name, (mode, options) in KINDS.items():
        photograph(mode).save(tmp_path / name, **options)
    command = [sys.executable, "-W", "ignore", "-c", _PEAKS, *(str(tmp_path / name) for name in KINDS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks = {Path(path).name: peaks for path, peaks in json.loads(ran.stdout).items()}
    assert set(peaks) == set(KINDS)
    over = {name: (peak, stated) for name, (peak, stated) in peaks.items() if peak > stated + OTHER_MEMORY}
    assert not over
    assert max(peak for peak, _ in peaks.values()) > 2 * OTHER_MEMORY  # that the measure measures


def test_an_image_at_the_pixel_limit_peaks_where_the_code_says(tmp_path):
    side = int(image_cost.MAX_PIXELS**0.5)
    path = written(tmp_path, "limit.bmp", bmp(side, side))
    with open(path, "r+b") as file:
        file.truncate(54 + side * (side * 3 + 3 & ~3))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PEAKS.replace("load_pixels(sys.argv[1], 448)\n", "", 1), str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ((peak, stated),) = json.loads(ran.stdout).values()
    assert stated < image_cost.MAX_BYTES
    assert 4 * side**2 < peak < 4 * side**2 + 4 * OTHER_MEMORY  # the image in RGB, and no copy of it


WIDE, TALL = (178_956_970, 1), (1, 178_956_970)


@pytest.mark.parametrize("size", [WIDE, TALL, (80_000_000, 1), (1, 300_000), (300_000, 500)])
def test_long_shapes_are_refused_with_the_number(tmp_path, size):
    width, height = size
    files = {
        "a.bmp": bmp(width, height, bits=1), "a.png": png(width, height), "a.ppm": b"P4 %d %d\n" % size,
        "a.tif": tiff(width, height, b"", {278: height}), "a.jp2": saved(Image.new("L", (8, 8)), "JPEG2000"),
        "a.qoi": b"qoif" + struct.pack(">II", width, height) + b"\3\0",
    }  # fmt: skip
    at = files["a.jp2"].index(b"ihdr") + 4
    files["a.jp2"] = files["a.jp2"][:at] + struct.pack(">II", height, width) + files["a.jp2"][at + 8 :]
    for name, content in files.items():
        with pytest.raises(InputError, match=f"{name}' has {width}×{height} pixels, .* more than [0-9,]*; "):
            read_image(written(tmp_path, name, content))


def test_the_longest_side_is_read_as_pillow_reads_it(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (image_cost.MAX_SIDE, 2), np.uint8)
    for name, image in (("tall.png", Image.fromarray(levels)), ("wide.png", Image.fromarray(levels.T.copy()))):
        image.save(tmp_path / name)
        expected = np.asarray(image.convert("RGB").resize((28, 28), Image.Resampling.BICUBIC))
        assert np.array_equal(
            load_pixels(tmp_path / name, 28, (0, 0, 0), (1 / 255,) * 3).round(), expected.transpose(2, 0, 1)
        )


def test_what_pillow_allocates_in_opening_is_refused_before(tmp_path):
    webp = bytearray(saved(photograph("RGBA", 32), "WEBP"))
    at = webp.index(b"VP8X") + 12
    webp[at : at + 6] = struct.pack("<I", 49_999)[:3] * 2
    frame = png(30_000, 30_000)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 9, 9, 0, 0, 1, 32, len(frame), 22) + frame
    bitmap = struct.pack("<IiiHHIIiiII", 40, 20_000, 40_000, 1, 32, 0, 0, 0, 0, 0, 0)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # as some programs have it
    try:
        for name, content in (("a.webp", webp), ("a.ico", icon), ("b.ico", icon[:22] + bitmap)):
            with pytest.raises(InputError, match=f"{name}' has [0-9]+×[0-9]+ pixels, more than 178,956,970"):
                read_image(written(tmp_path, name, bytes(content)))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def test_a_large_tile_of_a_small_tiff_is_refused(tmp_path):
    for side, refused in ((64, False), (60_000, True)):
        path = written(tmp_path, "a.tif", tiff(64, 64, zlib.compress(bytes(64 * 64)), {322: side, 323: side}))
        if refused:
            with pytest.raises(InputError, match="a.tif' .* takes 3.6 GB to decode, more than 2.1"):
                read_image(path)
        else:
            assert read_image(path).getextrema() == ((0, 0),) * 3


_LIMITED = """
import resource, sys
from ms_impl.data.images import load_pixels, read_image, resize_kernel
from ms_impl.errors import InputError
resize_kernel()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
for read in (read_image, lambda path: load_pixels(path, 448)):
    try:
        read(sys.argv[1])
    except InputError as error:
        print(error)
"""


def test_no_memory_is_an_error_that_names_the_file(tmp_path):
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "large.png")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.count("large.png' needs more memory than there is") == 2


# --- time -------------------------------------------------------------------------------------------------------------


def test_scans_are_counted(tmp_path):
    image, thumbnail = photograph(side=64), saved(photograph(side=16), "JPEG", progressive=True)
    exif = b"Exif\0\0" + thumbnail
    counts = {
        "baseline.jpg": (saved(image, "JPEG"), 1), "progressive.jpg": (saved(image, "JPEG", progressive=True), 10),
        "thumbnail.jpg": (saved(image, "JPEG", exif=exif), 1), "made.jpg": (jpeg(64, 64, 7), 7),
        "restarts.jpg": (saved(image, "JPEG", progressive=True, restart_marker_blocks=1), 10),
        "two.jpg": (saved(image, "JPEG", progressive=True) + thumbnail, 10), "empty.jpg": (b"", 1),
        "cut.jpg": (jpeg(64, 64, 7)[:-20], 5), "fill.jpg": (jpeg(64, 64, 7).replace(b"\xff\xda", b"\xff\xff\xff\xda"), 7),
    }  # fmt: skip
    for name, (content, expected) in counts.items():
        with open(written(tmp_path, name, content), "rb") as file:
            assert jpeg_scans(file.fileno()) == (expected, False), name


@pytest.mark.parametrize("refining", [False, True])
def test_many_scans_of_a_large_jpeg_are_refused_and_few_are_read(tmp_path, refining):
    slow = written(tmp_path, "slow.jpg", jpeg(13_000, 13_000, 4000, refining))
    assert slow.stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"slow.jpg' \(13000×13000 pixels of JPEG in 4,000 scans\) takes about 4.. s"):
        read_image(slow)
    assert read_image(written(tmp_path, "few.jpg", jpeg(640, 480, 400, refining))).size == (640, 480)


def test_arithmetic_coding_counts_more(tmp_path):
    content = jpeg(5000, 5000, 60)
    assert read_image(written(tmp_path, "huffman.jpg", content)).size == (5000, 5000)
    with pytest.raises(InputError, match="arithmetic.jpg' .* s to decode"):
        read_image(written(tmp_path, "arithmetic.jpg", content.replace(b"\xff\xc2", b"\xff\xca")))


def test_run_length_coded_bitmaps_of_many_pixels_are_refused_and_few_are_read(tmp_path):
    lines = b"\1\1\0\0"  # one pixel and the end of the line, which Pillow fills byte by byte
    with pytest.raises(InputError, match="slow.bmp' .* takes about [0-9]+ s to decode, more than 10"):
        read_image(written(tmp_path, "slow.bmp", bmp(12_900, 13_800, lines * 13_800, compression=1, bits=8)))
    fast = written(tmp_path, "fast.bmp", bmp(300, 200, lines * 200, compression=1, bits=8))
    assert np.array_equal(read_image(fast), Image.open(fast).convert("RGB"))


@pytest.mark.parametrize(
    "content",
    [
        b"P3 3000 3000 255\n", b"P2 4000 4000 255\n", b"P6 3000 3000 100\n", b"P5 4000 4000 1000\n",
        b"P3 9 9 255\n" + b"#\n" * 250_000, b"P1 9 9\n" + b"#\n" * 250_000, b"qoif" + struct.pack(">II", 4000, 4000) + b"\3\0",
    ],
)  # fmt: skip
def test_decoders_in_python_have_few_pixels(tmp_path, content):
    with pytest.raises(InputError, match="slow.ppm' .* takes about [0-9]+ s to decode, more than 10"):
        read_image(written(tmp_path, "slow.ppm", content))


def test_plain_pixels_with_comments_are_read(tmp_path):
    path = written(tmp_path, "a.ppm", b"P3 # made by hand\n2 1 # size\n255\n1 2 3 # red\n40 50 60\n")
    assert np.array_equal(read_image(path), [[[1, 2, 3], [40, 50, 60]]])


def test_tiny_pieces_are_not_gone_through_for_ever(tmp_path):
    whole, empty = saved(photograph(side=16), "JPEG"), png_chunk(b"teSt")
    gif, comment = saved(photograph("P", 16), "GIF"), b"\x21\xfe" + b"\1c" * 9000 + b"\0"
    at = gif.rindex(b"\x2c\0\0\0\0")
    tiny = {
        "before.png": png(16, 16, before=empty * 9000), "between.png": png(16, 16, between=empty * 9000),
        "junk.jpg": whole[:20] + b"a" * 9000 + whole[20:], "comment.gif": gif[:at] + comment + gif[at:],
        "header.ppm": b"P6 #" + b"a" * 9000 + b"\n1 1 255\nabc",
    }  # fmt: skip
    for name, content in tiny.items():
        with pytest.raises(InputError, match=f"{name}' is cut into too many small pieces"):
            read_image(written(tmp_path, name, content))
    few = png(16, 16, before=empty * 500, between=empty * 500)
    assert read_image(written(tmp_path, "few.png", few)).size == (16, 16)
    assert read_image(written(tmp_path, "gif.gif", gif[:at] + comment[:500] + b"\0" + gif[at:])).size == (16, 16)


def test_rows_in_strips_of_their_own_are_read(tmp_path):
    Image.new("L", (40, 3000)).save(tmp_path / "a.tif", tiffinfo={278: 1})
    assert read_image(tmp_path / "a.tif").size == (40, 3000)


def test_tiles_of_jpeg_2000_are_counted(tmp_path):
    for name, tiles, options in (("a.jp2", 1, {}), ("b.jp2", 49, {"tile_size": (10, 10)}), ("c.j2k", 1, {})):
        photograph(side=64).save(tmp_path / name, **options)
        with open(tmp_path / name, "rb") as file:
            assert jpeg2000_tiles(file.fileno()) == tiles


# --- formats ----------------------------------------------------------------------------------------------------------

READ = {
    "a.avif": {}, "a.jp2": {}, "a.j2k": {}, "a.tga": {}, "run.tga": {"compression": "tga_rle"}, "a.ico": {},
    "bitmap.ico": {"bitmap_format": "bmp"}, "a.pcx": {}, "a.sgi": {}, "deep.sgi": {"bpc": 2}, "a.qoi": {}, "a.dib": {},
    "a.mpo": {"save_all": True},
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_more_formats_are_read_as_pillow_reads_them(tmp_path, name):
    path, modes = tmp_path / name, []
    for mode in ("RGB", "RGBA", "L", "P"):
        try:
            photograph(mode, 48).save(path, **READ[name])
        except (OSError, ValueError):
            continue  # a mode that Pillow does not write so
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(read_image(path), expected), mode
        assert load_pixels(path, 28).shape == (3, 28, 28)
        modes.append(mode)
    assert "RGB" in modes


def test_tga_has_no_signature_and_is_known_by_its_name(tmp_path):
    photograph(side=16).save(tmp_path / "a.tga")
    (tmp_path / "a.tga").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"is not an image file \(known: .*AVIF.*TGA \(named .tga\)\)"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "IM", "SPIDER", "MSP", "XBM", "DDS"])
def test_other_formats_are_not_opened(tmp_path, kind):
    content = saved(Image.new("1" if kind in ("MSP", "XBM") else "RGB", (16, 16)), kind)
    with pytest.raises(InputError, match="is not an image file"):
        read_image(written(tmp_path, "a.png", content))


# --- check and training -----------------------------------------------------------------------------------------------


def test_check_and_training_give_one_answer(tmp_path, tokenizer):
    """The check decodes an image, a batch resizes it, too: what one refuses, the other refuses in the same words."""
    files = {"wide.bmp": bmp(80_000_000, 1, bits=1), "slow.jpg": jpeg(13_000, 13_000, 4000), "cut.png": png(9, 9)[:45]}
    turns = [{"from": "user", "value": ""}, {"from": "assistant", "value": "A dog."}]
    for name, content in files.items():
        written(tmp_path, name, content)
        turns[0]["value"] = f"<img>{name}</img>"
        (tmp_path / "train.json").write_text(json.dumps([{"id": name, "conversations": turns}]))
        template = released_template(tokenizer, 900, dataset_dir=str(tmp_path))
        checker = Checker(ConversationFile(tmp_path / "train.json"), template)
        (fault,) = checker.check([0]).faults
        with pytest.raises(InputError) as trained:
            collate([checker.sample(0)], template)
        assert fault.message == str(trained.value) and f"record 0 (id '{name}'): image" in fault.message

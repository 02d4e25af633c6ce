"""Pixel values equal the original's; files that are no images, damaged or huge are refused in bounded memory."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ms_impl.data import images
from ms_impl.data.image_cost import MAX_PIXELS
from ms_impl.data.images import CLIP_MEAN, CLIP_STD, load_pixels, read_image, resolve_path, to_pixels
from ms_impl.errors import InputError
from ms_impl.kernels.build import library
from ms_impl.kernels.resize import KERNEL

TINY = Path(__file__).parents[1] / "golden" / "qwenvl_tiny"


def test_pixels_equal_the_original():
    crops = load_file(TINY / "cases.safetensors")["vision.pixel_values_crop"]
    for index, crop in enumerate(crops):
        pixels = load_pixels(TINY / f"image{index}.png", 448)
        assert pixels.shape == (3, 448, 448) and pixels.dtype == np.float32
        assert np.abs(pixels[:, 200:232, 200:232] - crop).max() <= 1e-6


def test_another_filter_is_noticed():
    crops = load_file(TINY / "cases.safetensors")["vision.pixel_values_crop"]
    image = read_image(TINY / "image0.png").resize((448, 448), Image.Resampling.BILINEAR)
    assert np.abs(to_pixels(image)[:, 200:232, 200:232] - crops[0]).max() > 1e-2


@pytest.fixture(params=["kernel", "plain"])
def each_way(request, monkeypatch):
    """With the kernel where it can be compiled, and without."""
    if request.param == "kernel" and library(KERNEL) is None:
        pytest.skip("no C++ compiler here, or kernels are switched off")
    if request.param == "plain":
        monkeypatch.setattr(images, "resize_kernel", lambda: None)
    else:
        assert images.resize_kernel()


def bare_loop(path: Path, size: int) -> np.ndarray:
    """The plain way with PIL and numpy, step by step."""
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    levels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (levels - mean) / std


def odd_files(folder: Path) -> list[Path]:
    """Files whose decoding is not the common case."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (37, 53, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(rng.integers(0, 1 << 16, (37, 53), dtype=np.uint16))
    saved = {
        "cmyk.jpg": (picture.convert("CMYK"), {}), "grey.jpg": (picture.convert("L"), {}),
        "exif.jpg": (picture, {"exif": exif}), "progressive.jpg": (picture, {"progressive": True}),
        "deep.png": (deep, {}), "palette.png": (picture.convert("P"), {"transparency": 3}),
        "alpha.png": (picture.convert("RGBA"), {}),
        "moving.gif": (picture, {"save_all": True, "append_images": [picture.rotate(180)]}),
    }  # fmt: skip
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return [folder / name for name in saved]


def test_pixels_are_to_the_bit_those_of_the_plain_way(tmp_path, each_way):
    for path in odd_files(tmp_path):
        batch = np.full((2, 3, 28, 28), np.nan, np.float32)
        load_pixels(path, 28, out=batch[1])
        expected = bare_loop(path, 28)
        assert np.array_equal(batch[1], expected), path.name
        assert np.array_equal(load_pixels(path, 28), expected)
        assert np.isnan(batch[0]).all()
        other_mean = np.nextafter(CLIP_MEAN, 1, dtype=np.float32)
        assert not np.array_equal(load_pixels(path, 28, other_mean), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_any_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.tiff"
    Image.new("RGB", (9, 5), (200, 30, 30)).convert(mode).save(path)
    assert read_image(path).mode == "RGB"
    assert load_pixels(path, 14).shape == (3, 14, 14)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".ppm", ".tiff"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (9, 5), (200, 30, 30)).save(tmp_path / f"image{suffix}")
    assert read_image(tmp_path / f"image{suffix}").size == (9, 5)


def test_exif_orientation_is_ignored_as_in_the_original(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    Image.new("RGB", (9, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (9, 5)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(InputError, match="none.png' does not exist"):
        load_pixels(tmp_path / "none.png", 14)
    with pytest.raises(InputError, match="does not exist"):
        load_pixels("n" * 5000, 14)
    with pytest.raises(InputError, match="is not a file"):
        load_pixels(tmp_path, 14)


@pytest.mark.parametrize("content", [b"", b"just text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(InputError, match="picture.png' is not an image file"):
        load_pixels(tmp_path / "picture.png", 14)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated_image(tmp_path, suffix, part, each_way):
    path = tmp_path / f"cut{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match=f"cut{suffix}"):
        load_pixels(path, 14)


def test_damaged_png(tmp_path, each_way):
    path = tmp_path / "damaged.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[100:120] = b"\0" * 20
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged.png' cannot be decoded"):
        load_pixels(path, 14)


def _write_png(path: Path, side: int) -> None:
    """A whole black one-bit PNG of ``side`` × ``side`` pixels, written row block by row block."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = bytes(1000 * (1 + (side + 7) // 8))
    data = b"".join(packer.compress(rows) for _ in range(side // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


_PEAK = """
import sys
from PIL import Image
from ms_impl.data.images import load_pixels
from ms_impl.errors import InputError
Image.MAX_IMAGE_PIXELS = eval(sys.argv[2])
def peak():  # of this program alone: ru_maxrss would begin with its parent's
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
try:
    load_pixels(sys.argv[1], 14)
except InputError as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""


@pytest.mark.parametrize("pillow_limit", ["Image.MAX_IMAGE_PIXELS", "None"])
def test_huge_image_is_refused_in_bounded_memory(tmp_path, pillow_limit):
    """Also where somebody has lifted Pillow's own limit for the process."""
    path = tmp_path / "huge.png"
    _write_png(path, 30_000)
    command = [sys.executable, "-c", _PEAK, str(path), pillow_limit]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "huge.png' has" in ran.stderr and f"{MAX_PIXELS:,}" in ran.stderr
    assert int(ran.stdout) < 20_000  # KiB


def test_the_helper_writes_whole_images(tmp_path):
    _write_png(tmp_path / "small.png", 2000)
    assert read_image(tmp_path / "small.png").getextrema() == ((0, 0),) * 3


def test_resolve_path(tmp_path):
    assert resolve_path("a/b.png", tmp_path) == tmp_path / "a" / "b.png"
    assert resolve_path("/a/b.png", tmp_path) == Path("/a/b.png")
    assert resolve_path("a/b.png") == Path("a/b.png")
    assert resolve_path("a/b.png", "") == Path("a/b.png")


@pytest.mark.parametrize("path", ["../b.png", "a/../../b.png", "..", "a/./../../data/b.png", "./../b.png"])
def test_a_path_that_leaves_the_folder_is_refused_unless_allowed(tmp_path, path):
    for folder in (tmp_path / "data", ""):
        with pytest.raises(InputError, match="lies outside dataset_dir .*allow_outside_dataset_dir"):
            resolve_path(path, folder)
        assert resolve_path(path, folder, allow_outside=True) == Path(folder, path)
    assert resolve_path(path) == Path(path)  # a path that the user gave, not the data


def test_dots_that_stay_inside_the_folder(tmp_path):
    assert resolve_path("a/../b.png", tmp_path) == tmp_path / "b.png"
    assert resolve_path("..a/...png", tmp_path) == tmp_path / "..a" / "...png"
    assert resolve_path("/a/../b.png", tmp_path) == Path("/a/../b.png")


def test_links_in_the_folder_are_followed_but_not_left_upwards(tmp_path):
    (tmp_path / "disk" / "pictures").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pictures").symlink_to(tmp_path / "disk" / "pictures")
    for place in ("disk/pictures/a.png", "disk/secret.png"):
        Image.new("RGB", (9, 5)).save(tmp_path / place)
    assert read_image(resolve_path("pictures/a.png", tmp_path / "data")).size == (9, 5)
    with pytest.raises(InputError, match="does not exist"):
        read_image(resolve_path("pictures/../secret.png", tmp_path / "data"))


@pytest.mark.parametrize("url", ["http://host/a.png", "https://host/a.png", "HTTPS://host/a.png"])
def test_urls_are_never_fetched(url):
    with pytest.raises(InputError, match="is a URL"):
        resolve_path(url, "/data")


def test_data_and_template_import_no_framework():
    folder = Path(__file__).parents[2] / "ms_impl" / "data"
    modules = [f"ms_impl.data.{path.stem}" for path in folder.glob("[a-z]*.py")]
    modules += [f"ms_impl.qwenvl.{name}" for name in ("config", "tokenizer", "prompt", "template")]
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}];"
        "print(*{'mindspore', 'torch', 'mindformers', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert ran.stdout.split() == []

"""Sizes, frame choice and patches equal the original's on every case."""

from dataclasses import replace

import numpy as np
import pytest
from formulas import check_pixels, image
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.media.resize import resize_in_fixed_point, resize_in_float
from ms_impl.qwen2_5_omni.preprocessing import (
    PATCH_FEATURES,
    Limits,
    Normalisation,
    equal_parts,
    frame_count,
    grid_of,
    grids_of,
    image_size,
    patches_of,
    smart_resize,
    spread_frames,
    video_size,
)

UTILS = "0.0.8"
PIXEL_TOLERANCE = 2e-6  # of values up to 2.7: the last bit of float32, written in 17 digits


def limits_of(case: dict) -> Limits:
    """The module constants and the settings of one item, as limits."""
    limits = Limits(**{name.lower(): value for name, value in case["overrides"].items()})
    names = {"fps": "fps", "nframes": "nframes", "min_frames": "fps_min_frames", "max_frames": "fps_max_frames",
             "resized_height": "resized_height", "resized_width": "resized_width", "total_pixels": "video_total_pixels"}  # fmt: skip
    return replace(limits, **{names[key]: value for key, value in case["ele"].items() if key in names})


def test_smart_resize(cases):
    for case in cases["smart_resize"]:
        arguments = [case[key] for key in ("h", "w", "min_pixels", "max_pixels")]
        if "error" in case:
            with pytest.raises(InputError, match="more than 200 times"):
                smart_resize(*arguments)
        else:
            size = smart_resize(*arguments)
            assert (list(size), list(grid_of(1, size))) == (case["resized"], case["grid"]), case
            assert size[0] * size[1] // 28**2 == case["tokens"]


def test_constants(cases):
    told = cases["qwen_omni_utils"][UTILS]["constants"]
    assert told == {name: getattr(Limits(), name.lower(), told[name]) for name in told}
    assert {name.lower() for name in told} >= {"min_pixels", "max_pixels", "video_total_pixels", "fps_max_frames"}


@pytest.mark.parametrize("version", ["0.0.8", "0.0.9"])
def test_frame_count(cases, version):
    for case in cases["qwen_omni_utils"][version]["nframes"]:
        arguments = case["total_frames"], case["video_fps"], limits_of(case)
        if "error" in case:
            with pytest.raises(InputError, match=f"the video has {case['total_frames']} frame"):
                frame_count(*arguments)
        else:
            assert frame_count(*arguments) == case["nframes"], case


def test_frames_are_spread(cases):
    for case in cases["qwen_omni_utils"][UTILS]["indices"]:
        assert spread_frames(case["total_frames"], case["nframes"]).tolist() == case["indices"]


def test_frames_are_spread_as_torch_spreads_them():
    import torch

    for total in range(2, 3000, 7):
        for frames in range(2, min(total, 768), 46):
            expected = torch.linspace(0, total - 1, frames).round().long().numpy()
            assert (spread_frames(total, frames) == expected).all(), (total, frames)


def test_video_size(cases):
    for case in cases["qwen_omni_utils"][UTILS]["video_size"]:
        limits = limits_of(case)
        frames = frame_count(case["total_frames"], case["video_fps"], limits)
        assert frames == case["nframes"]
        if "min_pixels" in case["ele"]:
            limits = replace(limits, video_min_pixels=case["ele"]["min_pixels"])
        size = video_size(case["height"], case["width"], frames, limits, case["ele"].get("max_pixels"))
        assert list(size) == case["resized"], case
        assert frames / case["total_frames"] * case["video_fps"] == pytest.approx(case["sample_fps"], rel=1e-12)


def test_image_size(cases):
    for case in cases["qwen_omni_utils"][UTILS]["image_size"]:
        own = {key: value for key, value in case["ele"].items() if key in ("min_pixels", "max_pixels")}
        assert list(image_size(case["height"], case["width"], replace(limits_of(case), **own))) == case["resized"]


def all_patches(frames, table) -> np.ndarray:
    parts = []
    for pair in grids_of(frames):
        out = np.empty((pair.shape[1] * pair.shape[2] // 14**2, PATCH_FEATURES), np.float32)
        patches_of(pair, table, out)
        parts.append(out)
    return np.concatenate(parts)


def still(height: int, width: int) -> np.ndarray:
    size = smart_resize(height, width, Limits().min_pixels, Limits().max_pixels)
    resized = Image.fromarray(image(height, width)).resize(size[::-1], Image.Resampling.BICUBIC)
    return all_patches([np.asarray(resized)], Normalisation().image_table())


def clip(frames: int, height: int, width: int, resize=None) -> np.ndarray:
    images = [image(height, width, number) for number in range(frames)]
    if resize:
        size = smart_resize(height, width, Limits().video_min_pixels, Limits().video_max_pixels)
        images = [resize(each, *size) for each in images]
    return all_patches(images, Normalisation().video_table())


def test_pixels_of_images(cases):
    for case in (case for case in cases["processor"] if "pixel_values" in case):
        pixels = np.concatenate([still(*size) for size in case["images"]])
        check_pixels(pixels, case["pixel_values"], PIXEL_TOLERANCE)


def test_pixels_of_videos(cases):
    for case in (case for case in cases["processor"] if "pixel_values_videos" in case):
        resize = resize_in_fixed_point if case["kwargs"].get("do_resize", True) else None
        pixels = np.concatenate([clip(*size, resize) for size in case["videos"]])
        check_pixels(pixels, case["pixel_values_videos"], PIXEL_TOLERANCE)


def test_another_resize_is_noticed(cases):
    resized = [case for case in cases["processor"]
               if len(case["videos"]) == 1 and case["kwargs"].get("do_resize", True) and "error" not in case]  # fmt: skip
    for case in resized:
        with pytest.raises(AssertionError):
            check_pixels(clip(*case["videos"][0], resize_in_float), case["pixel_values_videos"], PIXEL_TOLERANCE)


def test_e1_exactly_100_frames():
    """Every length from 1 to 20,000 frames: 100 indices, floor(i · N / 100)."""
    for total in range(1, 20_001):
        found = equal_parts(total, 100)
        assert len(found) == 100 and found[0] == 0 and found[-1] == 99 * total // 100 < total
        assert (np.diff(found) >= 0).all() and (total < 100 or (np.diff(found) > 0).all())


def test_limits_that_do_not_bind():
    """VIDEO_MAX_PIXELS alone stays above 1.05 · VIDEO_MIN_PIXELS, as in the original."""
    assert video_size(720, 1280, 60, Limits(video_max_pixels=50176)) == (224, 420)
    assert video_size(720, 1280, 60, Limits(video_max_pixels=50176, video_min_pixels=3136)) == (168, 280)

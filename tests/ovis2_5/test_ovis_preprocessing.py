"""V2, V17: sizes, pixel values, limits and frames as the original's."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ms_impl.data.images import read_image
from ms_impl.errors import InputError
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.preprocessing import (
    PREPROCESSOR_NAME,
    PixelLimits,
    PixelRule,
    chosen_frames,
    patch_grid,
    released_limits,
    smart_resize,
    to_patches,
)


@pytest.fixture(scope="module")
def vision(ovis_folder):
    return Ovis2_5Config.from_file(ovis_folder).vit_config


@pytest.fixture(scope="module")
def tensors(ovis_folder):
    return load_file(ovis_folder / "cases.safetensors")


@pytest.fixture(scope="module")
def rule(ovis_cases):
    told = ovis_cases["preprocess"]
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    scale = told["rescale_factor"]
    return PixelRule(tuple(told["image_mean"]), tuple(told["image_std"]), scale, filters[told["resample"]])


def test_v2_smart_resize_with_every_limit_and_quirk(ovis_cases):
    for *given, wanted in ovis_cases["smart_resize"]:
        assert list(smart_resize(*given)) == wanted, given


@pytest.mark.parametrize("number", [0, 1])
def test_v2_patches_of_images_to_the_last_bit(ovis_folder, ovis_cases, tensors, vision, rule, number):
    told, image = ovis_cases["preprocess"], read_image(ovis_folder / f"image{number}.png")
    grid = patch_grid(image.size, 1, (told["min_pixels"], told["max_pixels"]), vision)
    assert grid == tuple(tensors[f"pre.image{number}.grid_thw"][0])
    found = partial(to_patches, [image], grid, config=vision)
    np.testing.assert_array_equal(found(rule), tensors[f"pre.image{number}.pixel_values"])
    crop = tensors[f"pre.image{number}.bicubic_crop"]
    np.testing.assert_array_equal(found(PixelRule(resample=Image.Resampling.BICUBIC))[: len(crop)], crop)


def test_v8_patches_of_a_video_to_the_last_bit(ovis_folder, ovis_cases, tensors, vision, rule):
    told = ovis_cases["preprocess"]
    frames = [read_image(path) for path in sorted(ovis_folder.glob("frame*.png"))]
    grid = patch_grid(frames[0].size, len(frames), (told["video_min_pixels"], told["video_max_pixels"]), vision)
    assert grid == tuple(tensors["pre.video.grid_thw"][0])
    np.testing.assert_array_equal(to_patches(frames, grid, rule, vision), tensors["pre.video.pixel_values"])


def test_v17_pixel_limits_by_what_is_shown(ovis_cases):
    for case in ovis_cases["pixel_limits"]:
        limits, sample = PixelLimits(**case["arguments"]), case["sample"]
        if "video_frames" in sample:
            frames = chosen_frames(len(sample["video_frames"]), case["min_frames"], case["max_frames"])
            found = limits.of_video(len(frames))
        else:
            images = sample.get("image", [])
            found = limits.of_images(1 if isinstance(images, str) else len(images))
        assert found == (case["min_pixels"], case["max_pixels"]), case


def test_v17_limits_of_whatever_is_shown_count_before_the_others():
    usual, most, least = PixelLimits(), PixelLimits(max_pixels=9000), PixelLimits(min_pixels=1 << 23)
    for ask in (
        lambda limits: limits.of_images(1),
        lambda limits: limits.of_images(3),
        lambda limits: limits.of_video(8),
    ):
        assert ask(most) == (9000, 9000) and ask(least) == (1 << 23, 1 << 23)
        assert ask(PixelLimits(min_pixels=1024, max_pixels=4096)) == (1024, 4096) != ask(usual)
    assert most.of_images(0) == usual.of_images(0) == (0, 0)


def test_frames_are_chosen_as_in_training(ovis_cases):
    for total, least, most, wanted in ovis_cases["frame_sampling"]:
        assert chosen_frames(total, least, most) == wanted


def test_too_narrow_an_image_is_refused(vision):
    with pytest.raises(InputError, match="9000×40 pixels are too narrow: at 200,704 pixels"):
        patch_grid((9000, 40), 1, (200704, 200704), vision)


def test_the_rule_is_the_checkpoints(tmp_path):
    assert PixelRule.from_directory(tmp_path).resample == Image.Resampling.BICUBIC
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "resample": 2, "rescale_factor": 0.5}
    (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps(told))
    found = PixelRule.from_directory(tmp_path)
    assert found == PixelRule((0.1, 0.2, 0.3), (1, 1, 1), 0.5, Image.Resampling.BILINEAR)


def test_limits_of_pixels_may_be_the_checkpoints(tmp_path):
    (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps({"min_pixels": 9216, "max_pixels": None}))
    assert released_limits(tmp_path) == {
        "single_image_min_pixels": 9216, "multiple_image_min_pixels": 9216, "video_min_pixels": 9216
    }  # fmt: skip
    assert released_limits(tmp_path / "none") == {}
    for wrong in (0, 1.5, True, "9216"):
        (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps({"max_pixels": wrong}))
        with pytest.raises(InputError, match="preprocessor_config.json: max_pixels must be a whole number, 1 or more"):
            released_limits(tmp_path)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"resample": 9}, "resample must be one of"),
        ({"resample": True}, "resample must be one of"),
        ({"image_mean": 0.5}, "image_mean must be three numbers"),
        ({"image_std": [1, 0, 1]}, "image_std must be three numbers above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be a number above 0"),
        ({"do_resize": False}, "do_resize, do_rescale and do_normalize must be true"),
    ],
)
def test_a_rule_that_is_none_is_named(tmp_path, told, said):
    (tmp_path / PREPROCESSOR_NAME).write_text(json.dumps(told))
    with pytest.raises(InputError, match=said):
        PixelRule.from_directory(tmp_path)

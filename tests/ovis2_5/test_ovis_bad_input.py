"""Bad input to Ovis2.5: each kind with the error that names it, or the test that has it.

| input | test |
|---|---|
| images and a video in one conversation | test_ovis_template: ``test_v8_wrong_input_names_the_record`` |
| placeholders that are not as many as the media | the same |
| a side under 32 pixels, an aspect over 200 | here; the sizes in test_ovis_preprocessing |
| an image or a video of 0 bytes, or cut off | here; every damage of videos in tests/media/test_video.py |
| a frame of a list that is not there | test_ovis_template: ``test_v16_bad_records_are_named`` |
| a budget not below max_new_tokens | test_ovis_thinking: ``test_a_budget_must_leave_an_answer`` |
| an unknown word of train_modules, a ``:lr`` that is no number | test_ovis_train_modules: ``test_wrong_words`` |
| media longer than multimodal_max_length | here |
| a JSON configuration with an unknown key | test_ovis_train_config: ``test_mistakes_are_named`` |
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.ovis2_5.template import VISUALS


def record(image: str, text: str = "<image>\nWhat?") -> dict:
    return {"image": image, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "This."}]}


def write_image(path: Path, width: int, height: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.name


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((1, 1), (1, 2, 2)),  # enlarged to a unit of 32 × 32
        ((31, 20), (1, 2, 4)),
        ((20, 31), (1, 4, 2)),
        ((8000, 33), (1, 2, 412)),  # as if it were 6,600 wide: 200 times its height
        ((33, 8000), (1, 412, 2)),
    ],
)
def test_small_and_narrow_images_have_a_grid(make_template, tmp_path, size, grid):
    """As the original's smart_resize gives it, within limits that ask for nothing more."""
    limits = {"single_image_min_pixels": 1, "single_image_max_pixels": 1 << 20}
    template = make_template(dataset_dir=str(tmp_path), **limits)
    given = parse_record(record(write_image(tmp_path / "small.png", *size)), "data.json, record 0")
    (visual,) = [medium for medium in template.sample(given).media if medium.kind == VISUALS.name]
    assert visual.geometry == grid
    template.check_medium(visual)


def test_an_image_of_which_nothing_would_be_left_is_named(make_template, tmp_path):
    template = make_template(dataset_dir=str(tmp_path))
    given = parse_record(record(write_image(tmp_path / "narrow.png", 9000, 40)), "data.json, record 0")
    with pytest.raises(InputError, match=r"^data.json, record 0: image 'narrow.png': 9000×40 pixels are too narrow"):
        template.sample(given)


def test_an_empty_image_is_named(make_template, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    template = make_template(dataset_dir=str(tmp_path))
    with pytest.raises(InputError, match="^data.json, record 0: .*empty.png"):
        template.sample(parse_record(record("empty.png"), "data.json, record 0"))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_an_image_that_is_cut_off_is_named_when_it_is_read(make_template, tmp_path, ending):
    """Its header is whole, so that its size is known."""
    path = tmp_path / f"cut.{ending}"
    write_image(path, 96, 64)
    path.write_bytes(path.read_bytes()[:2000])
    template = make_template(dataset_dir=str(tmp_path))
    sample = template.sample(parse_record(record(path.name), "data.json, record 0"))
    with pytest.raises(InputError, match=path.name):
        template.check_medium(sample.media[0])
    arrays = {name: np.zeros((1, 1024, *rest), np.float32) for name, rest in {"patches": (768,)}.items()}
    with pytest.raises(InputError, match=f"^data.json, record 0: .*{path.name}"):
        template.load(sample.media, arrays)


def test_media_beyond_the_limit_go_whole_and_are_counted(make_template, tmp_path, caplog):
    """As in the original, what is left of the record is trained; here it is told."""
    write_image(tmp_path / "large.png", 256, 256)
    records = [record("large.png", "What is <image>?") | {"id": "large"}, record("large.png", "x") | {"image": []}]
    (tmp_path / "data.json").write_text(json.dumps(records))
    template = make_template(dataset_dir=str(tmp_path), multimodal_max_length=20, single_image_max_pixels=256**2)
    with caplog.at_level(logging.WARNING):
        data = EncodedDataset(Mixture([(tmp_path / "data.json", 1)]), template)
    assert data[0].media == () and len(data[0]) <= 20
    for told in ("1 conversations: visuals cut off at 20 tokens", "1 conversations: no token of an answer left"):
        assert any(told in line and "(id 'large')" in line for line in caplog.messages)


def test_a_data_set_of_such_media_alone_is_refused_with_the_limit(make_template, tmp_path):
    write_image(tmp_path / "large.png", 256, 256)
    (tmp_path / "data.json").write_text(json.dumps([record("large.png")]))
    template = make_template(dataset_dir=str(tmp_path), multimodal_max_length=20, single_image_max_pixels=256**2)
    with pytest.raises(InputError, match="leaves no token of any answer; .*visuals cut off at 20 tokens"):
        EncodedDataset(Mixture([(tmp_path / "data.json", 1)]), template)

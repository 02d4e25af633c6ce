"""The template: prompts and images in, the model's arrays out, and one clear error for what does not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.errors import InputError
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

TINY = Path(__file__).parents[1] / "golden" / "qwenvl_tiny"


@pytest.fixture(scope="module")
def template(small_vocabulary, config):
    return QwenVLTemplate(QwenVLTokenizer(small_vocabulary, config.num_queries), config)


@pytest.fixture
def pictures(tmp_path):
    """A data directory with a red and a green picture."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "in" / "red.png")
    Image.new("RGB", (20, 30), "lime").save(tmp_path / "in" / "green.png")
    return tmp_path


def test_image_tokens_equal_the_golden_batch(template, config):
    golden = load_file(TINY / "cases.safetensors")["batch.input_ids"]
    start = int(np.flatnonzero(golden[0] == config.image_start_id)[0])
    path = bytes(int(i) for i in golden[0, start + 1 : start + 1 + config.num_queries] if i < 256).decode()
    sample = template.encode_prompt(f"<img>{path}</img>")
    width = config.num_queries + 2
    assert sample.input_ids.tolist() == golden[0, start : start + width].tolist()
    assert [image.columns[0] for image in sample.media] == [1]


def test_pixels(template, pictures, config):
    side = config.visual.image_size
    pixels = template.pixels(["in/red.png", str(pictures / "in" / "green.png")], dataset_dir=pictures)
    assert pixels.shape == (2, 3, side, side) and pixels.dtype == np.float32
    assert pixels[0].argmax(axis=0).max() == 0 and pixels[1].argmax(axis=0).min() == 1
    assert template.pixels([]).shape == (0, 3, side, side)


def test_chat_batch(template, pictures, config):
    history = [("Picture 1: <img>in/red.png</img>\nColour?", "Red.")]
    samples = [
        template.encode_chat("And <img>in/green.png</img>?", history),
        template.encode_chat("Hello", system="Be brief."),
    ]
    batch = collate(in_directory(samples, pictures), template, padding_side="left")
    assert batch["input_ids"].shape == (2, len(samples[0].input_ids))
    assert batch["images"].shape[:2] == (2, 2)
    for row, positions in enumerate(batch["image_context_pos"][0]):
        slots = batch["input_ids"][0, positions]
        assert len(slots) == config.num_queries
        assert bytes(slots[slots < 256].tolist()).decode() == samples[0].media[row].source
        assert batch["input_ids"][0, positions[0] - 1] == config.image_start_id
        assert batch["input_ids"][0, positions[-1] + 1] == config.image_start_id + 1
    assert (batch["image_context_pos"][1] == batch["input_ids"].shape[1]).all()
    assert batch["segment_ids"][1].sum() == len(samples[1].input_ids)
    assert batch["input_ids"][1, 0] == template.tokenizer.eod_id
    assert "labels" not in batch


def test_raw_prompt_takes_every_special_token(template):
    assert template.tokenizer.eod_id in template.encode_prompt("a<|endoftext|>").input_ids
    assert template.tokenizer.eod_id not in template.encode_chat("a<|endoftext|>").input_ids


def test_text_alone_has_no_images(template):
    batch = collate([template.encode_prompt("Hi")], template)
    assert batch["images"] is None and batch["image_context_pos"] is None


def test_prompt_longer_than_the_model(template, config):
    limit = config.max_position_embeddings
    fits = "\n".join("7" * (limit // 2)) + "7"
    assert len(template.encode_prompt(fits).input_ids) == limit
    with pytest.raises(InputError, match=f"the prompt has {limit + 1} tokens, the model takes at most {limit}"):
        template.encode_prompt(fits + "\n")
    with pytest.raises(InputError, match="the model takes at most"):
        template.encode_chat(fits)


def test_longer_than_asked(template):
    with pytest.raises(InputError, match="tokens do not fit in 3"):
        collate([template.encode_prompt("1234")], template, {"tokens": 3})


def test_more_images_than_slots(template):
    sample = template.encode_prompt("<img>a.png</img><img>b.png</img>")
    with pytest.raises(InputError, match="sample 0 of the batch: 2 images do not fit in 1 a row"):
        collate([sample], template, {"images": 1})


@pytest.mark.parametrize("path, message", [("no.png", "does not exist"), ("https://host/a.png", "is a URL")])
def test_bad_image_paths(template, pictures, path, message):
    sample = template.encode_prompt(f"<img>{path}</img>")
    with pytest.raises(InputError, match=f"{path}' {message}"):
        collate(in_directory([sample], pictures), template)


def test_wrong_vocabulary_file(tokenizer, config):
    with pytest.raises(InputError, match="qwen.tiktoken: wrong vocabulary file: its <img> has id 151857.* says 600"):
        QwenVLTemplate(tokenizer, config)


def test_slots_of_another_model(small_vocabulary, config):
    with pytest.raises(InputError, match="the tokenizer has 64 slots an image, the model 256"):
        QwenVLTemplate(QwenVLTokenizer(small_vocabulary, num_queries=64), config)


def test_from_pretrained(small_vocabulary, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"expected one vocabulary file \(qwen.tiktoken\), found none"):
        QwenVLTemplate.from_pretrained(tmp_path)
    (tmp_path / "qwen.tiktoken").write_bytes(small_vocabulary.read_bytes())
    template = QwenVLTemplate.from_pretrained(tmp_path)
    assert template.config == config
    assert template.tokenizer.num_queries == config.num_queries
    fewer = dataclasses.replace(config, visual=dataclasses.replace(config.visual, n_queries=64))
    assert QwenVLTemplate.from_pretrained(tmp_path, fewer).tokenizer.num_queries == 64
    (tmp_path / "other.tiktoken").write_bytes(b"")
    with pytest.raises(InputError, match="found other.tiktoken, qwen.tiktoken"):
        QwenVLTemplate.from_pretrained(tmp_path)

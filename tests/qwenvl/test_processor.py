"""The processor: prompts and images in, the model's arrays out, and one clear error for what does not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ms_impl.errors import InputError
from ms_impl.qwenvl.processor import QwenVLProcessor
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

TINY = Path(__file__).parents[1] / "golden" / "qwenvl_tiny"


@pytest.fixture(scope="module")
def processor(small_vocabulary, config):
    return QwenVLProcessor(QwenVLTokenizer(small_vocabulary, config.num_queries), config)


@pytest.fixture
def pictures(tmp_path):
    """A data directory with a red and a green picture."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "in" / "red.png")
    Image.new("RGB", (20, 30), "lime").save(tmp_path / "in" / "green.png")
    return tmp_path


def test_image_tokens_equal_the_golden_batch(processor, config):
    golden = load_file(TINY / "cases.safetensors")["batch.input_ids"]
    start = int(np.flatnonzero(golden[0] == config.image_start_id)[0])
    path = bytes(int(i) for i in golden[0, start + 1 : start + 1 + config.num_queries] if i < 256).decode()
    sample = processor.encode_prompt(f"<img>{path}</img>")
    width = config.num_queries + 2
    assert sample["input_ids"].tolist() == golden[0, start : start + width].tolist()
    assert sample["image_columns"] == [1]


def test_pixels(processor, pictures, config):
    side = config.visual.image_size
    pixels = processor.pixels(["in/red.png", str(pictures / "in" / "green.png")], dataset_dir=pictures)
    assert pixels.shape == (2, 3, side, side) and pixels.dtype == np.float32
    assert pixels[0].argmax(axis=0).max() == 0 and pixels[1].argmax(axis=0).min() == 1
    assert processor.pixels([]).shape == (0, 3, side, side)


def test_chat_batch(processor, pictures, config):
    history = [("Picture 1: <img>in/red.png</img>\nColour?", "Red.")]
    samples = [
        processor.encode_chat("And <img>in/green.png</img>?", history),
        processor.encode_chat("Hello", system="Be brief."),
    ]
    batch = processor.collate(samples, padding_side="left", dataset_dir=pictures)
    assert batch["input_ids"].shape == (2, len(samples[0]["input_ids"]))
    assert batch["images"].shape[:2] == (2, 2)
    for row, positions in enumerate(batch["image_context_pos"][0]):
        slots = batch["input_ids"][0, positions]
        assert len(slots) == config.num_queries
        assert bytes(slots[slots < 256].tolist()).decode() == samples[0]["image_paths"][row]
        assert batch["input_ids"][0, positions[0] - 1] == config.image_start_id
        assert batch["input_ids"][0, positions[-1] + 1] == config.image_start_id + 1
    assert (batch["image_context_pos"][1] == batch["input_ids"].shape[1]).all()
    assert batch["segment_ids"][1].sum() == len(samples[1]["input_ids"])
    assert batch["input_ids"][1, 0] == processor.tokenizer.eod_id
    assert "labels" not in batch


def test_raw_prompt_takes_every_special_token(processor):
    assert processor.tokenizer.eod_id in processor.encode_prompt("a<|endoftext|>")["input_ids"]
    assert processor.tokenizer.eod_id not in processor.encode_chat("a<|endoftext|>")["input_ids"]


def test_text_alone_has_no_images(processor):
    batch = processor.collate([processor.encode_prompt("Hi")])
    assert batch["images"] is None and batch["image_context_pos"] is None


def test_prompt_longer_than_the_model(processor, config):
    limit = config.max_position_embeddings
    fits = "\n".join("7" * (limit // 2)) + "7"
    assert len(processor.encode_prompt(fits)["input_ids"]) == limit
    with pytest.raises(InputError, match=f"the prompt has {limit + 1} tokens, the model takes at most {limit}"):
        processor.encode_prompt(fits + "\n")
    with pytest.raises(InputError, match="the model takes at most"):
        processor.encode_chat(fits)


def test_longer_than_asked(processor):
    with pytest.raises(InputError, match="tokens do not fit in 3"):
        processor.collate([processor.encode_prompt("1234")], length=3)


def test_more_images_than_slots(processor):
    sample = processor.encode_prompt("<img>a.png</img><img>b.png</img>")
    with pytest.raises(InputError, match="sample 0 of the batch: 2 images do not fit in 1 image slots"):
        processor.collate([sample], image_slots=1)


@pytest.mark.parametrize("path, message", [("no.png", "does not exist"), ("https://host/a.png", "is a URL")])
def test_bad_image_paths(processor, pictures, path, message):
    sample = processor.encode_prompt(f"<img>{path}</img>")
    with pytest.raises(InputError, match=f"{path}' {message}"):
        processor.collate([sample], dataset_dir=pictures)


def test_wrong_vocabulary_file(tokenizer, config):
    with pytest.raises(InputError, match="qwen.tiktoken: wrong vocabulary file: its <img> has id 151857.* says 600"):
        QwenVLProcessor(tokenizer, config)


def test_slots_of_another_model(small_vocabulary, config):
    with pytest.raises(InputError, match="the tokenizer has 64 slots an image, the model 256"):
        QwenVLProcessor(QwenVLTokenizer(small_vocabulary, num_queries=64), config)


def test_from_pretrained(small_vocabulary, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"expected one vocabulary file \(qwen.tiktoken\), found none"):
        QwenVLProcessor.from_pretrained(tmp_path)
    (tmp_path / "qwen.tiktoken").write_bytes(small_vocabulary.read_bytes())
    processor = QwenVLProcessor.from_pretrained(tmp_path)
    assert processor.config == config
    assert processor.tokenizer.num_queries == config.num_queries
    fewer = dataclasses.replace(config, visual=dataclasses.replace(config.visual, n_queries=64))
    assert QwenVLProcessor.from_pretrained(tmp_path, fewer).tokenizer.num_queries == 64
    (tmp_path / "other.tiktoken").write_bytes(b"")
    with pytest.raises(InputError, match="found other.tiktoken, qwen.tiktoken"):
        QwenVLProcessor.from_pretrained(tmp_path)

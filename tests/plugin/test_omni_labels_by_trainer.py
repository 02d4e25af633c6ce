"""What a record says of its labels reaches the loss: the first step of ``swift.py sft`` against transformers.

The run is this project's, from the records on; tokens, labels, weights and what is cut off are written out here, and
tokenizer, pixels, mel features, positions and logits are transformers' own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from preloaded import own_environment, run_script
from training_cases import ROOT, losses, write_image, write_omni, write_sound
from transformers import (
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    WhisperFeatureExtractor,
)

MAX_LENGTH = 96  # tokens
TOLERANCE = 3e-6  # relative difference of the losses; what is wrong differs by a hundred times that
BEFORE, BETWEEN, AFTER = "before " * 8, " between" * 4, " after" * 8


def talk(*turns: str, images: int = 0, audios: int = 0, **last) -> dict:
    """A record of turns, the user's first; ``last`` is beside the last answer."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    messages[-1] |= last
    return {"messages": messages, "images": ["image.png"] * images, "audios": ["sound.wav"] * audios}


RECORDS = [
    talk(f"{BEFORE}<image>{BETWEEN}<audio>{AFTER}", "It is so so so", images=1, audios=1),  # too long
    talk("What?", "Not this", "And?", "so be it", loss_scale=0.25),
    talk("<image>Which?", "It", images=1),
    talk("Why?", f"{BEFORE}or{BETWEEN} or{AFTER}" * 2),  # too long
]
RECORDS[1]["messages"][1]["loss"] = False


@dataclass
class Row:
    """Tokens; what the label of each counts, 0 where there is none; which belong to media; the model's other inputs."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    of_media: list[bool] = field(default_factory=list)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, ids: list[int], weight: float = 0.0, of_medium: bool = False) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.of_media += [of_medium] * len(ids)

    def cut(self, strategy: str) -> Row:
        """ms-swift's rule: all tokens of media, and of the others the last (left) or the first (right)."""
        texts = [column for column, of_medium in enumerate(self.of_media) if not of_medium]
        gone = max(len(self.ids) - MAX_LENGTH, 0)
        dropped = set(texts[:gone] if strategy == "left" else texts[len(texts) - gone :])
        columns = [column for column in range(len(self.ids)) if column not in dropped]
        return Row(*([values[c] for c in columns] for values in (self.ids, self.weights, self.of_media)), self.inputs)


class Original:
    """transformers' model, tokenizer and processors, on the files that the run has."""

    def __init__(self, root: Path):
        self.root = root
        self.model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(root / "model").eval()
        self.config = self.model.config
        self.encode = partial(Qwen2TokenizerFast.from_pretrained(root / "model").encode)

    def row(self, record: dict) -> Row:
        row = Row()
        row.add(self.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"))
        for number, message in enumerate(record["messages"]):
            row.add(self.encode(f"{number and chr(10) or ''}<|im_start|>{message['role']}\n"))
            if message["role"] == "user":
                self._question(row, message["content"] + "<|im_end|>")
            else:
                weight = 0.0 if message.get("loss") is False else message.get("loss_scale", 1.0)
                row.add(self.encode(message["content"] + "<|im_end|>"), weight)
        return row

    def loss(self, rows: list[Row]) -> float:
        """The mean of the labels' losses by their weights."""
        losses, weights = [], []
        for row in rows:
            ids = torch.tensor([row.ids])
            self.model.rope_deltas = None
            with torch.no_grad():
                logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **row.inputs).logits
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none"))
            weights.append(torch.tensor(row.weights[1:]).double())
        counted = torch.cat(weights)
        return float((torch.cat(losses) * counted).sum() / counted.sum())

    def _question(self, row: Row, text: str) -> None:
        for part in re.split("(<image>|<audio>)", text):
            if part == "<image>":
                self._image(row)
            elif part == "<audio>":
                self._sound(row)
            elif part:
                row.add(self.encode(part))

    def _image(self, row: Row) -> None:
        process = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)
        row.inputs |= process(Image.open(self.root / "image.png"), return_tensors="pt")
        ids = [self.config.image_token_index] * (int(row.inputs["image_grid_thw"].prod()) // 4)
        row.add([self.config.vision_start_token_id, *ids, self.config.vision_end_token_id], of_medium=True)

    def _sound(self, row: Row) -> None:
        extract = WhisperFeatureExtractor(feature_size=self.config.audio_config.num_mel_bins)
        samples = np.frombuffer((self.root / "sound.wav").read_bytes()[44:], np.int16) / np.float32(32768)
        found = extract(samples, sampling_rate=16000, return_attention_mask=True, return_tensors="pt")
        row.inputs |= {"input_features": found["input_features"], "feature_attention_mask": found["attention_mask"]}
        frames = int(found["attention_mask"].sum())
        ids = [self.config.audio_token_index] * ((((frames - 1) // 2 + 1) - 2) // 2 + 1)
        row.add([self.config.audio_start_token_id, *ids, self.config.audio_end_token_id], of_medium=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The model, the media and the records."""
    folder = tmp_path_factory.mktemp("labels")
    write_omni(folder / "model")
    write_image(folder / "image.png", 84, 56)
    write_sound(folder / "sound.wav", 1.0)
    records = [{**record, **{key: [str(folder / name) for name in record[key]] for key in ("images", "audios")}}
               for record in RECORDS]  # fmt: skip
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize("strategy, more", [("left", ()), ("right", ("--packing", "true", "--padding_free", "true"))])
def test_the_first_loss_is_that_of_the_labels(root, strategy, more):
    words = [
        "sft", "--model", root / "model", "--dataset", root / "records.jsonl", "--dataset_shuffle", "false",
        "--train_type", "full", "--torch_dtype", "float32", "--device_target", "CPU", "--num_train_epochs", 1,
        "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1, "--max_length", MAX_LENGTH,
        "--truncation_strategy", strategy, "--gradient_checkpointing", "false", "--add_version", "false",
        "--output_dir", root / strategy, *more,
    ]  # fmt: skip
    ran = run_script(ROOT / "scripts/swift.py", *words, folder=root, environment=own_environment())
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert f"2 conversations: cut off at {MAX_LENGTH} tokens" in ran.stderr
    original = Original(root)
    whole = [original.row(record) for record in RECORDS]
    rows = [row.cut(strategy) for row in whole]
    assert [len(row.ids) > MAX_LENGTH for row in whole] == [True, False, False, True]
    assert max(len(row.ids) for row in rows) == MAX_LENGTH
    (loss,) = losses(root / strategy)
    assert loss == pytest.approx(original.loss(rows), rel=TOLERANCE)
    # Controls: weights that are not told, a masked answer that is trained, and text cut off at the other end.
    heavy = [Row(row.ids, [float(weight > 0) for weight in row.weights], row.of_media, row.inputs) for row in rows]
    told = [{"messages": [{**m, "loss": True} for m in record["messages"]]} for record in RECORDS]
    trained = [original.row(record).cut(strategy) for record in told]
    other = [row.cut({"left": "right", "right": "left"}[strategy]) for row in whole]
    for wrong in (heavy, trained, other):
        assert abs(original.loss(wrong) / loss - 1) > 100 * TOLERANCE

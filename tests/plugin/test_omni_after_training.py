"""A trained thinker goes to transformers: equal logits on every record that it was trained on, and its adapter to PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import peft
import pytest
import torch
from mindspore import Tensor
from training_cases import checkpoint
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from convert.convert_weight import main as convert_weight
from ms_impl import families
from ms_impl.data.batch import collate, sizes_of
from ms_impl.data.files import ConversationFile
from ms_impl.data.sample import Sample
from ms_impl.data.sample_reader import read_sample
from ms_impl.data.template import Template
from ms_impl.train.feed import step_columns
from ms_impl.weights import load_weights

pytestmark = pytest.mark.parametrize("runs", ["qwen2_5_omni"], indirect=True)
FAMILY = families.get("qwen2_5_omni")
TOLERANCE = 1e-5  # rms(difference) / rms(reference), fp32
STEPS = 2


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))


@pytest.fixture
def template(runs) -> Template:
    return FAMILY.make_template(runs.root / "model", None, dataset_dir=str(runs.root), **runs.case.template)


@pytest.fixture
def samples(runs, template) -> list[Sample]:
    conversations = ConversationFile(runs.root / "records.jsonl")
    return [read_sample(template, conversations[number])[0] for number in range(len(conversations))]


def ours(directory: Path, template: Template, samples: list[Sample], adapter: Path | None = None) -> list[np.ndarray]:
    """Logits [t, vocabulary] of each sample, computed in one batch."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model = FAMILY.resolve("model")(template.config)
    load_weights(model, directory, FAMILY, str(adapter) if adapter else None)
    batch = collate(samples, template, sizes_of(template, [sample.outline for sample in samples], {}))
    columns = [name for name in step_columns(template) if name not in ("labels", "loss_weights", "seeds")]
    given = {name: Tensor(batch[name]) for name in columns}
    logits = model.set_train(False)(**given).asnumpy()
    return [row[: len(sample)] for row, sample in zip(logits, samples)]


def original_inputs(sample: Sample, template: Template) -> dict:
    """What transformers takes, from the arrays of a sample: it finds positions and features itself."""
    batch = collate([sample], template, sizes_of(template, [sample.outline], {}))
    given = {"input_ids": torch.tensor(sample.input_ids[None]).long()}
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    visuals = [medium for medium in sample.media if hasattr(medium.source, "is_video")]
    if visuals:
        columns = batch["patch_columns"].reshape(-1)
        order = np.argsort(columns, kind="stable")[: (columns < len(sample)).sum()]
        units = batch["patches"].reshape(len(columns), 4, -1)[order]
        for medium, patches in zip(visuals, _in_turn(units, visuals)):
            end = "_videos" if medium.source.is_video else ""
            given.setdefault(f"pixel_values{end}", []).append(torch.tensor(patches))
            grid = "video_grid_thw" if end else "image_grid_thw"
            given.setdefault(grid, []).append(torch.tensor(medium.geometry[:3])[None])
        given = {key: torch.cat(value) if isinstance(value, list) else value for key, value in given.items()}
    sounds = [medium for medium in sample.media if not hasattr(medium.source, "is_video")]
    if sounds:
        (medium,) = sounds
        mel = np.concatenate(list(batch["mel"][0]), axis=-1)[None]
        given["input_features"] = torch.tensor(mel)
        given["feature_attention_mask"] = torch.arange(mel.shape[-1])[None] < medium.geometry[0]
    if "video_grid_thw" in given:
        given |= {"use_audio_in_video": True, "video_second_per_grid": torch.ones(len(given["video_grid_thw"]))}
    return given


def _in_turn(units: np.ndarray, visuals: list) -> Iterator[np.ndarray]:
    """The patches [n, features] of each medium."""
    start = 0
    for medium in visuals:
        count = int(np.prod(medium.geometry[:3])) // 4
        yield units[start : start + count].reshape(4 * count, -1)
        start += count


def theirs(model: torch.nn.Module, samples: list[Sample], template: Template) -> list[np.ndarray]:
    found = []
    for sample in samples:
        model.rope_deltas = None
        with torch.no_grad():
            found.append(model(**original_inputs(sample, template)).logits[0].numpy())
    return found


def original(directory: Path) -> torch.nn.Module:
    model, told = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(directory, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@pytest.mark.filterwarnings("ignore")
def test_what_was_trained_goes_to_transformers_with_equal_logits(runs, trained, template, samples, tmp_path):
    saved, back = checkpoint(trained, STEPS), tmp_path / "back"
    given = ["--model", "qwen2_5_omni", "--reverse", "--input_path", str(saved), "--output_path", f"{back}/"]
    assert convert_weight(given) == 0
    found, wanted = ours(saved, template, samples), theirs(original(back), samples, template)
    before = theirs(original(runs.root / "model"), samples, template)
    for logits, reference, untrained in zip(found, wanted, before, strict=True):
        assert distance(logits, reference) < TOLERANCE
        assert distance(untrained, reference) > 100 * TOLERANCE


@pytest.mark.slow  # what PEFT loads is proven on adapters of all kinds in tests/parity/qwen2_5_omni
@pytest.mark.filterwarnings("ignore")
def test_the_trained_adapter_goes_to_peft_with_equal_logits(runs, adapted, template, samples):
    adapter, base = max((adapted / "checkpoint").iterdir()), runs.root / "model"
    before = theirs(original(base), samples, template)
    wanted = theirs(peft.PeftModel.from_pretrained(original(base), adapter).base_model.model, samples, template)
    for logits, reference, untrained in zip(ours(base, template, samples, adapter), wanted, before, strict=True):
        assert distance(logits, reference) < TOLERANCE
        assert distance(untrained, reference) > 10 * TOLERANCE

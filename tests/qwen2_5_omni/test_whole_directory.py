"""A directory as released, with talker and token2wav: answers are the thinker's, and merging keeps what is not built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from convert.merge_adapter import main as merge_adapter
from ms_impl import families, load
from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import LoraConfig

SPEECH = {"talker.model.norm.weight": np.arange(8, dtype=np.float16), "token2wav.dit.bias": np.ones((2, 2), np.float32)}
SPEAKERS = b"never unpickled"


@pytest.fixture
def whole(tiny_omni, tmp_path) -> Path:
    """The thinker of ``tiny_omni`` as part of a whole model."""
    directory = Path(shutil.copytree(tiny_omni / "model", tmp_path / "whole"))
    thinker = json.loads((directory / "config.json").read_text())
    config = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "thinker_config": thinker,
              "talker_config": {"model_type": "qwen2_5_omni_talker"}, "token2wav_config": {}}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "spk_dict.pt").write_bytes(SPEAKERS)
    weights = load_file(directory / "model.safetensors")
    weights = {f"thinker.{name}": values for name, values in weights.items()} | SPEECH
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def answer(directory: Path, clip: Path, adapter: Path | None = None) -> str:
    model, template = load(directory, adapter=adapter)
    template = template.with_options(video_min_pixels=1, video_max_pixels=3136, fps=1.0, use_audio_in_video=True)
    return model.chat(template, [{"video": str(clip)}, {"text": "What?"}], max_new_tokens=6)[0]


def test_it_answers_as_its_thinker_and_merging_keeps_the_rest(tiny_omni, whole, tmp_path):
    clip, adapter, merged = tiny_omni / "clip.mp4", tmp_path / "adapter", tmp_path / "merged"
    model, _ = load(whole)
    factors = inject(model, LoraConfig("all-linear", r=2, lora_alpha=64), families.get("qwen2_5_omni"), seed=0)
    chance = np.random.default_rng(0)
    for parameter in factors.parameters().values():
        parameter.set_data(Tensor(chance.normal(0, 0.3, parameter.shape).astype(np.float32)))
    adapter.mkdir()
    factors.save(adapter)
    given = ["--input_path", str(whole), "--adapter", str(adapter), "--output_path", f"{merged}/"]
    assert merge_adapter(["--model", "qwen2_5_omni", *given]) == 0
    after = load_file(merged / "model.safetensors")
    assert after.keys() == load_file(whole / "model.safetensors").keys()
    for name, values in SPEECH.items():
        assert after[name].dtype == values.dtype and np.array_equal(after[name], values)
    assert (merged / "spk_dict.pt").read_bytes() == SPEAKERS
    assert json.loads((merged / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    plain = answer(tiny_omni / "model", clip)
    assert answer(whole, clip) == plain
    assert answer(merged, clip) == answer(whole, clip, adapter) != plain

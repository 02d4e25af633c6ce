"""A whole Omni as transformers makes it: a thinker that was trained goes into it, and transformers loads the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden/qwen2_5_omni_tiny"
ROPE = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
TALKER = {
    "vocab_size": 64, "embedding_size": 64, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_scaling": ROPE,
}  # fmt: skip
SPEECH = {
    "dit_config": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16, "ff_mult": 1,
        "emb_dim": 16, "num_embeds": 16, "mel_dim": 8, "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24],
        "enc_attention_channels": 4, "enc_lin_neurons": 8, "enc_se_channels": 4, "enc_res2net_scale": 2,
        "look_ahead_layers": [0], "look_backward_layers": [0],
    },
    "bigvgan_config": {
        "mel_dim": 8, "upsample_initial_channel": 8, "upsample_rates": [2], "upsample_kernel_sizes": [4],
        "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
    },
}  # fmt: skip


@pytest.fixture
def whole(tmp_path) -> Path:
    """A whole Omni of random weights, with speakers, as transformers saves it."""
    config = Qwen2_5OmniConfig(
        thinker_config=json.loads((GOLDEN / "config.json").read_text()), talker_config=TALKER, token2wav_config=SPEECH
    )
    torch.manual_seed(0)
    Qwen2_5OmniForConditionalGeneration(config).save_pretrained(tmp_path / "whole")
    voice = {"cond": torch.zeros(1, 8), "ref_mel": torch.zeros(1, 2, 8), "bos_token": 53}
    torch.save({"A": voice}, tmp_path / "whole/spk_dict.pt")
    return tmp_path / "whole"


def test_transformers_loads_a_trained_thinker_in_its_whole(whole, convert_weight, tmp_path):
    trained, back = tmp_path / "trained", tmp_path / "back"
    given = ("--input_path", whole, "--output_path", f"{trained}/")
    assert convert_weight(*given, model="qwen2_5_omni")[0] == 0
    weights = {name: 1.5 * values for name, values in load_file(trained / "model.safetensors").items()}
    save_file(weights, trained / "model.safetensors", metadata={"format": "ms"})
    given = ("--input_path", trained, "--output_path", f"{back}/", "--reverse", "--base", whole)
    status, _, err = convert_weight(*given, model="qwen2_5_omni")
    assert status == 0, err
    before = load_file(whole / "model.safetensors")
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(back)
    found = {name: values.numpy() for name, values in model.state_dict().items()}
    assert found.keys() == before.keys()
    for name, values in before.items():
        expected = 1.5 * values if name.startswith("thinker.") else values
        assert np.array_equal(found[name], expected), name
    assert model.speaker_map.keys() == {"A"}

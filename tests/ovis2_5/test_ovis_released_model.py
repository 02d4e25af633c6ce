"""The models of the released sizes have the names and shapes of their checkpoints: 751 tensors, and 840."""

import json
from dataclasses import replace

import pytest
import released_shapes
from mindspore.nn.utils import no_init_parameters

from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.model import Ovis2_5

LANGUAGE = {
    "2b": {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 6144,
           "tie_word_embeddings": True},
    "9b": {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288,
           "tie_word_embeddings": False},
}  # fmt: skip
VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 512,
}  # fmt: skip


@pytest.mark.parametrize(("size", "tensors"), [("2b", 751), ("9b", 840)])
def test_names_and_shapes(ovis_folder, size, tensors):
    raw = json.loads((ovis_folder / "config.json").read_text(encoding="utf-8"))
    config = Ovis2_5Config.from_dict(raw)
    llm = replace(config.llm_config, **LANGUAGE[size], num_key_value_heads=8, head_dim=128, vocab_size=151936)
    vit = replace(config.vit_config, **VISION)
    config = replace(config, llm_config=llm, vit_config=vit, hidden_size=llm.hidden_size, visual_vocab_size=65536)
    with no_init_parameters():
        model = Ovis2_5(config)
    found = {name: tuple(parameter.shape) for name, parameter in model.parameters_dict().items()}
    assert len(found) == tensors
    assert found == released_shapes.expanded(released_shapes.read(f"ovis2_5_{size}"))

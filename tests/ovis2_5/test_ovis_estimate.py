"""Ovis2.5 on paper: every parameter counted, and the activations that PyTorch keeps of torch_ref's forward pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import ascend_estimate

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.estimate.memory import memory
from ms_impl.estimate.parts import check, model_parts
from ms_impl.estimate.plan import RunLayout
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.patches import Visual, fill_rows
from torch_ref.ovis2_5.model import Ovis2_5

ROOT = Path(__file__).parents[2]
FAMILY = families.get("ovis2_5")
TOLERANCE = 0.10
UNUSED = 2 * 1152  # post_layernorm


@pytest.mark.parametrize(("size", "numbers"), [("2b", 2_570_429_672), ("9b", 9_174_807_784)])
def test_parameters_are_counted_exactly(size, numbers):
    file = ROOT / f"configs/ovis2_5/ovis2_5_{size}/config.json"

    def counted(**layout) -> tuple[int, int]:
        parts = model_parts(FAMILY, file, RunLayout(rows=1, length=8192, **layout))
        return sum(part.numbers for part in parts), sum(part.trained for part in parts)

    assert counted() == (numbers, numbers - UNUSED)
    tower = 413_534_448
    assert counted(frozen=("vision_tower",)) == (numbers, numbers - tower)
    assert counted(only=("visual_tokenizer.head",)) == (numbers, 302_102_520)


def test_a_model_that_is_to_be_cut_is_refused():
    file = ROOT / "configs/ovis2_5/ovis2_5_2b/config.json"
    with pytest.raises(InputError, match=r"model_parallel: Ovis2.5 runs data parallel only"):
        check(FAMILY, file, RunLayout(rows=1, length=64, model_parallel=2))


LORA = {"2b": 34_865_152, "9b": 87_293_952}


@pytest.mark.parametrize(("size", "kind"), [("2b", ""), ("2b", "_lora"), ("9b", ""), ("9b", "_lora")])
def test_the_yamls_fit_on_the_devices_they_name(size, kind, capsys):
    yaml = ROOT / f"configs/ovis2_5/finetune_ovis2_5_{size}{kind}.yaml"
    assert ascend_estimate.main(["--config", str(yaml)]) == 0
    printed = capsys.readouterr().out
    numbers = {"2b": 2_570_429_672, "9b": 9_174_807_784}[size]
    assert f"{numbers + LORA[size]:,}" in printed if kind else f"{numbers - UNUSED:,}" in printed
    assert f"{8 if (size, kind) == ('9b', '') else 1} devices" in printed


def test_lora_is_tried_where_a_tied_model_does_not_fit(capsys):
    yaml = ROOT / "configs/ovis2_5/finetune_ovis2_5_2b.yaml"
    assert ascend_estimate.main(["--config", str(yaml), "--hbm_gb", "32"]) == 2
    assert "LoRA (model.model_config.lora) would fit" in capsys.readouterr().err


def config_of(width: int, layers: int, vision: int) -> dict:
    return {
        "model_type": "ovis2_5", "conversation_formatter_class": "Qwen3ConversationFormatter", "hidden_size": width,
        "visual_vocab_size": 64,
        "llm_config": {
            "model_type": "qwen3", "vocab_size": 512, "hidden_size": width, "intermediate_size": 3 * width,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": width // 4,
        },
        "vit_config": {
            "model_type": "siglip2_navit", "hidden_size": vision, "intermediate_size": 4 * vision,
            "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 128, "patch_size": 16,
        },
    }  # fmt: skip


def batch(config: Ovis2_5Config, length: int) -> dict[str, torch.Tensor]:
    """A row of which the first half is an image."""
    grid = (1, 8, length * 2 // 8)
    patches, units = length * 2, length // 2
    features, side = config.vit_config.patch_features, config.vit_config.position_side
    pixels = np.random.default_rng(0).normal(size=(patches, features)).astype(np.float32)
    out = {
        "patches": np.zeros((1, patches, features), np.float32), "patch_segments": np.zeros((1, patches, 2), np.int32),
        "patch_places": np.zeros((1, patches, 2), np.int32), "patch_taps": np.zeros((1, patches, 2, side), np.float32),
        "patch_columns": np.zeros((1, units), np.int32),
    }  # fmt: skip
    fill_rows([Visual(grid, pixels, np.arange(units, dtype=np.int32))], out, config.vit_config)
    rest = {
        "indicator_ids": np.zeros(1, np.int32), "indicator_columns": np.full((1, 1), length, np.int32),
        "input_ids": np.ones(length, np.int32), "labels": np.ones(length, np.int32),
        "segment_ids": np.ones(length, np.int32), "position_ids": np.arange(length, dtype=np.int32),
        "loss_weights": np.ones(length, np.float32),
    }  # fmt: skip
    return {name: torch.from_numpy(array[None]) for name, array in {**out, **rest}.items()}


def saved_bytes(config: Ovis2_5Config, length: int) -> int:
    """Bytes of all tensors that autograd keeps after a forward pass, parameters not counted."""
    model = Ovis2_5(config).train()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch(config, length))
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    ("width", "layers", "vision", "length"), [(256, 6, 64, 256), (64, 2, 256, 256), (128, 4, 64, 512)]
)
def test_activations_are_what_pytorch_keeps(width, layers, vision, length, tmp_path):
    raw = config_of(width, layers, vision)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config, plan = Ovis2_5Config.from_dict(raw), RunLayout(rows=1, length=length, flash=False, compute_bytes=4)
    parts = model_parts(FAMILY, tmp_path / "config.json", plan)
    log_probabilities = 4 * length * config.vocab_size
    scored = 3 * 4 * (length // 2) * config.visual_tokens  # torch_ref keeps what our head makes again
    vit = config.vit_config  # PyTorch's GELU is one operator, ours keeps two numbers more for each of its own
    gelu = 2 * 4 * (2 * length) * vit.intermediate_size * vit.num_hidden_layers
    estimated = memory(parts, plan).activations + log_probabilities + scored - gelu
    assert estimated == pytest.approx(saved_bytes(config, length), rel=TOLERANCE)

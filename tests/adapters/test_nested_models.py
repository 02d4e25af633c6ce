"""Adapters of a model that is one alone or part of a whole one: PEFT's names on Hugging Face's model are ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ms_impl import families
from ms_impl.adapters import files
from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.adapters.files import WEIGHTS_NAME
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.errors import InputError
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.conversion import weights_of
from ms_impl.weights import load_weights

transformers = pytest.importorskip("transformers")
GOLDEN = Path(__file__).parents[1] / "golden/qwen2_5_omni_tiny"
FAMILY = families.get("qwen2_5_omni")
# What ms-swift makes of all-linear where the towers are frozen.
LANGUAGE_MODEL = r"^({}model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))$"


class Speech(nn.Module):
    """A stand-in for what is not built here: names that targets fit."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(8, 8)


class Whole(nn.Module):
    """A whole model around a thinker."""

    def __init__(self, thinker: nn.Module):
        super().__init__()
        self.thinker, self.talker = thinker, Speech()
        self.config = thinker.config
        self.prepare_inputs_for_generation = None  # PEFT asks a causal language model for it


@pytest.fixture(params=["", "thinker."], ids=["alone", "whole"])
def prefix(request) -> str:
    return request.param


@pytest.fixture
def reference(prefix):
    thinker = transformers.Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(GOLDEN).eval()
    torch.manual_seed(0)
    return Whole(thinker) if prefix else thinker


@pytest.fixture
def base(prefix, reference, tmp_path) -> Path:
    """The checkpoint of the reference."""
    directory = tmp_path / "base"
    directory.mkdir()
    config = json.loads((GOLDEN / "config.json").read_text())
    nested = {"model_type": "qwen2_5_omni", "thinker_config": config}
    (directory / "config.json").write_text(json.dumps(nested if prefix else config))
    tensors = {name: values.contiguous() for name, values in reference.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def config(base):
    return FAMILY.resolve("config").from_file(base)


def targets(way: str, prefix: str) -> dict:
    """PEFT's settings."""
    return {
        "suffixes": {"target_modules": ["q_proj", "k_proj", "gate_proj"]},
        "expression": {"target_modules": LANGUAGE_MODEL.replace("{}", re.escape(prefix))},
        "all-linear": {"target_modules": "all-linear"},
        "whole paths": {
            "target_modules": [f"{prefix}model.layers.0.self_attn.q_proj", "visual.merger.mlp.0", "audio_tower.proj"],
            "modules_to_save": [f"{prefix}lm_head"],
            "rank_pattern": {rf"{re.escape(prefix)}model\.layers\.0\..*": 2},
        },
        "layers": {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
    }[way]


WAYS = ["suffixes", "expression", "all-linear", "whole paths", "layers"]


def made_by_peft(reference, directory: Path, **settings) -> dict[str, torch.Tensor]:
    """An adapter that PEFT made, moved and saved; nothing of the speech is moved. The merged weights."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(reference, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and ".talker." not in name:
                parameter += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(directory)
    return adapted.merge_and_unload().state_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_a_base_with_pefts_adapter_is_pefts_merge(reference, base, config, prefix, tmp_path, way):
    expected = made_by_peft(reference, tmp_path / "adapter", **targets(way, prefix))
    stored = files.read(tmp_path / "adapter", FAMILY)
    assert stored.prefix == prefix
    source = weights_of(open_checkpoint(base), FAMILY)
    found = merged_checkpoint(source, stored, FAMILY, config).tensors
    assert found.keys() | source.skipped.keys() == expected.keys()
    before = load_file(base / "model.safetensors")
    moved = 0
    for name, tensor in found.items():
        values = torch.from_numpy(tensor.array().copy())
        assert torch.equal(values, expected[name]), name
        moved += not torch.equal(values, before[name])
    module = stored.tensors.keys()
    assert moved == sum("lora_A" in name or "lora" not in name for name in module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_a_new_adapter_has_pefts_names_and_shapes(reference, config, prefix, tmp_path, way):
    settings = {"r": 4, **targets(way, prefix)}
    adapted = peft.get_peft_model(reference, peft.LoraConfig(**settings))
    adapted.save_pretrained(tmp_path)
    theirs = {name: tuple(values.shape) for name, values in load_file(tmp_path / WEIGHTS_NAME).items()}
    theirs = {name: shape for name, shape in theirs.items() if ".talker." not in name}
    if way == "all-linear" and prefix:  # the whole model does not tell PEFT its output head
        theirs = {name: shape for name, shape in theirs.items() if ".lm_head." not in name}
    model = FAMILY.resolve("model")(config)
    adapter = inject(model, LoraConfig.from_settings(settings, "lora"), FAMILY, seed=0)
    again = tmp_path / "again"
    again.mkdir()
    adapter.save(again)
    ours = {name: tuple(values.shape) for name, values in load_file(again / WEIGHTS_NAME).items()}
    assert ours == theirs


@pytest.mark.filterwarnings("ignore")
def test_peft_loads_ours(reference, config, prefix, tmp_path):
    model = FAMILY.resolve("model")(config)
    adapter = inject(
        model, LoraConfig(("language_model", "aligner"), r=4, exclude_modules=("lm_head",)), FAMILY, seed=0
    )
    adapter.save(tmp_path)
    written = json.loads((tmp_path / CONFIG_NAME).read_text())["target_modules"]
    assert all(name.startswith(prefix) for name in written) and f"{prefix}audio_tower.proj" in written
    loaded = peft.PeftModel.from_pretrained(reference, tmp_path)
    state = peft.get_peft_model_state_dict(loaded)
    ours = load_file(tmp_path / WEIGHTS_NAME)
    assert state.keys() == ours.keys() and all(torch.equal(state[name], ours[name]) for name in ours)


@pytest.mark.filterwarnings("ignore")
def test_a_model_takes_the_weights_and_pefts_adapter(reference, base, config, prefix, tmp_path):
    settings = targets("expression", prefix)
    expected = made_by_peft(reference, tmp_path / "adapter", **settings)
    merged, beside = (FAMILY.resolve("model")(config) for _ in range(2))
    load_weights(merged, base, FAMILY, adapter=tmp_path / "adapter")
    for name, parameter in merged.parameters_dict().items():
        assert np.array_equal(parameter.asnumpy(), expected[prefix + name].numpy()), name
    load_weights(beside, base, FAMILY)
    adapter = inject(beside, LoraConfig.read(tmp_path / "adapter"), FAMILY, seed=0)
    adapter.load(tmp_path / "adapter")
    adapter.merge()
    for name, parameter in merged.parameters_dict().items():
        assert np.array_equal(beside.parameters_dict()[name].asnumpy(), parameter.asnumpy()), name


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_made_on_one_form_fits_the_other(reference, base, config, prefix, tmp_path):
    made_by_peft(reference, tmp_path / "adapter", **targets("expression", prefix))
    other = config.without_prefix()
    assert (other == config) == (not prefix)
    stored = files.read(tmp_path / "adapter", FAMILY)
    alone = merged_checkpoint(open_checkpoint(GOLDEN), stored, FAMILY, other).tensors
    here = merged_checkpoint(weights_of(open_checkpoint(base), FAMILY), stored, FAMILY, config).tensors
    assert {prefix + name for name in alone} == here.keys()
    for name, tensor in alone.items():
        assert np.array_equal(tensor.array(), here[prefix + name].array()), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prefix", ["thinker."], indirect=True)
def test_an_adapter_that_changes_what_is_not_built_is_refused(reference, prefix, tmp_path):
    made_by_peft(reference, tmp_path, target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    name = "base_model.model.talker.q_proj.lora_B.weight"
    assert not tensors[name].any()
    assert not any("talker" in name for name in files.read(tmp_path, FAMILY).tensors)
    tensors[name][0, 0] = 1e-3
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    with pytest.raises(
        InputError, match="talker.q_proj.lora_B.weight changes a part of qwen2_5_omni that is not built"
    ):
        files.read(tmp_path, FAMILY)

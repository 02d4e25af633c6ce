"""What the settings name in a model, at full size too."""

import json
from pathlib import Path

import pytest
from mindspore.nn.utils import no_init_parameters

from ms_impl.adapters.adapter import plan_for
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.targets import make_plan
from ms_impl.errors import InputError
from ms_impl.io.rules import Layout
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL

FULL_SIZE = Path(__file__).parents[2] / "configs/qwenvl/qwenvl_9.6b"
OFFICIAL = ("c_attn", "attn.c_proj", "w1", "w2")
OFFICIAL_COUNT = 112_197_632  # of the official LoRA fine-tuning, r = 64


@pytest.fixture
def plan(golden_dir, family):
    """The plan for the tiny model."""
    with no_init_parameters():
        model = QwenVL(QwenVLConfig.from_file(golden_dir))
    return lambda *targets, **settings: plan_for(model, LoraConfig(targets, **settings), family)


def test_the_official_setting_at_full_size_from_names_and_shapes(family):
    shapes = family.resolve("weights").shapes(QwenVLConfig.from_file(FULL_SIZE), Layout.HUGGING_FACE)
    matrices = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight") and len(shapes[name]) == 2]
    plan = make_plan(LoraConfig(OFFICIAL, r=64), family, shapes, matrices)
    assert plan.size == OFFICIAL_COUNT
    assert len(plan.adapted) == 4 * 32


def test_the_official_setting_at_full_size_from_a_model_without_memory(family):
    with no_init_parameters():
        model = QwenVL(QwenVLConfig.from_file(FULL_SIZE))
    assert plan_for(model, LoraConfig(OFFICIAL, r=64), family).size == OFFICIAL_COUNT
    whole = plan_for(model, LoraConfig(OFFICIAL, r=64, modules_to_save=("wte", "lm_head")), family)
    assert whole.size == OFFICIAL_COUNT + 2 * 151936 * 4096


def test_names_match_whole_or_after_a_dot(plan):
    layers = range(2)
    assert set(plan("c_attn").adapted) == {f"transformer.h.{n}.attn.c_attn" for n in layers}
    assert set(plan("attn.c_proj").adapted) == {f"transformer.h.{n}.attn.c_proj" for n in layers}
    assert set(plan("transformer.h.1.mlp.w1").adapted) == {"transformer.h.1.mlp.w1"}
    assert set(plan("h.1.mlp.w1", "lm_head").adapted) == {"transformer.h.1.mlp.w1", "lm_head"}


def test_groups_are_all_linear_layers_in_them(plan, family):
    adapted = {group: plan(group).adapted for group in ("language_model", "vision_tower", "aligner")}
    assert set(adapted["aligner"]) == {f"transformer.visual.attn_pool.{n}" for n in ("kv_proj", "attn.out_proj")}
    assert len(adapted["vision_tower"]) == 2 * 4
    assert len(adapted["language_model"]) == 2 * 5 + 1
    assert "transformer.wte" not in adapted["language_model"]  # an embedding is none
    for group, modules in adapted.items():
        assert {family.group_of(f"{module}.weight") for module in modules} == {group}


def test_groups_are_spelled_out_for_peft(plan):
    made = plan("aligner", "c_attn")
    assert set(made.config.target_modules) == {"c_attn", *plan("aligner").adapted}
    assert "aligner" not in json.loads(made.config.to_json())["target_modules"]


def test_what_is_trained_whole_is_not_adapted_too(plan):
    made = plan("language_model", modules_to_save=("lm_head", "attn_pool"))
    assert "lm_head" not in made.adapted and made.whole["lm_head.weight"] == (640, 128)
    assert "transformer.visual.attn_pool.query" in made.whole
    with pytest.raises(InputError, match="'lm_head' matches no linear layer that is not trained whole"):
        plan("lm_head", modules_to_save=("lm_head",))


@pytest.mark.parametrize(
    ("target", "near"),
    [("c_atn", "c_attn"), ("languagemodel", "language_model"), ("_attn", "c_attn"), ("attn.c_porj", "attn.c_proj")],
)
def test_a_target_that_matches_nothing_is_named_with_what_is_near(plan, target, near):
    with pytest.raises(InputError, match=f"target_modules: '{target}' matches no linear layer.*; near to it:.*{near}"):
        plan("c_attn", target)


def test_an_embedding_or_a_norm_cannot_be_adapted(plan):
    for target in ("wte", "ln_f", "positional_embedding"):
        with pytest.raises(InputError, match=f"'{target}' matches no linear layer"):
            plan(target)


def test_a_module_to_save_that_is_not_there_is_named(plan):
    with pytest.raises(InputError, match="modules_to_save: the model has no module 'lm_heat'; near to it: lm_head"):
        plan("c_attn", modules_to_save=("lm_heat",))

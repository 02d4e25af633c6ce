"""What the settings name in a model, at full size too."""

import json
import time
from pathlib import Path

import pytest
from mindspore.nn.utils import no_init_parameters

from ms_impl.adapters.adapter import plan_for
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.targets import make_plan
from ms_impl.errors import InputError
from ms_impl.io.rules import HUGGING_FACE
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

    def make(*targets, expression=None, **settings):
        return plan_for(model, LoraConfig(expression or targets, **settings), family)

    return make


def test_the_official_setting_at_full_size_from_names_and_shapes(family):
    shapes = family.resolve("weights").shapes(QwenVLConfig.from_file(FULL_SIZE), HUGGING_FACE)
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


def test_a_text_matches_whole_names(plan):
    assert set(plan(expression=r".*\.0\.mlp\.w[12]").adapted) == {f"transformer.h.0.mlp.w{n}" for n in (1, 2)}
    for expression in ("c_attn", r"transformer\.h\.0", "(?i)nothing"):
        with pytest.raises(InputError, match="matches no linear layer"):
            plan(expression=expression)


def test_all_linear_is_all_but_the_output_head(plan):
    everything = {m for group in ("language_model", "vision_tower", "aligner") for m in plan(group).adapted}
    made = plan(expression="all-linear")
    assert set(made.adapted) == everything - {"lm_head"}
    assert set(made.config.target_modules) == set(made.adapted)  # PEFT would take other layers for it, here and there


@pytest.mark.parametrize("expression", [r".*\.h\.0\..*", r".*(w1|ln_1)", r".*wte|.*w1"])
def test_an_expression_that_matches_other_modules_is_refused_as_in_peft(plan, expression):
    with pytest.raises(InputError, match=r"matches transformer\.[\w.]+ too, which is not a linear layer"):
        plan(expression=expression)


def test_ranks_and_scalings_by_pattern(plan):
    patterns = {"rank_pattern": {r"h\.0\..*": 2, "w1": 16}, "alpha_pattern": {"w1": 4}}
    layers = plan("c_attn", "w1", r=9, lora_alpha=3, use_rslora=True, **patterns).adapted
    assert layers["transformer.h.0.mlp.w1"].factors == {".lora_A.weight": (2, 128), ".lora_B.weight": (352, 2)}
    scalings = {name.removeprefix("transformer.h."): layer.scaling for name, layer in layers.items()}
    assert scalings == {"0.attn.c_attn": 3 / 2**0.5, "0.mlp.w1": 4 / 2**0.5, "1.attn.c_attn": 1, "1.mlp.w1": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {"c_atn": 2}}, "rank_pattern: 'c_atn' matches no adapted layer; near to it: c_attn"),
        ({"alpha_pattern": {"w1": 2}}, "alpha_pattern: 'w1' matches no adapted layer"),
        ({"exclude_modules": ("q_proj",)}, "exclude_modules: .'q_proj',. matches no module"),
        ({"layers_to_transform": (7,)}, "matches no linear layer"),
    ],
)
def test_what_would_have_no_effect_in_training_is_named(plan, settings, message):
    with pytest.raises(InputError, match=message):
        plan("c_attn", **settings)


@pytest.mark.parametrize("text", [r"((\w+\.?)+)+!", r"(?:(?:(?:\w{1,9}){1,9}){1,9}){1,9}!", "(?i)w1"])
def test_expressions_are_bounded_where_they_are_matched(plan, text):
    began = time.monotonic()
    with pytest.raises(InputError, match="take too long or too much memory|is not a regular expression"):
        plan("c_attn", rank_pattern={text: 2})
    assert time.monotonic() - began < 60

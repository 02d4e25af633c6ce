"""Each module group moves with its own learning rate, and every rate is logged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.plugin.learning_rates import named_parameters, rates_of, set_lengths, trained_table
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.train.loss_log import read_losses

FAMILY = families.get("qwenvl")
RATES = {"language_model": 1e-3, "aligner": 1e-2, "vision_tower": 1e-4}


@pytest.fixture(scope="module")
def stage_3(golden_dir) -> QwenVL:
    model = QwenVL(QwenVLConfig.from_file(golden_dir))
    model.freeze(("vision_tower",))
    return model


def test_groups_become_the_names_of_their_trained_parameters(stage_3):
    schedules = {"grouped": [{"params": ["aligner"]}, {"params": ["lm_head", "*.ln_f.*"]}]}
    named = named_parameters(schedules, FAMILY, stage_3.config, [p.name for p in stage_3.trainable_params()])
    assert schedules["grouped"][0]["params"] == ["aligner"]  # what was given stays
    aligner, patterns = (group["params"] for group in named["grouped"])
    assert aligner == [p.name for p in stage_3.trainable_params() if "attn_pool" in p.name] and aligner
    assert patterns == ["lm_head", "*.ln_f.*"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (["alinger"], "grouped[0].params: no trained parameter matches 'alinger'; did you mean 'aligner'?"),
        (["vision_tower"], "grouped[0].params: nothing of 'vision_tower' is trained"),
        (None, "grouped[0].params: expected a list of module groups or patterns, found None"),
    ],
)
def test_params_that_name_nothing_are_refused(stage_3, params, message):
    with pytest.raises(InputError) as caught:
        trained = [p.name for p in stage_3.trainable_params()]
        named_parameters({"grouped": [{"params": params}]}, FAMILY, stage_3.config, trained)
    assert message in str(caught.value)


def test_schedules_without_a_length_have_that_of_the_run():
    alone = {"lr_schedule": {"type": "CosineWithWarmUpLR", "total_steps": -1}}
    assert set_lengths(alone, 7) == [7] and alone["lr_schedule"]["total_steps"] == 7
    rate = {"type": "ConstantWarmUpLR"}
    groups = {"default": dict(rate), "grouped": [{**rate, "total_steps": 3}, dict(rate)]}
    grouped = {"grouped_lr_schedule": groups, "lr_schedule": dict(rate)}
    assert set_lengths(grouped, 7) == [7, 3, 7]
    assert grouped["lr_schedule"] == rate  # MindFormers does not read it beside groups
    assert set_lengths({"lr_schedule": None}, 7) == []


def test_a_familys_own_words_name_parameters_too():
    family = replace(FAMILY, selectors=lambda config: {"last_block": (f"transformer.h.{config['layers'] - 1}.*",)})
    trained = ["transformer.h.0.ln_1.weight", "transformer.h.1.ln_1.weight", "transformer.visual.proj"]
    schedules = {"grouped": [{"params": ["last_block", "vision_tower"]}]}
    named = named_parameters(schedules, family, {"layers": 2}, trained)
    assert named["grouped"] == [{"params": trained[1:]}]
    with pytest.raises(InputError, match="nothing of 'last_block' is trained"):
        named_parameters(schedules, family, {"layers": 9}, trained)


def test_a_table_tells_what_is_trained_at_which_rate(stage_3):
    trained = [parameter.name for parameter in stage_3.trainable_params()]
    sizes = {parameter.name: parameter.size for parameter in stage_3.get_parameters()}
    rate = {"type": "CosineWithWarmUpLR", "learning_rate": 1e-5}
    schedules = {"default": rate, "grouped": [{**rate, "learning_rate": 2e-3, "params": ["aligner"]}]}
    named = named_parameters(schedules, FAMILY, stage_3.config, trained)
    lines = trained_table(FAMILY, sizes, trained, rates_of({}, named, trained))
    told = {line.split()[0]: line.split()[1:] for line in lines}
    assert told["language_model"][-3:] == ["learning", "rate", "1e-05"]
    assert told["aligner"][-1] == "0.002" and told["vision_tower"][-1] == "frozen" and told["vision_tower"][0] == "0"
    assert told["aligner"][0] == told["aligner"][2] == f"{sum(sizes[name] for name in sizes if 'attn_pool' in name):,}"
    assert set(rates_of({"lr_schedule": rate}, None, trained).values()) == {1e-5}
    assert set(rates_of({"optimizer": {"learning_rate": rate}}, None, trained).values()) == {1e-5}
    assert rates_of({}, None, trained) == {}


def test_each_group_moves_with_its_own_rate(workspace, run_mindformer, finetune_arguments, tmp_path):
    """AdamW's first step moves a weight by its learning rate, whatever the gradient, and 0.1 · rate · weight more."""
    schedule = "{{type: ConstantWarmUpLR, learning_rate: {rate}, warmup_steps: 0{params}}}"
    default = schedule.format(rate=RATES["language_model"], params="")
    others = ("aligner", "vision_tower")
    grouped = [schedule.format(rate=RATES[group], params=f", params: [{group}]") for group in others]
    run = run_mindformer(
        tmp_path, *finetune_arguments, "--batch_size", 2, "--num_samples", 2,
        "--model.model_config.freeze_vision", "False", "--mode", 1, "--optimizer.eps", "1e-30",
        "--options", f"grouped_lr_schedule={{default: {default}, grouped: [{', '.join(grouped)}]}}",
        "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 1}]",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    before = load_file(workspace / "model/model.safetensors")
    after = load_file(tmp_path / "output/checkpoint/step_00000001/model.safetensors")
    moved = dict.fromkeys(RATES, 0.0)
    for name, weight in after.items():
        group = FAMILY.group_of(name)
        moved[group] = max(moved[group], np.abs(weight - before[name].reshape(weight.shape)).max())
    for group, rate in RATES.items():
        assert moved[group] == pytest.approx(rate, rel=0.2), group
    logged = [step["lr"] for step in read_losses(tmp_path / "output/losses/rank_0.jsonl")]
    np.testing.assert_allclose(logged[0], [RATES["language_model"], RATES["aligner"], RATES["vision_tower"]], rtol=1e-5)

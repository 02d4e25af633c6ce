"""Training on paper: counts, the published figure, refusals, and what must grow with what."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import ascend_estimate  # noqa: E402
from ascend_estimate import PUBLISHED, PUBLISHED_CONFIG, PUBLISHED_PLAN  # noqa: E402
from step_time import communication, forward_flops, row_flops, speed  # noqa: E402

from ms_impl import families  # noqa: E402
from ms_impl.estimate.memory import memory  # noqa: E402
from ms_impl.estimate.parts import model_parts  # noqa: E402
from ms_impl.estimate.plan import Device, RunLayout  # noqa: E402

YAML = REPOSITORY / "configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml"
FULL_SIZE = REPOSITORY / PUBLISHED_CONFIG
OFFICIAL_LORA = {"r": 64, "lora_alpha": 16, "target_modules": ["c_attn", "attn.c_proj", "w1", "w2"]}
DEVICE = Device()


def parts_of(plan: RunLayout):
    return model_parts(families.get("qwenvl"), FULL_SIZE, plan)


def trained(plan: RunLayout) -> int:
    return sum(part.trained for part in parts_of(plan))


def test_parameters_are_counted_exactly():
    stage_3 = RunLayout(rows=1, length=2048, frozen=("vision_tower",))
    assert sum(part.numbers for part in parts_of(stage_3)) == 9_656_935_168
    assert trained(stage_3) == 7_797_379_072
    assert trained(replace(stage_3, frozen=())) == 9_656_935_168
    assert trained(replace(stage_3, frozen=("vision_tower", "language_model"))) == 76_054_528
    assert trained(replace(stage_3, frozen=(), lora=OFFICIAL_LORA)) == 112_197_632


def test_the_published_figure_is_reproduced():
    step = speed(parts_of(PUBLISHED_PLAN), PUBLISHED_PLAN, DEVICE)
    assert step.tokens_per_second == pytest.approx(PUBLISHED, rel=0.1)
    assert memory(parts_of(PUBLISHED_PLAN), PUBLISHED_PLAN).peak < DEVICE.memory


def test_the_yaml_is_read(capsys):
    assert ascend_estimate.main(["--config", str(YAML)]) == 0
    printed = capsys.readouterr().out
    assert "7,797,379,072" in printed and "data 8 × model 1 × pipeline 1, ZeRO-3, recompute on, 1 × 4 rows" in printed
    assert "published 2,587" in printed


def test_what_does_not_fit_is_refused_with_its_figures(capsys):
    assert ascend_estimate.main(["--config", str(YAML), "--hbm_gb", "32"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data 8 ×") and "needs" in error and "28.8 GB of 32.0" in error


def test_options_change_settings(capsys):
    lora = "model.model_config.lora={r: 64, target_modules: [c_attn, attn.c_proj, w1, w2]}"
    options = ["parallel_config.data_parallel=2", "model.model_config.param_init_type=bfloat16", lora]
    assert ascend_estimate.main(["--config", str(YAML), "--options", *options]) == 0
    printed = capsys.readouterr().out
    assert "2 devices" in printed and "112,197,632" in printed
    assert ascend_estimate.main(["--config", str(YAML), "--options", "runner_config.batch_sise=2"]) == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory_gb", "said"), [("64", "LoRA (model.model_config.lora) would fit: "), ("24", "would not fit either")]
)
def test_lora_is_tried_where_a_setting_does_not_fit(memory_gb, said, capsys):
    one = ["--options", "parallel_config.data_parallel=1"]
    assert ascend_estimate.main(["--config", str(YAML), *one, "--hbm_gb", memory_gb]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--utilisation", "1.5"), ("--tflops", "0"), ("--dialogue_tokens", "-1")]
)
def test_figures_out_of_range_are_refused(option, value, capsys):
    assert ascend_estimate.main(["--config", str(YAML), option, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option}: expected")


@pytest.mark.parametrize(
    "less",
    [{"recompute": True}, {"zero": 1}, {"zero": 2}, {"zero": 3}, {"rows": 2}, {"length": 1024},
     {"model_parallel": 2}, {"frozen": ("vision_tower", "language_model")}, {"flash": True}],
    ids=str,
)  # fmt: skip
def test_it_takes_less_memory(less):
    plan = RunLayout(rows=4, length=2048, data_parallel=8, flash=False)
    assert memory(parts_of(replace(plan, **less)), replace(plan, **less)).peak < memory(parts_of(plan), plan).peak


def test_each_level_of_zero_takes_less_than_the_one_before():
    plan = RunLayout(rows=1, length=2048, data_parallel=8, recompute=True)
    peaks = [memory(parts_of(each), each).peak for each in (replace(plan, zero=level) for level in range(4))]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4


def test_a_decoder_layer_by_hand():
    """One row of 10 tokens through 32 layers of the full size."""
    plan = RunLayout(rows=1, length=10, recompute=False)
    layers = next(part for part in parts_of(plan) if part.part.name == "decoder layers")
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    products, scores = 2 * matrices * 10, 32 * 4 * 10 * 10 * 4096
    assert forward_flops(layers) == products + scores
    assert row_flops(layers, plan) == pytest.approx(3 * products + 3.5 * scores)
    assert row_flops(layers, replace(plan, recompute=True)) == pytest.approx(4 * products + 4.5 * scores)
    assert layers.part.kept == 10 * (9 * 4096 + 4 * 11008)


def test_a_frozen_tower_is_only_run_forward():
    plan = RunLayout(rows=1, length=2048, frozen=("vision_tower",))
    blocks, resampler, projection = parts_of(plan)[1:4]
    assert row_flops(blocks, plan) == forward_flops(blocks)
    assert row_flops(projection, plan) == pytest.approx(2 * forward_flops(projection))  # frozen, but passed through
    assert row_flops(resampler, plan) > 2 * forward_flops(resampler)


def test_communication_by_hand():
    plan = RunLayout(rows=2, length=2048, data_parallel=4, compute_bytes=2, parameter_bytes=2)
    size = 9_656_935_168 * 2
    assert communication(parts_of(plan), plan).gradients == pytest.approx(2 * 3 / 4 * size)
    gathered = communication(parts_of(plan), replace(plan, zero=3))
    assert gathered.gradients == pytest.approx(3 / 4 * size) and gathered.parameters == pytest.approx(2 * 3 / 4 * size)
    alone = communication(parts_of(plan), replace(plan, data_parallel=1))
    assert alone.gradients == alone.parameters == alone.tensor == alone.pipeline == 0
    cut = replace(plan, data_parallel=1, model_parallel=2)
    assert communication(parts_of(cut), cut).tensor == pytest.approx(32 * 2 * 7 / 2 * (2 * 2048 * 4096) * 2)


def test_a_pipeline_waits_less_with_more_micro_batches():
    plans = [RunLayout(rows=1, length=2048, stages=4, micro_batches=number) for number in (4, 16)]
    assert [plan.bubble for plan in plans] == [7 / 4, 19 / 16]
    few, many = (speed(parts_of(plan), plan, DEVICE) for plan in plans)
    assert many.tokens_per_second > few.tokens_per_second


@pytest.mark.parametrize("name", ["lora", "lora_8p", "bf16"])
def test_the_figures_of_the_page_are_printed(name, capsys, monkeypatch):
    """docs/ascend.md, a block of four lines for each YAML."""
    monkeypatch.chdir(REPOSITORY)
    config = f"configs/qwenvl/finetune_qwenvl_9.6b_{name}.yaml"
    assert ascend_estimate.main(["--config", config]) == 0
    printed = capsys.readouterr().out.splitlines()
    page = (REPOSITORY / "docs/ascend.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(page) if line.startswith(f"{config}: "))
    assert page[start].endswith("rows a rank")
    assert set(page[start : start + 4]) <= set(printed)


OMNI = {"3b": 4_703_464_448, "7b": 8_931_813_888}
OMNI_TRAINED = {
    ("3b", "bf16"): 3_397_103_616, ("3b", "lora"): 14_966_784, ("3b", "lora_8p"): 14_966_784,
    ("7b", "bf16"): 7_615_616_512, ("7b", "lora"): 20_185_088, ("7b", "lora_8p"): 20_185_088,
}  # fmt: skip


@pytest.mark.parametrize(("size", "kind"), OMNI_TRAINED)
def test_omnis_yamls_fit_and_are_counted(size, kind, capsys):
    """LoRA's numbers are those that ms-swift prints for its defaults."""
    yaml = REPOSITORY / f"configs/qwen2_5_omni/finetune_qwen2_5_omni_{size}_{kind}.yaml"
    assert ascend_estimate.main(["--config", str(yaml)]) == 0
    printed, trained = capsys.readouterr().out, OMNI_TRAINED[size, kind]
    added = 0 if kind == "bf16" else trained
    assert f"{OMNI[size] + added:,}" in printed and f"{trained:,}" in printed
    assert f"{1 if kind == 'lora' else 8} devices" in printed


def test_omni_is_not_cut(capsys):
    yaml = REPOSITORY / "configs/qwen2_5_omni/finetune_qwen2_5_omni_7b_lora_8p.yaml"
    cut = ["parallel.parallel_mode=1", "parallel_config.data_parallel=4", "parallel_config.model_parallel=2"]
    assert ascend_estimate.main(["--config", str(yaml), "--options", *cut]) == 2
    assert "Qwen2.5-Omni runs data parallel only" in capsys.readouterr().err


def test_omnis_towers_by_hand():
    """One image and four seconds of sound of a row that holds them."""
    plan = RunLayout(rows=1, length=512)
    config = REPOSITORY / "configs/qwen2_5_omni/qwen2_5_omni_7b/config.json"
    parts = {part.part.name: part for part in model_parts(families.get("qwen2_5_omni"), config, plan)}
    blocks = 32 * (4 * 1280**2 + 3 * 1280 * 3420)
    assert forward_flops(parts["vision blocks"]) == 2 * blocks * 1024 + 32 * 4 * 1024**2 * 1280
    layers = 32 * (4 * 1280**2 + 2 * 1280 * 5120)
    assert forward_flops(parts["audio layers"]) == 2 * layers * 200 + 32 * 4 * 2 * 100**2 * 1280
    convolutions = 1280 * 128 * 3 * 400 + 1280 * 1280 * 3 * 200
    assert forward_flops(parts["mel frames"]) == 2 * convolutions
    assert parts["decoder layers"].part.kept == 512 * (7 * 3584 + 2 * 512 + 4 * 18944)

"""LoRA through MindFormers' Trainer: packed rows, dropout and gradient accumulation, stopped and gone on with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert.merge_adapter import main as merge_adapter
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.train.loss_log import read_losses

LORA = "{r: 2, lora_alpha: 4, lora_dropout: 0.2, target_modules: [c_attn, w1], modules_to_save: [lm_head]}"
OPTIONS = [
    "runner_config.gradient_accumulation_steps=2", "train_dataset.packing=True",
    "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 2}]",
]  # fmt: skip
STEPS = 4


@pytest.fixture(scope="module")
def arguments(finetune_arguments) -> list[str]:
    shared = [*finetune_arguments, "--batch_size", "1", "--epochs", "4"]
    return [*shared, "--train_dataset.modal_to_text_transform.max_length", "320"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_mindformer, arguments) -> Path:
    """The output of a whole run."""
    folder = tmp_path_factory.mktemp("lora")
    run = run_mindformer(folder, *arguments, "--options", *OPTIONS, f"model.model_config.lora={LORA}")
    assert run.returncode == 0, run.stderr
    return folder / "output"


def losses(output: Path) -> list[float]:
    return [step["loss"] for step in read_losses(output / "losses/rank_0.jsonl")]


def last(output: Path) -> Path:
    return max((output / "checkpoint").iterdir())


def test_it_learns_and_saves_an_adapter_alone(trained):
    assert len(losses(trained)) == STEPS and losses(trained)[-1] < losses(trained)[0]
    saved = load_file(last(trained) / "adapter_model.safetensors")
    modules = {name.removeprefix("base_model.model.") for name in saved}
    layer = "transformer.h.0"
    factors = {f"{layer}.{name}.lora_{f}.weight" for name in ("attn.c_attn", "mlp.w1") for f in "AB"}
    assert modules == factors | {"lm_head.weight"}
    assert all(np.abs(values).max() > 0 for values in saved.values())
    assert not (last(trained) / "model.safetensors").exists()
    assert json.loads((last(trained) / "generation_config.json").read_text())["chat_format"] == "chatml"


def test_a_resumed_run_draws_the_same_dropout(trained, run_mindformer, arguments, tmp_path):
    output = Path(shutil.copytree(trained, tmp_path / "output"))
    shutil.rmtree(last(output))
    options = ["--options", *OPTIONS, f"model.model_config.lora={LORA}"]
    run = run_mindformer(tmp_path, *arguments, "--resume_training", "True", *options)
    assert run.returncode == 0, run.stderr
    assert losses(output) == losses(trained)
    for name, values in load_file(last(trained) / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(load_file(last(output) / "adapter_model.safetensors")[name], values)


def test_accumulated_micro_batches_are_one_batch_dropout_included(trained, run_mindformer, arguments, tmp_path):
    options = [OPTIONS[0].replace("2", "1"), *OPTIONS[1:], f"model.model_config.lora={LORA}"]
    run = run_mindformer(tmp_path, *arguments, "--batch_size", "2", "--options", *options)
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(losses(tmp_path / "output"), losses(trained), rtol=1e-5)


def test_the_adapter_merges_into_a_hugging_face_checkpoint(trained, workspace, tmp_path):
    base, merged = workspace / "model", tmp_path / "merged"
    given = ["--input_path", str(base), "--adapter", str(last(trained)), "--output_path", str(merged)]
    assert merge_adapter(["--model", "qwenvl", *given]) == 0
    before, after = open_checkpoint(base).tensors, open_checkpoint(merged).tensors
    changed = {name for name in before if not np.array_equal(before[name].array(), after[name].array())}
    assert {file.name for file in merged.iterdir()} == {file.name for file in base.iterdir()}
    assert json.loads((merged / "generation_config.json").read_text()) == {
        "chat_format": "chatml",
        "max_new_tokens": 512,
    }  # what was trained; the base's is raw
    assert changed == {"transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.w1.weight", "lm_head.weight"}


def test_a_target_that_matches_nothing_and_an_adapter_of_another_base_are_refused(
    trained, workspace, run_mindformer, arguments, tmp_path
):
    wrong = LORA.replace("c_attn", "q_proj")
    run = run_mindformer(tmp_path, *arguments, "--options", *OPTIONS, f"model.model_config.lora={wrong}")
    assert run.returncode == 2 and "error: " in run.stderr and "q_proj" in run.stderr
    other = Path(shutil.copytree(workspace / "model", tmp_path / "other"))
    weights = {name: 2 * values for name, values in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    adapter = f"{{adapter: {last(trained)}}}"
    options = ["--load_checkpoint", other, "--options", *OPTIONS, f"model.model_config.lora={adapter}"]
    run = run_mindformer(tmp_path, *arguments, *options)
    assert run.returncode == 2 and "fits another base" in run.stderr

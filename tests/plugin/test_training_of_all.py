"""Every family through the real Trainer: steps that mix text alone with media, ranks, micro-batches, resuming, LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_cases import checkpoint, gradient_norms, losses

from convert.convert_weight import main as convert_weight
from ms_impl import families
from ms_impl.io.checkpoint import open_checkpoint

STEPS = 2


def last(output: Path) -> Path:
    return max((output / "checkpoint").iterdir())


def test_what_is_frozen_stays_and_all_else_moves(runs, trained):
    assert len(losses(trained)) == STEPS and np.isfinite(gradient_norms(trained)).all()
    family = families.get(runs.case.family)
    before, after = (open_checkpoint(path).tensors for path in (runs.root / "model", checkpoint(trained, STEPS)))
    assert after.keys() == before.keys()
    untrained = family.untrained_names(before) | family.frozen_names(before, runs.case.frozen.values())
    changed = {name for name in before if not np.array_equal(before[name].array(), after[name].array())}
    assert changed == before.keys() - untrained


def test_a_checkpoint_has_all_files_of_its_model(runs, trained):
    names = {file.name for file in (runs.root / "model").iterdir()}
    assert names < {file.name for file in checkpoint(trained, STEPS).iterdir()}


def test_what_is_trained_goes_out_in_hugging_faces_layout(runs, trained):
    """Names, files beside the weights, and config.json are those of the model that was given; the weights the trained."""
    arguments = ["--model", runs.case.family, "--reverse", "--input_path", str(checkpoint(trained, STEPS))]
    assert convert_weight([*arguments, "--output_path", f"{runs.root}/exported/"]) == 0
    given, out = (runs.root / name for name in ("model", "exported"))
    # A run adds what tells how it was trained.
    assert {file.name for file in given.iterdir()} <= {file.name for file in out.iterdir()}
    assert json.loads((out / "config.json").read_text()) == json.loads((given / "config.json").read_text())
    before, after, saved = (open_checkpoint(path).tensors for path in (given, out, checkpoint(trained, STEPS)))
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor.array(), saved[name].array())


@pytest.mark.slow_for("ovis2_5")
def test_ranks_and_micro_batches_of_text_alone_and_of_media_are_one_batch(runs, trained):
    """In the second step one rank has nothing but text."""
    output = runs.root / "ranks"
    frozen = [f"model.model_config.{key}=True" for key in runs.case.frozen]
    accumulation = "runner_config.gradient_accumulation_steps=2"
    ran = runs.launch(output, 8241, "train_dataset.packing=False", accumulation, *frozen, batch_size=1)
    assert ran.returncode == 0, ran.stderr + ran.stdout[-3000:]
    np.testing.assert_allclose(losses(output), losses(trained), rtol=1e-5)
    np.testing.assert_allclose(gradient_norms(output), gradient_norms(trained), rtol=1e-4)
    assert losses(output, rank=1) == losses(output)


def test_every_factor_has_a_gradient(adapted):
    """Factors B begin as zeros."""
    saved = load_file(last(adapted) / "adapter_model.safetensors")
    still = [name for name, values in saved.items() if "lora_B" in name and not values.any()]
    assert saved and not still


@pytest.mark.slow  # test_lora_training.py does it with the smallest graphs
def test_a_resumed_run_goes_on_bit_for_bit(runs, adapted):
    output = Path(shutil.copytree(adapted, runs.root / "resumed"))
    shutil.rmtree(last(output))
    ran = runs.packed_lora(output, resume_training=True)
    assert ran.returncode == 0, ran.stderr
    assert losses(output) == losses(adapted)
    written = [last(of) / "adapter_model.safetensors" for of in (output, adapted)]
    assert written[0].read_bytes() == written[1].read_bytes()
    manifests = [json.loads((last(of) / "manifest.json").read_text()) for of in (output, adapted)]
    assert manifests[0] == manifests[1]

"""The proof at full size, at small size: as its command runs it, and it finds a layer that is another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])


def run(*command: str) -> subprocess.CompletedProcess:
    given = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": PATHS}, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, *command], **given, timeout=600)


def proof(folder: Path, family: str) -> dict:
    target = folder / "result.json"
    names = ("--family", family, "--size", "tiny", "--side", "112", "--length", "200", "--tokens", "4")
    ended = run("benchmarks/full_size.py", *names, "--work", str(folder / "work"), "--keep", "--json", str(target))
    assert ended.returncode == 0, ended.stderr
    return json.loads(target.read_text())


def assert_proven(found: dict, parts: set[str]) -> None:
    assert found["parity"] and found["equal_bytes"] and found["converted"] and found["tokens_equal"] == 4
    assert set(found["rms_of_layers"]) == parts
    assert (
        max(map(max, found["rms_of_layers"].values())) <= 1e-5 and found["logits_rms"] <= 1e-5
    )  # measured: below 1e-6


def test_it_holds_and_names_the_layer_that_differs(tmp_path):
    assert_proven(proof(tmp_path, "qwenvl"), {"encode_images", "decoder"})
    work = tmp_path / "work"
    (file,) = (work / "hf").glob("*.safetensors")
    weights = load_file(file)
    weights["transformer.h.1.attn.c_proj.weight"] = weights["transformer.h.1.attn.c_proj.weight"].flip(0).contiguous()
    save_file(weights, file, {"format": "pt"})
    assert run("benchmarks/full_size_reference.py", str(work / "out/options.json")).returncode == 0
    found = json.loads((work / "out/reference.json").read_text())
    assert max(found["layers"]["encode_images"]) <= 1e-5 and found["layers"]["decoder"][0] <= 1e-5
    assert min(found["layers"]["decoder"][1:]) > 1e-2 and max(found["logits"]) > 1e-2


@pytest.mark.slow
def test_it_holds_for_omni(tmp_path):
    assert_proven(proof(tmp_path, "qwen2_5_omni"), {"encode_patches", "encode_audio", "decoder"})


@pytest.mark.slow
def test_it_holds_for_ovis(tmp_path):
    assert_proven(proof(tmp_path, "ovis2_5"), {"encode_visuals", "decoder"})


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwenvl", "qwen2_5_omni", "ovis2_5"])
def test_a_training_step_of_a_slice_is_the_references(tmp_path, family):
    given = ("--family", family, "--size", "tiny", "--side", "112", "--length", "320", "--work", str(tmp_path / "work"))
    ended = run("benchmarks/full_size.py", *given, "--training_slice", "--keep")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    out = tmp_path / "work/out"
    one = next(out.glob("gradient_*mlp*weight.npy"))
    np.save(one, -np.load(one))
    assert run("benchmarks/full_size_slice.py", "reference", str(out / "options.json")).returncode == 0
    errors = json.loads((out / "slice.json").read_text())["gradients"]
    assert [name for name, error in errors.items() if error > 1e-4] == [one.stem.removeprefix("gradient_")]

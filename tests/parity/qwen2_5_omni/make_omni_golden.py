"""Another folder of vectors in the layout of ``tests/golden/qwen2_5_omni_tiny``: other sizes, other weights, its media.

    python tests/parity/qwen2_5_omni/make_omni_golden.py FOLDER [--scale 1.5] [--seed 1]

The pinned transformers computes them, as it did those of this repository.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[up] / name) for up, name in ((2, "contract"), (1, "."), (0, "."))]

import numpy as np
import torch
from omni_reference import VARIANTS, Reference, original
from omni_vectors import OmniVectors
from safetensors.numpy import save_file
from transformers import Qwen2_5OmniThinkerConfig

BASE = Path(__file__).parents[2] / "golden/qwen2_5_omni_tiny"
SIZES = {
    "text_config": {
        "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "rope_scaling": {"mrope_section": [4, 1, 3], "rope_type": "default", "type": "default"},
    },
    "vision_config": {
        "hidden_size": 48, "num_heads": 4, "depth": 3, "fullatt_block_indexes": [1], "intermediate_size": 80,
        "window_size": 56, "out_hidden_size": 96,
    },
    "audio_config": {
        "d_model": 32, "encoder_attention_heads": 2, "encoder_layers": 3, "num_hidden_layers": 3,
        "encoder_ffn_dim": 48, "output_dim": 96,
    },
}  # fmt: skip


def make(folder: Path, scale: float, seed: int) -> None:
    """Write config.json, model.safetensors, cases.json and cases.safetensors."""
    folder.mkdir(parents=True)
    config = json.loads((BASE / "config.json").read_text())
    for section, sizes in SIZES.items():
        config[section] |= sizes
    config["text_config"]["layer_types"] = ["full_attention"] * SIZES["text_config"]["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    base = OmniVectors(BASE)
    save_file(_weights(config, base.told["special_ids"], scale, seed), folder / "model.safetensors", {"format": "pt"})
    for name in ("cases.json", "cases.safetensors"):
        (folder / name).write_bytes((BASE / name).read_bytes())
    vectors = OmniVectors(folder)
    cases = {key: array for key, array in vectors.cases.items() if not key.startswith(("visual.", "train.grad"))}
    _fill(vectors, Reference(vectors), cases)
    (folder / "cases.json").write_text(json.dumps(vectors.told))
    save_file({name: np.asarray(array, order="C") for name, array in cases.items()}, folder / "cases.safetensors")


def _weights(config: dict, special_ids: dict, scale: float, seed: int) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        model = original.Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config))
    rng, weights = np.random.default_rng(seed), {}
    for name, tensor in model.state_dict().items():
        flat = tensor.ndim == 1
        deviation = scale * (0.1 if flat else 1 / np.sqrt(np.prod(tensor.shape[1:])))
        centre = 1.0 if flat and name.endswith("weight") else 0.0
        weights[name] = rng.normal(centre, deviation, tensor.shape).astype(np.float32)
    weights["lm_head.weight"][list(special_ids.values())] *= 0.01  # or answers would have placeholders
    return weights


def _fill(vectors: OmniVectors, reference: Reference, cases: dict[str, np.ndarray]) -> None:
    for case, media in vectors.visual_cases.items():
        cases[f"visual.{case}.output"] = reference.vision(media)
    for length in vectors.audio_lengths:
        cases[f"audio.{length}.output"] = reference.audio([vectors[f"audio.{length}.features"]])
    joined = [vectors[f"audio.{length}.features"] for length in vectors.told["audio"]["batch"]["lengths"]]
    cases["audio.batch.output"] = reference.audio(joined)
    for case, told in vectors.logits_cases.items():
        cases[f"logits.{case}.logits"] = reference.logits(f"logits.{case}")
        told.pop("max_diff_without_flag", None)
    for case in vectors.told["packing"]:
        cases[f"packing.{case}.logits_packed"] = reference.logits(f"packing.{case}")
    for case, told in vectors.told["greedy"].items():
        old = vectors[f"greedy.{case}.tokens"]
        tokens, logits = reference.greedy(f"logits.{case}", old.shape[-1])
        cases[f"greedy.{case}.tokens"] = tokens.reshape(old.shape).astype(np.int32)
        told["tokens"] = cases[f"greedy.{case}.tokens"].tolist()
        if f"greedy.{case}.logits" in cases:
            cases[f"greedy.{case}.logits"] = logits[:, 0]
    _fill_training(vectors.told["train"], reference, cases)


def _fill_training(told: dict, reference: Reference, cases: dict[str, np.ndarray]) -> None:
    told["loss"], gradients = reference.gradients()
    cases["train.loss"] = np.array([told["loss"]], np.float32)
    names = [name for name, _ in reference.model.named_parameters()]
    told["grad_norm"] = {n: float(np.linalg.norm(gradients[n])) if n in gradients else None for n in names}
    for name in names[::20]:
        if name in gradients:
            cases[f"train.grad:{name}"] = gradients[name]
    groups = {variant: reference.trained_numbers(variant) for variant in VARIANTS}
    told["adamw"] = {}
    for variant, numbers in groups.items():
        losses, norms = reference.five_losses(variant)
        told["adamw"][variant] = {"losses": losses, "grad_norms_before_clip": norms, "trained": numbers}
        cases[f"train.adamw_losses:{variant}"] = np.array(losses, np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.5, help="of the weights")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.folder, arguments.scale, arguments.seed)

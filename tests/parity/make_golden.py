"""Another folder of vectors in the layout of ``tests/golden/qwenvl_tiny``, with other sizes and larger weights.

    python tests/parity/make_golden.py FOLDER [--layers 3] [--scale 1.5] [--seed 1]

``torch_ref`` takes the place of the original, so that such a folder proves nothing of torch_ref; it shows that the
suite tells rounding from faults on vectors whose tolerances nobody has tried.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from floors import five_losses
from safetensors.numpy import save_file
from stages import Golden

from ms_impl.io.rules import HUGGING_FACE
from torch_ref.qwenvl.model import QwenVL

BASE = Path(__file__).parents[1] / "golden/qwenvl_tiny"
_WHOLE_GRADIENTS = 6


def make(folder: Path, layers: int, scale: float, seed: int) -> None:
    """Write config.json, model.safetensors, images and cases.safetensors."""
    folder.mkdir(parents=True)
    config = json.loads((BASE / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}, indent=1))
    for name in ("image0.png", "image1.png"):
        (folder / name).write_bytes((BASE / name).read_bytes())
    _write_weights(folder, scale, np.random.default_rng(seed))
    model = QwenVL.from_pretrained(folder)
    base = Golden(BASE)
    cases = dict(base.cases)
    with torch.no_grad():
        _fill_activations(cases, model, base)
        _fill_greedy(cases, model, base)
    _fill_training(cases, model, base)
    save_file({name: np.asarray(array, order="C") for name, array in cases.items()}, folder / "cases.safetensors")


def _write_weights(folder: Path, scale: float, rng: np.random.Generator) -> None:
    from convert.qwenvl import WEIGHTS
    from ms_impl.qwenvl.config import QwenVLConfig

    shapes = WEIGHTS.shapes(QwenVLConfig.from_file(folder), HUGGING_FACE)
    weights = {}
    for name, shape in shapes.items():
        deviation = scale * (0.05 if len(shape) == 1 else 1 / np.sqrt(shape[-1]))
        centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        weights[name] = rng.normal(centre, deviation, shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(batch) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in batch.items()}


def _fill_activations(cases: dict, model: QwenVL, base: Golden) -> None:
    cases["vision.image_features"] = model.encode_images(torch.from_numpy(base.pixels())).numpy()
    cases["text.logits"] = model(torch.from_numpy(base["text.input_ids"])).numpy()
    states = model.hidden_states(**_tensors(base.batch()))
    tail = base["batch.logits_tail"].shape[1]
    cases["batch.hidden_after_layer0_tail"] = states[1][:, -tail:].numpy()
    cases["batch.logits_tail"] = model.lm_head(states[-1])[:, -tail:].numpy()
    for n in base.ntk_lengths:
        logits = model(torch.from_numpy(base[f"ntk{n}.input_ids"]))[0]
        cases[f"ntk{n}.logits"] = logits[base[f"ntk{n}.positions"]].numpy()


def _fill_greedy(cases: dict, model: QwenVL, base: Golden) -> None:
    batch, count = base.batch(), len(base["greedy.tokens"])
    given = (torch.from_numpy(batch[key][:1]) for key in ("images", "image_context_pos"))
    tokens, logits = model.greedy(torch.from_numpy(base["greedy.input_ids"]), count, *given)
    cases["greedy.tokens"] = tokens[0].numpy().astype(base["greedy.tokens"].dtype)
    cases["greedy.logits"] = logits[0].numpy()


def _fill_training(cases: dict, model: QwenVL, base: Golden) -> None:
    batch, labels = _tensors(base.batch()), torch.from_numpy(base["train.labels"])
    trained = deepcopy(model).train()
    loss = trained(**batch, labels=labels)
    loss.backward()
    for key in [key for key in cases if key.startswith("train.grad")]:
        del cases[key]
    cases["train.loss"] = np.float32(loss.item()).reshape(base["train.loss"].shape)
    gradients = {name: p.grad.numpy() for name, p in trained.named_parameters()}
    for name, gradient in gradients.items():
        cases[f"train.grad_norm:{name}"] = np.asarray(np.linalg.norm(gradient), np.float32)
    for name in list(gradients)[:: max(1, len(gradients) // _WHOLE_GRADIENTS)][:_WHOLE_GRADIENTS]:
        cases[f"train.grad:{name}"] = gradients[name]
    cases["train.adamw_losses"] = np.array(five_losses(deepcopy(model), batch, labels), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.5, help="of the weights, against 1/√width")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.layers, arguments.scale, arguments.seed)


if __name__ == "__main__":
    main()

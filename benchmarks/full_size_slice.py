"""One training step's loss and gradients of a few layers of full width: ``full_size.py --training_slice`` starts it.

    python benchmarks/full_size_slice.py ours|reference OPTIONS.json

Both sides read the same bf16 checkpoint as fp32. All weights are trained but those of embeddings and of the output
head, whose gradients would take more memory than all others. ``reference`` compares with what ``ours`` wrote.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from full_size_prompt import Prompt, make

from ms_impl import families
from ms_impl.data.sample import IGNORED
from ms_impl.families import Family

LABELLED = 0.5  # the last part of the row is trained


def is_trained(name: str, family: Family) -> bool:
    """Whether a parameter's gradient is compared."""
    left = (*family.embeddings, family.output_head)
    used = not any(fnmatchcase(name, pattern) for pattern in family.untrained)
    return used and not any(fnmatchcase(name, f"{path}.*") for path in left)


def columns(prompt: Prompt) -> dict[str, np.ndarray]:
    """The prompt as a training row."""
    ids = prompt.batch["input_ids"]
    places = np.arange(ids.shape[1], dtype=np.int32)[None]
    labels = np.where(places >= round(ids.shape[1] * (1 - LABELLED)), ids, IGNORED).astype(np.int32)
    weights = (labels != IGNORED).astype(np.float32)
    return {"labels": labels, "position_ids": places, "loss_weights": weights} | prompt.batch


def ours(options: dict[str, Any], folder: Path) -> None:
    """Write loss and gradients."""
    import mindspore as ms

    from ms_impl.generate.load import load_model
    from ms_impl.kernels.operators import train_by_kernels
    from ms_impl.train.feed import step_columns

    family = families.get(options["family"])
    model = load_model(options["checkpoint"], "fp32")[0].set_train()
    ms.set_context(mode=ms.GRAPH_MODE)
    batch = columns(make(family.name, model.config, options["length"], options["side"]))
    for parameter in model.get_parameters():  # the loss computes no gradient of a head that is frozen
        parameter.requires_grad = is_trained(parameter.name, family)
    weights = ms.ParameterTuple(model.trainable_params())
    names = step_columns(family.resolve("template"))
    given = [ms.Tensor(batch[name]) for name in names if name != "seeds"]

    class Step(ms.nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            train_by_kernels(model)  # as the Trainer's step does
            self.gradients = ms.value_and_grad(model, None, weights)

        def construct(self, *columns):
            return self.gradients(*columns)

    loss, gradients = Step()(*given)
    for weight, gradient in zip(weights, gradients, strict=True):
        np.save(folder / f"gradient_{weight.name}.npy", gradient.asnumpy())
    (folder / "ours.json").write_text(json.dumps({"loss": float(loss.asnumpy()), "trained": [w.name for w in weights]}))


def reference(options: dict[str, Any], folder: Path) -> None:
    """Compare."""
    import torch
    from full_size_reference import Weights, build, relative_rms

    family, directory = families.get(options["family"]), Path(options["checkpoint"])
    raw = json.loads((directory / "config.json").read_text())
    config = family.resolve("config").from_dict(raw, "config.json")
    model, weights = build(family.name, raw, config).train(), Weights(directory)
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{path}.{name}".lstrip(".")
                trained = is_trained(full, family)
                module._parameters[name] = torch.nn.Parameter(weights(full), requires_grad=trained)
    given = reference_inputs(family.name, make(family.name, config, options["length"], options["side"]))
    found = model(**given)
    loss = found if isinstance(found, torch.Tensor) else found.loss
    loss.backward()
    mine = json.loads((folder / "ours.json").read_text())
    named = dict(model.named_parameters())
    errors = {}
    for name in mine["trained"]:
        gradient = np.load(folder / f"gradient_{name}.npy")
        errors[name] = relative_rms(gradient, named[name].grad.numpy().reshape(gradient.shape))
    missing = [name for name, p in named.items() if p.requires_grad and name not in errors]
    result = {"loss": mine["loss"], "reference_loss": float(loss.detach()), "gradients": errors, "missing": missing}
    (folder / "slice.json").write_text(json.dumps(result))


def reference_inputs(family: str, prompt: Prompt) -> dict[str, Any]:
    """The training row as the reference's forward pass takes it."""
    import torch

    row = {name: torch.from_numpy(array) for name, array in columns(prompt).items()}
    arrays = {name: torch.from_numpy(array) for name, array in prompt.reference.items()}
    if family == "qwen2_5_omni":
        positions = row["position_ids"][0][:, None].long()
        return arrays | {
            "input_ids": row["input_ids"].long(), "labels": row["labels"].long(), "position_ids": positions,
            "use_cache": False,
        }  # fmt: skip
    names = ("input_ids", "labels", "segment_ids", "position_ids", "loss_weights")
    return arrays | {name: row[name] for name in names}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    {"ours": ours, "reference": reference}[sys.argv[1]](given, Path(sys.argv[2]).parent)

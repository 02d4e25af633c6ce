"""The memory model's activations against what PyTorch keeps of torch_ref's forward pass, byte for byte."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from estimate_memory import Case, batch

from ms_impl import families
from ms_impl.estimate.memory import memory
from ms_impl.estimate.parts import model_parts
from ms_impl.qwenvl.config import QwenVLConfig
from torch_ref.qwenvl.model import QwenVL

# PyTorch's views keep q and k whole beside the rotated ones; the estimate counts the mask in floating point.
TOLERANCE = 0.10


def saved_bytes(case: Case) -> int:
    """Bytes of all tensors that autograd keeps after a forward pass, parameters not counted."""
    model = QwenVL(QwenVLConfig.from_dict(case.config())).train()
    model.freeze(case.freeze)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*map(torch.from_numpy, batch(case)))
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    "case",
    [
        Case("scores", layers=4, length=512),
        Case("widths", width=512, layers=4, rows=4, length=64),
        Case("frozen", layers=4, length=256, freeze=("vision_tower",)),
    ],
    ids=lambda case: case.name,
)
def test_activations_are_what_pytorch_keeps(case, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(case.config()))
    parts = model_parts(families.get("qwenvl"), tmp_path / "config.json", case.plan())
    log_probabilities = 4 * case.rows * case.length * case.vocabulary  # the head's, which the estimate counts as work
    estimated = memory(parts, case.plan()).activations + log_probabilities
    assert estimated == pytest.approx(saved_bytes(case), rel=TOLERANCE)

"""ms_impl computes what the original and torch_ref compute, in both modes, in fp32 and fp16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mindspore_side import MindSporeSide
from stages import ACTIVATION, FIRST_LOSS, FP16, GRADIENT, PAST_SEQ_LENGTH
from test_torch_against_golden import tensors

MODES = [("graph", "fp32"), ("pynative", "fp32"), ("graph", "fp16"), ("pynative", "fp16")]


@pytest.fixture(scope="module", params=MODES, ids=["-".join(mode) for mode in MODES])
def side(request, golden):
    return MindSporeSide(golden.directory, *request.param)


def allowed(side: MindSporeSide, fp32: float) -> float:
    return FP16 if side.half else fp32


def check_states(table, side, reference, batch, name: str) -> list[np.ndarray]:
    """Every hidden state and the logits at real columns against torch_ref; returns what ms_impl gave."""
    with torch.no_grad():
        wanted = reference.hidden_states(**tensors(batch))
        wanted.append(reference.lm_head(wanted[-1]))
    found = side.states(batch)
    real = batch.get("segment_ids", np.ones_like(batch["input_ids"])) > 0
    stages = ["embeddings", *(f"layer {i}" for i in range(len(wanted) - 3)), "final norm", "logits"]
    for stage, a, b in zip(stages, found, wanted):
        label = "logits" if stage == "logits" else "hidden states"
        assert stage and a.shape == tuple(b.shape), f"{name}: {stage}"
        table.check(f"{side.name} / torch_ref", f"{label}, {name}", a[real], b.numpy()[real], allowed(side, ACTIVATION))
    return found


def test_image_features(golden, side, table):
    features = side.features(golden.pixels())
    table.check(f"{side.name} / golden", "image features", features, golden["vision.image_features"], allowed(side, ACTIVATION))


def test_text(golden, side, reference, table):
    found = check_states(table, side, reference, {"input_ids": golden["text.input_ids"]}, "text")
    table.check(f"{side.name} / golden", "logits, text", found[-1], golden["text.logits"], allowed(side, ACTIVATION))


def test_padded_batch(golden, side, reference, table):
    batch = golden.batch()
    found = check_states(table, side, reference, batch, "padded batch")
    tail = golden["batch.logits_tail"].shape[1]
    real = batch["segment_ids"][:, -tail:] > 0
    for stage, state, key in (("hidden states, layer 0", 1, "hidden_after_layer0"), ("logits, padded batch", -1, "logits")):
        wanted = golden[f"batch.{key}_tail"][real]
        table.check(f"{side.name} / golden", stage, found[state][:, -tail:][real], wanted, allowed(side, ACTIVATION))


def test_two_images_and_left_padding(golden, side, reference, table):
    check_states(table, side, reference, golden.two_images(), "two images")


def test_logits_around_the_ntk_steps(golden, side, table):
    for n in golden.ntk_lengths:
        found = side.states({"input_ids": golden[f"ntk{n}.input_ids"]})[-1][0]
        positions = golden[f"ntk{n}.positions"]
        wanted = golden[f"ntk{n}.logits"].reshape(len(positions), -1)
        for position, row in zip(positions, wanted):
            past = position >= golden.config.seq_length
            stage = f"logits, {n} tokens, {'past' if past else 'up to'} seq_length"
            limit = allowed(side, PAST_SEQ_LENGTH if past else ACTIVATION)
            table.check(f"{side.name} / golden", stage, found[position], row, limit)


def test_loss_and_every_gradient(golden, side, reference, table):
    batch, labels = golden.batch(), golden["train.labels"]
    loss, gradients = side.gradients(batch, labels)
    table.check(f"{side.name} / golden", "loss", loss, golden["train.loss"], allowed(side, FIRST_LOSS))
    wanted = reference_gradients(reference, batch, labels)
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        table.check(f"{side.name} / torch_ref", "gradients", gradient, wanted[name], allowed(side, GRADIENT))
    for name, gradient in golden.named("train.grad:").items():
        table.check(f"{side.name} / golden", "gradients", gradients[name], gradient, allowed(side, GRADIENT))


def reference_gradients(reference, batch, labels) -> dict[str, np.ndarray]:
    """torch_ref's gradient of every parameter."""
    reference.train()
    reference.zero_grad()
    reference(**tensors(batch), labels=torch.from_numpy(labels)).backward()
    reference.eval()
    return {name: parameter.grad.numpy().copy() for name, parameter in reference.named_parameters()}

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


@pytest.fixture
def counterpart(side, reference, rounded_reference):
    """torch_ref with the parameters that ``side`` computes with.

    An fp16 side has its weights rounded to fp16, and so has its counterpart, which computes in fp32: what is measured
    is the computation and not the rounding of the weights (docs/parity.md).
    """
    return rounded_reference if side.half else reference


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
    features, wanted = side.features(golden.pixels()), golden["vision.image_features"]
    table.check(f"{side.name} / golden", "image features", features, wanted, allowed(side, ACTIVATION))


def test_text(golden, side, counterpart, table):
    found = check_states(table, side, counterpart, {"input_ids": golden["text.input_ids"]}, "text")
    table.check(f"{side.name} / golden", "logits, text", found[-1], golden["text.logits"], allowed(side, ACTIVATION))


def test_padded_batch(golden, side, counterpart, table):
    batch = golden.batch()
    found = check_states(table, side, counterpart, batch, "padded batch")
    tail = golden["batch.logits_tail"].shape[1]
    real = batch["segment_ids"][:, -tail:] > 0
    stages = (("hidden states, layer 0", 1, "hidden_after_layer0"), ("logits, padded batch", -1, "logits"))
    for stage, state, key in stages:
        wanted = golden[f"batch.{key}_tail"][real]
        table.check(f"{side.name} / golden", stage, found[state][:, -tail:][real], wanted, allowed(side, ACTIVATION))


def test_two_images_and_left_padding(golden, side, counterpart, table):
    check_states(table, side, counterpart, golden.two_images(), "two images")


def test_logits_around_the_ntk_steps(golden, side, counterpart, table):
    for n in golden.ntk_lengths:
        batch = {"input_ids": golden[f"ntk{n}.input_ids"]}
        found = side.states(batch)[-1]
        if side.half:
            check_logits(table, side, counterpart, batch, found, f"{n} tokens")
        else:
            check_positions(table, side, golden, n, found[0])


def check_logits(table, side, reference, batch, found, name: str) -> None:
    """Logits of a whole row against torch_ref."""
    with torch.no_grad():
        wanted = reference(**tensors(batch))
    table.check(f"{side.name} / torch_ref", f"logits, {name}", found, wanted, allowed(side, PAST_SEQ_LENGTH))


def check_positions(table, side, golden, n: int, found) -> None:
    """Logits of single positions against the golden ones, tighter up to seq_length than past it."""
    positions = golden[f"ntk{n}.positions"]
    for position, wanted in zip(positions, golden[f"ntk{n}.logits"].reshape(len(positions), -1)):
        past = position >= golden.config.seq_length
        stage = f"logits, {n} tokens, {'past' if past else 'up to'} seq_length"
        table.check(f"{side.name} / golden", stage, found[position], wanted, PAST_SEQ_LENGTH if past else ACTIVATION)


def test_greedy_with_the_cache(golden, side, table):
    tokens, logits = golden["greedy.tokens"], golden["greedy.logits"]
    batch = golden.batch()
    row = {key: batch[key][:1] for key in ("images", "image_context_pos")}
    row["input_ids"] = golden["greedy.input_ids"].astype(np.int32)
    row["segment_ids"] = np.ones_like(row["input_ids"])
    with side.model.decoders.lend(1, row["input_ids"].shape[1] + len(tokens)) as decoder:
        found = [decoder.prefill(row)]
        for token in tokens:
            if not side.half:
                assert found[-1].argmax(-1) == token
            found.append(decoder.step(np.array([token])))
    limit = allowed(side, ACTIVATION)
    table.check(f"{side.name} / golden", "logits, cached decoding", np.concatenate(found), logits, limit)


def test_loss_and_every_gradient(golden, side, counterpart, table):
    batch, labels = golden.batch(), golden["train.labels"]
    loss, gradients = side.gradients(batch, labels)
    table.check(f"{side.name} / golden", "loss", loss, golden["train.loss"], allowed(side, FIRST_LOSS))
    wanted = reference_gradients(counterpart, batch, labels)
    assert set(gradients) == set(wanted)
    if side.half:
        check_whole_gradient(table, side, gradients, wanted)
        return
    for name, gradient in gradients.items():
        table.check(f"{side.name} / torch_ref", "each gradient", gradient, wanted[name], GRADIENT)
    for name, gradient in golden.named("train.grad:").items():
        table.check(f"{side.name} / golden", "each gradient", gradients[name], gradient, GRADIENT)


def check_whole_gradient(table, side, gradients, wanted) -> None:
    """All gradients as one vector.

    Single small ones (a bias that nearly cancels out) err more in fp16, in torch's as well.
    """
    found = np.concatenate([gradients[name].ravel() for name in wanted])
    reference = np.concatenate([gradient.ravel() for gradient in wanted.values()])
    table.check(f"{side.name} / torch_ref", "gradients together", found, reference, FP16)


def reference_gradients(reference, batch, labels) -> dict[str, np.ndarray]:
    """torch_ref's gradient of every parameter."""
    reference.train()
    reference.zero_grad()
    reference(**tensors(batch), labels=torch.from_numpy(labels)).backward()
    reference.eval()
    return {name: parameter.grad.numpy().copy() for name, parameter in reference.named_parameters()}

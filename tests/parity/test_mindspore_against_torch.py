"""ms_impl computes what the original and torch_ref compute, in both modes, in fp32 and fp16.

Slow is what its neighbours prove together: most of fp16 in graphs (fp32 in graphs, fp16 in PyNative).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from floors import floor_of, worst_position
from mindspore_side import MindSporeSide
from stages import ACTIVATION, FIRST_LOSS, FP16, GRADIENT, PAST_SEQ_LENGTH
from test_torch_against_golden import tensors

from ms_impl.qwenvl.template import QwenVLTemplate

# Kernels take weights as they are: in fp16 they have no counterpart of rounded ones.
MODES = [("graph", "fp32"), ("pynative", "fp32"), ("kernels", "fp32"), ("graph", "fp16"), ("pynative", "fp16")]
SLOW = ("graph", "fp16")


def modes(slow: tuple = SLOW):
    """All modes; one is slow."""
    return [pytest.param(m, id="-".join(m), marks=[pytest.mark.slow] if m == slow else []) for m in MODES]


@pytest.fixture(scope="module", params=modes())
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


def check_states(table, side, reference, batch, name: str, exact=None) -> list[np.ndarray]:
    """Every hidden state and the logits at real columns against torch_ref; returns what ms_impl gave.

    ``exact``: what ``Floors.states`` gave for the same batch, if it is one of the golden set.
    """
    with torch.no_grad():
        wanted = reference.hidden_states(**tensors(batch))
        wanted.append(reference.lm_head(wanted[-1]))
    found = side.states(batch)
    real = batch.get("segment_ids", np.ones_like(batch["input_ids"])) > 0
    stages = ["embeddings", *(f"layer {i}" for i in range(len(wanted) - 3)), "final norm", "logits"]
    for number, (stage, a, b) in enumerate(zip(stages, found, wanted)):
        label = "logits" if stage == "logits" else "hidden states"
        assert stage and a.shape == tuple(b.shape), f"{name}: {stage}"
        floor = floor_of(exact[number], (real,)) if exact else 0.0
        row = a[real], b.numpy()[real], allowed(side, ACTIVATION), floor
        table.check(f"{side.name} / torch_ref", f"{label}, {name}", *row)
    return found


def test_image_features(golden, side, table, floors):
    features, wanted = side.features(golden.pixels()), golden["vision.image_features"]
    row = features, wanted, allowed(side, ACTIVATION), floors.features(side.half)
    table.check(f"{side.name} / golden", "image features", *row)


def test_text(golden, side, counterpart, table, floors):
    batch = {"input_ids": golden["text.input_ids"]}
    found = check_states(table, side, counterpart, batch, "text", floors.states("text", side.half))
    floor = floor_of(floors.states("text", side.half, True)[-1])
    row = found[-1], golden["text.logits"], allowed(side, ACTIVATION), floor
    table.check(f"{side.name} / golden", "logits, text", *row)


@pytest.mark.parametrize("side", modes(slow=()), indirect=True)
def test_padded_batch(golden, side, counterpart, table, floors):
    batch, name = golden.batch(), "padded batch"
    found = check_states(table, side, counterpart, batch, name, floors.states(name, side.half))
    tail = golden["batch.logits_tail"].shape[1]
    real = batch["segment_ids"][:, -tail:] > 0
    stages = (("hidden states, layer 0", 1, "hidden_after_layer0"), ("logits, padded batch", -1, "logits"))
    for stage, state, key in stages:
        wanted = golden[f"batch.{key}_tail"][real]
        floor = floor_of(floors.states(name, side.half, True)[state][:, :, -tail:], (real,))
        row = found[state][:, -tail:][real], wanted, allowed(side, ACTIVATION), floor
        table.check(f"{side.name} / golden", stage, *row)


def test_two_images_and_left_padding(golden, side, counterpart, table, floors):
    name = "two images"
    check_states(table, side, counterpart, golden.two_images(), name, floors.states(name, side.half))


def test_logits_around_the_ntk_steps(golden, side, counterpart, table, floors):
    for n in golden.ntk_lengths:
        batch = {"input_ids": golden[f"ntk{n}.input_ids"]}
        found, exact = side.states(batch)[-1], floors.states(str(n), side.half)[-1]
        if side.half:
            check_logits(table, side, counterpart, batch, found, f"{n} tokens", floor_of(exact))
        else:
            check_positions(table, side, golden, n, found[0], exact[:, 0])


def check_logits(table, side, reference, batch, found, name: str, floor: float) -> None:
    """Logits of a whole row against torch_ref."""
    with torch.no_grad():
        wanted = reference(**tensors(batch))
    row = found, wanted, allowed(side, PAST_SEQ_LENGTH), floor
    table.check(f"{side.name} / torch_ref", f"logits, {name}", *row)


def check_positions(table, side, golden, n: int, found, exact) -> None:
    """Logits of single positions against the golden ones, tighter up to seq_length than past it."""
    positions, edge = golden[f"ntk{n}.positions"], golden.config.seq_length
    floors = {past: worst_position(exact, *((edge, n) if past else (0, min(edge, n)))) for past in {False, n > edge}}
    for position, wanted in zip(positions, golden[f"ntk{n}.logits"].reshape(len(positions), -1)):
        past = bool(position >= edge)
        stage = f"logits, {n} tokens, {'past' if past else 'up to'} seq_length"
        row = found[position], wanted, PAST_SEQ_LENGTH if past else ACTIVATION, floors[past]
        table.check(f"{side.name} / golden", stage, *row)


@pytest.mark.parametrize("side", MODES[::3], ids=["fp32", "fp16"], indirect=True)
def test_greedy_with_the_cache(golden, side, table, floors):
    """Decoding runs in graphs, whichever mode is set."""
    tokens, logits = golden["greedy.tokens"], golden["greedy.logits"]
    batch = golden.batch()
    row = {key: batch[key][:1] for key in ("images", "image_context_pos")}
    row["input_ids"] = golden["greedy.input_ids"].astype(np.int32)
    row["segment_ids"] = np.ones_like(row["input_ids"])
    with side.model.decoders.lend(1, row["input_ids"].shape[1] + len(tokens)) as decoder:
        found = [decoder.prefill(row, QwenVLTemplate.kinds)]
        for token in tokens:
            if not side.half:
                assert found[-1].argmax(-1) == token
            found.append(decoder.step(np.array([token])))
    compared = np.concatenate(found), logits, allowed(side, ACTIVATION), floors.greedy(side.half)
    table.check(f"{side.name} / golden", "logits, cached decoding", *compared)


def test_loss_and_every_gradient(golden, side, counterpart, table, floors):
    batch, labels = golden.batch(), golden["train.labels"]
    loss, gradients = side.gradients(batch, labels)
    whole_loss, *_ = floors.gradients(side.half, True)
    _, each, together = floors.gradients(side.half)
    table.check(f"{side.name} / golden", "loss", loss, golden["train.loss"], allowed(side, FIRST_LOSS), whole_loss)
    wanted = reference_gradients(counterpart, batch, labels)
    assert set(gradients) == set(wanted)
    if side.half:
        check_whole_gradient(table, side, gradients, wanted, together)
        return
    for name, gradient in gradients.items():
        table.check(f"{side.name} / torch_ref", "each gradient", gradient, wanted[name], GRADIENT, each[name])
    for name, gradient in golden.named("train.grad:").items():
        table.check(f"{side.name} / golden", "each gradient", gradients[name], gradient, GRADIENT, each[name])


def check_whole_gradient(table, side, gradients, wanted, floor: float) -> None:
    """All gradients as one vector.

    Single small ones (a bias that nearly cancels out) err more in fp16, in torch's as well.
    """
    found = np.concatenate([gradients[name].ravel() for name in wanted])
    reference = np.concatenate([gradient.ravel() for gradient in wanted.values()])
    table.check(f"{side.name} / torch_ref", "gradients together", found, reference, FP16, floor)


def reference_gradients(reference, batch, labels) -> dict[str, np.ndarray]:
    """torch_ref's gradient of every parameter."""
    reference.train()
    reference.zero_grad()
    reference(**tensors(batch), labels=torch.from_numpy(labels)).backward()
    reference.eval()
    return {name: parameter.grad.numpy().copy() for name, parameter in reference.named_parameters()}

"""Loss, every gradient and five steps of AdamW: O11 and O17."""

from __future__ import annotations

import numpy as np
import pytest
from omni_reference import UNTRAINED, VARIANTS
from omni_side import OmniSide
from omni_stages import FIFTH_LOSS, FP16, FP16_GRADIENTS, GRADIENT, LOSS, together
from omni_vectors import AUDIO, COLUMNS, PATCHES, Batch
from stages import error

MEDIA = (*PATCHES, *AUDIO)


@pytest.fixture(scope="session")
def batch(vectors, training_rows) -> Batch:
    """The training case in the smallest shape that holds it."""
    return vectors.batch(training_rows, vectors.sizes_of(training_rows))


def check_gradients(side: OmniSide, batch: Batch, vectors, original, omni_floors, table) -> None:
    told, (loss, gradients) = vectors.told["train"], side.gradients(batch)
    theirs, wanted = original.gradients()
    floor, each = omni_floors.gradients()
    table.check(f"{side.name} / golden", "loss", loss, told["loss"], LOSS, floor)
    table.check(f"{side.name} / transformers", "loss", loss, theirs, LOSS, floor)
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        table.check(f"{side.name} / transformers", "each gradient", gradient, wanted[name], GRADIENT, each[name])
        norm = np.linalg.norm(gradient)
        table.check(f"{side.name} / golden", "gradient norms", norm, told["grad_norm"][name], GRADIENT, each[name])
        if (key := f"train.grad:{name}") in vectors.cases:
            table.check(f"{side.name} / golden", "each gradient", gradient, vectors[key], GRADIENT, each[name])


def test_loss_and_every_gradient(batch, vectors, original, omni_floors, table, graph):
    check_gradients(graph, batch, vectors, original, omni_floors, table)


@pytest.mark.parametrize("mode", ["pynative", "kernels"])
def test_loss_and_every_gradient_by_single_operators(batch, vectors, original, omni_floors, table, request, mode):
    check_gradients(request.getfixturevalue(mode), batch, vectors, original, omni_floors, table)


@pytest.mark.parametrize("mode", ["pynative", pytest.param("graph", marks=pytest.mark.slow)])
def test_gradients_in_fp16(batch, vectors, original, omni_floors, table, mode):
    """All as one vector: single small ones (a bias that nearly cancels out) err more in fp16, in torch's as well."""
    side = OmniSide(vectors, mode, "fp16")
    loss, gradients = side.gradients(batch)
    exact_loss, wanted = omni_floors.reference.rounded().gradients()
    rounding_loss, rounding = omni_floors.rounded.gradients()
    table.check(f"{side.name} / transformers", "loss", loss, exact_loss, FP16, abs(rounding_loss / exact_loss - 1))
    found, reference = (together([values[name] for name in wanted]) for values in (gradients, wanted))
    floor = error(together([rounding[name] for name in wanted]), reference)
    table.check(f"{side.name} / transformers", "gradients together", found, reference, FP16_GRADIENTS, floor)


@pytest.fixture
def trainable(graph) -> OmniSide:
    """The side whose gradients are compiled already; it gets its weights back."""
    yield graph
    graph.restore()


@pytest.mark.parametrize("variant", VARIANTS)
def test_five_steps_of_adamw(batch, vectors, original, omni_floors, table, trainable, variant):
    """O17, and the freezing of module groups by the family's record."""
    side, told = trainable, vectors.told["train"]["adamw"][variant]
    before = {p.name: p.asnumpy().copy() for p in side.model.get_parameters()}
    parameters = side.trained(VARIANTS[variant])
    losses, norms = side.five_losses(parameters, batch)
    trained = {p.name for p in parameters}
    unused = before[UNTRAINED].size if "vision_tower" not in VARIANTS[variant] else 0
    assert sum(before[name].size for name in trained) == told["trained"] - unused
    theirs, floor = original.five_losses(variant)[0], omni_floors.steps(variant)
    for what, wanted in (("golden", told["losses"]), ("transformers", theirs)):
        table.check(f"{side.name} / {what}", "AdamW, first loss", losses[0], wanted[0], LOSS, floor[0])
        table.check(f"{side.name} / {what}", "AdamW, fifth loss", losses[4], wanted[4], FIFTH_LOSS, floor[4])
    table.check(
        f"{side.name} / golden",
        "AdamW, norms",
        norms[0],
        told["grad_norms_before_clip"][0],
        GRADIENT,
        omni_floors.norm(variant),
    )
    for parameter in side.model.get_parameters():
        stayed = np.array_equal(parameter.asnumpy(), before[parameter.name])
        assert stayed == (parameter.name not in trained), f"{parameter.name}: frozen, yet moved, or not trained"


def test_text_beside_media_adds_nothing_of_its_own(batch, training_rows, vectors, graph, pynative):
    """O11: the gradient of a step is that of its rows; absent media add zeros, which are there."""
    without = dict(batch)
    for name in (PATCHES[-1], AUDIO[-1]):
        without[name] = np.full_like(batch[name], batch["input_ids"].shape[1])
    (text_row,) = [i for i, row in enumerate(training_rows) if not (row.images or row.videos or row.audios)]
    without["labels"] = np.full_like(batch["labels"], -100)
    without["labels"][text_row] = batch["labels"][text_row]
    loss, gradients = graph.gradients(without)
    assert np.isfinite(loss) and loss > 0
    towers = {name: g for name, g in gradients.items() if name.startswith(("visual.", "audio_tower."))}
    assert towers and not any(np.any(gradient) for gradient in towers.values())
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients.values())
    text = vectors.batch([training_rows[text_row]], vectors.sizes_of(training_rows))
    alone, wanted = pynative.gradients(text, without=MEDIA)
    assert loss == pytest.approx(alone, rel=1e-6)
    for name in gradients.keys() - towers.keys():
        assert error(gradients[name], wanted[name]) < 1e-5, name


def test_rows_that_are_all_padding_are_finite(batch, graph):
    """An empty batch: no token, no patch, no sound, no label."""
    empty = {name: np.zeros_like(array) for name, array in batch.items()}
    for name in (PATCHES[-1], AUDIO[-1]):
        empty[name] = np.full_like(batch[name], batch["input_ids"].shape[1])
    empty["labels"] = np.full_like(batch["labels"], -100)
    loss, gradients = graph.gradients(empty)
    assert loss == 0
    assert set(gradients) == {p.name for p in graph.model.trainable_params()}
    assert not any(np.any(gradient) for gradient in gradients.values())


def test_loss_weights_and_evaluation(batch, vectors, pynative):
    """The loss of whole logits, which evaluation takes, is that of the training head; weights are a weighted mean."""
    given = {key: batch[key] for key in COLUMNS if key in batch}
    assert float(pynative.call(**given)) == pytest.approx(vectors.told["train"]["loss"], rel=1e-6)
    weights = np.ones(batch["labels"].shape, np.float32)
    weights[0] = 0.25
    weighted = float(pynative.call(**given, loss_weights=weights))
    logits = pynative.call(**{key: value for key, value in given.items() if key != "labels"})[:, :-1]
    targets, counted = batch["labels"][:, 1:], weights[:, 1:] * (batch["labels"][:, 1:] != -100)
    powers = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    each = powers - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    assert weighted == pytest.approx((each * counted).sum() / counted.sum(), rel=1e-5)

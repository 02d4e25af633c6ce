"""A packed row computes what its dialogues compute alone: logits, loss and gradients, images in their own slots.

In training mode, where rows are packed: elsewhere a prefill's length decides the NTK factor.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import mindspore as ms
import numpy as np
import pytest
import torch
from floors import floor_of
from mindspore import Tensor
from mindspore_side import MindSporeSide
from squares import Squares, Tokenizer
from stages import Golden

from ms_impl.data.batch import collate, sizes_of
from ms_impl.data.packing import pack
from ms_impl.data.sample import IGNORED, Sample
from ms_impl.qwenvl.config import QwenVLConfig

PACKED = 1e-5  # rms(difference) / rms(reference)
GIVEN = ("input_ids", "images", "image_context_pos", "segment_ids", "position_ids")
COLUMNS = ("input_ids", "images", "image_context_pos", "labels", "segment_ids", "position_ids", "loss_weights")


@pytest.fixture(scope="module")
def dialogues(template) -> list[Sample]:
    """Three dialogues: with image 0, without an image, with image 1."""
    rng = np.random.default_rng(0)

    def dialogue(name: str, length: int, images: list[str]) -> Sample:
        ids = rng.integers(0, 300, length + len(images) * template.queries).astype(np.int32)
        labels = np.where(rng.random(len(ids)) < 0.4, ids, IGNORED).astype(np.int32)
        return template.sample(ids, labels, [5] * len(images), images, name)

    return [dialogue("a", 40, ["0"]), dialogue("b", 25, []), dialogue("c", 33, ["1"])]


@pytest.fixture(scope="module")
def side(golden: Golden) -> MindSporeSide:
    return MindSporeSide(golden.directory, "graph", "fp32")


@pytest.fixture(scope="module")
def template(golden: Golden) -> Squares:
    """Whose images are the golden ones, by number."""
    config = QwenVLConfig.from_file(golden.directory)
    return GoldenPixels(golden.pixels(), queries=config.num_queries, side=config.visual.image_size)


class GoldenPixels(Squares):
    def __init__(self, pixels, **sizes):
        super().__init__(**sizes, tokenizer=Tokenizer(0))
        self.pixels = pixels

    def draw(self, source, out):
        out[:] = self.pixels[int(source)]


@pytest.fixture(scope="module")
def batch_of(template, dialogues):
    """The arrays of rows, each a list of dialogues, and of empty rows: one shape for all, so one graph of each kind."""
    sizes = sizes_of(template, [pack(dialogues).outline], {})

    def make(rows, weighting="token"):
        batch = collate([pack(row, weighting) for row in rows], template, sizes)
        fill = {"labels": IGNORED, "image_context_pos": sizes["tokens"]}
        return {name: padded(array, len(dialogues), fill.get(name, 0)) for name, array in batch.items()}

    return make


def padded(array: np.ndarray, rows: int, value: int) -> np.ndarray:
    """With so many rows, the last ones full of a value."""
    return np.concatenate((array, np.full((rows - len(array), *array.shape[1:]), value, array.dtype)))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def logits(side: MindSporeSide, batch) -> np.ndarray:
    """Of the first row: [T, vocab]."""
    given = {key: value for key, value in batch.items() if value is not None and key in GIVEN}
    side.model.set_train(True)
    return side.model(**{key: Tensor(value) for key, value in given.items()}).asnumpy()[0]


def loss_and_gradients(side: MindSporeSide, batch) -> tuple[float, dict[str, np.ndarray]]:
    side.model.set_train(True)
    loss, gradients = compiled(side)(*(Tensor(batch[column]) for column in COLUMNS))
    return float(loss.asnumpy()), {w.name: g.asnumpy() for w, g in zip(side.model.trainable_params(), gradients)}


@cache
def compiled(side: MindSporeSide) -> Callable:
    """The loss with its gradients; another would be compiled for each that ``value_and_grad`` makes."""
    return ms.value_and_grad(side.model, None, ms.ParameterTuple(side.model.trainable_params()))


def test_logits_of_a_packed_row_are_those_of_its_dialogues_alone(side, dialogues, batch_of, table, floors):
    floor = floor_of(floors.states("padded batch")[-1])  # rounding of a like batch
    packed = logits(side, batch_of([dialogues]))
    start = 0
    for dialogue in dialogues:
        alone = logits(side, batch_of([[dialogue]]))[: len(dialogue)]
        part = packed[start : start + len(dialogue)]
        table.check(f"{side.name} / alone", "logits, packed row", part, alone, PACKED, floor)
        start += len(part)


@pytest.mark.parametrize("weighting", ["token", "dialogue"])
def test_loss_and_gradients_of_a_packed_row_are_the_unpacked_batchs(
    side, dialogues, batch_of, table, floors, weighting
):
    _, floor, _ = floors.gradients()
    packed = loss_and_gradients(side, batch_of([dialogues], weighting))
    unpacked = loss_and_gradients(side, batch_of([[dialogue] for dialogue in dialogues], weighting))
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-6)
    for name, gradient in unpacked[1].items():
        if np.any(gradient):
            stage = f"gradients, packed by {weighting}"
            table.check(f"{side.name} / unpacked", stage, packed[1][name], gradient, PACKED, floor[name])


def test_weighting_by_dialogue_is_the_mean_of_the_dialogues_losses(side, dialogues, batch_of):
    alone = [loss_and_gradients(side, batch_of([[dialogue]]))[0] for dialogue in (dialogues[0], dialogues[2])]
    by_dialogue, _ = loss_and_gradients(side, batch_of([[dialogues[0], dialogues[2]]], "dialogue"))
    by_token, _ = loss_and_gradients(side, batch_of([[dialogues[0], dialogues[2]]]))
    assert by_dialogue == pytest.approx(np.mean(alone), rel=1e-6)
    assert by_token != pytest.approx(by_dialogue, rel=1e-4)


def test_torch_ref_packs_alike(side, reference, dialogues, batch_of, table, floors):
    floor = floor_of(floors.states("padded batch")[-1])
    batch = batch_of([dialogues])
    given = {key: torch.from_numpy(value[:1]) for key, value in batch.items() if key in GIVEN}
    with torch.no_grad():
        wanted = deepcopy(reference).train()(**given).numpy()[0]
    table.check(f"{side.name} / torch_ref", "logits, packed row", logits(side, batch), wanted, 5e-5, floor)


@pytest.mark.parametrize("mistake", ["one segment", "positions reversed", "images exchanged"])
def test_a_mistake_in_packing_shows(side, dialogues, batch_of, mistake):
    """Negative control."""
    batch = batch_of([dialogues])
    right = logits(side, batch)
    if mistake == "one segment":
        batch["segment_ids"] = np.minimum(batch["segment_ids"], 1)
    elif mistake == "positions reversed":
        batch["position_ids"] = batch["position_ids"][:, ::-1].copy()
    else:
        batch["image_context_pos"] = batch["image_context_pos"][:, ::-1].copy()
    assert relative(logits(side, batch), right) > 1e-3

"""ms_impl against torch_ref on trained weights: the shipped small model, asked about real pictures."""

from __future__ import annotations

from pathlib import Path

import easy_vqa
import numpy as np
import pytest
import torch
from mindspore_side import MindSporeSide
from stages import ACTIVATION, FIRST_LOSS, GRADIENT
from test_mindspore_against_torch import check_states, reference_gradients
from test_torch_against_golden import tensors

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.data.sample import IGNORED
from ms_impl.qwenvl.template import QwenVLTemplate
from torch_ref.qwenvl.model import QwenVL

SHIPPED = Path(__file__).parents[2] / "assets/qwenvl_tiny_easyvqa"
PICTURES = Path(easy_vqa.__file__).parent / "data/test/images"
NEW_TOKENS = 24


def forward(batch):
    """What a forward pass takes; positions are the columns."""
    return {name: batch[name] for name in ("input_ids", "images", "image_context_pos", "segment_ids")}


@pytest.fixture(scope="module")
def reference():
    return QwenVL.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def template():
    return QwenVLTemplate.from_pretrained(SHIPPED)


@pytest.fixture(scope="module", params=["pynative", pytest.param("graph", marks=pytest.mark.slow)])
def side(request):
    return MindSporeSide(SHIPPED, request.param, "fp32")


@pytest.fixture(scope="module")
def samples(template):
    """A question and a box request about two pictures."""
    prompts = ["Picture 1: <img>1.png</img>\nwhat color is the shape?", "Picture 1: <img>2.png</img>\n框出图中的图形"]
    return [template.encode_chat(prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def batch(template, samples):
    """Padded on the left, as for answering."""
    return collate(in_directory(samples, PICTURES), template, padding_side="left")


def test_every_hidden_state_and_the_logits(batch, side, reference, table):
    check_states(table, side, reference, forward(batch), "trained weights")


def test_image_features(batch, side, reference, table):
    images = batch["images"][:, 0]
    with torch.no_grad():
        wanted = reference.encode_images(torch.from_numpy(images))
    table.check(f"{side.name} / torch_ref", "image features, trained", side.features(images), wanted, ACTIVATION)


def test_loss_and_every_gradient(template, samples, side, reference, table):
    batch = forward(collate(in_directory(samples, PICTURES), template))  # padded on the right, as for training
    labels = np.where(batch["segment_ids"] > 0, batch["input_ids"], IGNORED)
    loss, gradients = side.gradients(batch, labels)
    wanted = reference_gradients(reference, batch, labels.astype(np.int64))
    reference.train()
    with torch.no_grad():
        reference_loss = reference(**tensors(batch), labels=torch.from_numpy(labels)).item()
    reference.eval()
    table.check(f"{side.name} / torch_ref", "loss, trained", loss, reference_loss, FIRST_LOSS)
    for name, gradient in gradients.items():
        table.check(f"{side.name} / torch_ref", "each gradient, trained", gradient, wanted[name], GRADIENT)


def test_greedy_answers_are_equal(batch, template, side, reference):
    with side.model.set_train(False).decoders.lend(2, batch["input_ids"].shape[1] + NEW_TOKENS) as decoder:
        tokens = [decoder.prefill(batch, template.kinds).argmax(-1)]
        for _ in range(NEW_TOKENS - 1):
            tokens.append(decoder.step(tokens[-1]).argmax(-1))
    ids, images, places, segments = (
        torch.from_numpy(batch[key]) for key in ("input_ids", "images", "image_context_pos", "segment_ids")
    )
    wanted, _ = reference.greedy(ids, NEW_TOKENS, images, places, segments)
    assert np.stack(tokens, 1).tolist() == wanted.tolist()

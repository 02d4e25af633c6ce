"""The loss and its gradient against torch_ref's, with and without weights."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from ms_impl.cells.loss import IGNORED_LABEL, causal_cross_entropy, total_weight
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from torch_ref.qwenvl.model import QwenVL as Reference

B, T, VOCAB = 3, 9, 31


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)


@pytest.fixture
def drawn():
    """logits, labels, weights; the second row has no label, and some labels weigh nothing."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, VOCAB, (B, T)).astype(np.int32)
    labels[0, :4] = labels[1] = IGNORED_LABEL
    weights = rng.random((B, T), np.float32) * (rng.random((B, T)) > 0.2)  # also where there is no label
    return rng.normal(0, 3, (B, T, VOCAB)).astype(np.float32), labels, weights.astype(np.float32)


def ours(logits, labels, weights):
    given = [Tensor(labels)] + ([] if weights is None else [Tensor(weights)])
    loss, gradient = ms.value_and_grad(causal_cross_entropy)(Tensor(logits), *given)
    return float(loss.asnumpy()), gradient.asnumpy()


def theirs(logits, labels, weights):
    logits = torch.tensor(logits, requires_grad=True)
    loss = Reference.loss(None, logits, torch.tensor(labels), None if weights is None else torch.tensor(weights))
    loss.backward()
    return float(loss.detach()), logits.grad.numpy()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_equal_the_reference(mode, drawn, weighted):
    logits, labels, weights = drawn
    loss, gradient = ours(logits, labels, weights if weighted else None)
    wanted, wanted_gradient = theirs(logits, labels, weights if weighted else None)
    assert loss == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=5e-6, atol=5e-7)


def test_weights_of_one_change_nothing_and_other_weights_do(mode, drawn):
    logits, labels, weights = drawn
    plain, _ = ours(logits, labels, None)
    assert ours(logits, labels, np.ones_like(weights))[0] == pytest.approx(plain, rel=1e-6)
    assert abs(ours(logits, labels, weights)[0] - plain) > 1e-2


def test_nothing_to_learn_is_a_loss_and_a_gradient_of_zero(mode, drawn):
    logits, labels, weights = drawn
    for nothing in ((np.full_like(labels, IGNORED_LABEL), weights), (labels, np.zeros_like(weights))):
        loss, gradient = ours(logits, *nothing)
        assert loss == 0 and not gradient.any()


def test_total_weight_counts_what_is_predicted(drawn):
    _, labels, weights = drawn
    learnt = labels[:, 1:] != IGNORED_LABEL
    assert float(total_weight(Tensor(labels)).asnumpy()) == learnt.sum()
    found = float(total_weight(Tensor(labels), Tensor(weights)).asnumpy())
    assert found == pytest.approx(weights[:, 1:][learnt].sum(), rel=1e-6)


def test_the_model_weighs_its_labels(golden_dir, drawn):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model = QwenVL(QwenVLConfig.from_file(golden_dir)).set_train(False)
    _, labels, weights = drawn
    ids = Tensor(np.maximum(labels, 0))
    wanted = model.loss(model(ids), Tensor(labels), Tensor(weights)).asnumpy()
    assert model(ids, labels=Tensor(labels), loss_weights=Tensor(weights)).asnumpy() == wanted
    assert model(ids, labels=Tensor(labels)).asnumpy() != wanted

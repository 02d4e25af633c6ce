"""The head and the loss in chunks against the loss of whole logits, and against torch_ref's."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn

from ms_impl.cells import linear_cross_entropy
from ms_impl.cells.linear_cross_entropy import LinearCrossEntropy, weighing_rows
from ms_impl.cells.loss import IGNORED_LABEL
from ms_impl.kernels.operators import train_by_kernels
from torch_ref.qwenvl.model import QwenVL as Reference

B, T, WIDTH, VOCAB = 3, 9, 8, 37


class Head(nn.Cell):
    """The cell with a weight of its own."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.weight = Parameter(Tensor(weight), name="weight")
        self.loss = LinearCrossEntropy()

    def construct(self, hidden, labels, loss_weights):
        return self.loss(hidden, self.weight, labels, loss_weights)


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)


@pytest.fixture
def drawn(monkeypatch):
    """hidden, W, labels, weights, of more rows than a chunk; a row has no label, and some labels weigh nothing."""
    monkeypatch.setattr(linear_cross_entropy, "CHUNK", 4)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, VOCAB, (B, T)).astype(np.int32)
    labels[0, :4] = labels[1] = IGNORED_LABEL
    weights = (rng.random((B, T), np.float32) * (rng.random((B, T)) > 0.2)).astype(np.float32)
    hidden, weight = rng.normal(0, 1, (B, T, WIDTH)), rng.normal(0, 1, (VOCAB, WIDTH))
    return hidden.astype(np.float32), weight.astype(np.float32), labels, weights


def ours(hidden, weight, labels, weights, by_kernel=False):
    head = Head(weight).set_train()
    if by_kernel:
        train_by_kernels(head)
        if not head.loss.sum_over_chunks.by_kernel():
            pytest.skip("no C++ compiler here, or kernels are switched off")
    gradients = ms.value_and_grad(head, 0, ms.ParameterTuple([head.weight]))
    loss, (by_hidden, (by_weight,)) = gradients(Tensor(hidden), Tensor(labels), Tensor(weights))
    return float(loss.asnumpy()), by_hidden.asnumpy(), by_weight.asnumpy()


def theirs(hidden, weight, labels, weights):
    hidden, weight = (torch.tensor(array, requires_grad=True) for array in (hidden, weight))
    loss = Reference.loss(None, hidden @ weight.T, torch.tensor(labels), torch.tensor(weights))
    loss.backward()
    return float(loss.detach()), hidden.grad.numpy(), weight.grad.numpy()


@pytest.mark.parametrize("by_kernel", [False, True])
def test_loss_and_gradients_equal_the_reference(mode, drawn, by_kernel):
    found, wanted = ours(*drawn, by_kernel), theirs(*drawn)
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    for gradient, reference in zip(found[1:], wanted[1:]):
        np.testing.assert_allclose(gradient, reference, rtol=5e-6, atol=5e-7)


def test_another_label_makes_another_gradient(mode, drawn):
    hidden, weight, labels, weights = drawn
    changed = np.where(labels == IGNORED_LABEL, labels, (labels + 1) % VOCAB)
    found, wanted = ours(hidden, weight, changed, weights), theirs(*drawn)
    assert all(np.abs(gradient - reference).max() > 1e-2 for gradient, reference in zip(found, wanted))


@pytest.mark.parametrize("by_kernel", [False, True])
def test_nothing_to_learn_is_a_loss_and_gradients_of_zero(mode, drawn, by_kernel):
    hidden, weight, labels, weights = drawn
    loss, by_hidden, by_weight = ours(hidden, weight, labels, np.zeros_like(weights), by_kernel)
    assert loss == 0 and not by_hidden.any() and not by_weight.any()


def test_only_rows_that_weigh_something_are_taken(drawn):
    weights = Tensor(np.array([0, 2, 0, 0, 1, 1, 1, 0, 3], np.float32))
    rows, chunks = weighing_rows(weights)
    assert rows.asnumpy().tolist() == [[1, 4, 5, 6], [8, 9, 9, 9], [9, 9, 9, 9]] and int(chunks.asnumpy()) == 2

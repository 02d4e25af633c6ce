"""The step cell and the optimizer that a YAML's sections make. (tests/parity holds them against the golden run.)"""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.plugin.run import register_all

register_all()

from mindformers.core.optim import build_optim  # noqa: E402 (after our classes are registered)
from mindformers.wrapper import build_wrapper  # noqa: E402

ADAMW = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "learning_rate": 1e-3}


def make_step(network: nn.Cell, optimizer: str, **settings):
    """The cells that a YAML with such ``optimizer`` and ``runner_wrapper`` sections makes."""
    groups = [
        {"params": [p for p in network.trainable_params() if p.ndim > 1], "weight_decay": ADAMW["weight_decay"]},
        {"params": [p for p in network.trainable_params() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = build_optim({"type": optimizer, **ADAMW}, default_args={"params": [g for g in groups if g["params"]]})
    return build_wrapper(
        {"type": "MFTrainOneStepCell", "use_clip_grad": True, "max_grad_norm": 1.0, **settings},
        default_args={"network": network.set_train(), "optimizer": optimizer},
    )


class Quadratic(nn.Cell):
    """A loss whose gradients are known: half the squared distance of all parameters from the data's mean."""

    def __init__(self):
        super().__init__()
        self.matrix = Parameter(Tensor(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)), name="matrix")
        self.vector = Parameter(Tensor(np.array([0.5, -2, 1], np.float32)), name="vector")

    def construct(self, data, *others):
        return (ops.square(self.matrix - data.mean()).sum() + ops.square(self.vector - data.mean()).sum()) / 2


@pytest.mark.parametrize(("optimizer", "vector_decay"), [("AdamWDecayAll", 0.1), ("AdamW", 0.0)])
def test_adamw_equals_pytorch(optimizer, vector_decay):
    network = Quadratic()
    step = make_step(network, optimizer, scale_sense=1.0)
    theirs = [torch.tensor(p.asnumpy(), requires_grad=True) for p in (network.matrix, network.vector)]
    adamw = torch.optim.AdamW(
        [{"params": [theirs[0]], "weight_decay": 0.1}, {"params": [theirs[1]], "weight_decay": vector_decay}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    for scale in (1.0, 3.0, -2.0, 0.1):
        step(Tensor([scale], ms.float32))
        adamw.zero_grad()
        sum(torch.square(p - scale).sum() for p in theirs).div(2).backward()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adamw.step()
    for ours, reference in zip((network.matrix, network.vector), theirs):
        np.testing.assert_allclose(ours.asnumpy(), reference.detach().numpy(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("max_norm", [0.5, 50.0])
def test_clipping_equals_pytorch(max_norm):
    """Over all groups at once; Adam's step would hide a common factor."""
    step = make_step(Quadratic(), "AdamW", max_grad_norm=max_norm)
    gradients = [np.linspace(-3, 2, 6, dtype=np.float32).reshape(2, 3), np.array([0.5, -2, 4], np.float32)]
    clipped, norm = step.clip_grad_norm(tuple(map(Tensor, gradients)))
    theirs = [torch.nn.Parameter(torch.zeros(gradient.shape)) for gradient in gradients]
    for parameter, gradient in zip(theirs, gradients):
        parameter.grad = torch.tensor(gradient)
    assert norm.asnumpy().item() == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, max_norm)), rel=1e-6)
    for ours, parameter in zip(clipped, theirs):
        np.testing.assert_allclose(ours.asnumpy(), parameter.grad.numpy(), rtol=1e-6)


def test_parameters_and_their_state_keep_their_names():
    """A learning rate without a schedule is a parameter, too; two of a name would have all of them renamed."""
    step = make_step(Quadratic(), "AdamW")
    step(Tensor([1.0], ms.float32))
    names = {parameter.name for parameter in step.get_parameters()}
    assert {"matrix", "vector", "exp_avg.matrix", "exp_avg_sq.vector"} <= names


def test_an_overflow_skips_the_update_and_halves_the_loss_scale():
    network = Quadratic()
    scaler = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 8, "scale_factor": 2, "scale_window": 1000}
    step = make_step(network, "AdamW", scale_sense=scaler)
    before = network.matrix.asnumpy().copy()
    _, overflow, *_ = step(Tensor([np.inf], ms.float32))
    assert bool(overflow.asnumpy()) and float(step.scale_sense.asnumpy()) == 4
    np.testing.assert_array_equal(network.matrix.asnumpy(), before)
    _, overflow, *_ = step(Tensor([1.0], ms.float32))
    assert not bool(overflow.asnumpy())
    assert np.abs(network.matrix.asnumpy() - before).max() > 0

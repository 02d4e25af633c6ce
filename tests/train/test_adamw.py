"""AdamW against torch.optim.AdamW: fp32, 16 bits, groups of their own rate and decay, in both modes."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.cells.linear_cross_entropy import LinearCrossEntropy
from ms_impl.errors import InputError
from ms_impl.kernels.build import library
from ms_impl.train.adamw import AdamW

BETAS, EPS, STEPS = (0.9, 0.999), 1e-8, 12
SHAPES = {"matrix": (5, 7), "vector": (3,), "scalar": (1,)}
TORCH = {ms.float32: torch.float32, ms.float16: torch.float16, ms.bfloat16: torch.bfloat16}


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)


def starts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients(step: int) -> list[np.ndarray]:
    """Of very different sizes, as gradients are."""
    rng = np.random.default_rng(100 + step)
    return [rng.normal(0, 10.0 ** rng.integers(-4, 1), shape).astype(np.float32) for shape in SHAPES.values()]


def make(dtype: ms.Type, lr: float, betas: tuple[float, float] = BETAS, **groups: dict) -> AdamW:
    """``groups`` gives a parameter its own lr or weight decay."""
    parameters = [Parameter(Tensor(value).astype(dtype), name=name) for name, value in starts().items()]
    settings = [{"params": [p], "weight_decay": 0.1, **groups.get(p.name, {})} for p in parameters]
    return AdamW(settings, learning_rate=lr, betas=betas, eps=EPS, weight_decay=0.1)


def fp32(tensor: Tensor) -> np.ndarray:
    return tensor.astype(ms.float32).asnumpy()


def torch_masters(dtype: torch.dtype, lr: float, **groups: dict) -> list[torch.Tensor]:
    """fp32 masters that start at the rounded weights, after all steps."""
    masters = {name: torch.tensor(value).to(dtype).float() for name, value in starts().items()}
    settings = [{"params": [value], "weight_decay": 0.1, **groups.get(name, {})} for name, value in masters.items()]
    adamw = torch.optim.AdamW(settings, lr=lr, betas=BETAS, eps=EPS)
    for step in range(STEPS):
        for master, gradient in zip(masters.values(), gradients(step)):
            master.grad = torch.tensor(gradient)
        adamw.step()
    return list(masters.values())


def run(optimizer: AdamW) -> None:
    for step in range(STEPS):
        optimizer(tuple(Tensor(gradient) for gradient in gradients(step)))


GROUPS = {"vector": {"lr": 3e-3, "weight_decay": 0.0}, "matrix": {"lr": 1e-3}, "scalar": {"lr": 5e-4}}


@pytest.mark.parametrize("groups", [{}, {"vector": {"weight_decay": 0.0}}, GROUPS])
def test_fp32_equals_torch(mode, groups):
    optimizer = make(ms.float32, 1e-3, **groups)
    run(optimizer)
    for ours, theirs in zip(optimizer.parameters, torch_masters(torch.float32, 1e-3, **groups)):
        np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=2e-6, atol=1e-7)


@pytest.mark.skipif(library("adamw") is None, reason="no C++ compiler here, or kernels are switched off")
@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_the_kernel_rounds_as_plain_operators_do(mode):
    rng, shapes = np.random.default_rng(6), ((3, 40961), (16, 512), (5,))  # vectors, pieces and single numbers are left
    starts = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    steps = [[rng.normal(0, 10.0 ** rng.integers(-6, 1), shape).astype(np.float32) for shape in shapes] for _ in "123"]
    ends = {}
    for way in ("kernel", "plain", "another rate"):
        parameters = [Parameter(Tensor(start), name=str(number)) for number, start in enumerate(starts)]
        optimizer = AdamW(
            parameters,
            learning_rate=1e-3 * (1 + 1e-4 * (way == "another rate")),
            betas=BETAS,
            eps=EPS,
            weight_decay=0.1,
        )
        assert optimizer.kernel is not None
        if way == "plain":
            optimizer.kernel = None
        for step in steps:
            optimizer(tuple(map(Tensor, step)))
        held = [array for state in optimizer.states for array in (state.parameter, state.exp_avg, state.exp_avg_sq)]
        ends[way] = [array.asnumpy() for array in held]
    for kernel, plain in zip(ends["kernel"], ends["plain"]):
        np.testing.assert_array_equal(kernel, plain)
    assert not np.array_equal(ends["another rate"][0], ends["plain"][0])


class StepOfHead(nn.Cell):
    """A step whose graph reads its parameter in a loop, too."""

    def __init__(self, weight: np.ndarray):
        super().__init__(auto_prefix=False)
        self.weight, self.loss = Parameter(Tensor(weight), name="weight"), LinearCrossEntropy()
        self.optimizer = AdamW([self.weight], learning_rate=1e-2)
        self.gradient = ms.value_and_grad(self.forward, None, self.optimizer.parameters)

    def forward(self, hidden, labels):
        return self.loss(hidden, self.weight, labels)

    def construct(self, hidden, labels):
        loss, gradients = self.gradient(hidden, labels)
        return ops.depend(loss, self.optimizer(gradients))


@pytest.mark.skipif(library("adamw") is None, reason="no C++ compiler here, or kernels are switched off")
@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_the_kernel_writes_to_a_parameter_that_others_read(mode):
    """MindSpore passed it a copy while it was not told that the parameter is written to."""
    rng = np.random.default_rng(8)
    given = Tensor(rng.normal(size=(2, 300, 8)).astype(np.float32)), Tensor(rng.integers(0, 19, (2, 300)), ms.int32)
    start, ends = rng.normal(size=(19, 8)).astype(np.float32), []
    for by_kernel in (True, False):
        step = StepOfHead(start)
        if not by_kernel:
            step.optimizer.kernel = None
        losses = [float(step(*given).asnumpy()) for _ in range(3)]
        ends.append((losses, step.weight.asnumpy()))
    assert ends[0][0] == ends[1][0] and len(set(ends[0][0])) == 3
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_another_beta_is_another_training():
    """The negative control of the test above."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = make(ms.float32, 1e-3, (0.9, 0.998))
    run(optimizer)
    theirs = torch_masters(torch.float32, 1e-3)[0].numpy()
    assert np.abs(optimizer.parameters[0].asnumpy() / theirs - 1).max() > 1e-4


@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16])
def test_16_bits_are_the_rounded_masters_of_torch(mode, dtype):
    optimizer = make(dtype, 1e-4)
    run(optimizer)
    for state, theirs in zip(optimizer.states, torch_masters(TORCH[dtype], 1e-4)):
        np.testing.assert_allclose(fp32(state.master()), theirs.numpy(), rtol=2e-6, atol=1e-7)
        rounded = torch.tensor(fp32(state.master())).to(TORCH[dtype]).float().numpy()
        np.testing.assert_array_equal(fp32(state.parameter), rounded)
        assert state.parameter.dtype == dtype and state.exp_avg.dtype == state.exp_avg_sq.dtype == ms.float32


def test_steps_too_small_for_bfloat16_add_up():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    parameter = Parameter(Tensor(np.ones(4, np.float32)).astype(ms.bfloat16), name="weight")
    optimizer = AdamW([parameter], learning_rate=1e-4)  # bfloat16 cannot hold 1 − 1e-4
    for _ in range(100):
        optimizer((Tensor(np.ones(4, np.float32)),))
    np.testing.assert_allclose(fp32(parameter), 0.99, atol=2**-9)


def test_frozen_parameters_have_no_state():
    network = nn.CellList([nn.Dense(2, 2), nn.Dense(2, 2)])
    network[0].weight.requires_grad = False
    optimizer = AdamW(network.trainable_params())
    names = {p.name for p in optimizer.get_parameters()}
    trained = {p.name for p in network.trainable_params()}
    state = {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in trained}
    assert len(trained) == 3 and {p.name for p in optimizer.parameters} == trained
    assert names - {"learning_rate"} == trained | state | {"global_step"}


@pytest.mark.parametrize("wrong", [{"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"eps": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AdamW([Parameter(Tensor([1.0]), name="weight")], **wrong)

"""Saving and restoring an optimizer's state; over several ranks: tests/train/test_zero1.py."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from ms_impl.errors import InputError
from ms_impl.train.adamw import AdamW
from ms_impl.train.optimizer_state import gather_state, restore_state


@pytest.fixture(autouse=True, params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)


def make(dtype: ms.Type = ms.bfloat16, width: int = 3) -> AdamW:
    parameters = [
        Parameter(Tensor(np.ones((2, width), np.float32)), name="whole"),
        Parameter(Tensor(np.ones(5, np.float32)).astype(dtype), name="half"),
    ]
    return AdamW(parameters, learning_rate=1e-3, weight_decay=0.1)


def run(optimizer: AdamW, steps: range) -> None:
    for step in steps:
        rng = np.random.default_rng(step)
        optimizer(tuple(Tensor(rng.normal(0, 1, p.shape).astype(np.float32)) for p in optimizer.parameters))


def weights(optimizer: AdamW) -> list[np.ndarray]:
    return [parameter.astype(ms.float32).asnumpy().copy() for parameter in optimizer.parameters]


def test_a_restored_optimizer_goes_on_bit_for_bit():
    undisturbed, stopped, resumed = make(), make(), make()
    run(undisturbed, range(6))
    run(stopped, range(3))
    state, saved = gather_state(stopped), weights(stopped)
    run(stopped, range(1))  # what was gathered must not be what goes on changing
    run(resumed, range(2))  # nor must a compiled optimizer keep what it had
    for value, parameter in zip(saved, resumed.parameters):
        parameter.set_data(Tensor(value).astype(parameter.dtype))
    restore_state(resumed, state)
    run(resumed, range(3, 6))
    wanted, found = gather_state(undisturbed), gather_state(resumed)
    assert set(found) == {
        "step", "exp_avg.whole", "exp_avg_sq.whole", "exp_avg.half", "exp_avg_sq.half", "remainder.half",
    }  # fmt: skip
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for ours, theirs in zip(weights(resumed), weights(undisturbed)):
        np.testing.assert_array_equal(ours, theirs)
    assert found["step"].tolist() == [6] and found["remainder.half"].any()


def test_the_arrays_are_whole_and_fp32():
    state = gather_state(make())
    assert {name: (array.shape, array.dtype) for name, array in state.items() if name != "step"} == {
        **{f"{kind}.whole": ((2, 3), np.float32) for kind in ("exp_avg", "exp_avg_sq")},
        **{f"{kind}.half": ((5,), np.float32) for kind in ("exp_avg", "exp_avg_sq", "remainder")},
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make(ms.float32), "state.safetensors: 'remainder.half' is missing"),
        (lambda: make(width=4), r"state.safetensors: 'exp_avg.whole' has shape \(2, 4\), not \(2, 3\)"),
    ],
)
def test_the_state_of_another_training_is_refused_and_changes_nothing(other, message):
    optimizer, donor = make(), other()
    run(donor, range(2))
    with pytest.raises(InputError, match=message):
        restore_state(optimizer, gather_state(donor), "state.safetensors")
    assert not any(array.any() for array in gather_state(optimizer).values())


def test_state_of_parameters_that_are_not_trained_is_refused():
    state = gather_state(make())
    with pytest.raises(InputError, match=r"'exp_avg.half' is not trained here \(3 names are not\)"):
        restore_state(AdamW(make().parameters[:1]), state)

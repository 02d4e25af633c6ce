"""What prefills are held against: the best matrix product that the processor was seen to do in the same rounds.

Contestants are torch's product and MindSpore's, which are fp32, and our own of bf16 weights. What a forward pass
computes is counted by PyTorch on its own pass, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import mindspore as ms
import numpy as np
import torch
from harness import Row
from mindspore import nn, ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ms_impl.cells.linear import Linear
from ms_impl.kernels.operators import use_kernels

ROWS, OUTPUTS, INPUTS = 1024, 2048, 2048
GOAL, GOAL_BF16 = 1.0, 0.7
ROUNDED = "ours bf16, computed in bf16"  # compute_dtype bf16, as torch bf16; others compute in fp32
Contestants = dict[str, Callable[[], object]]


class _Product(nn.Cell):
    def __init__(self):
        super().__init__()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: ms.Tensor, w: ms.Tensor) -> ms.Tensor:
        return self.matmul(x, w)


def products() -> Contestants:
    """One product each: x [ROWS, INPUTS] by weights [OUTPUTS, INPUTS]."""
    random = np.random.default_rng(0)
    x, w = (random.normal(size=(count, INPUTS)).astype(np.float32) for count in (ROWS, OUTPUTS))
    ours, theirs, given = Linear(INPUTS, OUTPUTS, False, ms.bfloat16), _Product(), [ms.Tensor(x), ms.Tensor(w)]
    ours.weight.set_data(ms.Tensor(w, ms.bfloat16))
    use_kernels(ours.set_train(False))
    tensors = [torch.from_numpy(each) for each in (x, w)]
    return {
        "product of torch": lambda: torch.nn.functional.linear(*tensors),
        "product of MindSpore": lambda: theirs(*given).asnumpy(),
        "our product": lambda: ours(given[0]).asnumpy(),
    }


def best_product(seconds: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    """Whose was fastest in these rounds, and how many operations a second it did."""
    rates = {name: 2 * ROWS * OUTPUTS * INPUTS / median(seconds[name]) for name in seconds if "product" in name}
    return max(rates.items(), key=lambda rate: rate[1])


def _attention(q, k, v, *_, **__) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


_COUNTS = flop_registry | {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class _Counter(TorchDispatchMode):
    """Adds up the operations of what torch runs within. ``FlopCounterMode`` does not work in inference mode."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        count = _COUNTS.get(func._overloadpacket)
        if count is None:
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        self.total += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attention of what torch runs."""
    with _Counter() as counter:
        run()
    return counter.total


def rows_of(question: str, case: str, seconds: Mapping[str, Sequence[float]], counted: int) -> list[Row]:
    """Each "ours …" against "torch", and "torch bf16" where it ran; then its share of the best product.

    Args:
        seconds: of contestants that all do ``counted`` operations; and of the products.
    """
    rates = {name: 1 / median(times) for name, times in seconds.items()}
    whose, best = best_product(seconds)
    rows = []
    for name in (name for name in rates if name.startswith("ours")):
        mine, kind = rates[name], name.removeprefix("ours ")
        for anchor, goal in (("torch", GOAL), ("torch bf16", GOAL_BF16 if name == ROUNDED else None)):
            if anchor in rates and (anchor == "torch" or kind.startswith("bf16")):
                ratio = mine / rates[anchor]
                judged = (f"≥ {goal}", ratio >= goal) if goal else ()
                versus = f"{question}; anchor: {anchor}"
                rows.append(Row(versus, f"{case}, weights {kind}", mine, rates[anchor], "images/s", ratio, *judged))
        rows.append(
            Row(f"{question}: share of the best product, {whose}", f"{case}, weights {kind}",
                mine * counted / 1e9, best / 1e9, "GFLOP/s", mine * counted / best)
        )  # fmt: skip
    return rows

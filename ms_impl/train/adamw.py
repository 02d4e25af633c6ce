"""AdamW (Loshchilov & Hutter, 2019) with its state in fp32, whole on every rank or divided among the ranks."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.communication import get_rank

from ms_impl.errors import InputError
from ms_impl.kernels.operators import adamw_operator, in_training
from ms_impl.train.grad_accumulation import data_parallel_ranks
from ms_impl.train.zero1 import Partition


class ParameterState(nn.Cell):
    """One parameter's state on this rank, fp32: ``exp_avg``, ``exp_avg_sq`` and, for 16 bits, ``remainder``.

    parameter + remainder is the fp32 master copy, exactly: what rounding to 16 bits takes away fits into fp32. A copy
    of its own would go stale where weights are loaded after the optimizer is made; a remainder of zeros does not.
    """

    def __init__(self, parameter: Parameter, partition: Partition):
        super().__init__(auto_prefix=False)
        self.parameter = parameter
        self.partition = partition
        self.rounded = parameter.dtype != ms.float32
        self.divided = partition.ranks > 1
        self.exp_avg = _zeros_like(parameter, partition, "exp_avg")
        self.exp_avg_sq = _zeros_like(parameter, partition, "exp_avg_sq")
        self.remainder = _zeros_like(parameter, partition, "remainder") if self.rounded else None

    def master(self) -> Tensor:
        """This rank's part of the parameter in fp32."""
        part = self.partition.take(self.parameter.astype(ms.float32))
        return part + self.remainder if self.rounded else part

    def assign(self, master: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> Tensor:
        """Keep this rank's new parts, and put the parameter together from all ranks'."""
        ops.assign(self.exp_avg, exp_avg)
        ops.assign(self.exp_avg_sq, exp_avg_sq)
        if not self.rounded:
            return ops.assign(self.parameter, self.partition.join(master))
        rounded = master.astype(self.parameter.dtype).astype(ms.float32)
        ops.assign(self.remainder, master - rounded)
        # On CPU there is neither Assign nor Reshape for bfloat16.
        return self.parameter.copy_(self.partition.join(rounded).astype(self.parameter.dtype))


class AdamW(nn.Optimizer):
    """``torch.optim.AdamW``; parameters of 16 bits train as their fp32 master copies would, rounded after each step.

    With MindSpore's ``enable_parallel_optimizer`` in data-parallel mode each rank holds an equal part of all state.
    (In semi-automatic parallelism MindSpore divides it.)

    Args:
        params: parameters, or groups of them with ``params`` and, where they differ, ``lr`` and ``weight_decay``.
        learning_rate: a number or a schedule of the step.
        betas: decay of the gradient's and of the squared gradient's mean.

    Raises:
        InputError: betas or eps are out of range.
    """

    def __init__(self, params, learning_rate=1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0):
        if len(betas) != 2 or not all(0 < beta < 1 for beta in betas):
            raise InputError(f"optimizer.betas: expected two numbers between 0 and 1, found {betas}")
        if eps <= 0:
            raise InputError(f"optimizer.eps: expected a number greater than 0, found {eps}")
        super().__init__(learning_rate, params, weight_decay=weight_decay)
        self.beta2 = float(betas[1])
        self.gain1, self.gain2 = (1 - float(beta) for beta in betas)
        self.half_logs = tuple(math.log(beta) / 2 for beta in betas)
        self.eps = float(eps)
        # x / y where y > 0. MindSpore 2.9.0's RealDiv on CPU keeps 16 bytes of tables for each element, and is slower.
        self.divide = ops.Xdivy()
        self.after = ops.Depend()
        self.kernel = in_training(adamw_operator)
        self.kept = Tensor([self.gain1, self.beta2, self.gain2], ms.float32)
        ranks = data_parallel_ranks() if self.sharded else 1
        rank = get_rank() if ranks > 1 else 0
        states = [ParameterState(p, Partition(p.shape, ranks, rank)) for p in self.parameters]
        self.states = nn.CellList(states, auto_prefix=False)

    def _use_parallel_optimizer(self) -> None:
        """MindSpore 2.9.0 (nn/optim/optimizer.py:285) shares out parameters on Ascend, and refuses to on CPU."""
        self.use_parallel = False
        self.optim_filter = (True,) * self.param_length
        self.sharded = ms.get_auto_parallel_context("enable_parallel_optimizer")

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Update every parameter; gradients are whole, in the order of ``parameters``, the same on every rank."""
        lr, decay = self.get_lr(), self.get_weight_decay()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.global_step.astype(ms.float32)
        unbiased = _one_minus_exp(self.half_logs[0] * step), ops.sqrt(_one_minus_exp(self.half_logs[1] * step))
        updated = ()
        for i, state in enumerate(self.states):
            rate = lr[i] if self.is_group_lr else lr
            shrink = 1 - rate * (decay[i] if self.is_group else decay)
            # One after the other, or the intermediate results of all would be in memory together.
            gradient = self.after(gradients[i], updated[-1]) if updated else gradients[i]
            updated += (self.update(state, gradient, rate, shrink, unbiased),)
        return updated

    def update(
        self, state: ParameterState, gradient: Tensor, lr: Tensor, shrink: Tensor, unbiased: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One parameter's step.

        Dividing exp_avg and √exp_avg_sq by ``unbiased`` undoes their bias towards their start at 0. Here they divide
        the scalars instead, which spares passes over the parameter.
        """
        if self.kernel is not None and not state.divided and not state.rounded:
            factors = (shrink, lr * unbiased[1] / unbiased[0], self.eps * unbiased[1])
            factors = ops.concat((*[factor.reshape(1) for factor in factors], self.kept))
            return self.kernel(state.parameter, state.exp_avg, state.exp_avg_sq, gradient, factors)
        gradient = state.partition.take(gradient.astype(ms.float32))
        exp_avg = state.exp_avg + (gradient - state.exp_avg) * self.gain1
        exp_avg_sq = state.exp_avg_sq * self.beta2 + gradient * gradient * self.gain2
        denominator = ops.sqrt(exp_avg_sq) + self.eps * unbiased[1]
        master = state.master() * shrink - (lr * unbiased[1] / unbiased[0]) * self.divide(exp_avg, denominator)
        return state.assign(master, exp_avg, exp_avg_sq)


def _one_minus_exp(half: Tensor) -> Tensor:
    """1 − exp(2·half), to the last digit also near 0. (MindSpore 2.9.0's expm1 on CPU is 1 % off at 1e-6.)"""
    tanh = ops.tanh(-half)
    return 2 * tanh / (1 + tanh)


def _zeros_like(parameter: Parameter, partition: Partition, kind: str) -> Parameter:
    """fp32 zeros in the shape of this rank's part, named ``kind.parameter``."""
    state = Parameter(initializer("zeros", partition.part_shape, ms.float32))
    if partition.ranks == 1:  # semi-automatic parallelism lays it out as it does the parameter
        state.param_info = parameter.param_info.clone()
        parameter.param_info.cloned_obj = [*getattr(parameter.param_info, "cloned_obj", []), state]
    state.name = f"{kind}.{parameter.name}"
    state.requires_grad = False
    return state

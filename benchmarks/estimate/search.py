"""The best way to train on a number of devices: every way that can be set and fits is estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from estimate.speed import Speed, speed
from ms_impl.estimate.memory import Memory, memory
from ms_impl.estimate.parts import Trained
from ms_impl.estimate.plan import Device, Plan

Found = tuple[Plan, Memory, Speed]


def divisors(number: int) -> list[int]:
    """In ascending order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def plans(plan: Plan, devices: int, allowed: Callable[[Plan], bool]) -> Iterator[Plan]:
    """Every way to train the same joint batch on ``devices``; ``allowed`` says whether the model can be cut so."""
    for model, stages in ((m, s) for m in divisors(devices) for s in divisors(devices // m)):
        data = devices // (model * stages)
        rows_of_rank = plan.joint_rows // data
        if rows_of_rank * data != plan.joint_rows:
            continue
        for rows in divisors(rows_of_rank):
            for zero in (0, 2, 3) if data > 1 else (0,):
                for recompute in (False, True):
                    changed = replace(
                        plan, rows=rows, micro_batches=rows_of_rank // rows, data_parallel=data, model_parallel=model,
                        stages=stages, zero=zero, recompute=recompute,
                    )  # fmt: skip
                    if changed.micro_batches >= stages and allowed(changed):
                        yield changed


def best(
    parts_of: Callable[[Plan], Sequence[Trained]],
    plan: Plan,
    devices: int,
    device: Device,
    allowed: Callable[[Plan], bool],
) -> Found | None:
    """The fastest of those that fit, or None; of equally fast ones that with the least memory."""
    found = []
    for candidate in plans(plan, devices, allowed):
        parts = parts_of(candidate)
        need = memory(parts, candidate)
        if need.peak <= device.memory:
            found.append((candidate, need, speed(parts, candidate, device)))
    return max(found, key=lambda each: (each[2].tokens_per_second, -each[1].peak), default=None)

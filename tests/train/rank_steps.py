"""Training steps of a small network, as one process or as one rank of several; the results go to a folder.

    python rank_steps.py FOLDER graph|pynative

Under msrun each rank takes its share of the global batch of four rows. Writes FOLDER/rank_N.npz, with the scenario's
name before that of the array.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.communication import get_rank, init
from mindspore.nn.wrap.loss_scale import DynamicLossScaleUpdateCell

from ms_impl.cells.loss import IGNORED_LABEL, causal_cross_entropy
from ms_impl.plugin.train_step import TrainStep
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.train.adamw import AdamW
from ms_impl.train.feed import step_columns
from ms_impl.train.optimizer_state import gather_state, restore_state
from ms_impl.train.ranks import wait_for_ranks

RANKS = int(os.environ.get("MS_WORKER_NUM", 1))
ROWS, LENGTH, VOCABULARY, WIDTH, STEPS = 4, 6, 11, 5, 4
INFINITE = 1  # the step that overflows on rank 0 alone


class Network(nn.Cell):
    """The loss of an embedding and a head; the images are added to what is embedded."""

    def __init__(self, dtype: ms.Type):
        super().__init__()
        rng = np.random.default_rng(0)
        self.embedding = _parameter(rng, (VOCABULARY, WIDTH), dtype, "embedding")
        self.head = _parameter(rng, (WIDTH, VOCABULARY), dtype, "head")
        self.bias = _parameter(rng, (VOCABULARY,), dtype, "bias")  # 11 is no multiple of the ranks

    def construct(
        self, input_ids, images, image_context_pos, labels, segment_ids, position_ids, loss_weights, seeds
    ) -> Tensor:
        embedded = ops.gather(self.embedding.astype(ms.float32), input_ids, 0)
        hidden = embedded + images.mean((1, 2, 3, 4)).reshape(-1, 1, 1)
        logits = ops.matmul(hidden.reshape(-1, WIDTH), self.head.astype(ms.float32)) + self.bias.astype(ms.float32)
        return causal_cross_entropy(logits.reshape(*input_ids.shape, VOCABULARY), labels, loss_weights)


def _parameter(rng: np.random.Generator, shape: tuple[int, ...], dtype: ms.Type, name: str) -> Parameter:
    return Parameter(Tensor(rng.normal(0, 1, shape).astype(np.float32)).astype(dtype), name=name)


def global_batch(step: int, infinite: bool) -> dict[str, np.ndarray]:
    """Four rows that differ in the number and the weights of their labels; the third has none, two have no image."""
    rng = np.random.default_rng(step)
    labels = rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    labels[0, :3] = labels[2] = IGNORED_LABEL
    images = rng.normal(0, 1, (ROWS, 1, 3, 2, 2)).astype(np.float32)
    images[2:] = 0
    if infinite:
        images[0] = np.inf
    zeros = np.zeros((ROWS, LENGTH), np.int32)
    return {
        "input_ids": rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32),
        "images": images,
        "image_context_pos": np.zeros((ROWS, 1, 1), np.int32),
        "labels": labels,
        "segment_ids": zeros + 1,
        "position_ids": zeros,
        "loss_weights": rng.random((ROWS, LENGTH), np.float32),
        "seeds": np.arange(ROWS, dtype=np.int32),
    }


class Run:
    """A training of its own; the first row's image is infinite in the step ``INFINITE``."""

    def __init__(self, accumulation: int = 1, sharded: bool = False, dtype: ms.Type = ms.float32):
        ms.set_auto_parallel_context(enable_parallel_optimizer=sharded)
        self.network = Network(dtype)
        groups = [
            {"params": [self.network.embedding, self.network.head], "weight_decay": 0.1},
            {"params": [self.network.bias], "weight_decay": 0.0, "lr": 3e-2},
        ]
        self.optimizer = AdamW(groups, learning_rate=1e-2, weight_decay=0.1)
        scale = DynamicLossScaleUpdateCell(loss_scale_value=8, scale_factor=2, scale_window=1000)
        self.step = TrainStep(
            self.network, self.optimizer, accumulation, use_clip_grad=True, max_grad_norm=0.5, scale_sense=scale
        ).set_train()
        self.results: dict[str, list] = {"losses": [], "norms": [], "overflows": [], "scales": []}

    def steps(self, *numbers: int) -> Run:
        share = ROWS // RANKS
        rows = slice(rank() * share, (rank() + 1) * share)
        for number in numbers:
            batch = global_batch(number, infinite=number == INFINITE)
            loss, overflow, _, _, norm = self.step(
                *(Tensor(batch[column][rows]) for column in step_columns(QwenVLTemplate))
            )
            for name, value in zip(self.results, (loss, norm, overflow, self.step.scale_sense)):
                self.results[name].append(float(value.asnumpy().reshape(())))
        return self

    def resume(self, other: Run) -> Run:
        """Take over another's weights and state. Collective."""
        for new, old in zip(self.network.get_parameters(), other.network.get_parameters()):
            new.set_data(Tensor(old.astype(ms.float32).asnumpy()).astype(old.dtype))
        saved, file = gather_state(other.optimizer), Path(sys.argv[1]) / "state.npz"
        if rank() == 0:
            np.savez(file, **saved)
        wait_for_ranks()
        restore_state(self.optimizer, dict(np.load(file)))
        return self

    def arrays(self) -> dict[str, Any]:
        """Results of each step, the weights after the last, the whole optimizer state (of rank 0), elements held."""
        weights = {p.name: p.astype(ms.float32).asnumpy() for p in self.network.get_parameters()}
        held = sum(p.size for state in self.optimizer.states for p in (state.exp_avg, state.exp_avg_sq))
        return {**self.results, **weights, **gather_state(self.optimizer), "held": held}


def scenarios() -> Iterator[tuple[str, Run]]:
    """Every training, by name."""
    every = range(STEPS)
    yield "plain", Run().steps(*every)
    yield "accumulated", Run(accumulation=2 if RANKS > 1 else ROWS).steps(*every)
    if RANKS > 1:
        yield "sharded", Run(sharded=True).steps(*every)
        whole = Run(dtype=ms.bfloat16).steps(0, 1)
        sharded = Run(sharded=True, dtype=ms.bfloat16).resume(whole).steps(2)
        again_whole = Run(dtype=ms.bfloat16).resume(sharded).steps(3)
        yield "sharded from whole", sharded
        yield "whole from sharded", again_whole
        yield "bfloat16", whole.steps(2, 3)


def rank() -> int:
    return get_rank() if RANKS > 1 else 0


def main() -> None:
    """Run all scenarios in the mode that the command line names."""
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    ms.set_device("CPU")
    if RANKS > 1:
        init()
        if os.environ["MS_ROLE"] == "MS_SCHED":
            return
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL)
    results = {f"{name}/{key}": value for name, run in scenarios() for key, value in run.arrays().items()}
    np.savez(folder / f"rank_{rank()}.npz", **results)
    if RANKS > 1:
        wait_for_ranks()


if __name__ == "__main__":
    main()

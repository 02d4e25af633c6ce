"""What rounding alone does on the golden vectors, beside each row of the parity table.

============  =================================================================================
rows          floor: error between
============  =================================================================================
fp32          torch_ref in fp32 and in fp64
fp16          torch_ref in fp16 and in fp32, on the weights that ``ms_impl`` computes with; against golden
              rows in fp16 and in fp32 on the whole weights, since rounding those is part of the row
after steps   runs of torch_ref whose weights begin 1e-7 (relative) apart
============  =================================================================================

A tolerance that fits one set of vectors says nothing of another, with more layers or larger weights; the floor does.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from stages import LOSS_SCALE, Golden, error

MOVED = 1e-7  # relative, by which weights are moved
RERUNS = 2
STAGE_3 = ("vision_tower",)

Batch = Mapping[str, np.ndarray]


class Floors:
    """Measured when first asked for. ``half``: of an fp16 row; ``whole``: against golden, weights not rounded."""

    def __init__(self, golden: Golden, reference, rounded_reference):
        self.golden = golden
        self._models = {
            "fp32": reference,
            "fp64": deepcopy(reference).double(),
            "fp16": deepcopy(rounded_reference).half(),
            "rounded": rounded_reference,
        }
        for name in ("states", "gradients", "steps", "_greedy", "features"):
            setattr(self, name, cache(getattr(self, name)))

    def _pair(self, half: bool, whole: bool) -> tuple:
        """The model that rounds, and the one it is held against."""
        if not half:
            return self._models["fp32"], self._models["fp64"]
        return self._models["fp16"], self._models["fp32" if whole else "rounded"]

    def features(self, half: bool = False) -> float:
        images = torch.from_numpy(self.golden.pixels())
        with torch.no_grad():
            found, wanted = (model.encode_images(_as(images, model)) for model in self._pair(half, whole=True))
        return error(found.float(), wanted)

    def states(self, name: str, half: bool = False, whole: bool = False) -> list[np.ndarray]:
        """Differences and references of each hidden state and the logits of a batch of the golden set.

        A pair of [B, T, ...] arrays a stage; ``floor_of`` makes a number of those columns that a row compares.
        """
        batch = self._batch(name)
        results = []
        for model in self._pair(half, whole):
            with torch.no_grad():
                states = model.hidden_states(**{key: _as(torch.from_numpy(a), model) for key, a in batch.items()})
                results.append([state.double().numpy() for state in (*states, model.lm_head(states[-1]))])
        return [np.stack(pair) for pair in zip(*results)]

    def _batch(self, name: str) -> Batch:
        if name == "padded batch":
            return self.golden.batch()
        if name == "two images":
            return self.golden.two_images()
        return {"input_ids": self.golden["text.input_ids" if name == "text" else f"ntk{name}.input_ids"]}

    def greedy(self, half: bool = False) -> float:
        """Of the logits before each golden token and after the last."""
        found, wanted = (self._greedy(model) for model in self._pair(half, whole=True))
        return error(found, wanted)

    def _greedy(self, model) -> np.ndarray:
        batch, tokens = self.golden.batch(), self.golden["greedy.tokens"]
        ids = torch.from_numpy(self.golden["greedy.input_ids"])
        length, end = ids.shape[1], ids.shape[1] + len(tokens)
        segments, alpha = torch.zeros(1, end, dtype=torch.int64), model.config.ntk_alpha(length)
        segments[:, :length] = 1
        images, places = torch.from_numpy(batch["images"][:1]), torch.from_numpy(batch["image_context_pos"][:1])
        with torch.no_grad():
            kept = model.new_cache(1, end)
            hidden = model.transformer.embed(ids, _as(images, model), places)
            logits = [model.step(hidden, segments, torch.arange(length), alpha, kept)]
            for column, token in enumerate(tokens, start=length):
                segments[:, column] = 1
                hidden = model.transformer.wte(torch.tensor([[int(token)]]))
                logits.append(model.step(hidden, segments, torch.tensor([column]), alpha, kept))
        return torch.cat(logits).double().numpy()

    def gradients(self, half: bool = False, whole: bool = False) -> tuple[float, dict[str, float], float]:
        """Of the loss, of each parameter's gradient, and of all of them as one vector."""
        (losses, found), (exact, wanted) = (self._backward(model) for model in self._pair(half, whole))
        each = {name: error(found[name], wanted[name]) for name in wanted}
        vectors = (np.concatenate([g[name].ravel() for name in wanted]) for g in (found, wanted))
        return _floor_of_mean(losses, exact), each, error(*vectors)

    def _backward(self, model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The loss of every label, and the gradients of their mean."""
        scale = LOSS_SCALE if model.lm_head.weight.dtype == torch.float16 else 1.0
        model.train().zero_grad()
        batch = {key: _as(torch.from_numpy(array), model) for key, array in self.golden.batch().items()}
        labels = torch.from_numpy(self.golden["train.labels"]).long()
        logits = model(**batch)
        (model.loss(logits, labels) * scale).backward()
        targets = labels[:, 1:].flatten()
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), targets, ignore_index=-100, reduction="none")
        gradients = {name: p.grad.double().numpy() / scale for name, p in model.named_parameters()}
        model.eval().zero_grad()
        return losses.detach().numpy()[targets.numpy() != -100], gradients

    def steps(self) -> np.ndarray:
        """Of the loss before each of five steps of AdamW: the largest of some reruns."""
        wanted = self._train(self._models["fp32"])
        reruns = [self._train(moved(self._models["fp32"], seed)) for seed in range(RERUNS)]
        return np.max([np.abs(losses - wanted) / np.abs(wanted) for losses in reruns], 0)

    def _train(self, model) -> np.ndarray:
        batch = {key: torch.from_numpy(array) for key, array in self.golden.batch().items()}
        return np.array(five_losses(deepcopy(model), batch, torch.from_numpy(self.golden["train.labels"])))


def five_losses(model, batch: Mapping[str, torch.Tensor], labels: torch.Tensor) -> list[float]:
    """The losses before each of five steps of AdamW in stage 3, gradients clipped to norm 1. Changes the model."""
    model.train().freeze(STAGE_3)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def moved(model, seed: int):
    """A copy whose weights are each 1e-7 larger or smaller, relative to themselves."""
    generator, copied = torch.Generator().manual_seed(seed), deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + MOVED * signs)
    return copied


def floor_of(pair: np.ndarray, where=...) -> float:
    """The error between the two of a pair, at the places that a row compares."""
    found, wanted = pair
    return error(found[where], wanted[where])


def worst_position(pair: np.ndarray, first: int, last: int) -> float:
    """The largest error of a single position from ``first`` to before ``last`` of a row: [2, T, vocabulary].

    That of one position is a draw: another rounding strikes another one.
    """
    return max(floor_of(pair, position) for position in range(first, last))


def _floor_of_mean(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of a mean of N numbers: what it moved by, or twice the standard error, since one draw may cancel out."""
    moved_by, spread = abs(found.mean() - wanted.mean()), np.sqrt(np.square(found - wanted).mean() / len(wanted))
    return float(max(moved_by, 2 * spread) / abs(wanted.mean()))


def _as(tensor: torch.Tensor, model) -> torch.Tensor:
    """Pixels in the model's dtype; integers as they are."""
    return tensor.to(model.lm_head.weight.dtype) if tensor.is_floating_point() else tensor

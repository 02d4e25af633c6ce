"""torch_ref as the parity suite drives it, what rounding alone does, and five steps of AdamW. Numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from floors import RERUNS, moved
from ovis_vectors import MEDIA, Batch, OvisVectors
from stages import LOSS_SCALE, error

from ms_impl.ovis2_5.config import INDICATORS
from ms_impl.ovis2_5.train_modules import TrainModule, parse_train_modules, trained
from torch_ref.ovis2_5.model import Ovis2_5

Stages = Mapping[str, np.ndarray]


class Reference:
    """A torch_ref model."""

    def __init__(self, model: Ovis2_5):
        self.model = model

    def tensors(self, batch: Batch, without: Iterable[str] = ()) -> dict[str, torch.Tensor]:
        """Floats in the model's dtype."""
        dtype = self.model.vte.weight.dtype
        found = {name: torch.from_numpy(array) for name, array in batch.items() if name not in without}
        return {name: array.to(dtype) if array.is_floating_point() else array for name, array in found.items()}

    @torch.no_grad()
    def logits(self, batch: Batch) -> Stages:
        """Embeddings [B, T, D] and logits [B, T, vocab]."""
        given = self.tensors(batch, without=("labels",))
        embeds = self.model.llm.model.embed(given["input_ids"], self.model.media(*(given[name] for name in MEDIA)))
        return {"embeddings": embeds.double().numpy(), "logits": self.model(**given).double().numpy()}

    @torch.no_grad()
    def tower(self, batch: Batch, full_layers: Iterable[int] | None = None) -> Stages:
        """What becomes of rows of patches, stage by stage."""
        given = self.tensors(batch)
        patches, segments, places, taps = (given[name] for name in MEDIA[:4])
        tokenizer, vision = self.model.visual_tokenizer, self.model.visual_tokenizer.vit.vision_model
        own, vision.encoder.full_layers = vision.encoder.full_layers, full_layers or vision.encoder.full_layers
        states = vision.hidden_states(patches, segments, places, taps)
        vision.encoder.full_layers = own
        scores = tokenizer.head(states[-1].reshape(*patches.shape[:1], -1, tokenizer.unit * states[-1].shape[-1]))
        stages = {
            "positions": vision.embeddings.positions(taps), "patch embeddings": states[0],
            **{f"layer {number}": state for number, state in enumerate(states[1:])},
            "shares": scores.float().softmax(-1) if scores.dtype != torch.float64 else scores.softmax(-1),
            "visual tokens": self.model.vte.mix(scores),
        }  # fmt: skip
        return {name: state.double().numpy() for name, state in stages.items()}

    def gradients(self, batch: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The loss of every label, and of their mean the gradient of every parameter that has one."""
        model, scale = self.model, LOSS_SCALE if self.model.vte.weight.dtype == torch.float16 else 1.0
        model.train().zero_grad()
        given = self.tensors(batch)
        labels = given.pop("labels").long()
        logits = model(**given)
        (model.loss(logits, labels) * scale).backward()
        targets = labels[:, 1:].flatten()
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), targets, ignore_index=-100, reduction="none")
        found = {name: p.grad.double().numpy() / scale for name, p in model.named_parameters() if p.grad is not None}
        model.eval().zero_grad()
        return losses.detach().numpy()[targets.numpy() != -100], found

    def five_steps(self, batch: Batch, modules: list[TrainModule]) -> tuple[list[float], list[float], "Ovis2_5"]:
        """Losses and gradient norms before each of five steps of AdamW, gradients clipped to norm 1, and the model."""
        model = deepcopy(self.model).train()
        owners = trained(modules, dict(model.named_parameters()))
        groups = [
            {"params": [p], "lr": owners[name].learning_rate or 1e-3}
            for name, p in model.named_parameters()
            if name in owners
        ]
        parameters = [group["params"][0] for group in groups]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in owners)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        losses, norms = [], []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**self.tensors(batch))
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
            optimizer.step()
            losses.append(loss.item())
        return losses, norms, model

    @torch.no_grad()
    def greedy(self, batch: Batch, tokens: np.ndarray) -> np.ndarray:
        """Logits before each of ``tokens`` and after the last, with the cache: [N + 1, vocab]."""
        given, decoder, logits = self.tensors(batch), self.model.llm.model, []
        length, end = batch["input_ids"].shape[1], batch["input_ids"].shape[1] + len(tokens)
        cache, segments = decoder.new_cache(1, end), torch.ones(1, end, dtype=torch.int64)
        hidden = decoder.embed(given["input_ids"], self.model.media(*(given[name] for name in MEDIA)))
        for start, stop in ((0, length), *((i, i + 1) for i in range(length, end))):
            if start:
                hidden = decoder.embed(torch.tensor([[int(tokens[start - length])]]))
            where = torch.arange(start, stop)
            states = decoder.step(hidden, segments, where, where[None], cache)
            logits.append(self.model.llm.logits(states[:, -1]))
        return torch.cat(logits).double().numpy()


class OvisFloors:
    """What rounding alone does: see ``floors``. ``half``: of an fp16 row; ``whole``: against golden."""

    def __init__(self, golden: OvisVectors, reference: Ovis2_5, rounded: Ovis2_5):
        self.golden = golden
        models = {
            "fp32": reference, "fp64": deepcopy(reference).double(), "fp16": deepcopy(rounded).half(),
            "rounded": rounded,
        }  # fmt: skip
        self._models = {name: Reference(model) for name, model in models.items()}
        for name in ("logits", "tower", "gradients", "text_alone", "steps", "greedy"):
            setattr(self, name, cache(getattr(self, name)))

    def _pair(self, half: bool, whole: bool) -> tuple[Reference, Reference]:
        """The model that rounds, and the one it is held against."""
        if not half:
            return self._models["fp32"], self._models["fp64"]
        return self._models["fp16"], self._models["fp32" if whole else "rounded"]

    def logits(self, case: str, half: bool = False, whole: bool = False) -> dict[str, float]:
        """Of embeddings and logits at a case's real columns."""
        batch = self.golden.batch() if case == "batch" else self.golden.case(case)
        real = batch["segment_ids"] > 0
        found, wanted = (model.logits(batch) for model in self._pair(half, whole))
        return {stage: error(found[stage][real], wanted[stage][real]) for stage in wanted}

    def tower(self, case: str, half: bool = False, whole: bool = False) -> dict[str, float]:
        """Of every stage of the tower."""
        batch, where, full = self.golden.tower_case(case)
        pair = [model.tower(batch, full) for model in self._pair(half, whole)]
        found, wanted = ({s: self.golden.of_patches(a, batch, where) for s, a in stages.items()} for stages in pair)
        return {stage: error(found[stage], wanted[stage]) for stage in wanted}

    def gradients(self, half: bool = False, whole: bool = False) -> tuple[float, dict[str, float], float]:
        """Of the loss, of each parameter's gradient, and of all of them as one vector."""
        pair = [model.gradients(self.golden.batch()) for model in self._pair(half, whole)]
        (losses, found), (exact, wanted) = pair
        each = {name: error(found[name], wanted[name]) for name in wanted}
        vectors = (np.concatenate([g[name].ravel() for name in wanted]) for g in (found, wanted))
        moved_by, spread = abs(losses.mean() - exact.mean()), np.sqrt(np.square(losses - exact).mean() / len(exact))
        return float(max(moved_by, 2 * spread) / abs(exact.mean())), each, error(*vectors)

    def text_alone(self) -> dict[str, float]:
        """Of each parameter's gradient where there is no visual; of those that are 0 nothing."""
        found, wanted = (model.gradients(self.golden.text_alone())[1] for model in self._pair(False, False))
        return {name: error(found[name], wanted[name]) for name in wanted if wanted[name].any()}

    def steps(self, words: str) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Of losses and norms before each of five steps of AdamW, and of the parameters after them.

        The largest of some reruns, whose weights are moved by 1e-7.
        """
        modules, batch = parse_train_modules(words, self.golden.config), self.golden.batch()
        moves = [moved(self._models["fp32"].model, seed) for seed in range(RERUNS)]
        wanted = self._models["fp32"].five_steps(batch, modules)
        runs = [Reference(model).five_steps(batch, modules) for model in moves]
        numbers = [np.max([_relative(run[i], wanted[i]) for run in runs], 0) for i in (0, 1)]
        exact = parameters_of(wanted[2])
        after = [{name: error(a, exact[name]) for name, a in parameters_of(run[2]).items()} for run in runs]
        return *numbers, {name: max(each[name] for each in after) for name in exact}

    def greedy(self, half: bool = False) -> float:
        """Of the logits before each golden token and after the last."""
        case = self.golden.greedy_case()
        found, wanted = (model.greedy(*case) for model in self._pair(half, whole=True))
        return error(found, wanted)


def parameters_of(model: Ovis2_5) -> dict[str, np.ndarray]:
    """Parameters by name, and the indicators' rows of the visual table."""
    found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return {**found, "vte_indicators": found["vte.weight"][-INDICATORS:]}


def _relative(found: list[float], wanted: list[float]) -> np.ndarray:
    return np.abs(np.array(found) - np.array(wanted)) / np.abs(np.array(wanted))

"""The reference: transformers' own thinker (pinned) on a folder of golden vectors, numpy out.

``floor`` of a row is the error between the reference in fp32 and in fp64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from omni_vectors import OmniVectors
from torch import nn
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as original

UNTRAINED = "audio_tower.audio_bos_eos_token.weight"  # no computation uses it: it has no gradient
# Frozen and trained prefixes as fine-tuners combine them; the aligner is the end of each tower.
TOWERS, ALIGNER = ("audio_tower.", "visual."), ("audio_tower.proj.", "visual.merger.")
VARIANTS = {
    "towers_and_aligner_frozen": ("vision_tower", "aligner"),
    "towers_frozen": ("vision_tower",),
    "all_trained": (),
}


class PreciseNorm(nn.Module):
    """RMSNorm in the dtype of its input, where the original always computes in fp32."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def precise(model: nn.Module) -> nn.Module:
    """A copy in fp64."""
    copied = deepcopy(model).double()
    norms = [(name, module) for name, module in copied.named_modules() if type(module).__name__ == "Qwen2RMSNorm"]
    norms += [(name, module) for name, module in copied.named_modules() if hasattr(module, "variance_epsilon")]
    for name, norm in dict(norms).items():
        owner, _, attribute = name.rpartition(".")
        setattr(copied.get_submodule(owner), attribute, PreciseNorm(norm))
    return copied


@contextmanager
def precise_rotation() -> Iterator[None]:
    """The original's rotation of the vision tower casts to fp32; here it does not."""
    kept = original.apply_rotary_pos_emb_vision

    def rotate(x, turns):
        cos, sin = (turn.double().unsqueeze(1).repeat(1, 1, 2).unsqueeze(0) for turn in (turns.cos(), turns.sin()))
        return x * cos + original.rotate_half(x) * sin

    original.apply_rotary_pos_emb_vision = rotate
    try:
        yield
    finally:
        original.apply_rotary_pos_emb_vision = kept


class Reference:
    """``model`` computes; inputs come from the golden cases as the original's processor would hand them over."""

    def __init__(self, vectors: OmniVectors, model: nn.Module | None = None):
        self.vectors = vectors
        self.model = model or original.Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            vectors.folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.model.eval()
        for name in ("logits", "gradients", "five_losses"):  # several tests ask for the same
            setattr(self, name, cache(getattr(self, name)))

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def exact(self) -> ExactReference:
        """The same in fp64, all but the tables of angles."""
        return ExactReference(self.vectors, precise(self.model))

    def rounded(self, dtype: torch.dtype = torch.float32) -> Reference:
        """The same on weights rounded to fp16, computing in ``dtype``."""
        return Reference(self.vectors, deepcopy(self.model).half().to(dtype))

    def media(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, grids, mel frames and their mask of a case, in the model's dtype."""
        given: dict[str, Any] = {}
        for kind, pixels, grid in (
            ("images", "pixel_values", "image_grid_thw"),
            ("videos", "pixel_values_videos", "video_grid_thw"),
        ):
            if names := told[kind]:
                parts = [self.vectors[f"media.{name}.pixels"] for name in names]
                given[pixels] = torch.from_numpy(np.concatenate(parts)).to(self.dtype)
                given[grid] = torch.tensor([self.vectors.told["media"][name]["grid_thw"] for name in names])
        if names := told["audios"]:
            given |= self._sounds([self.vectors.mel(name) for name in names])
        return given

    def _sounds(self, mels: list[np.ndarray]) -> dict[str, torch.Tensor]:
        longest = max(mel.shape[1] for mel in mels)
        features = np.stack([np.pad(mel, ((0, 0), (0, longest - mel.shape[1]))) for mel in mels])
        mask = np.stack([np.arange(longest) < mel.shape[1] for mel in mels]).astype(np.int64)
        return {
            "input_features": torch.from_numpy(features).to(self.dtype),
            "feature_attention_mask": torch.from_numpy(mask),
        }

    def inputs(self, case: str, **changes: Any) -> dict[str, Any]:
        """All that the original takes for ``logits.CASE``, ``packing.CASE`` or ``train``; it finds positions itself."""
        kind, _, name = case.partition(".")
        told = {**(self.vectors.told[kind][name] if name else self.vectors.told[kind]), **changes}
        given = self.media(told)
        given["input_ids"] = torch.from_numpy(self.vectors[f"{case}.input_ids"]).long()
        if kind == "packing":  # the mask is made from the text positions; given one, the original leaks
            given["position_ids"] = torch.from_numpy(self.vectors[f"{case}.position_ids"]).long()
            return given | {"use_cache": False}
        given["attention_mask"] = torch.from_numpy(self.vectors[f"{case}.attention_mask"]).long()
        given["use_audio_in_video"] = told["use_audio_in_video"]
        if told["second_per_grid"]:
            given["video_second_per_grid"] = torch.tensor(told["second_per_grid"])
        return given

    def positions(self, case: str, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
        """[3, B, T] and the deltas [B, 1], by the original's own rule."""
        given = self.inputs(case, **changes)
        mask = given.get("feature_attention_mask")
        positions, deltas = self.model.get_rope_index(
            given["input_ids"], given.get("image_grid_thw"), given.get("video_grid_thw"), given["attention_mask"],
            given["use_audio_in_video"], None if mask is None else mask.sum(1), given.get("video_second_per_grid"),
        )  # fmt: skip
        return positions.numpy(), deltas.numpy()

    def logits(self, case: str) -> np.ndarray:
        """[B, T, vocab]"""
        self.model.rope_deltas = None
        with torch.no_grad():
            return self.model(**self.inputs(case)).logits.numpy()

    def vision(self, names: list[str]) -> np.ndarray:
        given = self.media({"images": names, "videos": [], "audios": []})
        with torch.no_grad():
            return self.model.visual(given["pixel_values"], grid_thw=given["image_grid_thw"]).numpy()

    def audio(self, mels: list[np.ndarray]) -> np.ndarray:
        given = self._sounds(mels)
        with torch.no_grad():
            return self.model.get_audio_features(**given).numpy()

    def greedy(self, case: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens [B, count] and the raw logits [count, B, vocab] that they were taken from."""
        self.model.rope_deltas = None
        made = self.model.generate(
            **self.inputs(case), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            eos_token_id=None, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        return made.sequences[:, -count:].numpy(), torch.stack(made.logits).numpy()

    def labels(self) -> torch.Tensor:
        return torch.from_numpy(self.vectors["train.labels"]).long()

    def gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of the training case and the gradient of every parameter that has one."""
        self.model.train().zero_grad()
        self.model.rope_deltas = None
        loss = self.model(**self.inputs("train"), labels=self.labels()).loss
        loss.backward()
        found = {n: p.grad.numpy().copy() for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.eval().zero_grad()
        return float(loss.detach()), found

    def trained_numbers(self, variant: str) -> int:
        """How many numbers are trained, with those that no computation uses."""
        named = self.model.named_parameters()
        return sum(p.numel() for name, p in named if trained(name, VARIANTS[variant]))

    def five_losses(self, variant: str) -> tuple[list[float], list[float]]:
        """Before each of five steps of AdamW on a copy: the losses, and the norms of all gradients before clipping."""
        model = deepcopy(self.model).train()
        parameters = [p for name, p in model.named_parameters() if trained(name, VARIANTS[variant])]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        losses, norms = [], []
        for _ in range(5):
            optimizer.zero_grad()
            model.rope_deltas = None
            loss = model(**self.inputs("train"), labels=self.labels()).loss
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(parameters, 1.0)))
            optimizer.step()
            losses.append(loss.item())
        return losses, norms


class ExactReference(Reference):
    """The reference in fp64, all but the tables of angles."""

    def logits(self, case: str) -> np.ndarray:
        """In fp64 the original's mask makes columns that are padding on the left NaN: rows are padded on the right."""
        with precise_rotation():
            found = super().logits(case)
        return np.stack([np.roll(row, shift, 0) for row, shift in zip(found, self._paddings(case))])

    def inputs(self, case: str, **changes: Any) -> dict[str, Any]:
        given = super().inputs(case, **changes)
        for name in ("input_ids", "attention_mask", "labels"):
            if name in given:
                rows = zip(given[name], self._paddings(case))
                given[name] = torch.stack([row.roll(-shift) for row, shift in rows])
        return given

    def _paddings(self, case: str) -> np.ndarray:
        """How many columns on the left of each row are padding."""
        rows = len(self.vectors[f"{case}.input_ids"])
        mask = self.vectors.cases.get(f"{case}.attention_mask")
        return np.zeros(rows, int) if mask is None else mask.argmax(1)

    def vision(self, names: list[str]) -> np.ndarray:
        with precise_rotation():
            return super().vision(names)

    def gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        with precise_rotation():
            return super().gradients()


def trained(name: str, frozen: tuple[str, ...]) -> bool:
    """Whether a parameter is trained where these module groups are frozen."""
    group = "aligner" if name.startswith(ALIGNER) else "vision_tower" if name.startswith(TOWERS) else "language_model"
    return group not in frozen

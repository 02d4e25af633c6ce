"""What rounding alone does on the golden vectors of the thinker, beside each row of the parity table.

============  ===============================================================================================
rows          floor: error between
============  ===============================================================================================
fp32          transformers in fp32 and in fp64 (all but the tables of angles)
fp16          transformers in fp16 and in fp32, on weights rounded to fp16; against golden the whole weights
after steps   runs of transformers whose weights begin 1e-7 (relative) apart
============  ===============================================================================================
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from floors import moved
from omni_reference import Reference
from omni_vectors import OmniVectors
from stages import error


class OmniFloors:
    """Measured when first asked for."""

    def __init__(self, vectors: OmniVectors, reference: Reference):
        self.vectors, self.reference = vectors, reference
        self.exact = reference.exact()
        self.rounded = reference.rounded(torch.float16)
        self.moved = Reference(vectors, moved(reference.model, 0))
        for name in ("vision", "audio", "gradients"):
            setattr(self, name, cache(getattr(self, name)))

    def logits(self, case: str, half: bool = False) -> list[float]:
        """Of each row of a case at its real columns."""
        if half:
            found, wanted = self.rounded.logits(case), self.reference.logits(case)
        else:
            found, wanted = self.reference.logits(case), self.exact.logits(case)
        rows = enumerate(self.vectors.case_rows(case))
        return [error(found[i][row.real], wanted[i][row.real]) for i, row in rows]

    def vision(self, *names: str) -> float:
        return error(self.reference.vision(list(names)), self.exact.vision(list(names)))

    def audio(self, *keys: str) -> float:
        mels = [self.vectors[key] for key in keys]
        return error(self.reference.audio(mels), self.exact.audio(mels))

    def gradients(self) -> tuple[float, dict[str, float]]:
        """Of the loss and of each parameter's gradient."""
        (loss, found), (exact, wanted) = self.reference.gradients(), self.exact.gradients()
        return abs(loss - exact) / abs(exact), {name: error(found[name], wanted[name]) for name in wanted}

    def steps(self, variant: str) -> np.ndarray:
        """Of the loss before each of five steps of AdamW."""
        return self._moved_by(variant)[0]

    def norm(self, variant: str) -> float:
        """Of the norm of all gradients before the first step."""
        return float(self._moved_by(variant)[1][0])

    def _moved_by(self, variant: str) -> list[np.ndarray]:
        """Losses and norms of runs whose weights begin 1e-7 apart, relative."""
        others = self.moved.five_losses(variant)
        pairs = zip(others, self.reference.five_losses(variant))
        return [np.abs(np.subtract(found, wanted)) / np.abs(wanted) for found, wanted in pairs]

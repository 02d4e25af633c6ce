"""What is asked in an evaluation, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataSet:
    """A file of records and how it is put to a model.

    Args:
        name: that of its results.
        metric: one of ``ms_impl.evaluate.metrics.METRICS``.
        batch_size: questions asked at a time.
        max_new_tokens: where an answer is cut off; None: as the generation settings say.
        num_samples: ask the first so many; None: all.
        options: of the model's template, such as ``dataset_dir``, which stands before relative paths.
        generation: settings of its answers that differ from those of the model.
    """

    name: str
    annotation_file: Path
    metric: str
    batch_size: int
    max_new_tokens: int | None
    num_samples: int | None
    options: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)

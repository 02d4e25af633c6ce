"""What is asked in an evaluation, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ms_impl.data.conversations import ConversationFormat


@dataclass(frozen=True)
class DataSet:
    """A file of records and how it is put to a model.

    Args:
        name: that of its results.
        metric: one of ``ms_impl.evaluate.metrics.METRICS``.
        dataset_dir: stands before relative image paths.
        batch_size: questions asked at a time.
        max_new_tokens: where an answer is cut off; None: as the generation settings say.
        num_samples: ask the first so many; None: all.
    """

    name: str
    annotation_file: Path
    metric: str
    dataset_dir: str
    batch_size: int
    max_new_tokens: int | None
    num_samples: int | None
    style: ConversationFormat

"""The samples of a training run: how long each is, known beforehand, and what each holds, encoded when asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from ms_impl.data.batch import largest_of
from ms_impl.data.encoded_records import joined
from ms_impl.data.files import Mixture
from ms_impl.data.indexed_reading import known_entries
from ms_impl.data.sample import Outline, Sample
from ms_impl.data.sample_reader import read_sample, record_faults, require_answers
from ms_impl.data.template import Template
from ms_impl.errors import InputError

logger = logging.getLogger(__name__)


class EncodedDataset:
    """The conversations of a mixture of files as samples, each encoded anew whenever it is asked for.

    What each needs of a row, ``needs`` int [n, k], and ``digests``, uint8 [n, 16], are known from one pass over all of
    them, by this run or an earlier one (see ``ms_impl.data.indexed_reading``), which also finds every fault. What stays
    in memory is a few bytes a conversation.

    Args:
        mixture: the files.
        template: makes the sample of a conversation.
        show_progress: draw a progress bar for the pass, on a terminal.

    Raises InputError for the first record that has a fault, and if no token of an answer is left in any.
    """

    def __init__(self, mixture: Mixture, template: Template, show_progress: bool = False):
        self.mixture = mixture
        self.template = template
        files = {file.label: file for file in mixture.files}  # one may be named twice
        known = {label: known_entries(file, template, show_progress) for label, file in files.items()}
        entries = joined([known[file.label] for file in mixture.files])
        unanswered = np.flatnonzero(entries.answers == 0)
        require_answers(len(mixture) - len(unanswered), len(mixture), template.max_length, entries.counts())
        self.digests = entries.digests
        self.sizes, self.needs = needs_of(template, list(entries.outlines([kind.name for kind in template.kinds])))
        self._warn(entries.counts(), unanswered)

    @property
    def need_names(self) -> tuple[str, ...]:
        """What ``needs`` are called."""
        return self.template.needs

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, index: int) -> Sample:
        with record_faults(self.mixture.name(index)):
            return read_sample(self.template, self.mixture[index])[0]

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The samples of an epoch by index: see ``Mixture.epoch``."""
        return self.mixture.epoch(number, seed)

    def record(self, index: int) -> str:
        """How errors name a record, its id included."""
        try:
            return self.mixture[index].record
        except InputError:  # the file was changed meanwhile: its id cannot be read any more
            return self.mixture.name(index)

    def _warn(self, counts: Mapping[str, tuple[int, int]], unanswered: np.ndarray) -> None:
        """Log what was changed in the conversations: how many of each kind, and the first."""
        for kind, (count, first) in counts.items():
            logger.warning("%d conversations: %s; the first is %s", count, kind, self.record(first))
        if len(unanswered):
            left = f"no token of an answer left within {self.template.max_length}"
            name = self.record(int(unanswered[0]))
            logger.warning("%d conversations: %s; the first is %s", len(unanswered), left, name)


def needs_of(template: Template, outlines: Sequence[Outline]) -> tuple[dict[str, int], np.ndarray]:
    """The sizes of a run that are not needs, and the needs, int [n, k], of each sample."""
    sizes = {**template.fixed_sizes, **largest_of(template, outlines)}
    needs = [template.need(outline, sizes) for outline in outlines]
    table = np.array([[need[name] for name in template.needs] for need in needs], np.int64)
    return sizes, table.reshape(len(outlines), len(template.needs))

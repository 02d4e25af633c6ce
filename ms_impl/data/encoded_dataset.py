"""The samples of a training run: how long each is, known beforehand, and what each holds, encoded when asked for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_impl.data.batch import largest_of
from ms_impl.data.files import Mixture
from ms_impl.data.sample import Outline, Sample
from ms_impl.data.sample_reader import read_sample, record_faults, require_answers
from ms_impl.data.template import Template
from ms_impl.errors import InputError

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16


class EncodedDataset:
    """The conversations of a mixture of files as samples, each encoded anew whenever it is asked for.

    One pass over all of them finds what each needs of a row, ``needs`` int [n, k], ``digests`` (of ids, labels and
    where media stand), uint8 [n, 16], and every fault. What stays in memory is a few bytes a conversation.

    Args:
        mixture: the files.
        template: makes the sample of a conversation.
        show_progress: draw a progress bar for the pass, on a terminal.

    Raises InputError for the first record that has a fault, and if no token of an answer is left in any.
    """

    def __init__(self, mixture: Mixture, template: Template, show_progress: bool = False):
        self.mixture = mixture
        self.template = template
        self.digests = np.zeros((len(mixture), _DIGEST_BYTES), np.uint8)
        outlines, unanswered = [], []
        hidden = None if show_progress else True  # None: unless it is a terminal
        for index in tqdm(range(len(mixture)), "reading conversations", disable=hidden, delay=2):
            sample = self[index]
            outlines.append(sample.outline)
            self.digests[index] = _digest(sample)
            if not sample.answer_tokens:
                unanswered.append(sample.record)
        require_answers(len(mixture) - len(unanswered), len(mixture), template.max_length)
        self.sizes, self.needs = needs_of(template, outlines)
        self._warn(unanswered)

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

    def _warn(self, unanswered: list[str]) -> None:
        """Log what was changed in the conversations: how many of each kind, and the first."""
        for kind, count in self.template.counts.items():
            logger.warning("%d conversations: %s; the first is %s", count, kind, self.template.examples[kind])
        if unanswered:
            left = f"no token of an answer left within {self.template.max_length}"
            logger.warning("%d conversations: %s; the first is %s", len(unanswered), left, unanswered[0])


def needs_of(template: Template, outlines: Sequence[Outline]) -> tuple[dict[str, int], np.ndarray]:
    """The sizes of a run that are not needs, and the needs, int [n, k], of each sample."""
    sizes = {**template.fixed_sizes, **largest_of(template, outlines)}
    needs = [template.need(outline, sizes) for outline in outlines]
    table = np.array([[need[name] for name in template.needs] for need in needs], np.int64)
    return sizes, table.reshape(len(outlines), len(template.needs))


def _digest(sample: Sample) -> np.ndarray:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for values in _digested(sample):
        array = np.ascontiguousarray(values, np.int32)
        digest.update(len(array).to_bytes(8, "little") + array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _digested(sample: Sample) -> Iterator[Any]:
    """All that decides what a sample trains, pixels apart. What is usual is left out: digests stay as they were."""
    yield sample.input_ids
    yield sample.labels
    yield [medium.columns[0] for medium in sample.media]
    if sample.position_ids.ndim > 1:
        yield sample.position_ids.ravel()
    if sample.loss_scale is not None:
        yield sample.loss_scale.view(np.int32)
    if any(medium.geometry for medium in sample.media):
        yield from (medium.geometry for medium in sample.media)

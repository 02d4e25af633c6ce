"""The samples of a training run: how long each is, known beforehand, and what each holds, encoded when asked for."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
from tqdm import tqdm

from ms_impl.data.batch import Sample
from ms_impl.data.files import Mixture
from ms_impl.data.sample_reader import SampleReader, record_faults, require_answers
from ms_impl.errors import InputError

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16


class EncodedDataset:
    """The conversations of a mixture of files as samples, each encoded anew whenever it is asked for.

    One pass over all of them finds ``lengths`` (tokens) and ``images``, int32 [n] each, ``digests`` (of ids, labels and
    where images stand), uint8 [n, 16], and every fault. What stays in memory is a few bytes a conversation.

    Args:
        mixture: the files.
        reader: makes the sample of a conversation.
        show_progress: draw a progress bar for the pass, on a terminal.

    Raises InputError for the first record that has a fault, and if no token of an answer is left in any.
    """

    def __init__(self, mixture: Mixture, reader: SampleReader, show_progress: bool = False):
        self.mixture = mixture
        self._reader = reader
        self.lengths, self.images = (np.zeros(len(mixture), np.int32) for _ in range(2))
        self.digests = np.zeros((len(mixture), _DIGEST_BYTES), np.uint8)
        unanswered = []
        hidden = None if show_progress else True  # None: unless it is a terminal
        for index in tqdm(range(len(mixture)), "reading conversations", disable=hidden, delay=2):
            sample = self[index]
            self.lengths[index], self.images[index] = len(sample["input_ids"]), len(sample["image_paths"])
            self.digests[index] = _digest(sample)
            if not sample["answer_tokens"]:
                unanswered.append(sample["record"])
        require_answers(len(mixture) - len(unanswered), len(mixture), reader.encoder.max_length)
        self._warn(unanswered)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sample:
        with record_faults(self.mixture.name(index)):
            return self._reader.sample(self.mixture[index])

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
        encoder = self._reader.encoder
        for kind, count in encoder.counts.items():
            logger.warning("%d conversations: %s; the first is %s", count, kind, encoder.examples[kind])
        if unanswered:
            left = f"no token of an answer left within {encoder.max_length}"
            logger.warning("%d conversations: %s; the first is %s", len(unanswered), left, unanswered[0])


def _digest(sample: Sample) -> np.ndarray:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for values in (sample["input_ids"], sample["labels"], sample["image_columns"]):
        array = np.ascontiguousarray(values, np.int32)
        digest.update(len(array).to_bytes(8, "little") + array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)

"""The dialogues of a training run: how long each is, known beforehand, and what each holds, encoded when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from ms_impl.data.batch import Sample
from ms_impl.data.conversations import Conversation
from ms_impl.data.files import Mixture
from ms_impl.errors import InputError

logger = logging.getLogger(__name__)


class EncodedDataset:
    """The conversations of a mixture of files as samples, each encoded anew whenever it is asked for.

    One pass over all of them finds ``lengths`` (tokens) and ``images``, int32 [n] each, and every fault. What stays in
    memory is a few bytes a conversation.

    Args:
        mixture: the files.
        encode: the sample of one conversation; raises InputError for one that has a fault.
        show_progress: draw a progress bar for the pass.
    """

    def __init__(self, mixture: Mixture, encode: Callable[[Conversation], Sample], show_progress: bool = False):
        self.mixture = mixture
        self._encode = encode
        self.lengths, self.images = (np.zeros(len(mixture), np.int32) for _ in range(2))
        for index in tqdm(range(len(mixture)), "reading conversations", disable=not show_progress, delay=2):
            sample = self[index]
            self.lengths[index], self.images[index] = len(sample["input_ids"]), len(sample["image_paths"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sample:
        return self._encode(self.mixture[index])

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The dialogues of an epoch: see ``Mixture.epoch``."""
        return self.mixture.epoch(number, seed)

    def record(self, index: int) -> str:
        """How errors name a dialogue, its id included."""
        try:
            return self.mixture[index].record
        except InputError:  # the file was changed meanwhile: its id cannot be read any more
            return self.mixture.name(index)

"""What the shared rooms ask of a family's template: the host's side of a model, in numpy.

A template turns conversations with media into ids, labels, positions, columns and arrays, and answers back into text.
No other part of the house knows a prompt's format, a special token, or how an image becomes an array.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from ms_impl.data.boxes import BoxStyle
from ms_impl.data.dialogue import Dialogue, Turn
from ms_impl.data.records import Conversation
from ms_impl.data.sample import MediaKind, Outline, Placed, Sample, Sizes

Query = str | Sequence[Mapping[str, Any]]  # text, or elements such as {"image": path} and {"text": …}


class TokenPolicy(Protocol):
    """Decides over an answer's tokens before they are sampled.

    ``overrun`` is how many tokens may be forced beyond the answer's length, so that what is forced is whole.
    """

    overrun: int

    def forced(self, generated: Sequence[int]) -> int | None:
        """The token that must follow those generated so far; None: sample it. Forced ones count as generated."""

    def penalised(self, prompt: Sequence[int], generated: Sequence[int]) -> Sequence[int]:
        """The tokens that the repetition penalty covers; without a policy ``[*prompt, *generated]``."""


class Template(Protocol):
    """A family's template. It must be picklable: processes get copies of it.

    ``kinds`` are the features that its model takes, in the order of the model's arguments; ``takes`` the media of a
    question that they come from: of image, video and audio. ``position_axes`` is 1, or the number of rows of its
    positions. ``padding_shifts_positions`` tells whether a row padded on the left counts its positions from the
    padding's first column or from its own. ``needs`` names the sizes that add up over the conversations of a row,
    ``tokens`` first; ``largest_of`` those that are the maximum over a run;
    ``fixed_sizes`` are those that the model's configuration decides. ``capacities`` are needs that an option limits,
    each the size of every row; a need that is not among them is as large as the run asks for.
    ``counts`` says how often a conversation was changed in encoding, by kind, ``examples`` the first of each kind.
    """

    kinds: ClassVar[tuple[MediaKind, ...]]
    takes: ClassVar[tuple[str, ...]]
    kept_options: ClassVar[tuple[str, ...]]  # that a checkpoint keeps, for they decide what its model sees
    position_axes: ClassVar[int]
    padding_shifts_positions: ClassVar[bool]
    needs: ClassVar[tuple[str, ...]]
    largest_of: ClassVar[tuple[str, ...]]
    think_end: ClassVar[str | None]  # what ends the thinking that answers may begin with; None: they have none
    request_options: ClassVar[tuple[str, ...]]  # the options that one request to a server may change
    Options: ClassVar[type]  # a frozen dataclass: what a YAML's template section may say, with its defaults

    options: Any  # of Options
    tokenizer: Any  # pad_id
    config: Any
    boxes: BoxStyle | None  # how its answers write boxes; None: not at all
    max_length: int
    fixed_sizes: Sizes
    capacities: Sizes
    counts: Counter[str]
    examples: dict[str, str]

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, config: Any = None, max_length: int | None = None, **options: Any
    ) -> Template:
        """From the files of a checkpoint directory, or from the vocabulary file where that is one file.

        ``max_length`` None: the most that the model takes. Where there are ``kept_options``, the option ``trained`` is
        a table of those that the checkpoint was trained with: they count where nobody says otherwise. Raises InputError
        for an unknown option or a wrong file.
        """

    def with_options(self, **options: Any) -> Template:
        """A template of the same files with some options changed. Raises InputError for an unknown one."""

    def fingerprint(self) -> str:
        """A digest of all that samples depend on beside records and media: vocabulary, configuration, options."""

    # From a record to arrays.

    def sample(self, conversation: Conversation) -> Sample:
        """The whole sample of a conversation, media probed where its tokens depend on them, and not decoded.

        Raises InputError naming the record.
        """

    def cut(self, sample: Sample, max_length: int) -> Sample:
        """A sample of at most ``max_length`` tokens. Raises InputError where that would cut a medium in two."""

    def find_media(self, sample: Sample) -> Sample:
        """The sample of a record with its media found: each ``source`` can be loaded.

        Raises InputError, naming the record, where one is not there, or there are more than a row has room for.
        """

    def files(self, medium: Placed) -> tuple[str, ...]:
        """The files that a medium is read from, none where it is in memory."""

    def check_medium(self, medium: Placed) -> None:
        """Decode a medium to see that it can be. Raises InputError that does not name the record."""

    def largest(self, outline: Outline) -> Mapping[str, int]:
        """The sizes of ``largest_of`` that this sample asks for; those of an empty sample are the least."""

    def need(self, outline: Outline, sizes: Sizes) -> Mapping[str, int]:
        """The sizes of ``needs`` that this sample takes; ``sizes`` has those of ``largest_of`` for the run, and the
        fixed ones. A row of several takes at most the sum."""

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        """Read the media of one row into its arrays, and their columns, moved by ``offset``, beside them.

        ``out`` has the arrays of all kinds without the batch axis, filled with padding; those of a kind that no row of
        the batch has are not in it. Raises InputError naming the medium's record.
        """

    # A conversation with a model.

    def dialogue(self, conversation: Conversation) -> Dialogue:
        """A record's turns as a chat with the model has them.

        Raises InputError, which need not name the record, for what the model does not take, and unless user and
        assistant take turns.
        """

    def encode_turn(
        self,
        query: Query,
        history: Sequence[Turn] | None,
        system: str | None,
        generation: Any,
        dataset_dir: str | os.PathLike | None = None,
        lenient: bool = False,
    ) -> Sample:
        """The sample of the next turn up to where the answer begins, in the chat format of ``generation``.

        ``dataset_dir`` stands before relative paths where media are probed; sources stay as they are written.
        ``lenient``: what an earlier answer says of media that cannot be shown is text, with a warning.
        """

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        """Token ids of an answer as it follows a turn's prompt."""

    def stop_words(self, chat_format: str) -> list[list[int]]:
        """The token sequences that end an answer."""

    def policy(self, sample: Sample, generation: Any) -> TokenPolicy | None:
        """What decides over the tokens of the answer to ``sample``; None: sampling alone."""

    def query_text(self, query: Query) -> str:
        """A query as histories keep it."""

    def sources_in(self, text: str) -> tuple[str, ...]:
        """The files, or names of media in memory, that a text would have this template read as a query, in order."""

    def draw_boxes(
        self, history: Sequence[Turn], dataset_dir: str | os.PathLike | None = None, font: str | Path | None = None
    ) -> Image.Image | None:
        """The last image of a conversation with the boxes of its last answer; None if there is no such thing."""

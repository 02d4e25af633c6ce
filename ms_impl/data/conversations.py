"""Conversation JSON → training samples with labels, as the official fine-tuning makes them (``finetune.py``).

The file is a list of ``{"id": …, "conversations": [{"from": "user", "value": …}, {"from": "assistant", …}, …]}``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_impl.data.batch import IGNORED, Sample
from ms_impl.data.chatml import ASSISTANT, SYSTEM, SYSTEM_MESSAGE, USER, ChatTokenizer, message_ids, opening_ids
from ms_impl.errors import InputError


@dataclass(frozen=True)
class Turn:
    """One message: who speaks, in the file's own word, and what."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """One record of a file; ``record`` is how errors name it."""

    record: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class ConversationFormat:
    """How a file's records become ChatML.

    ``user_role_name`` and ``assistant_role_name`` are the file's words for the speakers; the model always reads "user"
    and "assistant", as in a chat. ``user_prompt`` and ``assistant_prompt`` stand before each message of theirs.
    """

    system_message: str = SYSTEM_MESSAGE
    user_role_name: str = USER
    assistant_role_name: str = ASSISTANT
    user_prompt: str = ""
    assistant_prompt: str = ""


def parse_record(record: Any, source: str) -> Conversation:
    """One record of a parsed file. ``source`` names it in errors, together with its ``id``."""
    if isinstance(record, dict) and "id" in record:
        source = f"{source} (id {record['id']!r})"
    turns = _field(record, "conversations", list, source)
    if not turns:
        raise InputError(f"{source}: the conversation is empty")
    return Conversation(source, tuple(_turn(turn, f"{source}: turn {index}") for index, turn in enumerate(turns)))


class ConversationEncoder:
    """Conversations to samples of at most ``max_length`` tokens.

    In system and user messages only ``<|im_start|>``, ``<|im_end|>`` and the final newline are trained; in an
    assistant's also the content. A leading turn that is not the user's is left out. One departure from the original:
    in a message only the image, ref, box and quad tags are special, so that a literal ``<|im_end|>`` in the data stays
    text.

    ``counts`` says how often a conversation was changed, by kind, and ``examples`` names the first of each kind.
    """

    def __init__(self, tokenizer: ChatTokenizer, max_length: int, style: ConversationFormat = ConversationFormat()):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.style = style
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._roles = {style.user_role_name: USER, style.assistant_role_name: ASSISTANT}
        self._prompts = {USER: style.user_prompt, ASSISTANT: style.assistant_prompt}
        if len(self._roles) < 2:
            raise InputError(f"user_role_name and assistant_role_name are both {style.user_role_name!r}")

    def encode(self, conversation: Conversation) -> Sample:
        """The sample of one conversation: see ``ms_impl.data.batch`` for its keys.

        Raises InputError naming the record: as ``encode_whole`` and ``cut`` do.
        """
        return self.cut(self.encode_whole(conversation))

    def encode_whole(self, conversation: Conversation) -> Sample:
        """The sample of one conversation at its full length.

        Raises InputError naming the record: an unknown role, roles that do not alternate, no user turn, or a bad image
        tag.
        """
        try:
            ids, labels = self._encode_turns(self._spoken(conversation))
            images = self.tokenizer.find_images(ids)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        return {
            "record": conversation.record,
            "input_ids": np.array(ids, dtype=np.int32),
            "labels": np.array(labels, dtype=np.int32),
            "image_paths": [image.path for image in images],
            "image_columns": [image.column for image in images],
        }

    def cut(self, sample: Sample) -> Sample:
        """The first ``max_length`` tokens of a sample. Raises InputError for an image that would be cut in two."""
        if len(sample["input_ids"]) <= self.max_length:
            return sample
        kept = sum(self._is_kept(sample, image) for image in range(len(sample["image_paths"])))
        self._count(f"cut off at {self.max_length} tokens", sample["record"])
        return {
            "record": sample["record"],
            **{key: sample[key][: self.max_length] for key in ("input_ids", "labels")},
            **{key: sample[key][:kept] for key in ("image_paths", "image_columns")},
        }

    def _spoken(self, conversation: Conversation) -> list[tuple[str, str]]:
        """(ChatML role, content) of the turns to train on, checked to alternate from the user on."""
        turns = [(self._role(turn), turn.text) for turn in conversation.turns]
        if turns and turns[0][0] != USER:
            self._count("leading turn that is not the user's left out", conversation.record)
            turns = turns[1:]
        if not turns:
            raise InputError("the conversation is empty")
        for index, (role, _) in enumerate(turns):
            expected = (USER, ASSISTANT)[index % 2]
            if role != expected:
                raise InputError(f"two turns in a row are the {role}'s; user and assistant must alternate")
        return turns

    def _role(self, turn: Turn) -> str:
        if turn.role not in self._roles:
            known = " and ".join(repr(name) for name in self._roles)
            raise InputError(f"unknown role {turn.role!r}; user_role_name and assistant_role_name are {known}")
        return self._roles[turn.role]

    def _encode_turns(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for role, content in ((SYSTEM, self.style.system_message), *turns):
            message = message_ids(self.tokenizer, role, self._prompts.get(role, "") + content)
            ids += message
            labels += self._labels(role, message)
        return ids, labels

    def _labels(self, role: str, message: list[int]) -> list[int]:
        closing = len(message) - 2  # <|im_end|> and the newline, one token each
        first = len(opening_ids(self.tokenizer, role)) if role == ASSISTANT else closing
        return [message[0], *[IGNORED] * (first - 1), *message[first:]]

    def _is_kept(self, sample: Sample, image: int) -> bool:
        """Whether an image lies within ``max_length``, and not beyond; InputError if it lies across."""
        column = sample["image_columns"][image]
        start, end = column - 1, column + self.tokenizer.num_queries + 1
        if start < self.max_length < end:
            cut = f"image '{sample['image_paths'][image]}' (columns {start} to {end - 1})"
            raise InputError(
                f"{sample['record']}: max_length {self.max_length} cuts {cut}; raise it or shorten the conversation"
            )
        return end <= self.max_length

    def _count(self, kind: str, record: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, record)


def _turn(turn: Any, source: str) -> Turn:
    return Turn(_field(turn, "from", str, source), _field(turn, "value", str, source))


def _field(record: Any, key: str, kind: type, source: str) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{source}: '{key}' is missing")
    if not isinstance(record[key], kind):
        raise InputError(f"{source}: '{key}' must be a {kind.__name__}, not {type(record[key]).__name__}")
    return record[key]

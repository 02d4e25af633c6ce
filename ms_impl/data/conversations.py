"""Conversations → training samples with labels, as the official fine-tuning makes them (``finetune.py``)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.data.batch import IGNORED, Sample
from ms_impl.data.chatml import ASSISTANT, SYSTEM, SYSTEM_MESSAGE, USER, ChatTokenizer, message_ids, opening_ids
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, Medium, require_kinds
from ms_impl.data.records import Conversation
from ms_impl.data.tags import image_tag, shorten, split_tags
from ms_impl.errors import InputError, quote

_NUMBER = re.compile(r"-?\d+")
_MOST = 999  # of a coordinate


@dataclass(frozen=True)
class ConversationFormat:
    """How a file's records become ChatML.

    ``user_role_name`` and ``assistant_role_name`` are the file's words for the speakers; the model always reads "user"
    and "assistant", as in a chat. Where both are left as they are, LLaVA's "human" and "gpt" are known, too.
    ``user_prompt`` and ``assistant_prompt`` stand before each message of theirs. ``system_message`` is that of records
    which have none of their own.
    """

    system_message: str = SYSTEM_MESSAGE
    user_role_name: str = USER
    assistant_role_name: str = ASSISTANT
    user_prompt: str = ""
    assistant_prompt: str = ""

    def roles(self, standard: bool = False) -> dict[str, str]:
        """ChatML's role by the word of a record; ``standard``: of one whose roles are user and assistant anyway."""
        names = self.user_role_name, self.assistant_role_name
        if names[0] == names[1]:
            raise InputError(f"user_role_name and assistant_role_name are both {names[0]!r}")
        if standard or names == (USER, ASSISTANT):
            return {USER: USER, ASSISTANT: ASSISTANT, "human": USER, "gpt": ASSISTANT}
        return {names[0]: USER, names[1]: ASSISTANT}


@dataclass(frozen=True)
class Message:
    """One turn as the model reads it: ChatML's role, and ``text`` behind the role's ``prompt``, images inline."""

    role: str
    text: str
    prompt: str = ""
    trained: bool = False

    @property
    def content(self) -> str:
        return self.prompt + self.text


def messages(conversation: Conversation, style: ConversationFormat) -> tuple[str, list[Message]]:
    """The system message and the turns of a conversation as the model reads them.

    This is how training, its check, evaluation and conversion read roles and images. Raises InputError for an unknown
    role, and for ``"loss": true`` in a turn that is not the assistant's.
    """
    roles = style.roles(conversation.standard_roles)
    prompts = {USER: style.user_prompt, ASSISTANT: style.assistant_prompt}
    system = style.system_message if conversation.system is None else conversation.system
    whole = [system, *(turn.text for turn in conversation.turns)]
    _require_known(conversation, whole)
    system, *texts = _with_images(whole, conversation.media)
    result = []
    for number, (turn, text) in enumerate(zip(conversation.turns, texts)):
        if turn.role not in roles:
            known = " and ".join(repr(name) for name in list(roles)[:2])
            raise InputError(f"unknown role {shorten(turn.role)!r}; user_role_name and assistant_role_name are {known}")
        role = roles[turn.role]
        if turn.trained and role != ASSISTANT:
            raise InputError(f"turn {number}: 'loss' is true, but only an assistant's turns are trained")
        result.append(Message(role, text, prompts[role], role == ASSISTANT and turn.trained is not False))
    return system, result


def _require_known(conversation: Conversation, texts: Sequence[str]) -> None:
    """Raise InputError for what a record may have and this family cannot train on."""
    require_kinds(conversation.media, texts, {IMAGE: ()})
    if conversation.objects:
        raise InputError("'objects' is given, but boxes of this model stand in the text; write them there")
    for number, turn in enumerate(conversation.turns):
        if turn.loss_scale not in (0, 1):
            scale = f"'loss_scale' is {quote(turn.loss_scale)}"
            raise InputError(f"turn {number}: {scale}: only 0 and 1 are supported, or 'loss': false")


def require_alternation(turns: Sequence[Message]) -> None:
    """Raise InputError unless user and assistant take turns, the user first."""
    for number, turn in enumerate(turns):
        if turn.role != (USER, ASSISTANT)[number % 2]:
            raise InputError(
                f"turn {number} is the {turn.role}'s: user and assistant must alternate, the user must begin"
            )


class ConversationEncoder:
    """Conversations to samples of at most ``max_length`` tokens.

    In system and user messages only ``<|im_start|>``, ``<|im_end|>`` and the final newline are trained; in an
    assistant's also the content; in one that its record excludes (``"loss": false``) nothing. A leading turn that is
    not the user's is left out. One departure from the original: in a message only the image, ref, box and quad tags are
    special, so that a literal ``<|im_end|>`` in the data stays text.

    ``counts`` says how often a conversation was changed, by kind, and ``examples`` names the first of each kind.
    """

    def __init__(self, tokenizer: ChatTokenizer, max_length: int, style: ConversationFormat = ConversationFormat()):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.style = style
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise InputError(f"max_length is {max_length!r}; it must be a positive whole number")
        style.roles()

    def encode(self, conversation: Conversation) -> Sample:
        """The sample of one conversation: see ``ms_impl.data.batch`` for its keys.

        Raises InputError naming the record: as ``encode_whole`` and ``cut`` do.
        """
        return self.cut(self.encode_whole(conversation))

    def encode_whole(self, conversation: Conversation) -> Sample:
        """The sample of one conversation at its full length.

        Raises InputError naming the record: an unknown role, no user turn, no answer or an empty one, a bad image tag,
        or a box outside the image.
        """
        try:
            system, turns = messages(conversation, self.style)
            turns = self._spoken(turns, conversation.record)
            ids, labels = self._encode_turns(system, turns)
            images = self.tokenizer.find_images(ids)
            _check_answers(turns)
            self._check_boxes(turns, conversation.record)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        return {
            "record": conversation.record,
            "input_ids": np.array(ids, dtype=np.int32),
            "labels": np.array(labels, dtype=np.int32),
            "image_paths": [image.path for image in images],
            "image_columns": [image.column for image in images],
        }

    def answer_tokens(self, sample: Sample) -> int:
        """How many tokens of answers a sample trains; its ChatML markers, which are always trained, do not count."""
        ids, trained = sample["input_ids"], sample["labels"] != IGNORED
        markers = np.isin(ids, (self.tokenizer.im_start_id, self.tokenizer.im_end_id))
        markers[1:] |= ids[:-1] == self.tokenizer.im_end_id  # the newline that follows
        return int((trained & ~markers).sum())

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

    def _spoken(self, turns: list[Message], record: str) -> list[Message]:
        """The turns to train on: those from the user's first on, where one turn of another stands before it."""
        if turns and turns[0].role != USER:
            self._count("leading turn that is not the user's left out", record)
            turns = turns[1:]
        if not turns:
            raise InputError("the conversation is empty")
        if any(turn.role == following.role for turn, following in zip(turns, turns[1:])):
            self._count("several turns of one role in a row", record)
        return turns

    def _encode_turns(self, system: str, turns: Sequence[Message]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for turn in (Message(SYSTEM, system), *turns):
            message = message_ids(self.tokenizer, turn.role, turn.content)
            ids += message
            excluded = turn.role == ASSISTANT and not turn.trained
            labels += [IGNORED] * len(message) if excluded else self._labels(turn.role, message)
        return ids, labels

    def _check_boxes(self, turns: Sequence[Message], record: str) -> None:
        """Coordinates are thousandths; 1000, the outcome of rounding, is counted, what lies beyond is an error."""
        for tag, content in (piece for turn in turns for piece in split_tags(turn.text)):
            if tag in ("box", "quad"):
                outside = [number for number in _NUMBER.findall(content) if _is_outside(number)]
                if wrong := [number for number in outside if number != "1000"]:
                    raise InputError(
                        f"coordinate {shorten(wrong[0])} in <{tag}>{shorten(content)}</{tag}> lies outside 0–{_MOST}: "
                        "boxes are in thousandths of the image's sides"
                    )
                if outside:
                    self._count(f"coordinate 1000 in a box (0–{_MOST} are meant)", record)

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


def _check_answers(turns: Sequence[Message]) -> None:
    answers = [turn for turn in turns if turn.trained]
    if not answers:
        raise InputError("no answer: it has no assistant turn to train on")
    if any(not answer.text.strip() for answer in answers):
        raise InputError("an answer is empty")


def _is_outside(number: str) -> bool:
    """Whether a number's text, of any length, is outside 0–999."""
    digits = number.lstrip("-").lstrip("0")
    return len(digits) > 3 or bool(digits) and number.startswith("-")


def _with_images(texts: Sequence[str], images: Sequence[Medium]) -> list[str]:
    """The texts with each placeholder replaced by its image; a newline behind the placeholder is the image's own."""
    if not images:
        return list(texts)
    shown, rest = [], iter(enumerate(images, start=1))
    for text in texts:
        first, *others = text.split(PLACEHOLDERS[IMAGE])
        for after in others:
            number, image = next(rest)
            first += image_tag(str(image.source), number) + after.removeprefix("\n")
        shown.append(first)
    return shown

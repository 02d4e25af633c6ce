"""The one way from a record to the sample that is trained on: of training, and of the check before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ms_impl.data.batch import Sample
from ms_impl.data.conversations import ConversationEncoder
from ms_impl.data.images import resolve_path
from ms_impl.data.records import Conversation
from ms_impl.data.tags import shorten
from ms_impl.errors import InputError


@contextmanager
def record_faults(name: str) -> Iterator[None]:
    """Turn any exception of reading a record into an InputError that names it: no record ends a whole run's reading."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"{name}: the record cannot be read ({reason}); mend it or leave it out") from error


@dataclass(frozen=True)
class SampleReader:
    """Conversations to samples whose images are files.

    Args:
        encoder: tokens and labels.
        dataset_dir: stands before relative image paths.
        allow_outside: whether they may leave it through ``..``.
        image_slots: images that a conversation may have; None: any number.
    """

    encoder: ConversationEncoder
    dataset_dir: str = ""
    allow_outside: bool = False
    image_slots: int | None = None

    def read(self, conversation: Conversation) -> tuple[Sample, int]:
        """The sample of a conversation, and how many tokens it has before it is cut off.

        ``image_paths`` are those of the files; ``answer_tokens`` counts the tokens of answers that are trained.
        Raises InputError naming the record if it has a fault, or one of its images is not there.
        """
        with record_faults(conversation.record):
            whole = self.encoder.encode_whole(conversation)
            sample = self.encoder.cut(whole)
            try:
                files = self._files(sample["image_paths"])
            except InputError as error:
                raise InputError(f"{conversation.record}: {error}") from error
            answer_tokens = self.encoder.answer_tokens(sample)
            return {**sample, "image_paths": files, "answer_tokens": answer_tokens}, len(whole["input_ids"])

    def sample(self, conversation: Conversation) -> Sample:
        """The sample of a conversation: see ``read``."""
        return self.read(conversation)[0]

    def _files(self, paths: list[str]) -> list[str]:
        if self.image_slots is not None and len(paths) > self.image_slots:
            raise InputError(f"{len(paths)} images do not fit in {self.image_slots} image slots a row")
        files = [resolve_path(path, self.dataset_dir, self.allow_outside) for path in paths]
        for file in files:
            if not os.path.isfile(file):  # unlike Path.is_file it takes names of any length
                found = "is not a file" if os.path.exists(file) else "does not exist"
                raise InputError(f"image '{shorten(str(file), 400)}' {found}")
        return list(map(str, files))


def require_answers(answers: int, records: int, max_length: int) -> None:
    """Raise InputError where none of some records has a token of an answer left: their loss would be nothing."""
    if records and not answers:
        raise InputError(f"max_length {max_length} leaves no token of any answer; raise it")

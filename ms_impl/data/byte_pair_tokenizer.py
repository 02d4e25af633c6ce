"""What tokenizers of a byte pair vocabulary with ChatML's tokens have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Self

from ms_impl.data.bpe import ByteDetokenizer, BytePairs
from ms_impl.errors import InputError

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


class BytePairTokenizer:
    """Text to ids and back. Raises InputError for a vocabulary that lacks one of the tokens that prompts need.

    A family says its ``SPECIAL_TOKENS``, in the order of their ids, which follow the vocabulary, and whether each is
    left out where special tokens are skipped; and which of them are ``NEEDED`` beside ChatML's.
    """

    SPECIAL_TOKENS: ClassVar[Mapping[str, bool]]
    NEEDED: ClassVar[tuple[str, ...]]

    def __init__(self, pairs: BytePairs):
        self.source = pairs.source
        self.special_tokens = pairs.special_tokens
        self._pairs = pairs
        needed = (END_OF_TEXT, MESSAGE_START, MESSAGE_END, *self.NEEDED)
        if missing := [token for token in needed if token not in self.special_tokens]:
            raise InputError(f"{self.source}: wrong vocabulary: it has no token {', '.join(missing)}")
        self.pad_id = self.eod_id = self.special_tokens[END_OF_TEXT]
        self.im_start_id = self.special_tokens[MESSAGE_START]
        self.im_end_id = self.special_tokens[MESSAGE_END]

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> Self:
        """From tokenizer.json, vocab.json and merges.txt, or a ``*.tiktoken`` file of a checkpoint directory."""
        return cls(BytePairs.from_pretrained(Path(directory), cls.SPECIAL_TOKENS))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; a model may have more embedding rows."""
        return self._pairs.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of a text; every special token in it counts."""
        return self._pairs.encode(text)

    encode_message = encode

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False, errors: str = "replace") -> str:
        """The text of one id or several. Bytes that are not UTF-8 become what ``errors`` says."""
        return self._pairs.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens, errors)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._pairs.bytes_of(token)

    def detokenizer(self) -> ByteDetokenizer:
        """What decodes an answer token by token."""
        return self._pairs.detokenizer()

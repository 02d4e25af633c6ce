"""Ovis2.5's tokenizer: Qwen3's vocabulary with its 26 special tokens.

A special token counts wherever it stands in a text, as in the original: ``<|im_end|>`` in a message ends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ms_impl.data.bpe import ByteDetokenizer, BytePairs
from ms_impl.errors import InputError

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"

# In the order of their ids, which follow the vocabulary; whether each is left out where special tokens are skipped.
SPECIAL_TOKENS = {
    END_OF_TEXT: True, MESSAGE_START: True, MESSAGE_END: True, "<|object_ref_start|>": True,
    "<|object_ref_end|>": True, "<|box_start|>": True, "<|box_end|>": True, "<|quad_start|>": True,
    "<|quad_end|>": True, "<|vision_start|>": True, "<|vision_end|>": True, "<|vision_pad|>": True,
    "<|image_pad|>": True, "<|video_pad|>": True, "<tool_call>": False, "</tool_call>": False,
    "<|fim_prefix|>": False, "<|fim_middle|>": False, "<|fim_suffix|>": False, "<|fim_pad|>": False,
    "<|repo_name|>": False, "<|file_sep|>": False, "<tool_response>": False, "</tool_response>": False,
    THINK_START: False, THINK_END: False,
}  # fmt: skip


class Ovis2_5Tokenizer:
    """Text to ids and back. Raises InputError for a vocabulary that lacks one of the tokens that prompts need."""

    def __init__(self, pairs: BytePairs):
        self.source = pairs.source
        self.special_tokens = pairs.special_tokens
        self._pairs = pairs
        needed = (END_OF_TEXT, MESSAGE_START, MESSAGE_END, THINK_START, THINK_END)
        if missing := [token for token in needed if token not in self.special_tokens]:
            raise InputError(f"{self.source}: wrong vocabulary: it has no token {', '.join(missing)}")
        self.pad_id = self.eod_id = self.special_tokens[END_OF_TEXT]
        self.im_start_id = self.special_tokens[MESSAGE_START]
        self.im_end_id = self.special_tokens[MESSAGE_END]
        self.think_start_id = self.special_tokens[THINK_START]
        self.think_end_id = self.special_tokens[THINK_END]

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> Ovis2_5Tokenizer:
        """From tokenizer.json, vocab.json and merges.txt, or a ``*.tiktoken`` file of a checkpoint directory."""
        return cls(BytePairs.from_pretrained(Path(directory), SPECIAL_TOKENS))

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
        """What decodes an answer token by token, thinking included."""
        return self._pairs.detokenizer()

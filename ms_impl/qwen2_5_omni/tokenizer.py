"""Qwen2.5-Omni's tokenizer: the Qwen vocabulary with 22 special tokens of its own.

A special token counts wherever it stands in a text, as in Hugging Face's processor: ``<|im_end|>`` in a message ends
it. Of Qwen2.5-VL's box and quad tags only three have an id here; the others, ``<|box_start|>`` among them, are letters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ms_impl.data.bpe import VOCABULARY_FILES, ByteDetokenizer, BytePairs
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO, AUDIO_START, AUDIO_END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
IMAGE, VIDEO, VISION_START, VISION_END = "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>"

# In the order of their ids, which follow the vocabulary; whether each is left out where special tokens are skipped.
SPECIAL_TOKENS = {
    END_OF_TEXT: True, MESSAGE_START: True, MESSAGE_END: True, AUDIO: True, AUDIO_START: True, AUDIO_END: True,
    "<|box_end|>": True, "<|quad_start|>": True, "<|quad_end|>": True, VISION_START: True, VISION_END: True,
    "<|vision_pad|>": True, IMAGE: True, VIDEO: True, "<tool_call>": False, "</tool_call>": False,
    "<|fim_prefix|>": False, "<|fim_middle|>": False, "<|fim_suffix|>": False, "<|fim_pad|>": False,
    "<|repo_name|>": False, "<|file_sep|>": False,
}  # fmt: skip
# The tokens that a configuration numbers, by its key.
CONFIG_TOKENS = {
    "audio_token_index": AUDIO, "image_token_index": IMAGE, "video_token_index": VIDEO,
    "audio_start_token_id": AUDIO_START, "audio_end_token_id": AUDIO_END,
    "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
}  # fmt: skip


class Qwen2_5OmniTokenizer:
    """Text to ids and back. Raises InputError for a vocabulary that lacks one of the tokens that prompts need."""

    def __init__(self, pairs: BytePairs):
        self.source = pairs.source
        self.special_tokens = pairs.special_tokens
        self._pairs = pairs
        needed = (END_OF_TEXT, MESSAGE_START, MESSAGE_END, *CONFIG_TOKENS.values())
        if missing := [token for token in needed if token not in self.special_tokens]:
            raise InputError(f"{self.source}: wrong vocabulary: it has no token {', '.join(missing)}")
        self.pad_id = self.eod_id = self.special_tokens[END_OF_TEXT]
        self.im_start_id = self.special_tokens[MESSAGE_START]
        self.im_end_id = self.special_tokens[MESSAGE_END]

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> Qwen2_5OmniTokenizer:
        """From tokenizer.json, vocab.json and merges.txt, or a ``*.tiktoken`` file of a checkpoint directory."""
        return cls(BytePairs.from_pretrained(Path(directory), SPECIAL_TOKENS))

    @property
    def files(self) -> list[Path]:
        """The files that it may have been read from."""
        directory = Path(self.source).parent
        return [file for pattern in VOCABULARY_FILES for file in sorted(directory.glob(pattern))]

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; a model may have more embedding rows."""
        return self._pairs.vocab_size

    def check(self, config: Qwen2_5OmniConfig) -> None:
        """Raise InputError unless this is the vocabulary that the model's configuration numbers."""
        for key, token in CONFIG_TOKENS.items():
            if (found := self.special_tokens[token]) != (said := getattr(config, key)):
                raise InputError(
                    f"{self.source}: wrong vocabulary: its {token} has id {found}, the model's configuration says "
                    f"{said} ({key})"
                )
        if self.vocab_size > config.vocab_size:
            raise InputError(f"{self.source}: {self.vocab_size:,} tokens, but the model embeds {config.vocab_size:,}")

    def encode(self, text: str) -> list[int]:
        """Ids of a text; every special token in it counts."""
        return self._pairs.encode(text)

    encode_message = encode

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in which no special token counts: all are letters."""
        return self._pairs.encode(text, special=())

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False, errors: str = "replace") -> str:
        """The text of one id or several. Bytes that are not UTF-8 become what ``errors`` says."""
        return self._pairs.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens, errors)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._pairs.bytes_of(token)

    def detokenizer(self) -> ByteDetokenizer:
        """What decodes an answer token by token."""
        return self._pairs.detokenizer()

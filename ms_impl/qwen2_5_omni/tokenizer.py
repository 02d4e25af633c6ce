"""Qwen2.5-Omni's tokenizer: the Qwen vocabulary with 22 special tokens of its own.

A special token counts wherever it stands in a text, as in Hugging Face's processor: ``<|im_end|>`` in a message ends
it. Of Qwen2.5-VL's box and quad tags only three have an id here; the others, ``<|box_start|>`` among them, are letters.
"""

from __future__ import annotations

from pathlib import Path

from ms_impl.data.bpe import VOCABULARY_FILES
from ms_impl.data.byte_pair_tokenizer import END_OF_TEXT, MESSAGE_END, MESSAGE_START, BytePairTokenizer
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig

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


class Qwen2_5OmniTokenizer(BytePairTokenizer):
    """Text to ids and back."""

    SPECIAL_TOKENS = SPECIAL_TOKENS
    NEEDED = tuple(CONFIG_TOKENS.values())

    @property
    def files(self) -> list[Path]:
        """The files that it may have been read from."""
        directory = Path(self.source).parent
        return [file for pattern in VOCABULARY_FILES for file in sorted(directory.glob(pattern))]

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

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in which no special token counts: all are letters."""
        return self._pairs.encode(text, special=())

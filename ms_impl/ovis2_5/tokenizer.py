"""Ovis2.5's tokenizer: Qwen3's vocabulary with its 26 special tokens.

A special token counts wherever it stands in a text, as in the original: ``<|im_end|>`` in a message ends it.
"""

from __future__ import annotations

from ms_impl.data.bpe import BytePairs
from ms_impl.data.byte_pair_tokenizer import END_OF_TEXT, MESSAGE_END, MESSAGE_START, BytePairTokenizer

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


class Ovis2_5Tokenizer(BytePairTokenizer):
    """Text to ids and back; thinking is text like any other."""

    SPECIAL_TOKENS = SPECIAL_TOKENS
    NEEDED = (THINK_START, THINK_END)

    def __init__(self, pairs: BytePairs):
        super().__init__(pairs)
        self.think_start_id = self.special_tokens[THINK_START]
        self.think_end_id = self.special_tokens[THINK_END]

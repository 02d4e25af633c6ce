"""Hugging Face's files of a byte-pair vocabulary, derived from the ranks of a ``*.tiktoken`` file."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ms_impl.data.bpe import byte_characters


def split_of(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a token was merged from: those that are left when all earlier merges are made."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        candidates = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]
        first = min(range(len(candidates)), key=candidates.__getitem__)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def vocabulary_files(ranks: Mapping[bytes, int], special: Mapping[str, bool], **config: object) -> dict[str, bytes]:
    """vocab.json, merges.txt and tokenizer_config.json by name.

    Args:
        ranks: token → rank, in order.
        special: the tokens whose ids follow the ranks, in order, and whether each is a control token.
        config: further keys of tokenizer_config.json.
    """
    letters = byte_characters()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [" ".join(text[part] for part in split_of(token, ranks)) for token in ranks if len(token) > 1]
    added = {
        str(len(ranks) + number): {"content": token, "special": control, "lstrip": False, "rstrip": False,
                                   "normalized": False, "single_word": False}
        for number, (token, control) in enumerate(special.items())
    }  # fmt: skip
    return {
        "vocab.json": json.dumps({text[token]: rank for token, rank in ranks.items()}, ensure_ascii=False).encode(),
        "merges.txt": ("\n".join(["#version: 0.2", *merges]) + "\n").encode(),
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": added, **config}, indent=2).encode(),
    }

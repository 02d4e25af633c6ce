"""Hugging Face's tokenizer files, derived from the ranks of a ``*.tiktoken`` file."""

import json
from pathlib import Path

from transformers import Qwen2Tokenizer, Qwen2TokenizerFast

from ms_impl.data.bpe import byte_characters, read_ranks
from ms_impl.qwen2_5_omni.tokenizer import SPECIAL_TOKENS


def split_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a token was merged from: those that are left when all earlier merges are made."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        candidates = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]
        first = min(range(len(candidates)), key=candidates.__getitem__)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def write_hugging_face(ranks_file: Path, merges: Path, whole: Path) -> None:
    """vocab.json and merges.txt with tokenizer_config.json into ``merges``, tokenizer.json into ``whole``."""
    ranks, letters = read_ranks(ranks_file), byte_characters()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges.mkdir()
    vocabulary = {text[token]: rank for token, rank in ranks.items()}
    (merges / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = [" ".join(text[part] for part in split_of(token, ranks)) for token in ranks if len(token) > 1]
    (merges / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    added = {
        str(len(ranks) + number): {"content": token, "special": control, "lstrip": False, "rstrip": False,
                                   "normalized": False, "single_word": False}
        for number, (token, control) in enumerate(SPECIAL_TOKENS.items())
    }  # fmt: skip
    told = {"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "model_max_length": 32768}  # fmt: skip
    (merges / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    Qwen2TokenizerFast.from_pretrained(merges).save_pretrained(whole)
    for name in ("vocab.json", "merges.txt"):
        (whole / name).unlink()


def original(directory: Path) -> Qwen2Tokenizer:
    """The tokenizer of transformers with those files."""
    return Qwen2TokenizerFast.from_pretrained(directory)

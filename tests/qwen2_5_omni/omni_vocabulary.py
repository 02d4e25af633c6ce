"""Hugging Face's tokenizer files, derived from the ranks of a ``*.tiktoken`` file."""

from pathlib import Path

from transformers import Qwen2Tokenizer, Qwen2TokenizerFast

from ms_impl.data.bpe import read_ranks
from ms_impl.data.vocabulary_files import vocabulary_files
from ms_impl.qwen2_5_omni.tokenizer import SPECIAL_TOKENS


def write_hugging_face(ranks_file: Path, merges: Path, whole: Path) -> None:
    """vocab.json and merges.txt with tokenizer_config.json into ``merges``, tokenizer.json into ``whole``."""
    told = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    merges.mkdir()
    files = vocabulary_files(read_ranks(ranks_file), SPECIAL_TOKENS, **told, model_max_length=32768)
    for name, content in files.items():
        (merges / name).write_bytes(content)
    Qwen2TokenizerFast.from_pretrained(merges).save_pretrained(whole)
    for name in ("vocab.json", "merges.txt"):
        (whole / name).unlink()


def original(directory: Path) -> Qwen2Tokenizer:
    """The tokenizer of transformers with those files."""
    return Qwen2TokenizerFast.from_pretrained(directory)

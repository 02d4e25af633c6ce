"""Answering a list of prompts, as ``--run_mode predict`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from ms_impl.data.batch import Sample
from ms_impl.data.chatml import SYSTEM_MESSAGE
from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.mixin import Query
from ms_impl.io.checkpoint_assets import CHAT_FORMAT, find_generation_config
from ms_impl.train.ranks import is_first_rank


def generation_settings(checkpoint: Path, config_file: str, changes: Mapping[str, Any]) -> GenerationConfig:
    """The settings beside the checkpoint or its config.json, changed by the YAML's ``model.generation_config``.

    Says on rank 0 which chat format that makes, and why: another one spoils every answer.
    """
    path = find_generation_config(checkpoint, Path(config_file))
    settings = GenerationConfig.for_checkpoint(checkpoint, Path(config_file)).changed(**changes)
    if is_first_rank():
        source = "model.generation_config" if CHAT_FORMAT in changes else path or "the defaults"
        print(f"chat format: {settings.chat_format} ({source})", flush=True)
    return settings


def answered(
    model: nn.Cell,
    processor: Any,
    prompts: Sequence[Query],
    generation: GenerationConfig,
    batch_size: int,
    seed: int | None,
) -> Iterator[str]:
    """Each prompt with its answer, as one text: all tokens decoded, special ones too.

    Raises InputError naming the prompt, by its number from 1, that cannot be read.
    """
    turns = [_turn(processor, prompt, generation, f"prompt {n}") for n, prompt in enumerate(prompts, start=1)]
    for start in range(0, len(turns), batch_size):
        batch = turns[start : start + batch_size]
        for turn, tokens in zip(batch, model.generate(processor, batch, generation, seed=seed)):
            yield processor.tokenizer.decode([*turn["input_ids"], *tokens])


def _turn(processor: Any, prompt: Query, generation: GenerationConfig, name: str) -> Sample:
    style = generation.chat_format, generation.max_window_size
    try:
        turn = processor.encode_turn(processor.query_text(prompt), None, SYSTEM_MESSAGE, *style)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return {**turn, "record": name}


def save_result(texts: Sequence[str], path: Path) -> None:
    """A Python list of strings, as MindFormers writes it; the file appears when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(str(list(texts)), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error

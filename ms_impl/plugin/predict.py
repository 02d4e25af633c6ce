"""Answering a list of prompts, as ``--run_mode predict`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindspore import nn

from ms_impl.cli.training_plan import AnsweringPlan
from ms_impl.data.sample import Sample
from ms_impl.data.template import Template
from ms_impl.data.thinking import split_thinking
from ms_impl.data.trained_options import told
from ms_impl.errors import InputError
from ms_impl.evaluate.results import save_lines
from ms_impl.families import Family
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.mixin import Query, stop_sequences
from ms_impl.generate.text import answer_text
from ms_impl.io.checkpoint_assets import CHAT_FORMAT, GENERATION_NAME, chat_format_of, find_generation_config
from ms_impl.train.ranks import is_first_rank

logger = logging.getLogger(__name__)


def generation_settings(
    weights: str | Path,
    config_file: str | Path,
    changes: Mapping[str, Any],
    family: Family,
    adapter: str | None = None,
) -> GenerationConfig:
    """The settings beside the weights or their config.json, else the family's, changed by the YAML's
    ``model.generation_config``.

    The chat format is the one that the ``adapter`` was trained in, if it tells.

    Says on rank 0 which chat format that makes, and why: another one spoils every answer.
    """
    checkpoint = Path(weights or config_file)
    told = adapter and chat_format_of(Path(adapter))
    path = Path(adapter) / GENERATION_NAME if told else find_generation_config(checkpoint, Path(config_file))
    beside = GenerationConfig.for_checkpoint(checkpoint, Path(config_file), adapter, family.generation)
    settings = beside.changed(**changes)
    if is_first_rank():
        source = "model.generation_config" if CHAT_FORMAT in changes else path or "the defaults"
        print(f"chat format: {settings.chat_format} ({source})", flush=True)
        if path and CHAT_FORMAT not in changes and path.parent not in (checkpoint, checkpoint.parent):
            logger.warning(
                "%s does not tell its chat format, %s is taken from %s; if it is another, set "
                "model.generation_config.chat_format",
                checkpoint, settings.chat_format, path,
            )  # fmt: skip
    return settings


def answering_template(plan: AnsweringPlan, config: Any) -> Template:
    """The template of a run that answers, as the YAML's ``processor`` has it; the first rank prints what it shows."""
    files = plan.files
    template = files.family.make_template(files.vocabulary, config, (plan.adapter, files.weights), **plan.template)
    if is_first_rank() and (options := told(template)):
        print(f"template: {options}", flush=True)
    return template


@dataclass(frozen=True)
class Answered:
    """One prompt with its answer. ``text`` is both decoded, special tokens too, those of a medium once where they are
    all alike; ``answer`` is the answer alone, ``thinking`` what it thought before it, if it did.

    ``prompt_ids`` and ``answer_ids`` are the tokens, the one that ended the answer among them.
    """

    prompt: str
    thinking: str
    answer: str
    text: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


def answered(
    model: nn.Cell,
    template: Any,
    prompts: Sequence[Query],
    generation: GenerationConfig,
    batch_size: int,
    seed: int | None,
) -> Iterator[Answered]:
    """Answer prompts, in order. Raises InputError naming the prompt, by its number from 1, that cannot be read."""
    turns = [_turn(template, prompt, generation, f"prompt {n}") for n, prompt in enumerate(prompts, start=1)]
    stops, decode = stop_sequences(template, generation), template.tokenizer.decode
    for start in range(0, len(turns), batch_size):
        batch = turns[start : start + batch_size]
        for (query, turn), tokens in zip(batch, model.generate(template, [t for _, t in batch], generation, seed=seed)):
            prompt_ids, answer_ids = (tuple(map(int, ids)) for ids in (turn.input_ids, tokens))
            text = decode([*turn.input_ids[turn.told_columns].tolist(), *answer_ids])
            thinking, answer = split_thinking(answer_text(answer_ids, stops, decode), template.think_end)
            yield Answered(query, thinking, answer, text, prompt_ids, answer_ids)


def save_answers(answers: Sequence[Answered], path: Path) -> None:
    """JSONL, a line for each prompt: ``id`` (its number, from 0), ``prompt``, ``thinking``, if there is any,
    ``answer``, and the tokens of both."""
    keys = ("prompt", "thinking", "answer", "prompt_ids", "answer_ids")
    lines = ({key: getattr(each, key) for key in keys if key != "thinking" or each.thinking} for each in answers)
    save_lines(({"id": number, **line} for number, line in enumerate(lines)), path)


def _turn(template: Any, prompt: Query, generation: GenerationConfig, name: str) -> tuple[str, Sample]:
    """A prompt's text and its sample."""
    try:
        query = template.query_text(prompt)
        turn = template.encode_turn(query, None, None, generation)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return query, replace(turn, record=name)

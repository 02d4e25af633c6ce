"""``infer``: the questions of a file answered, one line of JSON a record, in ms-swift's keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_impl.cli.annotations import locate_records
from ms_impl.cli.swift.arguments import Given
from ms_impl.data.files import RecordFile
from ms_impl.errors import InputError
from ms_impl.evaluate.questions import Question, parse_question
from ms_impl.evaluate.results import check_writable, save_lines
from ms_impl.generate.mixin import stop_sequences
from ms_impl.generate.text import answer_text

_SAMPLING = ("temperature", "top_k", "top_p")
_SETTINGS = (*_SAMPLING, "max_new_tokens", "repetition_penalty")
_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def answer_files(
    given: Given, values: Mapping[str, Any], adapter: Path | None, files: Sequence[str], target: Path
) -> None:
    """Answer all records of ``files``, print each answer, and write ``target``.

    A line has ``response``, ``labels`` (the record's own answer, or null), ``logprobs`` (null) and the record with its
    last answer replaced. Raises InputError naming a record that cannot be asked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    check_writable([target])
    from ms_impl import load  # the slow import

    model, template = load(
        values["model"], _DTYPES.get(values["torch_dtype"] or ""), adapter=adapter, model_type=values["model_type"]
    )
    changes = settings_of(given)
    model.generation.changed(**changes)  # before all else: a wrong setting is told at once
    asked = _questions(files, template, given.val_dataset_sample)
    system = values.get("system")
    answers = _streamed if given.stream else _in_batches
    rows = []
    for (record, question), answer in zip(asked, answers(model, template, asked, system, changes, given)):
        rows.append(row_of(record, question, answer))
    save_lines(iter(rows), target)
    print(f"results: {target}", flush=True)


def settings_of(given: Given) -> dict[str, Any]:
    """Generation settings that differ from the checkpoint's. A temperature of 0 is greedy, as in ms-swift."""
    changes = {name: getattr(given, name) for name in _SETTINGS if name in given.named}
    if changes.get("temperature") == 0:
        del changes["temperature"]
        changes["do_sample"] = False
    elif any(name in changes for name in _SAMPLING):
        changes["do_sample"] = True
    if given.seed < 0 or given.max_batch_size < 1:
        raise InputError("--seed must be 0 or more, --max_batch_size 1 or more")
    return changes


def row_of(record: Mapping[str, Any], question: Question, answer: str) -> dict[str, Any]:
    """A line of the results."""
    row = {"response": answer, "labels": question.references[0] if question.references else None, "logprobs": None}
    messages = record.get("messages")
    if isinstance(messages, list):
        asked = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
        record = {**record, "messages": [*asked, {"role": "assistant", "content": answer}]}
    return {**row, **{key: value for key, value in record.items() if key not in row}}


def _questions(files: Sequence[str], template: Any, most: int | None) -> list[tuple[dict, Question]]:
    found = []
    for path in files:
        file = RecordFile(locate_records(path))
        found += [(file[n], parse_question(file[n], n, file.name(n), template)) for n in range(len(file))]
    return found[:most] if most else found


def _streamed(
    model: Any, template: Any, asked: Sequence[tuple[dict, Question]], system: str | None, changes: Mapping[str, Any],
    given: Given,
) -> Iterator[str]:  # fmt: skip
    for _, question in asked:
        said = question.system if question.system is not None else system
        answer, _ = model.chat(
            template, question.query, question.history, said, stream=lambda piece: print(piece, end="", flush=True),
            seed=given.seed, **changes,
        )  # fmt: skip
        print(flush=True)
        yield answer


def _in_batches(
    model: Any, template: Any, asked: Sequence[tuple[dict, Question]], system: str | None, changes: Mapping[str, Any],
    given: Given,
) -> Iterator[str]:  # fmt: skip
    generation = model.generation.changed(**changes)
    stops = stop_sequences(template, generation)
    for start in range(0, len(asked), given.max_batch_size):
        batch = [question for _, question in asked[start : start + given.max_batch_size]]
        samples = [
            template.encode_turn(q.query, q.history, system if q.system is None else q.system, generation)
            for q in batch
        ]
        samples = [template.find_media(sample) for sample in samples]
        for tokens in model.generate(template, samples, generation, seed=given.seed):
            answer = answer_text(tokens, stops, template.tokenizer.decode)
            print(json.dumps(answer, ensure_ascii=False), flush=True)
            yield answer

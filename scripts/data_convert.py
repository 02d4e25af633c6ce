"""LLaVA-Instruct-150K with COCO's images → conversations to fine-tune Qwen-VL on.

    python scripts/data_convert.py --data_path detail_23k.json --image_location /location/of/coco \
        --output_path detail_23k_qwenvl.json --user_role_name user --assistant_role_name assistant

converts detail_23k, complex_reasoning_77k and conversation_58k, whose records have ``id``, ``image`` and
``conversations`` between ``human`` and ``gpt``. ``--image_location`` is the folder that holds ``train2014``, and what
``dataset_dir`` must be when the conversations are trained on. The image stands before the first question, wherever
``<image>`` stood in it. The output is a JSON list, or JSONL if its name ends in ``.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_impl.cli.main import command
from ms_impl.data.chatml import ASSISTANT, USER
from ms_impl.data.conversations import ConversationFormat
from ms_impl.data.dialogue import require_alternation
from ms_impl.data.files import RecordFile
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS
from ms_impl.data.records import Conversation, parse_record
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.qwenvl.messages import messages
from ms_impl.qwenvl.tokenizer import IMAGE_TAGS

IMAGE_PLACEHOLDER = PLACEHOLDERS[IMAGE]
LLAVA = ConversationFormat(user_role_name="human", assistant_role_name="gpt")
SPLIT = "train2014"  # the folder below --image_location
SHOWN = 5  # faults that are printed
LIST, LINES = ("[\n", ",\n", "\n]\n"), ("", "\n", "\n")  # what stands before, between and after the records


class Converter:
    """LLaVA's records to ours. ``roles`` are our words for user and assistant."""

    def __init__(self, image_location: Path, roles: tuple[str, str]):
        self.image_location = image_location
        self.roles = roles

    def convert(self, record: Any, source: str) -> dict[str, Any]:
        """One record; ``source`` names it in errors.

        Raises InputError for a record of another layout, a image that is missing, and text that holds one of the
        tokenizer's tags: it would no longer be text.
        """
        conversation = parse_record(record, source)
        try:
            _check_text(conversation)
            system, turns = messages(self._placed(conversation), LLAVA)
            require_alternation([turn.role for turn in turns])
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        own = {} if conversation.system is None else {"system": system}
        given = [{} if turn.trained is None else {"loss": turn.trained} for turn in conversation.turns]
        words = [
            {"from": self.roles[number % 2], "value": turn.text} | loss
            for number, (turn, loss) in enumerate(zip(turns, given))
        ]
        return {"id": record.get("id"), **own, "conversations": words}

    def _placed(self, conversation: Conversation) -> Conversation:
        """The conversation with its image before the first question, and with that image's path in COCO."""
        if not conversation.media:
            return conversation
        first, *others = conversation.turns
        if len(conversation.media) > 1 or IMAGE_PLACEHOLDER not in first.text:
            raise InputError(f"a second {IMAGE_PLACEHOLDER}, or one that is not in the first turn")
        image = str(conversation.media[0].source)
        path = f"{SPLIT}/COCO_{SPLIT}_{image}"
        if os.path.basename(image) != image or not (self.image_location / path).is_file():
            raise InputError(f"image file '{path}' not found in '{self.image_location}'")
        words = " ".join(part.strip() for part in first.text.split(IMAGE_PLACEHOLDER) if part.strip())
        first = replace(first, text=f"{IMAGE_PLACEHOLDER}\n{words}")
        return replace(conversation, turns=(first, *others), media=(replace(conversation.media[0], source=path),))


def _check_text(conversation: Conversation) -> None:
    for number, turn in enumerate(conversation.turns):
        if tags := [tag for tag in IMAGE_TAGS if tag in turn.text]:
            raise InputError(f"turn {number}: '{tags[0]}' in its text would be read as a tag; change the text")


def convert_file(data_path: Path, output_path: Path, converter: Converter, skip_faulty: bool) -> tuple[int, list[str]]:
    """Convert a whole file; returns how many conversations were written, and the faults of the others.

    Raises InputError for faults unless ``skip_faulty``. The output is there when it is whole, or not at all.
    """
    records = RecordFile(data_path)
    faults = []
    with atomic_write(output_path) as partial, open(partial, "w", encoding="utf-8") as file:
        lead, separator, end = LINES if output_path.suffix == ".jsonl" else LIST
        for number, record in enumerate(tqdm(records, unit=" records", desc=data_path.name, disable=None)):
            try:
                converted = converter.convert(record, records.name(number))
            except InputError as fault:
                faults.append(str(fault))
            else:
                file.write(lead + json.dumps(converted))
                lead = separator
        file.write(end)
        if faults and (len(faults) == len(records) or not skip_faulty):
            raise InputError(f"{summary(faults, len(records))}\n--skip_faulty leaves such records out")
    return len(records) - len(faults), faults


def summary(faults: Sequence[str], records: int) -> str:
    """How many records are faulty, and the first faults."""
    more = [f"… and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return "\n  ".join([f"{len(faults):,} of {records:,} records are faulty:", *faults[:SHOWN], *more])


def check(options: argparse.Namespace) -> None:
    """Raise InputError for arguments that cannot work, before any record is read."""
    location = options.image_location
    if not (location / SPLIT).is_dir():
        hint = f"; give its parent, {location.parent}" if location.name == SPLIT else ""
        raise InputError(f"--image_location: {location} holds no directory {SPLIT}{hint}")
    if options.user_role_name == options.assistant_role_name:
        raise InputError(f"--user_role_name and --assistant_role_name are both {options.user_role_name!r}")
    if not options.output_path.parent.is_dir() or options.output_path.is_dir():
        raise InputError(f"--output_path: {options.output_path} cannot be a file: give one in a directory that exists")
    if options.output_path.resolve() == options.data_path.resolve():
        raise InputError("--output_path: is --data_path itself; give another name")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="LLaVA-Instruct-150K → conversations for Qwen-VL")
    parser.add_argument("--data_path", type=Path, required=True, help="LLaVA's file, such as detail_23k.json")
    parser.add_argument("--image_location", type=Path, required=True, help=f"the directory that holds {SPLIT}")
    parser.add_argument("--output_path", type=Path, required=True, help="file to write: .json, or .jsonl for JSONL")
    parser.add_argument("--user_role_name", default=USER, help="the output's word for the user")
    parser.add_argument("--assistant_role_name", default=ASSISTANT, help="the output's word for the assistant")
    parser.add_argument("--skip_faulty", action="store_true", help="leave out faulty records, and those without image")
    options = parser.parse_args(arguments)
    check(options)
    converter = Converter(options.image_location, (options.user_role_name, options.assistant_role_name))
    written, faults = convert_file(options.data_path, options.output_path, converter, options.skip_faulty)
    if faults:
        print(f"left out: {summary(faults, written + len(faults))}", file=sys.stderr)
    print(f"{options.output_path}: {written:,} conversations; train with dataset_dir: {options.image_location}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

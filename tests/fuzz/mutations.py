"""What fuzzing does to valid input: values of other types, far numbers, nesting, and bytes flipped, cut or repeated."""

import copy
import json
from typing import Any

import numpy as np

ODD = (
    None, True, False, 0, -1, 1, 2, -5, 3.5, 2.0, 1e308, 1e-320, 10**9, 2 * 10**9, 10**30, 2**31, 2**63, -(2**63), "",
    "0", "false", "x" * 300, "\0", "../x", "名前", "\ud800", [], [1], [[]], {}, {"a": 1}, [None] * 50, "a/b",
    "9" * 50,
)  # fmt: skip
RAW = ("1e999", "NaN", "-Infinity", "9" * 5000, "1" + "0" * 400 + ".0", "[" * 5000, '{"a":' * 5000, '"\\udead"', "",
       "[" * 40 + "]" * 40, "[" * 90 + "]" * 90, "[" * 2000 + "]" * 2000,
       "0x10", "1e3", "-0", "'a'", "\ufeff")  # fmt: skip
_MARK = "@@raw@@"


def pick(rng: np.random.Generator, values) -> Any:
    return values[int(rng.integers(len(values)))]


def mutate_value(rng: np.random.Generator, content: Any, times: int | None = None) -> Any:
    """A copy of parsed JSON with some places changed: replaced, left out, doubled, renamed."""
    content = copy.deepcopy(content)
    for _ in range(pick(rng, (1, 1, 1, 2, 3)) if times is None else times):
        places = list(_places(content))
        if places:
            _change(rng, *pick(rng, places))
    return content


def _places(content: Any):
    """Every container with a key or index in it."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from _places(value)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield content, index
            yield from _places(value)


def _change(rng: np.random.Generator, container: Any, key: Any) -> None:
    kind, value = int(rng.integers(8)), container[key]
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[pick(rng, ("", "x" * 300, "__metadata__", "a.b", "\ud800", "é", f"{key}_", key))] = value
    elif kind == 2 and isinstance(value, (int, float)) and not isinstance(value, bool):
        container[key] = pick(rng, (value + 1, value - 1, value * 2, -value, value * 10**9, float(value), str(value)))
    elif kind == 3:
        container[key] = _MARK
    else:
        container[key] = copy.deepcopy(pick(rng, ODD))


def to_text(rng: np.random.Generator, content: Any) -> bytes:
    """JSON of a mutated value, with raw text where ``mutate_value`` left room for it; sometimes a key stands twice."""
    text = json.dumps(content, ensure_ascii=bool(rng.integers(2)))
    text = text.replace(json.dumps(_MARK), pick(rng, RAW))
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(rng: np.random.Generator, data: bytes, upto: int | None = None) -> bytes:
    """The same bytes with a few flipped, cut out, repeated or replaced; mostly within the first ``upto``."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        size = len(changed)
        if not size:
            break
        at = int(rng.integers(min(size, upto or size)))
        span = int(rng.integers(1, 9))
        kind = int(rng.integers(6))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at] = pick(rng, (0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x7B))
        elif kind == 2:
            del changed[at : at + span]
        elif kind == 3:
            changed[at:at] = changed[at : at + span]
        elif kind == 4:
            changed[at : at + span] = rng.bytes(span)
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)

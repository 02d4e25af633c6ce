"""Names and shapes of released checkpoints, kept with a layer said once; read by tests."""

import json
import re
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
_NUMBER = re.compile(r"(?<=\.(?:layers|blocks)\.)\d+(?=\.)", re.ASCII)


def compressed(tensors: dict[str, list[int]]) -> dict:
    """``shapes`` by name, ``*`` standing for the numbers below what ``layers`` has for the path before it."""
    layers: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for name, shape in tensors.items():
        template = _NUMBER.sub("*", name)
        assert shapes.setdefault(template, shape) == shape, name
        if found := _NUMBER.search(name):
            path = template.partition(".*.")[0]
            layers[path] = max(layers.get(path, 0), int(found[0]) + 1)
    content = {"layers": layers, "shapes": shapes}
    assert expanded(content) == {name: tuple(shape) for name, shape in tensors.items()}
    return content


def expanded(content: dict) -> dict[str, tuple[int, ...]]:
    """The inverse of ``compressed``."""
    shapes = {}
    for name, shape in content["shapes"].items():
        path, star, _ = name.partition(".*.")
        for number in range(content["layers"][path] if star else 1):
            shapes[name.replace(".*.", f".{number}.")] = tuple(shape)
    return shapes


def read(name: str) -> dict:
    """The content of a file of golden shapes."""
    return json.loads((GOLDEN / f"{name}_shapes.json").read_text())

"""Shipped YAMLs, mutated as text and as settings: settings come out, or an InputError that names the file."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ms_impl.cli.arguments import read_settings
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
MODEL = "assets/qwenvl_tiny_easyvqa"
FILES = sorted((ROOT / "configs/qwenvl").glob("*.yaml"))
TEXTS = {file: file.read_text(encoding="utf-8") for file in FILES}
SETTINGS = {file: yaml.safe_load(text) for file, text in TEXTS.items()}
VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e-4, 1e308, float("nan"), float("inf"), "", "x", "x" * 5000,
    "False", "1", "1e-4", "\u0000", "/", ".", "~", "*", "a\nb", "图", "../" * 50, "http://x/y.yaml", "/dev/zero",
    [], {}, [1], [[]], [{}], [None], {"type": "x"}, {"type": None}, {"type": ["x"]}, {"a": {"b": {"c": 1}}}, [1] * 3000,
]  # fmt: skip
LINES = [
    "seed: 1", "a: &a [*a]", "a: &a {b: *a}", "<<: *train_dataset", "x: *train_dataset", "- 1", "? [1]", "a: 2001-99-99",
    "a: !!python/object:os.system {}", "a: !!int x", 'a: "\\ud800"', 'a: "\\Uffffffff"', "a: " + "9" * 5000, "a: 1e999",
    "a: " + "[" * 200, "---", "...", "%TAG ! x:", "\ta: 1", "a: |\n b\nc", "a: >2-\n  b", "a: 'x", "@a", "a: {b: c, d}", "\ufeff",
    *(f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]" if n else "l0: &l0 x" for n in range(9)),
]  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value in settings."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *places(inner, (*path, key)))]


def pick(rng: np.random.Generator, values: list) -> Any:
    return values[int(rng.integers(len(values)))]


def change(rng: np.random.Generator, settings: dict) -> None:
    """Change, take out, rename or move one value."""
    *parents, key = pick(rng, places(settings))
    section = settings
    for part in parents:
        section = section[part]
    kind = rng.integers(8)
    if kind == 0:
        del section[key]
    elif kind == 1 and isinstance(section, dict):
        letters = list(str(key))
        letters.insert(int(rng.integers(len(letters) + 1)), pick(rng, list("aeé_.1 \0")))
        section["".join(letters)] = section.pop(key)
    elif kind == 2:
        section[key] = copy.deepcopy(pick(rng, [inner for inner in settings.values() if inner is not section]))
    elif kind == 3:
        section[key] = copy.deepcopy(pick(rng, VALUES))
    elif isinstance(section[key], bool):
        section[key] = not section[key]
    elif isinstance(section[key], int | float):
        section[key] = pick(rng, [section[key] + 1, section[key] * 2, section[key] / 2])


def make(rng: np.random.Generator, folder: Path) -> list[str]:
    """The arguments of a command, with a YAML in ``folder``."""
    file = pick(rng, FILES)
    if rng.integers(3):
        settings = copy.deepcopy(SETTINGS[file])
        for _ in range(int(rng.integers(1, 4))):
            if settings:
                change(rng, settings)
        text = yaml.safe_dump(settings, allow_unicode=bool(rng.integers(2)))
    else:
        lines = TEXTS[file].splitlines()
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(lines)))
            lines[at : at + int(rng.integers(2))] = [" " * (2 * int(rng.integers(3))) + pick(rng, [*LINES, *lines])]
        text = "\n".join(lines)
    data = text.encode("utf-8", "surrogatepass")
    if rng.integers(8) == 0:
        data = data[: int(rng.integers(len(data) + 1))] + bytes(rng.integers(0, 256, int(rng.integers(4)), np.uint8))
    config = folder / "fuzzed.yaml"
    config.write_bytes(data)
    os.chdir(ROOT)
    arguments = ["--config", str(config)]
    if rng.integers(3) == 0:
        key = ".".join(map(str, pick(rng, places(SETTINGS[file]))))
        value = yaml.safe_dump(pick(rng, VALUES), default_flow_style=True).strip()
        arguments += ["--options", f"{key}={value}"]
    if rng.integers(8):  # a model that is there, so that what follows is looked at
        arguments += ["--load_checkpoint", MODEL, "--model.model_config.config_file", MODEL]
    question = pick(rng, ["Hi", "no.png", "x" * 5000, "a\0b"]) if rng.integers(8) == 0 else "Hi"
    arguments += ["--predict_data", question]
    return arguments


def run(arguments: list[str]) -> None:
    try:
        settings = read_settings(arguments)
    except InputError as error:
        assert "fuzzed.yaml: " in str(error), f"the file is not named: {error}"
        raise
    assert settings["run_mode"] in ("train", "finetune", "eval", "predict")


def test_yaml(fuzz):
    fuzz("yaml and settings", make, run, seconds=10, megabytes=1000)

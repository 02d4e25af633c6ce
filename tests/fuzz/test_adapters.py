"""Adapters: valid ones changed in their settings, their file's header, their tensors and their bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from ms_impl import families
from ms_impl.adapters import files
from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.adapters.files import TORCH_NAME, WEIGHTS_NAME
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.qwenvl.config import QwenVLConfig

GOLDEN = Path(__file__).parents[1] / "golden/qwenvl_tiny"
SHAPES = {"attn.c_attn": (384, 128), "mlp.w1": (352, 128)}
KEYS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "modules_to_save", "base_model_name_or_path", "bias", "peft_type",
    "fan_in_fan_out", "init_lora_weights", "loftq_config", "auto_mapping", "use_dora", "a_key_of_tomorrow",
)  # fmt: skip
ODD = (
    None, True, False, 0, 1, -1, 4, 8, 2.5, 10**30, 1e308, float("nan"), float("inf"), -float("inf"), "", "8", "c_attn",
    "all-linear", r".*\.(c_attn|w1)", r".*(c_attn|w1", r"((\w+\.?)+)+!", "(?i)x", "a" * 5000, "(" * 300 + ")" * 300, "\ud800",
    [], {}, [None], [[]], [1], ["c_attn", "w1"], ["w1"], ["c_attn", 1], {"w1": 4}, {"c_attn": 2}, {"(": 2}, {"w1": None}, {"": 1},
    {"a": {"b": {}}}, "none", "LORA", "gaussian", "pissa", "\x00", "../..", "wte", ["wte"], ["lm_head"], [""], [".*"],
)  # fmt: skip


CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["c_attn", "w1"]}


def valid(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The tensors of an adapter for two linear layers of each block."""
    tensors = {}
    for layer in range(2):
        for name, (rows, columns) in SHAPES.items():
            path = f"base_model.model.transformer.h.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = rng.normal(0, 0.1, (4, columns)).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = rng.normal(0, 0.1, (rows, 4)).astype(np.float32)
    return tensors


def make(rng: np.random.Generator, folder: Path) -> Path:
    """An adapter with one or two faults; or none."""
    tensors, config = valid(rng), dict(CONFIG)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        config[str(rng.choice(KEYS))] = ODD[rng.integers(len(ODD))]
    if rng.random() < 0.2:
        change_tensors(rng, tensors)
    (folder / CONFIG_NAME).write_bytes(config_text(rng, config))
    (folder / WEIGHTS_NAME).write_bytes(weights(rng, tensors))
    if rng.random() < 0.05:
        (folder / WEIGHTS_NAME).rename(folder / TORCH_NAME)
    return folder


def config_text(rng: np.random.Generator, config: dict) -> bytes:
    """The settings as JSON, sometimes damaged."""
    text = json.dumps(config).encode("utf-8", "surrogatepass")
    kind = rng.integers(60)
    if kind == 0:
        return text[: rng.integers(len(text))]
    if kind == 1:
        return flipped(rng, text)
    if kind == 2:
        return text[:-1] + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    if kind == 3:
        return text.replace(b"8", b"9" * 6000)
    return text


def change_tensors(rng: np.random.Generator, tensors: dict[str, np.ndarray]) -> None:
    name = str(rng.choice(list(tensors)))
    value, kind = tensors.pop(name), rng.integers(8)
    other = {
        1: ("x" * int(rng.integers(1, 5000)), value),
        2: (name, value.T.copy()),
        3: (name, value.astype(np.float64)),
        4: (name, np.full_like(value, rng.choice([np.nan, np.inf, 3e38, 1e6]))),
        5: (name, np.zeros((0, 4), np.float32)),
        6: (name.replace(".lora_", ".base_layer."), value),
        7: ("base_model.model.lm_head.weight", rng.normal(0, 1, (640, 128)).astype(np.float32)),
    }
    if kind in other:
        new, changed = other[kind]
        tensors[new] = changed
        if kind == 7:
            tensors[name] = value


def weights(rng: np.random.Generator, tensors: dict[str, np.ndarray]) -> bytes:
    """The file, with a sample of the base in its metadata, right or odd; sometimes damaged."""
    sample = {"transformer.h.0.mlp.w1.weight": [0.0] * 8}
    texts = (
        "", "{", "[]", "1", "null", json.dumps(sample), json.dumps({**sample, "x": [1] * 8}), "[" * 200_000,
        '{"a": ' * 5000 + "1" + "}" * 5000, json.dumps({"x" * 10_000: [0.5] * 8}), '{"a": [NaN, 1, 2, 3, 4, 5, 6, 7]}',
    )  # fmt: skip
    metadata = {"base_sample": str(rng.choice(np.array(texts, object)))} if rng.random() < 0.15 else {}
    data = save(tensors, {"format": "pt", **metadata})
    kind = rng.integers(50)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        return flipped(rng, data)
    if kind == 2:
        return with_metadata(data, ODD[rng.integers(len(ODD))])
    if kind == 3:
        return with_metadata(data, {"base_sample": ODD[rng.integers(len(ODD))]})
    return data


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, min(len(data), 2000), rng.integers(1, 4))
    changed[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
    return changed.tobytes()


def with_metadata(data: bytes, metadata) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    header = {**json.loads(data[8 : 8 + length]), "__metadata__": metadata}
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def run(folder: Path) -> None:
    """Merge it; each adapted weight is checked against the sum, taken in float64, and every other is the base's."""
    family, config = families.get("qwenvl"), QwenVLConfig.from_file(GOLDEN)
    source, adapter = open_checkpoint(GOLDEN), files.read(folder, family)
    merged = merged_checkpoint(source, adapter, family, config).tensors
    stored = {name.removeprefix("base_model.model."): tensor for name, tensor in raw(folder).items()}
    for name, tensor in merged.items():
        values, module = tensor.array(), name.removesuffix(".weight")
        expected = stored.get(name, source.tensors[name].array()).astype(np.float64)
        if f"{module}.lora_A.weight" in stored:
            rank, alpha = scaling_of(adapter.config, module)
            factor = alpha / (np.sqrt(rank) if adapter.config.use_rslora else rank)
            a, b = (stored[f"{module}.lora_{end}.weight"].astype(np.float64) for end in "AB")
            expected = expected + factor * (b @ a)
        scale = np.abs(expected).max() + 1
        assert np.allclose(values, expected, rtol=0, atol=1e-5 * scale), name


def raw(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / WEIGHTS_NAME)


def scaling_of(config: LoraConfig, module: str) -> tuple[int, float]:
    """Of the patterns that ODD has, each a plain name."""
    last = module.rpartition(".")[2]
    return config.rank_pattern.get(last, config.r), config.alpha_pattern.get(last, config.lora_alpha)


def test_adapters(fuzz):
    fuzz("adapters", make, run)


def test_a_valid_adapter_is_right(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / CONFIG_NAME).write_text(json.dumps(CONFIG))
    (tmp_path / WEIGHTS_NAME).write_bytes(save(valid(rng)))
    run(tmp_path)

"""What an adapter is: the settings, under PEFT's names, and PEFT's adapter_config.json."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ms_impl.adapters import values
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import parse_json, read_bytes

CONFIG_NAME = "adapter_config.json"
ALL_LINEAR = "all-linear"

_KIND = "LORA"
_BIAS = "none"
_TASK = "CAUSAL_LM"

# Keys of PEFT's file that change nothing in what a saved adapter computes, with the values that may stand there;
# None: any. Every other key that is not ours must be off: null, false or empty.
_HARMLESS = {
    "auto_mapping": None,
    "corda_config": None,  # this and the three others: of initialisations that init_lora_weights would name
    "eva_config": None,
    "fan_in_fan_out": (None, True, False),  # PEFT sets it to what the layer is
    "inference_mode": None,
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal"),  # others change the base weights, or may
    "loftq_config": None,
    "lora_ga_config": None,
    "megatron_core": None,
    "peft_version": None,
    "qalora_group_size": None,
    "revision": None,
    "task_type": None,
}
_OFF = (None, False, "", [], {})
_SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
_NEVER_NULL = ("r", "lora_alpha", "lora_dropout")  # in a file: PEFT computes with them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraConfig:
    """The settings of a LoRA adapter; names, meanings and defaults are PEFT's.

    Attributes:
        target_modules: which linear layers. A list: each a module's name, the end of it after a dot, or a module group
            of the family (``language_model``, ``vision_tower``, ``aligner``), which means all linear layers in it. A
            text: a regular expression that matches the whole name; or ``all-linear``: all but the output head.
        r: rank of the update.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: share of the input of A that is dropped in training.
        use_rslora: scale by lora_alpha / √r instead.
        exclude_modules: layers that are not adapted, though they are targets: names, or a text as above.
        layers_to_transform: numbers of the layers that are adapted; empty: all.
        layers_pattern: what stands before these numbers in a module's name; empty: anything.
        rank_pattern, alpha_pattern: another r or lora_alpha, by a regular expression that matches a module's name or
            the end of it after a dot; the first that matches counts.
        modules_to_save: modules that are trained and saved whole, by name or the end of it.
        base_model_name_or_path: where the base was, for people and for PEFT.
    """

    target_modules: tuple[str, ...] | str
    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    base_model_name_or_path: str | None = None

    def scaling(self, r: int, alpha: float) -> float:
        """What an update of that rank is multiplied by."""
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: str) -> LoraConfig:
        """From a table of the attributes above; None stands for a default.

        Raises:
            InputError: a key is unknown, a value has the wrong type or lies out of range. ``where`` names the table.
        """
        if unknown := [key for key in settings if key not in _READERS]:
            raise InputError(f"{where}: unknown key {quote(unknown[0])}; known: {', '.join(_READERS)}")
        given = {key: _READERS[key](value, f"{where}: {key}") for key, value in settings.items() if value is not None}
        if "target_modules" not in given:
            raise InputError(f"{where}: target_modules is missing; it names the layers to adapt")
        if not given["target_modules"]:
            raise InputError(f"{where}: target_modules is empty; it names the layers to adapt")
        config = cls(**given)
        config._check_layers(where)
        return config

    @classmethod
    def read(cls, directory: Path) -> LoraConfig:
        """From the adapter_config.json of an adapter's directory.

        Raises:
            InputError: the file is missing or damaged, or asks for something that is not implemented here.
        """
        path = directory / CONFIG_NAME
        raw = parse_json(read_bytes(path), str(path), finite=False)
        if raw.get("peft_type") != _KIND:
            raise InputError(f"{path}: peft_type is {quote(raw.get('peft_type'))}; only LORA adapters can be used")
        if raw.get("bias", _BIAS) != _BIAS:
            raise InputError(f"{path}: bias is {quote(raw['bias'])}; only '{_BIAS}' is implemented")
        for key in raw.keys() - _READERS.keys() - {"peft_type", "bias"}:
            if not _is_harmless(key, raw[key]):
                raise InputError(f"{path}: {values.key_name(key)} is {quote(raw[key])}, which is not implemented")
        if raw.get("fan_in_fan_out"):
            logger.warning("%s: fan_in_fan_out is true, but weights here are [out, in]; ignored, as PEFT does", path)
        for key in _NEVER_NULL:
            if key in raw and raw[key] is None:
                raise InputError(f"{path}: {key} is null; expected a number")
        return cls.from_settings({key: raw.get(key) for key in _READERS}, str(path))

    @classmethod
    def from_section(cls, section: Mapping[str, Any], where: str) -> LoraConfig:
        """From a YAML's ``lora`` section: the settings of its ``adapter``, if it names one, and over them its own."""
        own = {key: value for key, value in section.items() if value is not None}
        adapter = own.pop("adapter", None)
        inherited = cls.read(Path(values.text(adapter, f"{where}: adapter"))).settings() if adapter is not None else {}
        return cls.from_settings({**inherited, **own}, where)

    def check_scaling(self, asked: LoraConfig, where: str) -> None:
        """Raise InputError where the settings of a run ask for other ranks or scalings than this adapter has."""
        for setting in _SCALING:
            found, own = getattr(self, setting), getattr(asked, setting)
            if found != own:
                raise InputError(
                    f"{where}: the adapter has {setting} {quote(found)}, the settings of this run say {quote(own)}"
                )

    def settings(self) -> dict[str, Any]:
        """The attributes by name."""
        return {name: getattr(self, name) for name in _READERS}

    def to_json(self) -> str:
        """The text of adapter_config.json."""
        nulls = ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
        settings = {**self.settings(), **{key: getattr(self, key) or None for key in nulls}}
        kind = {"peft_type": _KIND, "task_type": _TASK, "bias": _BIAS, "inference_mode": True}
        ordered = dict(sorted({**settings, **kind}.items()))  # but not the patterns: the first that matches counts
        return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"

    def _check_layers(self, where: str) -> None:
        """What PEFT refuses, too."""
        for key in ("layers_to_transform", "layers_pattern"):
            if getattr(self, key) and isinstance(self.target_modules, str):
                raise InputError(f"{where}: {key} needs a list as target_modules; let the expression choose the layers")
        if self.layers_pattern and not self.layers_to_transform:
            raise InputError(f"{where}: layers_pattern needs layers_to_transform, the numbers of the layers")


# How each attribute is read.
_READERS: dict[str, Callable[[Any, str], Any]] = {
    "r": values.rank,
    "lora_alpha": values.alpha,
    "lora_dropout": values.dropout,
    "target_modules": values.names_or_expression,
    "exclude_modules": values.names_or_expression,
    "layers_to_transform": values.layer_numbers,
    "layers_pattern": values.layer_names,
    "use_rslora": values.flag,
    "rank_pattern": values.pattern_of(values.rank),
    "alpha_pattern": values.pattern_of(values.alpha),
    "modules_to_save": values.saved_names,
    "base_model_name_or_path": values.text,
}
assert _READERS.keys() == {attribute.name for attribute in fields(LoraConfig)}


def _is_harmless(key: str, value: Any) -> bool:
    if key in _HARMLESS:
        return _HARMLESS[key] is None or value in _HARMLESS[key]
    return value in _OFF

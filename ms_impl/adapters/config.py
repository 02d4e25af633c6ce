"""What an adapter is: the settings, under PEFT's names, and PEFT's adapter_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError
from ms_impl.io.json_files import read_json

CONFIG_NAME = "adapter_config.json"

_KIND = "LORA"
_BIAS = "none"
_TASK = "CAUSAL_LM"
_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "base_model_name_or_path")

# Keys of PEFT's file that change nothing in what a saved adapter computes, with the values that may stand there;
# None: any. Every other key that is not ours must be off: null, false or empty.
_HARMLESS = {
    "auto_mapping": None,
    "inference_mode": None,
    "init_lora_weights": (True, False, "gaussian"),  # other ways also change the base weights
    "megatron_core": None,
    "peft_version": None,
    "qalora_group_size": None,
    "revision": None,
    "task_type": None,
}
_OFF = (None, False, "", [], {})


@dataclass(frozen=True)
class LoraConfig:
    """The settings of a LoRA adapter; names, meanings and defaults are PEFT's.

    Attributes:
        target_modules: which linear layers: a module's name, the end of it after a dot, or a module group of the
            family (``language_model``, ``vision_tower``, ``aligner``), which means all linear layers in it.
        r: rank of the update.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: share of the input of A that is dropped in training.
        modules_to_save: modules that are trained and saved whole, by name or the end of it after a dot.
        base_model_name_or_path: where the base was, for people and for PEFT.
    """

    target_modules: tuple[str, ...]
    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()
    base_model_name_or_path: str | None = None

    @property
    def scaling(self) -> float:
        """What the update is multiplied by."""
        return self.lora_alpha / self.r

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: str) -> LoraConfig:
        """From a table of the attributes above; None stands for a default.

        Raises:
            InputError: a key is unknown, a value has the wrong type or lies out of range. ``where`` names the table.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        if unknown := sorted(given.keys() - set(_SETTINGS)):
            raise InputError(f"{where}: unknown key '{unknown[0]}'; known: {', '.join(_SETTINGS)}")
        if "target_modules" not in given:
            raise InputError(f"{where}: target_modules is missing; it names the layers to adapt")
        for key in ("target_modules", "modules_to_save"):
            given[key] = _names(given.get(key, []), f"{where}: {key}")
        if not given["target_modules"]:
            raise InputError(f"{where}: target_modules is empty; it names the layers to adapt")
        config = cls(**given)
        config._check(where)
        return config

    @classmethod
    def read(cls, directory: Path) -> LoraConfig:
        """From the adapter_config.json of an adapter's directory.

        Raises:
            InputError: the file is missing or damaged, or asks for something that is not implemented here.
        """
        path = directory / CONFIG_NAME
        raw = read_json(path)
        if raw.get("peft_type") != _KIND:
            raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r}; only LORA adapters can be used")
        if raw.get("bias", _BIAS) != _BIAS:
            raise InputError(f"{path}: bias is {raw['bias']!r}; only '{_BIAS}' is implemented")
        for key in raw.keys() - set(_SETTINGS) - {"peft_type", "bias"}:
            if not _is_harmless(key, raw[key]):
                raise InputError(f"{path}: {key} is {raw[key]!r}, which is not implemented")
        return cls.from_settings({key: raw.get(key) for key in _SETTINGS}, str(path))

    @classmethod
    def from_section(cls, section: Mapping[str, Any], where: str) -> LoraConfig:
        """From a YAML's ``lora`` section: the settings of its ``adapter``, if it names one, and over them its own."""
        own = {key: value for key, value in section.items() if value is not None}
        adapter = own.pop("adapter", None)
        inherited = cls.read(Path(adapter)).settings() if adapter else {}
        return cls.from_settings({**inherited, **own}, where)

    def settings(self) -> dict[str, Any]:
        """The attributes by name."""
        return {name: getattr(self, name) for name in _SETTINGS}

    def to_json(self) -> str:
        """The text of adapter_config.json."""
        settings = {**self.settings(), "modules_to_save": list(self.modules_to_save) or None}
        kind = {"peft_type": _KIND, "task_type": _TASK, "bias": _BIAS, "inference_mode": True}
        return json.dumps({**settings, **kind}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _check(self, where: str) -> None:
        if type(self.r) is not int or self.r < 1:
            raise InputError(f"{where}: r is {self.r!r}; expected a whole number above 0")
        if not _is_number(self.lora_alpha) or self.lora_alpha <= 0:
            raise InputError(f"{where}: lora_alpha is {self.lora_alpha!r}; expected a number above 0")
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise InputError(f"{where}: lora_dropout is {self.lora_dropout!r}; expected a number from 0 to below 1")
        if not isinstance(self.base_model_name_or_path, str | None):
            raise InputError(f"{where}: base_model_name_or_path is {self.base_model_name_or_path!r}; expected a text")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{where} is {value!r}; expected a list of names")
    return tuple(value)


def _is_harmless(key: str, value: Any) -> bool:
    if key in _HARMLESS:
        return _HARMLESS[key] is None or value in _HARMLESS[key]
    return value in _OFF

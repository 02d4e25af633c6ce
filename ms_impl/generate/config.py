"""How answers are generated: what Hugging Face's generation_config.json of a checkpoint says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, listed, quote
from ms_impl.io.checkpoint_assets import CHAT_FORMAT, GENERATION_NAME, chat_format_of, find_generation_config
from ms_impl.io.json_files import read_json

logger = logging.getLogger(__name__)

_INFINITE = 1e30
_NO_MATTER = frozenset({"transformers_version", "_from_model_config", "pad_token_id", "bos_token_id"})


@dataclass(frozen=True)
class GenerationConfig:
    """The defaults are Hugging Face's, but for the length; a family's record has its own (``Family.generation``).

    Args:
        chat_format: the family's name for how a prompt is put together and where an answer ends.
        do_sample: draw from the distribution, or take the likeliest token.
        temperature: the logits are divided by it; above 0.
        top_k: draw among the k likeliest tokens; 0 is no limit.
        top_p: draw among the likeliest tokens that together have at least this probability; 1 is no limit.
        repetition_penalty: tokens of the prompt and the answer, or those that the template's policy says, become less
            likely by this factor; 1 is no penalty. It counts for the likeliest token, too.
        max_new_tokens: where an answer is cut off.
        max_window_size: tokens of system message and history that a chat keeps; None is no limit.
        eos_token_id: tokens that end an answer, beside the stop words of ``chat_format``; one id or several.
        enable_thinking: answers of a model that can think begin with their thinking.
        enable_thinking_budget: the thinking ends after ``thinking_budget`` tokens at most.
    """

    chat_format: str = "chatml"
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    max_window_size: int | None = None
    eos_token_id: int | tuple[int, ...] = ()
    enable_thinking: bool = False
    enable_thinking_budget: bool = False
    thinking_budget: int | None = 2048

    def __post_init__(self):
        rules = {
            "chat_format must be a word": isinstance(self.chat_format, str),
            "do_sample must be true or false": isinstance(self.do_sample, bool),
            "temperature must be a number above 0": _is_number(self.temperature) and self.temperature > 0,
            "top_k must be a whole number, 0 or more": _is_whole(self.top_k),
            "top_p must be above 0 and at most 1": _is_number(self.top_p) and 0 < self.top_p <= 1,
            "repetition_penalty must be a number above 0": _is_number(self.repetition_penalty)
            and self.repetition_penalty > 0,
            "max_new_tokens must be a whole number above 0": _is_whole(self.max_new_tokens) and self.max_new_tokens > 0,
            "max_window_size must be a whole number above 0": self.max_window_size is None
            or (_is_whole(self.max_window_size) and self.max_window_size > 0),
            "eos_token_id must be a whole number or several": all(_is_whole(token) for token in self.eos_token_ids),
            "enable_thinking must be true or false": isinstance(self.enable_thinking, bool),
            "enable_thinking_budget must be true or false": isinstance(self.enable_thinking_budget, bool),
            "thinking_budget must be a whole number, 0 or more": self.thinking_budget is None
            or _is_whole(self.thinking_budget),
        }
        if broken := [
            f"{rule}, not {quote(getattr(self, rule.split()[0]))}" for rule, holds in rules.items() if not holds
        ]:
            raise InputError("generation settings: " + "; ".join(broken))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """``eos_token_id`` as several."""
        return tuple(self.eos_token_id) if isinstance(self.eos_token_id, (list, tuple)) else (self.eos_token_id,)

    def changed(self, **changes: Any) -> "GenerationConfig":
        """A copy with other settings. Raises InputError for a setting that does not exist."""
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in changes if name not in known]:
            raise InputError(f"unknown generation settings {', '.join(unknown)}; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], source: str = GENERATION_NAME, defaults: Mapping[str, Any] | None = None
    ) -> "GenerationConfig":
        """Read a parsed generation_config.json; null is the default. Unknown keys are left out with a warning."""
        known = {field.name for field in dataclasses.fields(cls)}
        if ignored := sorted(set(raw) - known - _NO_MATTER):
            logger.warning("%s: ignored: %s", source, listed(ignored))
        try:
            told = {name: value for name, value in raw.items() if name in known and value is not None}
            return cls(**{**(defaults or {}), **told})
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @classmethod
    def for_checkpoint(
        cls,
        checkpoint: Path,
        config_path: Path,
        adapter: str | Path | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> "GenerationConfig":
        """Read the generation_config.json beside a checkpoint's weights or its config.json; the defaults if none is.

        The chat format is that of the directory ``adapter``, if it names one: what the adapter was trained in.

        A warning says that there is none where the family's ``defaults`` have a chat format, which says that there are
        several: weights do not tell theirs.
        """
        trained = {"chat_format": name} if adapter and (name := chat_format_of(Path(adapter))) else {}
        if path := find_generation_config(checkpoint, config_path):
            return cls.from_dict({**read_json(path), **trained}, str(path), defaults)
        if trained:
            return cls.from_dict(trained, str(Path(adapter) / GENERATION_NAME), defaults)
        default = cls.from_dict({}, defaults=defaults)
        if CHAT_FORMAT not in (defaults or {}):
            return default
        logger.warning(
            "%s: no %s beside it or its %s; prompts are written in chat format '%s'. A chat model needs that file, or "
            "chat_format set (in YAML: model.generation_config.chat_format)",
            checkpoint, GENERATION_NAME, config_path.name, default.chat_format,
        )  # fmt: skip
        return default


def _is_whole(value: Any) -> bool:
    """A token id or a count: from 0 to what an int32 holds."""
    return type(value) is int and 0 <= value < 1 << 31


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _INFINITE  # NaN is not

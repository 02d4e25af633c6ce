"""The settings of an answer: what the page shows of them, and the fields of a request that they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ms_impl.serve.engine import Engine
from ms_impl.web.words import translations

SAMPLING = ("temperature", "top_p", "max_tokens")
THINKING = ("enable_thinking", "thinking_budget")


@dataclass
class Controls:
    """Made inside of a ``gr.Blocks``. Which there are depends on what the model's template can do."""

    engine: Engine
    words: gr.I18n
    parts: dict[str, Any] = field(default_factory=dict)  # by the names of settings

    def __post_init__(self) -> None:
        generation, template = self.engine.model.generation, self.engine.template
        chosen = generation.temperature if generation.do_sample else 0
        self._slider("temperature", 0, max(2, chosen), 0.05, chosen, info=True)
        self._slider("top_p", 0.05, 1, 0.05, generation.top_p, info=True)
        self._slider("max_tokens", 1, self.engine.scheduler.columns, 1, self._longest())
        if template.think_end is not None:
            self._box("enable_thinking", generation.enable_thinking)
            budget = (generation.thinking_budget or 0) if generation.enable_thinking_budget else 0
            self._slider(
                "thinking_budget", 0, self.engine.scheduler.columns, 1, min(budget, self.engine.scheduler.columns)
            )
        for name in template.request_options:
            if isinstance(value := getattr(template.options, name, None), bool):
                self._box(name, value)

    def fields(self, values: list[Any]) -> dict[str, Any]:
        """Those of a chat request, by the values of ``parts``; a length that is left as it is is not told."""
        told = dict(zip(self.parts, values))
        fields: dict[str, Any] = {"temperature": told.pop("temperature"), "top_p": told.pop("top_p")}
        if (longest := told.pop("max_tokens")) != self._longest():
            fields["max_tokens"] = longest
        if "enable_thinking" in told:
            thinks, budget = (told.pop(name) for name in THINKING)
            fields["chat_template_kwargs"] = {"enable_thinking": thinks}
            if thinks and budget:
                fields["chat_template_kwargs"]["thinking_budget"] = budget
        if told:
            fields["mm_processor_kwargs"] = told
        return fields

    def _longest(self) -> int:
        return min(self.engine.model.generation.max_new_tokens, self.engine.scheduler.columns)

    def _slider(self, name: str, least: float, most: float, step: float, value: float, info: bool = False) -> None:
        told = self.words(f"{name}_info") if info else None
        self.parts[name] = gr.Slider(least, most, value, step=step, label=self.words(name), info=told, elem_id=name)

    def _box(self, name: str, value: bool) -> None:
        label = self.words(name) if name in translations()["en"] else name
        self.parts[name] = gr.Checkbox(value, label=label, elem_id=name)

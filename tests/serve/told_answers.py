"""A template that tells answers how to begin: with a Chinese name where a question says 框, at length where it says so.

Which box the shape has is the model's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.register import TemplateMeta, register_template

BEGINNINGS = {"框": "<ref>绿色圆形</ref><box>", "at length": "one two three four five " * 300}


@dataclass
class Beginning:
    """A token policy."""

    tokens: Sequence[int]
    overrun: int = 0

    def forced(self, generated: Sequence[int]) -> int | None:
        return self.tokens[len(generated)] if len(generated) < len(self.tokens) else None

    def penalised(self, prompt: Sequence[int], generated: Sequence[int]) -> Sequence[int]:
        return [*prompt, *generated]


class ToldAnswers(QwenVLTemplate):
    def policy(self, sample: Any, generation: Any) -> Beginning | None:
        question = self.tokenizer.decode(sample.input_ids).rpartition("user")[2]
        for said, beginning in BEGINNINGS.items():
            if said in question:
                return Beginning(self.encode_answer(beginning, generation.chat_format))
        return None


register_template(TemplateMeta("told_answers", template_cls=ToldAnswers))

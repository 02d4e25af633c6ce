"""A template that tells answers how to begin: with a Chinese name where a question says 框, at length where it says so.

Which box the shape has is the model's to say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.register import TemplateMeta, register_template

BEGINNINGS = {"框": "<ref>绿色圆形</ref><box>", "at length": "one two three four five " * 300}
PAUSE = 0.01  # seconds before each token at length: the small model would be done before anyone could stop it


@dataclass
class Beginning:
    """A token policy."""

    tokens: Sequence[int]
    pause: float
    overrun: int = 0

    def forced(self, generated: Sequence[int]) -> int | None:
        time.sleep(self.pause)
        return self.tokens[len(generated)] if len(generated) < len(self.tokens) else None

    def penalised(self, prompt: Sequence[int], generated: Sequence[int]) -> Sequence[int]:
        return [*prompt, *generated]


class ToldAnswers(QwenVLTemplate):
    def policy(self, sample: Any, generation: Any) -> Beginning | None:
        question = self.tokenizer.decode(sample.input_ids).rpartition("user")[2]
        for said, beginning in BEGINNINGS.items():
            if said in question:
                tokens = self.encode_answer(beginning, generation.chat_format)
                return Beginning(tokens, PAUSE if said == "at length" else 0)
        return None


register_template(TemplateMeta("told_answers", template_cls=ToldAnswers))

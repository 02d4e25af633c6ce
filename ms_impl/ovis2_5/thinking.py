"""Thinking before the answer, and a budget for it. numpy is not needed here, and no framework.

The original generates twice: at most as many tokens as the budget, then, if the answer has not ended, the rest. Where
the thinking has not ended either, a fixed text that ends it comes between. Here that is one answer, whose policy forces
the tokens of the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from ms_impl.errors import InputError, quote

THINK_END = "</think>"
EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)


class NewTokens:
    """The policy of an answer in one phase: nothing is forced, and the penalty covers the answer's own tokens."""

    overrun = 0

    def forced(self, generated: Sequence[int]) -> int | None:
        """None: every token is sampled."""
        return None

    def penalised(self, prompt: Sequence[int], generated: Sequence[int]) -> Sequence[int]:
        """The answer's own tokens, not the prompt's, as in the original."""
        return generated


class ThinkingBudget(NewTokens):
    """The policy of an answer that thinks for at most ``budget`` tokens.

    Args:
        think_end_id: the token that ends the thinking.
        early_stop_ids: what is forced where the budget is used up and the thinking has not ended.
    """

    def __init__(self, budget: int, think_end_id: int, early_stop_ids: Sequence[int]):
        self.budget = budget
        self.think_end_id = think_end_id
        self.early_stop_ids = list(early_stop_ids)
        self.overrun = len(self.early_stop_ids)

    def forced(self, generated: Sequence[int]) -> int | None:
        """The next token of the text that ends the thinking; None: sample it."""
        place = len(generated) - self.budget
        if not 0 <= place < len(self.early_stop_ids) or self._thought(generated):
            return None
        return self.early_stop_ids[place]

    def penalised(self, prompt: Sequence[int], generated: Sequence[int]) -> Sequence[int]:
        """The tokens that were sampled in the phase: once the budget is used up it begins anew, as in the original."""
        if len(generated) < self.budget:
            return generated
        forced = 0 if self._thought(generated) else len(self.early_stop_ids)
        return generated[self.budget + forced :]

    def _thought(self, generated: Sequence[int]) -> bool:
        """Whether the thinking has ended within the budget."""
        return self.think_end_id in generated[: self.budget]


def check_budget(budget: int, max_new_tokens: int) -> None:
    """Raise InputError for a budget that leaves no token for the answer."""
    if budget >= max_new_tokens:
        raise InputError(
            f"thinking_budget {quote(budget)} leaves nothing of max_new_tokens {max_new_tokens} for the answer; "
            "raise max_new_tokens or lower the budget"
        )


def split_ids(ids: Sequence[int], think_end_id: int) -> tuple[list[int], list[int]]:
    """The thinking, up to and with the first token that ends it, and the answer; all is answer where none does."""
    end = ids.index(think_end_id) + 1 if think_end_id in ids else 0
    return list(ids[:end]), list(ids[end:])


def without_thinking(answer: str) -> str:
    """An earlier answer as a later prompt has it, as the original's chat template cuts it."""
    return answer.split(THINK_END)[-1].lstrip("\n") if THINK_END in answer else answer

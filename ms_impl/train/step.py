"""What one step of training did, and the line that shows it. No framework is imported here."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

_RECENT = 100  # steps whose median is taken for the time that one needs


class StepPlan(Protocol):
    """What is known of a run's steps before they are made; ``step`` counts from 0 here."""

    total_steps: int

    def useful_tokens(self, step: int) -> int:
        """Tokens of the global batch, padding not counted."""

    def all_tokens(self, step: int) -> int:
        """Tokens of the global batch, padding too."""

    def epoch_at(self, step: int) -> float:
        """Epochs done when ``step`` begins; ``total_steps`` asks for the end."""

    def records(self, step: int) -> list[str]:
        """The conversations of the global batch, as errors name them."""


class Feed(Protocol):
    """What the training data tell of a run: its plan, and the step it begins with: not 0 when it is resumed."""

    plan: StepPlan
    first_step: int


@dataclass(frozen=True)
class Step:
    """One step, the ``number``-th of ``total`` (from 1).

    ``lr`` has one rate for each group of parameters that has its own. ``grad_norm`` is None where nothing asks for it.
    After an ``overflow``, a gradient that is not finite, the parameters were not updated. ``seconds`` is the time that
    the step took, waiting for its data included, saving and evaluating after it not. ``eta`` is the time that the
    steps to come need in seconds, None while only the first is known.
    """

    number: int
    total: int
    epoch: float
    loss: float
    overflow: bool
    loss_scale: float
    lr: tuple[float, ...]
    grad_norm: float | None
    seconds: float
    eta: float | None
    useful_tokens: int
    all_tokens: int

    @property
    def useful_tokens_per_second(self) -> float:
        return self.useful_tokens / self.seconds

    @property
    def useful_share(self) -> float:
        """Useful tokens / all tokens."""
        return self.useful_tokens / self.all_tokens

    def record(self) -> dict[str, Any]:
        """The step as a line of the log has it."""
        return {
            "step": self.number,
            "epoch": round(self.epoch, 6),
            "loss": self.loss,
            "overflow": self.overflow,
            "loss_scale": self.loss_scale,
            "lr": self.lr[0] if len(self.lr) == 1 else list(self.lr),
            "grad_norm": self.grad_norm,
            "seconds": round(self.seconds, 4),
            "useful_tokens": self.useful_tokens,
            "all_tokens": self.all_tokens,
            "useful_tokens_per_second": round(self.useful_tokens_per_second, 1),
        }

    def scalars(self) -> dict[str, float]:
        """The step as curves show it; several learning rates are ``lr/0``, ``lr/1`` …"""
        rates = {"lr": self.lr[0]} if len(self.lr) == 1 else {f"lr/{group}": rate for group, rate in enumerate(self.lr)}
        norm = {} if self.grad_norm is None else {"grad_norm": self.grad_norm}
        speed = {"useful_tokens_per_second": self.useful_tokens_per_second, "useful_share": self.useful_share}
        return {"loss": self.loss, **rates, **norm, "loss_scale": self.loss_scale, **speed}

    def line(self) -> str:
        """The step as a user reads it."""
        all_per_second = self.all_tokens / self.seconds
        parts = [
            f"step {self.number:>{len(str(self.total))}}/{self.total}",
            f"epoch {self.epoch:.2f}",
            f"loss {self.loss:.4f}",
            f"lr {', '.join(f'{rate:.2e}' for rate in self.lr)}",
            "" if self.grad_norm is None else f"grad norm {self.grad_norm:.3g}",
            f"overflow at loss scale {self.loss_scale:g}: not updated" if self.overflow else "",
            f"{self.useful_tokens_per_second:,.0f} useful tokens/s ({self.useful_share:.0%} of {all_per_second:,.0f})",
            f"{self.seconds:.3g} s/step",
            "" if self.eta is None else f"ETA {duration(self.eta)}",
        ]
        return "  ".join(filter(None, parts))


class Pace:
    """The time a step needs: the median of the recent ones. The first is left out, for it compiles the graph."""

    def __init__(self):
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._first = True

    def add(self, seconds: float) -> None:
        if not self._first:
            self._recent.append(seconds)
        self._first = False

    def time_for(self, steps: int) -> float | None:
        """Seconds that ``steps`` more will need; None while only the first step is known."""
        return steps * median(self._recent) if self._recent else None


def duration(seconds: float) -> str:
    """A time in its two largest units: ``2 min 5 s``."""
    left = math.ceil(seconds)
    words = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or words:
            words.append(f"{count} {unit}")
        if len(words) == 2:
            break
    return " ".join(words) or "0 s"

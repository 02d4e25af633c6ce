"""Answers as OpenAI's API writes them: whole, or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_impl.serve.choice import Piece, TokenWorth
from ms_impl.serve.reasoning import Reasoning

JSON = dict[str, Any]


@dataclass
class Usage:
    """Tokens of a request."""

    prompt: int = 0
    completion: int = 0

    def json(self) -> JSON:
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass
class Completion:
    """The answers of one request.

    Args:
        think_end: what ends the thinking of its answers; None: they do not think.
        logprobs: whether their tokens' log-probabilities are told.
    """

    model: str
    count: int
    think_end: str | None
    logprobs: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._reasonings = [Reasoning(self.think_end) for _ in range(self.count)]
        self._said = ["" for _ in range(self.count)]
        self._thought = ["" for _ in range(self.count)]
        self._worths: list[list[TokenWorth]] = [[] for _ in range(self.count)]
        self._reasons: list[str | None] = [None] * self.count

    def beginning(self) -> list[JSON]:
        """The first chunk of each answer."""
        return [self._chunk(number, {"role": "assistant", "content": ""}) for number in range(self.count)]

    def take(self, number: int, piece: Piece) -> tuple[str, str]:
        """Take a piece of an answer: what it adds to the thinking, and to what is said."""
        thought, said = self._reasonings[number].add(piece.text, last=piece.reason is not None)
        self._thought[number] += thought
        self._said[number] += said
        self._worths[number] += piece.worths
        self._reasons[number] = piece.reason
        return thought, said

    def add(self, number: int, piece: Piece) -> list[JSON]:
        """Take a piece of an answer; the chunks that tell of it."""
        thought, said = self.take(number, piece)
        chunks = []
        delta = {name: text for name, text in (("reasoning_content", thought), ("content", said)) if text}
        if delta or piece.worths:
            chunks.append(self._chunk(number, delta or {"content": ""}, piece.worths))
        if piece.reason:
            chunks.append(self._chunk(number, {}, reason=piece.reason))
        return chunks

    def usage_chunk(self, usage: Usage) -> JSON:
        """The chunk after the last."""
        return self._frame("chat.completion.chunk") | {"choices": [], "usage": usage.json()}

    def whole(self, usage: Usage) -> JSON:
        """The answers in one."""
        choices = []
        for number in range(self.count):
            message: JSON = {"role": "assistant", "content": self._said[number]}
            if self.think_end is not None:
                message["reasoning_content"] = self._thought[number] or None
            told = self._told(self._worths[number]) if self.logprobs else None
            choices.append({"index": number, "message": message, "logprobs": told,
                            "finish_reason": self._reasons[number]})  # fmt: skip
        return self._frame("chat.completion") | {"choices": choices, "usage": usage.json()}

    def _frame(self, kind: str) -> JSON:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, number: int, delta: JSON, worths: Sequence[TokenWorth] = (), reason: str | None = None) -> JSON:
        told = self._told(worths) if worths else None
        choice = {"index": number, "delta": delta, "logprobs": told, "finish_reason": reason}
        return self._frame("chat.completion.chunk") | {"choices": [choice]}

    @staticmethod
    def _told(worths: Sequence[TokenWorth]) -> JSON:
        return {
            "content": [
                {**_token(worth.token, worth.logprob), "top_logprobs": [_token(*each) for each in worth.top]}
                for worth in worths
            ],
            "refusal": None,
        }


def _token(token: bytes, logprob: float) -> JSON:
    return {"token": token.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(token)}

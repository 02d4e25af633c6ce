"""A conversation with a model: it keeps what has been said, so that a question is all that is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from PIL import Image

from ms_impl.data.template import Query, Template, Turn


class ChatSession:
    """Questions in, answers out; each turn sees those before it.

        model, template = ms_impl.load("checkpoint")
        session = ChatSession(model, template)
        print(session.ask([{"image": "a.png"}, {"text": "What is this?"}]))
        print(session.ask("And what colour is it?"))

    Args:
        model: as ``ms_impl.load`` gives it. Several sessions may share one.
        template: the same.
        system: the system message; None: the family's own.
        dataset_dir: stands before relative paths of media.
        seed: makes sampling repeatable: every turn draws from it anew.
        settings: generation settings that differ from the model's own, such as ``do_sample=False``.

    Attributes:
        history: (query, answer) pairs, oldest first. It may be changed.
    """

    def __init__(
        self,
        model: Any,
        template: Template,
        system: str | None = None,
        *,
        dataset_dir: str | os.PathLike | None = None,
        seed: int | None = None,
        **settings: Any,
    ):
        self.model = model
        self.template = template
        self.history: list[Turn] = []
        self._settings = {"system": system, "dataset_dir": dataset_dir, "seed": seed, **settings}

    def ask(self, query: Query, stream: Callable[[str], None] | None = None, **changes: Any) -> str:
        """The answer; ``stream`` gets its pieces as they come. ``changes`` are settings of this turn alone.

        Raises InputError, and forgets the query, as ``model.chat`` does.
        """
        pieces = []
        for piece in self.stream(query, **changes):
            pieces.append(piece)
            if stream:
                stream(piece)
        return "".join(pieces)

    def stream(self, query: Query, **changes: Any) -> Generator[str, None, None]:
        """The pieces of the answer as they come. One that is closed early stays in the history as far as it came.

        Raises InputError at once.
        """
        settings = {**self._settings, **changes}
        pieces = self.model.chat(self.template, query, self.history, stream=True, **settings)
        return self._recorded(self.template.query_text(query), pieces)

    def reset(self) -> None:
        """Forget what has been said."""
        self.history = []

    def draw_boxes(self, font: str | Path | None = None) -> Image.Image | None:
        """The latest image with the boxes of the last answer; None if there is no such thing.

        Raises InputError before the first turn.
        """
        return self.template.draw_boxes(self.history, self._settings["dataset_dir"], font)

    def _recorded(self, query: str, pieces: Generator[str, None, Any]) -> Generator[str, None, None]:
        """The same pieces; in the end the turn is in the history."""
        before, said = list(self.history), []
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        except GeneratorExit:
            pieces.close()
            self.history = [*before, (query, "".join(said) or None)]
            raise
        self.history = [*before, (query, "".join(said))]

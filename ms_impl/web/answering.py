"""The last question of a session, answered by the engine while the page looks on."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError
from ms_impl.serve.choice import LENGTH
from ms_impl.serve.engine import Engine
from ms_impl.serve.exchange import Exchange, Left
from ms_impl.serve.problems import Refusal
from ms_impl.serve.reasoning import Reasoning
from ms_impl.web.drawings import drawing_of
from ms_impl.web.session import Session, Turn
from ms_impl.web.words import sentence_for

logger = logging.getLogger(__name__)

BETWEEN = 0.05  # seconds between two views of a growing answer: nobody reads faster


async def answer(session: Session, engine: Engine, fields: dict[str, Any], language: str) -> AsyncIterator[None]:
    """Answer the last turn; yields whenever there is something new to be seen of it.

    ``fields`` are those of a chat request beside its messages. What goes wrong is told in the turn, in ``language``.
    """
    turn = session.turns[-1]
    try:
        session.exchange = Exchange(engine, session.request(engine.name, **fields))
        async for _ in _grow(turn, session.exchange):
            yield
        if turn.answer:
            turn.drawing = await asyncio.to_thread(_drawn, session, turn, engine)
    except Refusal as refusal:
        turn.problem = sentence_for(language, refusal.status, refusal.message)
    except Exception:
        logger.exception("an answer of the page failed")
        turn.problem = sentence_for(language, 500, "")
    finally:
        if session.exchange:
            session.exchange.cancel()
        session.exchange, turn.grows = None, False
    yield


async def _grow(turn: Turn, exchange: Exchange) -> AsyncIterator[None]:
    """Let an answer grow to its end, or until it is stopped. Raises Refusal."""
    answering = await exchange.begin()
    reasoning = Reasoning(exchange.engine.template.think_end if answering.thinks else None)
    seen = 0.0
    try:
        async for _, piece in exchange.pieces():
            thought, said = reasoning.add(piece.text, last=piece.reason is not None)
            turn.thinking += thought
            turn.answer += said
            if piece.reason == LENGTH:
                turn.note = "cut"
            if time.monotonic() - seen > BETWEEN:
                yield
                seen = time.monotonic()
    except Left:
        turn.note = "stopped"


def _drawn(session: Session, turn: Turn, engine: Engine) -> tuple[str, Path] | None:
    """What the answer shows, as a file beside the uploads; None where it shows nothing."""
    try:
        found = drawing_of(turn.answer, session.shown_media(), engine.template)
    except InputError:
        logger.warning("an answer could not be drawn", exc_info=True)
        return None
    if found is None:
        return None
    what, image = found
    file = Path(tempfile.mkdtemp(prefix="drawn-", dir=engine.settings.media_dir)) / f"{what}.png"
    image.save(file)
    return what, file

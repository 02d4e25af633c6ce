"""The page: a conversation, a place to ask with media, and settings."""

from __future__ import annotations

import html
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from ms_impl.data.media_sources import IMAGE
from ms_impl.serve.engine import Engine
from ms_impl.web.answering import answer
from ms_impl.web.controls import Controls
from ms_impl.web.messages import messages
from ms_impl.web.session import Session, Upload, kind_of
from ms_impl.web.words import language_of, translations, word

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_FONTS = ("system-ui", "-apple-system", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif")
_MONOSPACE = ("ui-monospace", "Consolas", "monospace")
HEIGHT = "calc(100dvh - 16.25rem)"  # of the conversation: what is below it can be seen, too
_KEPT = 24 * 3600  # seconds that uploads are kept at most


def theme() -> gr.themes.Base:
    """Fonts of the machine that shows the page: none is fetched."""
    return gr.themes.Soft(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=_FONTS,
                          font_mono=_MONOSPACE, radius_size="md")  # fmt: skip


class Page:
    """The page of one engine. Attribute ``blocks`` is what gradio serves."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.words = gr.I18n(**translations())
        with gr.Blocks(title=engine.name, fill_height=True, analytics_enabled=False,
                       delete_cache=(_KEPT // 24, _KEPT)) as self.blocks:  # fmt: skip
            self._lay_out()
            self._wire()

    def _lay_out(self) -> None:
        words, takes = self.words, self.engine.template.takes
        empty = "empty" if not takes else "empty_image" if set(takes) == {IMAGE} else "empty_media"
        gr.HTML(f"<h1>{html.escape(self.engine.name)}</h1>", elem_id="title", padding=False)
        self.chat = gr.Chatbot(
            label=words("conversation"), show_label=False, elem_id="chat", height=HEIGHT, buttons=["copy"],
            placeholder=f"{words(empty)}\n\n{words('stays')}", layout="bubble", allow_tags=False, latex_delimiters=[
                {"left": "$$", "right": "$$", "display": True}, {"left": "\\(", "right": "\\)", "display": False},
            ],
        )  # fmt: skip
        self.question = gr.MultimodalTextbox(
            label=words("question"), show_label=False, placeholder=str(words("ask")), file_count="multiple",
            file_types=list(takes), sources=["upload"] if takes else [], elem_id="question", autofocus=True,
            max_plain_text_length=1 << 20, max_lines=8,
        )  # fmt: skip
        with gr.Row(elem_id="buttons"):
            self.again = gr.Button(words("regenerate"), interactive=False, size="sm", elem_id="again")
            self.empty = gr.Button(words("clear"), interactive=False, size="sm", elem_id="clear")
        with gr.Accordion(words("settings"), open=False, elem_id="settings"):
            self.controls = Controls(self.engine, words)

    def _wire(self) -> None:
        session = gr.State(Session())
        inputs = list(self.controls.parts.values())
        shown = [self.chat, self.question, self.again, self.empty]
        common: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        self.question.submit(self._ask, [session, self.question, *inputs], shown, **common)
        self.again.click(self._ask_again, [session, *inputs], shown, **common)
        self.question.stop(self._stop, [session], None, queue=False, **common)
        self.empty.click(self._clear, [session], shown, queue=False, **common)

    async def _ask(self, request: gr.Request, session: Session, asked: dict[str, Any], *values: Any) -> AsyncIterator:
        language = language_of(request.headers.get("accept-language"))
        if session.exchange:
            return
        text, media = (asked.get("text") or "").strip(), [Path(file) for file in asked.get("files") or ()]
        if problem := self._problem(text, media, language):
            gr.Warning(problem)
            yield gr.skip()
            return
        session.ask(text, [Upload(kind_of(file) or IMAGE, file) for file in media])
        async for view in self._answered(session, values, language, emptied=True):
            yield view

    async def _ask_again(self, request: gr.Request, session: Session, *values: Any) -> AsyncIterator:
        if session.exchange or not session.turns:
            return
        session.ask_again()
        language = language_of(request.headers.get("accept-language"))
        async for view in self._answered(session, values, language):
            yield view

    async def _answered(
        self, session: Session, values: tuple, language: str, emptied: bool = False
    ) -> AsyncIterator[tuple]:
        """Views of the session while its last question is answered."""
        asking = {"value": {"text": "", "files": []}} if emptied else {}
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        style = self.engine.template.boxes
        yield messages(session.turns, style, language), gr.update(submit_btn=False, stop_btn=True, **asking), off, on
        async for _ in answer(session, self.engine, self.controls.fields(list(values)), language):
            yield messages(session.turns, style, language), gr.skip(), gr.skip(), gr.skip()
        any_turn = gr.update(interactive=bool(session.turns))
        yield gr.skip(), gr.update(submit_btn=True, stop_btn=False), any_turn, any_turn

    async def _stop(self, session: Session) -> None:
        session.stop()

    async def _clear(self, session: Session) -> tuple:
        session.clear()
        off = gr.update(interactive=False)
        return [], gr.update(submit_btn=True, stop_btn=False, value={"text": "", "files": []}), off, off

    def _problem(self, text: str, media: list[Path], language: str) -> str | None:
        """Why a question cannot be asked, in a sentence."""
        takes = self.engine.template.takes
        for file in media:
            if kind_of(file) not in takes:
                names = ", ".join(word(language, kind) for kind in takes)
                return word(language, "no_kind", name=os.path.basename(file), takes=names)
        return None if text else word(language, "no_question")

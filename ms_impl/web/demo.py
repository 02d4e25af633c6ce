"""The page from the command line: the model, the page, the socket, and an end in order."""

from __future__ import annotations

import argparse
import logging
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from ms_impl.serve.engine import Engine
from ms_impl.serve.server import address, bound, load_engine, run, settings_of
from ms_impl.serve.settings import ServerSettings
from ms_impl.web.guard import Guard
from ms_impl.web.page import CSS, Page, theme

logger = logging.getLogger(__name__)

LEFT = 2.0  # seconds for open tabs when the page ends: they hold their connections for as long as it lives


def web(arguments: argparse.Namespace, uploads: Path) -> int:
    """Load the model and serve its page until a signal comes. Raises InputError."""
    arguments.allowed_media_dir, arguments.log_prompts, arguments.drain_seconds = uploads, False, LEFT
    settings = settings_of(arguments)
    listening = bound(arguments.host, arguments.port)
    name = arguments.name or Path(arguments.model).resolve().name
    engine = load_engine(arguments, settings, name, arguments.adapter)
    app = make_app(engine, settings)
    where = address(listening)
    logger.info("%s is shown at %s", name, where)
    print(where, flush=True)
    if arguments.inbrowser:
        threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()
    run(app, listening, LEFT)
    return 0


def make_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """The application; it ends the engine when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    processing_utils.async_ssrf_protected_get = _refuse  # gradio would download a file that a request names by its URL
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, settings=settings)
    page = Page(engine)
    gr.mount_gradio_app(
        app, page.blocks, "/", max_file_size=settings.max_body, show_error=False, ssr_mode=False, footer_links=[],
        i18n=page.words, theme=theme(), css=CSS, pwa=False, enable_monitoring=False,
    )  # fmt: skip
    return app


async def _refuse(url: str) -> Any:
    raise PermissionError("nothing is fetched from elsewhere")

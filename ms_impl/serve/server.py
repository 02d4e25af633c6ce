"""A server from the command line: arguments, the models, the socket, and an end in order."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ms_impl.cli.custom import family_name
from ms_impl.errors import InputError
from ms_impl.generate.load import load
from ms_impl.serve.app import make_app
from ms_impl.serve.engine import Engine
from ms_impl.serve.own_machine import LOOPBACK
from ms_impl.serve.scheduler import Scheduler
from ms_impl.serve.settings import MediaLimits, ServerSettings

logger = logging.getLogger(__name__)

KEY_VARIABLE = "VLM_API_KEY"
MEGABYTE = 1 << 20
BACKLOG = 1024  # connections that wait to be taken


class Server(uvicorn.Server):
    """Ends in order at SIGTERM and SIGINT, and then with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(each, self.handle_exit) for each in signals]
        try:
            yield
        finally:
            for each, handler in zip(signals, before):
                signal.signal(each, handler)


def serve(arguments: argparse.Namespace) -> int:
    """Load the models and serve them until a signal comes. Raises InputError."""
    settings = settings_of(arguments)
    listening = bound(arguments.host, arguments.port)
    engines = load_engines(arguments, settings)
    where = address(listening)
    logger.info("serving %s at %s/v1", ", ".join(engines), where)
    print(f"{where}/v1", flush=True)
    run(make_app(engines, settings), listening, settings.drain_seconds)
    return 0


def run(app: FastAPI, listening: socket.socket, seconds: float) -> None:
    """Answer requests until a signal comes, and finish those of then within some seconds."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=int(seconds) + 1, lifespan="on",
        server_header=False, date_header=False, ws="none", h11_max_incomplete_event_size=1 << 16,
    )  # fmt: skip
    asyncio.run(Server(config).serve(sockets=[listening]))


def address(listening: socket.socket) -> str:
    """The beginning of URLs of a bound socket, which listens from now on."""
    listening.listen(BACKLOG)
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """Raises InputError for a directory that is not there, or a server open to others without a key."""
    key = arguments.api_key or os.environ.get(KEY_VARIABLE) or None
    local = arguments.host in LOOPBACK
    if not local and key is None:
        raise InputError(
            f"--host {arguments.host}: others could use this server; give it a key (--api_key, or {KEY_VARIABLE})"
        )
    media_dir: Path | None = arguments.allowed_media_dir
    if media_dir is not None and not media_dir.is_dir():
        raise InputError(f"--allowed_media_dir {media_dir}: not a directory")
    limits = MediaLimits(arguments.max_images, arguments.max_clips, arguments.max_pixels, arguments.max_frames,
                         arguments.max_seconds)  # fmt: skip
    return ServerSettings(
        key, media_dir, limits, arguments.max_body_mb * MEGABYTE, arguments.request_seconds, arguments.drain_seconds,
        arguments.log_prompts, local and key is None,
    )  # fmt: skip


def load_engines(arguments: argparse.Namespace, settings: ServerSettings) -> Mapping[str, Engine]:
    """The model by its name, and one more, merged in memory, for each adapter; of the model's name: in its place."""
    base = arguments.name or Path(arguments.model).resolve().name
    named: dict[str, str | None] = {base: None}
    for told in arguments.adapter:
        name, found, directory = told.partition("=")
        if not (name and found and directory) or named.get(name):
            raise InputError(f"--adapter {told}: expected NAME=DIR, each name once")
        named[name] = directory
    return {name: load_engine(arguments, settings, name, adapter) for name, adapter in named.items()}


def load_engine(arguments: argparse.Namespace, settings: ServerSettings, name: str, adapter: str | None) -> Engine:
    """A model that answers, its first graphs compiled."""
    family = family_name(arguments, arguments.model, arguments.config)
    names = {"config": arguments.config, "adapter": adapter, "model_type": family}
    model, template = load(arguments.model, arguments.dtype, compute_dtype=arguments.compute_dtype, **names)
    scheduler = Scheduler(model, template, arguments.max_batch, arguments.max_waiting, arguments.max_length,
                          arguments.kept_features_mb * MEGABYTE, arguments.kept_prefixes_mb * MEGABYTE)  # fmt: skip
    engine = Engine(name, model, template, scheduler, settings)
    engine.warm_up()
    return engine


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InputError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return made

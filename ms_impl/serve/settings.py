"""How a server is set up: read once, and then frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MediaLimits:
    """What the media of one request may be; told before anything is decoded.

    Args:
        images, clips: of one request; videos and sounds are clips.
        pixels: of an image, or of a frame.
        frames: of a video file, shown or not.
        seconds: of a video or a sound.
    """

    images: int = 8
    clips: int = 2
    pixels: int = 7680 * 4320
    frames: int = 20_000
    seconds: float = 600.0


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Args:
        api_key: what requests must bear; None: nothing.
        media_dir: file:// URLs may name files below it; None: none.
        max_body: bytes of a request.
        request_seconds: a request may take, from its arrival.
        drain_seconds: for what is being answered when the server is told to end.
        log_prompts: whether what is said goes into the log.
        local_hosts_only: whether requests must name this machine in their Host, so that no page that a browser shows
            can speak to the server under another name.
    """

    api_key: str | None = None
    media_dir: Path | None = None
    media: MediaLimits = MediaLimits()
    max_body: int = 64 << 20
    request_seconds: float = 600.0
    drain_seconds: float = 30.0
    log_prompts: bool = False
    local_hosts_only: bool = True

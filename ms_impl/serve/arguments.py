"""Arguments that the server and the page have both."""

from __future__ import annotations

import argparse


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """The types that ``load`` takes."""
    parser.add_argument("--dtype", help="of the weights: fp32, fp16 or bf16, also float32, float16, bfloat16")
    parser.add_argument("--compute_dtype", help="of the activations; bf16 on a CPU: prompts are read by its products")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """How much is answered at once, kept, and taken."""
    add = parser.add_argument
    add("--max_batch", type=whole(1, 512), default=8, help="answers at once")
    add("--max_waiting", type=whole(1, 100_000), default=64, help="requests that may wait; more get status 429")
    add("--max_length", type=whole(64, 1 << 24), default=4096, help="tokens of prompt and answer together")
    add("--kept_features_mb", type=whole(0, 1 << 20), default=256, help="of media that were encoded, for later turns")
    add("--kept_prefixes_mb", type=whole(0, 1 << 20), default=1024, help="of prompts' keys and values, for later turns")
    add("--max_images", type=whole(0, 1000), default=8, help="of a request")
    add("--max_clips", type=whole(0, 100), default=2, help="videos and sounds of a request")
    add("--max_pixels", type=whole(1, 1 << 30), default=7680 * 4320, help="of an image or a frame as it is sent")
    add("--max_frames", type=whole(1, 1 << 22), default=20_000, help="of a video as it is sent")
    add("--max_seconds", type=float, default=600.0, help="of a video or a sound")
    add("--max_body_mb", type=whole(1, 4096), default=32, help="of a request")
    add("--request_seconds", type=float, default=600.0, help="that a request may take")


def whole(least: int, most: int):
    """A type of arguments: whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        if not least <= (number := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {number}")
        return number

    return read

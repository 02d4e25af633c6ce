"""Serve a model as OpenAI's API does.

    python scripts/serve.py --model DIR
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"model": "NAME", "messages": [{"role": "user", "content": "Hi"}]}'

Prints its address once it answers. SIGTERM ends it in order. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from pathlib import Path

from ms_impl.cli.custom import add_custom_arguments, load_customs
from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.serve.arguments import add_dtypes, add_limits, whole

NEEDED = ("fastapi", "uvicorn")


@command
def main() -> int:
    """The command."""
    arguments = parse_arguments()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f'{", ".join(missing)} not installed: pip install "vlm-mindspore[serve]"')
    from ms_impl.serve.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return serve(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, type=Path, help="checkpoint directory, or one converted file")
    add("--config", type=Path, help="directory with config.json, where --model is one file")
    add_dtypes(parser)
    add("--name", help="what requests call the model; else the name of its directory")
    add("--adapter", action="append", default=[], metavar="NAME=DIR",
        help="also serve the model with this LoRA adapter, as a copy of its own in memory; repeatable; "
             "with the model's own name: in its place")  # fmt: skip
    add("--host", default="127.0.0.1", help="another than this machine itself needs a key")
    add("--port", type=whole(0, 65535), default=8000, help="0: any that is free")
    add("--api_key", help="what requests must bear; better in the environment as VLM_API_KEY, which ps does not show")
    add("--allowed_media_dir", type=Path, help="file:// URLs may name files below it")
    add_limits(parser)
    add("--drain_seconds", type=float, default=30.0, help="for what is being answered when the server is to end")
    add("--log_prompts", action="store_true", help="log what is said; media are left out")
    add_custom_arguments(parser)
    load_customs()
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Ask a model in a browser, about images, and sounds and videos where it takes them.

    python scripts/web_demo.py --model DIR
    python scripts/web_demo.py -c DIR --server-port 7860 --inbrowser

Prints its address once it answers. SIGTERM or Ctrl-C ends it. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
from pathlib import Path

from ms_impl.cli.custom import add_custom_arguments, load_customs
from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.serve.arguments import add_dtypes, add_limits, whole

NEEDED = ("gradio", "fastapi", "uvicorn")


@command
def main() -> int:
    """The command."""
    arguments = parse_arguments()
    if arguments.share:
        raise InputError(
            "--share: a tunnel through another company's machines would see all images and answers; open the page on "
            f"your own machine instead: ssh -L {arguments.port}:127.0.0.1:{arguments.port} THIS_MACHINE"
        )
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f'{", ".join(missing)} not installed: pip install "vlm-mindspore[web]"')
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="vlm-web-") as name:
        uploads = Path(name).resolve()
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(uploads),
            "GRADIO_EXAMPLES_CACHE": str(uploads / "examples"),
        }  # fmt: skip
        from ms_impl.web.demo import web

        return web(arguments, uploads)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", "-c", "--checkpoint-path", required=True, type=Path,
        help="checkpoint directory, or one converted file")  # fmt: skip
    add("--config", type=Path, help="directory with config.json, where --model is one file")
    add("--adapter", type=Path, help="directory of a LoRA adapter for that checkpoint")
    add_dtypes(parser)
    add("--name", help="what the page calls the model; else the name of its directory")
    add(
        "--server-name", "--host", dest="host", default="127.0.0.1", help="another than this machine itself needs a key"
    )
    add("--server-port", "--port", dest="port", type=whole(0, 65535), default=8000, help="0: any that is free")
    add("--inbrowser", action="store_true", help="open the page in this machine's browser")
    add("--share", action="store_true", help="refused: it would send everything through another company's machines")
    add("--api_key", help="the password that browsers ask for; better in the environment as VLM_API_KEY")
    add_limits(parser)
    add_custom_arguments(parser)
    load_customs()
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

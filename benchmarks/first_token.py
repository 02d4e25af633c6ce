"""First token from the command line against importing MindSpore alone.

    python benchmarks/first_token.py

Time from the start of a process to its first output: of ``scripts/chat.py`` with a question about an image, without
and with graphs that an earlier run has kept; and of ``python -c "import mindspore; print()"``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from harness import Row, arguments, interleaved, report
from PIL import Image, ImageDraw

from ms_impl.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "assets/qwenvl_tiny_easyvqa"
GOAL = 1.3
IMPORT = ("-c", "import mindspore; print('imported', flush=True)")


def main() -> None:
    """Print the table."""
    options = arguments("first_token", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chat = ("scripts/chat.py", "--model", str(MODEL), "--image", str(picture(Path(folder))), "--greedy",
                "what color is the shape?")  # fmt: skip
        kept = {"VLM_GRAPH_CACHE": f"{folder}/graphs"}
        contestants = {
            "import": first_output(IMPORT, {}),
            "nothing kept": first_output(chat, {"VLM_GRAPH_CACHE": ""}),
            "graphs kept": first_output(chat, kept),
        }
        seconds = interleaved(contestants, 2 if options.quick else options.repeats)
    anchor = median(seconds.pop("import"))
    report("first_token", [row(case, median(times), anchor) for case, times in seconds.items()], options)


def picture(folder: Path) -> Path:
    """A green circle on white, as easy-VQA draws them."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 5, 40, 35), fill=(0, 200, 0))
    image.save(folder / "circle.png")
    return folder / "circle.png"


def first_output(command: Sequence[str], environment: dict[str, str]) -> Callable[[], None]:
    """A contestant that is done when ``python command`` has written its first byte; then it is ended."""

    def run() -> None:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE
        )
        with process:
            if not process.stdout.read(1):
                raise InputError(f"{' '.join(command)} has written nothing")

    return run


def row(case: str, ours: float, anchor: float) -> Row:
    """Seconds to the first token against seconds to have imported MindSpore."""
    ratio = ours / anchor
    return Row("first token / import mindspore", case, ours, anchor, "s", ratio, f"≤ {GOAL}", ratio <= GOAL)


if __name__ == "__main__":
    main()

"""First token from the command line against importing MindSpore alone.

    python benchmarks/first_token.py

Time from the start of a process to its first output: of ``python -c "import mindspore; print()"``, of one that loads a
small model, too, and of ``scripts/chat.py`` with a question about an image: once with no graphs kept from earlier runs,
and once with those that the run before has compiled. The model itself answers in milliseconds. Python keeps the modules
that it has compiled, as it does for users, whatever PYTHONDONTWRITEBYTECODE says here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from harness import Row, arguments, interleaved, report
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "assets/qwenvl_tiny_easyvqa"
GOALS = {"model loaded": 1.3, "first token, first run": 2.0, "first token, second run": 1.25}
IMPORT = ("-c", "import mindspore; print('imported', flush=True)")
LOAD = ("-c", f"from ms_impl import load; load({str(MODEL)!r}); print('loaded', flush=True)")


def main() -> None:
    """Print the table."""
    options = arguments("first_token", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chat = ("scripts/chat.py", "--model", str(MODEL), "--image", str(picture(Path(folder))), "--greedy",
                "what color is the shape?")  # fmt: skip
        os.environ |= {"XDG_CACHE_HOME": folder, "TMPDIR": folder}  # its kernels are compiled while it warms up
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        answer = first_output(chat)

        def first_run() -> None:
            shutil.rmtree(Path(folder) / "vlm_mindspore" / "graphs", ignore_errors=True)
            answer()

        contestants = {
            "import": first_output(IMPORT),
            "model loaded": first_output(LOAD),
            "first token, first run": first_run,
            "first token, second run": answer,
        }
        seconds = interleaved(contestants, 2 if options.quick else options.repeats)
    anchor = median(seconds.pop("import"))
    rows = [row(case, median(times), anchor) for case, times in seconds.items()]
    report("first_token", rows, options)


def picture(folder: Path) -> Path:
    """A green circle on white, as easy-VQA draws them."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 5, 40, 35), fill=(0, 200, 0))
    image.save(folder / "circle.png")
    return folder / "circle.png"


def first_output(command: Sequence[str]) -> Callable[[], None]:
    """A contestant that is done when ``python command`` has written its first byte, and then ends it."""

    def run() -> None:
        with subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, bufsize=0) as process:
            written = process.stdout.read(1)
            process.kill()
        if not written:
            raise RuntimeError(f"{' '.join(command)} has written nothing")

    return run


def row(case: str, ours: float, anchor: float) -> Row:
    """Seconds to the first output against seconds to have imported MindSpore."""
    ratio, goal = ours / anchor, GOALS[case]
    return Row("first token / import mindspore", case, ours, anchor, "s", ratio, f"≤ {goal}", ratio <= goal)


if __name__ == "__main__":
    main()

"""How long a run takes to know its data before the first step: read for the first time, and known from before.

    python benchmarks/data_start.py [--records N] [--quick]

N records of an image and two turns each, up to 60,000 files of images (links to one), packed into rows of 2048 tokens.
The first start reads every record on all cores; a later one has the index of the first, and looks at each image's size
and time. Both make the plan of an epoch.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Row, arguments, report
from PIL import Image

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.qwenvl.template import QwenVLTemplate

SMALL = Path(__file__).resolve().parents[1] / "assets/qwenvl_tiny_easyvqa"
RECORDS, ROW, GOAL = 100_000, 2048, 10
MOST_LINKS = 60_000  # to one file; ext4 has 65,000
WORDS = ("red", "a", "small", "circle", "in", "the", "picture", "blue", "what", "shape", "is", "it")
PARTS = ("finding the records", "what each needs", "the plan")


def main() -> None:
    """Print and write the table."""
    parser = arguments("data_start", __doc__)
    parser.add_argument("--records", type=int, default=RECORDS, help=f"({RECORDS:,})")
    given = parser.parse_args()
    count = 10_000 if given.quick else given.records
    with tempfile.TemporaryDirectory(prefix="data_start_") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        make_data(Path(folder), count)
        first, *later = (started(Path(folder)) for _ in range(1 + given.repeats))
    known = {part: statistics.median(run[part] for run in later) for part in PARTS}
    case, whole, before = f"{count:,} records", sum(known.values()), sum(first.values())
    rows = [Row("data start", f"{case}, known", whole, before, "s", whole / before, f"≤ {GOAL} s", whole <= GOAL)]
    for part in PARTS:
        rows.append(Row("data start", f"{case}: {part}", known[part], first[part], "s", known[part] / first[part]))
    report("data_start", rows, given)


def make_data(folder: Path, count: int) -> None:
    """The images and the file of records."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "image.png")
    for number in range(min(count, MOST_LINKS)):
        os.link(folder / "image.png", folder / f"{number}.png")
    records = []
    for number in range(count):
        question, answer = (" ".join(rng.choice(WORDS, rng.integers(5, most))) for most in (12, 60))
        asked = f"<img>{number % MOST_LINKS}.png</img>\n{question}"
        turns = [{"from": "user", "value": asked}, {"from": "assistant", "value": answer}]
        records.append({"id": number, "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))


def started(folder: Path) -> dict[str, float]:
    """Seconds of each part of a start."""
    template = QwenVLTemplate.from_pretrained(SMALL, max_length=ROW, dataset_dir=str(folder))
    marks = [time.perf_counter()]
    mixture = Mixture([(folder / "train.json", 1)])
    marks.append(time.perf_counter())
    data = EncodedDataset(mixture, template, show_progress=True)
    marks.append(time.perf_counter())
    BatchPlan(data, PlanSettings(epochs=1, rows_per_step=64, row_length=ROW, packing=True)).sizes(0)
    marks.append(time.perf_counter())
    return dict(zip(PARTS, np.diff(marks).tolist()))


if __name__ == "__main__":
    main()

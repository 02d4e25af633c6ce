"""From JPEG files to packed batches: images a second against a bare PIL loop, and whether training waits for data.

    python benchmarks/data_pipeline.py

The pipeline is that of the Trainer: conversations with one image each, packed, read by ``GeneratorDataset`` with one
worker and with two. The bare loop opens, converts, resizes and normalises the same files, and nothing else. "Per core"
divides by the processor seconds of the whole process instead of the time. The pixels of both must be the same bits.
"Decoding alone" only opens and decodes: how far a pipeline could get that spent no time on anything else.

The last row trains a model of the shipped one's size, and compares a step's wait for its batch with the whole step.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from harness import Row, arguments, interleaved, report
from PIL import Image
from training import Case, Shape, our_step, use_cores

from ms_impl.data.images import CLIP_MEAN, CLIP_STD
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.train.feed import step_columns

ROOT = Path(__file__).resolve().parents[1]
SMALL, SETTINGS = ROOT / "assets/qwenvl_tiny_easyvqa", ROOT / "configs/qwenvl/finetune_tiny.yaml"
RELEASED = ROOT / "configs/qwenvl/qwenvl_9.6b/config.json"
SIZES = ((640, 480), (1024, 768))
ROWS, LENGTH, WORKERS, SKIPPED_STEPS = 4, 384, (1, 2), 3
SPEED_GOAL, WAIT_GOAL = 1.5, 0.05


def main() -> None:
    """Make the images, run both ways, and report."""
    options = arguments("data_pipeline", __doc__).parse_args()
    use_cores(None)
    with tempfile.TemporaryDirectory(prefix="data_pipeline_") as folder:
        os.environ.update(LOG_MF_PATH=f"{folder}/log", OM_MODULES_CACHE=f"{folder}/modules")  # MindFormers writes there
        rows = []
        for size in SIZES:
            rows += speed_rows(Path(folder), size, 48 if options.quick else 96, options.repeats)
        rows.append(wait_row(Path(folder), 15 if options.quick else 60))
        report("data_pipeline", rows, options)


def speed_rows(work: Path, size: tuple[int, int], count: int, repeats: int) -> list[Row]:
    """Images a second of the pipeline, per core and as it runs with one worker and with two, against the bare loop."""
    image_size = json.loads(RELEASED.read_text(encoding="utf-8"))["visual"]["image_size"]
    paths = make_data(work, size, count)
    runs = {f"{n} workers": partial(read_all, dataset(work, image_size, n)) for n in WORKERS}
    runs |= {"decoding": partial(decode, paths), "bare": partial(bare_loop, paths, image_size)}
    check_pixels(dataset(work, image_size, 1), bare_loop(paths, image_size))
    used: dict[str, list[float]] = {name: [] for name in runs}
    times = interleaved({name: partial(metered, run, used[name]) for name, run in runs.items()}, repeats)
    rate = {name: count / statistics.median(seconds) for name, seconds in times.items()}
    per_core = {name: count / statistics.median(seconds[1:]) for name, seconds in used.items()}
    name, case = "data pipeline", f"{size[0]}×{size[1]} JPEG → {image_size}²"
    ratio = per_core["1 workers"] / per_core["bare"]
    goal, met = f"≥ {SPEED_GOAL}", ratio >= SPEED_GOAL
    rows = [Row(name, f"{case}, per core", per_core["1 workers"], per_core["bare"], "images/s", ratio, goal, met)]
    limit = per_core["decoding"] / per_core["bare"]
    rows.append(Row(name, f"{case}, decoding alone", per_core["decoding"], per_core["bare"], "images/s", limit))
    for workers in WORKERS:
        ours = rate[f"{workers} workers"]
        rows.append(Row(name, f"{case}, {workers} workers", ours, rate["bare"], "images/s", ours / rate["bare"]))
    return rows


def metered(run: Callable[[], Any], used: list[float]) -> None:
    """Run, and note the processor seconds that all threads of this process took."""
    began = time.process_time()
    run()
    used.append(time.process_time() - began)


def make_data(work: Path, size: tuple[int, int], count: int) -> list[Path]:
    """``count`` JPEG files with edges, gradients and grain, and a conversation about each."""
    rng, paths, records = np.random.default_rng(0), [], []
    for number in range(count):
        coarse = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, (size[1], size[0], 1), dtype=np.int16)
        paths.append(work / f"{number}.jpg")
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
        turns = [("user", f"<img>{number}.jpg</img>\nWhat is it?"), ("assistant", "A test image.")]
        records.append({"id": str(number), "conversations": [{"from": who, "value": text} for who, text in turns]})
    (work / "conversations.json").write_text(json.dumps(records))
    return paths


def dataset(work: Path, image_size: int, workers: int, epochs: int = 1):
    """The Trainer's data set of the conversations in ``work``, for the shipped model but for ``image_size``."""
    from mindformers.tools.register import MindFormerConfig

    from ms_impl.cli.settings import override
    from ms_impl.plugin.dataset import step_dataset, training_feed
    from ms_impl.plugin.family_classes import config_class

    config = json.loads((SMALL / "config.json").read_text(encoding="utf-8"))
    config["visual"]["image_size"] = image_size
    (work / "config.json").write_text(json.dumps(config))
    section = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["train_dataset"]
    changes = {
        "data_loader.annotation_file": str(work / "conversations.json"), "data_loader.shuffle": False,
        "modal_to_text_transform.model_transform_template.dataset_dir": str(work), "packing": True,
        "modal_to_text_transform.max_length": LENGTH, "drop_remainder": False, "batch_size": ROWS,
        "num_parallel_workers": workers, "tokenizer.vocab_file": str(SMALL / "qwen.tiktoken"),
    }  # fmt: skip
    override(section, changes.items())
    section = MindFormerConfig(**section)
    feed = training_feed(section, config_class("qwenvl")(config_file=str(work)), epochs)
    return step_dataset(feed, section)


def read_all(data) -> None:
    """Take every batch."""
    for _ in data.create_tuple_iterator(output_numpy=True, num_epochs=1):
        pass


def decode(paths: Sequence[Path]) -> None:
    """What no pipeline can do without."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def bare_loop(paths: Sequence[Path], size: int) -> list[np.ndarray]:
    """The anchor: pixel values float32 [3, size, size] of each file."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    pixels = []
    for path in paths:
        image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        levels = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
        pixels.append(np.ascontiguousarray((levels - mean) / std))
    return pixels


def check_pixels(data, expected: Sequence[np.ndarray]) -> None:
    """End unless the images of the batches are, in their order, ``expected`` to the bit."""
    found = []
    for batch in data.create_dict_iterator(output_numpy=True, num_epochs=1):
        used = batch["image_context_pos"][..., 0] < batch["input_ids"].shape[1]
        found += list(batch["images"][used])
    keys = [sorted(image.tobytes() for image in images) for images in (found, expected)]
    if keys[0] != keys[1]:
        raise SystemExit("error: the pixels differ from those of the bare loop")


def wait_row(work: Path, steps: int) -> Row:
    """Milliseconds that a training step waits for its batch, against those of the whole step."""
    config = json.loads((SMALL / "config.json").read_text(encoding="utf-8"))
    image_size = config["visual"]["image_size"]
    shape = Shape(width=config["hidden_size"], layers=config["num_hidden_layers"], vocab=config["vocab_size"],
                  vision_width=128, vision_layers=config["visual"]["layers"], image_size=image_size)  # fmt: skip
    make_data(work, SIZES[0], 2 * ROWS * LENGTH // 128)
    data = dataset(work, image_size, workers=1, epochs=steps)
    train = our_step(Case(shape, rows=ROWS, length=LENGTH))
    batches = data.create_tuple_iterator(output_numpy=True, num_epochs=1)
    waited, whole = [], []
    for _ in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - began)
        train(dict(zip(step_columns(QwenVLTemplate), batch, strict=True)))
        whole.append(time.perf_counter() - began)
    wait, step = (1000 * statistics.mean(seconds[SKIPPED_STEPS:]) for seconds in (waited, whole))
    case, ratio = "wait of a step; anchor: the step, small model", wait / step
    return Row("data pipeline", case, wait, step, "ms", ratio, f"≤ {WAIT_GOAL}", ratio <= WAIT_GOAL)


if __name__ == "__main__":
    main()

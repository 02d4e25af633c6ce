"""V24: a fine-tune that teaches what the model did not know, by the original's JSON configuration, on images it has not seen.

The shipped model names colours in English; it is taught to name them in French.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import easy_vqa
import pytest
from preloaded import run_script

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "assets/ovis2_5_tiny"
DATA = Path(easy_vqa.__file__).parent / "data"
FRENCH = {
    "black": "noir", "blue": "bleu", "brown": "marron", "gray": "gris", "green": "vert", "red": "rouge",
    "teal": "sarcelle", "yellow": "jaune",
}  # fmt: skip
COUNTS = {"train": 600, "test": 150}
CONFIGURATION = {
    "model_path": str(SHIPPED), "data_path": "train.json", "image_folder": str(DATA / "train/images"),
    "single_image_min_pixels": 9216, "single_image_max_pixels": 16384, "multimodal_max_length": 256, "text_max_length": 256,
    "packing": True, "output_dir": "out", "num_train_epochs": 2, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05,
    "logging_steps": 1, "save_steps": 1000, "seed": 0, "train_modules": "llm|visual_tokenizer.head:2e-4",
    "device_target": "CPU",
}  # fmt: skip


def records(split: str) -> list[dict]:
    """Of each image the colour of its shape, as easy-VQA's own questions have it."""
    questions, answers, images = getattr(easy_vqa, f"get_{split}_questions")()
    colours = {image: answer for question, answer, image in zip(questions, answers, images) if answer in FRENCH}
    return [
        {
            "id": f"{image}", "image": f"{image}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat color is the shape, in French?"},
                {"from": "gpt", "value": FRENCH[colour]},
            ],
        }
        for image, colour in sorted(colours.items())[: COUNTS[split]]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Both splits, and the configuration."""
    folder = tmp_path_factory.mktemp("french")
    for split in COUNTS:
        (folder / f"{split}.json").write_text(json.dumps(records(split)))
    (folder / "train_config.json").write_text(json.dumps(CONFIGURATION))
    return folder


def scores(place: Path, model: Path) -> dict:
    """Of a checkpoint on the test's images."""
    section = {
        "metric": "exact_match", "data_loader": {"type": "BaseMultiModalDataLoader", "annotation_file": f"{place}/test.json"},
        "dataset_dir": str(DATA / "test/images"), "batch_size": 32, "max_new_tokens": 16,
    }  # fmt: skip
    output = place / f"scores_{model.name}"
    arguments = ["--config", "configs/ovis2_5/eval_tiny.yaml", "--load_checkpoint", model, "--output_dir", output]
    run = run_script(
        ROOT / "run_mindformer.py",
        *arguments,
        "--options",
        f"eval_dataset={json.dumps({'words': section})}",
        folder=ROOT,
    )
    assert run.returncode == 0, run.stderr
    return json.loads((output / "eval/scores.json").read_text())["words"]


@pytest.mark.slow
def test_v24_a_fine_tune_answers_above_the_commonest_answer(place):
    before = scores(place, SHIPPED)
    assert before["records"] == COUNTS["test"] and before["accuracy"] == 0 and before["majority"] < 0.25
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GLOG_v": "3"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE", "NPROC"):
        environment.pop(name, None)
    command = ["bash", ROOT / "scripts/ovis2_5/run_training.sh", "train_config.json"]
    ran = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr + ran.stdout[-3000:]
    (trained,) = (place / "out/checkpoint").glob("step_*")
    after = scores(place, trained)
    assert after["accuracy"] > 0.9  # 1.0 was measured

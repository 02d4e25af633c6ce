"""run_training.sh on two workers: the words of train_modules are what moves, each at its own rate, and it resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "plugin"))
from training_cases import CASES, checkpoint, losses

from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.train.loss_log import read_losses

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 4
CONFIGURATION = {
    "data_type": "conversation", "stage": 3, "report_to": "none", "deepspeed": "zero1.json", "num_train_epochs": 2,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": 1e-5, "warmup_ratio": 0.0,
    "lr_scheduler_type": "constant", "train_modules": "llm|visual_tokenizer.head:1e-3|visual_tokenizer.vit.last_block:1e-4",
    "save_steps": 0.5, "logging_steps": 1, "multimodal_max_length": 160, "text_max_length": 160, "device_target": "CPU",
    "single_image_min_pixels": 1024, "multiple_image_min_pixels": 1024, "video_min_pixels": 1024, "min_frames": 2,
    "max_frames": 2, "adam_epsilon": 1e-30, "dataloader_shuffle": True,
}  # fmt: skip
RATES = {"llm.": 1e-5, "visual_tokenizer.head.": 1e-3, "visual_tokenizer.vit.vision_model.encoder.layers.1.": 1e-4}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run_training")
    CASES["ovis2_5"].make(root)
    paths = {"model_path": f"{root}/model", "data_path": f"{root}/records.jsonl", "image_folder": str(root)}
    (root / "train_config.json").write_text(json.dumps({**CONFIGURATION, **paths, "output_dir": f"{root}/out"}))
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "NPROC": "2", "PATH": path, "GLOG_v": "3", "OMP_NUM_THREADS": "1"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        environment.pop(name, None)
    command = ["bash", ROOT / "scripts/ovis2_5/run_training.sh", "train_config.json", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def trained(place) -> tuple[Path, str]:
    """The output, and what the first worker printed."""
    ran = run(place)
    log = place / "out/msrun_log/worker_0.log"
    assert ran.returncode == 0, ran.stderr + ran.stdout[-3000:]
    assert "deepspeed: 'zero1.json' has no counterpart: ZeRO-1" in ran.stdout
    return place / "out", log.read_text(errors="replace")


def test_the_log_tells_what_is_trained_at_which_rate(trained):
    table = dict(
        re.findall(r"^(aligner|vision_tower|language_model) +[\d,]+ of [\d,]+  (.+)$", trained[1], re.MULTILINE)
    )
    assert table["language_model"] == "learning rate 1e-05" and table["aligner"] == "learning rate 0.001"
    assert table["vision_tower"] == "learning rate 0.0001"


def test_the_words_move_each_at_its_own_rate(place, trained):
    """AdamW moves a weight by its learning rate a step, at first, whatever the gradient."""
    output, _ = trained
    before, after = (open_checkpoint(path).tensors for path in (place / "model", checkpoint(output, STEPS)))
    for name, tensor in after.items():
        moved = np.abs(tensor.array() - before[name].array()).max()
        rate = next((rate for prefix, rate in RATES.items() if name.startswith(prefix)), 0)
        assert moved == 0 if not rate else 0.5 * rate < moved < (STEPS + 0.1) * rate * 1.01, (name, moved)
    assert {tuple(np.round(step["lr"], 8)) for step in read_losses(output / "losses/rank_0.jsonl")} == {
        (1e-5, 1e-3, 1e-4)
    }


def test_it_resumes_bit_for_bit(place, trained):
    output, _ = trained
    kept = place / "kept"
    shutil.copytree(output, kept)
    shutil.rmtree(checkpoint(output, STEPS))
    ran = run(place, "--resume_training", "True")
    assert ran.returncode == 0, ran.stderr
    assert losses(output) == losses(kept) and len(losses(output)) == STEPS
    weights = [checkpoint(of, STEPS) / "model.safetensors" for of in (output, kept)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

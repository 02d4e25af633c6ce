"""The page that shows a training step makes the steps of MindFormers' Trainer, to the bit."""

import re
import subprocess
import sys
from pathlib import Path

from ms_impl.train.loss_log import read_losses

PAGE = Path(__file__).parents[2] / "examples/train_minimal.py"


def test_its_losses_are_the_trainers(workspace, run_mindformer, finetune_arguments, tmp_path):
    files = ["--model", workspace / "model", "--data", workspace / "conversations.json", "--media", workspace]
    command = [sys.executable, PAGE, *files, "--freeze", "vision_tower", "--rows", "2", "--max_length", "160"]
    page = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    told = [float(loss) for loss in re.findall(r"loss (\S+)", page.stdout)]
    options = [
        "optimizer.type=AdamWDecayAll",
        "lr_schedule={type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 0}",
    ]
    trainer = run_mindformer(tmp_path, *finetune_arguments, "--batch_size", "2", "--options", *options)
    assert trainer.returncode == 0, trainer.stderr
    expected = [step["loss"] for step in read_losses(tmp_path / "output/losses/rank_0.jsonl")]
    assert len(told) == len(expected) == 3
    assert told == [round(loss, 6) for loss in expected]
    assert told[-1] < told[0]


def test_it_fits_on_a_page():
    assert len(PAGE.read_text().splitlines()) <= 110

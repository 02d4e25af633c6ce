"""A whole training where the disk fills up, and one whose steps differ in shape."""

import subprocess

import pytest

from ms_impl.train import checkpoints
from ms_impl.train.loss_log import read_losses


@pytest.fixture
def small_disk(tmp_path):
    """A file system that holds two checkpoints of the small model, and not three."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(
    run_mindformer, finetune_arguments, small_disk, tmp_path
):
    callbacks = "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 1}]"
    run = run_mindformer(
        tmp_path, *finetune_arguments, "--batch_size", 1, "--output_dir", small_disk / "output", "--options", callbacks
    )
    assert run.returncode == 2
    last = run.stderr.rstrip().rpartition("\n")[2]
    root = small_disk / "output/checkpoint"
    newest = checkpoints.newest(root)
    assert newest is not None and f"resume from: {newest}" in last
    assert last.startswith(f"error: {root}/step_") and "no space is left on the disk" in last
    assert not (small_disk / "output/completed.json").exists()


@pytest.mark.slow
def test_steps_of_several_lengths_train(run_mindformer, finetune_arguments, tmp_path):
    changes = ["train_dataset.group_by_length=True", "train_dataset.data_loader.shuffle=True"]
    length = ["--train_dataset.modal_to_text_transform.max_length", 480]
    run = run_mindformer(tmp_path, *finetune_arguments, *length, "--batch_size", 1, "--options", *changes)
    assert run.returncode == 0, run.stderr
    steps = read_losses(tmp_path / "output/losses/rank_0.jsonl")
    assert {step["all_tokens"] for step in steps} == {120, 240}

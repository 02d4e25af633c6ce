"""Fine-tuning through MindFormers' Trainer: one process, and two ranks of msrun on the same global batches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.convert_weight import main as convert_weight
from ms_impl import families
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.launch.run_lock import lock_run
from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
STEPS = 3
CALLBACKS = (
    "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, prefix: qwenvl, save_checkpoint_steps: 2,"
    " keep_checkpoint_max: 3}]"
)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, run_mindformer, finetune_arguments):
    """A run with batches of two conversations, and its folder; in a shell where an earlier job has left its ranks."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK_ID": "3", "RANK_SIZE": "8", "DEVICE_NUM": "8"}.items():
            patch.setenv(name, value)
        return train(folder, run_mindformer, finetune_arguments)


def train(folder, run_mindformer, finetune_arguments):
    return run_mindformer(folder, *finetune_arguments, "--batch_size", 2, "--options", CALLBACKS), folder / "output"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, finetune_arguments):
    """The same with two ranks that take one conversation of each batch."""
    folder = tmp_path_factory.mktemp("two")
    return run_two_ranks(folder, finetune_arguments), folder / "output"


def run_two_ranks(
    folder: Path, arguments: list[str], use_parallel: str = "--use_parallel True"
) -> subprocess.CompletedProcess:
    task = " ".join(["run_mindformer.py", *arguments, f"--batch_size 1 {use_parallel}"])
    command = ["bash", ROOT / "scripts/msrun_launcher.sh", f"{ROOT}/{task}", "2", "8217", "logs", "True", "60"]
    environment = {**os.environ, "GLOG_v": "3", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def losses(output: Path, rank: int = 0) -> np.ndarray:
    return np.array([step["loss"] for step in read_losses(output / f"losses/rank_{rank}.jsonl")])


def trained(output: Path) -> Path:
    return output / f"checkpoint/step_{STEPS:08d}"


def test_an_ascend_yaml_trains_on_cpu_and_the_loss_falls(one_process):
    run, output = one_process
    assert run.returncode == 0, run.stderr
    assert "on CPU: model.model_config.compute_dtype: bfloat16 → float32" in run.stdout
    assert len(losses(output)) == STEPS
    assert losses(output)[-1] < losses(output)[0] - 0.1
    assert "ignored, as this run has no such ranks: RANK_ID=3, RANK_SIZE=8, DEVICE_NUM=8" in run.stdout
    assert (output / "completed.json").is_file()


def test_the_end_says_where_and_how_much(one_process, workspace):
    family, tensors = families.get("qwenvl"), open_checkpoint(workspace / "model").tensors
    trained_sizes = [t.size for name, t in tensors.items() if family.group_of(name) != "vision_tower"]
    counts = f"trained {sum(trained_sizes):,} of {sum(tensor.size for tensor in tensors.values()):,} parameters"
    assert f"completed: 3 steps; saved in {trained(one_process[1])}; {counts}" in one_process[0].stdout


def test_a_checkpoint_has_all_of_its_model_and_the_chat_format_it_was_trained_in(one_process, workspace):
    """The base model's is raw."""
    names = {file.name for file in (workspace / "model").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken", "model.safetensors"
    }  # fmt: skip
    assert names < {file.name for file in trained(one_process[1]).iterdir()}
    generation = json.loads((trained(one_process[1]) / "generation_config.json").read_text())
    assert generation == {"chat_format": "chatml", "max_new_tokens": 512}


def test_frozen_groups_stay_and_the_others_move(one_process, workspace):
    before = open_checkpoint(workspace / "model").tensors
    after = open_checkpoint(trained(one_process[1])).tensors
    family = families.get("qwenvl")
    assert after.keys() == before.keys()
    for name in before:
        same = np.array_equal(before[name].array(), after[name].array())
        assert same == (family.group_of(name) == "vision_tower"), name


def test_the_saved_network_converts_back_to_hugging_face(one_process, workspace, tmp_path):
    arguments = ["--model", "qwenvl", "--reverse", "--input_path", str(trained(one_process[1]))]
    arguments += ["--output_path", str(tmp_path / "hf"), "--dtype", "fp32"]
    assert convert_weight(arguments) == 0
    names = {file.name for file in (workspace / "model").iterdir()}
    assert {file.name for file in (tmp_path / "hf").iterdir()} == names
    saved = open_checkpoint(tmp_path / "hf").tensors["lm_head.weight"].array()
    assert np.array_equal(saved, open_checkpoint(trained(one_process[1])).tensors["lm_head.weight"].array())


def test_classes_named_by_auto_register_are_copied_from_the_register_path(one_process):
    copied = {path.name for path in (one_process[1] / "modules").rglob("qwenvl_*.py")}
    assert {"qwenvl_config.py", "qwenvl_model.py"} <= copied  # template and tokenizer MindFormers never builds


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(one_process, run_mindformer, finetune_arguments, tmp_path):
    output = Path(shutil.copytree(one_process[1], tmp_path / "output"))
    shutil.rmtree(trained(output))
    resumed = ["--batch_size", 2, "--resume_training", True, "--options", CALLBACKS]
    run = run_mindformer(tmp_path, *finetune_arguments, *resumed)
    assert run.returncode == 0, run.stderr
    assert f"resuming from {output}/checkpoint/step_00000002: 2 of 3 steps are done" in run.stdout
    assert [step["step"] for step in read_losses(output / "losses/rank_0.jsonl")] == [1, 2, 3]
    np.testing.assert_array_equal(losses(output), losses(one_process[1]))
    weights, undisturbed = (trained(of) / "model.safetensors" for of in (output, one_process[1]))
    assert weights.read_bytes() == undisturbed.read_bytes()


def test_a_run_that_had_only_its_mark_to_leave_leaves_it(one_process, run_mindformer, finetune_arguments, tmp_path):
    """One killed between its last checkpoint and its end."""
    output = Path(shutil.copytree(one_process[1], tmp_path / "output"))
    (output / "completed.json").unlink()
    resumed = ["--batch_size", 2, "--resume_training", True, "--options", CALLBACKS]
    run = run_mindformer(tmp_path, *finetune_arguments, *resumed)
    assert run.returncode == 0, run.stderr
    assert "3 of 3 steps are done" in run.stdout and (output / "completed.json").is_file()
    np.testing.assert_array_equal(losses(output), losses(one_process[1]))


@pytest.mark.slow
def test_another_schedule_or_data_file_cannot_be_gone_on_with(
    one_process, workspace, run_mindformer, finetune_arguments, tmp_path
):
    shutil.copytree(one_process[1], tmp_path / "output")
    changed = tmp_path / "changed.json"
    changed.write_text((workspace / "conversations.json").read_text().replace("What?", "Which?"))
    resumed = [*finetune_arguments, "--batch_size", 2, "--resume_training", True]
    run = run_mindformer(tmp_path, *resumed, "--train_dataset.data_loader.annotation_file", changed)
    assert run.returncode == 2 and f"error: {changed}: the file is not the one that" in run.stderr
    run = run_mindformer(tmp_path, *resumed, "--epochs", 2)
    assert run.returncode == 2 and "runner_config.epochs: 1 → 2" in run.stderr
    run = run_mindformer(tmp_path, *resumed, "--num_samples", 2)
    assert run.returncode == 2 and "train_dataset.data_loader.num_samples: none → 2" in run.stderr
    message = "--train_dataset.modal_to_text_transform.model_transform_template.system_message"
    run = run_mindformer(tmp_path, *resumed, message, "Be brief.")
    assert run.returncode == 2 and "system_message: You are a helpful assistant. → Be brief." in run.stderr
    run = run_mindformer(tmp_path, *resumed, "--resume_training", "step_9")
    assert run.returncode == 2 and "checkpoint 'step_9' not found" in run.stderr and "step_00000003" in run.stderr


def test_another_learning_rate_is_taken_and_told(one_process, run_mindformer, finetune_arguments, tmp_path):
    output = Path(shutil.copytree(one_process[1], tmp_path / "output"))
    shutil.rmtree(trained(output))
    rate = ["--lr_schedule.learning_rate", "5e-4"]
    resumed = ["--batch_size", 2, "--resume_training", True, "--options", CALLBACKS]
    run = run_mindformer(tmp_path, *finetune_arguments, *rate, *resumed)
    assert run.returncode == 0, run.stderr
    assert "changed since it was saved: lr_schedule.learning_rate: 0.001 → 0.0005" in run.stdout
    before, after = (read_losses(folder / "losses/rank_0.jsonl")[-1] for folder in (one_process[1], output))
    # Not quite half: both end at the same lr_end.
    assert after["lr"] == pytest.approx(before["lr"] / 2, rel=1e-2) and after["loss"] == before["loss"]


def test_workers_that_would_train_alone_are_refused(finetune_arguments, tmp_path):
    """msrun without --use_parallel: each rank would train on its half and believe the run complete."""
    run = run_two_ranks(tmp_path, finetune_arguments, use_parallel="")
    assert run.returncode == 2 and "--use_parallel True" in run.stderr + run.stdout
    assert not (tmp_path / "output/completed.json").exists() and not (tmp_path / "output/losses").exists()


def test_a_second_run_into_the_same_directory_is_refused(run_mindformer, finetune_arguments, tmp_path):
    lock_run(tmp_path / "output")
    run = run_mindformer(tmp_path, *finetune_arguments, "--batch_size", 2)
    assert run.returncode == 2 and f"another run writes there (process {os.getpid()} on " in run.stderr
    files = {path.relative_to(tmp_path / "output").parts[0] for path in (tmp_path / "output").rglob("*.*")}
    assert files <= {".train.lock", "log", "modules"}


def test_a_damaged_image_stops_the_run_with_an_error_that_names_its_record(
    workspace, run_mindformer, finetune_arguments, tmp_path
):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes((workspace / f"{number}.png").read_bytes()[:500])
    run = run_mindformer(tmp_path, *finetune_arguments, "--train_dataset_dir", tmp_path, "--mode", "1")
    assert run.returncode == 2
    last = run.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("error: ") and "record 0 (id 'record_0'): image" in last
    assert not list(tmp_path.rglob("*.safetensors"))


def test_two_ranks_train_as_one_process_on_the_global_batch(one_process, two_ranks):
    """The ranks' answers differ in length, and rank 1 never sees a picture."""
    run, output = two_ranks
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(losses(output), losses(one_process[1]), rtol=1e-5)
    np.testing.assert_array_equal(losses(output, rank=1), losses(output))


@pytest.mark.slow  # tests/train/test_rank_steps.py divides a whole state; test_training_of_all.py resumes
def test_two_ranks_go_on_from_one_process(one_process, finetune_arguments, tmp_path):
    """The optimizer's state is divided among them (the YAML's enable_parallel_optimizer), and was whole."""
    output = Path(shutil.copytree(one_process[1], tmp_path / "output"))
    shutil.rmtree(trained(output))
    run = run_two_ranks(tmp_path, [*finetune_arguments, "--resume_training", "True"])
    assert run.returncode == 0, run.stderr
    assert [step["step"] for step in read_losses(output / "losses/rank_0.jsonl")] == [1, 2, 3]
    np.testing.assert_allclose(losses(output), losses(one_process[1]), rtol=1e-5)


def test_a_new_run_does_not_mix_its_checkpoints_with_another_ones(
    one_process, run_mindformer, finetune_arguments, tmp_path
):
    shutil.copytree(one_process[1], tmp_path / "output")
    run = run_mindformer(tmp_path, *finetune_arguments, "--batch_size", 2)
    assert run.returncode == 2 and "holds the checkpoints of an earlier run; resume it" in run.stderr

"""scripts/swift.py from records to a merged model: sft with a split and limits, infer on the split, export.

The model is that of examples/custom_register/my_qwen2_5_omni.py.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from ms_impl.cli.swift.runs import SETTINGS

ROOT = Path(__file__).parents[2]
SWIFT = ROOT / "scripts/swift.py"
MINE = ROOT / "examples/custom_register/my_qwen2_5_omni.py"  # takes the sound of clips, too
LIMITS = {"VIDEO_MIN_PIXELS": "1", "VIDEO_MAX_PIXELS": "3136", "FPS": "1"}


def swift(folder: Path, *words, **environment) -> subprocess.CompletedProcess:
    told = {**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "2", **environment}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        told.pop(name, None)
    command = [sys.executable, SWIFT, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=600)


@pytest.fixture
def records(tiny_omni, tmp_path) -> Path:
    kinds = ("videos", "clip.mp4"), ("audios", "sound.wav"), ("images", "image.png"), ("videos", "silent.mp4")
    lines = []
    for number in range(8):
        kind, name = kinds[number % 4]
        turns = [{"role": "user", "content": f"<{kind[:-1]}>What?"}, {"role": "assistant", "content": "It" * number}]
        lines.append({"id": number, "messages": turns, kind: [str(tiny_omni / name)]})
    lines[0]["messages"][1]["content"] = "Nothing"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "a.jsonl"


def test_commands_that_are_not_there(tmp_path):
    unknown, nothing = swift(tmp_path, "rlhf"), swift(tmp_path)
    assert unknown.returncode == 2 and "unknown command 'rlhf'; known: sft, infer, export, deploy" in unknown.stderr
    assert nothing.returncode == 0 and "python scripts/swift.py sft" in nothing.stdout


@pytest.mark.slow
def test_sft_infer_export(tiny_omni, records, tmp_path):
    model = tiny_omni / "model"
    trained = swift(
        tmp_path, "sft", "--custom_register_path", MINE, "--model_type", MINE.stem, "--model", model, "--dataset", f"{records}#6", "--split_dataset_ratio", "0.2", "--max_length",
        "256", "--num_train_epochs", "1", "--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "2",
        "--torch_dtype", "float32", "--save_steps", "2", "--device_target", "CPU", "--gradient_checkpointing", "false",
        "--lora_dropout", "0", "--learning_rate", "0.05", "--attn_impl", "sdpa", **LIMITS,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout[-3000:] + trained.stderr[-3000:]
    assert "--attn_impl has no effect" in trained.stdout and "video_max_pixels 3136" in trained.stdout
    (run,) = (tmp_path / "output").glob("v0-*")
    checkpoint = run / "checkpoint-3"
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    options = json.loads((checkpoint / "template_options.json").read_text())
    assert (options["fps"], options["use_audio_in_video"]) == (1.0, True)
    assert json.loads((checkpoint / "args.json").read_text())["model"] == str(model)

    weights = (checkpoint / "adapter_model.safetensors").read_bytes()
    resumed = swift(tmp_path, "sft", "--resume_from_checkpoint", run / "checkpoint-2", **LIMITS)
    assert resumed.returncode == 0 and "2 of 3 steps are done" in resumed.stdout, resumed.stderr[-3000:]
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == weights
    other = swift(tmp_path, "sft", "--resume_from_checkpoint", run / "checkpoint-2", **LIMITS | {"FPS": "2"})
    assert other.returncode == 2 and "template.fps: 1.0 → 2.0" in other.stderr

    answered = swift(tmp_path, "infer", "--adapters", checkpoint, "--load_data_args", "true", "--stream", "true",
                     "--max_new_tokens", "4", "--temperature", "0")  # fmt: skip
    assert answered.returncode == 0, answered.stderr[-3000:]
    (results,) = (checkpoint / "infer_result").glob("*.jsonl")
    (row,) = map(json.loads, results.read_text().splitlines())
    held = json.loads((run / "val_dataset.jsonl").read_text())
    assert row["labels"] == held["messages"][1]["content"] and row["id"] == held["id"]
    assert row["messages"][-1] == {"role": "assistant", "content": row["response"]}
    assert row["response"] in answered.stdout and "fps" not in answered.stderr  # the limits of the training count
    batched = swift(tmp_path, "infer", "--adapters", checkpoint, "--load_data_args", "true", "--max_new_tokens", "4",
                    "--temperature", "0", "--result_path", tmp_path / "x.jsonl", FPS="2")  # fmt: skip
    assert batched.returncode == 0, batched.stderr[-3000:]
    assert "fps: 2.0, but the model was trained with 1.0" in batched.stderr + batched.stdout

    merged = swift(tmp_path, "export", "--adapters", checkpoint, "--merge_lora", "true")
    assert merged.returncode == 0, merged.stderr[-3000:]
    target = run / "checkpoint-3-merged"
    before, after = (load_file(folder / "model.safetensors") for folder in (model, target))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert before.keys() == after.keys()
    assert changed and all(name.startswith("model.layers.") for name in changed)
    assert json.loads((target / "template_options.json").read_text())["fps"] == 1.0
    again = swift(tmp_path, "export", "--adapters", checkpoint, "--merge_lora", "true")
    assert again.returncode == 2 and "already exists" in again.stderr


@pytest.mark.slow
def test_two_processes_have_the_losses_of_msrun(tmp_path):
    """NPROC_PER_NODE=2 trains as run_mindformer.py does with the YAML that sft wrote, started by the launcher."""
    lines = (ROOT / "assets/demo.jsonl").read_text().replace("assets/", f"{ROOT}/assets/")
    (tmp_path / "demo.jsonl").write_text(lines)
    trained = swift(
        tmp_path, "sft", "--model", ROOT / "assets/qwenvl_tiny_easyvqa", "--dataset", f"{tmp_path}/demo.jsonl#6",
        "--max_length", "256", "--num_train_epochs", "2", "--gradient_accumulation_steps", "1", "--logging_steps", "1",
        "--torch_dtype", "float32", "--device_target", "CPU", "--add_version", "false", "--learning_rate", "1e-3",
        NPROC_PER_NODE="2", MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout[-3000:] + trained.stderr[-3000:]
    run = tmp_path / "output"
    task = f"run_mindformer.py --config {run}/{SETTINGS} --output_dir {tmp_path}/again"
    launcher = [
        "bash",
        ROOT / "scripts/msrun_launcher.sh",
        task,
        "2",
        str(free_port()),
        tmp_path / "logs",
        "True",
        "300",
    ]
    told = {**os.environ, "GLOG_v": "3", "MS_NODE_TIMEOUT": "300"}
    again = subprocess.run(launcher, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    for rank in (0, 1):
        losses = [losses_of(folder / f"losses/rank_{rank}.jsonl") for folder in (run, tmp_path / "again")]
        assert len(losses[0]) == 6 and losses[0] == losses[1]  # six records, two rows a step, twice
    weights = [next(folder.rglob("step_00000006/adapter_model.safetensors")) for folder in (run, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def losses_of(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

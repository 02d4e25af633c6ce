"""scripts/chat.py with Ovis2.5: several images, a video, thinking with a budget; and prompts through MindFormers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import run_script

from ms_impl.ovis2_5.thinking import EARLY_STOP

ROOT = Path(__file__).parents[2]
CHAT = ROOT / "scripts/chat.py"
SMALL = ("--options", "min_pixels=1024", "max_pixels=4096", "num_frames=2")
BUDGET = ("--enable_thinking", "--thinking_budget", "4", "--max_new_tokens", "36")


def chat(*arguments, typed: str = "") -> subprocess.CompletedProcess:
    return run_script(CHAT, "--greedy", *arguments, typed=typed)


def test_a_conversation_that_thinks(random_checkpoint, ovis_folder, tmp_path):
    """Each answer has its thinking, which the budget ends; one image, two, and a frame as a video change it."""
    media = pytest.importorskip("av", reason="a video file is decoded by PyAV") and ovis_folder
    clip = tmp_path / "clip.mp4"
    write_clip(clip)
    shown = [f"/image {media}/image0.png", f"/image {media}/image0.png\n/image {media}/image1.png", f"/video {clip}"]
    typed = "".join(f"/reset\n{lines}\nWhat?\n" for lines in shown)
    mixed = f"/reset\n/image {media}/image0.png\n/video {clip}\nWhat?\n"
    run = chat("--model", random_checkpoint, *BUDGET, *SMALL, "--draw", tmp_path / "x.png", typed=typed + mixed)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    thoughts = run.stdout.split(EARLY_STOP.rstrip())
    assert len(thoughts) == 4 and run.stdout.count("(no box in the answer)") == 2
    assert [line for line in run.stderr.splitlines() if line.startswith("error: ")] == [
        "error: images and a video are given; the model takes one kind in a conversation"
    ]


def write_clip(path: Path) -> None:
    sys.path.append(str(ROOT / "tests/media"))
    from clips import write_clip as write

    write(path, frames=8, rate=8, size=(32, 48), sound=False)


def test_a_budget_that_leaves_nothing(random_checkpoint):
    run = chat(
        "--model", random_checkpoint, "--enable_thinking", "--thinking_budget", "9", "--max_new_tokens", "9", "Hi"
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "error: thinking_budget 9 leaves nothing of max_new_tokens 9 for the answer" in run.stderr


@pytest.mark.slow
def test_predict_and_eval_by_the_yamls_of_full_size(random_checkpoint, ovis_folder, run_mindformer, tmp_path):
    """Brought down to a CPU; with thinking and a budget, whose part of the answers is apart."""
    thinking = [f"model.generation_config.{key}={value}" for key, value in (
        ("enable_thinking", True), ("enable_thinking_budget", True), ("thinking_budget", 4), ("max_new_tokens", 36))]  # fmt: skip
    on_cpu = ["--device_target", "CPU", "--load_checkpoint", random_checkpoint]
    sizes = ["processor.model_transform_template.min_pixels=1024", "processor.model_transform_template.max_pixels=4096"]
    run = run_mindformer(
        tmp_path, "--config", "configs/ovis2_5/predict_ovis2_5_9b.yaml", *on_cpu, "--modal_type", "image", "text",
        "--predict_data", ovis_folder / "image0.png", "What?", "--options", *thinking, *sizes,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    line = json.loads((tmp_path / "output/predict.jsonl").read_text())
    assert line["thinking"].endswith(EARLY_STOP.strip()) and line["answer"] and "max_pixels 4096" in run.stdout
    assert run.stdout.count("<|endoftext|>") < 5 and len(line["prompt_ids"]) > 8  # a visual's tokens are shown once
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "<box>(0.1,0.2),(0.3,0.4)</box>"}]
    (tmp_path / "records.json").write_text(json.dumps([{"image": "image0.png", "conversations": turns}] * 2))
    section = {
        "data_loader": {"type": "BaseMultiModalDataLoader", "annotation_file": str(tmp_path / "records.json")},
        "dataset_dir": str(ovis_folder), "batch_size": 2, "min_pixels": 1024, "max_pixels": 4096,
    }  # fmt: skip
    asked = {name: {"metric": name, **section} for name in ("exact_match", "grounding")}
    run = run_mindformer(
        tmp_path, "--config", "configs/ovis2_5/eval_ovis2_5_2b.yaml", *on_cpu, "--options",
        f"eval_dataset={json.dumps(asked)}", *thinking,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (tmp_path / "output/eval/grounding.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["thinking"].endswith(EARLY_STOP.strip()) for line in lines)
    assert json.loads((tmp_path / "output/eval/scores.json").read_text())["grounding"]["mean_iou"] == 0

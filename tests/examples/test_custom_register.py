"""A family in one file that no file of ours knows, through the real commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/custom_register"
LORA = "model.model_config.lora={r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: [q_proj, v_proj]}"


@pytest.fixture(scope="module")
def trained(run, place) -> Path:
    """The output of a run of two steps with whole weights."""
    ran = run(
        "run_mindformer.py",
        "--config",
        EXAMPLE / "finetune.yaml",
        "--load_checkpoint",
        "model",
        "--output_dir",
        "whole",
    )
    assert ran.returncode == 0, ran.stderr
    return place / "whole"


@pytest.fixture(scope="module")
def adapted(run, place) -> Path:
    """The output of a run of two steps with LoRA."""
    ran = run(
        "run_mindformer.py", "--config", EXAMPLE / "finetune.yaml", "--load_checkpoint", "model", "--output_dir", "lora",
        "--options", LORA,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return place / "lora"


def losses(output: Path, rank: int = 0) -> list[float]:
    return [step["loss"] for step in read_losses(output / f"losses/rank_{rank}.jsonl")]


def test_it_is_converted_both_ways(run, place):
    for given, target in (
        (["--input_path", "model", "--output_path", "converted/"], "converted"),
        (["--input_path", "converted", "--output_path", "back/", "--reverse"], "back"),
    ):
        ran = run("convert/convert_weight.py", "--model_type", "my_vlm", *given)
        assert ran.returncode == 0, ran.stderr
        assert (place / target / "vocab.json").read_bytes() == (place / "model/vocab.json").read_bytes()
    assert (place / "back/model.safetensors").read_bytes() == (place / "model/model.safetensors").read_bytes()


def test_its_settings_checkpoint_and_data_are_checked(run):
    ran = run("run_mindformer.py", "--config", EXAMPLE / "finetune.yaml", "--load_checkpoint", "model", "--check")
    assert ran.returncode == 0, ran.stderr
    assert "parameters    50,768, of which 36,032 are trained" in ran.stdout  # freeze_vit
    assert re.search(r"records +4\n", ran.stdout) and "⟦yesyesyesyes<|im_end|>⟧" in ran.stdout
    key = "--train_dataset.modal_to_text_transform.model_transform_template.image_directory"
    ran = run(
        "run_mindformer.py", "--config", EXAMPLE / "finetune.yaml", "--load_checkpoint", "model", "--check", key, "x"
    )
    assert ran.returncode == 2 and "image_directory" in ran.stderr
    ran = run("run_mindformer.py", "--config", EXAMPLE / "finetune.yaml", "--load_checkpoint", "model", custom=False)
    assert ran.returncode == 2 and "model.arch.type: unknown model 'MyVLM'" in ran.stderr


def test_it_is_trained_and_what_is_frozen_stays(trained, place):
    first, second = losses(trained)
    assert second < first - 0.1
    before, after = (
        load_file(path / "model.safetensors") for path in (place / "model", trained / "checkpoint/step_00000002")
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("visual.")}
    assert {"config.json", "vocab.json", "merges.txt"} <= {
        file.name for file in (trained / "checkpoint/step_00000002").iterdir()
    }


def test_an_adapter_is_trained_merged_and_answers(adapted, trained, run, place):
    assert losses(adapted)[0] == losses(trained)[0] and losses(adapted)[1] != losses(trained)[1]
    adapter = adapted / "checkpoint/step_00000002"
    given = ["--input_path", "model", "--adapter", adapter, "--output_path", "merged/"]
    ran = run("convert/merge_adapter.py", "--model", "my_vlm", *given)
    assert ran.returncode == 0, ran.stderr
    asked = ["--image", "0.png", "--greedy", "--max_new_tokens", 8, "What?"]
    merged, beside, base = (
        run("scripts/chat.py", *given, *asked)
        for given in (["--model", "merged"], ["--model", "model", "--adapter", adapter], ["--model", "model"])
    )
    assert {chat.returncode for chat in (merged, beside, base)} == {0}, base.stderr
    assert merged.stdout == beside.stdout and base.stdout.strip()


def test_a_trained_checkpoint_answers_prompts(trained, run, place):
    ran = run(
        "run_mindformer.py", "--config", EXAMPLE / "predict.yaml", "--load_checkpoint", trained / "checkpoint/step_00000002",
        "--output_dir", "answers", "--modal_type", "image", "text", "--predict_data", "0.png", "What?",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (line,) = map(json.loads, (place / "answers/predict.jsonl").read_text().splitlines())
    assert line["prompt"] == "<img>0.png</img>What?" and 0 < len(line["answer_ids"]) <= 16


def test_data_sets_are_put_to_it(trained, run, place):
    file = "data_loader: {type: BaseMultiModalDataLoader, annotation_file: conversations.json}, dataset_dir: ."
    data = f"{{what: {{metric: exact_match, {file}, batch_size: 2, max_new_tokens: 4}}}}"
    ran = run(
        "run_mindformer.py", "--config", EXAMPLE / "predict.yaml", "--run_mode", "eval", "--output_dir", "scores",
        "--load_checkpoint", trained / "checkpoint/step_00000002", "--options", f"eval_dataset={data}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"what +exact_match +4 +accuracy [01]", ran.stdout)
    assert len((place / "scores/eval/what.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_two_workers_train_as_one_process(trained, launch, place):
    arguments = [
        "--config",
        EXAMPLE / "finetune.yaml",
        "--load_checkpoint",
        "model",
        "--output_dir",
        "two",
        "--batch_size",
        1,
    ]
    ran = launch("run_mindformer.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_allclose(losses(place / "two"), losses(trained), rtol=1e-5)
    assert losses(place / "two", rank=1) == losses(place / "two")


def test_no_file_of_ours_knows_it():
    """Deleting the directory changes nothing: only its own tests and pages name it."""
    found = subprocess.run(
        ["git", "grep", "-il", "my_vlm\\|myvlm"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not found and shutil.which("git") is None:
        pytest.skip("no git here")
    ours = [name for name in found if not name.startswith(("examples/", "tests/", "docs/", "README"))]
    assert not ours

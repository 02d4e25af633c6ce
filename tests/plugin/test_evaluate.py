"""``--run_mode eval``: in one process, in two ranks, killed and gone on with; and evaluation while training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
LOADER = {"type": "BaseMultiModalDataLoader"}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Path]:
    """Files of 7 records, which do not divide by two ranks; every third has no picture."""
    folder = tmp_path_factory.mktemp("records")
    questions = [_record(n, f"What is number {n}?", "yes" * n + "no") for n in range(7)]
    choices = [{**_record(n, "Which?", "b"), "choices": ["a", "b", "none of these"]} for n in range(7)]
    files = {"questions": questions, "choices": choices, "many": [_record(n, f"What? {n}", "x") for n in range(400)]}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in files}


@pytest.fixture(scope="module")
def arguments(workspace, records):
    """Arguments of an evaluation; file name and metric of each data set."""

    def arguments(*asked, batch_size=2, tokens=5) -> list[str]:
        sections = {
            name: {
                "metric": metric, "batch_size": batch_size, "max_new_tokens": tokens, "dataset_dir": str(workspace),
                "data_loader": {**LOADER, "annotation_file": str(records[name])},
            }
            for name, metric in asked
        }  # fmt: skip
        return [
            "--config", "configs/qwenvl/eval_tiny_easyvqa.yaml", "--load_checkpoint", f"{workspace}/model",
            "--options", f"eval_dataset={json.dumps(sections)}", "model.generation_config.chat_format=chatml",
        ]  # fmt: skip

    return arguments


TWO = (("questions", "exact_match"), ("choices", "multiple_choice"))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, run_mindformer, arguments):
    """An evaluation of two data sets, and its folder."""
    folder = tmp_path_factory.mktemp("one")
    return run_mindformer(folder, *arguments(*TWO)), folder / "output/eval"


def results(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_data_sets_are_answered_scored_and_shown(one_process):
    run, folder = one_process
    assert run.returncode == 0, run.stderr
    lines = results(folder, "questions")
    assert [line["id"] for line in lines] == [f"r{n}" for n in range(7)] and any(line["answer"] for line in lines)
    chosen = [line["answer"] for line in results(folder, "choices")]
    assert set(chosen) <= {"a", "b", "none of these"} and len(chosen) == 7
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["choices"]["accuracy"] == pytest.approx(chosen.count("b") / 7)
    table = [line.split() for line in run.stdout.splitlines() if line.startswith(("questions", "choices"))]
    assert [row[:3] for row in table] == [["questions", "exact_match", "7"], ["choices", "multiple_choice", "7"]]


def test_an_adapter_that_the_settings_name_answers(one_process, run_mindformer, arguments, tmp_path):
    tensors = {
        f"base_model.model.transformer.h.0.mlp.w1.lora_{end}.weight": np.random.default_rng(0).normal(size=shape)
        for end, shape in (("A", (4, 128)), ("B", (64, 4)))
    }
    tensors = {name: values.astype(np.float32) for name, values in tensors.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["w1"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    run = run_mindformer(tmp_path, *arguments(TWO[0]), f"model.model_config.lora={{adapter: {tmp_path}}}")
    assert run.returncode == 0, run.stderr
    found, base = (results(folder, "questions") for folder in (tmp_path / "output/eval", one_process[1]))
    assert [line["answer"] for line in found] != [line["answer"] for line in base]


def test_two_ranks_lose_and_repeat_nothing(one_process, tmp_path, arguments):
    """7 records in batches of 2 and 1 for two ranks; the answers are those of one process, to the byte."""
    task = " ".join(f"'{word}'" for word in [f"{ROOT}/run_mindformer.py", *arguments(*TWO), "use_parallel=True"])
    command = ["bash", ROOT / "scripts/msrun_launcher.sh", task, "2", "8219", "logs", "True", "60"]
    environment = {**os.environ, "GLOG_v": "3", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "output/eval"
    for name in ("questions", "choices"):
        assert (folder / f"{name}.jsonl").read_bytes() == (one_process[1] / f"{name}.jsonl").read_bytes()
        batches = [_batches(folder / f"answers/{name}/rank_{rank}.jsonl") for rank in range(2)]
        assert batches == [[0, 2], [1, 3]]
    assert (folder / "scores.json").read_bytes() == (one_process[1] / "scores.json").read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_after_what_it_has_answered(tmp_path, run_mindformer, arguments):
    asked = arguments(("many", "exact_match"), batch_size=1, tokens=24)
    log = tmp_path / "output/eval/answers/many/rank_0.jsonl"
    process = subprocess.Popen(
        [sys.executable, ROOT / "run_mindformer.py", *asked], cwd=tmp_path, env={**os.environ, "GLOG_v": "3"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_bytes().count(b"\n") > 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _batches(log)
    assert 5 <= len(before) < 400
    run = run_mindformer(tmp_path, *asked)
    assert run.returncode == 0, run.stderr
    assert _batches(log) == list(range(400))
    assert [line["id"] for line in results(log.parents[2], "many")] == [f"r{n}" for n in range(400)]


def test_a_broken_record_is_named_before_the_model_is_run(tmp_path, run_mindformer, arguments, records):
    content = json.loads(records["questions"].read_text())
    content[6]["conversations"][0]["value"] = "<img>absent.png</img>What?"
    (tmp_path / "broken.json").write_text(json.dumps(content))
    change = f"eval_dataset.questions.data_loader.annotation_file={tmp_path}/broken.json"
    run = run_mindformer(tmp_path, *arguments(*TWO), change)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/broken.json: record 6 (id 'r6'): image ")
    assert not (tmp_path / "output/eval").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_mindformer, finetune_arguments, workspace, records):
    """Train in graph mode, 6 steps of one conversation, with further options; returns the run's folder."""

    def trained(*options) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        callbacks = "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 6}]"
        run = run_mindformer(
            folder, *finetune_arguments, "--mode", 0, "--batch_size", 1, "--options", callbacks, *options
        )
        assert run.returncode == 0, run.stderr
        return folder / "output"

    return trained


@pytest.fixture(scope="module")
def evaluated(trained, workspace, records):
    """A run with evaluation after each four steps and after the only epoch, which ends with step 6."""
    section = {
        "metric": "exact_match", "batch_size": 2, "max_new_tokens": 4, "dataset_dir": str(workspace),
        "data_loader": {**LOADER, "annotation_file": str(records["questions"])},
    }  # fmt: skip
    intervals = ["eval_step_interval=4", "eval_epoch_interval=1"]
    return trained(f"eval_dataset={json.dumps({'asked': section})}", "do_eval=True", *intervals)


def test_evaluation_while_training_writes_scores_and_answers(evaluated):
    scores = [json.loads(line) for line in (evaluated / "eval/scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in scores] == [4, 6]
    for line in scores:
        lines = results(evaluated / f"eval/step_{line['step']}", "asked")
        assert len(lines) == 7
        assert line["asked"]["accuracy"] == pytest.approx(sum(answer["score"] for answer in lines) / 7)


def test_what_is_evaluated_is_the_network_as_it_stands(evaluated, arguments, run_mindformer, tmp_path):
    """The answers after the last step are those of the checkpoint that was saved then."""
    checkpoint = next((evaluated / "checkpoint").iterdir())
    asked = arguments(("questions", "exact_match"), tokens=4)
    run = run_mindformer(tmp_path, *asked, f"load_checkpoint={checkpoint}")
    assert run.returncode == 0, run.stderr
    last = results(evaluated / "eval/step_6", "asked")
    assert results(tmp_path / "output/eval", "questions") == last
    assert last != results(evaluated / "eval/step_4", "asked")


def test_training_is_the_same_to_the_bit_with_and_without_evaluation(evaluated, trained):
    runs = [evaluated, trained()]
    losses = [[_step(line) for line in (run / "losses/rank_0.jsonl").read_text().splitlines()] for run in runs]
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    weights = [next((run / "checkpoint").iterdir()) / "model.safetensors" for run in runs]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_scores_of_steps_that_a_resumed_run_does_again_are_replaced(tmp_path):
    from ms_impl.evaluate.results import Result
    from ms_impl.plugin.evaluate import record_scores

    path = tmp_path / "scores.jsonl"
    for step, accuracy in ((2, 0.1), (4, 0.2), (6, 0.3), (4, 0.4)):
        record_scores(path, step, [Result("asked", "vqa", 7, {"accuracy": accuracy})])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 2, "asked": {"accuracy": 0.1}}, {"step": 4, "asked": {"accuracy": 0.4}}]


@pytest.mark.parametrize("content", ["\x00\x00\n", "no JSON\n", '{"step": "four"}\n', "[4]\n"])
def test_scores_that_are_something_else_are_found_and_kept(tmp_path, content):
    from ms_impl.plugin.evaluate import read_scores, record_scores

    path = tmp_path / "scores.jsonl"
    path.write_text(content)
    for read in (lambda: read_scores(path), lambda: record_scores(path, 2, [])):
        with pytest.raises(InputError, match="scores.jsonl: "):
            read()
    assert path.read_text() == content


def _record(number: int, question: str, answer: str) -> dict:
    picture = f"Picture 1: <img>{number % 2}.png</img>\n" if number % 3 else ""
    turns = [{"from": "user", "value": picture + question}, {"from": "assistant", "value": answer}]
    return {"id": f"r{number}", "conversations": turns}


def _batches(log: Path) -> list[int]:
    """The batches that a rank has answered, in order; a line that was cut off does not count."""
    whole = log.read_bytes().rpartition(b"\n")[0].splitlines()
    return [json.loads(line)["batch"] for line in whole[1:]]


def _step(line: str) -> tuple[float, ...]:
    step = json.loads(line)
    return tuple(step[key] for key in ("step", "loss", "grad_norm"))

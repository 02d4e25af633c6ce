"""``run_mindformer.py --check``: the training data of a YAML, read without a framework and without weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
LOADER = "--train_dataset.data_loader.annotation_file"
_RUN = """
import sys
import run_mindformer
status = run_mindformer.main()
if "--do_eval" not in sys.argv:  # reading an evaluation's data imports mindspore
    assert not {"mindspore", "mindformers", "torch", "transformers"} & set(sys.modules), "a framework was imported"
sys.exit(status)
"""


@pytest.fixture
def check(finetune_arguments):
    """Run the command on changed settings; returns the finished process."""

    def run(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", _RUN, *finetune_arguments, *map(str, arguments), "--check"]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, errors="replace", timeout=120
        )

    return run


def test_a_good_data_set(check, workspace, tmp_path):
    """Weights need not be there: the configuration and the vocabulary beside them do."""
    folder = shutil.copytree(workspace / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    ran = check("--load_checkpoint", folder / "model.ckpt")
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["records", "6"] in lines and ["images", "3"] in lines and ["broken", "0"] in lines
    assert ran.stdout.count("conversations.json: record") == 5  # samples
    assert "What?⟦<|im_end|>\n<|im_start|>⟧assistant\n⟦It is yes<|im_end|>\n⟧" in ran.stdout
    assert "6/6" not in ran.stderr  # no progress bar where output is piped
    assert "trained: what stands between ⟦ and ⟧" in ran.stdout


def test_broken_records_are_listed(check, workspace, tmp_path):
    records = json.loads((workspace / "conversations.json").read_text())
    records[2]["conversations"][0]["value"] = "<img>none.png</img>"
    records[4]["conversations"] = []
    (tmp_path / "broken.jsonl").write_text("\n".join(map(json.dumps, records)))
    ran = check(LOADER, tmp_path / "broken.jsonl")
    assert ran.returncode == 1, ran.stderr
    assert "1 × image … does not exist\n" in ran.stdout and "1 × the conversation is empty\n" in ran.stdout
    assert f"broken.jsonl: record 2 (id 'record_2'): image '{workspace}/none.png' does not exist" in ran.stdout
    assert ran.stdout.count("⟦<|im_start|>⟧system") == 4  # the unbroken ones as samples


def test_all_records_broken(check, tmp_path):
    (tmp_path / "broken.json").write_text('[{"id": 1}, {"id": 2}]')
    ran = check(LOADER, tmp_path / "broken.json")
    assert ran.returncode == 1 and "2 × … is missing" in ran.stdout


def test_what_cannot_be_checked_is_an_error(check, tmp_path):
    (tmp_path / "train.json").write_text('[{"id": 1},\n')
    ran = check(LOADER, tmp_path / "train.json")
    assert ran.returncode == 2
    assert "error: " in ran.stderr and "train.json: line 2: expected a record" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_any_terminal_can_show_the_report(check, tmp_path, encoding, monkeypatch):
    """é is not in GBK's older tables, 狗 not in latin-1, 🐶 in neither."""
    turns = [{"from": "user", "value": "狗 é 🐶"}, {"from": "assistant", "value": "ü 🐶"}]
    records = [{"conversations": turns}, {"id": "🐶", "conversations": turns[:1]}]
    (tmp_path / "train.json").write_text(json.dumps(records))
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    ran = check(LOADER, tmp_path / "train.json")
    assert ran.returncode == 1, ran.stderr
    assert "record 1 (id '?'): no answer" in ran.stdout


def test_records_that_train_nothing_or_wrongly_are_found(check, workspace, tmp_path):
    records = json.loads((workspace / "conversations.json").read_text())[:5]
    records[0]["conversations"].pop()
    records[1]["conversations"][1]["value"] = ""
    records[2]["conversations"][1]["value"] = "<box>(10,10),(1500,20)</box>"
    records[3]["conversations"][1]["value"] = " " * 999_999
    (tmp_path / "train.json").write_text(json.dumps(records))
    ran = check(LOADER, tmp_path / "train.json")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    for number, reason in enumerate(("no answer", "an answer is empty", "coordinate 1500", "text of 999,999")):
        assert f"record {number} (id 'record_{number}'): {reason}" in ran.stdout


@pytest.mark.parametrize(("max_length", "message"), [(0, "max_length"), (-5, "max_length")])
def test_a_row_length_that_cannot_be_is_an_error(check, max_length, message):
    ran = check("--train_dataset.modal_to_text_transform.max_length", max_length)
    assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr


def test_a_row_length_that_leaves_no_answer_is_an_error(check, tmp_path):
    turns = [{"from": "user", "value": "a" * 99}, {"from": "assistant", "value": "b"}]
    (tmp_path / "train.json").write_text(json.dumps([{"conversations": turns}] * 3))
    ran = check(LOADER, tmp_path / "train.json", "--train_dataset.modal_to_text_transform.max_length", 100)
    assert ran.returncode == 2 and "max_length 100 leaves no token of any answer" in ran.stderr
    assert "3 × no token of an answer left within 100 tokens" in ran.stdout


@pytest.fixture
def judge():
    """Run ``--check`` on a shipped YAML, by its name; returns the finished process."""

    def run(config: str, *arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "run_mindformer.py", "--config", f"configs/qwenvl/{config}.yaml", "--check"]
        command += map(str, arguments)
        return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)

    return run


def test_parameters_memory_and_steps_are_told(check, workspace):
    numbers = sum(tensor.size for tensor in load_file(workspace / "model/model.safetensors").values())
    ran = check("--batch_size", 2, "--runner_config.gradient_accumulation_steps", 1)
    assert ran.returncode == 0, ran.stderr
    assert f"parameters    {numbers:,}, of which " in ran.stdout
    assert "steps         3 of 2 rows" in ran.stdout  # six records, one epoch
    assert "of which the headers fit" in ran.stdout and "GB of a device" in ran.stdout


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ("finetune_qwenvl_9.6b_bf16", "parameters    9,656,935,168, of which 7,797,379,072 (80.7%) are trained\n"),
        ("finetune_qwenvl_9.6b_lora", "parameters    9,769,132,800, of which 112,197,632 (1.1%) are trained\n"),
        ("finetune_qwenvl_9.6b_lora_8p", "parameters    9,769,132,800, of which 112,197,632 (1.1%) are trained\n"),
    ],
)
def test_the_9_6b_yamls_are_judged_without_a_device_or_weights(judge, workspace, config, counts):
    """The counts are those of the released model; the data are a small file."""
    ran = judge(
        config, "--train_dataset.tokenizer.vocab_file", workspace / "model/qwen.tiktoken",
        "--train_dataset.data_loader.annotation_file", workspace / "conversations.json",
        "--train_dataset_dir", workspace,
    )  # fmt: skip
    assert counts in ran.stdout, ran.stderr
    assert "more than the" not in ran.stdout  # memory that a device has
    assert ran.stderr.count("error: ") == 1 and "wrong vocabulary file" in ran.stderr  # the small one given here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel_config.data_parallel", "3"], "parallel_config: data_parallel 3"),
        (["--parallel_config.model_parallel", "3", "--parallel_config.data_parallel", "8"], "must divide num_attention"),
        (["--model.model_config.compute_dtype", "fp17"], "compute_dtype: unknown type 'fp17'"),
        (["--optimizer.type", "Adamm"], "optimizer.type: unknown type 'Adamm'"),
        (["--options", "optimizer.weight_decy=1"], "unknown key 'weight_decy'; did you mean 'weight_decay'?"),
        (["--batch_size", "0"], "runner_config.batch_size: expected a whole number"),
        (["--options", "model.model_config.lora={target_modules: [q_proj]}"], "'q_proj' matches no linear layer"),
        (["--callbacks", "[{type: Nope}]"], "callbacks[0].type: unknown type 'Nope'"),
        (["--options", "parallel_confg.data_parallel=8"], "unknown key 'parallel_confg'; did you mean 'parallel_config'"),
        (["--grouped_lr_schedule", "{default: {type: cosine, learning_rate: 1}, grouped: [{type: cosine, "
          "learning_rate: 1, params: [alinger]}]}"], "no trained parameter matches 'alinger'; did you mean 'aligner'?"),
        (["--model.model_config.config_file", "/none.json"], "config_file: /none.json not found"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_without_a_device(judge, arguments, message):
    ran = judge("finetune_qwenvl_9.6b_bf16", *arguments)
    assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


def test_yamls_that_predict_and_evaluate_are_judged_too(judge, workspace):
    ran = judge("predict_tiny")
    assert ran.returncode == 0, ran.stderr
    assert "run_mode      predict\n" in ran.stdout and "of which the headers fit" in ran.stdout
    ran = judge("predict_tiny", "--model.generation_config.topp", 1)
    assert ran.returncode == 2 and "unknown argument --model.generation_config.topp; did you mean" in ran.stderr
    ran = judge("eval_tiny_easyvqa", "--eval_dataset", f"{{x: {{metric: exact_match, batch_size: 2, dataset_dir: "
                f"{workspace}, data_loader: {{type: BaseMultiModalDataLoader, annotation_file: "
                f"{workspace}/conversations.json}}}}}}")  # fmt: skip
    assert ran.returncode == 0 and "x             6 records for exact_match" in ran.stdout, ran.stderr


def test_weights_that_do_not_fit_are_found(judge, golden_dir):
    ran = judge("predict_tiny", "--load_checkpoint", golden_dir / "model.safetensors",
                "--model.model_config.config_file", "assets/qwenvl_tiny_easyvqa")  # fmt: skip
    assert ran.returncode == 2 and "the weights do not fit the model" in ran.stderr


def test_data_of_an_evaluation_while_training_and_the_size_of_images_are_judged_too(check, workspace):
    section = f"{{x: {{metric: exact_match, batch_size: 2, dataset_dir: {workspace}/none, data_loader: {{type: "
    section += f"BaseMultiModalDataLoader, annotation_file: {workspace}/conversations.json}}}}}}"
    ran = check("--do_eval", True, "--eval_step_interval", 1, "--eval_dataset", section)
    assert ran.returncode == 2 and "none/0.png" in ran.stderr, ran.stderr
    template = "train_dataset.modal_to_text_transform.model_transform_template"
    ran = check(f"--{template}.image_size", 448)
    assert ran.returncode == 2 and "image_size is 448, but the model's configuration says 112" in ran.stderr

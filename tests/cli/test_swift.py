"""ms-swift's command line: what its arguments mean here, and what is said of those that mean nothing."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from ms_impl import families
from ms_impl.cli.annotations import mixture_of
from ms_impl.cli.arguments import read_settings
from ms_impl.cli.swift import runs
from ms_impl.cli.swift.answers import row_of, settings_of
from ms_impl.cli.swift.arguments import COMMANDS, NOTES, REFUSED, read
from ms_impl.cli.swift.commands import export, infer, port_of, ranks_of, sft
from ms_impl.cli.swift.datasets import Split, prepared
from ms_impl.cli.swift.deploy import words_of
from ms_impl.cli.swift.training import notes_of
from ms_impl.cli.swift.training import settings_of as training_settings
from ms_impl.errors import InputError
from ms_impl.evaluate.questions import Question

PAGE = """--model DIR --dataset a.jsonl b.jsonl#2000 --split_dataset_ratio 0.01 --train_type lora --torch_dtype bfloat16
 --packing true --padding_free true --num_train_epochs 1 --per_device_train_batch_size 1 --per_device_eval_batch_size 1
 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 --target_modules all-linear --freeze_vit true --freeze_aligner true
 --freeze_llm false --gradient_accumulation_steps 1 --eval_steps 50 --save_steps 50 --save_total_limit 2
 --logging_steps 5 --max_length 4096 --truncation_strategy left --output_dir output --warmup_ratio 0.05
 --dataloader_num_workers 4 --attn_impl flash_attention_2 --deepspeed zero2 --load_from_cache_file true"""


@pytest.fixture
def omni():
    return families.get("qwen2_5_omni")


@pytest.fixture
def records(tmp_path):
    """A file of ten records."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    lines = [json.dumps({"id": number, "messages": turns}) for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "a.jsonl")


def translated(words: str, family, tiny_omni, ranks: int = 1) -> dict:
    given = read("sft", shlex.split(words.replace("DIR", str(tiny_omni / "model"))))
    config = family.resolve("config").from_file(tiny_omni / "model/config.json")
    return training_settings(given, family, config, Split(("a.jsonl",), None), "output", ranks, "CPU")


def test_the_command_of_the_page(omni, tiny_omni, records, tmp_path):
    """Its settings are those of a YAML that run_mindformer.py takes; what has no counterpart is named."""
    notes = read("sft", shlex.split(PAGE)).notes
    assert [note.split()[0] for note in notes] == [
        "--per_device_eval_batch_size", "--eval_steps", "--attn_impl", "--deepspeed", "--load_from_cache_file",
    ]  # fmt: skip
    settings = translated(PAGE, omni, tiny_omni)
    assert settings["model"]["model_config"]["lora"] == {
        "r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["language_model"],
        "exclude_modules": ["lm_head"],
    }  # fmt: skip
    assert settings["lr_schedule"] == {
        "type": "CosineWithWarmUpLR", "learning_rate": 1e-4, "lr_end": 0.0, "warmup_ratio": 0.05, "total_steps": -1,
    }  # fmt: skip
    data = settings["train_dataset"]
    assert data["packing"] and data["modal_to_text_transform"]["max_length"] == 4096
    assert data["modal_to_text_transform"]["model_transform_template"]["truncation_strategy"] == "left"
    assert settings["callbacks"][2] == {
        "type": "CheckpointMonitor", "save_checkpoint_steps": 50, "keep_checkpoint_max": 2,
    }  # fmt: skip
    data["data_loader"]["annotation_file"] = [records]
    (tmp_path / "swift.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    checked = read_settings(["--config", str(tmp_path / "swift.yaml")])
    assert checked["model"]["model_config"]["compute_dtype"] == "float32"  # as an Ascend YAML on CPU


@pytest.mark.parametrize("words, expected", [
    ("--freeze_vit false", ["vision_tower", "language_model"]),
    ("--freeze_vit false --freeze_aligner false --freeze_llm true", ["aligner", "vision_tower"]),
    ("--target_modules q_proj v_proj --freeze_vit false", ["q_proj", "v_proj"]),
    ("--target_regex .*q_proj", ".*q_proj"),
])  # fmt: skip
def test_layers_that_are_adapted(omni, tiny_omni, words, expected):
    lora = translated(f"--model DIR {words}", omni, tiny_omni)["model"]["model_config"]["lora"]
    assert lora["target_modules"] == expected


def test_defaults_are_those_of_ms_swift(omni, tiny_omni):
    settings = translated("--model DIR", omni, tiny_omni, ranks=2)
    runner, optimizer = settings["runner_config"], settings["optimizer"]
    assert (runner["epochs"], runner["batch_size"], runner["gradient_accumulation_steps"]) == (3, 1, 8)
    assert (optimizer["weight_decay"], optimizer["betas"]) == (0.1, [0.9, 0.95]) and settings["seed"] == 42
    full = translated("--model DIR --train_type full --freeze_aligner false", omni, tiny_omni)
    section = full["model"]["model_config"]
    assert [section[key] for key in ("freeze_llm", "freeze_vit", "freeze_aligner")] == [False, True, False]
    assert full["lr_schedule"]["learning_rate"] == 1e-5 and "lora" not in section
    notes = notes_of(read("sft", ["--model", "m", "--padding_free", "true"]), 1)
    assert [note.split()[0] for note in notes] == [
        "--truncation_strategy", "--padding_free", "--gradient_accumulation_steps", "the",
    ]  # fmt: skip


@pytest.mark.parametrize("command, words, message", [
    ("sft", "--lora_rnk 8", "unknown argument --lora_rnk; did you mean 'lora_rank'?"),
    ("sft", "--packing maybe", "--packing must be true or false, not 'maybe'"),
    ("sft", "--lora_rank eight", "--lora_rank must be a whole number, not 'eight'"),
    ("sft", "--train_type adalora", "--train_type 'adalora' is not taken; it is lora or full"),
    ("sft", "--learning_rate 1 2", "--learning_rate takes one value, 2 are given"),
    ("sft", "--push_to_hub true", "--push_to_hub true is refused: nothing is sent anywhere"),
    ("sft", "--max_steps 10", "--max_steps 10 is refused: the length of a run is its epochs"),
    ("sft", "--merge_lora true", "--merge_lora is not an argument of sft; leave it out"),
    ("sft", "now", "'now' stands before the first argument"),
    ("infer", "--infer_backend vllm", "--infer_backend vllm is refused"),
    ("infer", "--xyzzy 1", "unknown argument --xyzzy"),
])  # fmt: skip
def test_wrong_arguments_are_named(command, words, message):
    with pytest.raises(InputError) as caught:
        read(command, words.split())
    assert str(caught.value).startswith(message)


def test_what_asks_for_nothing_is_taken():
    given = read(
        "sft",
        ["--push-to-hub=false", "--max_steps", "-1", "--loss_scale", "default", "--optim", "adamw_torch", "--seed=7"],
    )
    assert given.seed == 7 and not given.notes
    taken = {name for known in COMMANDS.values() for name in known}
    assert not taken & (NOTES.keys() | REFUSED.keys())


@pytest.mark.parametrize("words, message", [
    ("", "--model: give the directory of a checkpoint"),
    ("--model Qwen/Qwen2.5-Omni-7B", "--model: Qwen/Qwen2.5-Omni-7B is not a directory; nothing is fetched from a hub"),
    ("--model DIR --dataset AI-ModelScope/x", "--dataset: AI-ModelScope/x is not a file of records here"),
    ("--model DIR", "--dataset: names no file of records"),
    ("--resume_from_checkpoint no/checkpoint-5", "no/checkpoint-5: no such checkpoint"),
])  # fmt: skip
def test_what_sft_cannot_begin(tiny_omni, tmp_path, words, message):
    words = f"{words.replace('DIR', str(tiny_omni / 'model'))} --device_target CPU --output_dir {tmp_path}"
    with pytest.raises(InputError) as caught:
        sft(words.split())
    assert str(caught.value).startswith(message)


def lines_of(path: str) -> list[int]:
    return [json.loads(line)["id"] for line in Path(path).read_text().splitlines()]


def test_samples_and_splits(records, tmp_path):
    split = prepared([records, f"{records}#4", f"{records}#25"], (), 0.1, 42, tmp_path)
    train, held = lines_of(split.train[0]), lines_of(split.validation)
    assert (len(train), len(held)) == (9 + 3 + 24, 1 + 1 + 1)
    assert sorted(train[:9] + held[:1]) == list(range(10)) and len(set(train[9:12] + held[1:2])) == 4
    values, counts = np.unique(train[12:], return_counts=True)  # of nine records two whole rounds, and six once more
    assert len(values) == 9 and sorted(counts) == [2] * 3 + [3] * 6 and held[2] not in values
    again = prepared([records, f"{records}#4", f"{records}#25"], (), 0.1, 42, tmp_path)
    assert again == split and lines_of(again.train[0]) == train
    other = prepared([f"{records}#4"], (), 0.0, 43, tmp_path)
    assert other.validation is None and len(lines_of(other.train[0])) == 4


def test_a_yaml_takes_the_same_records(records, tmp_path):
    """Of one seed; the first N where records are not shuffled, and of sets to validate on."""
    loader = {"annotation_file": f"{records}#13"}
    numbers = [json.loads(conversation.record.partition("(id ")[2][:-1]) for conversation in mixture_of(loader, 42)]
    split = prepared([f"{records}#13"], [f"{records}#3"], 0.0, 42, tmp_path)
    assert lines_of(split.train[0]) == numbers and lines_of(split.validation) == [0, 1, 2]
    in_order = prepared([f"{records}#4"], (), 0.0, 42, tmp_path, shuffle=False)
    assert lines_of(in_order.train[0]) == [0, 1, 2, 3]
    assert [file.name(3) for file in mixture_of({**loader, "shuffle": False}, 42).files] == [f"{records}: record 3"]
    for wrong, message in ((f"{records}#0", "takes no record"), (f"{records}#x", "is not a file of records here")):
        with pytest.raises(InputError, match=message):
            prepared([wrong], (), 0.0, 42, tmp_path)


def test_whole_files_stay_where_they_are(records, tmp_path):
    assert prepared([records], (), 0.0, 42, tmp_path) == Split((records,), None)
    split = prepared([records], [f"{records}#3"], 0.5, 42, tmp_path)
    assert split.train == (records,) and len(lines_of(split.validation)) == 3
    with pytest.raises(InputError, match="leaves none to train"):
        prepared([f"{records}#1"], (), 0.5, 42, tmp_path)


def test_runs_and_checkpoints_have_the_names_that_users_look_for(tmp_path):
    first, second = (runs.new_run(tmp_path, add_version=True) for _ in range(2))
    assert first.name.startswith("v0-") and second.name.startswith("v1-")
    runs.save_arguments({"model": "m"}, first)
    folder = first / "checkpoint/step_00000050"
    folder.mkdir(parents=True)
    assert runs.checkpoint_directory(first / "checkpoint-50") == folder  # before it is named
    (link,) = runs.name_checkpoints(first)
    assert link == first / "checkpoint-50" and link.resolve() == folder.resolve()
    assert runs.arguments_of(link) == runs.arguments_of(folder) == runs.arguments_of(first) == {"model": "m"}
    (folder / runs.ARGUMENTS).unlink()
    folder.rmdir()
    assert runs.name_checkpoints(first) == [] and not link.is_symlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        runs.checkpoint_directory(link)


def test_settings_of_answers():
    assert settings_of(read("infer", ["--temperature", "0"])) == {"do_sample": False}
    given = read("infer", ["--top_p", "0.9", "--max_new_tokens", "7"])
    assert settings_of(given) == {"top_p": 0.9, "max_new_tokens": 7, "do_sample": True}
    assert settings_of(read("infer", [])) == {}


def test_a_line_of_the_results():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = row_of({"messages": turns, "images": ["x"]}, Question("", 0, "a", (), ("b",)), "c")
    assert list(row) == ["response", "labels", "logprobs", "messages", "images"]
    assert (row["response"], row["labels"], row["messages"][-1]["content"]) == ("c", "b", "c")


def test_processes_of_a_node():
    assert ranks_of({}) == 1 and ranks_of({"NPROC_PER_NODE": "2"}) == 2
    devices = {"ASCEND_RT_VISIBLE_DEVICES": "0,1"}
    assert ranks_of({"NPROC_PER_NODE": "2", **devices}) == 2
    assert port_of({}) is None and port_of({"MASTER_PORT": "29501"}) == 29501
    for wrong in ("0", "x", "65536", "-1", ""):
        with pytest.raises(InputError, match="environment variable MASTER_PORT must be a port"):
            port_of({"MASTER_PORT": wrong})
    for wrong in (
        {"NPROC_PER_NODE": "two"},
        {"NPROC_PER_NODE": "0"},
        {"NNODES": "2"},
        {"NPROC_PER_NODE": "4", **devices},
    ):
        with pytest.raises(InputError, match="environment variable"):
            ranks_of(wrong)


def test_a_server_of_a_model_and_its_adapters(tmp_path, capsys):
    """An adapter without a name stands in the model's place; what is not given is as its training was."""
    for number, model in ((50, "/models/a"), (60, "/models/b")):
        folder = tmp_path / f"v{number}/checkpoint-{number}"
        folder.mkdir(parents=True)
        saved = {"model": model, "torch_dtype": "float16", "custom_register_path": ["/my.py"], "system": "Be brief."}
        runs.save_arguments(saved, folder)
    one, other = tmp_path / "v50/checkpoint-50", tmp_path / "v60/checkpoint-60"
    words = words_of(read("deploy", ["--adapters", str(one), f"x={one}", "--port", "9", "--verbose", "true"]))
    assert words == [
        "--model", "/models/a", "--name", "a", "--adapter", f"a={one}", "--adapter", f"x={one}",
        "--custom_register_path", "/my.py", "--host", "127.0.0.1", "--port", "9", "--dtype", "float16",
    ]  # fmt: skip
    assert "requests bring it as their first message" in capsys.readouterr().out
    given = ["--model", "/models/c", "--served_model_name", "n", "--torch_dtype", "bfloat16", "--api_key", "k"]
    assert words_of(read("deploy", given)) == [
        "--model", "/models/c", "--name", "n", "--host", "127.0.0.1", "--port", "8000", "--api_key", "k",
        "--dtype", "bfloat16",
    ]  # fmt: skip
    with pytest.raises(
        InputError, match=r"was trained with --model '/models/a', .*checkpoint-60 was not; give --model"
    ):
        words_of(read("deploy", ["--adapters", f"x={one}", f"y={other}"]))
    for wrong, message in (
        ([], "--model: give"),
        (["--adapters", "x=no"], "no: no such"),
        (["--seed", "1"], "--seed is"),
    ):
        with pytest.raises(InputError, match=message):
            words_of(read("deploy", wrong))


def test_infer_and_export_say_what_they_miss(tiny_omni, tmp_path):
    model = str(tiny_omni / "model")
    with pytest.raises(InputError, match="the run set no record aside"):
        infer(["--model", model, "--load_data_args", "true"])
    with pytest.raises(InputError, match="give --merge_lora true"):
        export(["--model", model])
    with pytest.raises(InputError, match="names no checkpoint to merge"):
        export(["--model", model, "--merge_lora", "true"])

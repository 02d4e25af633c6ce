"""The original's JSON configuration: every key, its default, what stands for what has no counterpart, and mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import first_ranks, write_checkpoint

from ms_impl import families
from ms_impl.cli.arguments import read_settings
from ms_impl.cli.schema import check_settings, lookup
from ms_impl.errors import InputError
from ms_impl.ovis2_5 import train_config
from ms_impl.ovis2_5.train_keys import DEFAULTS, KEYS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/ovis2_5/run_training.sh"
SHIPPED = ROOT / "scripts/ovis2_5/config/train_config.json"
TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"
# The interface's keys, and those of the original's own files.
DOCUMENTED = re.findall(
    r"\w+",
    """model_path ovis_pretrained_path data_name data_type data_path image_folder output_dir num_train_epochs
per_device_train_batch_size gradient_accumulation_steps learning_rate train_modules freeze_vision_tower freeze_llm stage
multimodal_max_length text_max_length single_image_min_pixels single_image_max_pixels multiple_image_min_pixels
multiple_image_max_pixels video_max_pixels gradient_checkpointing bf16 warmup_ratio lr_scheduler_type weight_decay
save_steps save_total_limit logging_steps seed report_to dataloader_num_workers lora_r lora_alpha lora_dropout
lora_target_modules deepspeed attn_implementation torch_compile visual_vocab_size LLM_MODEL VIT_MODEL packing torch_dtype
video_min_pixels min_frames max_frames eval_data_path do_train do_eval overwrite_output_dir eval_strategy eval_steps
load_best_model_at_end max_grad_norm warmup_steps tf32 fp16 data_seed remove_unused_columns dataloader_pin_memory
dataloader_drop_last dataloader_persistent_workers apply_lora_to_vision metric_for_best_model early_stopping_patience
resume_from_checkpoint""",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, ovis_folder, vocabulary_file) -> Path:
    """``model`` (the vectors' configuration with a vocabulary of its size) and ``records.json`` of ten records."""
    root = tmp_path_factory.mktemp("configuration")
    config = json.loads((ovis_folder / "config.json").read_text())
    ranks = config["llm_config"]["vocab_size"] - 26
    vocabulary = first_ranks(vocabulary_file, ranks)
    write_checkpoint(root / "model", families.get("ovis2_5"), config, qwen__tiktoken=vocabulary)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    (root / "records.json").write_text(json.dumps([{"id": str(n), "conversations": turns} for n in range(10)]))
    return root


@pytest.fixture
def settings_of(place, tmp_path):
    """The settings of a configuration with these keys, checked as those of a YAML; and the file."""

    def translate(ranks: int = 1, **keys):
        given = {"model_path": f"{place}/model", "data_path": f"{place}/records.json", "device_target": "CPU"}
        file = tmp_path / "train_config.json"
        file.write_text(json.dumps({"output_dir": str(tmp_path / "out"), **given, **keys}))
        written = train_config.write_settings(file, ranks)
        return read_settings(["--config", str(written), "--run_mode", "finetune"])

    return translate


OTHER = {
    "data_path": ["more.json"], "image_folder": "/images", "output_dir": "elsewhere", "resume_from_checkpoint": True,
    "num_train_epochs": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 1e-3,
    "max_grad_norm": 0.5, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6,
    "warmup_ratio": 0.1, "warmup_steps": 7, "lr_scheduler_type": "cosine", "logging_steps": 3, "save_steps": 9,
    "save_total_limit": 2, "seed": 7, "train_modules": "vte", "freeze_vision_tower": True, "freeze_llm": True,
    "multimodal_max_length": 9000, "text_max_length": 9000, "single_image_min_pixels": 1024,
    "single_image_max_pixels": 300000, "multiple_image_min_pixels": 1024, "multiple_image_max_pixels": 300000,
    "video_min_pixels": 1024, "video_max_pixels": 300000, "min_frames": 2, "max_frames": 16, "packing": True,
    "group_by_length": True, "gradient_checkpointing": True, "bf16": True, "fp16": True, "torch_dtype": "float16",
    "dataloader_num_workers": 3, "dataloader_drop_last": True, "dataloader_shuffle": False, "lora_r": 4, "lora_alpha": 8,
    "lora_dropout": 0.2, "lora_target_modules": "q_proj", "device_target": "Ascend", "report_to": ["wandb"],
    "deepspeed": "zero2.json", "ovis_pretrained_path": "/elsewhere", "eval_steps": 5, "eval_strategy": "steps",
}  # fmt: skip
SAID_AGAIN = {"data_type", "save_strategy", "apply_lora_to_vision"}  # each may only say what is done anyway


@pytest.mark.parametrize("key", sorted(KEYS.content.keys() - SAID_AGAIN))
def test_no_key_is_dropped_in_silence(place, tmp_path, key):
    """Each changes a setting, or has a line of the log."""

    def translated(**keys) -> tuple[dict, list[str]]:
        given = {"model_path": f"{place}/model", "data_path": f"{place}/records.json", "device_target": "CPU"}
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**given, **keys}))
        config = train_config.read_config(file)
        return train_config.settings_of(config), train_config.notes(config)

    beside = {"lora_r": 8} if key in ("lora_alpha", "lora_dropout", "lora_target_modules") else {}
    if key == "visual_vocab_size":  # the checkpoint's own counts
        with pytest.raises(InputError, match="visual_vocab_size: 9, but"):
            translated(visual_vocab_size=9)
    elif key == "model_path":
        shutil.copytree(place / "model", tmp_path / "model")
        assert translated(model_path=f"{tmp_path}/model") != translated()
    else:
        (settings, notes), (without, none) = translated(**beside, **{key: OTHER.get(key, True)}), translated(**beside)
        assert none == [] and (settings != without or notes[0].startswith(f"{key}: "))


def test_every_documented_key_is_known():
    assert set(DOCUMENTED) <= set(KEYS.content)


def test_defaults_are_the_originals(settings_of):
    settings = settings_of()
    expected = {
        "runner_config.epochs": 3, "runner_config.batch_size": 1, "runner_config.gradient_accumulation_steps": 8,
        "lr_schedule.learning_rate": 2e-5, "lr_schedule.type": "LinearWithWarmUpLR", "optimizer.weight_decay": 0.0,
        "optimizer.betas": [0.9, 0.999], "seed": 42, "train_dataset.packing": False,
        "train_dataset.drop_remainder": False, "model.model_config.freeze_llm": False,
        "model.model_config.train_only": None, "model.model_config.lora": None, "grouped_lr_schedule": None,
        "train_dataset.modal_to_text_transform.max_length": 8192, f"{TEMPLATE}.text_max_length": 4096,
        f"{TEMPLATE}.single_image_min_pixels": 448**2, f"{TEMPLATE}.single_image_max_pixels": 1792**2,
        f"{TEMPLATE}.multiple_image_max_pixels": 896**2, f"{TEMPLATE}.video_max_pixels": 896**2,
        f"{TEMPLATE}.multimodal_max_length": 8192, "recompute_config.recompute": False,
        "parallel.enable_parallel_optimizer": False,
    }  # fmt: skip
    assert {key: lookup(settings, key) for key in expected} == expected
    saving = {callback["type"]: callback for callback in settings["callbacks"]}
    assert saving["CheckpointMonitor"]["save_checkpoint_steps"] == 500
    assert saving["CheckpointMonitor"]["keep_checkpoint_max"] == 1_000_000  # all


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"gradient_checkpointing": True, "deepspeed": "zero2.json"},
         {"recompute_config.recompute": True, "parallel.enable_parallel_optimizer": True}),
        ({"lr_scheduler_type": "cosine", "warmup_ratio": 0.1},
         {"lr_schedule.type": "CosineWithWarmUpLR", "lr_schedule.warmup_ratio": 0.1, "lr_schedule.lr_end": 0.0}),
        ({"warmup_steps": 100, "warmup_ratio": 0.1},
         {"lr_schedule.warmup_steps": 100, "lr_schedule.warmup_ratio": None}),  # as in Hugging Face's
        ({"warmup_steps": 0.25}, {"lr_schedule.warmup_ratio": 0.25}),
        ({"lr_scheduler_type": "constant"}, {"lr_schedule.type": "ConstantWarmUpLR", "lr_schedule.warmup_steps": 0}),
        ({"lr_scheduler_type": "polynomial"}, {"lr_schedule.type": "PolynomialWithWarmUpLR"}),
        ({"lr_scheduler_type": "cosine_with_restarts"}, {"lr_schedule.type": "CosineWithRestartsAndWarmUpLR"}),
        ({"fp16": True}, {"model.model_config.compute_dtype": "float16", "model.model_config.param_init_type": "float32",
                          "runner_wrapper.scale_sense.type": "DynamicLossScaleUpdateCell"}),
        ({"packing": True, "num_train_epochs": 2.0, "weight_decay": 0.01, "max_grad_norm": 0.5},
         {"train_dataset.packing": True, "runner_config.epochs": 2, "optimizer.weight_decay": 0.01,
          "runner_wrapper.max_grad_norm": 0.5}),
        ({"train_modules": "llm|vte"}, {"model.model_config.train_only": ["llm", "vte"], "grouped_lr_schedule": None}),
        ({"train_modules": "llm|visual_tokenizer.vit|vte", "freeze_vision_tower": True},
         {"model.model_config.train_only": ["llm", "vte"], "model.model_config.freeze_vision_tower": True}),
        ({"freeze_llm": True}, {"model.model_config.freeze_llm": True, "model.model_config.train_only": None}),
        ({"lora_r": 8}, {"model.model_config.lora": {
            "r": 8, "lora_alpha": 64, "lora_dropout": 0.1,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
            "lr_schedule.learning_rate": 1e-4}),
        ({"lora_r": 8, "lora_target_modules": "q_proj", "apply_lora_to_vision": False},
         {"model.model_config.lora.target_modules": r"llm\..*\.(q_proj)"}),
        ({"image_folder": "/images", "min_frames": 2, "max_frames": 4, "video_max_pixels": -1},
         {f"{TEMPLATE}.dataset_dir": "/images", f"{TEMPLATE}.min_frames": 2, f"{TEMPLATE}.max_frames": 4,
          f"{TEMPLATE}.video_max_pixels": -1}),
        ({"text_max_length": 9000}, {"train_dataset.modal_to_text_transform.max_length": 9000}),
    ],
)  # fmt: skip
def test_keys_become_settings(settings_of, keys, expected):
    settings = settings_of(**keys)
    assert {key: lookup(settings, key) for key in expected} == expected


def test_bf16_is_the_devices_and_is_adapted_to_a_cpu(settings_of, tmp_path, capsys):
    settings = settings_of(bf16=True)
    assert lookup(settings, "model.model_config.compute_dtype") == "float32"
    assert "compute_dtype: bfloat16 → float32" in capsys.readouterr().out
    assert "compute_dtype: bfloat16" in (tmp_path / "out/train_config.yaml").read_text()


def test_words_have_learning_rates_of_their_own(settings_of):
    settings = settings_of(train_modules="llm | visual_tokenizer.head:1e-3 | vte:2e-4", learning_rate=1e-5)
    assert lookup(settings, "model.model_config.train_only") == ["llm", "visual_tokenizer.head", "vte"]
    grouped = settings["grouped_lr_schedule"]
    assert grouped["default"]["learning_rate"] == 1e-5
    rates = {tuple(group["params"]): group["learning_rate"] for group in grouped["grouped"]}
    assert rates == {("visual_tokenizer.head",): 1e-3, ("vte",): 2e-4}


@pytest.mark.parametrize(("ranks", "drop", "steps"), [(1, False, 6), (1, True, 5), (2, False, 3)])
def test_shares_of_the_steps(settings_of, ranks, drop, steps):
    """Ten records, two epochs, rows of three."""
    keys = {"num_train_epochs": 2, "gradient_accumulation_steps": 3, "dataloader_drop_last": drop, "save_steps": 0.9}
    monitor = settings_of(ranks, **keys)["callbacks"][-1]
    assert monitor["save_checkpoint_steps"] == steps


def test_what_has_no_counterpart_is_named_with_what_stands_for_it(settings_of, capsys):
    settings_of(deepspeed="zero2.json", attn_implementation="flash_attention_2", torch_compile=True, stage=3,
                report_to="wandb", ovis_pretrained_path="/elsewhere", eval_strategy="no", data_seed=None)  # fmt: skip
    printed = capsys.readouterr().out
    for line in (
        "deepspeed: 'zero2.json' has no counterpart: ZeRO-1: parallel.enable_parallel_optimizer divides",
        "attn_implementation: 'flash_attention_2' has no counterpart: the device's own attention",
        "torch_compile: True has no counterpart: graph mode",
        "stage: 3 has no counterpart",
        "report_to: 'wandb' has no counterpart: output_dir/losses",
        "ovis_pretrained_path: /elsewhere is not read",
    ):
        assert line in printed
    assert "eval_strategy" not in printed and "data_seed" not in printed


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lerning_rate": 1}, "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        ({"train_modules": "lm"}, "train_modules: unknown word 'lm'; did you mean llm?"),
        ({"train_modules": "vte:fast"}, "'vte:fast' has no learning rate after its colon"),
        ({"train_modules": "llm", "freeze_llm": True}, "train_modules: llm is all frozen; nothing is left to train"),
        ({"train_modules": "vte", "lora_r": 8}, "train_modules, freeze_llm: LoRA freezes all but its factors"),
        ({"num_train_epochs": 0.5}, "num_train_epochs: 0.5 is not a whole number of epochs"),
        ({"learning_rate": "2e-5"}, "learning_rate: expected a number"),
        ({"data_type": "caption"}, "data_type: unknown data type 'caption'"),
        ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
        ({"save_steps": 0.5, "packing": True}, "save_steps: 0.5 is a share of the steps"),
        ({"visual_vocab_size": 65536}, "visual_vocab_size: 65,536, but"),
        ({"multimodal_max_length": 0}, "multimodal_max_length: expected a whole number"),
        ({"data_path": None}, "data_path: is missing"),
        ({"model_path": None}, "model_path: is missing"),
    ],
)
def test_mistakes_are_named(settings_of, keys, said):
    with pytest.raises(InputError) as raised:
        settings_of(**keys)
    assert said in str(raised.value) and "train_config.json: " in str(raised.value)


def test_the_shipped_configuration_is_of_known_keys_alone():
    config = train_config.read_config(SHIPPED)
    assert config.keys() - DEFAULTS.keys() <= set(DOCUMENTED)


def test_the_script_finds_the_configuration_and_runs_it(place, tmp_path):
    """It becomes run_mindformer.py: here with --check, which starts nothing."""
    config = {"model_path": f"{place}/model", "data_path": f"{place}/records.json", "multimodal_max_length": 64,
              "text_max_length": 64, "device_target": "CPU", "train_modules": "llm:1e-4|vte"}  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(config))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PATH": path, **environment})  # fmt: skip

    ran = run("own.json", "--check")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"records +10\n", ran.stdout) and re.search(r"parameters +[\d,]+, of which", ran.stdout)
    ran = run("config/train_config.json", "--check")
    assert ran.returncode == 2 and f"{SHIPPED}: /path/to/Ovis2.5-9B" in ran.stderr
    assert run("nowhere.json").returncode == 2 and run().returncode == 2
    ran = run("own.json", NPROC="two")
    assert ran.returncode == 2 and "NPROC: expected the number of workers, found 'two'" in ran.stderr


def test_workers_are_msruns():
    line = train_config.command_line(Path("out/train_config.yaml"), 2, ["--output_dir", "a b"])
    assert line[1].endswith("scripts/msrun_launcher.sh") and line[3] == "2" and line[5] == "out/msrun_log"
    assert line[2].endswith("--output_dir 'a b' --use_parallel True")
    assert train_config.command_line(Path("x.yaml"), 1, [])[2:4] == ["--config", "x.yaml"]


@pytest.mark.parametrize("name", ["2b", "2b_lora", "9b", "9b_lora"])
def test_the_yamls_of_full_size_are_right(name):
    from ms_impl.cli.yaml_reader import read_yaml

    assert check_settings(read_yaml(ROOT / f"configs/ovis2_5/finetune_ovis2_5_{name}.yaml")) == []

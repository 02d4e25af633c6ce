"""Every section of a YAML, MindFormers' too: key, type, range, nearest name; what one setting demands of another."""

import copy
from pathlib import Path

import pytest

from ms_impl import families
from ms_impl.cli import schema
from ms_impl.cli.keys import settings_schema
from ms_impl.cli.kinds import dotted_keys, find
from ms_impl.cli.settings import override
from ms_impl.cli.yaml_reader import parse, read_yaml
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
SHIPPED = {path.stem: path for path in sorted((ROOT / "configs/qwenvl").glob("*.yaml"))}
OF_ALL = {f"{path.parent.name}/{path.stem}": path for path in sorted((ROOT / "configs").glob("*/*.yaml"))}
LR = "lr_schedule"
SETTINGS = settings_schema(families.get("qwenvl"))


def faults(changes: dict, config: str = "finetune_qwenvl_9.6b_bf16") -> str:
    """What is said of a shipped YAML with changes; empty if nothing is wrong."""
    settings = read_yaml(SHIPPED[config])
    override(settings, copy.deepcopy(changes).items())
    schema.drop_empty(settings)
    try:
        schema.check_settings(settings)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("config", OF_ALL)
def test_what_is_shipped_is_right(config):
    settings = read_yaml(OF_ALL[config])
    schema.drop_empty(settings)
    schema.check_settings(settings)
    assert schema.family_of(settings).name == OF_ALL[config].parent.name


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("runner_config.epochs", "1", "runner_config.epochs: expected a whole number"),
        ("runner_config.epochs", 1.5, "found 1.5"),
        ("runner_config.batch_size", 0, "runner_config.batch_size: expected a whole number from 1"),
        ("runner_config.batchsize", 1, "runner_config: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("runner_config.sink_mode", 1, "runner_config.sink_mode: expected True or False, found 1"),
        ("seed", -1, "seed: expected a whole number from 0 to 4,294,967,295, found -1"),
        ("seed", True, "seed: expected a whole number"),
        ("optimizer.weight_decy", 0.1, "optimizer: unknown key 'weight_decy'; did you mean 'weight_decay'?"),
        ("optimizer.type", "Adamm", "optimizer.type: unknown type 'Adamm'; did you mean 'Adam'?"),
        ("optimizer.type", "FP32StateAdamWeightDecay", "unknown type 'FP32StateAdamWeightDecay'; did you mean 'AdamWe"),
        ("optimizer.beta1", 0.9, "optimizer: unknown key 'beta1'; did you mean 'betas'?"),
        ("optimizer.betas", [0.9, 1.0], "optimizer.betas[1]: expected a number above 0 and below 1, found 1.0"),
        ("optimizer.betas", [0.9], "optimizer.betas: expected a list of 2, found [0.9]"),
        ("optimizer.betas", 0.9, "optimizer.betas: expected a list of 2, found 0.9"),
        ("optimizer.eps", 0, "optimizer.eps: expected a number above 0, found 0"),
        ("optimizer.weight_decay", -0.1, "optimizer.weight_decay: expected a number at least 0"),
        ("optimizer.weight_decay", float("inf"), "optimizer.weight_decay: expected a number"),
        ("optimizer.use_fused", True, "optimizer.use_fused: is not supported"),
        ("optimizer", "AdamW", "optimizer: expected a section with keys, found 'AdamW'"),
        ("optimizer", {"betas": [0.9, 0.9]}, "optimizer.type: is missing"),
        (f"{LR}.learning_rate", float("nan"), "lr_schedule.learning_rate: expected a number"),
        (f"{LR}.learning_rate", -1, "lr_schedule.learning_rate: expected a number at least 0"),
        (f"{LR}.learning_rate", "1e-4x", "lr_schedule.learning_rate: expected a number"),
        (f"{LR}.learning_rate", None, "lr_schedule.learning_rate: is missing"),
        (f"{LR}.learning_rate", 10**400, "found 10000000"),
        (f"{LR}.warm_up_ratio", 0.1, "lr_schedule: unknown key 'warm_up_ratio'; did you mean 'warmup_ratio'?"),
        (f"{LR}.warmup_ratio", 1.1, "lr_schedule.warmup_ratio: expected a number at least 0 and at most 1"),
        (f"{LR}.total_steps", 0, "lr_schedule.total_steps: expected a whole number, at least 1 or -1, found 0"),
        (f"{LR}.type", "Cosine", "lr_schedule.type: unknown type 'Cosine'; did you mean"),
        (f"{LR}.warmup_epochs", 1, ""),
        (LR, {"type": "cosine", "learning_rate": 1, "warmup_epochs": 1}, "lr_schedule.warmup_ratio: is missing"),
        (LR, {"type": "linear", "learning_rate": 1}, "lr_schedule.warmup_ratio: is missing; LinearWithWarmUpLR needs"),
        (LR, {"type": "polynomial", "learning_rate": 0, "warmup_steps": 0}, "lr_schedule.lr_end: 1e-07 must be below"),
        ("lr_scheduler", {"type": "cosine"}, "settings: unknown key 'lr_scheduler'; did you mean 'lr_schedule'?"),
        ("runner_wrapper.use_clip_grad", "False", "runner_wrapper.use_clip_grad: expected True or False, found 'False'"),
        ("runner_wrapper.use_clip_grads", True, "unknown key 'use_clip_grads'; did you mean 'use_clip_grad'?"),
        ("runner_wrapper.max_grad_norm", 0, "runner_wrapper.max_grad_norm: expected a number above 0"),
        ("runner_wrapper.scale_sense", "big", "runner_wrapper.scale_sense: expected a number above 0 or a loss scale"),
        ("runner_wrapper.scale_sense.scale_fator", 2, "scale_sense: unknown key 'scale_fator'; did you mean 'scale_fac"),
        ("runner_wrapper.scale_sense.type", "Dynamic", "runner_wrapper.scale_sense.type: unknown type 'Dynamic'"),
        ("callbacks", 3, "callbacks: expected a list, found 3"),
        ("callbacks", [3], "callbacks[0]: expected a section with keys, found 3"),
        ("callbacks", [{}], "callbacks[0].type: is missing"),
        ("callbacks", [{"type": "Nope"}], "callbacks[0].type: unknown type 'Nope'; known: MFLossMonitor"),
        ("callbacks", [{"type": ["x"]}], "callbacks[0].type: expected a text"),
        ("callbacks", [{"type": "CheckpointMonitor", "save_checkpoint_step": 1}], "did you mean 'save_checkpoint_steps'?"),
        ("callbacks", [{"type": "CheckpointMonitor"}] * 2, "callbacks: has 2 of type CheckpointMonitor; keep one"),
        ("parallel_confg.data_parallel", 1, "unknown key 'parallel_confg'; did you mean 'parallel_config'?"),
        ("parallel_config.data_parallel", 3, "data_parallel 3 × model_parallel 1 × pipeline_stage 1 makes 3 ranks"),
        ("parallel_config.data_paralell", 8, "did you mean 'data_parallel'?"),
        ("parallel_config.data_parallel", "8", "parallel_config.data_parallel: expected a whole number"),
        ("parallel_config.pipeline_stage", 2, "parallel_config.micro_batch_num: 1 must be at least pipeline_stage, 2"),
        ("parallel.paralel_mode", 0, "parallel: unknown key 'paralel_mode'; did you mean 'parallel_mode'?"),
        ("parallel.parallel_mode", 7, "parallel.parallel_mode: expected 0 to 3 or the name of a parallel mode, found 7"),
        ("parallel.full_batch", "yes", "parallel.full_batch: expected True or False"),
        ("context.device_targt", "CPU", "context: unknown key 'device_targt'; did you mean 'device_target'?"),
        ("context.device_target", "Ascend910", "context.device_target: unknown value 'Ascend910'; did you mean 'Ascend'?"),
        ("context.mode", 2, "context.mode: expected 0, 1, GRAPH_MODE or PYNATIVE_MODE, found 2"),
        ("context.device_id", -1, "context.device_id: expected a whole number"),
        ("context.jit_config.jit_level", "O9", "context.jit_config.jit_level: unknown value 'O9'"),
        ("recompute_config.recompte", True, "did you mean 'recompute'?"),
        ("recompute_config.select_recompute", True, "recompute_config.select_recompute: is not supported"),
        ("model.model_config.compute_dtype", "fp17", "compute_dtype: unknown type 'fp17'; did you mean 'fp1"),
        ("model.model_config.compute_dtype", "fp16", ""),
        ("model.model_config.compute_dtype", "float16", ""),
        ("model.model_config.freeze_vision", "True", "freeze_vision: expected True or False, found 'True'"),
        ("model.model_config.lora.r", 0, "model.model_config.lora"),
        ("model.model_config.lora.rank", 8, "model.model_config.lora: unknown key 'rank'"),
        ("model.generation_config.top_p", 2, "model.generation_config"),
        ("model.generation_config.topp", 0.5, "unknown key 'topp'; did you mean 'top_p'?"),
        ("trainer.type", "Trainer", "trainer.type: unknown type 'Trainer'; "),
        ("train_dataset_task.type", "Other", "train_dataset_task.type: unknown type 'Other'"),
        ("train_dataset_task.dataset_config", {"a": 1}, "dataset_config: differs from train_dataset"),
        ("train_dataset.modal_to_text_transform.max_length", -5, "max_length: expected a whole number from 1"),
        ("train_dataset.loss_weighting", "sample", "loss_weighting: unknown value 'sample'; known: token, dialogue"),
        ("train_dataset.data_loader.num_samples", 0, "num_samples: expected a whole number, at least 1, found 0"),
        ("train_dataset.data_loader.annotation_file", 3, "annotation_file: expected a path, or a list of paths"),
        ("train_dataset.data_loader.annotation_file", [{"path": "x", "weight": True}], "[0].weight: expected a number"),
        ("train_dataset.data_loader.annotation_file", [{"path": "x", "weight": 1e18}], "[0].weight: expected a number"),
        ("train_dataset.data_loader.annotation_file", [{"path": "x", "wieght": 1}], "did you mean 'weight'?"),
        ("train_dataset.data_loader.type", "SFTDataLoader", "train_dataset.data_loader.type: unknown type 'SFTDataLoader'"),
        ("train_dataset.modal_to_text_transform.model_transform_template.mode", "predict", "mode: unknown value 'predict'"),
        ("train_dataset.modal_content_transforms", [], "modal_content_transforms: expected BatchToTensor and"),
        ("train_dataset.tokenizer.type", "Mine", "train_dataset.tokenizer.type: 'Mine' is not qwenvl's; give QwenVLTokeni"),
        ("model.model_config.type", "Mine", ""),  # auto_register brings it
        ("model.model_config", {"type": "Mine"}, "model.model_config.type: 'Mine' is not qwenvl's; give QwenVLConfig"),
        ("train_dataset.net_input_columns", ["input_ids"], "train_dataset.net_input_columns: expected input_ids, images"),
        ("grouped_lr_schedule", {"grouped": []}, "grouped_lr_schedule.default: is missing"),
        ("grouped_lr_schedule.defualt", {}, "did you mean 'default'?"),
        ("load_checkpoint", ["x"], "load_checkpoint: expected a text, found ['x']"),
        ("output_dir", 3, "output_dir: expected a text that is not empty, found 3"),
        ("resume_training", 1, "resume_training: expected True, False or a checkpoint's name, found 1"),
        ("eval_step_interval", 0, "eval_step_interval: expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(key, value, message):
    found = faults({key: value})
    assert message in found if message else not found
    assert len(found) < 500


def test_three_frozen_groups_leave_nothing_to_train_unless_there_is_an_adapter():
    frozen = {f"model.model_config.{key}": True for key in ("freeze_vision", "freeze_resampler", "freeze_llm")}
    assert "are all True: nothing is left to train" in faults(frozen)
    assert faults(frozen | {"model.model_config.lora": {"target_modules": ["c_attn"]}}) == ""


def test_all_that_is_wrong_is_told_at_once():
    changes = {"seed": -1, "optimizer.type": "Adamm", "parallel_confg.x": 1, "runner_config.batch_size": 0}
    found = faults(changes)
    assert found.startswith("4 settings are wrong:\n  ") and found.count("\n") == 4
    assert all(word in found for word in ("seed", "Adamm", "parallel_confg", "batch_size"))


def test_a_key_without_a_value_is_one_that_is_not_given():
    settings = parse("optimizer:\nseed: ~\na: {b: , c: [{d: }]}", "x.yaml")
    schema.drop_empty(settings)
    assert settings == {"a": {"c": [{}]}}


def test_the_ranks_that_msrun_started_must_be_those_of_the_yaml(monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    assert "must be the number of ranks, 4" in faults({"use_parallel": True})
    assert faults({"use_parallel": True, "parallel_config.data_parallel": 4}) == ""
    monkeypatch.delenv("MS_ROLE")  # a leftover
    assert faults({"use_parallel": True}) == ""


@pytest.mark.parametrize("config", ["predict_qwenvl_9.6b", "eval_qwenvl_9.6b"])
def test_what_mindformers_refuses_where_nothing_is_trained(config):
    assert "jit_level: O1 is not supported in run_mode" in faults({"context.jit_config.jit_level": "O1"}, config)
    assert faults({"context.jit_config.jit_level": "O0"}, config) == ""


def test_what_has_no_effect_is_told():
    settings = read_yaml(SHIPPED["finetune_tiny"])
    idle = {"train_dataset.python_multiprocessing": False, "train_dataset.modal_content_input_columns": ["images"]}
    override(settings, [*idle.items(), ("context.enable_graph_kernel", False), ("auto_tune", False)])
    assert set(schema.check_settings(settings)) == {*idle, "context.enable_graph_kernel", "auto_tune"}


def test_every_key_of_the_shipped_yamls_can_be_found_by_its_dotted_name():
    keys = set(dotted_keys(SETTINGS))
    assert {"optimizer.weight_decay", "lr_schedule.power", "model.model_config.lora.r"} <= keys
    assert find(SETTINGS, "callbacks.x") is None and find(SETTINGS, "eval_dataset.any.metric") is not None

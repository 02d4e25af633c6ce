"""The sections that MindFormers 1.9.0 and MindSpore 2.9.0 read, with what their keys may be.

``tests/cli/test_mindformers_keys.py`` holds them against the classes and functions that read them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ms_impl.cli.kinds import Either, Flag, Idle, Kind, ListOf, Named, Number, Section, Text, Typed, Whole

_POSITIVE, _SHARE = Number(above=0), Number(low=0, high=1)
_RATE = Number(low=0, high=100)
_DECAY = Number(above=0, below=1)
_STEPS = Whole(1)


def _named(names: str, kinds: dict[str, Kind]) -> dict[str, Kind]:
    """The kinds of names that stand with blanks between them."""
    return {name: kinds[name] for name in names.split()}


_LR_KINDS = {
    "learning_rate": _RATE, "base_lr": _RATE, "lr_end": _RATE, "lr_end1": _RATE, "lr_end2": _RATE, "eta_min": _RATE,
    "warmup_lr_init": _RATE, "warmup_ratio": _SHARE, "warmup_steps": Whole(0), "warmup_epochs": Whole(0),
    "decay_ratio": _SHARE, "decay_steps": _STEPS, "decay_start_steps": Whole(0), "decay_start_ratio": _SHARE,
    "keep_steps": Whole(0), "final_steps": Whole(0), "total_steps": Whole(1, also=(-1,)), "num_cycles": _POSITIVE,
    "power": _POSITIVE, "t_max": _STEPS, "t_0": _STEPS, "t_mult": _STEPS,
}  # fmt: skip
_WARM = "learning_rate warmup_steps warmup_epochs warmup_ratio warmup_lr_init total_steps"
_LR_NAMES = {
    "ConstantWarmUpLR": _WARM,
    "ConstantWithCoolDownLR":
        f"{_WARM} keep_steps decay_steps decay_ratio num_cycles lr_end1 final_steps lr_end2",
    "LinearWithWarmUpLR": _WARM,
    "CosineWithWarmUpLR": f"{_WARM} num_cycles lr_end decay_steps decay_ratio",
    "CosineWithRestartsAndWarmUpLR": f"{_WARM} num_cycles lr_end decay_steps",
    "PolynomialWithWarmUpLR": f"{_WARM} lr_end power decay_steps",
    "WarmUpStableDecayLR": f"{_WARM} lr_end decay_start_steps decay_start_ratio",
    "CosineAnnealingLR": "base_lr t_max eta_min total_steps",
    "CosineAnnealingWarmRestarts": "base_lr t_0 t_mult eta_min total_steps",
}  # fmt: skip
LR_ALIASES = {
    "constant_with_warmup": "ConstantWarmUpLR",
    "linear": "LinearWithWarmUpLR",
    "cosine": "CosineWithWarmUpLR",
    "cosine_with_restarts": "CosineWithRestartsAndWarmUpLR",
    "polynomial": "PolynomialWithWarmUpLR",
    "cosine_annealing": "CosineAnnealingLR",
    "cosine_annealing_warm_restarts": "CosineAnnealingWarmRestarts",
}
_LR_NAMES |= {alias: _LR_NAMES[name] for alias, name in LR_ALIASES.items()}
LR_SCHEDULES = {name: _named(keys, _LR_KINDS) for name, keys in _LR_NAMES.items()}
LR_SCHEDULE = Typed(LR_SCHEDULES)

_OPTIMIZER_KINDS = {
    "learning_rate": Either((_RATE, LR_SCHEDULE), "a number or a schedule"), "weight_decay": Number(low=0, high=100),
    "betas": ListOf(_DECAY, 2), "beta1": _DECAY, "beta2": _DECAY, "beta3": _DECAY, "eps": _POSITIVE,
    "epsilon": _POSITIVE, "momentum": Number(low=0, below=1), "dampening": _SHARE, "nesterov": Flag(),
    "use_nesterov": Flag(), "use_locking": Flag(), "use_amsgrad": Flag(),
    "loss_scale": _POSITIVE, "decay": _SHARE, "centered": Flag(), "accum": Number(low=0), "update_slots": Flag(),
    "use_fused": Flag(),
}  # fmt: skip
_ADAMW = "learning_rate betas eps weight_decay"
_OPTIMIZER_NAMES = {
    "AdamW": f"{_ADAMW} use_fused",
    "AdamWDecayAll": _ADAMW,
    "AdamWeightDecay": "learning_rate beta1 beta2 eps weight_decay",
    "Adam": "learning_rate beta1 beta2 eps use_locking use_nesterov weight_decay loss_scale use_amsgrad",
    "Lamb": "learning_rate beta1 beta2 eps weight_decay",
    "Momentum": "learning_rate momentum weight_decay loss_scale use_nesterov",
    "SGD": "learning_rate momentum dampening weight_decay nesterov loss_scale",
    "RMSProp": "learning_rate decay momentum epsilon use_locking centered loss_scale weight_decay",
    "Adagrad": "accum learning_rate update_slots loss_scale weight_decay",
}
_OPTIMIZER_NAMES |= {"adam": _OPTIMIZER_NAMES["Adam"], "sgd": _OPTIMIZER_NAMES["SGD"]}
_OPTIMIZER_NAMES |= {"adagrad": _OPTIMIZER_NAMES["Adagrad"]}
OPTIMIZERS = {name: _named(keys, _OPTIMIZER_KINDS) for name, keys in _OPTIMIZER_NAMES.items()}

LOSS_SCALES: Mapping[str, Mapping[str, Kind]] = {
    "DynamicLossScaleUpdateCell": {"loss_scale_value": _POSITIVE, "scale_factor": Whole(2), "scale_window": _STEPS},
    "FixedLossScaleUpdateCell": {"loss_scale_value": _POSITIVE},
    "AdaptiveLossScaleUpdateCell": {
        "loss_scale_value": _POSITIVE, "scale_factor": Whole(2), "scale_window": _STEPS, "max_scale_window": _STEPS,
        "min_scale_window": _STEPS,
    },
}  # fmt: skip
_STEP_CELL = {
    "use_clip_grad": Flag(),
    "max_grad_norm": _POSITIVE,
    "scale_sense": Either((_POSITIVE, Typed(LOSS_SCALES)), "a number above 0 or a loss scale with its type"),
    "local_norm": Flag(),
    "calculate_per_token_loss": Flag(),
    "use_skip_data_by_global_norm": Flag(),
    "global_norm_spike_threshold": _POSITIVE,
    "print_separate_loss": Flag(),
}
WRAPPERS = {
    "MFTrainOneStepCell": _STEP_CELL,
    "MFPipelineWithLossScaleCell": {**_STEP_CELL, "micro_batch_num": _STEPS},
}
CALLBACKS: Mapping[str, Mapping[str, Kind]] = {
    "MFLossMonitor": {"per_print_times": _STEPS},
    "LossRecorder": {},
    "CheckpointMonitor": {
        "prefix": Text(empty=False), "directory": Text(), "save_checkpoint_steps": _STEPS,
        "save_checkpoint_seconds": Whole(0), "keep_checkpoint_max": _STEPS, "keep_checkpoint_per_n_minutes": Whole(0),
        "integrated_save": Flag(), "save_network_params": Flag(), "save_trainable_params": Flag(), "async_save": Flag(),
        "exception_save": Flag(), "checkpoint_format": Text(("ckpt", "safetensors")), "remove_redundancy": Flag(),
        "embedding_size": _STEPS, "embedding_local_norm_threshold": _POSITIVE, "use_checkpoint_health_monitor": Flag(),
        "health_ckpts_record_dir": Text(),
    },
    "SummaryMonitor": {"summary_dir": Text(), "collect_freq": _STEPS, "keep_default_action": Flag()},
    "TimeMonitor": {"data_size": _STEPS, "data_time": Flag()},
    "TrainCallBack": {"stop_step": _STEPS},
    "ProfileMonitor": {
        "start_step": _STEPS, "stop_step": _STEPS, "output_path": Text(), "start_profile": Flag(),
        "profile_rank_ids": ListOf(Whole(0)), "profile_pipeline": Flag(), "profile_communication": Flag(),
        "profile_memory": Flag(), "profiler_level": Whole(0, 2), "with_stack": Flag(), "data_simplification": Flag(),
        "mstx": Flag(),
    },
}  # fmt: skip

_MEMORY = Text(empty=False)  # such as 58GB
CONTEXT = Section({
    "mode": Either((Whole(0, 1), Text(("GRAPH_MODE", "PYNATIVE_MODE"))), "0, 1, GRAPH_MODE or PYNATIVE_MODE"),
    "device_target": Text(("Ascend", "CPU", "GPU")),
    "device_id": Whole(0, 4095),
    "max_device_memory": _MEMORY,
    "mempool_block_size": _MEMORY,
    "memory_optimize_level": Text(("O0", "O1")),
    "max_call_depth": _STEPS,
    "save_graphs": Either((Whole(0, 3), Flag()), "True, False or 0 to 3"),
    "save_graphs_path": Text(),
    "dataset_broadcast_opt_level": Whole(0, 3),
    "jit_config": Section({"jit_level": Text(("O0", "O1", "O2")), "infer_boost": Text(("on", "off"))}),
    "jit_level": Text(("O0", "O1", "O2")),
    "infer_boost": Text(("on", "off")),
    "ascend_config": Named(Kind()),
    "affinity_cpu_list": Named(ListOf(Text())),
    "affinity_config": Kind(),
    "use_graceful_exit": Flag(),
    "enable_compile_cache": Flag(),
    "compile_cache_path": Text(),
    # What MindFormers 1.9.0 does not hand on (core/context/build_context.py: "did not take effect"):
    **{key: Idle() for key in (
        "deterministic", "enable_graph_kernel", "graph_kernel_flags", "memory_offload", "runtime_num_threads",
        "enable_reduce_precision", "save_compile_cache", "load_compile_cache",
    )},
})  # fmt: skip
PARALLEL = Section({
    "parallel_mode": Either(
        (Whole(0, 3), Text(("DATA_PARALLEL", "SEMI_AUTO_PARALLEL", "AUTO_PARALLEL", "HYBRID_PARALLEL"))),
        "0 to 3 or the name of a parallel mode",
    ),
    "full_batch": Flag(),
    "search_mode": Text(("sharding_propagation", "dynamic_programming", "recursive_programming")),
    "enable_parallel_optimizer": Flag(),
    "gradients_mean": Flag(),
    "gradient_fp32_sync": Flag(),
    "enable_alltoall": Flag(),
    "parameter_broadcast": Flag(),
    "loss_repeated_mean": Flag(),
    "strategy_ckpt_save_file": Text(),
    "strategy_ckpt_load_file": Text(),
    "dataset_strategy": Either((Text(("data_parallel", "full_batch")), ListOf(ListOf(_STEPS))), "a strategy"),
    "device_num": Whole(1, 4096),
    "pipeline_stages": _STEPS,
    "auto_pipeline": Flag(),
    "comm_fusion": Kind(),
    "pipeline_config": Kind(),
    "strategy_ckpt_config": Kind(),
    "optimizer_weight_shard_size": Whole(1, also=(-1,)),
    "optimizer_weight_shard_aggregated_save": Flag(),
    "parallel_optimizer_config": Section({
        "gradient_accumulation_shard": Flag(),
        "parallel_optimizer_threshold": Whole(0),
        "optimizer_weight_shard_size": Whole(1, also=(-1,)),
        "optimizer_level": Text(("level1", "level2", "level3")),
    }),
})  # fmt: skip
PARALLEL_CONFIG = Section({
    **dict.fromkeys(("data_parallel", "model_parallel", "context_parallel", "expert_parallel"), Whole(1, 4096)),
    **dict.fromkeys(("pipeline_stage", "micro_batch_num", "seq_split_num", "ulysses_degree_in_cp"), Whole(1, 4096)),
    **dict.fromkeys(("use_seq_parallel", "vocab_emb_dp"), Flag()),
    "optimizer_shard": Either((Flag(), Whole(1)), "True, False or a number"),
    "gradient_aggregation_group": _STEPS,
    "context_parallel_algo": Text(),
    "mem_coeff": _POSITIVE,
})  # fmt: skip
_LAYERS = Either((Flag(), ListOf(Kind()), Named(Kind())), "True, False, a list or a table")
RECOMPUTE_CONFIG = Section({
    "recompute": Flag(),
    **dict.fromkeys(("select_recompute", "select_comm_recompute"), _LAYERS),
    **dict.fromkeys(("select_recompute_exclude", "select_comm_recompute_exclude"), _LAYERS),
    **dict.fromkeys(
        ("parallel_optimizer_comm_recompute", "mp_comm_recompute", "recompute_slice_activation"), Flag()
    ),
})  # fmt: skip
RUNNER_CONFIG = Section({
    "epochs": _STEPS,
    "batch_size": Whole(1, 1_000_000),
    "gradient_accumulation_steps": Whole(1, 1_000_000),
    "sink_mode": Flag(),
    "sink_size": Whole(1, also=(-1,)),
    "stop_step": Whole(0),
    "num_classes": Idle(_STEPS),
})  # fmt: skip
GROUPED_LR_SCHEDULE = Section({
    "default": LR_SCHEDULE,
    "grouped": ListOf(
        Typed({name: {**keys, "params": ListOf(Text(empty=False))} for name, keys in LR_SCHEDULES.items()})
    ),
})  # fmt: skip
_CKPT_FORMATS = ("ckpt", "safetensors")
GENERAL = {
    "seed": Whole(0, 2**32 - 1),
    "output_dir": Text(empty=False),
    "run_mode": Text(),
    **dict.fromkeys(("use_parallel", "auto_trans_ckpt", "only_save_strategy", "load_ckpt_async", "do_eval"), Flag()),
    **dict.fromkeys(("use_legacy", "use_legacy_format", "balanced_load", "ignore_data_skip", "profile"), Flag()),
    **dict.fromkeys(("profile_communication", "profile_memory", "init_start_profile", "profile_pipeline"), Flag()),
    **dict.fromkeys(("mstx", "layer_scale", "lr_scale", "exclude_cann_cpu", "print_separate_loss"), Flag()),
    **dict.fromkeys(("train_precision_sync", "infer_precision_sync", "postprocess_use_numpy"), Flag()),
    **dict.fromkeys(("load_checkpoint", "src_strategy_path_or_dir", "pretrained_model_dir", "save_file"), Text()),
    **dict.fromkeys(("transform_process_num", "reshard_worker_num", "predict_batch_size"), _STEPS),
    **dict.fromkeys(("profile_start_step", "profile_stop_step", "micro_batch_interleave_num"), _STEPS),
    **dict.fromkeys(("eval_step_interval", "eval_epoch_interval"), Whole(1, also=(-1,))),
    "resume_training": Either((Flag(), Text(empty=False)), "True, False or a checkpoint's name"),
    "load_ckpt_format": Text(_CKPT_FORMATS),
    "data_skip_steps": Whole(0),
    "profile_level": Whole(0, 2),
    "profile_rank_ids": ListOf(Whole(0)),
    "layer_decay": _POSITIVE,
    "lr_scale_factor": _POSITIVE,
    "remote_save_url": Text(),
    "adapter_id": Kind(),
    "input_data": Kind(),
    "remove_redundancy": Flag(),
    "use_graceful_exit": Flag(),
    "grouped_lr_schedule": GROUPED_LR_SCHEDULE,
    # What old YAMLs have and neither MindFormers 1.9.0 nor this project reads for these models:
    **{key: Idle() for key in (
        "auto_tune", "filepath_prefix", "autotune_per_step", "moe_config", "swap_config", "monitor_config", "metric",
        "eval_callbacks", "eval_dataset_task",
    )},
}  # fmt: skip
OPTIMIZER = Typed(OPTIMIZERS)
RUNNER_WRAPPER = Typed(WRAPPERS)
CALLBACK_LIST = ListOf(Typed(CALLBACKS))

"""ms-swift's arguments: which are taken, with its defaults, and what becomes of those that have no counterpart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.cli.kinds import suggest
from ms_impl.errors import InputError, quote

TEXT, WHOLE, NUMBER, FLAG, LIST = "text", "a whole number", "a number", "true or false", "a list"
DELETE, LEFT, RIGHT = "delete", "left", "right"


@dataclass(frozen=True)
class Argument:
    """One argument that is taken: the kind of its value, ms-swift's default, and the values that it may have."""

    kind: str = TEXT
    default: Any = None
    choices: tuple[str, ...] = ()


_MODEL = {
    "model": Argument(), "model_type": Argument(), "template": Argument(), "custom_register_path": Argument(LIST, ()),
    "adapters": Argument(LIST, ()), "torch_dtype": Argument(choices=("bfloat16", "float16", "float32")),
    "system": Argument(), "seed": Argument(WHOLE, 42), "data_seed": Argument(WHOLE, 42),
    "val_dataset": Argument(LIST, ()),
    "device_target": Argument(choices=("Ascend", "CPU")),  # ours: else an Ascend is taken where there is one
}  # fmt: skip
SFT = {
    **_MODEL,
    "dataset": Argument(LIST, ()), "dataset_shuffle": Argument(FLAG, True),
    "split_dataset_ratio": Argument(NUMBER, 0.0),
    "train_type": Argument(TEXT, "lora", ("lora", "full")), "output_dir": Argument(TEXT, "output"),
    "add_version": Argument(FLAG, True), "resume_from_checkpoint": Argument(),
    "packing": Argument(FLAG, False), "padding_free": Argument(FLAG, False), "group_by_length": Argument(FLAG, False),
    "num_train_epochs": Argument(NUMBER, 3.0), "per_device_train_batch_size": Argument(WHOLE, 1),
    "gradient_accumulation_steps": Argument(WHOLE), "learning_rate": Argument(NUMBER),
    "lr_scheduler_type": Argument(TEXT, "cosine", ("cosine", "linear", "constant", "constant_with_warmup")),
    "warmup_ratio": Argument(NUMBER, 0.0), "warmup_steps": Argument(WHOLE), "weight_decay": Argument(NUMBER, 0.1),
    "adam_beta1": Argument(NUMBER, 0.9), "adam_beta2": Argument(NUMBER, 0.95), "adam_epsilon": Argument(NUMBER, 1e-8),
    "max_grad_norm": Argument(NUMBER, 1.0), "gradient_checkpointing": Argument(FLAG, True),
    "lora_rank": Argument(WHOLE, 8), "lora_alpha": Argument(NUMBER, 32), "lora_dropout": Argument(NUMBER, 0.05),
    "target_modules": Argument(LIST, ("all-linear",)), "target_regex": Argument(),
    "modules_to_save": Argument(LIST, ()), "use_rslora": Argument(FLAG, False),
    "freeze_llm": Argument(FLAG, False), "freeze_vit": Argument(FLAG, True), "freeze_aligner": Argument(FLAG, True),
    "save_steps": Argument(WHOLE, 500), "save_total_limit": Argument(WHOLE), "logging_steps": Argument(WHOLE, 5),
    "max_length": Argument(WHOLE), "truncation_strategy": Argument(TEXT, DELETE, (DELETE, LEFT, RIGHT)),
    "dataloader_num_workers": Argument(WHOLE, 1), "dataloader_drop_last": Argument(FLAG, False),
}  # fmt: skip
INFER = {
    **_MODEL,
    "load_data_args": Argument(FLAG, False), "stream": Argument(FLAG), "max_batch_size": Argument(WHOLE, 1),
    "max_new_tokens": Argument(WHOLE), "temperature": Argument(NUMBER), "top_k": Argument(WHOLE),
    "top_p": Argument(NUMBER), "repetition_penalty": Argument(NUMBER), "result_path": Argument(),
    "val_dataset_sample": Argument(WHOLE),
}  # fmt: skip
EXPORT = {**_MODEL, "merge_lora": Argument(FLAG, False), "output_dir": Argument()}
DEPLOY = {
    **{name: _MODEL[name] for name in ("model", "model_type", "template", "custom_register_path", "adapters",
                                       "torch_dtype")},
    "host": Argument(TEXT, "127.0.0.1"), "port": Argument(WHOLE, 8000), "api_key": Argument(),
    "served_model_name": Argument(), "max_batch_size": Argument(WHOLE), "max_length": Argument(WHOLE),
}  # fmt: skip
COMMANDS: Mapping[str, Mapping[str, Argument]] = {"sft": SFT, "infer": INFER, "export": EXPORT, "deploy": DEPLOY}

# What has no counterpart and changes no result, and what stands for it.
NOTES = {
    "deepspeed": "every rank holds whole parameters; NPROC_PER_NODE sets the ranks",
    "attn_impl": "attention is chosen by the device",
    "load_from_cache_file": "media are probed anew, records are encoded by run_mindformer",
    "dataset_num_proc": "records are encoded in one process a rank",
    "lazy_tokenize": "lengths are known before the first step, media are read when they are due",
    "eval_steps": "the validation split is answered by `swift.py infer --load_data_args true`, not while training",
    "eval_strategy": "the validation split is answered by `swift.py infer --load_data_args true`, not while training",
    "per_device_eval_batch_size": "`swift.py infer --max_batch_size` has it",
    "report_to": "losses and a TensorBoard log are written in any case",
    "logging_first_step": "every logged step is the mean since the one before",
    "use_hf": "models are directories; nothing is fetched",
    "model_name": "the shipped models are not told who they are", "model_author": "see --model_name",
    "ddp_backend": "the device's own", "ddp_find_unused_parameters": "all gradients are there in every step",
    "ddp_timeout": "scripts/msrun_launcher.sh has CLUSTER_TIME_OUT",
    "save_only_model": "a checkpoint can always be resumed",
    "vit_gradient_checkpointing": "--gradient_checkpointing counts for the towers, too",
    "gradient_checkpointing_kwargs": "layers recompute whole", "dataloader_pin_memory": "MindSpore's own",
    "device_map": "the model of a rank is on its device", "max_memory": "see --device_map",
    "disable_tqdm": "progress is shown on terminals alone", "remove_unused_columns": "records keep what they have",
    "check_model": "headers of the weights are checked in any case",
    "write_batch_size": "results are written at the end",
    "metric": "run_mindformer.py --run_mode eval has metrics",
    "verbose": "scripts/serve.py --log_prompts logs what is said", "log_interval": "/metrics tells it at any time",
    "owned_by": "models belong to whoever serves them", "max_logprobs": "requests may ask for 20, as OpenAI's may",
    "use_async_engine": "requests are always answered together",
}  # fmt: skip
# What would change the result: the values that ask for nothing, and why others are refused.
REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "push_to_hub": (("false",), "nothing is sent anywhere; upload the directory yourself"),
    "hub_model_id": ((), "nothing is sent anywhere; upload the directory yourself"),
    "max_steps": (("-1",), "the length of a run is its epochs; give --num_train_epochs, or fewer records as FILE#N"),
    "loss_scale": (("default",), 'records say it themselves: "loss": false or "loss_scale": 0.5 beside an answer'),
    "streaming": (("false",), "records are read from files whose length is known"),
    "optim": (("adamw_torch", "adamw_torch_fused", "adamw"), "AdamW is the optimizer that is compared with PyTorch's"),
    "quant_method": ((), "weights are not quantised here"), "quant_bits": ((), "weights are not quantised here"),
    "quantization_bit": (("0",), "weights are not quantised here"),
    "infer_backend": (("pt",), "answers come from this project's own decoder"),
    "save_strategy": (("steps",), "checkpoints come every --save_steps"),
    "use_dora": (("false",), "LoRA and rsLoRA are implemented"), "lora_bias": (("none",), "biases are not adapted"),
    "init_weights": (("true",), "A is drawn at random, B is zero"), "use_galore": (("false",), "LoRA or full"),
    "neftune_noise_alpha": ((), "embeddings get no noise"), "use_liger_kernel": (("false",), "it is Triton's"),
    "sequence_parallel_size": (("1",), "a row stays on one device"), "split_dataset": ((), "see --split_dataset_ratio"),
    "vit_lr": ((), "a YAML with grouped_lr_schedule has rates by module group"),
    "aligner_lr": ((), "a YAML with grouped_lr_schedule has rates by module group"),
    "num_beams": (("1",), "answers are greedy or sampled"), "strict": (("true", "false"), ""),
    "ssl_keyfile": ((), "the server speaks HTTP; a proxy before it may speak HTTPS"),
    "ssl_certfile": ((), "the server speaks HTTP; a proxy before it may speak HTTPS"),
    "model_kwargs": ((), "say the limits in the environment, as MAX_PIXELS=…"),
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A command line as it was read: all values by name, those that were given, and a line for each without effect."""

    values: Mapping[str, Any]
    named: frozenset[str]
    notes: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


def read(command: str, words: Sequence[str]) -> Given:
    """The arguments of a command. Raises InputError naming one that is not known, not taken, or has a wrong value."""
    known, notes = COMMANDS[command], []
    values: dict[str, Any] = {}
    for name, texts in _pairs(words).items():
        if name in known:
            values[name] = _value(name, known[name], texts)
        elif name in NOTES:
            notes.append(f"--{name} has no effect: {NOTES[name]}")
        elif name in REFUSED:
            harmless, reason = REFUSED[name]
            if [text.lower() for text in texts] not in [[text] for text in harmless]:
                raise InputError(f"--{name} {' '.join(texts)}".rstrip() + f" is refused: {reason}; leave it out")
        else:
            others = sorted({other for each in COMMANDS.values() for other in each} - known.keys())
            if name in others:
                raise InputError(f"--{name} is not an argument of {command}; leave it out")
            near = suggest(name, [*known, *NOTES, *REFUSED])
            raise InputError(f"unknown argument --{name}" + (near if "mean" in near else ""))
    whole = {name: values.get(name, argument.default) for name, argument in known.items()}
    return Given(whole, frozenset(values), tuple(notes))


def _pairs(words: Sequence[str]) -> dict[str, list[str]]:
    """Values by argument: ``--name a b`` or ``--name=a``; the last of two counts, as in ms-swift."""
    found: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if equals else []
        elif name is None:
            raise InputError(f"{quote(word)} stands before the first argument; arguments are --NAME VALUE")
        else:
            found[name].append(word)
    return found


def _value(name: str, argument: Argument, texts: Sequence[str]) -> Any:
    if argument.kind == LIST:
        return tuple(texts)
    if argument.kind == FLAG and not texts:
        return True
    if len(texts) != 1:
        raise InputError(f"--{name} takes one value, {len(texts)} are given")
    text = texts[0]
    try:
        value = _READERS[argument.kind](text)
    except (KeyError, ValueError):
        raise InputError(f"--{name} must be {argument.kind}, not {quote(text)}") from None
    if argument.choices and value not in argument.choices:
        raise InputError(f"--{name} {quote(text)} is not taken; it is {' or '.join(argument.choices)}")
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < 1e12:
        raise InputError(f"--{name} must be 0 or more, not {quote(text)}")
    return value


_READERS: Mapping[str, Any] = {
    TEXT: str,
    WHOLE: int,
    NUMBER: float,
    FLAG: lambda text: {"true": True, "false": False}[text.lower()],
}

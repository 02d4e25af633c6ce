"""Every key that a YAML may have, and what it may be: this project's sections beside MindFormers'.

What only one family has, its record and the options of its template say.
"""

from __future__ import annotations

import dataclasses

from ms_impl.adapters.config import LoraConfig
from ms_impl.cli import mindformers_keys as mindformers
from ms_impl.cli.kinds import Either, Flag, Idle, Kind, ListOf, Named, Number, Section, Text, Whole
from ms_impl.cli.option_kinds import option_kinds
from ms_impl.evaluate.metrics import METRICS
from ms_impl.families import Family
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.dtypes import FLOAT_SPELLINGS

DTYPES = {name: dtype.mindspore.lower() for name, dtype in FLOAT_SPELLINGS.items()}  # MindFormers' spelling of each
_DTYPE = Text(tuple(DTYPES), word="type")

_CLASS = {"type": Text(empty=False), "auto_register": Text()}
_TOKENIZER = Section({**_CLASS, "vocab_file": Text(empty=False)})
_LOADER = Text(("BaseMultiModalDataLoader",), word="type")
_COUNT = Whole(1)
_COLUMNS = ListOf(Text(empty=False))
_STYLE = dict.fromkeys(
    ("system_message", "user_role_name", "assistant_role_name", "user_prompt", "assistant_prompt"), Text()
)
_WEIGHTED = Section({"path": Text(empty=False), "weight": Number(above=0, high=10_000)})
_ANNOTATIONS = Either(
    (Text(empty=False), ListOf(Either((Text(empty=False), _WEIGHTED), "a path or {path: …, weight: …}"))),
    "a path, or a list of paths and of {path: …, weight: …}",
)

# LoraConfig and GenerationConfig check the values (see ``relations``).
LORA = Section({field.name: Kind() for field in dataclasses.fields(LoraConfig)} | {"adapter": Text(empty=False)})
GENERATION = Section({field.name: Kind() for field in dataclasses.fields(GenerationConfig)})
_ELSEWHERE = ("mean", "std")  # options that modal_content_transforms says


def _model(family: Family) -> Section:
    return Section({
        "arch": Section(_CLASS),
        "model_config": Section({
            **_CLASS,
            "config_file": Text(empty=False),
            **dict.fromkeys(family.freeze_keys, Flag()),
            "train_only": ListOf(Text(empty=False)),
            "compute_dtype": _DTYPE,
            "param_init_type": _DTYPE,
            "lora": LORA,
        }),
        "generation_config": GENERATION,
    })  # fmt: skip


def _template(family: Family) -> Section:
    options = option_kinds(family.resolve("template").Options)
    return Section({**_CLASS, **{key: kind for key, kind in options.items() if key not in _ELSEWHERE}})


def _train_dataset(family: Family) -> Section:
    transform = {
        **_CLASS,
        "type": Text(("BaseXModalToTextTransform",), word="type"),
        "max_length": Whole(1, 10_000_000),
        "model_transform_template": _template(family),
    }
    return Section({**_TRAIN_DATASET, "modal_to_text_transform": Section(transform)})


_TRAIN_DATASET: dict[str, Kind] = {
    "data_loader": Section(
        {**_CLASS, "type": _LOADER, "annotation_file": _ANNOTATIONS, "shuffle": Flag(), "num_samples": _COUNT}
    ),
    "modal_content_transforms": ListOf(
        Section({**_CLASS, "mean": ListOf(Number(), 3), "std": ListOf(Number(above=0), 3), "is_hwc": Flag()})
    ),
    "net_input_columns": _COLUMNS,
    "tokenizer": _TOKENIZER,
    "num_parallel_workers": Whole(1, 256),
    "prefetch_size": Whole(1, 128),
    "repeat": _COUNT,
    **dict.fromkeys(("drop_remainder", "numa_enable", "packing", "group_by_length"), Flag()),
    "loss_weighting": Text(("token", "dialogue")),
    # The batch has runner_config's size, the order the run's seed, and samples are made in this process.
    "batch_size": Idle(_COUNT),
    "seed": Idle(Whole(0)),
    "python_multiprocessing": Idle(Flag()),
    "modal_content_input_columns": Idle(_COLUMNS),
    "modal_content_output_columns": Idle(_COLUMNS),
}  # fmt: skip
EVAL_DATASET: dict[str, Kind] = {
    "metric": Text(tuple(METRICS), word="metric"),
    "data_loader": Section({**_CLASS, "type": _LOADER, "annotation_file": Text(empty=False), "num_samples": _COUNT}),
    "dataset_dir": Text(),
    **{key: kind for key, kind in _STYLE.items() if key != "assistant_prompt"},
    "batch_size": Whole(1, 1_000_000),
    "max_new_tokens": _COUNT,
    "generation_config": GENERATION,
}


def _shown(family: Family) -> dict[str, Kind]:
    """The template's options that decide what a model sees."""
    template = family.resolve("template")
    kinds = option_kinds(template.Options)
    return {name: kinds[name] for name in template.kept_options}


def _processor(family: Family) -> Section:
    template = {"model_transform_template": Section({**_CLASS, **_shown(family)})} if _shown(family) else {}
    return Section({**_CLASS, "tokenizer": _TOKENIZER, **template})


def settings_schema(family: Family) -> Section:
    """Every key of a YAML for a model of a family."""
    return Section({
        **mindformers.GENERAL,
        "trainer": Section(
            {**_CLASS, "type": Text(("MultiModalToTextGenerationTrainer",), word="type"), "model_name": Text()}
        ),
        "model": _model(family),
        "processor": _processor(family),
        "train_dataset": _train_dataset(family),
        "train_dataset_task": Section(
            {**_CLASS, "type": Text(("ModalToTextSFTDataset",), word="type"), "dataset_config": Kind()}
        ),
        "eval_dataset": Named(Section({**EVAL_DATASET, **_shown(family)})),
        "runner_config": mindformers.RUNNER_CONFIG,
        "runner_wrapper": mindformers.RUNNER_WRAPPER,
        "optimizer": mindformers.OPTIMIZER,
        "lr_schedule": mindformers.LR_SCHEDULE,
        "callbacks": mindformers.CALLBACK_LIST,
        "context": mindformers.CONTEXT,
        "parallel": mindformers.PARALLEL,
        "parallel_config": mindformers.PARALLEL_CONFIG,
        "recompute_config": mindformers.RECOMPUTE_CONFIG,
    })  # fmt: skip


_ALWAYS = ("trainer.type", "model.arch.type", "model.model_config.type")
_TO_TRAIN = (
    "train_dataset.data_loader.type",
    "train_dataset.data_loader.annotation_file",
    "train_dataset.modal_to_text_transform.type",
    "train_dataset.modal_to_text_transform.max_length",
    "train_dataset.modal_to_text_transform.model_transform_template.type",
    "train_dataset.tokenizer.type",
    "train_dataset_task.type",
)
_TO_ANSWER = ("processor.tokenizer.type",)
_WITH_COLOURS = "train_dataset.modal_content_transforms"


def required(run_mode: str, family: Family) -> tuple[str, ...]:
    """The keys that a YAML of a run mode must have."""
    if run_mode == "predict":
        return (*_ALWAYS, *_TO_ANSWER)
    if run_mode == "eval":
        return (*_ALWAYS, *_TO_ANSWER, "eval_dataset")
    colours = (_WITH_COLOURS,) if set(_ELSEWHERE) & set(option_kinds(family.resolve("template").Options)) else ()
    return (*_ALWAYS, *_TO_TRAIN, *colours)

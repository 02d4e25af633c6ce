"""``run_mindformer.py --dry_run``: what a YAML's run would be, on paper, with nothing but the repository at hand.

Where ``--check`` reads weights and data, this needs neither, and no device: keys and values have been judged
(``schema``); here follow what is trained, memory, the tokens of a step, the size of what is saved, and, where the model
is cut, whether MindSpore's passes for Ascend take the graph. What is unproven is printed with it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_impl.cli.judge import print_parameters
from ms_impl.cli.relations import cuts_model
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.cli.settings import DTYPES, override
from ms_impl.cli.training_plan import saving_of
from ms_impl.errors import InputError
from ms_impl.estimate.memory import MOMENTS, REMAINDER, memory
from ms_impl.estimate.parts import Trained, check, model_parts
from ms_impl.estimate.plan import Device, RunLayout, plan_of
from ms_impl.families import Family
from ms_impl.io.dtypes import float_named
from ms_impl.io.rules import MINDSPORE
from ms_impl.resources import locate

_CONFIG = "model.model_config.config_file"
_PARTS = ("model_parallel", "pipeline_stage")
_DIALOGUE = 512  # tokens of a mean conversation
_NOT_POSSIBLE = 77  # the status of a cut that this MindSpore cannot be asked for
_LAYERS = {"layers": 2, "vision_layers": 1}  # of full width, for the passes; a stage has at least one

_UNPROVEN = (
    "no Ascend device was at hand: kernels, bfloat16, communication and time on one are untried",
    "memory is a calculation, held within 15 % against small models on a CPU (benchmarks/estimate_memory.py)",
)
_UNPROVEN_CUT = "a cut model has computed no step: MindSpore's passes alone have seen its graph"


def dry_run(settings: Settings) -> int:
    """Print what the run would be. Raises InputError for what cannot be."""
    print(f"{'run_mode':<14}{settings['run_mode']}")
    print(f"{'keys':<14}{sum(1 for _ in _leaves(settings))} values, all known and of the right kind")
    family, config_file = family_of(settings), _config_file(settings)
    if lookup(settings, _CONFIG) is None and not config_file.is_file():
        print(f"{'parameters':<14}those of load_checkpoint, which is not here; --{_CONFIG} tells them, too")
    elif settings["run_mode"] in ("train", "finetune"):
        _print_training(settings, family, config_file)
    else:
        _print_answering(settings, family, config_file)
    unproven = _UNPROVEN + ((_UNPROVEN_CUT,) if cuts_model(settings) else ())
    for number, line in enumerate(unproven):
        print(f"{'' if number else 'unproven':<14}{line}")
    return 0


def _config_file(settings: Settings) -> Path:
    """The model's config.json: the one that is named, or beside the weights, if they are here."""
    if given := lookup(settings, _CONFIG):
        return locate(given)
    weights = locate(settings.get("load_checkpoint") or "")
    return (weights if weights.is_dir() else weights.parent) / "config.json"


def scale(settings: Settings, ranks: int) -> None:
    """Change ``data_parallel`` so that the run has that many ranks.

    Raises InputError where they are not a multiple of what the model is cut into.
    """
    cut = math.prod(lookup(settings, f"parallel_config.{key}") or 1 for key in _PARTS)
    if ranks < 1 or ranks % cut:
        said = " × ".join(f"{key} {lookup(settings, f'parallel_config.{key}') or 1}" for key in _PARTS)
        raise InputError(f"--ranks: {ranks} is not a multiple of {cut} (parallel_config: {said})")
    override(settings, [("parallel_config.data_parallel", ranks // cut), ("use_parallel", ranks > 1)])


def _leaves(section: Any) -> Iterator[Any]:
    values = section.values() if isinstance(section, dict) else section if isinstance(section, list) else None
    if values is None:
        yield section
    else:
        for value in values:
            yield from _leaves(value)


def _print_training(settings: Settings, family: Family, config_file: Path) -> None:
    on_ascend = lookup(settings, "context.device_target") != "CPU"
    section = lookup(settings, "model.model_config")
    scope = family.scope(section)
    if not family.estimate:
        return print_parameters(family, config_file, scope, bool(section.get("lora")))
    plan = plan_of(settings, scope, _DIALOGUE, flash=on_ascend)
    check(family, config_file, plan)
    parts = model_parts(family, config_file, plan)
    numbers, trained = sum(part.numbers for part in parts), sum(part.trained for part in parts)
    print(f"{'ranks':<14}{plan.devices}: {plan.describe()}")
    print(f"{'parameters':<14}{numbers:,}, of which {trained:,} ({trained / numbers:.2%}) are trained")
    tokens = plan.global_rows * plan.length
    print(f"{'step':<14}{plan.global_rows:,} rows of {plan.length:,}: {tokens:,} tokens")
    need = memory(parts, plan)
    print(f"{'memory':<14}{_gb(need.peak)} of a device ({need})")
    print(f"{'checkpoint':<14}{_checkpoint(parts, plan)}; {saving_of(settings).keep} are kept")
    print(f"{'graph':<14}{_graph(settings, family, config_file, plan)}")
    if on_ascend and need.peak > Device().memory:
        raise InputError(
            f"a device needs {_gb(need.peak)}, and an Ascend 910B has {_gb(Device().memory)} for it: divide more, "
            "recompute, take fewer rows a micro-batch, or train an adapter (model.model_config.lora)"
        )


def _checkpoint(parts: list[Trained], plan: RunLayout) -> str:
    """What is saved: the adapter or the whole model in the parameters' type, and the optimizer's state."""
    trained = sum(part.trained for part in parts)
    weights = (trained if plan.lora else sum(part.numbers for part in parts)) * plan.parameter_bytes
    state = trained * (MOMENTS + (REMAINDER if plan.parameter_bytes < 4 else 0))
    return f"{_gb(weights + state)}: {'adapter' if plan.lora else 'weights'} {_gb(weights)}, optimizer {_gb(state)}"


def _graph(settings: Settings, family: Family, config_file: Path, plan: RunLayout) -> str:
    """What MindSpore's passes for semi-automatic parallelism make of two layers of full width."""
    if not cuts_model(settings):
        return "not cut: every rank has the whole model"
    if not family.cut_graph:
        raise InputError(f"parallel.parallel_mode: family '{family.name}' is not cut over devices; take data parallel")
    layers = {**_LAYERS, "layers": max(_LAYERS["layers"], plan.stages)}
    given: dict[str, Any] = {"vocab_emb_dp": False, "micro_batch_num": 1, **dict.fromkeys(_PARTS, 1)}
    given |= {key: value for key, value in settings["parallel_config"].items() if key in {*given, "data_parallel"}}
    given |= {"config_file": str(config_file.resolve()), "batch": plan.global_rows, **layers}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MS_SIMULATION_LEVEL": "0", "RANK_SIZE": str(plan.devices), "GLOG_v": "3"}
        command = [sys.executable, "-m", family.cut_graph, folder, json.dumps(given)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == _NOT_POSSIBLE:
        return "not tried: this MindSpore cannot be told that its device is Ascend"
    if done.returncode:
        raise InputError(f"parallel_config: MindSpore does not cut the graph so: {_last_line(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])["communication"]
    told = ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "no communication"
    what = f"{layers['layers']} decoder layers and {layers['vision_layers']} of vision, forward, full width"
    return f"cut by MindSpore's passes ({what}; {time.monotonic() - begun:.0f} s): {told}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["it ended without a word"])[-1].removeprefix("error: ")


def _print_answering(settings: Settings, family: Family, config_file: Path) -> None:
    shapes = family.resolve("weights").shapes(family.resolve("config").from_file(config_file), MINDSPORE)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    key = "model.model_config.param_init_type"
    name = lookup(settings, key) or "float32"
    size = float_named(DTYPES.get(name, name), key).itemsize
    print(f"{'parameters':<14}{numbers:,}")
    print(f"{'memory':<14}{_gb(numbers * size)} of weights in {name}, beside caches and what a layer computes")
    print(f"{'prompts':<14}{settings.get('predict_batch_size') or 1} at a time")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"

"""What training a model needs and how fast it would be on given devices, on paper.

    python benchmarks/ascend_estimate.py --config configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml

Prints parameters, memory, work, communication and time of a step. A setting that does not fit is refused; whether LoRA
would fit in its place is said. --options changes settings as it does for run_mindformer.py. How memory is counted
stands in ms_impl/estimate, and time in step_time.py; benchmarks/estimate_memory.py holds the memory against measured
peaks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from step_time import Speed, speed

from ms_impl import families
from ms_impl.cli.main import command
from ms_impl.cli.options import options_of
from ms_impl.cli.schema import check_settings, drop_empty, family_of, lookup
from ms_impl.cli.settings import override
from ms_impl.cli.yaml_reader import read_yaml
from ms_impl.errors import InputError
from ms_impl.estimate.memory import Memory, memory
from ms_impl.estimate.parts import Trained, check, model_parts
from ms_impl.estimate.plan import Device, RunLayout, plan_of
from ms_impl.families import Family
from ms_impl.io.rules import MINDSPORE
from ms_impl.resources import locate

ASSUMPTIONS = """Assumed:
- the device: {device};
- communication does not overlap with computing; the utilisation counts what does;
- the language model computes whole rows of scores, also above the diagonal and between packed dialogues;
- a dialogue of {dialogue} tokens with one image (--dialogue_tokens), so that {useful:.0%} of all tokens are useful;
- attention {attention} (--attention), {zero}."""
ZERO = (
    "nothing divided among data-parallel ranks",
    "the optimizer's state divided among data-parallel ranks",
    "state and gradients divided among data-parallel ranks",
    "state, gradients and parameters divided among data-parallel ranks",
)


# The figure that Qwen-VL's earlier port was published with, as a check of the estimate: MindFormers r1.5.0,
# research/qwenvl/README.md, tokens/s per device for finetune_qwenvl_9.6b_bf16.yaml on an Atlas 800T A2. That YAML has,
# as ours does, 8 devices, data parallel with optimizer parallelism, 4 rows of 2048 tokens with one image, vision
# frozen, recomputation; and parameters in 16 bit, where ours have 32.
PUBLISHED = 2587
PUBLISHED_PLAN = RunLayout(
    rows=4, length=2048, images=1, data_parallel=8, zero=3, recompute=True, flash=True, cut_vocabulary=True,
    compute_bytes=2, parameter_bytes=2, frozen=("vision_tower",),
)  # fmt: skip
PUBLISHED_CONFIG = "configs/qwenvl/qwenvl_9.6b/config.json"

LORA = {"r": 64, "target_modules": ["language_model"]}  # what is tried in its place, on all but the output head


@command
def main(given: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = parse_arguments(given)
    run(arguments)
    return 0


def parse_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="YAML of a training run")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change or to add")
    parser.add_argument("--dialogue_tokens", type=int, default=512, help="of a mean dialogue, its image's too (512)")
    parser.add_argument("--attention", choices=("flash", "composed"), default="flash")
    for field in fields(Device):
        kind = int if field.name == "node" else float
        text = f"of a device ({field.default:g})"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=text)
    return parser.parse_args(given)


def run(arguments: argparse.Namespace) -> None:
    """Print the estimate, or raise InputError."""
    device = device_of(arguments)
    family, config_file, plan = read(arguments)
    check(family, config_file, plan)
    parts = model_parts(family, config_file, plan)
    need = memory(parts, plan)
    print_model(parts)
    print(f"\n{arguments.config}: {plan.devices} devices, {plan.describe()}")
    if need.peak > device.memory:
        raise InputError(
            f"{plan.describe()} needs {need.peak / 1e9:.1f} GB on a device ({need}), "
            f"which has {device.memory / 1e9:.1f} GB of {device.hbm_gb:.1f} for it; "
            f"divide more, recompute, or take fewer rows a micro-batch{lora_instead(family, config_file, plan, device)}"
        )
    print_step(need, speed(parts, plan, device))
    print_check(device)
    print()
    print(
        ASSUMPTIONS.format(
            device=device, dialogue=arguments.dialogue_tokens, useful=plan.useful, attention=arguments.attention,
            zero=ZERO[plan.zero],
        )
    )  # fmt: skip


def device_of(arguments: argparse.Namespace) -> Device:
    """The device that the options describe."""
    device = Device(**{field.name: getattr(arguments, field.name) for field in fields(Device)})
    for field in fields(Device):
        if getattr(device, field.name) <= 0 and field.name != "reserved":
            raise InputError(f"--{field.name}: expected a number above 0, found {getattr(device, field.name):g}")
    for name, value in (("utilisation", device.utilisation), ("reserved", device.reserved)):
        if not 0 <= value <= 1:
            raise InputError(f"--{name}: expected a share from 0 to 1, found {value:g}")
    if arguments.dialogue_tokens < 1:
        raise InputError(f"--dialogue_tokens: expected a number above 0, found {arguments.dialogue_tokens}")
    return device


def read(arguments: argparse.Namespace) -> tuple[Family, Path, RunLayout]:
    """The model's family and config.json, and the way of training that the YAML, changed by the options, asks for."""
    path = arguments.config
    settings = read_yaml(locate(path))
    override(settings, options_of(arguments.options))
    drop_empty(settings)
    check_settings(settings)
    family = family_of(settings)
    config_file = lookup(settings, "model.model_config.config_file")
    if not config_file:
        raise InputError(f"{path}: model.model_config.config_file is missing; it has the model's sizes")
    scope = family.scope(lookup(settings, "model.model_config"))
    plan = plan_of(settings, scope, arguments.dialogue_tokens, arguments.attention == "flash")
    return family, locate(config_file), plan


def lora_instead(family: Family, config_file: Path, plan: RunLayout, device: Device) -> str:
    """Whether LoRA would fit, as the end of a message; nothing where the plan is one of LoRA already."""
    if plan.lora:
        return ""
    shapes = family.resolve("weights").shapes(family.resolve("config").from_file(config_file), MINDSPORE)
    tied = f"{family.output_head}.weight" not in shapes
    lora = LORA if tied else {**LORA, "exclude_modules": [family.output_head]}
    adapted = replace(
        plan, lora=lora, frozen=(), only=(), parameter_bytes=plan.compute_bytes
    )  # whole weights are not trained
    peak = memory(model_parts(family, config_file, adapted), adapted).peak
    said = "would fit" if peak <= device.memory else "would not fit either"
    return f"; LoRA (model.model_config.lora) {said}: {peak / 1e9:.1f} GB"


def print_model(parts: Sequence[Trained]) -> None:
    """Parameters and work of each part."""
    print(f"{'part':<18}{'parameters':>16}{'trained':>16}")
    for part in parts:
        print(f"{part.part.name:<18}{part.numbers:>16,}{part.trained:>16,}")
    print(f"{'in all':<18}{sum(p.numbers for p in parts):>16,}{sum(p.trained for p in parts):>16,}")


def print_step(need: Memory, step: Speed) -> None:
    """Memory, work, communication and time of a step."""
    sent = step.communication
    total = sent.gradients + sent.parameters + sent.tensor + sent.pipeline
    print(f"memory of a device   {need}")
    print(f"work of a token      {step.forward_flops / step.tokens / 1e9:.1f} GFLOP forward, "
          f"{step.flops / step.tokens / 1e9:.1f} in all")  # fmt: skip
    print(f"sent by a device     {total / 1e9:.1f} GB a step: gradients {sent.gradients / 1e9:.1f}, "
          f"parameters {sent.parameters / 1e9:.1f}, tensor parallel {sent.tensor / 1e9:.1f}, "
          f"pipeline {sent.pipeline / 1e9:.1f}")  # fmt: skip
    print(f"time of a step       {step.seconds:.2f} s: computing {step.compute_seconds:.2f}, "
          f"communication {step.communication_seconds:.2f}")  # fmt: skip
    print(f"speed                {step.tokens_per_second:,.0f} tokens/s per device, "
          f"{step.useful_tokens_per_second:,.0f} of them useful")  # fmt: skip


def print_check(device: Device) -> None:
    """What the same device would have given the earlier port's setting, beside what was published."""
    parts = model_parts(families.get("qwenvl"), locate(PUBLISHED_CONFIG), PUBLISHED_PLAN)
    found = speed(parts, PUBLISHED_PLAN, device).tokens_per_second
    print(f"\ncheck: the earlier port's setting {found:,.0f} tokens/s per device, published {PUBLISHED:,}: "
          f"{found / PUBLISHED:.3f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""The command vlm-mindspore: help with an example for each command, and what ``info`` tells. Examples: test_wheel.py."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ms_impl import families
from ms_impl.cli.vlm_mindspore import COMMANDS, examples, main
from ms_impl.estimate.parts import model_parts
from ms_impl.estimate.plan import RunLayout

ROOT = Path(__file__).parents[2]
SHIPPED = {"qwenvl": "qwenvl_tiny_easyvqa", "ovis2_5": "ovis2_5_tiny", "qwen2_5_omni": "qwen2_5_omni_tiny"}
# Numbers that a token leaves in the caches: layers × keys and values × heads × 128.
CACHED = {
    "configs/qwenvl/qwenvl_9.6b": ("qwenvl", 32 * 2 * 32 * 128),
    "configs/qwen2_5_omni/qwen2_5_omni_7b": ("qwen2_5_omni", 28 * 2 * 4 * 128),
    "configs/ovis2_5/ovis2_5_9b": ("ovis2_5", 36 * 2 * 8 * 128),
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; returns its exit status and what it printed."""

    def run(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlm-mindspore"])
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # or chat would block it in this process from now on
        try:
            status = main([*map(str, words)])
        except SystemExit as end:  # argparse's
            status = end.code
        finally:
            signal.signal(signal.SIGINT, handler)
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run


@pytest.mark.parametrize("name", [name for name, each in COMMANDS.items() if not each.script.endswith(".sh")])
def test_help_names_the_command_and_an_example(run, name):
    status, shown = run(name, "--help")
    assert status == 0 and examples(name) and all(line in shown for line in examples(name))
    assert "usage: vlm-mindspore" in shown or "  vlm-mindspore swift sft" in shown
    assert "python " + COMMANDS[name].script not in shown


def test_every_example_is_of_a_command():
    lines = (ROOT / "scripts/examples.txt").read_text().splitlines()
    assert sorted({line.split()[1] for line in lines}) == sorted(COMMANDS)


def test_without_a_command_all_are_listed_and_another_is_refused(run):
    status, shown = run()
    assert status == 0 and all(f"  {name} " in shown for name in COMMANDS)
    status, shown = run("sing")
    assert status == 2 and shown.startswith("error: unknown command 'sing'") and "  chat " in shown


@pytest.mark.parametrize(("family", "name"), SHIPPED.items())
def test_what_is_told_of_the_shipped_models(run, family, name):
    directory = ROOT / "assets" / name
    status, shown = run("info", directory)
    told = {line[:14].strip(): line[14:] for line in shown.splitlines()}
    tensors = load_file(directory / "model.safetensors")
    numbers = sum(tensor.size for tensor in tensors.values())
    assert status == 0 and told["family"] == family and told["layout"] == "Hugging Face" and told["dtype"] == "fp16"
    assert told["parameters"].startswith(f"{numbers:,} in {len(tensors)} tensors: ")
    groups = [int(part.split()[-1].replace(",", "")) for part in told["parameters"].partition(": ")[2].split(", ")]
    assert sum(groups) == numbers and len(groups) == 3
    assert told["weights"] == f"{(directory / 'model.safetensors').stat().st_size / 1e6:.1f} MB in model.safetensors"
    assert "generation_config.json" in told["beside"] and "README.md" not in told["beside"]
    assert f"{4 * numbers / 1e6:.1f} MB in fp32" in told["answering"] and "of LoRA of rank 8" in told["training"]


def test_no_framework_is_imported_for_it():
    code = "import sys; from ms_impl.cli.vlm_mindspore import main; main(['info', *sys.argv[1:]]); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(ROOT / "assets" / SHIPPED["qwenvl"])]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())
    assert "numpy" in modules and not modules & {"mindspore", "mindformers", "torch", "transformers"}


@pytest.mark.parametrize(("config", "family", "numbers"), [(path, *told) for path, told in CACHED.items()])
def test_keys_and_values_are_counted(config, family, numbers):
    parts = model_parts(families.get(family), ROOT / config / "config.json", RunLayout(rows=1, length=2048))
    assert sum(each.part.cached * each.part.layers for each in parts) == numbers


def test_a_checkpoint_that_does_not_fit_is_an_error(run, tmp_path):
    origin = ROOT / "assets" / SHIPPED["ovis2_5"]
    (tmp_path / "config.json").write_bytes((origin / "config.json").read_bytes())
    assert run("info", tmp_path) == (2, f"error: {tmp_path}: holds no weights; expected one of "
                                     "model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
                                     "pytorch_model.bin.index.json\n")  # fmt: skip
    tensors = load_file(origin / "model.safetensors")
    del tensors["vte.weight"]
    tensors["other"] = np.zeros(3, np.float16)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    status, shown = run("info", tmp_path)
    assert status == 2 and "missing: vte.weight" in shown and "extra: other" in shown
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    status, shown = run("info", tmp_path)
    assert status == 2 and "no known model family" in shown

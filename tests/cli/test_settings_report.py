"""The settings of a run, printed."""

import copy
from pathlib import Path

import pytest
import yaml

from ms_impl.cli.arguments import read_settings
from ms_impl.cli.settings_report import report, save_report

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml").read_text())


def mark(text: str, setting: str) -> str:
    """What is said of a setting."""
    (line,) = [line for line in text.splitlines() if line.strip().removeprefix("- ").startswith(f"{setting}:")]
    return line.partition("#")[2].strip()


@pytest.fixture
def settings() -> dict:
    return copy.deepcopy(DEFAULT)


def test_what_is_as_in_file_and_default_is_not_marked(settings):
    text = report(settings, DEFAULT, DEFAULT)
    assert "#" not in text
    assert yaml.safe_load(text) == DEFAULT


def test_aliased_sections_stay_one_section(settings):
    text = report(settings, DEFAULT, DEFAULT)
    assert "train_dataset: &train_dataset\n" in text and "  dataset_config: *train_dataset\n" in text
    loaded = yaml.safe_load(text)
    assert loaded["train_dataset_task"]["dataset_config"] is loaded["train_dataset"]


def test_each_kind_of_difference_has_its_mark(settings):
    file = copy.deepcopy(DEFAULT)
    file["lr_schedule"]["learning_rate"] = settings["lr_schedule"]["learning_rate"] = 2e-5
    file["runner_config"]["epochs"], settings["runner_config"]["epochs"] = 5, 7
    settings["seed"] = 1
    settings["output_dir"] = file["output_dir"] = "there"
    settings["output_dir"] = DEFAULT["output_dir"]
    settings["callbacks"][2]["keep_checkpoint_max"] = 9
    settings["model"]["model_config"]["tied"] = True
    file["model"]["model_config"]["lora"] = settings["model"]["model_config"]["lora"] = "x"
    text = report(settings, file, DEFAULT)
    assert mark(text, "learning_rate") == "default: 1.0e-05"
    assert mark(text, "epochs") == "in the file: 5; default: 3"
    assert mark(text, "seed") == "in the file and by default: 0"
    assert mark(text, "output_dir") == "in the file: there"
    assert mark(text, "keep_checkpoint_max") == "in the file and by default: 3"
    assert mark(text, "tied") == "added; not in the default"
    assert mark(text, "lora") == "not in the default"
    assert text.count("#") == 7 and len({line.index("#") for line in text.splitlines() if "#" in line}) == 1
    assert yaml.safe_load(text) == settings


def test_an_element_is_compared_with_that_of_its_type_wherever_it_stands(settings):
    settings["callbacks"].insert(0, {"type": "Other", "every": 2})
    text = report(settings, DEFAULT, DEFAULT)
    assert mark(text, "every") == "added; not in the default"
    assert mark(text, "save_checkpoint_steps") == ""


def test_what_the_file_has_and_the_run_has_not_is_named(settings):
    del settings["context"]["jit_config"]
    text = report(settings, DEFAULT, DEFAULT)
    assert text.endswith("\n# left out: context.jit_config.jit_level (in the file: O1)\n")
    assert yaml.safe_load(text) == settings


@pytest.mark.parametrize(
    "value",
    ["", "two\nlines", "1e-5", "# no comment", "null", "a: b", "图", [], {}, [1, "2", None], [[1], {"a": "b\nc"}], False,
     0, 1e-8, [{"type": "A"}, {"type": "A", "x": {"y": [{"z": 1}]}}], {"a b": {"*": 1}}],
)  # fmt: skip
def test_every_value_is_read_back_as_it_is(value):
    text = report({"key": value, "next": 1}, {}, {})
    assert yaml.safe_load(text) == {"key": value, "next": 1}


def test_a_number_is_no_truth_value():
    assert mark(report({"mode": 0}, {"mode": False}, {"mode": 0}), "mode") == "in the file: false"


def test_a_saved_report_makes_the_same_run(finetune_arguments, tmp_path):
    first = read_settings(finetune_arguments)
    text = report({key: value for key, value in first.items() if not key.endswith("_path")}, DEFAULT, DEFAULT)
    save_report(text, tmp_path / "run/settings.yaml")
    again = read_settings(["--config", str(tmp_path / "run/settings.yaml")])
    assert {**again, "config_path": first["config_path"]} == first
    assert again["train_dataset_task"]["dataset_config"] is again["train_dataset"]

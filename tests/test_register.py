"""A family registered from a file outside the repository, by the names that ms-swift has for it."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from convert.convert_weight import main as convert_weight
from ms_impl import families, register
from ms_impl.cli.arguments import read_settings
from ms_impl.errors import InputError
from ms_impl.register import (
    ModelMeta,
    MultiModelKeys,
    TemplateMeta,
    load_custom,
    register_model,
    register_model_arch,
    register_template,
    use_template,
)

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    system_message: str = "Be brief."
    fps: float = 2.0


class Template:
    Options = Options


BASE = families.Family(
    name="base_vlm",
    arch="BaseVLM",
    model_types=("base_vlm",),
    config_keys=(("depth",),),
    config=Options,
    model=Template,
    template=Template,
    weights="no:WEIGHTS",
    groups={"language_model": ("*",)},
    adapter_prefixes=("base_model.model.thinker.", "base_model.model."),
)


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is forgotten after it."""
    families.register(families.get("qwenvl"))
    monkeypatch.setattr(families, "_FAMILIES", {**families.all_families(), "base_vlm": BASE})
    monkeypatch.setattr(register, "_arches", {})
    monkeypatch.setattr(register, "_templates", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.fixture
def file(tmp_path):
    """Write a Python file that registers something."""

    def write(body: str, name: str = "my_register.py") -> Path:
        path = tmp_path / name
        path.write_text(f"from ms_impl.register import *\nfrom ms_impl.register import ModelMeta\n{body}\n")
        return path

    return write


def test_a_model_is_what_its_base_is_and_what_it_says_itself():
    register_model_arch(
        MultiModelKeys(
            "my_arch", language_model="thinker.model", vision_tower=["thinker.visual", "thinker.audio"],
            aligner=["thinker.visual.merger"], generator=["talker"],
        )
    )  # fmt: skip
    register_template(
        TemplateMeta("my_template", template_cls=Template, default_system="Be kind.", options={"fps": 1.0})
    )
    mine = register_model(
        ModelMeta(
            "my_vlm_2", template="my_template", model_arch="my_arch", base="base_vlm",
            additional_saved_files=["spk_dict.pt"], requires=["no-such-thing>=2"],
        )
    )  # fmt: skip
    assert mine is families.get("my_vlm_2") and mine.arch == "MyVlm2"
    assert mine.template is Template and mine.template_options == {"system_message": "Be kind.", "fps": 1.0}
    assert mine.config is Options and mine.saved_files == ("spk_dict.pt",)
    assert mine.requires == {"no_such_thing": "no-such-thing>=2"}
    assert families.for_config({"model_type": "base_vlm", "depth": 1}, "config.json") is BASE


@pytest.mark.parametrize(
    "parameter, group",
    [
        ("thinker.visual.merger.weight", "aligner"),
        ("visual.merger.weight", "aligner"),  # as a checkpoint without the wrapper has it
        ("visual.blocks.0.weight", "vision_tower"),
        ("thinker.audio.conv.weight", "vision_tower"),
        ("model.layers.0.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("talker.model.weight", "generator"),
    ],
)
def test_prefixes_are_patterns_of_which_the_first_match_owns(parameter, group):
    register_model_arch(
        MultiModelKeys("a", "thinker.model", ["thinker.visual", "thinker.audio"], "thinker.visual.merger", ["talker"])
    )
    assert register_model(ModelMeta("m", model_arch="a", base="base_vlm")).group_of(parameter) == group


@pytest.mark.parametrize(
    "registering, message",
    [
        (lambda: register_model(ModelMeta("base_vlm", base="qwenvl")), "arch BaseVlm|named 'base_vlm' is already"),
        (lambda: register_model(ModelMeta("m")), "m: give config, model, template, weights, model_arch, config_keys"),
        (lambda: register_model(ModelMeta("m", base="bose")), "unknown model 'bose'; known: base_vlm, "),
        (lambda: register_model(ModelMeta("m", base="base_vlm", template="t")), "unknown template 't'"),
        (lambda: register_model(ModelMeta("m", base="base_vlm", model_arch="a")), "unknown model_arch 'a'"),
        (lambda: register_model(ModelMeta("m", base="base_vlm", get_function=print)), "get_function is not called"),
        (lambda: register_model(ModelMeta("m", base="base_vlm", arch="BaseVLM")), "arch BaseVLM is that of base_vlm"),
        (lambda: register_model(ModelMeta("1 m", base="base_vlm")), "name the class that YAMLs have for it"),
        (
            lambda: (register_template(TemplateMeta("t", prefix=["x"])), use_template(BASE, "t")),
            "template t: its class has no option prefix; it has fps, system_message",
        ),
        (
            lambda: [register_template(TemplateMeta("t", default_system=text)) for text in "ab"],
            "another template named 't' is already registered",
        ),
        (
            lambda: [register_model_arch(MultiModelKeys("a", text)) for text in "ab"],
            "another model_arch named 'a' is already registered",
        ),
    ],
)
def test_what_is_wrong_is_named(registering, message):
    with pytest.raises(InputError, match=message):
        registering()


def test_registering_the_same_twice_is_harmless():
    for _ in range(2):
        register_model(ModelMeta("m", base="base_vlm", config_keys=[["a"], ["b"]]))
    assert families.get("m").config_keys == (("a",), ("b",))


def test_a_template_is_changed_for_one_process():
    register_template(TemplateMeta("brief", default_system="Be brief."))
    changed = use_template(BASE, "brief")
    assert families.get("base_vlm") is changed == replace(BASE, template_options={"system_message": "Be brief."})
    assert use_template(changed, "qwenvl").template == families.get("qwenvl").template


def test_a_file_registers_and_can_be_imported_by_its_name(file):
    path = file('register_model(ModelMeta("mine", base="base_vlm"))')
    assert load_custom(path) == ["mine"]
    assert sys.modules["my_register"].__file__ == str(path)
    assert load_custom(path) == []  # it is run once
    assert str(path.parent) in sys.path


@pytest.mark.parametrize(
    "body, name, message",
    [
        ("x = 1", "my_register.py", "registers nothing; call register_model"),
        ("\n1 / 0", "my_register.py", "line 4: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('done')", "my_register.py", "line 3: SystemExit: done"),
        ("def (", "my_register.py", "SyntaxError"),
        (
            'register_model(ModelMeta("qwenvl", base="base_vlm", arch="Q"))',
            "my_register.py",
            "named 'qwenvl' is already",
        ),
        ("x = 1", "json.py", "'json' is the name of another module; rename the file"),
        ("x = 1", "my-register.py", "'my-register' is not a name for a module; rename"),
        ("x = 1", "my_register.txt", "is not a .py file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_leaves_nothing_behind(file, body, name, message):
    path = file(body, name)
    before = families.names()
    with pytest.raises(InputError, match=f"--custom_register_path: {path}.*{message}"):
        load_custom(path)
    assert families.names() == before and "my_register" not in sys.modules


def test_a_file_that_fails_half_way_leaves_nothing_behind(file):
    with pytest.raises(InputError, match="KeyError"):
        load_custom(file('register_model(ModelMeta("mine", base="base_vlm"))\n{}["x"]'))
    assert "mine" not in families.names()


def test_a_yaml_cannot_name_a_file_to_run(tmp_path, finetune_arguments, file):
    config = tmp_path / "evil.yaml"
    marker = tmp_path / "ran"
    path = file(f"open({str(marker)!r}, 'w')")
    text = (ROOT / "configs/qwenvl/finetune_tiny.yaml").read_text()
    config.write_text(f"custom_register_path: {path}\n{text}")
    with pytest.raises(InputError, match="custom_register_path: is taken from the command line alone"):
        read_settings(["--config", str(config)])
    assert not marker.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["run_mindformer.py", "--config", "configs/qwenvl/finetune_tiny.yaml"],
        ["convert/convert_weight.py", "--model", "qwenvl", "--input_path", "x", "--output_path", "y/"],
        ["convert/merge_adapter.py", "--model", "x", "--input_path", "x", "--adapter", "x", "--output_path", "y/"],
        ["scripts/chat.py", "--model", "x"],
        ["ms_impl/cli/vlm_mindspore.py", "check", "--config", "configs/qwenvl/finetune_tiny.yaml"],
    ],
)
def test_every_command_takes_the_file(command):
    run = subprocess.run(
        [sys.executable, *command, "--custom_register_path", "absent.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (2, "error: --custom_register_path: absent.py is not found\n")


def test_the_settings_ask_for_the_family_that_is_chosen(finetune_arguments, file):
    """A derived family takes the YAML of its base."""
    path = file('register_model(ModelMeta("my_qwenvl", base="qwenvl"))')
    settings = read_settings([*finetune_arguments, "--custom_register_path", str(path), "--model_type", "my_qwenvl"])
    assert settings["model"]["arch"] == {"type": "MyQwenvl"}
    assert settings["model"]["model_config"]["type"] == "MyQwenvlConfig"
    template = settings["train_dataset"]["modal_to_text_transform"]["model_transform_template"]
    assert template["type"] == "MyQwenvlContentTransformTemplate" and "auto_register" not in template


def test_help_lists_what_a_file_registers(file, capsys):
    path = file('register_model(ModelMeta("my_listed_model", base="base_vlm"))')
    with pytest.raises(SystemExit):
        convert_weight(["--custom_register_path", str(path), "--help"])
    assert "my_listed_model" in capsys.readouterr().out

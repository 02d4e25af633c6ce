"""A second family, registered here alone, is converted by the real command: nothing else in the project changes.

The toy uses what Qwen-VL does not need: other names, q/k/v packed per head, transposed and split matrices.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert.convert_weight import main
from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.families import Family, Scope
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.io.rules import Pack, PermuteRows, Transpose, Unpack, Weight, WeightTable, moved, same


@dataclass(frozen=True)
class ToyConfig:
    """As small as a configuration can be."""

    width: int
    heads: int
    ffn: int
    depth: int

    @classmethod
    def from_dict(cls, raw: dict, source: str) -> "ToyConfig":
        return cls(*(raw[key] for key in ("width", "heads", "ffn", "depth")))


TOY_WEIGHTS = WeightTable(
    [
        *same("embed", {"weight": "11 width"}),
        Weight(
            tuple(f"model.layers.*.{name}.weight" for name in "qkv"),
            ("width width",) * 3,
            ("backbone.blocks.*.attention.qkv",),
            (Pack(), PermuteRows("3 heads -1", (1, 0, 2)), Transpose()),
        ),
        *moved("model.layers.*", "backbone.blocks.*", {"out.weight": ("attention.out", "width width")}, Transpose()),
        Weight(
            ("model.layers.*.gate_up.weight",),
            ("gate_up width",),
            ("backbone.blocks.*.ffn.gate", "backbone.blocks.*.ffn.up"),
            (Unpack("ffn ffn"),),
        ),
    ],
    sizes=lambda c: {"width": c.width, "heads": c.heads, "ffn": c.ffn, "gate_up": 2 * c.ffn, "depth": c.depth},
    layers={"model.layers": "depth"},
)

TOY = Family(
    name="toy",
    model_types=("toy_vlm",),
    arch="Toy",
    config_keys=(("depth",),),
    config=f"{__name__}:ToyConfig",
    model=f"{__name__}:NoModel",
    template=f"{__name__}:NoTemplate",
    weights=f"{__name__}:TOY_WEIGHTS",
    groups={"aligner": ("embed.*",), "language_model": ("model.*",)},
)

CONFIG = ToyConfig(width=12, heads=3, ffn=5, depth=2)


@pytest.fixture
def toy(monkeypatch) -> Family:
    """The toy family, registered for one test."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    return families.register(TOY)


@pytest.fixture
def checkpoint(tmp_path):
    """A Hugging Face directory of the toy; no two values in it are the same."""
    directory = tmp_path / "hf"
    directory.mkdir()
    shapes = {"embed.weight": (11, 12)}
    for layer in range(CONFIG.depth):
        shapes |= {f"model.layers.{layer}.{name}.weight": (12, 12) for name in ("q", "k", "v", "out")}
        shapes[f"model.layers.{layer}.gate_up.weight"] = (10, 12)
    state = {
        name: (1000 * number + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
        for number, (name, shape) in enumerate(shapes.items())
    }
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "toy_vlm", **vars(CONFIG)}))
    return directory


def convert(*arguments) -> int:
    return main(["--model", "toy", *map(str, arguments)])


def expected_parameters(hf: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The toy's MindSpore parameters, written out by hand."""
    parameters = {"embed.weight": hf["embed.weight"]}
    for layer in range(CONFIG.depth):
        source, target = f"model.layers.{layer}", f"backbone.blocks.{layer}"
        head = CONFIG.width // CONFIG.heads
        rows = [
            hf[f"{source}.{part}.weight"][number * head : (number + 1) * head]
            for number in range(CONFIG.heads)
            for part in "qkv"
        ]
        parameters[f"{target}.attention.qkv"] = np.vstack(rows).T
        parameters[f"{target}.attention.out"] = hf[f"{source}.out.weight"].T
        parameters[f"{target}.ffn.gate"] = hf[f"{source}.gate_up.weight"][: CONFIG.ffn]
        parameters[f"{target}.ffn.up"] = hf[f"{source}.gate_up.weight"][CONFIG.ffn :]
    return parameters


@pytest.mark.parametrize("between", ["toy.ckpt", "toy.safetensors", "toy/"])
def test_the_command_converts_a_new_family_both_ways(toy, checkpoint, tmp_path, between):
    middle, back = f"{tmp_path}/{between}", tmp_path / "back"
    assert convert("--input_path", checkpoint, "--output_path", middle) == 0
    expected = expected_parameters(load_file(checkpoint / "model.safetensors"))
    for path in (checkpoint, middle):  # the loader takes either layout
        found = {tensor.name: tensor.array() for tensor in load_for_mindspore(path, toy, CONFIG)}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], values) for name, values in expected.items())
    arguments = ("--input_path", middle, "--output_path", f"{back}/", "--reverse", "--config", checkpoint)
    assert convert(*arguments) == 0
    for name in ("model.safetensors", "config.json"):
        assert (back / name).read_bytes() == (checkpoint / name).read_bytes()


def test_tensors_that_are_packed_together_must_be_of_one_type(toy, checkpoint, tmp_path, capsys):
    state = load_file(checkpoint / "model.safetensors")
    state["model.layers.0.k.weight"] = state["model.layers.0.k.weight"].astype(np.float16)
    save_file(state, checkpoint / "model.safetensors")
    assert convert("--input_path", checkpoint, "--output_path", tmp_path / "toy.ckpt") == 2
    assert "'model.layers.0.k.weight': 'fp16'" in capsys.readouterr().err


def test_a_checkpoint_of_the_other_family_is_refused(toy, checkpoint, tmp_path, capsys):
    arguments = ["--input_path", str(checkpoint), "--output_path", str(tmp_path / "x.ckpt")]
    assert main(["--model", "qwenvl", *arguments]) == 2
    assert "describes a model of family 'toy', not 'qwenvl'" in capsys.readouterr().err


def test_the_registry_finds_families_by_name_and_by_configuration(toy):
    assert families.names() == sorted({*families.names(), "qwenvl", "toy"})
    assert families.get("toy") is toy
    assert families.for_config({"model_type": "toy_vlm", "depth": 2}, "config.json") is toy
    with pytest.raises(InputError, match="c.json: no known model family has model_type='toy_vlm'"):
        families.for_config({"model_type": "toy_vlm"}, "c.json")  # without a key that the family always has
    with pytest.raises(InputError, match="unknown model 'toi'; known: .*qwenvl, toy"):
        families.get("toi")


def test_a_name_given_wins_over_recognition(toy):
    qwenvl = {"model_type": "qwen", "visual": {}, "kv_channels": 1, "intermediate_size": 1, "seq_length": 1}
    assert families.for_config(qwenvl, "config.json").name == "qwenvl"
    assert families.for_config(qwenvl, "config.json", name="toy") is toy


def test_architectures_decide_where_several_families_fit(toy):
    other = families.register(replace(TOY, name="other", architectures=("OtherVLM",)))
    config = {"model_type": "toy_vlm", "depth": 2}
    assert families.for_config({**config, "architectures": ["OtherVLM"]}, "c.json") is other
    with pytest.raises(InputError, match="c.json: fits several families, toy, other; name one"):
        families.for_config(config, "c.json")


def test_a_family_without_model_types_is_found_by_its_name_alone(toy):
    derived = families.register(replace(TOY, name="derived", model_types=()))
    assert families.for_config({"model_type": "toy_vlm", "depth": 2}, "c.json") is toy
    assert families.for_config({"depth": 2}, "c.json", name="derived") is derived


def test_one_of_several_sets_of_keys_is_enough():
    family = replace(TOY, config_keys=(("thinker",), ("depth", "width")))
    assert family.matches({"thinker": {}}) and family.matches({"depth": 1, "width": 2})
    assert not family.matches({"depth": 1})


def test_a_package_that_lacks_is_named_with_the_command_that_installs_it():
    family = replace(TOY, requires={"json": "json", "no_such_package": "no-such>=1.2"})
    with pytest.raises(InputError, match="toy needs packages that are not installed: pip install 'no-such>=1.2'$"):
        family.resolve("template")
    assert family.resolve("config") is ToyConfig


def test_keys_of_a_yaml_freeze_module_groups(toy):
    assert toy.frozen_groups({"freeze_llm": True, "freeze_aligner": False, "lora": None}) == ("language_model",)


def test_a_name_is_registered_once(toy):
    assert families.register(TOY) is TOY
    with pytest.raises(ValueError, match="a different family named 'toy'"):
        families.register(replace(TOY, model_types=("other",)))


def test_freezing_speaks_of_module_groups(toy):
    names = ["embed.weight", "model.layers.0.q.weight", "model.layers.1.q.weight"]
    assert toy.frozen_names(names, ["language_model"]) == set(names[1:])
    assert toy.frozen_names(names, []) == set()
    with pytest.raises(InputError, match="belongs to no module group"):
        toy.group_of("vision.weight")
    with pytest.raises(InputError, match=r"no module group \['vision_tower'\]"):
        toy.frozen_names(names, ["vision_tower"])


def test_a_scope_trains_the_parts_it_names_without_what_is_frozen(toy):
    names = ["embed.weight", "model.layers.0.q.weight", "model.layers.1.q.weight"]
    family = replace(toy, selectors=lambda config: {"last": (f"model.layers.{config['layers'] - 1}.*",)})
    config = {"layers": 2}
    scope = family.scope({"freeze_llm": False, "train_only": ["last"]})
    assert scope == Scope(only=("last",)) and family.trained_names(names, scope, config) == names[2:]
    assert family.trained_names(names, Scope(), config) == names
    groups = tuple(family.groups)
    assert family.trained_names(names, Scope(only=groups), config) == names
    with pytest.raises(InputError, match="train_only: unknown part 'lasst'; did you mean 'last'"):
        family.trained_names(names, Scope(only=("lasst",)), config)
    with pytest.raises(InputError, match="nothing is left to train"):
        family.trained_names(names, Scope(("language_model",), ("last",)), config)  # what is frozen wins
    unused = replace(family, untrained=("model.layers.1.*",))
    assert unused.trained_names(names, Scope(), config) == names[:2]


def test_every_record_names_what_exists_for_conversion():
    for family in map(families.get, families.names()):
        assert hasattr(family.resolve("config"), "from_dict")
        assert isinstance(family.resolve("weights"), WeightTable)

"""A model with parts that are not built here: skipped by name and count, and put back byte for byte by --base."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ms_impl.io.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden/qwen2_5_omni_tiny"
SPEAKERS = b"\x80\x04cos\nsystem\n(S'exit 1'\ntR."  # must be copied, never unpickled
SPEECH = {"talker.model.layers.0.weight": (3, 4), "talker.lm_head.weight": (5,), "token2wav.dit.bias": (2, 2, 2)}


@pytest.fixture
def thinker(tmp_path) -> Path:
    """A thinker that stands alone."""
    directory = tmp_path / "thinker"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory)
    return directory


@pytest.fixture
def whole(tmp_path) -> Path:
    """A whole model around it."""
    directory, generator = tmp_path / "whole", np.random.default_rng(0)
    directory.mkdir()
    config = json.loads((GOLDEN / "config.json").read_text())
    nested = {"model_type": "qwen2_5_omni", "thinker_config": config, "talker_config": {}, "token2wav_config": {}}
    (directory / "config.json").write_text(json.dumps(nested))
    (directory / "spk_dict.pt").write_bytes(SPEAKERS)
    tensors = {f"thinker.{name}": array for name, array in load_file(GOLDEN / "model.safetensors").items()}
    tensors |= {name: generator.normal(size=shape).astype(np.float16) for name, shape in SPEECH.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def convert(convert_weight):
    def run(source, output, *arguments):
        paths = ("--input_path", source, "--output_path", output)
        return convert_weight(*paths, *arguments, model="qwen2_5_omni")

    return run


def content(path) -> dict[str, bytes]:
    return {name: tensor.array().tobytes() for name, tensor in open_checkpoint(path).tensors.items()}


def test_parts_that_are_not_built_are_counted_and_named(whole, convert, tmp_path):
    status, out, err = convert(whole, f"{tmp_path}/ms/")
    assert status == 0, err
    assert "note: not converted, as no part of what is trained: 2 tensors talker.* (34 bytes)" in out
    assert "1 tensors token2wav.* (16 bytes); --reverse --base DIR puts them back" in out
    assert content(tmp_path / "ms") == content(GOLDEN)  # our names have no prefix
    assert (tmp_path / "ms/spk_dict.pt").read_bytes() == SPEAKERS
    assert "would convert" in convert(whole, tmp_path / "x.ckpt", "--dry_run")[1]


@pytest.mark.parametrize("between", ["x.ckpt", "x.safetensors", "x/"])
def test_a_base_makes_it_whole_again(whole, convert, tmp_path, between):
    assert convert(whole, f"{tmp_path}/{between}")[0] == 0
    status, out, err = convert(f"{tmp_path}/{between}", f"{tmp_path}/back/", "--reverse", "--base", whole)
    assert status == 0, err
    for name in ("config.json", "spk_dict.pt", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (whole / name).read_bytes(), name
    assert convert(f"{tmp_path}/{between}", f"{tmp_path}/back/", "--reverse", "--base", whole)[0] == 0  # replaced


def test_a_thinker_trained_alone_goes_into_a_whole_model(thinker, whole, convert, tmp_path):
    assert convert(thinker, f"{tmp_path}/ms/", "--dtype", "fp16")[0] == 0
    assert convert(tmp_path / "ms", f"{tmp_path}/back/", "--reverse", "--base", whole)[0] == 0
    before, after = load_file(whole / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    for name, array in before.items():
        expected = array.astype(np.float16) if name.startswith("thinker.") else array
        assert np.array_equal(after[name], expected), name


def test_without_a_base_the_thinker_comes_back_as_transformers_loads_it(whole, thinker, convert, tmp_path):
    transformers = pytest.importorskip("transformers")
    for directory, prefix in ((whole, "thinker."), (thinker, "")):
        middle, back = tmp_path / f"{directory.name}.ckpt", tmp_path / f"{directory.name}_back"
        assert convert(directory, middle)[0] == 0
        assert convert(middle, f"{back}/", "--reverse", "--config", directory)[0] == 0
        assert content(back) == {prefix + name: data for name, data in content(GOLDEN).items()}
        model, told = transformers.Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            back, output_loading_info=True
        )
        assert not any(told.values()), told
        loaded = {name: values.numpy() for name, values in model.state_dict().items()}
        for name, array in load_file(GOLDEN / "model.safetensors").items():
            assert np.array_equal(loaded[name], array), name


def test_a_base_that_does_not_do_is_refused(whole, thinker, convert, convert_weight, tmp_path):
    convert(whole, f"{tmp_path}/ms/")
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    config = json.loads((other / "config.json").read_text())
    config["thinker_config"]["text_config"]["rope_theta"] = 5e5
    (other / "config.json").write_text(json.dumps(config))
    back = ("--output_path", f"{tmp_path}/back/")
    for arguments, message in {
        (whole, "--base", whole): "--base goes with --reverse",
        (tmp_path / "ms", "--reverse", "--base", whole, "--config", whole): "without --config",
        (tmp_path / "ms", "--reverse", "--base", thinker): "holds no tensors talker.* or token2wav.*; leave out --base",
        (tmp_path / "ms", "--reverse", "--base", tmp_path / "none"): "none: no such file or directory",
        (
            tmp_path / "ms",
            "--reverse",
            "--base",
            whole / "model.safetensors",
        ): "a single file; --base needs the directory",
        (tmp_path / "ms", "--reverse", "--base", other): "ms/config.json: describes another model than",
    }.items():
        status, _, err = convert_weight("--input_path", *arguments, *back, model="qwen2_5_omni")
        assert status == 2 and message in err, err
    status, _, err = convert(tmp_path / "ms", f"{whole}/", "--reverse", "--base", whole)
    assert status == 2 and "is the input" in err
    assert not (tmp_path / "back").exists()


def test_unknown_tensors_are_faults_all_the_same(whole, convert, tmp_path):
    tensors = load_file(whole / "model.safetensors")
    save_file({**tensors, "talkers.weight": np.ones(2, np.float32)}, whole / "model.safetensors")
    status, _, err = convert(whole, tmp_path / "x.ckpt")
    assert status == 2 and "extra: talkers.weight [2]" in err and "talker.model" not in err

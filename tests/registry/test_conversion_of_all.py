"""Every family is converted there and back by the command; nothing of a checkpoint is lost or changed."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_checkpoint import normal, write_checkpoint

from ms_impl.io.conversion import load_for_mindspore
from ms_impl.io.rules import MINDSPORE


@pytest.fixture
def checkpoint(family, raw, tmp_path):
    return write_checkpoint(tmp_path / "hf", family, raw, normal(1.0), tokenizer__json=b"{}")


@pytest.mark.parametrize("between", ["x.ckpt", "x.safetensors", "x/"])
def test_there_and_back_is_byte_identical(family, checkpoint, convert_weight, tmp_path, between):
    middle, back = f"{tmp_path}/{between}", tmp_path / "back"
    status, _, err = convert_weight("--input_path", checkpoint, "--output_path", middle, model=family.name)
    assert status == 0, err
    arguments = ("--input_path", middle, "--output_path", f"{back}/", "--reverse", "--config", checkpoint)
    assert convert_weight(*arguments, model=family.name)[0] == 0
    assert {file.name: file.read_bytes() for file in back.iterdir()} == {
        file.name: file.read_bytes() for file in checkpoint.iterdir()
    }


def test_what_mindspore_gets_is_what_is_stored(family, tiny_config, checkpoint):
    tensors = load_for_mindspore(checkpoint, family, tiny_config)
    shapes = family.resolve("weights").shapes(tiny_config, MINDSPORE)
    assert {tensor.name: tensor.shape for tensor in tensors} == shapes
    stored = load_file(checkpoint / "model.safetensors").values()
    numbers = [np.sort(np.concatenate([array.reshape(-1) for array in arrays])) for arrays in (
        [tensor.array() for tensor in tensors], list(stored)
    )]  # fmt: skip
    assert np.array_equal(*numbers)


def test_a_weight_too_many_or_too_few_is_a_fault(family, checkpoint, convert_weight, tmp_path):
    from safetensors.numpy import save_file

    weights = load_file(checkpoint / "model.safetensors")
    lost = next(iter(weights))
    save_file(
        {name: array for name, array in weights.items() if name != lost} | {"surplus.weight": np.ones(3, np.float32)},
        checkpoint / "model.safetensors",
        metadata={"format": "pt"},
    )
    arguments = ("--input_path", checkpoint, "--output_path", tmp_path / "x.ckpt")
    status, _, err = convert_weight(*arguments, model=family.name)
    assert status == 2 and f"missing: {lost}" in err and "extra: surplus.weight [3]" in err

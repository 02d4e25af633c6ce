"""What does not fit is listed in full; what fits is given lazily, as MindSpore needs it."""

import mindspore
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.io.rules import Layout
from ms_impl.qwenvl.config import QwenVLConfig

QWENVL = families.get("qwenvl")


@pytest.fixture
def config(tiny):
    return QwenVLConfig.from_file(tiny)


def test_every_fault_is_listed(tiny, config):
    state = load_file(tiny / "model.safetensors")
    del state["transformer.ln_f.weight"], state["transformer.visual.proj"]
    width = state["transformer.h.0.ln_1.weight"].numel()
    state["transformer.h.0.ln_1.weight"] = torch.ones(width + 1)
    state["transformer.h.1.ln_1.weight"] = torch.ones(width, dtype=torch.int64)
    state["transformer.h.99.ln_1.weight"] = torch.ones(2, 3)
    save_file(state, tiny / "model.safetensors")
    with pytest.raises(InputError, match="tiny: the weights do not fit the model") as refusal:
        load_for_mindspore(tiny, QWENVL, config)
    assert str(refusal.value).splitlines()[1:] == [
        f"  missing: transformer.ln_f.weight [{width}]",
        f"  missing: transformer.visual.proj [{width}, {width}]",
        "  extra: transformer.h.99.ln_1.weight [2, 3]",
        f"  misshapen: transformer.h.0.ln_1.weight is [{width + 1}], expected [{width}]",
        "  element type: transformer.h.1.ln_1.weight is int64, expected one of fp16, bf16, fp32",
    ]


def test_parameters_of_mindspore_take_the_mapped_file(tiny, config):
    tensors = load_for_mindspore(tiny, QWENVL, config)
    expected = load_file(tiny / "model.safetensors")
    assert [tensor.name for tensor in tensors] == list(QWENVL.resolve("weights").shapes(config, Layout.MINDSPORE))
    for tensor in tensors:
        parameter = mindspore.Parameter(mindspore.ops.zeros(tensor.shape, mindspore.float32), name=tensor.name)
        array = tensor.array()
        assert isinstance(array, np.memmap)
        parameter.set_data(mindspore.Tensor.from_numpy(array))
        assert np.array_equal(parameter.asnumpy(), expected[tensor.name].numpy())


@pytest.mark.parametrize("output", ["x.ckpt", "x.safetensors", "x/"])
def test_converted_checkpoints_load_as_the_original_does(tiny, config, convert_weight, tmp_path, output):
    assert convert_weight("--input_path", tiny, "--output_path", f"{tmp_path}/{output}")[0] == 0
    converted = load_for_mindspore(tmp_path / output, QWENVL, config)
    for tensor, original in zip(converted, load_for_mindspore(tiny, QWENVL, config), strict=True):
        assert tensor.name == original.name
        assert np.array_equal(tensor.array(), original.array())


def test_a_type_asked_for_is_given(tiny, config, convert_weight, tmp_path):
    convert_weight("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--dtype", "bf16")
    expected = load_file(tiny / "model.safetensors")
    for tensor in load_for_mindspore(tmp_path / "x.ckpt", QWENVL, config, dtype="fp32"):
        assert np.array_equal(tensor.array(), expected[tensor.name].bfloat16().float().numpy())

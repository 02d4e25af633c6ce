"""What does not fit is listed in full; what fits is given lazily, as MindSpore needs it."""

import mmap

import mindspore
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.io.dtypes import FP32
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE
from ms_impl.io.tensors import Piece, map_piece
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
        f"  wrong shape: transformer.h.0.ln_1.weight is [{width + 1}], expected [{width}]",
        "  element type: transformer.h.1.ln_1.weight is int64, expected one of fp16, bf16, fp32",
    ]


def is_mapped(array: np.ndarray) -> bool:
    """Whether its numbers lie in pages of a file."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, memoryview) and isinstance(owner.obj, mmap.mmap)


def test_parameters_of_mindspore_take_the_mapped_file(tiny, config):
    tensors = load_for_mindspore(tiny, QWENVL, config)
    expected = load_file(tiny / "model.safetensors")
    assert [tensor.name for tensor in tensors] == list(QWENVL.resolve("weights").shapes(config, MINDSPORE))
    for tensor in tensors:
        parameter = mindspore.Parameter(mindspore.ops.zeros(tensor.shape, mindspore.float32), name=tensor.name)
        array = tensor.array()
        assert is_mapped(array)
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


def test_what_is_declared_harmless_is_skipped_and_counted(tiny, config, convert_weight, tmp_path, caplog):
    state = load_file(tiny / "model.safetensors")
    state["transformer.rotary_emb.inv_freq"] = torch.ones(4)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, tiny / "model.safetensors")
    expected = [tensor.name for tensor in load_for_mindspore(tiny, QWENVL, config)]
    status, out, err = convert_weight("--input_path", tiny, "--output_path", tmp_path / "x.safetensors")
    assert status == 0 and list(load_file(tmp_path / "x.safetensors").keys()) == sorted(expected)
    told = "skipped 2 tensors that are not weights: "
    assert caplog.text.count(told) == 2
    assert "transformer.rotary_emb.inv_freq" in caplog.text and "transformer.h.0.attn.masked_bias" in caplog.text


def test_the_counters_of_a_training_checkpoint_of_mindspore_are_skipped(tiny, config, caplog, tmp_path):
    named = [
        {"name": name, "data": mindspore.Tensor(tensor.numpy())}
        for name, tensor in load_file(tiny / "model.safetensors").items()
    ]
    counters = {"epoch_num": 1, "step_num": 2, "loss_scale": 1024.0, "global_step": mindspore.Tensor([7])}
    mindspore.save_checkpoint(named, str(tmp_path / "x.ckpt"), append_dict=counters)
    assert len(list(load_for_mindspore(tmp_path / "x.ckpt", QWENVL, config))) == len(named)
    assert "skipped 4 tensors" in caplog.text


def test_no_weight_is_called_harmless(config):
    for table in (QWENVL.resolve("weights"), *map(QWENVL.source_weights, QWENVL.sources)):
        for layout in (HUGGING_FACE, table.layout):
            assert [name for name in table.shapes(config, layout) if table.is_harmless(name)] == []


def test_a_mapping_begins_and_ends_with_a_huge_page(tmp_path):
    huge, numbers = 1 << 21, np.arange(5 << 18, dtype=np.float32)  # five MiB
    numbers.tofile(tmp_path / "x")
    for begin, size, mapped in ((huge + 8, huge // 2, huge), (huge // 2, huge, 2 * huge), (2 * huge, 64, huge // 2)):
        array = map_piece(Piece(tmp_path / "x", begin, size), FP32)
        assert np.array_equal(array, numbers[begin // 4 : (begin + size) // 4])
        assert array.base.nbytes == mapped
        array += 1  # and the file stays as it is
    assert np.array_equal(np.fromfile(tmp_path / "x", np.float32), numbers)

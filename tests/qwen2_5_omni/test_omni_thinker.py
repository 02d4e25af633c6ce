"""The thinker as a model: names and shapes at full size, module groups, 16 bits, recompute, what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from released_shapes import expanded, read

from ms_impl.errors import InputError
from ms_impl.plugin.model import parallelize
from ms_impl.qwen2_5_omni.config import THINKER_PREFIX, Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.model import Qwen2_5OmniThinker

RELEASED = Path(__file__).parents[2] / "configs/qwen2_5_omni"
TINY = Path(__file__).parents[1] / "golden/qwen2_5_omni_tiny"


@pytest.fixture(scope="module")
def tiny() -> Qwen2_5OmniThinker:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield Qwen2_5OmniThinker(Qwen2_5OmniConfig.from_file(TINY)).set_train(False)
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize(("size", "tensors"), [("3b", 1442), ("7b", 1346)])
def test_the_released_thinkers_are_built_by_name_and_shape_without_memory(size, tensors):
    released = read(f"qwen2_5_omni_{size}")
    config = Qwen2_5OmniConfig.from_file(RELEASED / f"qwen2_5_omni_{size}")
    with nn.utils.no_init_parameters():
        model = Qwen2_5OmniThinker(config, ms.float16)
    found = {THINKER_PREFIX + name: tuple(p.shape) for name, p in model.parameters_dict().items()}
    assert len(found) == tensors
    assert found == expanded(released)


def test_module_groups_are_frozen(tiny):
    everything = {parameter.name for parameter in tiny.get_parameters()} - {"audio_tower.audio_bos_eos_token.weight"}
    wanted = {
        (): everything,
        ("vision_tower",): {n for n in everything if n.startswith(("model.", "lm_head.", "audio_tower.proj.", "visual.merger."))},
        ("vision_tower", "aligner"): {n for n in everything if n.startswith(("model.", "lm_head."))},
        ("language_model",): {n for n in everything if n.startswith(("audio_tower.", "visual."))},
    }  # fmt: skip
    for groups, trained in wanted.items():
        tiny.freeze(groups)
        assert {parameter.name for parameter in tiny.trainable_params()} == trained
    tiny.freeze(())
    with pytest.raises(InputError, match="no module group"):
        tiny.freeze(("towers",))


def test_only_repeated_layers_are_cell_lists(tiny):
    """What a YAML's recompute_config recomputes."""
    lists = [name for name, cell in tiny.cells_and_names() if isinstance(cell, nn.CellList)]
    assert lists == ["audio_tower.layers", "visual.blocks", "model.layers"]


def test_a_step_keeps_nothing_of_a_request_on_the_model(tiny):
    assert tiny.rotary(np.zeros((1, 3, 2), np.int32), 2)[2] is None
    with pytest.raises(InputError, match="40000 tokens"):
        tiny.new_cache(1, 40000)


def test_positions_of_one_axis_are_those_of_three_equal_ones(tiny):
    positions = np.arange(5, dtype=np.int32)[None]
    one, three = tiny.rotary(positions, 5), tiny.rotary(np.tile(positions[:, None], (1, 3, 1)), 5)
    np.testing.assert_array_equal(one[:2], three[:2])


def test_the_decoder_by_its_parameters(tiny):
    parts, text = tiny.decoder_parts(), tiny.config.text_config
    assert len(parts.layers) == text.num_hidden_layers
    assert parts.embedding is tiny.model.embed_tokens.weight and parts.head is tiny.lm_head.weight
    assert (parts.heads, parts.kv_heads, parts.head_dim) == (4, 2, 16)
    assert parts.layers[1].k.bias is tiny.model.layers[1].self_attn.k_proj.bias
    assert parts.layers[1].o.bias is None and parts.layers[0].q_norm is None


def test_sixteen_bit_parameters_compute_in_fp32(tiny):
    """Parameters are cast in the graph where their dtype differs from that of activations."""
    config = Qwen2_5OmniConfig.from_file(TINY)
    half = Qwen2_5OmniThinker(config, ms.float32, param_dtype=ms.bfloat16).set_train(False)
    assert {parameter.dtype for parameter in half.get_parameters()} == {ms.bfloat16}
    for parameter, source in zip(half.get_parameters(), tiny.get_parameters()):
        parameter.set_data(source.astype(ms.bfloat16))
    ids = Tensor(np.arange(6, dtype=np.int32)[None])
    found, wanted = half(ids), tiny(ids)
    assert found.dtype == ms.float32
    np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), rtol=0, atol=0.02)


def test_cutting_the_model_over_devices_is_refused(tiny):
    parallelize(tiny, SimpleNamespace(data_parallel=8, model_parallel=1, pipeline_stage=1))
    with pytest.raises(InputError, match="model_parallel"):
        parallelize(tiny, SimpleNamespace(data_parallel=1, model_parallel=2, pipeline_stage=1))

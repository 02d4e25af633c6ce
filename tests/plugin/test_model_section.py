"""The YAML's ``model`` section: what is frozen, recomputed and computed in."""

import mindspore as ms
import pytest
from mindspore.nn.utils import no_init_parameters

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.plugin.run import register_all

register_all()

from mindformers.modules.transformer import (  # noqa: E402 (after our classes are registered)
    TransformerOpParallelConfig,
    TransformerRecomputeConfig,
)

from ms_impl.plugin.family_classes import config_class, model_class  # noqa: E402

QwenVL, QwenVLConfig = model_class("qwenvl"), config_class("qwenvl")


@pytest.fixture
def build(workspace):
    def build(**section) -> QwenVL:
        with no_init_parameters():
            return QwenVL(QwenVLConfig(config_file=workspace / "model", **section))

    return build


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        (["freeze_vision"], {"aligner", "language_model"}),
        (["freeze_vision", "freeze_llm"], {"aligner"}),
        (["freeze_resampler", "freeze_llm"], {"vision_tower"}),
        ([], {"aligner", "language_model", "vision_tower"}),
    ],
)
def test_freezing_keeps_whole_groups_out_of_the_trained_parameters(build, frozen, trained):
    family = families.get("qwenvl")
    parameters = build(**dict.fromkeys(frozen, True)).trainable_params()
    assert {family.group_of(parameter.name) for parameter in parameters} == trained


def test_parameters_keep_the_checkpoints_names(build, workspace):
    names = set(build().parameters_dict())
    assert "transformer.h.0.attn.c_attn.weight" in names and "lm_head.weight" in names
    assert not any(name.startswith("network.") for name in names)


def test_dtypes_are_those_of_the_section(build):
    for names in (("float16", "float32"), ("fp16", "fp32")):
        network = build(compute_dtype=names[0], param_init_type=names[1])
        assert network.network.compute_dtype == ms.float16
        assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}
    with pytest.raises(InputError, match="model.model_config.compute_dtype: unknown dtype 'fp8'; known: fp16"):
        build(compute_dtype="fp8")


@pytest.mark.parametrize("recompute", [True, False])
def test_layers_are_recomputed_where_the_yaml_says_so(build, recompute):
    config = TransformerOpParallelConfig(recompute=TransformerRecomputeConfig(recompute=recompute))
    model = build(parallel_config=config).network
    assert [cell.get_scope() == "recompute_" for cell in model.transformer.h] == [recompute]
    assert model.transformer.wte.get_scope() is None


def test_recomputing_a_part_of_a_layer_is_refused(build):
    config = TransformerOpParallelConfig(recompute=TransformerRecomputeConfig(select_recompute=True))
    with pytest.raises(InputError, match="select_recompute is not supported"):
        build(parallel_config=config)

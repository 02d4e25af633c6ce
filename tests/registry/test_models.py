"""The models that are built, held against the weight table and the module groups of their family."""

import dataclasses
import inspect

import pytest

from ms_impl.io.rules import HUGGING_FACE, MINDSPORE
from ms_impl.train.freezing import freeze


@pytest.fixture
def model(family, tiny_config):
    from mindspore.nn.utils import no_init_parameters

    with no_init_parameters():
        return family.resolve("model")(tiny_config)


def test_parameters_have_the_names_and_shapes_of_the_table(family, tiny_config, model):
    found = {name: tuple(parameter.shape) for name, parameter in model.parameters_dict().items()}
    assert found == family.resolve("weights").shapes(tiny_config, MINDSPORE)


def test_the_reference_has_the_names_and_shapes_of_the_table(family, tiny_config):
    if not family.reference:
        pytest.skip("its reference is Hugging Face's own")
    import torch

    with torch.device("meta"):
        reference = family.resolve("reference")(tiny_config)
    found = {name: tuple(values.shape) for name, values in reference.state_dict().items()}
    tied = {name for name, tie in family.resolve("weights").ties.items() if tie.when(tiny_config)}
    expected = family.resolve("weights").shapes(tiny_config, HUGGING_FACE)
    assert {name: shape for name, shape in found.items() if name not in tied} == expected


def test_frozen_groups_are_not_trained_and_all_others_are(family, model):
    names = list(model.parameters_dict())
    freeze(model, family, ())
    trained = {parameter.name for parameter in model.trainable_params()}
    assert trained
    for group in family.groups:
        freeze(model, family, (group,))
        left = {parameter.name for parameter in model.trainable_params()}
        assert left == trained - family.frozen_names(names, [group])
        assert group == "generator" or left < trained
    freeze(model, family, ())
    assert {parameter.name for parameter in model.trainable_params()} == trained


def methods(protocol) -> dict:
    return {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}


def test_the_model_has_what_decoding_asks_of_it(family, model):
    from ms_impl.generate.decoder_model import DecoderModel

    for name, asked in methods(DecoderModel).items():
        assert list(inspect.signature(getattr(model, name)).parameters) == list(inspect.signature(asked).parameters)[1:]


def test_the_template_has_what_the_shared_rooms_ask_of_it(family, model):
    from ms_impl.data.template import Template

    template = family.resolve("template")
    assert [name for name in methods(Template) if not callable(getattr(template, name, None))] == []
    declared = {name for name, told in Template.__annotations__.items() if "ClassVar" in told}
    assert [name for name in sorted(declared) if not hasattr(template, name)] == []
    assert set(template.request_options) <= {option.name for option in dataclasses.fields(template.Options)}

"""V19: the words that say what is trained, their learning rates, and what is wrong with them."""

import pytest

from ms_impl.errors import InputError
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.train_modules import parse_train_modules, trained


@pytest.fixture(scope="module")
def config(ovis_folder):
    return Ovis2_5Config.from_file(ovis_folder)


def test_every_word_of_the_vectors(ovis_cases, config):
    everything = ovis_cases["trainable"]["all"]
    unused = set(ovis_cases["dummy_grad_is_none"])
    for words, wanted in ovis_cases["trainable"].items():
        assert set(trained(parse_train_modules(words, config), everything)) == set(wanted) - unused, words


def test_learning_rates_are_the_words_own(config):
    modules = parse_train_modules("llm | vte:1e-3|visual_tokenizer.head:0.0003", config)
    assert [(module.word, module.learning_rate) for module in modules] == [
        ("llm", None), ("vte", 1e-3), ("visual_tokenizer.head", 3e-4),
    ]  # fmt: skip
    owners = trained(modules, ["vte.weight", "llm.model.norm.weight", "visual_tokenizer.vit.x"])
    assert {name: module.word for name, module in owners.items()} == {
        "vte.weight": "vte",
        "llm.model.norm.weight": "llm",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lm", "unknown word 'lm'; did you mean llm"),
        ("", "unknown word ''"),
        ("llm|visual_tokenizer.vitt", "did you mean visual_tokenizer.vit"),
        ("vte:fast", "'vte:fast' has no learning rate after its colon"),
        ("vte:", "has no learning rate"),
        ("vte:1e-3:2", "has no learning rate"),
        ("vte:-1", "has no learning rate"),
        ("vte:nan", "has no learning rate"),
        ("all|llm:0.1", "all and llm both mean"),
        ("visual_tokenizer|visual_tokenizer.head", "visual_tokenizer and visual_tokenizer.head both mean"),
        ("vte|vte", "vte and vte both mean"),
    ],
)
def test_wrong_words(config, words, said):
    with pytest.raises(InputError, match="^train_modules: ") as raised:
        parse_train_modules(words, config)
    assert said in str(raised.value)

"""Reading generation_config.json."""

import logging
import re

import pytest

from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.qwenvl.family import FAMILY

RELEASED_CHAT = {
    "chat_format": "chatml", "do_sample": True, "eos_token_id": 151643, "max_new_tokens": 512, "max_window_size": 6144,
    "pad_token_id": 151643, "top_k": 0, "top_p": 0.3, "transformers_version": "4.31.0",
}  # fmt: skip


def test_the_released_chat_model(caplog):
    config = GenerationConfig.from_dict(RELEASED_CHAT)
    assert config == GenerationConfig(
        chat_format="chatml", do_sample=True, top_k=0, top_p=0.3, max_window_size=6144, eos_token_id=151643
    )
    assert config.eos_token_ids == (151643,)
    assert not caplog.records


def test_a_directory_without_the_file_has_the_defaults_of_the_family_and_is_told(tmp_path, caplog):
    plain = GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json")
    assert plain == GenerationConfig() and not plain.do_sample and not caplog.records
    config = GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json", defaults=FAMILY.generation)
    assert (config.chat_format, config.do_sample, config.top_p, config.top_k) == ("raw", True, 0.5, 0)
    assert config.max_new_tokens == 512
    assert "chat format 'raw'" in caplog.text and str(tmp_path) in caplog.text


def test_what_the_file_says_counts_before_the_family(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.25, "eos_token_id": [1, 2], "top_k": null}')
    config = GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json", defaults=FAMILY.generation)
    assert (config.top_p, config.top_k, config.chat_format, config.eos_token_ids) == (0.25, 0, "raw", (1, 2))


def test_null_is_the_default_and_eos_may_be_several():
    config = GenerationConfig.from_dict({"temperature": None, "eos_token_id": [1, 2]})
    assert config.temperature == 1.0
    assert config.eos_token_ids == (1, 2)


def test_what_is_not_known_is_left_out_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        GenerationConfig.from_dict({"num_beams": 4}, "x/generation_config.json")
    assert "x/generation_config.json" in caplog.text and "num_beams" in caplog.text


@pytest.mark.parametrize(
    "setting, value",
    [
        ("chat_format", 3), ("do_sample", "yes"), ("temperature", 0), ("temperature", "hot"), ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0), ("top_p", 1.1), ("repetition_penalty", 0.0), ("max_new_tokens", 0), ("max_window_size", 0),
        ("eos_token_id", "end"), ("eos_token_id", -1), ("eos_token_id", [1, 2**31]), ("temperature", float("inf")),
        ("temperature", float("nan")), ("repetition_penalty", float("inf")), ("repetition_penalty", True),
        ("top_k", 10**31), ("max_new_tokens", 2**40), ("do_sample", 1),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_named(setting, value):
    with pytest.raises(InputError, match=f"(?s)somewhere.*{setting}.*{re.escape(str(value))}"):
        GenerationConfig.from_dict({setting: value}, "somewhere")


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="top_q.*known:.*top_p"):
        GenerationConfig().changed(top_q=0.5)


def test_malformed_files_name_the_line(tmp_path):
    file = tmp_path / "generation_config.json"
    file.write_text('{\n"top_p": \n}')
    with pytest.raises(InputError, match="generation_config.json: line 3"):
        GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json")
    file.write_text("[]")
    with pytest.raises(InputError, match="list instead of a table"):
        GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json")


def test_beside_the_weights_counts_before_beside_the_configuration(tmp_path, caplog):
    """One converted file has its configuration elsewhere; its chat format is there, too."""
    weights, config = tmp_path / "weights/x.ckpt", tmp_path / "hub/config.json"
    for file in (weights, config):
        file.parent.mkdir()
        file.touch()
    (tmp_path / "hub/generation_config.json").write_text('{"chat_format": "chatml"}')
    assert GenerationConfig.for_checkpoint(weights, config).chat_format == "chatml"
    (tmp_path / "weights/generation_config.json").write_text('{"chat_format": "raw"}')
    assert GenerationConfig.for_checkpoint(weights, config).chat_format == "raw"
    assert not caplog.records


def test_a_broken_link_is_not_taken_for_no_file(tmp_path):
    (tmp_path / "generation_config.json").symlink_to("generation_config.json")
    with pytest.raises(InputError, match="generation_config.json: its links lead in a circle"):
        GenerationConfig.for_checkpoint(tmp_path, tmp_path / "config.json")

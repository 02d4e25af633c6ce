"""What belongs to a model goes along with its weights, and nothing else does."""

import json

import pytest

from ms_impl.errors import InputError
from ms_impl.io.checkpoint_assets import collect, is_checkpoint_asset
from ms_impl.io.dtypes import BF16

OF_A_MODEL = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "configuration.json", "chat_template.json", "chat_template.jinja", "vocab.json", "merges.txt", "vocab.txt",
    "qwen.tiktoken", "spiece.model", "tokenization_qwen.py", "LICENSE", "LICENSE.txt", "NOTICE",
)  # fmt: skip
OF_OTHERS = (
    "state.json", "manifest.json", "completed.json", "settings.yaml", "optimizer.safetensors", "step_cell.safetensors",
    "adapter_config.json", "adapter_model.safetensors", "trainer_state.json", "all_results.json", "train.json",
    "scores.json", "training_args.bin", "ds_config.json", "notes.txt", "model.safetensors.index.json",
)  # fmt: skip


@pytest.fixture
def model(tmp_path):
    for name in (*OF_A_MODEL, *OF_OTHERS):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_one_list_says_what_belongs_to_a_model(model):
    assert collect(model, model / "config.json").keys() == set(OF_A_MODEL)
    assert [name for name in OF_OTHERS if is_checkpoint_asset(name)] == []


def test_the_checkpoint_counts_before_the_place_of_its_configuration(tmp_path):
    """config.json and the vocabulary are those that are named, all else is the checkpoint's own."""
    checkpoint, base = tmp_path / "step_7", tmp_path / "base"
    for folder, name in ((checkpoint, "own.tiktoken"), (base, "qwen.tiktoken")):
        folder.mkdir()
        (folder / name).write_text(folder.name)
        for file in ("config.json", "generation_config.json"):
            (folder / file).write_text(json.dumps({"chat_format": folder.name}))
    (base / "tokenizer_config.json").write_text("{}")
    found = collect(checkpoint, base / "config.json")
    assert found.keys() == {"config.json", "generation_config.json", "tokenizer_config.json", "own.tiktoken"}
    assert json.loads(found["config.json"])["chat_format"] == "base"
    assert json.loads(found["generation_config.json"])["chat_format"] == "step_7"
    assert "qwen.tiktoken" in collect(checkpoint, base / "config.json", vocabulary=base / "qwen.tiktoken")


def test_the_chat_format_and_the_element_type_are_told(tmp_path):
    (tmp_path / "config.json").write_text('{"torch_dtype": "float32", "dtype": "float32"}')
    (tmp_path / "generation_config.json").write_text('{"chat_format": "raw", "top_p": 0.3}')
    found = collect(tmp_path, tmp_path / "config.json", BF16, "chatml")
    assert json.loads(found["config.json"]) == {"torch_dtype": "bfloat16", "dtype": "bfloat16"}
    assert json.loads(found["generation_config.json"]) == {"chat_format": "chatml", "top_p": 0.3}
    (tmp_path / "generation_config.json").unlink()
    assert json.loads(collect(None, tmp_path / "config.json", None, "chatml")["generation_config.json"]) == {
        "chat_format": "chatml"
    }
    assert "generation_config.json" not in collect(None, tmp_path / "config.json")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(InputError, match="generation_config.json: line 1"):
        collect(tmp_path, tmp_path / "config.json", None, "chatml")

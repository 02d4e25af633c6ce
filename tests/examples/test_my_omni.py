"""examples/custom_register/my_qwen2_5_omni.py: what it says of its own differs, and nothing else."""

from pathlib import Path

import pytest

from ms_impl import families
from ms_impl.data.records import parse_record
from ms_impl.register import load_custom

EXAMPLE = Path(__file__).parents[2] / "examples/custom_register/my_qwen2_5_omni.py"
_registered: dict[str, families.Family] = {}


@pytest.fixture
def mine():
    """The family of the example, registered for the time being."""
    if not _registered:
        load_custom(EXAMPLE)
        _registered[EXAMPLE.stem] = families.get(EXAMPLE.stem)
    yield families.register(_registered[EXAMPLE.stem])
    del families.all_families()[EXAMPLE.stem]


def test_its_template(mine, tiny_omni):
    """Its system message, its boxes, the sound of clips; also after options have been changed."""
    template = mine.make_template(tiny_omni / "model")
    record = {
        "messages": [{"role": "user", "content": "<video>\n<image>Find the <ref-object>."},
                     {"role": "assistant", "content": "<bbox>"}],
        "videos": [str(tiny_omni / "clip.mp4")], "images": [str(tiny_omni / "image.png")],
        "objects": {"ref": ["dog"], "bbox": [[0, 0, 42, 56]]},
    }  # fmt: skip
    for each in (template, template.with_options(fps=1.0)):
        sample = each.sample(parse_record(record, "a"))
        text = each.tokenizer.decode(sample.input_ids)
        assert "You watch clips and say what happens, and when.<|im_end|>" in text
        assert "<ref>dog</ref>" in text and "<box>(0,0),(500,999)</box>" in text and "<|AUDIO|>" in text
    theirs = families.get("qwen2_5_omni").make_template(tiny_omni / "model")
    text = theirs.tokenizer.decode(theirs.sample(parse_record(record, "a")).input_ids)
    assert "You are a helpful assistant." in text and "<box>" not in text and "<|AUDIO|>" not in text


@pytest.mark.parametrize("name, group", [
    ("model.layers.0.self_attn.q_proj.weight", "language_model"), ("lm_head.weight", "language_model"),
    ("thinker.visual.merger.mlp.0.weight", "aligner"), ("audio_tower.proj.weight", "aligner"),
    ("visual.blocks.0.attn.q.weight", "vision_tower"), ("talker.model.norm.weight", "generator"),
])  # fmt: skip
def test_its_groups_are_those_of_the_family(mine, name, group):
    assert mine.group_of(name) == families.get("qwen2_5_omni").group_of(name) == group


def test_it_is_found_by_its_name_alone(mine):
    assert families.for_config({"model_type": "qwen2_5_omni", "thinker_config": {}}, "x").name == "qwen2_5_omni"
    assert families.for_config({}, "x", "my_qwen2_5_omni") == mine

"""Write golden/qwen2_5_omni_{3b,7b}_shapes.json: names and shapes of the released thinkers, as transformers builds them.

    python tests/convert/make_omni_shapes.py

Nothing is allocated (torch's meta device). A file has the names of a whole Omni, a layer said once: ``*`` stands for the
numbers below what ``layers`` says.
"""

import json
import re
from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden"
_TEXT = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip
_EXPECTED = {"3b": (1442, 4_703_464_448), "7b": (1346, 8_931_813_888)}
_NUMBER = re.compile(r"(?<=\.(?:layers|blocks)\.)\d+(?=\.)", re.ASCII)


def config(size: str) -> dict:
    """The released thinker_config, as far as it decides names and shapes."""
    text = _TEXT[size]
    width = text["hidden_size"]
    return {
        "text_config": {**text, "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default"}},
        "vision_config": {"hidden_size": 1280, "out_hidden_size": width},
        "audio_config": {"output_dim": width},
    }


def main() -> None:
    for size, (count, numbers) in _EXPECTED.items():
        with torch.device("meta"):
            model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config(size)))
        tensors = {f"thinker.{name}": list(values.shape) for name, values in model.state_dict().items()}
        assert len(tensors) == count and sum(values.numel() for values in model.state_dict().values()) == numbers
        content = {"thinker_config": config(size), **_compressed(tensors)}
        (GOLDEN / f"qwen2_5_omni_{size}_shapes.json").write_text(json.dumps(content, indent=1) + "\n")


def _compressed(tensors: dict[str, list[int]]) -> dict:
    layers: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for name, shape in tensors.items():
        template = _NUMBER.sub("*", name)
        assert shapes.setdefault(template, shape) == shape, name
        if found := _NUMBER.search(name):
            module = template.partition("*")[0] + "*"
            layers[module] = max(layers.get(module, 0), int(found[0]) + 1)
    return {"layers": layers, "shapes": shapes}


if __name__ == "__main__":
    main()

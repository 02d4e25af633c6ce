"""Write golden/qwen2_5_omni_{3b,7b}_shapes.json: names and shapes of the released thinkers, as transformers builds them.

    python tests/convert/make_omni_shapes.py

Nothing is allocated (torch's meta device). The names are those in the checkpoint of a whole Omni.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[1]))
from released_shapes import GOLDEN, compressed

_TEXT = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip
_EXPECTED = {"3b": (1442, 4_703_464_448), "7b": (1346, 8_931_813_888)}


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
        content = {"config": {"model_type": "qwen2_5_omni", "thinker_config": config(size)}, **compressed(tensors)}
        (GOLDEN / f"qwen2_5_omni_{size}_shapes.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

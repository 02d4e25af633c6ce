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

CONFIGS = Path(__file__).parents[2] / "configs/qwen2_5_omni"
_EXPECTED = {"3b": (1442, 4_703_464_448), "7b": (1346, 8_931_813_888)}


def main() -> None:
    for size, (count, numbers) in _EXPECTED.items():
        config = Qwen2_5OmniThinkerConfig.from_pretrained(CONFIGS / f"qwen2_5_omni_{size}")
        with torch.device("meta"):
            model = Qwen2_5OmniThinkerForConditionalGeneration(config)
        tensors = {f"thinker.{name}": list(values.shape) for name, values in model.state_dict().items()}
        assert len(tensors) == count and sum(values.numel() for values in model.state_dict().values()) == numbers
        (GOLDEN / f"qwen2_5_omni_{size}_shapes.json").write_text(json.dumps(compressed(tensors), indent=1) + "\n")


if __name__ == "__main__":
    main()

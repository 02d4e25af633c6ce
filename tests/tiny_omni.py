"""A Qwen2.5-Omni of a few thousand parameters with files of its own: a vocabulary of 300 ranks, and clips beside it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_checkpoint import around_one, first_ranks, write_checkpoint

from ms_impl import families

sys.path.append(str(Path(__file__).parent / "media"))
from clips import RATE, tone, write_clip

GOLDEN = Path(__file__).parent / "golden/qwen2_5_omni_tiny"
RANKS = 300
SECONDS, EVENT = 4, 3.0  # of the clips, and of what happens in them


def tiny_omni_config(ranks: int = RANKS) -> dict[str, Any]:
    """The golden thinker's config.json with the special ids after a vocabulary of ``ranks``, and one layer of each."""
    from ms_impl.qwen2_5_omni.tokenizer import CONFIG_TOKENS, SPECIAL_TOKENS

    raw = json.loads((GOLDEN / "config.json").read_text())
    places = {token: ranks + number for number, token in enumerate(SPECIAL_TOKENS)}
    raw |= {key: places[token] for key, token in CONFIG_TOKENS.items()}
    raw["text_config"] |= {"vocab_size": 384, "num_hidden_layers": 1}
    raw["audio_config"] |= {"encoder_layers": 1, "num_hidden_layers": 1}
    raw["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    return raw


@pytest.fixture(scope="session")
def tiny_omni(tmp_path_factory, vocabulary_file) -> Path:
    """A directory ``model`` with random weights, clip.mp4 with sound, silent.mp4, sound.wav and image.png."""
    root = tmp_path_factory.mktemp("omni")
    write_checkpoint(
        root / "model", families.get("qwen2_5_omni"), tiny_omni_config(), around_one("norm", 0.2),
        generation_config__json={"eos_token_id": [RANKS + 2, RANKS]},
        preprocessor_config__json={"feature_size": 32, "min_pixels": 3136, "max_pixels": 12845056},
        qwen__tiktoken=first_ranks(vocabulary_file, RANKS),
    )  # fmt: skip
    write_clip(root / "clip.mp4", frames=10 * SECONDS, rate=10, size=(56, 84), event=EVENT)
    write_clip(root / "silent.mp4", frames=20, rate=10, size=(56, 84), sound=False)
    soundfile.write(root / "sound.wav", tone(1.5, 1.0), RATE)
    pixels = np.random.default_rng(1).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "image.png")
    return root

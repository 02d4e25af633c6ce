"""A small Qwen2.5-Omni with random weights, in Hugging Face's layout: what the shipped model's training begins with.

    python scripts/small_models/make_omni_small.py --output_path build/fresh

writes a thinker that stands alone: the files of ``configs/qwen2_5_omni/small``, a vocabulary of its own (byte-pair
merges of the texts that ``omni_data.py`` asks and answers with, and Qwen2.5-Omni's special tokens), and
model.safetensors.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import easy_vqa
import numpy as np
from making import maker
from omni_data import COLOUR_REQUEST, TONE_REQUEST, WORD_REQUEST, WORDS
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from convert.qwen2_5_omni import WEIGHTS
from ms_impl.cli.main import command
from ms_impl.data.bpe import WORDS as WORD_PATTERN
from ms_impl.data.chatml import ASSISTANT, SYSTEM, SYSTEM_MESSAGE, USER
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import FORMATS
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.tokenizer import END_OF_TEXT, MESSAGE_END, SPECIAL_TOKENS

CONFIGURATION = Path(__file__).resolve().parents[2] / "configs/qwen2_5_omni/small"

EMBEDDING_SCALE = 0.5
ROTARY_BIAS = 1.0  # of queries and keys: heads see the distance of tokens before they know what tokens are
RESIDUAL_OUTPUTS = (
    "*.o_proj.weight", "*.down_proj.weight", "*.out_proj.weight", "*.fc2.weight", "*.attn.proj.weight",
)  # they add to the stream, twice a layer  # fmt: skip


def texts() -> Iterable[str]:
    """What the vocabulary is made of; a text counts as often as it is there."""
    questions, answers, _ = easy_vqa.get_train_questions()
    yield from dict.fromkeys(questions)
    yield from easy_vqa.get_answers()
    yield from (*WORDS, WORD_REQUEST, COLOUR_REQUEST, TONE_REQUEST)
    yield from [SYSTEM_MESSAGE, f"{SYSTEM}\n", f"{USER}\n", f"{ASSISTANT}\n"] * 20


def write_vocabulary(directory: Path, size: int) -> None:
    """vocab.json, merges.txt and tokenizer_config.json: ``size`` tokens, and the special ones behind them."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    if (found := tokenizer.get_vocab_size()) != size:
        raise ValueError(f"the texts give {found} tokens, the configuration has {size}")
    tokenizer.model.save(str(directory))
    added = {
        str(size + number): {"content": token, "special": control, "lstrip": False, "rstrip": False,
                             "normalized": False, "single_word": False}
        for number, (token, control) in enumerate(SPECIAL_TOKENS.items())
    }  # fmt: skip
    told = {"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer", "eos_token": MESSAGE_END,
            "pad_token": END_OF_TEXT, "model_max_length": 8192}  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def initial(name: str, shape: tuple[int, ...], layers: int, chance: np.random.Generator) -> np.ndarray:
    """The first value of one tensor, float32, by its Hugging Face name. ``layers`` is how many share its stream."""
    if name.startswith("model.") and name.endswith(("q_proj.bias", "k_proj.bias")):
        return chance.normal(0, ROTARY_BIAS, shape).astype(np.float32)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    if "embed_tokens" in name or "bos_eos" in name:
        return chance.normal(0, EMBEDDING_SCALE, shape).astype(np.float32)
    scale = math.prod(shape[1:]) ** -0.5
    if any(fnmatchcase(name, pattern) for pattern in RESIDUAL_OUTPUTS):
        scale /= math.sqrt(2 * layers)
    return chance.normal(0, scale, shape).astype(np.float32)


def initial_weights(config: Qwen2_5OmniConfig, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the model by Hugging Face's name, float32."""
    chance = np.random.default_rng(seed)
    layers = {"audio_tower": config.audio_config.encoder_layers, "visual": config.vision_config.depth}
    return {
        name: initial(name, shape, layers.get(name.split(".")[0], config.text_config.num_hidden_layers), chance)
        for name, shape in sorted(WEIGHTS.shapes(config, HUGGING_FACE).items())
    }


def make(output: Path, configuration: Path, seed: int) -> int:
    """Write the checkpoint directory; returns its number of parameters. Equal arguments give equal files."""
    config = Qwen2_5OmniConfig.from_file(configuration)
    weights = initial_weights(config, seed)
    with atomic_write(output) as folder:
        folder.mkdir(parents=True)
        for file in sorted(configuration.glob("*.json")):
            shutil.copy(file, folder / file.name)
        write_vocabulary(folder, config.vocab_size - len(SPECIAL_TOKENS))
        save_file(weights, folder / "model.safetensors", {"format": FORMATS[HUGGING_FACE]})
    return sum(values.size for values in weights.values())


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("A small Qwen2.5-Omni with random weights")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help="directory of config.json")
    options = parser.parse_args(arguments)
    count = make(options.output_path, options.config, options.seed)
    print(f"{options.output_path}: {count:,} parameters, drawn at random")
    return 0


if __name__ == "__main__":
    sys.exit(main())

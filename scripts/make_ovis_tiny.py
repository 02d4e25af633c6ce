"""A small Ovis2.5 with random weights, in Hugging Face's layout: what the shipped model's training begins with.

    python scripts/make_ovis_tiny.py --output_path build/fresh

writes the configuration files, vocab.json, merges.txt, tokenizer_config.json and model.safetensors. The vocabulary is
learnt from what the small model is asked and answers (easy-VQA's questions, scripts/ovis_data.py's chains of thought,
the text that ends a thinking), so that each word of it is one token.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import easy_vqa
import numpy as np
from make_tiny import sine_positions
from ovis_data import BOX_REQUEST, KINDS, count_question, scene_shapes, thought
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from convert.ovis2_5 import WEIGHTS
from ms_impl.cli.main import command
from ms_impl.data.bpe import WORDS, byte_characters
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import FORMATS
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.thinking import EARLY_STOP
from ms_impl.ovis2_5.tokenizer import SPECIAL_TOKENS

CONFIGURATION = Path(__file__).resolve().parents[1] / "configs/ovis2_5/tiny_easyvqa"
COPIED = ("config.json", "generation_config.json", "preprocessor_config.json")

WORD_SCALE = 0.1  # of the token embeddings, which are the head, too
SHARPNESS = 1.5  # of the visual head's scores: a visual token begins as a mixture of some 40 rows of the table
RESIDUAL_OUTPUTS = ("*.o_proj.weight", "*.out_proj.weight", "*.down_proj.weight", "*.fc2.weight")


def initial(name: str, shape: tuple[int, ...], layers: int, chance: np.random.Generator) -> np.ndarray:
    """The first value of one tensor, float32, by its name. ``layers`` is how many share its stream."""
    if name.endswith("position_embedding.weight"):
        return sine_positions(*shape)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.full(shape, SHARPNESS if name == "visual_tokenizer.head.1.weight" else 1, np.float32)
    scale = {"vte.weight": 1.0, "llm.model.embed_tokens.weight": WORD_SCALE}.get(name, math.prod(shape[1:]) ** -0.5)
    if any(fnmatchcase(name, pattern) for pattern in RESIDUAL_OUTPUTS):
        scale /= math.sqrt(2 * layers)
    return chance.normal(0, scale, shape).astype(np.float32)


def initial_weights(config: Ovis2_5Config, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the model by Hugging Face's name, float32."""
    chance = np.random.default_rng(seed)
    layers = {True: config.vit_config.num_hidden_layers, False: config.llm_config.num_hidden_layers}
    return {
        name: initial(name, shape, layers[name.startswith("visual_tokenizer")], chance)
        for name, shape in sorted(WEIGHTS.shapes(config, HUGGING_FACE).items())
    }


def texts(chance: random.Random) -> Iterator[str]:
    """What the small model reads and writes."""
    yield from easy_vqa.get_train_questions()[0][::4]
    for number in range(4000):
        shapes = scene_shapes(chance)
        chain, answer = thought(shapes, shapes[0].colour)
        yield f"{count_question(shapes[0].colour)}\n{chain}\n\n{answer}"
        request = BOX_REQUEST.format(kind=chance.choice(KINDS))
        yield f"{request} <ref>the {shapes[0].colour} shape</ref><box>(0.1),(0.2)</box>"
        if number % 4 == 0:
            yield f"user\nassistant\nsystem\nyes no{EARLY_STOP}" + ", ".join(easy_vqa.get_answers())


def vocabulary(size: int, seed: int) -> Tokenizer:
    """Byte pairs learnt from ``texts``: ``size`` tokens. Raises InputError if the texts do not give so many."""
    learnt = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learnt.pre_tokenizer = pre_tokenizers.Sequence([cut, whole])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(byte_characters()), show_progress=False)
    learnt.train_from_iterator(texts(random.Random(seed)), trainer)
    if learnt.get_vocab_size() != size:
        raise InputError(f"the texts give {learnt.get_vocab_size()} tokens, not {size}; lower llm_config.vocab_size")
    return learnt


def tokenizer_config(first: int) -> dict:
    """tokenizer_config.json for special tokens from the id ``first`` on."""
    added = {
        str(number): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": control}
        for number, (token, control) in enumerate(SPECIAL_TOKENS.items(), start=first)
    }  # fmt: skip
    return {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "unk_token": None, "added_tokens_decoder": added}  # fmt: skip


def make(output: Path, configuration: Path, seed: int) -> int:
    """Write the checkpoint directory; returns its number of parameters. Equal arguments give equal files."""
    config = Ovis2_5Config.from_file(configuration)
    weights = initial_weights(config, seed)
    words = config.vocab_size - len(SPECIAL_TOKENS)
    learnt = vocabulary(words, seed)
    with atomic_write(output) as folder:
        folder.mkdir(parents=True)
        for name in COPIED:
            (folder / name).write_bytes((configuration / name).read_bytes())
        learnt.model.save(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(words), indent=1) + "\n")
        save_file(weights, folder / "model.safetensors", {"format": FORMATS[HUGGING_FACE]})
    return sum(values.size for values in weights.values())


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="A small Ovis2.5 with random weights")
    parser.add_argument("--output_path", type=Path, required=True, help="directory to make")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help="directory of config.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    count = make(options.output_path, options.config, options.seed)
    print(f"{options.output_path}: {count:,} parameters, drawn at random")
    return 0


if __name__ == "__main__":
    sys.exit(main())

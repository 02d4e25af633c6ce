"""The vocabulary of the small Ovis, in Hugging Face's files.

    python scripts/small_models/ovis_vocabulary.py --output_path build/vocabulary

Byte pairs are learnt from what the small model reads and writes (easy-VQA's questions, ovis_data.py's chains of
thought, the text that ends a thinking), so that each of its words is one token. Ovis's special tokens follow.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

import easy_vqa
from making import maker
from ovis_data import BOX_REQUEST, KINDS, PLACES, count_question, scene_shapes
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from ms_impl.cli.main import command
from ms_impl.data.bpe import WORDS, byte_characters
from ms_impl.data.vocabulary_files import vocabulary_files
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.ovis2_5.thinking import EARLY_STOP
from ms_impl.ovis2_5.tokenizer import SPECIAL_TOKENS

SCENES = 4000


def texts(chance: random.Random) -> Iterator[str]:
    """What the small model reads and writes."""
    yield from easy_vqa.get_train_questions()[0][::4]
    for number in range(SCENES):
        shapes = scene_shapes(chance)
        counts = [sum(each.colour == shapes[0].colour for each in shapes[: end + 1]) for end in range(len(shapes))]
        seen = [f"{PLACES[shape.place]}: {shape.colour} {shape.kind}, {n}" for shape, n in zip(shapes, counts)]
        yield "\n".join([count_question(shapes[0].colour), *seen, "", str(counts[-1])])
        request = BOX_REQUEST.format(kind=chance.choice(KINDS))
        yield f"{request} <ref>the {shapes[0].colour} shape</ref><box>(0.1),(0.2)</box>"
        if number % 4 == 0:
            yield f"user\nassistant\nsystem\nyes no{EARLY_STOP}" + ", ".join(easy_vqa.get_answers())


def ranks(size: int, seed: int) -> dict[bytes, int]:
    """``size`` tokens learnt from ``texts``, by rank. Raises InputError if the texts do not give so many."""
    learnt = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learnt.pre_tokenizer = pre_tokenizers.Sequence([cut, whole])
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(byte_characters()), show_progress=False)
    learnt.train_from_iterator(texts(random.Random(seed)), trainer)
    if learnt.get_vocab_size() != size:
        raise InputError(f"the texts give {learnt.get_vocab_size()} tokens, not {size}")
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    in_order = sorted(learnt.get_vocab().items(), key=lambda token: token[1])
    return {bytes(byte_of[character] for character in token): rank for token, rank in in_order}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("The vocabulary of the small Ovis")
    parser.add_argument("--size", type=int, default=480, help="tokens, the special ones among them")
    options = parser.parse_args(arguments)
    learnt = ranks(options.size - len(SPECIAL_TOKENS), options.seed)
    told = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    options.output_path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output_path) as folder:
        folder.mkdir()
        for name, content in vocabulary_files(learnt, SPECIAL_TOKENS, **told).items():
            (folder / name).write_bytes(content)
    print(f"{options.output_path}: {options.size:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())

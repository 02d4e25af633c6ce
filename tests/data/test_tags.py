"""The mark-up of images is read in one way, by the tokenizer and by all who ask for a text's images before it."""

import unicodedata

import numpy as np
import pytest

from ms_impl.data.tags import image_tag, inline_paths
from ms_impl.errors import InputError

NFD = unicodedata.normalize("NFD", "café.png")
TEXTS = [
    "What?",
    "<img>a.png</img>",
    f"<img>{NFD}</img>",
    "<img>100%25 of it.png</img><img> a b .png </img>",
    "<ref><img>a</img></ref>",
    "<img>a</img></img>",
    "</img><img>a\nb</img>",
    "<box><img>a</box></img>",
    image_tag("狗 🐶.png", 3) + "What?",
]


@pytest.mark.parametrize("text", TEXTS)
def test_paths_are_those_in_the_tokens(tokenizer, text):
    assert inline_paths(text) == [image.path for image in tokenizer.find_images(tokenizer.encode_message(text))]


def test_random_mark_up_is_read_as_the_tokenizer_reads_it(tokenizer):
    rng = np.random.default_rng(0)
    pieces = ["<img>", "</img>", "<ref>", "</ref>", "<box>", "</box>", "e\u0301", "%20", " ", "a.png", "\n", "狗"]
    read = 0
    for _ in range(2000):
        text = "".join(rng.choice(pieces, rng.integers(1, 9)))
        try:
            expected = [image.path for image in tokenizer.find_images(tokenizer.encode_message(text))]
        except InputError:
            with pytest.raises(InputError):
                inline_paths(text)
        else:
            read += bool(expected)
            assert inline_paths(text) == expected
    assert read > 50

"""Tokens decoded one after another give the text that they give together, at a cost that does not grow."""

import time

import numpy as np
import pytest


def streamed(tokenizer, tokens) -> list[str]:
    stream = tokenizer.detokenizer()
    return [*(stream.add(token) for token in tokens), stream.finish()]


def random_tokens(tokenizer, random: np.random.Generator) -> list[int]:
    """Whole images, images broken somewhere, special tokens, single bytes, ids that no token has, text."""
    image = tokenizer.encode("<img>bilder/é.png</img>")
    parts = {
        "image": lambda: image,
        "broken": lambda: image[: random.integers(1, len(image))],
        "wrong": lambda: [*image[: (at := random.integers(1, len(image)))], int(random.integers(152000)), *image[at + 1 :]],
        "padding": lambda: [image[0], *[tokenizer.image_pad_id] * 256, image[-1]],
        "full": lambda: tokenizer.encode(f"<img>{'p' * 256}</img>"),
        "special": lambda: random.integers(tokenizer.eod_id, tokenizer.vocab_size + 3, 3).tolist(),
        "bytes": lambda: random.integers(0, 256, 5).tolist(),
        "text": lambda: tokenizer.encode_text("图中 🐕 <ref>𒀀</ref>\n"),
    }  # fmt: skip
    kinds = random.choice(list(parts), random.integers(0, 6))
    return [token for kind in kinds for token in parts[kind]()]


def test_joined_texts_are_the_decoded_answer(tokenizer):
    random = np.random.default_rng(0)
    for _ in range(300):
        tokens = random_tokens(tokenizer, random)
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens), tokens


def test_decoding_equals_one_read_of_all_bytes(tokenizer):
    """Against a second way to read slots: the image replaced in the whole sequence."""
    ids = tokenizer.encode("a<img>b/é.png</img>c")
    path = "b/é.png".encode()
    at = ids.index(tokenizer.image_start_id)
    plain = [*ids[: at + 1], *tokenizer.encode_text("b/é.png"), *ids[at + 1 + tokenizer.num_queries :]]
    assert tokenizer.decode(ids) == tokenizer.decode(plain) == "a<img>b/é.png</img>c"
    assert bytes(ids[at + 1 : at + 1 + len(path)]) == path


def test_an_image_comes_when_it_is_closed(tokenizer):
    tokens = tokenizer.encode("see <img>a.png</img>!")
    texts = streamed(tokenizer, tokens)
    start = tokens.index(tokenizer.image_start_id)
    assert texts[start : start + 257] == [""] * 257
    assert texts[start + 257] == "<img>a.png</img>"


def test_a_tag_that_opens_no_image_is_held_no_longer_than_that_is_unclear(tokenizer):
    tokens = [tokenizer.image_start_id, *tokenizer.encode_text(" tags are special")]
    assert streamed(tokenizer, tokens)[:2] == ["", "<img> tags"]


@pytest.mark.parametrize("kind", ["text", "unknown", "opened"])
def test_a_token_costs_the_same_late_as_early(tokenizer, kind):
    token = {"text": 872, "unknown": -1, "opened": tokenizer.image_start_id}[kind]

    def seconds(count: int) -> float:
        begun = time.perf_counter()
        streamed(tokenizer, [token] * count)
        return time.perf_counter() - begun

    seconds(1000)
    assert seconds(40_000) < 1.5

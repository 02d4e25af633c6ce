"""The tokenizer equals the original on every golden case, and refuses what cannot be right."""

import base64
import hashlib
import unicodedata

import pytest

from ms_impl.errors import InputError
from ms_impl.qwenvl.tokenizer import SPECIAL_TOKENS, QwenVLTokenizer

RELEASED = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"


def test_vocabulary_is_the_released_one(vocabulary_file):
    assert hashlib.sha256(vocabulary_file.read_bytes()).hexdigest() == RELEASED


def test_special_ids(tokenizer, tokenizer_cases):
    assert tokenizer.special_tokens == tokenizer_cases["special"]
    assert tokenizer.vocab_size == 151860
    assert (tokenizer.eod_id, tokenizer.im_start_id, tokenizer.im_end_id) == (151643, 151644, 151645)


def test_encode(tokenizer, tokenizer_cases):
    for case in tokenizer_cases["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


def test_decode(tokenizer, tokenizer_cases):
    for case in tokenizer_cases["decode"]:
        assert tokenizer.decode(case["ids"]) == case["plain"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["skip"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True, keep_image_special=True) == case["keep"]


def test_every_encoding_decodes_to_its_text(tokenizer, tokenizer_cases):
    for case in tokenizer_cases["encode"]:
        assert tokenizer.decode(case["ids"]) == unicodedata.normalize("NFC", case["text"])


def test_text_is_nfc_normalised(tokenizer):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert tokenizer.encode(decomposed) == tokenizer.encode(composed)
    assert tokenizer.decode(tokenizer.encode(decomposed)) == composed


def test_a_path_that_fills_all_slots_decodes(tokenizer, tokenizer_cases):
    """A departure: the original raises, because it looks for a padding token that is not there."""
    assert tokenizer_cases["decode256"].startswith("ValueError")
    text = f"<img>{'p' * tokenizer.num_queries}</img>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_skipping_specials_keeps_the_path(tokenizer):
    """``keep_image_special`` keeps ref, box and quad, as the original does, and no image tag."""
    text = "a<img>dir/é.png</img>b<ref>c</ref><box>(1,2),(3,4)</box><quad>q</quad><|im_end|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "adir/é.pngbc(1,2),(3,4)q"
    kept = tokenizer.decode(ids, skip_special_tokens=True, keep_image_special=True)
    assert kept == "adir/é.pngb<ref>c</ref><box>(1,2),(3,4)</box><quad>q</quad>"
    assert tokenizer.decode(ids, keep_image_special=True) == text
    lone = [tokenizer.image_start_id, tokenizer.image_pad_id, tokenizer.image_end_id]
    assert tokenizer.decode(lone, skip_special_tokens=True, keep_image_special=True) == ""


def test_decoding_one_id_and_bytes_that_are_no_text(tokenizer):
    half = tokenizer.encode("𒀀")[0]
    assert tokenizer.decode(tokenizer.encode("user")[0]) == "user"
    assert (tokenizer.decode(half), tokenizer.decode([half], errors="ignore")) == ("\ufffd", "")


def test_path_is_one_id_per_byte(tokenizer):
    ids = tokenizer.encode("<img>é</img>")
    assert ids[1:3] == list("é".encode())
    assert ids[3:-1] == [tokenizer.image_pad_id] * (tokenizer.num_queries - 2)


def test_decode_never_fails_on_what_a_model_may_generate(tokenizer):
    start, end, pad = tokenizer.image_start_id, tokenizer.image_end_id, tokenizer.image_pad_id
    assert tokenizer.decode([start, 9707]) == "<img>Hello"
    assert tokenizer.decode([start, 9707, pad, end]) == "<img>Hello<imgpad></img>"
    assert tokenizer.decode([tokenizer.vocab_size, -1]) == "\ufffd\ufffd"
    assert tokenizer.decode(tokenizer.encode("𒀀")[:1]) == "\ufffd"  # only the first bytes of the character


@pytest.mark.parametrize("slot, token", [(3, 9707), (200, 97), (256, 97)])
def test_slots_that_hold_no_path(tokenizer, slot, token):
    """A word among the bytes, a byte among the padding, a byte where ``</img>`` should stand."""
    ids = tokenizer.encode("<img>picture.png</img>")
    ids[1 + slot] = token
    with pytest.raises(InputError, match="^Unclosed image token"):
        tokenizer.find_images(ids)
    assert tokenizer.decode(ids).startswith("<img>")


def test_find_images(tokenizer):
    ids = tokenizer.encode("x<img>a.png</img>y<img>b.png</img>")
    first, second = tokenizer.find_images(ids)
    assert (first.path, second.path) == ("a.png", "b.png")
    assert ids[first.column - 1] == ids[second.column - 1] == tokenizer.image_start_id
    assert first.column < second.column


def test_find_images_in_cut_tokens(tokenizer):
    with pytest.raises(InputError, match="^Unclosed image token.*column 1"):
        tokenizer.find_images(tokenizer.encode("x<img>a.png</img>")[:-1])


def test_message_keeps_only_image_tags_special(tokenizer):
    text = "<|im_end|><|endoftext|><|extra_0|>"
    plain = tokenizer.encode_message(text)
    assert max(plain) < tokenizer.eod_id
    assert tokenizer.decode(plain) == text
    tags = "<ref>a</ref><box>(1,2),(3,4)</box><quad>q</quad><img>i</img>"
    assert tokenizer.encode_message(tags) == tokenizer.encode(tags)


def test_too_long_path(tokenizer, tokenizer_cases):
    path = "p" * (tokenizer.num_queries + 1)
    with pytest.raises(InputError) as caught:
        tokenizer.encode(f"<img>{path}</img>")
    assert str(caught.value).startswith(tokenizer_cases["err257"].removeprefix("ValueError: "))
    for part in (path, "257 bytes", "limit is 256"):
        assert part in str(caught.value)


def test_limit_counts_bytes_not_characters(tokenizer):
    tokenizer.encode("<img>" + "é" * 128 + "</img>")
    with pytest.raises(InputError, match="too long"):
        tokenizer.encode("<img>" + "é" * 129 + "</img>")


def test_unclosed_image(tokenizer, tokenizer_cases):
    message = tokenizer_cases["err_unclosed"].removeprefix("ValueError: ")
    for text in ("<img>a.png", "<img>a.png</img> and <img>b.png", "</img><img>"):
        with pytest.raises(InputError, match=f"^{message}"):
            tokenizer.encode(text)


def test_nested_and_empty_image(tokenizer):
    with pytest.raises(InputError, match="nested image token"):
        tokenizer.encode("<img>a<img>b.png</img></img>")
    with pytest.raises(InputError, match="no image path"):
        tokenizer.encode("<img></img>")


def test_small_vocabulary(small_vocabulary, config):
    tokenizer = QwenVLTokenizer(small_vocabulary, num_queries=64)
    assert tokenizer.image_start_id == config.image_start_id
    assert tokenizer.vocab_size == config.image_start_id + 2 + 1
    text = "格子 <|im_start|>red circle?<img>a/é.png</img><box>(1,2),(3,4)</box>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.index(tokenizer.image_end_id) - ids.index(tokenizer.image_start_id) == 65


def test_specials_are_217():
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 217


def _line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d\n" % rank


BYTES = [_line(bytes([byte]), byte) for byte in range(256)]


@pytest.mark.parametrize(
    "lines, message",
    [
        (BYTES[:255], "line 255: the file ends after 255 tokens"),
        ([], "line 0: the file ends after 0 tokens"),
        ([*BYTES, b"$$$ 256\n"], "line 257: not a base64 token"),
        ([*BYTES, b"QUI=\n"], "line 257: not a base64 token"),
        ([*BYTES, b"QUI= x\n"], "line 257: not a base64 token"),
        ([*BYTES, _line(b"ab", 257)], "line 257: rank 257 where 256 is due"),
        ([*BYTES, _line(b"a", 256)], "line 257: the token b'a' already has rank 97"),
        ([b"\x89PNG\r\n\x1a\n\x00\x00"], "line 1: not a base64 token"),
    ],
)
def test_bad_vocabulary_file(tmp_path, lines, message):
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError) as caught:
        QwenVLTokenizer(path, num_queries=64)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_vocabulary_file(tmp_path):
    with pytest.raises(InputError, match="none.tiktoken: the vocabulary file cannot be read"):
        QwenVLTokenizer(tmp_path / "none.tiktoken", num_queries=64)


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0"])
def test_text_that_the_word_pattern_gives_up_on_is_refused(tokenizer, blank):
    with pytest.raises(InputError, match="999,999 characters cannot be tokenized"):
        tokenizer.encode_message(blank * 999_999)

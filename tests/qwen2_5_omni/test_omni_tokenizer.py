"""The tokenizer from each kind of file equals the original on every case, and on texts that are hard to cut."""

import json
import pickle
import random

import pytest
from omni_vocabulary import original

from ms_impl.data.bpe import BytePairs
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.tokenizer import SPECIAL_TOKENS, Qwen2_5OmniTokenizer

KINDS = ("ranks", "merges", "json")
HARD = [
    "", " ", "\n\n  \n", "It's 1234567890 o'CLOCK", "cafe\u0301 e\u0301", "\u1e9b\u0323", "한국어 텍스트", "请描述这段视频。",
    "👩‍👩‍👧‍👦 emoji 🇨🇭", "tab\tand\rreturn\r\n", "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>hi<|im_end|>\n",
    "<|box_start|>(1,2)<|box_end|>", "<|im_end", "<tool_call>{}</tool_call>", "a<|im_end|><|im_end|>b", "\x00\x01\x7f",
    "  leading and trailing  ", "ﬁ ligature ① ｶﾞ", "x" * 3000, "<|quad_start|><|quad_end|><|object_ref_start|>",
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, vocabularies):
    return Qwen2_5OmniTokenizer.from_pretrained(vocabularies[request.param])


@pytest.fixture(scope="module")
def hugging_face(vocabularies):
    return original(vocabularies["json"])


def random_texts(number: int) -> list[str]:
    generator = random.Random(0)
    alphabet = "ab Z0\n\t'.,<|>é\u0301汉字𝄞\u200d\u00a0_-" + "".join(chr(c) for c in range(0x300, 0x310))
    pieces = [*alphabet, *SPECIAL_TOKENS, "<|im_", "end|>"]
    return ["".join(generator.choices(pieces, k=generator.randint(1, 40))) for _ in range(number)]


def test_special_ids(tokenizer, cases):
    assert tokenizer.special_tokens == cases["special_ids"]


def test_chat_ids(tokenizer, cases):
    for case in cases["chat"]:
        assert tokenizer.encode(case["text"]) == case["input_ids"], case["name"]


def test_hard_texts_are_cut_as_the_original_cuts_them(tokenizer, hugging_face):
    for text in [*HARD, *random_texts(300)]:
        expected = hugging_face(text)["input_ids"]
        assert tokenizer.encode(text) == expected, repr(text)
        decoded = hugging_face.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(expected, skip_special_tokens=True) == decoded


def test_without_special_tokens_they_are_letters(tokenizer):
    ids = tokenizer.encode_text("<|im_end|>")
    assert tokenizer.im_end_id not in ids and tokenizer.decode(ids) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [tokenizer.im_end_id]
    assert tokenizer.im_end_id not in tokenizer.encode("<|box_start|>")


def test_a_growing_answer_is_the_decoded_whole(tokenizer):
    ids = tokenizer.encode("".join(HARD)) + [10**6, 151700]
    detokenizer = tokenizer.detokenizer()
    assert "".join([*map(detokenizer.add, ids), detokenizer.finish()]) == tokenizer.decode(ids)
    half = tokenizer.encode("𒀀")[:1]
    detokenizer = tokenizer.detokenizer()
    assert (detokenizer.add(half[0]), detokenizer.finish()) == ("", "\ufffd")


def test_half_surrogate_pairs_are_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_it_is_picklable(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(HARD[10]) == tokenizer.encode(HARD[10]) and again.decode(again.encode("é")) == "é"


def test_a_configuration_of_other_ids_is_refused(omni_tokenizer, cases):
    from types import SimpleNamespace

    from ms_impl.qwen2_5_omni.tokenizer import CONFIG_TOKENS

    ids = {key: cases["special_ids"][token] for key, token in CONFIG_TOKENS.items()}
    omni_tokenizer.check(SimpleNamespace(**ids, vocab_size=152064))
    with pytest.raises(InputError, match=r"its <\|VIDEO\|> has id 151656, .* says 7 \(video_token_index\)"):
        omni_tokenizer.check(SimpleNamespace(**{**ids, "video_token_index": 7}, vocab_size=152064))
    with pytest.raises(InputError, match="151,665 tokens, but the model embeds 320"):
        omni_tokenizer.check(SimpleNamespace(**ids, vocab_size=320))


def write(directory, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected tokenizer.json, vocab.json with merges.txt, or one"),
        ({"vocab__json": {"a": 0}, "merges__txt": ""}, "vocab.json: has no token for 255 of the 256 bytes"),
        ({"vocab__json": {"a": "0"}}, "vocab.json: the token 'a' must have a whole number"),
        ({"tokenizer__json": {"model": {"type": "Unigram"}}}, "tokenizer.json: 'model' must be a byte-pair encoding"),
        ({"tokenizer__json": {"model": {"type": "BPE"}}}, "tokenizer.json: 'added_tokens' must be a list"),
        (
            {"tokenizer__json": {"model": {"type": "BPE"}, "added_tokens": [{"id": "x"}]}},
            "an added token needs a whole number 'id'",
        ),
        (
            {"tokenizer__json": {"model": {"type": "BPE", "vocab": 3}, "added_tokens": []}},
            "tokenizer.json: not a tokenizer that can be read",
        ),
        ({"tokenizer__json": "{"}, "tokenizer.json: line 1: not JSON"),
    ],
)
def test_wrong_files_are_named(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(InputError, match=message):
        BytePairs.from_pretrained(tmp_path, SPECIAL_TOKENS)


def test_wrong_merges_are_named(tmp_path):
    from ms_impl.data.bpe import byte_characters

    vocabulary = {letter: number for number, letter in enumerate(byte_characters())}
    write(tmp_path, vocab__json={**vocabulary, "ab": 256}, merges__txt="#version: 0.2\na b\na c\n")
    with pytest.raises(InputError, match="merges.txt: line 3: not two tokens whose sum is one of vocab.json: 'a c'"):
        BytePairs.from_pretrained(tmp_path, SPECIAL_TOKENS)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(InputError, match="merges.txt: no such file"):
        BytePairs.from_pretrained(tmp_path, SPECIAL_TOKENS)
    write(tmp_path, merges__txt="a b\n", added_tokens__json={"<x>": 300})
    pairs = BytePairs.from_pretrained(tmp_path, SPECIAL_TOKENS)
    assert (pairs.special_tokens, pairs.vocab_size, pairs.encode("ab<x>")) == ({"<x>": 300}, 301, [256, 300])


def test_a_vocabulary_without_the_prompts_tokens_is_refused(tmp_path, vocabulary_file):
    pairs = BytePairs.from_ranks(vocabulary_file, {"<|endoftext|>": True})
    with pytest.raises(InputError, match=r"wrong vocabulary: it has no token <\|im_start\|>"):
        Qwen2_5OmniTokenizer(pairs)

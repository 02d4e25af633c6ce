"""What a check has found, as text for a terminal or a file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from ms_impl.data.check import Fault, Findings
from ms_impl.data.sample import Sample

NAMED = 3  # records that are named for each reason
BINS = 12  # at most, in the histogram
BAR = 40  # characters of its longest bar

_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"
_MARKS = "⟦", "⟧"
_CONTROL = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]")  # escape sequences in data must not reach a terminal


def table(findings: Findings) -> str:
    """Counts of records, tokens and images, one a line."""
    records, broken = len(findings.lengths), len(findings.faults)
    share = f"{findings.trained / max(findings.tokens, 1):.1%}"
    rows = [
        ("records", records, ""),
        ("tokens", findings.tokens, ""),
        ("trained", findings.trained, share),
        *((kind, count, "") for kind, count in findings.media.items()),
        *((kind, count, "") for kind, count in sorted(findings.changes.items())),
        *([("no token of an answer left", len(findings.unanswered), "")] if findings.unanswered else []),
        ("broken", broken, ""),
    ]
    width = max(len(name) for name, *_ in rows)
    return "\n".join(f"{name:<{width}} {count:>15,}  {note}".rstrip() for name, count, note in rows)


def reasons(faults: Sequence[Fault]) -> str:
    """The broken records by reason, the commonest first, each with the first errors."""
    by_reason = defaultdict(list)
    for fault in faults:
        by_reason[fault.reason].append(fault.message)
    lines = []
    for reason, messages in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(messages):,} × {reason}")
        lines += [f"    {message}" for message in messages[:NAMED]]
        if len(messages) > NAMED:
            lines.append(f"    … and {len(messages) - NAMED:,} more")
    return printable("\n".join(lines))


def unanswered(records: Sequence[str], max_length: int) -> str:
    """The records that are cut off before their first answer, the first few by name."""
    more = [f"    … and {len(records) - NAMED:,} more"] if len(records) > NAMED else []
    lines = [f"{len(records):,} × no token of an answer left within {max_length} tokens"]
    return printable("\n".join([*lines, *(f"    {record}" for record in records[:NAMED]), *more]))


def histogram(lengths: np.ndarray) -> str:
    """How many records have how many tokens: a bar for each range of lengths."""
    step = _round_up((int(lengths.max()) - int(lengths.min()) + 1) / (BINS - 1))
    ranges = (lengths - 1) // step
    counts = np.bincount(ranges - ranges.min())
    ends = [(int(ranges.min()) + place + 1) * step for place in range(len(counts))]
    width = len(f"{ends[-1]:,}")
    return "\n".join(
        f"{end - step + 1:>{width},} – {end:>{width},}  {_bar(count / counts.max())} {count:,}"
        for end, count in zip(ends, counts)
    )


def legend(coloured: bool) -> str:
    """What the marks of ``dialogue`` mean."""
    return (
        f"trained: {_GREEN}green{_PLAIN}" if coloured else f"trained: what stands between {_MARKS[0]} and {_MARKS[1]}"
    )


def dialogue(sample: Sample, decode: Callable[[Sequence[int]], str], coloured: bool) -> str:
    """A sample as text, alike tokens of a medium once; what is trained in green or, without colour, between ⟦ and ⟧."""
    begin, end = (_GREEN, _PLAIN) if coloured else _MARKS
    trained = sample.trained
    pieces = []
    for is_trained, group in groupby(sample.told_columns.tolist(), key=trained.__getitem__):
        text = printable(decode(sample.input_ids[list(group)].tolist()))
        pieces.append(f"{begin}{text}{end}" if is_trained else text)
    return f"{sample.record}: {len(trained):,} tokens, {trained.sum():,} trained\n{''.join(pieces)}"


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _round_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 …"""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if value <= step:
                return step
        scale *= 10


def _bar(share: float) -> str:
    """A bar in eighths of a character."""
    whole, eighths = divmod(round(share * BAR * 8), 8)
    return "█" * whole + ("", *"▏▎▍▌▋▊▉")[eighths]

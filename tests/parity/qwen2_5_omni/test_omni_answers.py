"""Greedy answers by the cache: the golden tokens, and cached = uncached (O20)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from omni_side import CachedSide, OmniSide
from omni_stages import ACTIVATION, check_logits
from omni_vectors import OmniVectors, Row

ANSWER = 16


@pytest.fixture(scope="module")
def cached(vectors, graph: OmniSide) -> CachedSide:
    return CachedSide(graph, vectors.sizes.columns + ANSWER)


def prompts(vectors: OmniVectors, case: str) -> tuple[list[Row], list[int]]:
    """The rows of a case without their padding, and the position of each one's first new token."""
    rows, deltas = vectors.case_rows(f"logits.{case}"), vectors[f"logits.{case}.rope_deltas"][:, 0]
    bare = [
        replace(row, ids=row.ids[row.real], positions=row.positions[:, row.real], segments=row.segments[row.real])
        for row in rows
    ]
    return bare, [len(row.ids) + int(delta) for row, delta in zip(rows, deltas)]


def single(vectors: OmniVectors) -> dict[str, tuple[Row, int]]:
    """The cases of one row, which are answered here as rows of one batch."""
    found = {case: prompts(vectors, case) for case in vectors.told["greedy"]}
    return {case: (rows[0], after[0]) for case, (rows, after) in found.items() if len(rows) == 1}


def in_batches(vectors: OmniVectors, cached: CachedSide, cases: dict) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [cases, ANSWER] and logits [ANSWER, cases, vocab], as many rows at once as a batch has."""
    tokens, logits, listed = [], [], list(cases.values())
    for start in range(0, len(listed), vectors.sizes.rows):
        rows, after = zip(*listed[start : start + vectors.sizes.rows])
        made = cached.greedy(rows, after, ANSWER)
        tokens.append(made[0])
        logits.append(made[1])
    return np.concatenate(tokens), np.concatenate(logits, 1)


def test_prompts_of_different_media_and_deltas_in_one_batch(vectors, cached, table, original):
    cases = single(vectors)
    tokens, logits = in_batches(vectors, cached, cases)
    for i, case in enumerate(cases):
        golden = vectors[f"greedy.{case}.tokens"]
        assert tokens[i][: len(golden)].tolist() == golden.tolist(), case
        side, wanted = cached.side.name, vectors[f"greedy.{case}.logits"]
        found = logits[: len(golden), i]
        check_logits(table, f"{side} / golden", "O20 cached decoding", found, wanted, ACTIVATION, 0.0)
        theirs = original.greedy(f"logits.{case}", len(golden))[1][:, 0]
        check_logits(table, f"{side} / original", "O20 cached decoding", found, theirs, ACTIVATION, 0.0)


def test_rows_of_different_deltas(vectors, cached):
    """The original pads them on the left; here each row has columns of its own."""
    for case, told in vectors.told["greedy"].items():
        rows, after = prompts(vectors, case)
        if len(rows) > 1:
            assert len(set(np.subtract(after, [len(row.ids) for row in rows]))) > 1
            golden = np.array(told["tokens"])
            assert cached.greedy(rows, after, golden.shape[1])[0].tolist() == golden.tolist()


def test_cached_is_uncached(vectors, graph, cached, table):
    cases = single(vectors)
    tokens, logits = in_batches(vectors, cached, cases)
    for i, (row, after) in enumerate(cases.values()):
        room = min(ANSWER, vectors.sizes.columns - len(row.ids)) - 1
        new = np.arange(after, after + room)
        whole = replace(
            row,
            ids=np.concatenate((row.ids, tokens[i][:room])),
            positions=np.concatenate((row.positions, np.tile(new, (3, 1))), 1),
            segments=np.ones(len(row.ids) + room, np.int32),
        )
        found = graph.logits([whole])[0][len(row.ids) - 1 :]
        check_logits(table, f"{graph.name} / uncached", "O20", logits[: room + 1, i], found, ACTIVATION, 0.0)


def test_one_position_for_all_rows_is_wrong(vectors, cached):
    """Negative control."""
    (case,) = [case for case in vectors.told["greedy"] if len(prompts(vectors, case)[0]) > 1]
    rows, after = prompts(vectors, case)
    golden = np.array(vectors.told["greedy"][case]["tokens"])
    tokens, _ = cached.greedy(rows, [max(after)] * len(rows), golden.shape[1])
    assert tokens.tolist() != golden.tolist()

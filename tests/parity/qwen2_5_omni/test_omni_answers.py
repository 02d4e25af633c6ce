"""Greedy answers by the cache: the golden tokens, by the kernel and by MindSpore's operators; cached = uncached (O20)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from omni_stages import ACTIVATION, check_logits
from omni_vectors import OmniVectors, Row

ANSWER = 16
STEPS = pytest.mark.parametrize("plain", [False, True], ids=["kernel", "operators"])


def prompts(vectors: OmniVectors, case: str) -> tuple[list[Row], list[int]]:
    """The rows of a case without their padding, and the position of each one's first new token."""
    rows, deltas = vectors.case_rows(f"logits.{case}"), vectors[f"logits.{case}.rope_deltas"][:, 0]
    bare = [
        replace(row, ids=row.ids[row.real], positions=row.positions[:, row.real], segments=row.segments[row.real])
        for row in rows
    ]
    return bare, [len(row.ids) + int(delta) for row, delta in zip(rows, deltas)]


@pytest.fixture(scope="module")
def single(vectors) -> dict[str, tuple[Row, int]]:
    """The cases of one row, which are answered here as rows of one batch: other media, lengths and deltas."""
    found = {case: prompts(vectors, case) for case in vectors.told["greedy"]}
    return {case: (rows[0], after[0]) for case, (rows, after) in found.items() if len(rows) == 1}


@STEPS
def test_prompts_of_different_media_in_one_batch(vectors, single, graph, table, original, omni_floors, plain):
    tokens, logits = graph.greedy(*zip(*single.values()), ANSWER, plain)
    for i, case in enumerate(single):
        golden = vectors[f"greedy.{case}.tokens"]
        assert tokens[i][: len(golden)].tolist() == golden.tolist(), case
        found, wanted = logits[: len(golden), i], vectors[f"greedy.{case}.logits"]
        floor = max(omni_floors.logits(f"logits.{case}"))
        check_logits(table, f"{graph.name} / golden", "O20 cached decoding", found, wanted, ACTIVATION, floor)
        theirs = original.greedy(f"logits.{case}", len(golden))[1][:, 0]
        check_logits(table, f"{graph.name} / transformers", "O20 cached decoding", found, theirs, ACTIVATION, floor)


@STEPS
def test_rows_of_different_deltas(vectors, graph, plain):
    """The original pads them on the left; here each row has columns of its own."""
    for rows, after, golden in several(vectors):
        assert len(set(np.subtract(after, [len(row.ids) for row in rows]))) > 1
        assert graph.greedy(rows, after, golden.shape[1], plain)[0].tolist() == golden.tolist()


def several(vectors: OmniVectors) -> list[tuple[list[Row], list[int], np.ndarray]]:
    """Prompts, next positions and golden tokens of the cases of several rows."""
    found = [(*prompts(vectors, case), np.array(told["tokens"])) for case, told in vectors.told["greedy"].items()]
    return [each for each in found if len(each[0]) > 1] or pytest.skip("the vectors have no answers to several rows")


def test_cached_is_uncached(vectors, single, graph, omni_floors, table):
    tokens, logits = graph.greedy(*zip(*single.values()), ANSWER)
    for i, (case, (row, after)) in enumerate(single.items()):
        room = min(ANSWER, vectors.sizes.columns - len(row.ids)) - 1
        whole = replace(
            row,
            ids=np.concatenate((row.ids, tokens[i][:room])),
            positions=np.concatenate((row.positions, np.tile(np.arange(after, after + room), (3, 1))), 1),
            segments=np.ones(len(row.ids) + room, np.int32),
        )
        found = graph.logits([whole])[0][len(row.ids) - 1 :]
        floor = max(omni_floors.logits(f"logits.{case}"))
        check_logits(table, f"{graph.name} / uncached", "O20", logits[: room + 1, i], found, ACTIVATION, floor)


def test_one_position_for_all_rows_is_wrong(vectors, graph):
    """Negative control."""
    for rows, after, golden in several(vectors):
        tokens, _ = graph.greedy(rows, [max(after)] * len(rows), golden.shape[1])
        assert tokens.tolist() != golden.tolist()

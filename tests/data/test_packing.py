"""EncodedDataset dealt out to rows, and the rows they make."""

from bisect import bisect_left, insort
from dataclasses import replace

import numpy as np
import pytest
from squares import Squares, Tokenizer

from ms_impl.data import packing
from ms_impl.data.batch import collate
from ms_impl.data.packing import best_fit, pack
from ms_impl.data.sample import IGNORED, Sample
from ms_impl.errors import InputError

NAMES = ("tokens", "images")


def dialogue(name: str, length: int, images: int = 0) -> Sample:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    labels = np.where(np.arange(length) % 3 == 0, ids, IGNORED).astype(np.int32)
    columns, paths = [1 + 4 * n for n in range(images)], [f"{name}{n}.png" for n in range(images)]
    return Drawn(queries=2).sample(ids, labels, columns, paths, name)


class Drawn(Squares):
    """Images of any name, all black."""

    def draw(self, source, out):
        out[:] = 0


def dealt(lengths, images, row_length, image_slots):
    return best_fit(np.stack([lengths, images], 1), (row_length, image_slots), NAMES)


def test_every_dialogue_is_in_one_row_and_no_row_overflows():
    rng = np.random.default_rng(0)
    lengths, images = rng.integers(1, 101, 500), rng.integers(0, 3, 500)
    rows = dealt(lengths, images, 100, 3)
    assert sorted(index for row in rows for index in row) == list(range(500))
    assert all(lengths[row].sum() <= 100 and images[row].sum() <= 3 for row in rows)


def test_rows_are_nearly_as_few_as_can_be():
    lengths = np.random.default_rng(0).integers(50, 900, 2000)
    rows = dealt(lengths, np.zeros(2000, int), 2048, 0)
    assert len(rows) <= 1.02 * np.ceil(lengths.sum() / 2048)


def test_the_fullest_row_that_holds_a_dialogue_takes_it():
    assert dealt([70, 60, 30, 40], [0] * 4, 100, 0) == [[0, 2], [1, 3]]
    assert dealt([70, 60, 30, 40], [1, 0, 1, 0], 100, 1) == [[0], [1, 3], [2]]


def test_a_dialogue_that_no_row_holds_is_refused():
    with pytest.raises(InputError, match="conversation 1 has 101 tokens and 0 images; a row holds 100 tokens"):
        dealt([5, 101], [0, 0], 100, 1)
    with pytest.raises(InputError, match="conversation 0 has 5 tokens and 2 images"):
        dealt([5], [2], 100, 1)


def test_a_row_keeps_its_dialogues_apart():
    row = pack([dialogue("a", 4), dialogue("b", 10, images=2)])
    assert row.record == "a; b"
    np.testing.assert_array_equal(row.segment_ids, [1] * 4 + [2] * 10)
    np.testing.assert_array_equal(row.position_ids, [*range(4), *range(10)])
    assert [image.columns.tolist() for image in row.media] == [[5, 6], [9, 10]]
    assert [(image.source, image.record) for image in row.media] == [("b0.png", "b"), ("b1.png", "b")]
    assert all(array.dtype == np.int32 for array in (row.input_ids, row.labels, row.segment_ids, row.position_ids))


def test_a_dialogues_first_label_is_not_predicted_by_the_one_before_it():
    row = pack([dialogue("a", 4), dialogue("b", 7)])
    np.testing.assert_array_equal(np.flatnonzero(row.labels != IGNORED), [3, 4 + 3, 4 + 6])


@pytest.mark.parametrize(("weighting", "expected"), [("token", [1, 1, 1]), ("dialogue", [1, 0.5, 0.5])])
def test_labels_count_by_token_or_by_dialogue(weighting, expected):
    row = pack([dialogue("a", 4), dialogue("b", 7)], weighting)
    np.testing.assert_array_equal(row.loss_weights[row.labels != IGNORED], np.float32(expected))
    assert not row.loss_weights[row.labels == IGNORED].any()


def test_an_unknown_weighting_is_refused():
    with pytest.raises(InputError, match="loss_weighting: 'sample' is unknown; it is token or dialogue"):
        pack([dialogue("a", 4)], "sample")


def test_padded_rows_have_segment_zero_and_weigh_nothing():
    template = Squares(tokenizer=Tokenizer(9))
    batch = collate([pack([dialogue("a", 4), dialogue("b", 7)]), pack([])], template, {"tokens": 12, "images": 1})
    np.testing.assert_array_equal(batch["segment_ids"][0], [1] * 4 + [2] * 7 + [0])
    assert not batch["segment_ids"][1].any() and (batch["input_ids"][1] == 9).all()
    assert not batch["loss_weights"][1].any() and batch["loss_weights"].dtype == np.float32
    assert (batch["labels"][1] == IGNORED).all()


def test_a_damaged_image_of_a_packed_row_is_laid_to_its_own_dialogue():
    rows = [pack([dialogue("a", 9, images=1), dialogue("b", 9, images=1)])]
    with pytest.raises(InputError, match="^b: image 'b0.png' does not exist"):
        collate(rows, Drawn("b0.png", queries=2))


def best_fit_by_images(lengths, images, row_length, image_slots):
    """The algorithm for tokens and images alone, before rows had other needs."""
    rows, space = [], [[] for _ in range(image_slots + 1)]  # by images left: (tokens left, row)
    for index in np.argsort(-lengths, kind="stable").tolist():
        length, count, found = int(lengths[index]), int(images[index]), None
        for slots in range(count, len(space)):
            at = bisect_left(space[slots], (length, -1))
            if at < len(space[slots]) and (found is None or space[slots][at] < space[found[0]][found[1]]):
                found = slots, at
        left, row, slots = (*space[found[0]].pop(found[1]), found[0]) if found else (row_length, len(rows), image_slots)
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(space[slots - count], (left - length, row))
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_the_algorithm_for_images_alone(seed):
    rng = np.random.default_rng(seed)
    count, row_length, slots = int(rng.integers(1, 2000)), int(rng.integers(100, 3000)), int(rng.integers(0, 9))
    lengths, images = rng.integers(1, row_length + 1, count), rng.integers(0, slots + 1, count)
    assert dealt(lengths, images, row_length, slots) == best_fit_by_images(lengths, images, row_length, slots)
    unlimited = best_fit(np.stack([lengths, images], 1), (row_length, None), NAMES)
    assert unlimited == best_fit_by_images(lengths, np.zeros_like(images), row_length, 0)


@pytest.mark.parametrize("seed", range(10))
def test_either_way_of_finding_a_row_finds_the_same(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 1500))
    needs = np.stack([rng.integers(1, 101, count), rng.integers(0, 9, count), rng.integers(0, 4, count)], 1)
    found = []
    for most in (0, 10**6):
        monkeypatch.setattr(packing, "_MOST_BUCKETS", most)
        found.append(best_fit(needs, (100, 12, 5), ("tokens", "patch_rows", "audio_chunks")))
    assert found[0] == found[1]


def test_no_need_of_a_row_overflows():
    rng = np.random.default_rng(0)
    needs = np.stack([rng.integers(1, 101, 800), rng.integers(0, 9, 800), rng.integers(0, 4, 800)], 1)
    rows = best_fit(needs, (100, 12, 5), ("tokens", "patch_rows", "audio_chunks"))
    assert sorted(index for row in rows for index in row) == list(range(800))
    assert all((needs[row].sum(0) <= (100, 12, 5)).all() for row in rows)


def test_a_label_counts_its_scale():
    scale = np.linspace(0, 3, 7, dtype=np.float32)
    scaled = replace(dialogue("b", 7), loss_scale=scale)
    row = pack([dialogue("a", 4), scaled], "dialogue")
    np.testing.assert_array_equal(row.loss_weights[[3, 4 + 3, 4 + 6]], np.float32([1, 0.5 * scale[3], 0.5 * scale[6]]))


def test_positions_of_several_axes_are_kept():
    positions = np.arange(12, dtype=np.int32).reshape(3, 4)
    row = pack([replace(dialogue("a", 4), position_ids=positions)] * 2, position_axes=3)
    np.testing.assert_array_equal(row.position_ids, np.concatenate([positions, positions], 1))
    assert pack([], position_axes=3).position_ids.shape == (3, 0)

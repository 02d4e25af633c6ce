"""EncodedDataset dealt out to rows, and the rows they make."""

import numpy as np
import pytest

from ms_impl.data.batch import IGNORED, collate
from ms_impl.data.packing import best_fit, pack
from ms_impl.errors import InputError


def dialogue(name: str, length: int, images: int = 0) -> dict:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    labels = np.where(np.arange(length) % 3 == 0, ids, IGNORED).astype(np.int32)
    columns = [1 + 4 * n for n in range(images)]
    paths = [f"{name}{n}.png" for n in range(images)]
    return {"record": name, "input_ids": ids, "labels": labels, "image_paths": paths, "image_columns": columns}


def test_every_dialogue_is_in_one_row_and_no_row_overflows():
    rng = np.random.default_rng(0)
    lengths, images = rng.integers(1, 101, 500), rng.integers(0, 3, 500)
    rows = best_fit(lengths, images, row_length=100, image_slots=3)
    assert sorted(index for row in rows for index in row) == list(range(500))
    assert all(lengths[row].sum() <= 100 and images[row].sum() <= 3 for row in rows)


def test_rows_are_nearly_as_few_as_can_be():
    lengths = np.random.default_rng(0).integers(50, 900, 2000)
    rows = best_fit(lengths, np.zeros(2000, int), row_length=2048, image_slots=0)
    assert len(rows) <= 1.02 * np.ceil(lengths.sum() / 2048)


def test_the_fullest_row_that_holds_a_dialogue_takes_it():
    assert best_fit([70, 60, 30, 40], [0] * 4, 100, 0) == [[0, 2], [1, 3]]
    assert best_fit([70, 60, 30, 40], [1, 0, 1, 0], 100, 1) == [[0], [1, 3], [2]]


def test_a_dialogue_that_no_row_holds_is_refused():
    with pytest.raises(InputError, match="dialogue 1 has 101 tokens and 0 images; a row holds 100 tokens"):
        best_fit([5, 101], [0, 0], 100, 1)
    with pytest.raises(InputError, match="dialogue 0 has 5 tokens and 2 images"):
        best_fit([5], [2], 100, 1)


def test_a_row_keeps_its_dialogues_apart():
    row = pack([dialogue("a", 4), dialogue("b", 10, images=2)])
    assert row["record"] == "a; b"
    np.testing.assert_array_equal(row["segment_ids"], [1] * 4 + [2] * 10)
    np.testing.assert_array_equal(row["position_ids"], [*range(4), *range(10)])
    assert row["image_columns"] == [5, 9] and row["image_paths"] == ["b0.png", "b1.png"]
    assert all(row[key].dtype == np.int32 for key in ("input_ids", "labels", "segment_ids", "position_ids"))


def test_a_dialogues_first_label_is_not_predicted_by_the_one_before_it():
    row = pack([dialogue("a", 4), dialogue("b", 7)])
    np.testing.assert_array_equal(np.flatnonzero(row["labels"] != IGNORED), [3, 4 + 3, 4 + 6])


@pytest.mark.parametrize(("weighting", "expected"), [("token", [1, 1, 1]), ("dialogue", [1, 0.5, 0.5])])
def test_labels_count_by_token_or_by_dialogue(weighting, expected):
    row = pack([dialogue("a", 4), dialogue("b", 7)], weighting)
    np.testing.assert_array_equal(row["loss_weights"][row["labels"] != IGNORED], np.float32(expected))
    assert not row["loss_weights"][row["labels"] == IGNORED].any()


def test_an_unknown_weighting_is_refused():
    with pytest.raises(InputError, match="loss_weighting: 'sample' is unknown; it is token or dialogue"):
        pack([dialogue("a", 4)], "sample")


def test_padded_rows_have_segment_zero_and_weigh_nothing():
    batch = collate(
        [pack([dialogue("a", 4), dialogue("b", 7)]), pack([])],
        pad_id=9, num_queries=2, image_size=2, load_pixels=lambda path, out: None,
        length=12, image_slots=1,
    )  # fmt: skip
    np.testing.assert_array_equal(batch["segment_ids"][0], [1] * 4 + [2] * 7 + [0])
    assert not batch["segment_ids"][1].any() and (batch["input_ids"][1] == 9).all()
    assert not batch["loss_weights"][1].any() and batch["loss_weights"].dtype == np.float32
    assert (batch["labels"][1] == IGNORED).all()


def test_a_damaged_image_of_a_packed_row_is_laid_to_its_own_dialogue():
    def load(path, out):
        if path == "b0.png":
            raise InputError("image 'b0.png' cannot be decoded")

    rows = [pack([dialogue("a", 9, images=1), dialogue("b", 9, images=1)])]
    with pytest.raises(InputError, match="^b: image 'b0.png' cannot be decoded"):
        collate(rows, pad_id=0, num_queries=2, image_size=2, load_pixels=load)

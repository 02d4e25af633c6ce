"""Samples become the arrays of the contract: padding, segments, image slots and where their features go."""

import numpy as np
import pytest
from squares import PAD, QUERIES, SIZE, Squares

from ms_impl.data.batch import collate
from ms_impl.errors import InputError


def sample(tokens, columns=(), labels=True, record=""):
    ids = np.arange(1, tokens + 1, dtype=np.int32)
    return Squares().sample(ids, ids * 10 if labels else None, columns, map(str, columns), record)


def make(samples, padding_side="right", template=None, **sizes):
    return collate(samples, template or Squares(), sizes, padding_side)


def test_right_padding():
    batch = make([sample(3), sample(5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, PAD, PAD], [1, 2, 3, 4, 5]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[10, 20, 30, -100, -100], [10, 20, 30, 40, 50]]
    assert {batch[key].dtype for key in ("input_ids", "segment_ids", "labels")} == {np.dtype(np.int32)}


def test_left_padding_moves_the_image_columns():
    batch = make([sample(7, columns=[2]), sample(9, columns=[3])], padding_side="left")
    assert batch["input_ids"][0].tolist() == [PAD, PAD, 1, 2, 3, 4, 5, 6, 7]
    assert batch["segment_ids"][0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert batch["labels"][0, :3].tolist() == [-100, -100, 10]
    assert batch["image_context_pos"].tolist() == [[[4, 5, 6, 7]], [[3, 4, 5, 6]]]


def test_image_slots():
    batch = make([sample(12, columns=[1, 7]), sample(6), sample(8, columns=[2])], tokens=16, images=3)
    images, positions = batch["images"], batch["image_context_pos"]
    assert images.shape == (3, 3, 3, SIZE, SIZE) and images.dtype == np.float32
    assert positions.shape == (3, 3, QUERIES) and positions.dtype == np.int32
    assert images[:, :, 0, 0, 0].tolist() == [[1, 7, 0], [0, 0, 0], [2, 0, 0]]
    assert positions[0].tolist() == [[1, 2, 3, 4], [7, 8, 9, 10], [16] * 4]
    assert positions[1].tolist() == [[16] * 4] * 3


def test_slots_without_any_image_are_zeros():
    batch = make([sample(3)], images=1)
    assert batch["images"].shape == (1, 1, 3, SIZE, SIZE) and not batch["images"].any()
    assert batch["image_context_pos"].tolist() == [[[3] * QUERIES]]


def test_no_slots():
    batch = make([sample(3, labels=False)])
    assert batch["images"] is None and batch["image_context_pos"] is None
    assert "labels" not in batch


def test_too_many_images_names_the_record():
    with pytest.raises(InputError, match="^a.json: record 4: 2 images do not fit in 1 a row"):
        make([sample(9), sample(12, columns=[1, 7], record="a.json: record 4")], images=1)


def test_too_long_names_the_sample():
    with pytest.raises(InputError, match="^sample 1 of the batch: 9 tokens do not fit in 8"):
        make([sample(3), sample(9)], tokens=8)


def test_empty_batch():
    with pytest.raises(InputError, match="at least one sample"):
        make([])


def test_an_unreadable_image_names_the_record():
    with pytest.raises(InputError, match="^a.json: record 4: image '1' does not exist"):
        make([sample(9, columns=[1], record="a.json: record 4")], template=Squares(refused="1"))


def test_positions_count_from_the_padding_where_the_family_does_so():
    rows = [sample(3), sample(5)]
    batch = make(rows, "left")
    assert batch["position_ids"][0].tolist() == [0, 0, 2, 3, 4] and batch["next_positions"].tolist() == [5, 5]
    template = Squares()
    template.padding_shifts_positions = False
    batch = make(rows, "left", template)
    assert batch["position_ids"][0].tolist() == [0, 0, 0, 1, 2] and batch["next_positions"].tolist() == [3, 5]


def test_a_negative_id_is_refused():
    row = Squares().sample(np.array([3, -301, 4], np.int32), record="a.json: record 4")
    with pytest.raises(InputError, match="^a.json: record 4: a token id is negative"):
        make([row])


@pytest.mark.parametrize("columns", [[1, 3], [8]])
def test_features_of_one_column_are_refused(columns):
    with pytest.raises(InputError, match="^a.json: record 4: features of its media share columns, or lie outside"):
        make([sample(9, columns=columns, record="a.json: record 4")])

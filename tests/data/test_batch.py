"""Samples become the arrays of the contract: padding, segments, image slots and where their features go."""

import numpy as np
import pytest

from ms_impl.data.batch import collate
from ms_impl.errors import InputError

PAD, QUERIES, SIZE = 99, 4, 2


def sample(tokens, columns=(), labels=True, record=None):
    ids = np.arange(1, tokens + 1, dtype=np.int32)
    made = {"input_ids": ids, "image_paths": [f"{column}" for column in columns], "image_columns": list(columns)}
    return made | ({"labels": ids * 10} if labels else {}) | ({"record": record} if record else {})


def load_pixels(path, out):
    out[:] = float(path)


def make(samples, **options):
    return collate(samples, pad_id=PAD, num_queries=QUERIES, image_size=SIZE, load_pixels=load_pixels, **options)


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
    batch = make([sample(12, columns=[1, 7]), sample(6), sample(8, columns=[2])], length=16, image_slots=3)
    images, positions = batch["images"], batch["image_context_pos"]
    assert images.shape == (3, 3, 3, SIZE, SIZE) and images.dtype == np.float32
    assert positions.shape == (3, 3, QUERIES) and positions.dtype == np.int32
    assert images[:, :, 0, 0, 0].tolist() == [[1, 7, 0], [0, 0, 0], [2, 0, 0]]
    assert positions[0].tolist() == [[1, 2, 3, 4], [7, 8, 9, 10], [16] * 4]
    assert positions[1].tolist() == [[16] * 4] * 3


def test_slots_without_any_image_are_zeros():
    batch = make([sample(3)], image_slots=1)
    assert batch["images"].shape == (1, 1, 3, SIZE, SIZE) and not batch["images"].any()
    assert batch["image_context_pos"].tolist() == [[[3] * QUERIES]]


def test_no_slots():
    batch = make([sample(3, labels=False)])
    assert batch["images"] is None and batch["image_context_pos"] is None
    assert "labels" not in batch


def test_too_many_images_names_the_record():
    with pytest.raises(InputError, match="^a.json: record 4: 2 images do not fit in 1 image slots"):
        make([sample(9), sample(12, columns=[1, 7], record="a.json: record 4")], image_slots=1)


def test_too_long_names_the_sample():
    with pytest.raises(InputError, match="^sample 1 of the batch: 9 tokens do not fit in 8"):
        make([sample(3), sample(9)], length=8)


def test_empty_batch():
    with pytest.raises(InputError, match="at least one sample"):
        make([])


def test_an_unreadable_image_names_the_record():
    def refuse(path, out):
        raise InputError("image 'x.png' does not exist")

    with pytest.raises(InputError, match="^a.json: record 4: image 'x.png' does not exist"):
        samples = [sample(9, columns=[1], record="a.json: record 4")]
        collate(samples, pad_id=PAD, num_queries=QUERIES, image_size=SIZE, load_pixels=refuse)

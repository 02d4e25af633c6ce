"""The order of a whole training run."""

from collections import Counter

import numpy as np
import pytest

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.errors import InputError


class Lengths:
    """EncodedDataset of which only the lengths matter."""

    def __init__(self, count: int = 101, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.needs = np.stack([rng.integers(10, 100, count), rng.integers(0, 2, count)], 1)
        self.need_names, self.sizes = ("tokens", "images"), {"side": 7}

    @property
    def lengths(self):
        return self.needs[:, 0]

    def epoch(self, number, seed):
        return np.arange(len(self.needs))

    def record(self, index):
        return f"record {index}"


def plan(dialogues=None, **settings) -> BatchPlan:
    usual = {"epochs": 2, "rows_per_step": 8, "row_length": 128}
    return BatchPlan(dialogues or Lengths(), PlanSettings(**usual | settings))


def members(made: BatchPlan, **part) -> list[list[int]]:
    return [row.tolist() for step in range(made.total_steps) for row in made.rows(step, **part)]


KINDS = [
    {},
    {"packing": True},
    {"group_by_length": True},
    {"shuffle": False},
    {"packing": True, "capacities": {"images": 2}},
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_dialogue_comes_once_an_epoch(kind):
    made = plan(drop_remainder=False, **kind)
    assert Counter(index for row in members(made) for index in row) == dict.fromkeys(range(101), 2)
    assert made.dropped == 0


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_last_rows_of_the_run_are_dropped(kind):
    made, whole = plan(**kind), plan(drop_remainder=False, **kind)
    assert members(made) == members(whole)[: made.total_steps * 8]
    assert made.dropped == made.total_rows - made.total_steps * 8 < 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_the_same_again_and_another_for_another_seed(kind):
    assert members(plan(**kind)) == members(plan(**kind))
    differs = members(plan(**kind)) != members(plan(seed=1, **kind))
    assert differs == kind.get("shuffle", True)


def test_epochs_differ_in_order():
    rows = members(plan(rows_per_step=1))
    assert rows[:101] != rows[101:]


def test_the_ranks_parts_of_a_step_make_up_the_step():
    made = plan(packing=True)
    parts = [made.rows(2, rank, ranks=4) for rank in range(4)]
    assert [row.tolist() for part in parts for row in part] == [row.tolist() for row in made.rows(2)]
    numbers = np.concatenate([made.row_numbers(2, rank, ranks=4) for rank in range(4)])
    np.testing.assert_array_equal(numbers, range(16, 24))


def test_grouped_steps_are_short_where_they_can_be():
    dialogues = Lengths(2000)
    made, plain = plan(dialogues, group_by_length=True), plan(dialogues)
    lengths = {made.sizes(step)["tokens"] for step in range(made.total_steps)}
    assert lengths <= {32, 64, 96, 128} and len(lengths) == 4
    for step in range(made.total_steps):
        assert max(dialogues.lengths[row].sum() for row in made.rows(step)) <= made.sizes(step)["tokens"]
    share = [
        sum(map(p.useful_tokens, range(p.total_steps))) / sum(map(p.all_tokens, range(p.total_steps)))
        for p in (made, plain)
    ]
    assert share[0] > 0.75 > 0.5 > share[1]


def test_useful_tokens_are_those_of_the_dialogues():
    made = plan(drop_remainder=False, packing=True)
    assert sum(map(made.useful_tokens, range(made.total_steps))) == 2 * Lengths().lengths.sum()
    assert made.all_tokens(0) == 8 * 128


def test_epochs_are_told_as_they_pass():
    made = plan(rows_per_step=1)
    assert [made.epoch_at(step) for step in (0, 101, 202)] == [0, 1, 2]
    assert made.epoch_at(50) == pytest.approx(50 / 101)


def test_rows_have_room_for_as_much_as_one_needs_unless_it_is_given():
    made, images = plan(packing=True), Lengths().needs[:, 1]
    assert made.sizes(0) == {"side": 7, "tokens": 128, "images": max(images[row].sum() for row in members(made))}
    assert made.shapes() == [(made.sizes(0), made.total_steps)]
    limited = plan(packing=True, capacities={"images": 1})
    assert limited.sizes(0)["images"] == 1 and all(images[row].sum() <= 1 for row in members(limited))


def test_grouped_rows_have_at_most_four_shapes_that_hold_all_needs():
    dialogues = Lengths(2000)
    dialogues.needs[:, 1] = dialogues.needs[:, 0] // 20
    made = plan(dialogues, group_by_length=True)
    assert len(made.shapes()) <= 4 and sum(count for _, count in made.shapes()) == made.total_steps
    largest: dict[int, int] = {}
    for step in range(made.total_steps):
        tokens, images = np.max([dialogues.needs[row].sum(0) for row in made.rows(step)], axis=0)
        sizes = made.sizes(step)
        assert tokens <= sizes["tokens"] and images <= sizes["images"]
        largest[sizes["tokens"]] = max(largest.get(sizes["tokens"], 1), images)
    assert {sizes["tokens"]: sizes["images"] for sizes, _ in made.shapes()} == largest


def test_records_of_a_step_are_named():
    assert plan(shuffle=False, rows_per_step=3).records(1) == ["record 3", "record 4", "record 5"]


def test_too_few_rows_for_one_step_are_an_error():
    with pytest.raises(InputError, match="202 rows of dialogues do not fill one batch of 300"):
        plan(rows_per_step=300)
    assert plan(rows_per_step=300, drop_remainder=False).total_steps == 1


def test_more_epochs_than_a_plan_can_hold_are_refused_at_once():
    with pytest.raises(InputError, match="1,000,000,000 epochs are 101,000,000,000 conversations"):
        plan(epochs=10**9)

"""Each operation does what it says, and its inverse undoes it."""

from types import SimpleNamespace

import numpy as np
import pytest

from ms_impl.io.rules import (
    HUGGING_FACE,
    MINDSPORE,
    Pack,
    PermuteRows,
    Tie,
    Transpose,
    Unpack,
    Weight,
    WeightTable,
    moved,
    same,
)

CONFIG = SimpleNamespace(heads=2, layers=3, has_bias=False, tied=False, prefix="")
SIZES = {"heads": 2, "layers": 3, "width": 4}


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


OPERATIONS = {
    "transpose": (Transpose(), [numbered(3, 5), numbered(2, 4)]),
    "pack": (Pack(), [numbered(4, 3), numbered(2, 3), numbered(2, 3)]),
    "pack vectors": (Pack(), [numbered(4), numbered(2)]),
    "unpack": (Unpack((4, 2, 2)), [numbered(8, 3)]),
    "unpack by configuration": (Unpack("6 heads"), [numbered(8, 3)]),
    "permute heads": (PermuteRows("heads 3 -1", (1, 0, 2)), [numbered(24, 5), numbered(24)]),
    "permute in a cycle": (PermuteRows((2, 3, 4), (1, 2, 0)), [numbered(24, 5)]),
}


@pytest.mark.parametrize("operation, arrays", OPERATIONS.values(), ids=OPERATIONS)
def test_the_inverse_undoes_it(operation, arrays):
    bound = operation.bind(SIZES)
    before = [array.shape for array in arrays]
    changed = bound.apply(arrays)
    assert [array.shape for array in changed] == bound.shapes(before)
    assert len(changed) != len(arrays) or not all(map(np.array_equal, changed, arrays))
    restored = bound.inverse(before).apply(changed)
    assert len(restored) == len(arrays) and all(map(np.array_equal, restored, arrays))


def test_permute_rows_unpacks_projections_packed_per_head():
    heads = [[f"{part}{head}" for part in "qkv"] for head in range(2)]
    packed = np.array(heads).reshape(-1).repeat(2)  # two rows each
    permuted = PermuteRows((2, 3, 2), (1, 0, 2)).apply([packed])[0]
    assert permuted.tolist() == np.repeat(["q0", "q1", "k0", "k1", "v0", "v1"], 2).tolist()


TABLE = WeightTable(
    [
        *same("", {"head": "7 width"}),
        *moved("h.*", "layers.*", {"out": ("projection", "width 6")}, Transpose()),
        Weight(("h.*.q", "h.*.k"), ("width 6", "heads 6"), ("layers.*.qk",), (Pack(), Transpose())),
        *same("optional", {"bias": "width"}),
    ],
    sizes=lambda config: SIZES,
    layers={"h": "layers"},
    optional={"optional.bias": lambda config: config.has_bias},
    ties={"head": Tie("optional.bias", lambda config: config.tied)},
    prefix=lambda config: config.prefix,
    skipped=("voice.*",),
)


def test_a_table_expands_to_names_and_shapes_of_both_layouts():
    hf = {"head": (7, 4)}
    ms = {"head": (7, 4)}
    for layer in range(CONFIG.layers):
        hf |= {f"h.{layer}.out": (4, 6), f"h.{layer}.q": (4, 6), f"h.{layer}.k": (2, 6)}
        ms |= {f"layers.{layer}.projection": (6, 4), f"layers.{layer}.qk": (6, 6)}
    assert TABLE.shapes(CONFIG, HUGGING_FACE) == hf
    assert TABLE.shapes(CONFIG, MINDSPORE) == ms


def test_the_configuration_decides_over_prefix_optional_and_tied_weights():
    config = SimpleNamespace(has_bias=True, tied=True, prefix="whole.")
    shapes = TABLE.shapes(config, HUGGING_FACE)
    assert "whole.head" not in shapes and shapes["whole.optional.bias"] == (4,)
    assert all(name.startswith("whole.") for name in shapes)
    assert not any(name.startswith("whole.") for name in TABLE.shapes(config, MINDSPORE))
    assert {entry.copies for entry in TABLE.expand(config)} == {(), ("whole.head",)}


def test_operations_of_an_entry_run_backwards_in_reverse_order():
    entry = next(entry for entry in TABLE.expand(CONFIG) if len(entry.specs[HUGGING_FACE]) == 2)
    arrays = originals = [numbered(4, 6), numbered(2, 6)]
    for layout in (MINDSPORE, HUGGING_FACE):
        for operation in entry.operations[layout]:
            arrays = operation.apply(arrays)
        assert [array.shape for array in arrays] == [spec.shape for spec in entry.specs[layout]]
    assert all(map(np.array_equal, arrays, originals))


def test_a_table_that_has_a_name_twice_is_refused():
    table = WeightTable([*same("a", {"b": "1"}), *moved("a", "a", {"c": ("b", "1")})], sizes=lambda config: {})
    with pytest.raises(ValueError, match=r"MindSpore names more than once: \['a.b'\]"):
        table.expand(CONFIG)


def test_a_size_that_is_not_declared_is_named():
    table = WeightTable(same("a", {"b": "4 widht"}), sizes=lambda config: {"width": 4})
    with pytest.raises(ValueError, match="not declared: 'widht'"):
        table.expand(CONFIG)

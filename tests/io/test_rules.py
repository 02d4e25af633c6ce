"""Each operation does what it says, and its inverse undoes it."""

from types import SimpleNamespace

import numpy as np
import pytest

from ms_impl.io.rules import Layout, Module, Pack, PermuteRows, Transpose, Unpack, Weight, WeightTable, rename, same

CONFIG = SimpleNamespace(heads=2, layers=3)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


OPERATIONS = {
    "transpose": (Transpose(), [numbered(3, 5), numbered(2, 4)]),
    "pack": (Pack(), [numbered(4, 3), numbered(2, 3), numbered(2, 3)]),
    "pack vectors": (Pack(), [numbered(4), numbered(2)]),
    "unpack": (Unpack((4, 2, 2)), [numbered(8, 3)]),
    "unpack by configuration": (Unpack(lambda c: (6, c.heads)), [numbered(8, 3)]),
    "permute heads": (PermuteRows(lambda c: (c.heads, 3, -1), (1, 0, 2)), [numbered(24, 5), numbered(24)]),
    "permute in a cycle": (PermuteRows((2, 3, 4), (1, 2, 0)), [numbered(24, 5)]),
}


@pytest.mark.parametrize("operation, arrays", OPERATIONS.values(), ids=OPERATIONS)
def test_the_inverse_undoes_it(operation, arrays):
    bound = operation.bind(CONFIG)
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
        Module("", [same("head", lambda c: (7, 4))]),
        Module(
            "h.{}",
            [
                rename("out", "projection", lambda c: (4, 6), Transpose()),
                Weight(("q", "k"), (lambda c: (4, 6), lambda c: (2, 6)), ("qk",), (Pack(), Transpose())),
            ],
            count=lambda c: c.layers,
            ms="layers.{}",
        ),
        Module("optional", [same("bias", lambda c: (4,))], count=lambda c: 0),
    ]
)


def test_a_table_expands_to_names_and_shapes_of_both_layouts():
    hf = {"head": (7, 4)}
    ms = {"head": (7, 4)}
    for layer in range(CONFIG.layers):
        hf |= {f"h.{layer}.out": (4, 6), f"h.{layer}.q": (4, 6), f"h.{layer}.k": (2, 6)}
        ms |= {f"layers.{layer}.projection": (6, 4), f"layers.{layer}.qk": (6, 6)}
    assert TABLE.shapes(CONFIG, Layout.HUGGING_FACE) == hf
    assert TABLE.shapes(CONFIG, Layout.MINDSPORE) == ms
    assert TABLE.module_paths(CONFIG) == {"": "", "h.0": "layers.0", "h.1": "layers.1", "h.2": "layers.2"}


def test_operations_of_an_entry_run_backwards_in_reverse_order():
    entry = next(entry for entry in TABLE.expand(CONFIG) if len(entry.specs[Layout.HUGGING_FACE]) == 2)
    arrays = originals = [numbered(4, 6), numbered(2, 6)]
    for layout in (Layout.MINDSPORE, Layout.HUGGING_FACE):
        for operation in entry.operations[layout]:
            arrays = operation.apply(arrays)
        assert [array.shape for array in arrays] == [spec.shape for spec in entry.specs[layout]]
    assert all(map(np.array_equal, arrays, originals))


def test_a_table_that_has_a_name_twice_is_refused():
    table = WeightTable([Module("a", [same("b", lambda c: (1,)), rename("c", "b", lambda c: (1,))])])
    with pytest.raises(ValueError, match=r"MindSpore names more than once: \['a.b'\]"):
        table.expand(CONFIG)

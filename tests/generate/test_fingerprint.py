"""What tells one graph from another, and what does not."""

from __future__ import annotations

import importlib.util
import os
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.generate import fingerprint as module
from ms_impl.generate.fingerprint import NotCacheable, fingerprint

ROW = Tensor(np.zeros((1, 4), np.float32))


class Layer(nn.Cell):
    def __init__(self, shift: float, constant: list[float], axis: int):
        super().__init__()
        self.weight = Parameter(np.ones(4, np.float32), name="weight")
        self.shift = shift
        self.constant = Tensor(np.array(constant, np.float32))
        self.softmax = ops.Softmax(axis)

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.softmax(x * self.weight + self.constant + self.shift)


class Stack(nn.Cell):
    def __init__(self, shift: float = 0.5, constant: tuple[float, ...] = (1, 2, 3, 4), axis: int = -1):
        super().__init__()
        self.layers = nn.CellList([Layer(0.5, [1, 2, 3, 4], -1), Layer(shift, list(constant), axis)])

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_equal_cells_have_one_whatever_their_weights_and_their_past():
    first, second = Stack(), Stack()
    before = fingerprint(first, (ROW, None))
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    first(ROW)
    ms.set_context(mode=mode)
    second.layers[0].weight.set_data(Tensor(np.zeros(4, np.float32)))
    assert before == fingerprint(first, (ROW, None)) == fingerprint(second, (ROW, None))


@pytest.mark.parametrize(
    "other",
    [
        lambda: (Stack(shift=0.25), (ROW, None)),
        lambda: (Stack(constant=(1, 2, 3, 5)), (ROW, None)),
        lambda: (Stack(axis=0), (ROW, None)),
        lambda: (Stack().set_train(), (ROW, None)),
        lambda: (renamed(Stack()), (ROW, None)),
        lambda: (Stack(), (ROW, ROW)),
        lambda: (Stack(), (Tensor(np.zeros((2, 4), np.float32)), None)),
        lambda: (Stack(), (ROW.astype(ms.float16), None)),
    ],
    ids=["number", "constant", "operator", "training", "parameter", "input", "shape", "dtype"],
)
def test_whatever_makes_another_graph_makes_another_fingerprint(other):
    assert fingerprint(*other()) != fingerprint(Stack(), (ROW, None))


def renamed(stack: Stack) -> Stack:
    stack.layers[1].weight.name = "other"
    return stack


def test_settings_of_mindspore_count(monkeypatch):
    before = fingerprint(Stack(), (ROW,))
    monkeypatch.setenv("MS_DEV_SIDE_EFFECT_LOAD_ELIM", "0")
    assert fingerprint(Stack(), (ROW,)) != before


def test_a_hook_or_an_unknown_object_makes_a_cell_opaque():
    hooked, strange = Stack(), Stack()
    hooked.layers[0].register_forward_pre_hook(lambda cell, inputs: inputs)
    strange.layers[0].helper = object()
    for cell in (hooked, strange):
        with pytest.raises(NotCacheable):
            fingerprint(cell, (ROW,))


def test_sources_count_and_those_that_changed_since_the_start_make_a_cell_opaque(tmp_path):
    path = tmp_path / "kept_cell.py"
    found = []
    for text in ("", "# another line\n"):
        path.write_text(f"from mindspore import nn\n{text}\nclass Kept(nn.Cell):\n    pass\n")
        spec = importlib.util.spec_from_file_location("kept_cell", path)
        sys.modules["kept_cell"] = loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        module.sources.cache_clear()
        with pytest.raises(NotCacheable, match="has changed"):
            fingerprint(loaded.Kept(), ())
        os.utime(path, (module.STARTED - 1, module.STARTED - 1))
        found.append(fingerprint(loaded.Kept(), ()))
    del sys.modules["kept_cell"]
    assert found[0] != found[1]

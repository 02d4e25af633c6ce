"""The LoRA layer and its dropout, against numpy and torch, in both modes."""

from zlib import crc32

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from ms_impl.cells.linear import Linear
from ms_impl.cells.lora import DropoutSeeds, LoraLinear, SeededDropout

P = 0.25
SEEDS = np.array([7, -3, 2**31 - 1], np.int32)
GOLDEN_RATIO = np.uint32(0x9E3779B9)


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


def mix(x: np.ndarray) -> np.ndarray:
    x = x * np.uint32(0x7FEB352D)
    return (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)


def expected_keep(seeds: np.ndarray, layer: str, positions: int, features: int) -> np.ndarray:
    """The mask [B, positions, features], computed as unsigned integers."""
    rows = mix(mix(seeds.view(np.uint32)) ^ np.uint32(crc32(layer.encode())))
    places = mix(rows[:, None] + np.arange(positions, dtype=np.uint32) * GOLDEN_RATIO)
    hashes = mix(places[..., None] + mix(np.arange(1, features + 1, dtype=np.uint32) * GOLDEN_RATIO))
    return np.where(hashes.view(np.int32) >= int(P * 2**32) - 2**31, 1 / (1 - P), 0).astype(np.float32)


class Dropped(nn.Cell):
    """Sets the seeds, then drops."""

    def __init__(self, rows: int, features: int, layer: str = "layer", p: float = P):
        super().__init__()
        self.seeds = DropoutSeeds(rows)
        self.dropout = SeededDropout(p, features, layer, self.seeds)

    def construct(self, x, seeds):
        self.seeds(seeds)
        return self.dropout(x)


def keep(seeds, positions: int, features: int, layer: str = "layer", p: float = P) -> np.ndarray:
    seeds = np.asarray(seeds, np.int32)
    ones = np.ones((len(seeds), positions, features), np.float32)
    cell = Dropped(len(seeds), features, layer, p).set_train(True)
    return cell(Tensor(ones), Tensor(seeds)).asnumpy()


def test_the_mask_is_the_hash(mode):
    assert np.array_equal(keep(SEEDS, 9, 70), expected_keep(SEEDS, "layer", 9, 70))


def test_a_row_has_its_mask_wherever_it_stands():
    together = keep(SEEDS, 9, 70)
    for row, seed in enumerate(SEEDS):
        assert np.array_equal(keep([seed], 9, 70)[0], together[row])
    assert np.array_equal(keep(SEEDS, 5, 70), together[:, :5])  # nor does the padding matter


def test_images_of_a_row_are_further_positions():
    cell = Dropped(3, 70).set_train(True)
    images = cell(Tensor(np.ones((6, 9, 70), np.float32)), Tensor(SEEDS)).asnumpy()
    assert np.array_equal(images.reshape(3, 18, 70), keep(SEEDS, 18, 70))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale(p):
    kept = keep(range(8), 256, 128, p=p)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / (1 - p))}
    assert abs((kept == 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / kept.size)
    for axes in ((0, 1), (0, 2), (1, 2)):  # no feature, position or row is favoured
        shares = (kept == 0).mean(axes)
        assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) * shares.size / kept.size)


def test_masks_of_neighbours_layers_and_seeds_are_uncorrelated():
    kept = keep(range(4), 256, 256, p=0.5) > 0
    others = [
        (kept[:, 1:], kept[:, :-1]),
        (kept[..., 1:], kept[..., :-1]),
        (kept[1:], kept[:-1]),
        (kept, keep(range(4), 256, 256, layer="another", p=0.5) > 0),
    ]
    for one, other in others:
        assert abs((one == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(one.size)


def test_nothing_is_dropped_in_evaluation(mode):
    cell = Dropped(3, 70).set_train(False)
    x = np.random.default_rng(0).normal(size=(3, 9, 70)).astype(np.float32)
    assert np.array_equal(cell(Tensor(x), Tensor(SEEDS)).asnumpy(), x)


class Layers(nn.Cell):
    """Two LoRA layers under one set of seeds; the loss is the sum of squares."""

    def __init__(self, recompute: bool):
        super().__init__()
        rng = np.random.default_rng(0)
        self.seeds = DropoutSeeds(3)
        layers = []
        for number in range(2):
            a = rng.normal(0, 0.5, (4, 16)).astype(np.float32)
            b = rng.normal(0, 0.5, (16, 4)).astype(np.float32)
            dropout = SeededDropout(P, 16, f"layer {number}", self.seeds)
            layers.append(LoraLinear(Linear(16, 16), a, b, 0.5, dropout))
            if recompute:
                layers[number].recompute()
        self.layers = nn.CellList(layers)

    def construct(self, x, seeds):
        self.seeds(seeds)
        for layer in self.layers:
            x = layer(x)
        return (x * x).sum()


def torch_loss(parameters: dict[str, torch.Tensor], x: np.ndarray, seeds: np.ndarray) -> torch.Tensor:
    y = torch.tensor(x, dtype=torch.float64)
    for number in range(2):
        names = ("weight", "bias", "lora_A.weight", "lora_B.weight")
        w, bias, a, b = (parameters[f"layers.{number}.{name}"] for name in names)
        mask = torch.tensor(expected_keep(seeds, f"layer {number}", x.shape[1], 16), dtype=torch.float64)
        y = y @ w.T + bias + (y * mask) @ a.T @ b.T * 0.5
    return (y * y).sum()


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_take_the_mask_of_each_steps_seeds(mode, recompute):
    network = Layers(recompute).set_train(True)
    trained = network.trainable_params()
    gradients_of = ms.value_and_grad(network, None, trained)
    rng = np.random.default_rng(1)
    for step in range(3):  # a mask that is one step late would show
        x, seeds = rng.normal(size=(3, 5, 16)).astype(np.float32), SEEDS + np.int32(step - 2)
        loss, gradients = gradients_of(Tensor(x), Tensor(seeds))
        parameters = {p.name: torch.tensor(p.asnumpy(), dtype=torch.float64, requires_grad=True) for p in trained}
        expected = torch_loss(parameters, x, seeds)
        expected.backward()
        assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
        for parameter, gradient in zip(trained, gradients):
            reference = parameters[parameter.name].grad.numpy()
            assert np.abs(gradient.asnumpy() - reference).max() < 1e-5 * np.abs(reference).max(), parameter.name


def test_factors_stay_fp32_over_16_bit_weights_and_answer_in_the_inputs_type(mode):
    rng = np.random.default_rng(0)
    base = Linear(16, 8, dtype=ms.float16)
    a, b = rng.normal(size=(4, 16)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)
    layer = LoraLinear(base, a, b, 0.5, nn.Identity())
    x = rng.normal(size=(3, 16)).astype(np.float16)
    y = layer(Tensor(x))
    assert (y.dtype, layer.weight.dtype) == (ms.float16, ms.float16)
    assert {layer.lora_A.weight.dtype, layer.lora_B.weight.dtype} == {ms.float32}
    expected = x @ base.weight.asnumpy().astype(np.float32).T + base.bias.asnumpy() + x @ a.T @ b.T * 0.5
    assert np.abs(y.asnumpy() - expected).max() < 5e-3 * np.abs(expected).max()


def test_parameters_have_pefts_names():
    layer = LoraLinear(Linear(16, 8), np.ones((4, 16), np.float32), np.ones((8, 4), np.float32), 1.0, nn.Identity())
    parent = nn.CellList([layer])
    assert list(parent.parameters_dict()) == ["0.weight", "0.bias", "0.lora_A.weight", "0.lora_B.weight"]

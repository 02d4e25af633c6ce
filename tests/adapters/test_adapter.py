"""LoRA in the model: names, what is trained, saving and loading, merging."""

from collections.abc import Callable
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.experimental import optim
from safetensors.numpy import load_file, save_file

from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.adapters.files import WEIGHTS_NAME
from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.weights import load_weights


def values(model: nn.Cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in model.parameters_dict().items()}


def logits(model: nn.Cell, input_ids: np.ndarray) -> np.ndarray:
    return model(Tensor(input_ids)).asnumpy()


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))


def test_base_parameters_keep_their_names_and_values(mode, adapted, golden_dir):
    model, adapter = adapted(moved=False)
    base = load_file(golden_dir / "model.safetensors")
    found = values(model)
    assert found.keys() - base.keys() == set(adapter.plan.factors) | {"lora_dropout_seeds"}
    assert all(np.array_equal(found[name], tensor) for name, tensor in base.items())
    wrapper = nn.SequentialCell([model])  # one that renames what it wraps, as MindSpore's own may
    names = {name.removeprefix("0.") for name in wrapper.parameters_dict()}
    assert names - {"transformer.h.0.attn.c_attn.dropout.seeds"} == found.keys() - {"lora_dropout_seeds"}


@pytest.mark.slow_for("graph")
def test_a_new_adapter_changes_nothing(mode, adapted, golden_dir, family, input_ids):
    model, _ = adapted(moved=False)
    base = QwenVL(QwenVLConfig.from_file(golden_dir))
    load_weights(base, golden_dir, family)
    assert np.array_equal(logits(model, input_ids), logits(base.set_train(False), input_ids))


def test_factors_are_drawn_as_pefts_and_from_seed_and_name_alone(adapted, golden_dir, family, settings):
    _, adapter = adapted(moved=False)
    a = adapter.parameters()["transformer.h.0.attn.c_attn.lora_A.weight"].asnumpy()
    assert np.abs(a).max() <= 1 / np.sqrt(128) and np.abs(a.std() * np.sqrt(3 * 128) - 1) < 0.1
    assert not adapter.parameters()["transformer.h.0.attn.c_attn.lora_B.weight"].asnumpy().any()

    def draw(seed: int, *targets: str) -> dict[str, np.ndarray]:
        model = QwenVL(QwenVLConfig.from_file(golden_dir))
        drawn = inject(model, replace(settings, target_modules=targets), family, seed).parameters()
        return {name: parameter.asnumpy() for name, parameter in drawn.items() if "lora_A" in name}

    alone = draw(0, "h.1.mlp.w1")
    assert np.array_equal(alone["transformer.h.1.mlp.w1.lora_A.weight"], draw(0, "w1", "w2")[next(iter(alone))])
    assert not np.array_equal(alone[next(iter(alone))], draw(1, "h.1.mlp.w1")[next(iter(alone))])
    assert not np.array_equal(*draw(0, "w1").values())


class Training(nn.Cell):
    """The training loss after the seeds are set."""

    def __init__(self, model, seeds):
        super().__init__(auto_prefix=False)
        self.model = model
        self.seeds = seeds

    def construct(self, input_ids, labels, seeds):
        self.seeds(seeds)
        return self.model(input_ids, labels=labels)


def training(model, adapter, input_ids) -> Callable[[int], float]:
    """One step of AdamW on a batch with the seeds of that step; returns the loss."""
    network = Training(model, adapter.seeds).set_train(True)
    trained = network.trainable_params()
    assert {parameter.name for parameter in trained} == adapter.plan.shapes.keys()
    optimizer = optim.AdamW(trained, lr=1e-2)
    loss_and_gradients = ms.value_and_grad(network, None, trained)

    def step(number: int) -> float:
        seeds = Tensor(np.array([number, number + 100], np.int32))
        loss, gradients = loss_and_gradients(Tensor(input_ids), Tensor(input_ids), seeds)
        optimizer(gradients)
        return float(loss)

    return step


def test_training_moves_the_adapter_alone(mode, adapted, input_ids):
    model, adapter = adapted(moved=False)
    before = values(model)
    losses = list(map(training(model, adapter, input_ids), range(4)))
    after = values(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == adapter.plan.shapes.keys() | {"lora_dropout_seeds"}
    assert losses[-1] < losses[0]


@pytest.mark.slow  # two graphs that train; a resumed run of the Trainer is tested in tests/plugin/test_lora_training.py
def test_training_goes_on_from_the_adapter_alone(adapted, input_ids, tmp_path):
    model, adapter = adapted(moved=False)
    step = training(model, adapter, input_ids)
    step(0)
    adapter.save(tmp_path)
    other, loaded = adapted(moved=False)
    loaded.load(tmp_path)
    trained, found = values(model), values(other)
    assert all(np.array_equal(found[name], trained[name]) for name in adapter.plan.shapes)
    assert training(other, loaded, input_ids)(1) == step(1)


def test_without_dropout_there_are_no_seeds(adapted, settings):
    model, adapter = adapted(replace(settings, lora_dropout=0))
    assert adapter.seeds is None and "lora_dropout_seeds" not in model.parameters_dict()


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16])
def test_what_is_saved_is_loaded_bit_for_bit(adapted, tmp_path, dtype):
    _, adapter = adapted(dtype=dtype)
    adapter.save(tmp_path, base_path="the/base")
    _, other = adapted(moved=False, dtype=dtype)
    other.load(tmp_path)
    for name, parameter in adapter.parameters().items():
        loaded = other.parameters()[name]
        assert parameter.dtype == loaded.dtype == (dtype if name in adapter.plan.whole else ms.float32)
        assert parameter.asnumpy().tobytes() == loaded.asnumpy().tobytes(), name
    assert LoraConfig.read(tmp_path) == replace(adapter.plan.config, base_model_name_or_path="the/base")


def test_a_merged_layer_is_the_plain_one(mode, adapted):
    model, adapter = adapted()
    layer = dict(model.cells_and_names())["transformer.h.0.attn.c_attn"]
    x = Tensor(np.random.default_rng(3).normal(size=(2, 24, layer.weight.shape[1])).astype(np.float32))
    answer, unadapted = layer(x).asnumpy(), layer.adapted(x).asnumpy()
    adapter.merge()
    assert distance(layer(x).asnumpy(), answer) < 1e-6
    assert distance(layer.adapted(x).asnumpy(), answer) < 1e-6
    assert distance(unadapted, answer) > 0.01


def test_a_merged_model_answers_as_before_and_merging_is_undone_bit_for_bit(mode, adapted, input_ids):
    model, adapter = adapted()
    before, answer = values(model), logits(model, input_ids)
    adapter.merge()
    assert distance(logits(model, input_ids), answer) < 5e-6  # in torch, PEFT's merging moves them by 1.2e-6
    adapter.unmerge()
    assert all(np.array_equal(value, before[name]) for name, value in values(model).items())
    assert np.array_equal(logits(model, input_ids), answer)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_16_bit_weights_are_restored_too(adapted, dtype):
    model, adapter = adapted(dtype=dtype)
    before = values(model)
    adapter.merge()
    assert not np.array_equal(values(model)["transformer.h.0.mlp.w1.weight"], before["transformer.h.0.mlp.w1.weight"])
    adapter.unmerge()
    assert all(value.tobytes() == before[name].tobytes() for name, value in values(model).items())


def test_a_merged_adapter_is_neither_saved_nor_replaced_nor_merged_again(adapted, tmp_path):
    _, adapter = adapted()
    adapter.save(tmp_path)
    adapter.merge()
    for deed in (lambda: adapter.save(tmp_path), lambda: adapter.load(tmp_path), adapter.merge):
        with pytest.raises(RuntimeError, match="unmerge it before"):
            deed()


@pytest.fixture
def saved(adapted, tmp_path):
    adapted()[1].save(tmp_path)
    return tmp_path


def rewrite(directory, change) -> None:
    tensors = load_file(directory / WEIGHTS_NAME)
    change(tensors)
    save_file(tensors, directory / WEIGHTS_NAME)


def test_every_tensor_that_does_not_fit_is_listed(adapted, saved):
    prefix = "base_model.model.transformer.h.0.mlp"

    def change(tensors):
        del tensors[f"{prefix}.w1.lora_A.weight"]
        tensors[f"{prefix}.c_proj.lora_A.weight"] = np.zeros((4, 176), np.float32)
        tensors[f"{prefix}.w2.lora_B.weight"] = np.zeros((3, 4), np.float32)
        tensors["base_model.model.lm_head.weight"] = np.zeros((640, 128), np.int32)

    rewrite(saved, change)
    with pytest.raises(InputError) as refused:
        adapted()[1].load(saved)
    for line in (
        r"missing: transformer.h.0.mlp.w1.lora_A.weight [4, 128]",
        r"extra: transformer.h.0.mlp.c_proj.lora_A.weight [4, 176]",
        r"wrong shape: transformer.h.0.mlp.w2.lora_B.weight is [3, 4], expected [352, 4]",
        r"element type: lm_head.weight is int32, expected one of",
    ):
        assert line in str(refused.value)


def test_a_file_that_is_no_adapters_is_named(adapted, saved):
    rewrite(saved, lambda tensors: tensors.update(stray=np.zeros(1, np.float32)))
    with pytest.raises(InputError, match="tensor 'stray' is none of an adapter's"):
        adapted()[1].load(saved)
    (saved / WEIGHTS_NAME).unlink()
    with pytest.raises(InputError, match=f"{WEIGHTS_NAME}: no such file"):
        adapted()[1].load(saved)
    (saved / CONFIG_NAME).unlink()
    with pytest.raises(InputError, match=f"{CONFIG_NAME}: no such file"):
        adapted()[1].load(saved)
    with pytest.raises(InputError, match="no such directory"):
        adapted()[1].load(saved / "nowhere")


@pytest.mark.parametrize(("setting", "value"), [("r", 8), ("lora_alpha", 32)])
def test_another_rank_or_scaling_is_refused(adapted, saved, settings, setting, value):
    own = getattr(settings, setting)
    with pytest.raises(InputError, match=f"the adapter has {setting} {own}, the settings of this run say {value}"):
        adapted(replace(settings, **{setting: value}))[1].load(saved)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_the_same_base_in_16_bits_is_the_same_base(adapted, saved, dtype):
    adapted(dtype=dtype)[1].load(saved)


def test_another_base_is_refused(adapted, saved):
    model, adapter = adapted()
    name = "transformer.h.1.mlp.w2.weight"
    parameter = model.parameters_dict()[name]
    parameter.set_data(parameter * 1.02)  # no more than fine-tuning does
    message = f"{saved} fits another base than the one loaded: 1 of the 8 weights .*, {name} among them"
    with pytest.raises(InputError, match=message):
        adapter.load(saved)


def test_a_model_that_has_answered_answers_with_the_adapter_from_then_on(golden_dir, family, settings):
    model = QwenVL(QwenVLConfig.from_file(golden_dir))
    compiled_before = model.decoders
    inject(model, settings, family, seed=0)
    assert model.decoders is not compiled_before

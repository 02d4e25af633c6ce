"""Graphs of training steps, kept: found again by what they are made of, and by nothing less."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from preloaded import own_environment, run_script

from ms_impl.generate import fingerprint as fingerprint_module
from ms_impl.generate import graph_cache
from ms_impl.generate.fingerprint import NotCacheable, fingerprint
from ms_impl.generate.graph_cache import SWITCH
from ms_impl.generate.graph_store import GraphStore
from ms_impl.plugin.run import register_all
from ms_impl.train.loss_log import read_losses

register_all()

from mindformers.core.lr import CosineWithWarmUpLR  # noqa: E402 (after our classes are registered)
from mindformers.core.optim import build_optim  # noqa: E402
from mindformers.modules.transformer import (  # noqa: E402
    TransformerOpParallelConfig,
    TransformerRecomputeConfig,
)
from mindformers.wrapper import build_wrapper  # noqa: E402

from ms_impl.plugin.family_classes import config_class, model_class  # noqa: E402

ROOT = Path(__file__).parents[2]
LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ["c_attn"]}
SCHEDULE = {"learning_rate": 1e-3, "warmup_steps": 2, "total_steps": 10}
SCALER = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 8, "scale_factor": 2, "scale_window": 10}
COLUMNS = (Tensor(np.zeros((2, 8), np.int32)), Tensor(np.zeros((2, 8), np.float32)))


@pytest.fixture(autouse=True)
def static_graphs():
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=mode)


def step_of(network: nn.Cell, schedule=None, optimizer=None, **wrapper) -> nn.Cell:
    """The step cell of such settings in a YAML."""
    rate = CosineWithWarmUpLR(**SCHEDULE | (schedule or {})) if schedule is not None else 1e-3
    adamw = {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "learning_rate": rate}
    groups = [{"params": network.trainable_params()}]
    return build_wrapper(
        {"type": "MFTrainOneStepCell", "use_clip_grad": True, "max_grad_norm": 1.0, "scale_sense": 1.0, **wrapper},
        default_args={
            "network": network.set_train(),
            "optimizer": build_optim(adamw | (optimizer or {}), default_args={"params": groups}),
        },
    )


@pytest.fixture
def step(workspace):
    """Make the step of a small Qwen-VL: ``model`` is the section of that name, the others are as in ``step_of``."""

    def make(model=None, recompute=False, training=True, **others) -> nn.Cell:
        parallel = TransformerOpParallelConfig(recompute=TransformerRecomputeConfig(recompute=recompute))
        section = config_class("qwenvl")(
            workspace / "model", **{"rows": 2, "parallel_config": parallel} | (model or {})
        )
        return step_of(model_class("qwenvl")(section), **others).set_train(training)

    return make


def test_steps_of_equal_settings_have_one_fingerprint(step):
    settings = {"model": {"lora": LORA}, "recompute": True, "schedule": {}, "scale_sense": SCALER, "accumulation": 2}
    assert fingerprint(step(**settings), COLUMNS) == fingerprint(step(**settings), COLUMNS)


CHANGES = {
    "weight decay": {"optimizer": {"weight_decay": 0.2}},
    "first beta": {"optimizer": {"betas": [0.8, 0.95]}},
    "second beta": {"optimizer": {"betas": [0.9, 0.9]}},
    "epsilon": {"optimizer": {"eps": 1e-6}},
    "another optimizer": {"optimizer": {"type": "AdamWDecayAll"}},
    "a schedule": {"schedule": {}},
    "its rate": {"schedule": {"learning_rate": 2e-3}},
    "its warm-up": {"schedule": {"warmup_steps": 3}},
    "its length": {"schedule": {"total_steps": 11}},
    "its end": {"schedule": {"lr_end": 1e-5}},
    "what is frozen": {"model": {"freeze_vision": True}},
    "LoRA": {"model": {"lora": LORA}},
    "its rank": {"model": {"lora": LORA | {"r": 3}}},
    "its scale": {"model": {"lora": LORA | {"lora_alpha": 8}}},
    "its dropout": {"model": {"lora": LORA | {"lora_dropout": 0.2}}},
    "no dropout": {"model": {"lora": LORA | {"lora_dropout": 0.0}}},
    "its targets": {"model": {"lora": LORA | {"target_modules": ["w1"]}}},
    "dtype of activations": {"model": {"compute_dtype": "float16"}},
    "dtype of parameters": {"model": {"param_init_type": "float16"}},
    "recompute": {"recompute": True},
    "micro-batches": {"accumulation": 2},
    "norm": {"max_grad_norm": 2.0},
    "no clipping": {"use_clip_grad": False},
    "scaler": {"scale_sense": SCALER},
    "its window": {"scale_sense": SCALER | {"scale_window": 11}},
    "evaluation": {"training": False},
}


def test_each_setting_makes_another_fingerprint(step):
    found = {"none": fingerprint(step(), COLUMNS)}
    found |= {name: fingerprint(step(**change), COLUMNS) for name, change in CHANGES.items()}
    equal = {
        name: [other for other, value in found.items() if value == found[name] and other != name] for name in found
    }
    assert not {name: others for name, others in equal.items() if others}


def test_the_optimizer_must_count(step, monkeypatch):
    """Negative control: without it, another weight decay has the same fingerprint."""
    add = fingerprint_module._Description.add
    less = lambda self, value: None if isinstance(value, nn.Optimizer) else add(self, value)  # noqa: E731
    monkeypatch.setattr(fingerprint_module._Description, "add", less)
    assert fingerprint(step(), COLUMNS) == fingerprint(step(**CHANGES["weight decay"]), COLUMNS)


def test_a_setting_of_the_whole_process_makes_another_fingerprint(step):
    before = fingerprint(step(), COLUMNS)
    ms.set_auto_parallel_context(gradients_mean=True)
    try:
        assert fingerprint(step(), COLUMNS) != before
    finally:
        ms.reset_auto_parallel_context()


SCALE = 2.0
_halves = ops.MultitypeFuncGraph("halves")
_map = ops.HyperMap()


@_halves.register("Tensor")
def _half(value: Tensor) -> Tensor:
    return value * 0.5


def _itself(value: float) -> float:
    return value


class Quadratic(nn.Cell):
    """A loss that is compiled in a second: squares of its parameters, less the data, by what this module says."""

    def __init__(self):
        super().__init__()
        self.matrix = Parameter(Tensor(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)), name="matrix")
        self.vector = Parameter(Tensor(np.array([0.5, -2, 1], np.float32)), name="vector")

    def construct(self, data: Tensor) -> Tensor:
        matrix, vector = _map(_halves, (self.matrix, self.vector))
        return (ops.square(matrix - data.mean()).sum() + ops.square(vector - data.mean()).sum()) * SCALE


def test_what_a_construct_reads_of_its_module_counts(monkeypatch):
    before = fingerprint(Quadratic(), ())
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(Quadratic(), ()) != before
    monkeypatch.undo()
    assert fingerprint(Quadratic(), ()) == before
    _halves.register("Number")(lambda value: value)
    try:
        with pytest.raises(NotCacheable, match="lambda"):
            fingerprint(Quadratic(), ())
        _halves.entries[-1] = (_halves.entries[-1][0], _itself)
        assert fingerprint(Quadratic(), ()) != before
    finally:
        del _halves.entries[-1]


def test_a_function_in_place_of_a_method_counts(monkeypatch):
    before = fingerprint(Quadratic(), ())

    def scaled_by(factor: float):
        def construct(self, data):
            return self.vector.sum() * factor

        return construct

    for factor in (1.0, 2.0):
        monkeypatch.setattr(Quadratic, "construct", scaled_by(factor))
        after = fingerprint(Quadratic(), ())
        assert after != before
        before = after


def test_overloads_that_no_module_has_are_not_known():
    network = Quadratic()
    network.hidden = ops.MultitypeFuncGraph("hidden")
    with pytest.raises(NotCacheable, match="MultitypeFuncGraph"):
        fingerprint(network, ())


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    """Where graphs are kept: an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(SWITCH, raising=False)
    # The test's own file may be younger than this process.
    monkeypatch.setattr(fingerprint_module, "STARTED", fingerprint_module.STARTED + 1e9)
    fingerprint_module.sources.cache_clear()
    return tmp_path / "vlm_mindspore/graphs"


@pytest.fixture
def written(graphs, monkeypatch) -> list[str]:
    """The keys of graphs that were compiled, and kept: one that is found is not written."""
    keys, write = [], GraphStore.write
    monkeypatch.setattr(GraphStore, "write", lambda self, key, graph: (keys.append(key), write(self, key, graph)))
    return keys


def trained(network: nn.Cell, **settings) -> list[float]:
    """The losses of some steps, and the parameters after them."""
    step = step_of(network, schedule={}, **settings)
    losses = [float(step(Tensor([scale], ms.float32))[0].asnumpy()) for scale in (1.0, 3.0, -2.0)]
    return [*losses, *network.matrix.asnumpy().ravel().tolist()]


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.is_dir() else {}


def test_a_kept_step_trains_as_a_compiled_one(graphs, written, monkeypatch):
    decayed = {"optimizer": {"weight_decay": 50.0}}
    monkeypatch.setenv(SWITCH, "off")
    plain, plain_decayed = trained(Quadratic()), trained(Quadratic(), **decayed)
    assert not written and plain != plain_decayed
    monkeypatch.delenv(SWITCH)
    for _ in range(3):
        assert trained(Quadratic()) == plain
    assert len(written) == 1, "the graph was compiled again"
    assert trained(Quadratic(), **decayed) == plain_decayed
    assert len(written) == len(set(written)) == 2
    path = graphs / f"{written[0]}.graph"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert trained(Quadratic()) == plain
    assert GraphStore(graphs).read(written[0])


def test_the_store_is_asked_once_for_all_steps(graphs, monkeypatch):
    asked, read = [], GraphStore.read
    monkeypatch.setattr(GraphStore, "read", lambda self, key: (asked.append(key), read(self, key))[1])
    step = step_of(Quadratic(), schedule={}).set_train()
    for _ in range(3):
        step(Tensor([1.0], ms.float32))
    assert len(asked) == 1


def test_a_step_that_cannot_be_written_trains_and_the_next_graphs_are_kept(written, monkeypatch):
    """Without clipping there is no norm: a Python object in the graph."""
    monkeypatch.setenv(SWITCH, "off")
    plain = trained(Quadratic(), use_clip_grad=False)
    monkeypatch.delenv(SWITCH)
    assert trained(Quadratic(), use_clip_grad=False) == plain and not written
    assert trained(Quadratic()) == trained(Quadratic())
    assert len(written) == 1


def test_the_key_matters(graphs, monkeypatch):
    """Negative control: found by its shapes alone, the graph of one setting trains for another, wrongly."""
    monkeypatch.setattr(graph_cache, "fingerprint", lambda cell, inputs: str(graph_cache.form(inputs)))
    assert trained(Quadratic()) == trained(Quadratic(), optimizer={"weight_decay": 50.0})


def run(folder: Path, arguments, *more) -> list[dict]:
    """One run of the Trainer with a cache in ``folder``; what it logged of each step."""
    environment = own_environment() | {"XDG_CACHE_HOME": str(folder)}
    options = "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 2}]"
    words = [*arguments, "--batch_size", "2", *more, "--options", options]
    ran = run_script(ROOT / "run_mindformer.py", *words, folder=folder, environment=environment)
    assert ran.returncode == 0, ran.stderr
    return read_losses(folder / "output/losses/rank_0.jsonl")


def same(first: list[dict], second: list[dict]) -> bool:
    return [[step[key] for key in ("loss", "grad_norm")] for step in first] == [
        [step[key] for key in ("loss", "grad_norm")] for step in second
    ]


def test_a_second_run_takes_the_graph_of_the_first_and_so_does_one_that_resumes(finetune_arguments, tmp_path, request):
    first = run(tmp_path, finetune_arguments)
    kept = times(tmp_path / "vlm_mindspore/graphs")
    assert len(kept) == 1
    weights = (tmp_path / "output/checkpoint/step_00000003/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "output/checkpoint/step_00000003")
    run(tmp_path, finetune_arguments, "--resume_training", "True")
    used = times(tmp_path / "vlm_mindspore/graphs")
    assert used.keys() == kept.keys() and used != kept, "a graph was compiled again"
    assert (tmp_path / "output/checkpoint/step_00000003/model.safetensors").read_bytes() == weights
    shutil.rmtree(tmp_path / "output")
    second = run(tmp_path, finetune_arguments)
    assert same(first, second) and times(tmp_path / "vlm_mindspore/graphs").keys() == kept.keys()
    seconds = [steps[0]["seconds"] for steps in (first, second)]
    request.config.said["graphs of training"] = lambda: [
        f"first step: {seconds[0]:.1f} s compiled, {seconds[1]:.1f} s kept"
    ]
    assert seconds[1] < seconds[0] / 2


@pytest.mark.slow
def test_a_changed_setting_trains_as_without_the_cache(finetune_arguments, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("kept", "off")]
    for folder in folders:
        folder.mkdir()
    first = run(folders[0], finetune_arguments)
    shutil.rmtree(folders[0] / "output")
    changed = ["--optimizer.weight_decay", "50"]
    kept = run(folders[0], finetune_arguments, *changed)
    monkeypatch.setitem(os.environ, SWITCH, "off")
    assert same(kept, run(folders[1], finetune_arguments, *changed)) and not same(kept, first)

"""What is printed, written and stopped while a small network trains for real."""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Model, Parameter, Tensor, nn, ops
from mindspore.dataset import GeneratorDataset
from safetensors.numpy import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ms_impl.errors import InputError
from ms_impl.plugin.run import register_all
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer
from ms_impl.train.loss_log import read_losses

register_all()

from mindformers.core import build_callback, build_lr, build_optim  # noqa: E402 (after our classes are registered)
from mindformers.wrapper import build_wrapper  # noqa: E402
from mindspore.train.callback import Callback  # noqa: E402

from ms_impl.plugin.callbacks import with_step_callbacks  # noqa: E402
from ms_impl.plugin.run_state import RunState  # noqa: E402

OVERFLOWING = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 2.0**126, "scale_factor": 2**32,
               "scale_window": 1000}  # fmt: skip


@dataclass
class SmallPlan:
    """Steps that differ in all that a plan says of them."""

    total_steps: int = 4

    def useful_tokens(self, step: int) -> int:
        return 10 + step

    def all_tokens(self, step: int) -> int:
        return 20

    def epoch_at(self, step: int) -> float:
        return step / 2

    def records(self, step: int) -> list[str]:
        return [f"record_{2 * step}", f"record_{2 * step + 1}"]


@dataclass
class SmallFeed:
    plan: SmallPlan
    first_step: int


class Distance(nn.Cell):
    """Half the squared distance of two groups of parameters from the data."""

    def __init__(self):
        super().__init__()
        self.left = Parameter(Tensor(np.array([1, 2, 3], np.float32)), name="left")
        self.right = Parameter(Tensor(np.array([-1, 2], np.float32)), name="right")

    def construct(self, data):
        return (ops.square(self.left - data.mean()).sum() + ops.square(self.right - data.mean()).sum()) / 2


class Saver(Callback):
    """Keeps the parameters after each step, as a checkpoint would, and takes its time."""

    def __init__(self, network, seconds):
        self.network = network
        self.seconds = seconds
        self.saved = []

    def on_train_step_end(self, run_context):
        self.saved.append(values(self.network))
        time.sleep(self.seconds)


def values(network) -> np.ndarray:
    return np.concatenate([parameter.asnumpy() for parameter in network.trainable_params()])


@dataclass
class Trained:
    output: Path
    network: Distance
    saver: Saver


@pytest.fixture
def train(tmp_path):
    """Train on such data, one number a step, with the callbacks that a YAML names."""

    def train(data, rates=(1e-3,), every=1, done=0, schedules=None, saving=0.0, **settings) -> Trained:
        network = Distance()
        groups = [{"params": [parameter], "lr": rate} if len(rates) > 1 else {"params": [parameter]}
                  for parameter, rate in zip(network.trainable_params(), rates * 2)]  # fmt: skip
        optimizer = build_optim(
            {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0, "learning_rate": rates[0]},
            default_args={"params": groups},
        )
        step = build_wrapper(
            {"type": "MFTrainOneStepCell", "use_clip_grad": True, "scale_sense": 1.0, **settings},
            default_args={"network": network.set_train(), "optimizer": optimizer, **(schedules or {})},
        )
        dataset = GeneratorDataset([(np.float32(x),) for x in data], ["data"], shuffle=False).batch(1)
        run = RunState(tmp_path, feed=SmallFeed(SmallPlan(), first_step=done))
        callbacks = build_callback([{"type": "LossRecorder"}, {"type": "MFLossMonitor", "per_print_times": every}])
        trained = Trained(tmp_path, network, Saver(network, saving))
        callbacks = with_step_callbacks([trained.saver, *callbacks], run)
        try:
            Model(step).train(1, dataset, callbacks=callbacks, dataset_sink_mode=False)
        except InputError as error:
            error.trained = trained
            raise
        return trained

    return train


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def test_a_step_has_its_line_its_record_and_its_curves(train, capsys):
    trained = train([0.5, 0.25, 1.0, 2.0])
    steps = read_losses(trained.output / "losses/rank_0.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert [step["useful_tokens"] for step in steps] == [10, 11, 12, 13]
    assert [step["epoch"] for step in steps] == [0.5, 1.0, 1.5, 2.0]
    start = values(Distance())
    assert steps[0]["loss"] == pytest.approx(np.square(start - 0.5).sum() / 2, rel=1e-6)
    assert steps[0]["grad_norm"] == pytest.approx(np.linalg.norm(start - 0.5), rel=1e-6)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]
    assert f"loss {steps[2]['loss']:.4f}  lr 1.00e-03  grad norm" in lines[2] and "(60% of" in lines[2]
    events = EventAccumulator(str(trained.output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    np.testing.assert_allclose([e.value for e in events.Scalars("useful_share")], [0.5, 0.55, 0.6, 0.65], rtol=1e-6)


def test_the_time_of_a_step_is_without_saving(train):
    trained = train([0.5, 0.25], saving=3.0)
    assert read_losses(trained.output / "losses/rank_0.jsonl")[1]["seconds"] < 1.5


def test_a_resumed_run_goes_on_in_its_logs(train, capsys):
    train([0.5, 0.25, 1.0])
    trained = train([1.0, 2.0], done=2)
    assert [step["step"] for step in read_losses(trained.output / "losses/rank_0.jsonl")] == [1, 2, 3, 4]
    events = EventAccumulator(str(trained.output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert "step 4/4  epoch 2.00" in capsys.readouterr().out


def test_per_print_times_leaves_out_lines_but_no_records(train, capsys):
    trained = train([1.0, 2.0, 3.0, 4.0], every=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line[:8] for line in lines] == ["step 2/4", "step 4/4"]
    assert len(read_losses(trained.output / "losses/rank_0.jsonl")) == 4


def test_groups_with_their_own_rates_are_all_seen(train):
    trained = train([1.0], rates=(1e-3, 1e-4))
    assert read_losses(trained.output / "losses/rank_0.jsonl")[0]["lr"] == pytest.approx([1e-3, 1e-4])


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE], indirect=True)  # MindFormers makes them once in a process
def test_schedules_of_groups_are_all_seen(train, mode):
    """As MindFormers' ``grouped_lr_schedule`` makes them (trainer/base_trainer.py:596)."""
    rates = (schedule(1e-3), schedule(1e-4))
    schedules = {"lr_scheduler": rates[0], "grouped_lr_scheduler": [{"lr_scheduler": rates[1]}]}
    trained = train([1.0, 2.0], rates=rates, schedules=schedules)
    lr = [step["lr"] for step in read_losses(trained.output / "losses/rank_0.jsonl")]
    np.testing.assert_allclose(lr, [[1e-3, 1e-4], [5e-4, 5e-5]], rtol=1e-5)


def schedule(rate: float):
    """From ``rate`` down to 0 in two steps."""
    return build_lr({"type": "LinearWithWarmUpLR", "learning_rate": rate, "total_steps": 2, "warmup_steps": 0})


def test_an_unknown_gradient_norm_is_null(train):
    trained = train([1.0], use_clip_grad=False)
    assert read_losses(trained.output / "losses/rank_0.jsonl")[0]["grad_norm"] is None


def test_an_overflow_of_the_loss_scale_is_said_and_training_goes_on(train, capsys):
    trained = train([-10.0, 0.5], scale_sense=OVERFLOWING)
    steps = [json.loads(line) for line in (trained.output / "losses/rank_0.jsonl").read_text().splitlines()]
    assert [step["overflow"] for step in steps] == [True, False]
    assert np.isfinite([step["loss"] for step in steps]).all()
    np.testing.assert_array_equal(trained.saver.saved[0], values(Distance()))
    assert np.abs(trained.saver.saved[1] - trained.saver.saved[0]).max() > 1e-4
    assert capsys.readouterr().out.count("not updated") == 1


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("scale_sense", [1.0, {**OVERFLOWING, "loss_scale_value": 64}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_saved(train, scale_sense, value):
    """And the step itself has left the parameters as they were."""
    with pytest.raises(InputError, match=rf"step 3: the loss is {value}.*: record_4; record_5") as caught:
        train([0.5, 1.0, value, 2.0], scale_sense=scale_sense)
    trained = caught.value.trained
    assert len(trained.saver.saved) == 2
    np.testing.assert_array_equal(values(trained.network), trained.saver.saved[1])
    last = read_losses(trained.output / "losses/rank_0.jsonl")[-1]
    assert last["step"] == 3 and last["loss"] is None


def test_run_mindformer_ends_with_an_error_that_names_the_conversations(
    workspace, run_mindformer, finetune_arguments, tmp_path
):
    """The embedding of one token is not a number; the second of three batches has a conversation with that token."""
    shutil.copytree(workspace / "model", tmp_path / "model")
    conversations = json.loads((workspace / "conversations.json").read_text())
    conversations[3]["conversations"][0]["value"] += "~"
    (tmp_path / "conversations.json").write_text(json.dumps(conversations))
    weights = load_file(tmp_path / "model/model.safetensors")
    (token,) = QwenVLTokenizer(tmp_path / "model/qwen.tiktoken", num_queries=1).encode("~")
    weights["transformer.wte.weight"][token] = np.nan
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    run = run_mindformer(
        tmp_path, *finetune_arguments, "--load_checkpoint", tmp_path / "model", "--batch_size", 2,
        "--train_dataset.data_loader.annotation_file", tmp_path / "conversations.json",
        "--options", "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 1}]",
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    last = run.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("error: step 2: the loss is nan") and "'record_2'" in last and "'record_3'" in last
    assert "Traceback" not in run.stderr
    assert [step["loss"] is None for step in read_losses(tmp_path / "output/losses/rank_0.jsonl")] == [False, True]
    saved = [path.name for path in (tmp_path / "output/checkpoint").rglob("*")]
    assert any(re.search(r"_0*1\b", name) for name in saved) and not any(re.search(r"_0*2\b", name) for name in saved)

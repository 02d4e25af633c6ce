"""How the model is cut for Ascend: what is refused, that strategies fit the shapes, what MindSpore makes of them."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import pytest

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.io.rules import MINDSPORE
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.qwenvl.parallel import ParallelPlan, strategies

ROOT = Path(__file__).parents[2]
NOT_POSSIBLE = 77  # as in cut_graph.py

CONFIG_FILE = ROOT / "configs/qwenvl/qwenvl_9.6b/config.json"
CONFIG = QwenVLConfig.from_file(CONFIG_FILE)
EIGHT = ParallelPlan(data_parallel=2, model_parallel=4, pipeline_stage=1, micro_batch_num=1, vocab_emb_dp=False)
PARAMETERS = {"matmul": ("weight", 1), "bias_add": ("bias", 1), "gather": ("weight", 0)}  # and which input it is
PLANS = list(itertools.product((1, 2, 8), (1, 2, 4, 8, 16, 32), (True, False)))


@pytest.mark.parametrize("changes, message", [
    ({"data_parallel": 4}, "data_parallel 4 × model_parallel 4 × pipeline_stage 1 must be the number of ranks, 8"),
    ({"data_parallel": 1, "pipeline_stage": 2}, "micro_batch_num 1 must be at least pipeline_stage, 2"),
    ({"model_parallel": 3}, "model_parallel 3 must divide num_attention_heads, 32"),
    ({"model_parallel": 64}, "model_parallel 64 must divide num_attention_heads, 32"),
    ({"pipeline_stage": 33}, "pipeline_stage 33 must not exceed num_hidden_layers, 32"),
    ({"model_parallel": 5}, "model_parallel 5 must divide vocab_size, 151936, unless vocab_emb_dp is True"),
    ({"model_parallel": 6}, "model_parallel 6 must divide the width of the feed-forward layer, 11008"),
])  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(changes, message):
    EIGHT.check(CONFIG, 8)
    with pytest.raises(InputError, match="^parallel_config: ") as refusal:
        replace(EIGHT, **changes).check(CONFIG, 8)
    assert message in str(refusal.value)


def test_a_whole_vocabulary_need_not_be_divided():
    config = replace(CONFIG, vocab_size=151_860 + 1)
    replace(EIGHT, vocab_emb_dp=True).check(config, 8)
    with pytest.raises(InputError, match="vocab_size"):
        EIGHT.check(config, 8)


@pytest.mark.parametrize("stages, layers", [(1, 32), (4, 32), (3, 32), (7, 32), (32, 32)])
def test_stages_hold_consecutive_layers_evenly(stages, layers):
    places = [replace(EIGHT, pipeline_stage=stages).stage_of(layer, layers) for layer in range(layers)]
    assert places == sorted(places)
    sizes = Counter(places)
    assert set(sizes) == set(range(stages)) and max(sizes.values()) - min(sizes.values()) <= 1


@pytest.mark.parametrize("dp, mp, vocab_emb_dp", PLANS)
def test_strategies_divide_the_weights_of_the_full_size(dp, mp, vocab_emb_dp):
    plan = ParallelPlan(dp, mp, 1, 1, vocab_emb_dp)
    plan.check(CONFIG, dp * mp)
    shapes = families.get("qwenvl").resolve("weights").shapes(CONFIG, MINDSPORE)
    matched = 0
    for path, strategy in strategies(plan, CONFIG).items():
        for axes in strategy:
            assert dp * mp % math.prod(axes) == 0, path
        cell, _, operator = path.rpartition(".")
        if operator in PARAMETERS:
            parameter, place = PARAMETERS[operator]
            shape, cuts = shapes[f"{cell}.{parameter}"], strategy[place]
            assert len(shape) == len(cuts) and all(size % cut == 0 for size, cut in zip(shape, cuts)), path
            matched += 1
    assert matched == 32 * 6 + 48 * 8 + 2


def test_nothing_is_cut_where_mindspore_does_not_cut(config):
    model = QwenVL(config)
    model.parallelize(SimpleNamespace(data_parallel=3, model_parallel=5))
    assert ms.get_auto_parallel_context("parallel_mode") == "stand_alone"
    assert "in_strategy" not in model.lm_head.matmul.attrs


def cut(folder: Path, plan: ParallelPlan, ranks: int = 8, **settings) -> subprocess.CompletedProcess:
    """Compile a model for Ascend as one rank of several would."""
    values = {
        "config_file": str(CONFIG_FILE),
        "batch": 8,
        "layers": 2,
        "vision_layers": 1,
        "param_dtype": "float32",
        **vars(plan),
        **settings,
    }
    environment = {**os.environ, "MS_SIMULATION_LEVEL": "0", "RANK_SIZE": str(ranks), "GLOG_v": "3"}
    folder.mkdir()
    command = [sys.executable, "-m", "ms_impl.qwenvl.cut_graph", folder, json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode == NOT_POSSIBLE:
        pytest.skip("this MindSpore cannot be told that its device is Ascend")
    return done


def graph(done: subprocess.CompletedProcess) -> tuple[dict[str, list[int]], Counter]:
    """What each parameter is cut to, and how often the graph communicates."""
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["parameters"], Counter(found["communication"])


def test_a_decoder_layer_communicates_three_times_and_a_vision_layer_never(tmp_path):
    parameters, small = graph(cut(tmp_path / "small", EIGHT))
    _, large = graph(cut(tmp_path / "large", EIGHT, layers=3, vision_layers=3))
    assert large - small == {"AllReduce": 2, "AllGather": 1} and not small - large
    hidden, ffn, layer = CONFIG.hidden_size, CONFIG.ffn_size, "transformer.h.1"
    assert parameters[f"{layer}.attn.c_attn.weight"] == [3 * hidden // 4, hidden]
    assert parameters[f"{layer}.attn.c_attn.bias"] == [3 * hidden // 4]
    assert parameters[f"{layer}.attn.c_proj.weight"] == [hidden, hidden // 4]
    assert parameters[f"{layer}.mlp.w1.weight"] == parameters[f"{layer}.mlp.w2.weight"] == [ffn // 4, hidden]
    assert parameters[f"{layer}.mlp.c_proj.weight"] == [hidden, ffn // 4]
    assert parameters["lm_head.weight"] == parameters["transformer.wte.weight"] == [CONFIG.vocab_size // 4, hidden]


def test_mindspore_refuses_a_batch_that_its_strategies_do_not_divide(tmp_path):
    done = cut(tmp_path / "odd", EIGHT, batch=3)
    assert done.returncode != 0 and "cannot be divisible by strategy value 2" in done.stdout + done.stderr


def test_a_wrong_plan_is_the_users_error(tmp_path):
    done = cut(tmp_path / "wrong", replace(EIGHT, model_parallel=2))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: parallel_config: data_parallel 2 × model_parallel 2 × pipeline_stage 1 must be" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank, own, foreign", [
    (0, ["transformer.wte.weight", "transformer.h.0.", "transformer.visual."], ["transformer.h.1.", "lm_head."]),
    (4, ["transformer.h.1.", "transformer.ln_f.", "lm_head."], ["transformer.h.0.", "transformer.visual."]),
])  # fmt: skip
def test_a_pipeline_stage_holds_its_layers_alone(tmp_path, rank, own, foreign):
    plan = replace(EIGHT, model_parallel=2, pipeline_stage=2, micro_batch_num=4)
    parameters, communication = graph(cut(tmp_path / "stage", plan, rank=rank, gradients=True))
    assert all(any(name.startswith(prefix) for name in parameters) for prefix in own)
    assert not [name for name in parameters if name.startswith(tuple(foreign))]
    assert communication["Send" if rank == 0 else "Receive"] == plan.micro_batch_num


@pytest.mark.slow
def test_optimizer_parallel_gathers_what_it_spreads(tmp_path):
    _, plain = graph(cut(tmp_path / "plain", EIGHT, gradients=True))
    _, spread = graph(cut(tmp_path / "spread", EIGHT, gradients=True, optimizer=True))
    assert spread["AllGather"] > plain["AllGather"]

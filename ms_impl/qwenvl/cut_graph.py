"""MindSpore's semi-automatic parallelism, up to the cut graph, on a machine without Ascend. Started as a process.

    MS_SIMULATION_LEVEL=0 RANK_SIZE=8 python -m ms_impl.qwenvl.cut_graph FOLDER '{"data_parallel": 2, …}'

builds a QwenVL of full width and few layers for Ascend, without values, sets its strategies, compiles its loss (with
"gradients" also those) as one rank of RANK_SIZE would, and prints as JSON what each parameter is cut to and
how often the cut graph communicates. Nothing is computed: only that MindSpore accepts the graph for Ascend and the
strategies, and what it makes of them, is shown.

MindSpore 2.9.0 has these passes in its CPU library, but they ask for a device target that only Ascend's libraries can
set. ``pretend_ascend`` writes it into MindSpore's context.
"""

from __future__ import annotations

import collections
import ctypes
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore._c_expression import AutoParallelContext, MSContext
from mindspore.common.api import _cell_graph_executor
from mindspore.nn.utils import no_init_parameters
from mindspore.ops.operations import comm_ops

from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL

NOT_POSSIBLE = 77  # the exit status where this MindSpore's context is not as expected
USER_ERROR = 2

LENGTH, SLOTS = 512, 1
COMMUNICATION = re.compile(r"^ +%\d+\([^)]*\) = (AllGather|AllReduce|ReduceScatter|AlltoAll\w*|Send|Receive)\(", re.M)
WORD = ctypes.sizeof(ctypes.c_void_p)
CONTEXT_WORDS = 128  # of MindSpore's context, in which the target is looked for
FOREVER = 1 << 30  # owners, so that the string is never freed


class StringHead(ctypes.Structure):
    """What precedes the characters of a reference-counted std::string, the kind that MindSpore is built with."""

    _fields_ = [("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t), ("owners", ctypes.c_ssize_t)]


def pretend_ascend(found: bytes = b"CPU", wanted: bytes = b"Ascend") -> None:
    """Make "Ascend" the device target of MindSpore's context: put another string in the place of "CPU"."""
    head_size = ctypes.sizeof(StringHead)
    text = ctypes.create_string_buffer(bytes(StringHead(len(wanted), len(wanted), FOREVER)) + wanted)
    pretend_ascend.text = text  # lives as long as the process
    areas = readable_areas()
    context = ctypes.c_void_p.from_address(id(MSContext.get_instance()) + object.__basicsize__).value
    for place in range(context, context + CONTEXT_WORDS * WORD, WORD):
        characters = ctypes.c_void_p.from_address(place).value or 0
        if not any(begin <= characters - head_size and characters + len(found) <= end for begin, end in areas):
            continue
        length = StringHead.from_address(characters - head_size).length
        if length == len(found) and ctypes.string_at(characters, length) == found:
            ctypes.c_void_p.from_address(place).value = ctypes.addressof(text) + head_size
            break
    if ms.get_context("device_target") != wanted.decode():
        sys.exit(NOT_POSSIBLE)


def readable_areas() -> list[tuple[int, int]]:
    """Where memory is mapped for reading."""
    fields = (line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines())
    return [tuple(int(end, 16) for end in span.split("-")) for span, rights in fields if rights.startswith("r")]


def group_size(group: str) -> int:
    """Ranks of a group, whose number MindSpore's names begin with; without a cluster, MindSpore says RANK_SIZE."""
    number = group.partition("-")[0]
    return int(number) if number.isdigit() else int(os.environ["RANK_SIZE"])


class Step(nn.Cell):
    """The loss and its gradients."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        weights = ms.ParameterTuple(model.trainable_params())
        self.gradients = ms.value_and_grad(model, None, weights)
        self.accumulated = weights.clone(prefix="accu_grads", init="zeros")  # a pipeline looks for them by this name

    def construct(self, *columns):
        return ops.depend(self.accumulated, self.gradients(*columns))


def main(folder: str, settings: dict) -> None:
    ranks = int(os.environ["RANK_SIZE"])
    ms.set_context(mode=ms.GRAPH_MODE, save_graphs=1, save_graphs_path=folder)
    pretend_ascend()
    comm_ops.get_group_size = group_size
    ms.set_auto_parallel_context(
        device_num=ranks, global_rank=settings.get("rank", 0), parallel_mode="semi_auto_parallel", full_batch=True,
        pipeline_stages=settings["pipeline_stage"], enable_parallel_optimizer=settings.get("optimizer", False),
    )  # fmt: skip
    AutoParallelContext.get_instance().set_hccl_test_avaible(True)  # the ranks are those of device_num, not a cluster's
    model = build(settings)
    network = network_of(model, settings).set_train()
    _cell_graph_executor.compile(network, *columns(settings["batch"], model.config), phase="train")
    graph = next(Path(folder).glob("*step_parallel_end*")).read_text()
    print(json.dumps({
        "parameters": {name: layout[2] for name, layout in network.parameter_layout_dict.items()},
        "communication": collections.Counter(COMMUNICATION.findall(graph)),
    }))  # fmt: skip


def network_of(model: QwenVL, settings: dict) -> nn.Cell:
    """What MindFormers would train, without its optimizer."""
    if settings["pipeline_stage"] > 1:
        model = nn.PipelineCell(model, settings["micro_batch_num"])
    return Step(model) if settings.get("gradients") else model


def build(settings: dict) -> QwenVL:
    raw = json.loads(Path(settings["config_file"]).read_text())
    raw["num_hidden_layers"], raw["visual"]["layers"] = settings["layers"], settings["vision_layers"]
    with no_init_parameters():
        model = QwenVL(QwenVLConfig.from_dict(raw), ms.bfloat16, getattr(ms, settings.get("param_dtype", "bfloat16")))
    model.freeze(("vision_tower",))
    model.parallelize(SimpleNamespace(**settings))
    return model


def columns(batch: int, config: QwenVLConfig) -> list[Tensor]:
    """The columns of a batch, in the order of QwenVL.construct."""
    size, row = config.visual.image_size, (batch, LENGTH)
    shapes = [row, (batch, SLOTS, 3, size, size), (batch, SLOTS, config.num_queries), row, row, row, row]
    types = [np.int32, np.float32, np.int32, np.int32, np.int32, np.int32, np.float32]
    return [Tensor(np.zeros(shape, dtype)) for shape, dtype in zip(shapes, types)]


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)

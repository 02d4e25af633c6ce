"""The estimate's memory model against measured peaks: training steps of small models on this CPU.

    python benchmarks/estimate_memory.py

Each model takes a step of AdamW in a process of its own. What importing and compiling need is taken off by measuring
the same model with a few tokens, too: compared is what the step needs beyond that, on paper and in the process. The
model is torch_ref's, for PyTorch gives memory back as soon as it can. MindSpore 2.9.0 does not on CPU: it is measured
once, to show how far it is from that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, peak_memory, report

from ms_impl import families
from ms_impl.estimate.memory import memory
from ms_impl.estimate.parts import model_parts
from ms_impl.estimate.plan import RunLayout

SHORT = 64  # tokens of the run whose peak is taken off
TOLERANCE = 0.15
VISUAL = {
    "heads": 2, "image_size": 112, "layers": 2, "mlp_ratio": 4.0, "patch_size": 14, "width": 128,
    "n_queries": 16, "n_positions": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A small model in Qwen-VL's shape and its batch, chosen so that one term of the estimate outweighs the others."""

    name: str
    width: int = 256
    layers: int = 2
    vocabulary: int = 2048
    rows: int = 1
    length: int = 1024
    freeze: tuple[str, ...] = ()
    mindspore: bool = False

    def config(self) -> dict[str, Any]:
        """As Hugging Face's config.json has it."""
        return {
            "vocab_size": self.vocabulary, "hidden_size": self.width, "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // 64, "kv_channels": 64, "intermediate_size": 5 * self.width,
            "seq_length": 4096, "max_position_embeddings": 4096,
            "visual": {**VISUAL, "output_dim": self.width, "image_start_id": self.vocabulary - 3},
        }  # fmt: skip

    def plan(self) -> RunLayout:
        return RunLayout(
            rows=self.rows, length=self.length, flash=False, compute_bytes=4, parameter_bytes=4, frozen=self.freeze
        )  # fmt: skip


CASES = (
    Case("scores of attention", layers=6, length=2048),
    Case("activations", width=512, layers=6, rows=8, length=512),
    Case("logits", vocabulary=65536, rows=2),
    Case("vision frozen", layers=6, rows=4, freeze=("vision_tower",)),
    Case("scores, in MindSpore", width=128, layers=3, length=2048, mindspore=True),
)


def main() -> None:
    """Print the table; as the process that is measured, take a step."""
    parser = arguments("estimate_memory", __doc__)
    parser.add_argument("--step", type=json.loads, help="take a training step of this case (for the script itself)")
    options = parser.parse_args()
    if options.step:
        case = Case(**options.step)
        return mindspore_step(case) if case.mindspore else torch_step(case)
    rows = [compared(case) for case in (CASES[:3] if options.quick else CASES)]
    report("estimate_memory", rows, options)


def compared(case: Case) -> Row:
    """What the case needs beyond the same model with few tokens: estimated (ours) and measured (anchor), in MiB."""
    short = replace(case, length=SHORT, rows=1)
    ours = (estimated(case) - estimated(short)) / 2**20
    measured = (measured_peak(case) - measured_peak(short)) / 2**20
    ratio = ours / measured
    goal = ("", None) if case.mindspore else (f"1 ± {TOLERANCE}", abs(ratio - 1) <= TOLERANCE)
    return Row("memory estimate / measured", case.name, ours, measured, "MiB", ratio, *goal)


def estimated(case: Case) -> float:
    """Peak bytes on paper."""
    with tempfile.TemporaryDirectory() as folder:
        config_file = Path(folder) / "config.json"
        config_file.write_text(json.dumps(case.config()))
        return memory(model_parts(families.get("qwenvl"), config_file, case.plan()), case.plan()).peak


def measured_peak(case: Case) -> int:
    """Peak resident bytes of a process that takes a step."""
    return peak_memory([sys.executable, __file__, "--step", json.dumps(vars(case))])


def torch_step(case: Case) -> None:
    """Take one training step with torch_ref."""
    import torch

    from ms_impl.qwenvl.config import QwenVLConfig
    from torch_ref.qwenvl.model import QwenVL

    model = QwenVL(QwenVLConfig.from_dict(case.config()))
    model.freeze(tuple(case.freeze))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
    model.train()(*map(torch.from_numpy, batch(case))).backward()
    optimizer.step()


def mindspore_step(case: Case) -> None:
    """Compile and take one training step."""
    os.environ.setdefault("GLOG_v", "3")
    import mindspore as ms
    from mindspore import Tensor

    from ms_impl.qwenvl.config import QwenVLConfig
    from ms_impl.qwenvl.model import QwenVL
    from ms_impl.train.adamw import AdamW

    ms.set_context(mode=ms.GRAPH_MODE)
    model = QwenVL(QwenVLConfig.from_dict(case.config()))
    model.freeze(tuple(case.freeze))
    step = ms.nn.TrainOneStepCell(model, AdamW(model.trainable_params(), learning_rate=1e-4))
    step.set_train()(*map(Tensor, batch(case))).asnumpy()


def batch(case: Case) -> list[np.ndarray]:
    """One batch: the columns of ``QwenVL``'s forward pass."""
    rng = np.random.default_rng(0)
    shape, visual = (case.rows, case.length), case.config()["visual"]
    ids = rng.integers(0, case.vocabulary, shape, dtype=np.int32)
    size, queries = visual["image_size"], visual["n_queries"]
    images = rng.normal(size=(case.rows, 1, 3, size, size)).astype(np.float32)
    places = np.tile(np.arange(queries, dtype=np.int32), (case.rows, 1, 1))
    positions = np.tile(np.arange(case.length, dtype=np.int32), (case.rows, 1))
    return [ids, images, places, ids, np.ones_like(ids), positions, np.ones(shape, np.float32)]


if __name__ == "__main__":
    main()

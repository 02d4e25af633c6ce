"""How fast answers grow: one decoding step, against torch_ref and against the memory's bandwidth.

    OMP_NUM_THREADS=2 python benchmarks/decode.py [--quick] [--torch_bf16]

Models of some 100 million random parameters each: in the shapes of Qwen-VL, of a Qwen2 with 16 query heads and 2 key
heads, and of Ovis2.5. Contestants: PyTorch eager in fp32 with a preallocated cache (torch_ref; for the second with
PyTorch's own attention, which copies no keys), the same in bf16 where the processor multiplies it or where asked for,
and this package with fp32, bf16 and fp16 weights, and as compute_dtype bf16 has it (bf16 weights and cache); the same
prompt (random keys and values), batch and threads. Nothing is reported where a step of fp32 differs from PyTorch's by
more than 1e-4, or one of compute_dtype bf16 by more than PyTorch's own in bf16 does. A step's traffic is every weight
once, and the keys and values of all columns. The bandwidth is the best that reading as much of an array gives, as often
as there are steps, on the same threads and in the same rounds: a large third cache still has some of it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # before the frameworks are imported

import mindspore as ms
import numpy as np
import torch
from gqa_decoder import GqaDecoder, GqaReference
from harness import Row, arguments, interleaved, report
from mindspore import nn
from mindspore.nn.utils import no_init_parameters
from ovis_decoder import OvisReference, ovis_decoder
from reading import reader

from ms_impl.generate.decode import Decoder, DecoderPool, cache_columns
from ms_impl.io.dtypes import BF16, FP16, FP32, CastLoss
from ms_impl.io.tensors import ArrayTensor, CastTensor
from ms_impl.kernels.decode_step import layer_arrays
from ms_impl.kernels.operators import multiplies_bf16, multiply_in_bf16
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.weights import set_parameter
from torch_ref.qwenvl.model import QwenVL as Reference

VISION = VisionConfig(
    heads=2, image_size=28, image_start_id=8000, layers=1, mlp_ratio=2.0, output_dim=768, patch_size=14, width=32,
    n_queries=4, n_positions=4,
)  # fmt: skip
CONFIG = QwenVLConfig(
    vocab_size=8192, hidden_size=768, num_hidden_layers=12, num_attention_heads=6, kv_channels=128,
    intermediate_size=4096, seq_length=2048, max_position_embeddings=4096, visual=VISION,
)  # fmt: skip
DTYPES = {ms.float32: FP32, ms.float16: FP16, ms.bfloat16: BF16}
OURS = {"fp32": (ms.float32, ms.float32), "bf16": (ms.float32, ms.bfloat16), "fp16": (ms.float16, ms.float16)}
ROUNDED = "compute_dtype bf16"
GOALS = {"fp32": 1.4, "bf16": 2.4, "fp16": 2.4, ROUNDED: 2.4}
AGAINST_BF16 = {8: 2.0}  # of compute_dtype bf16 against PyTorch in bf16, by batch size
OF_BANDWIDTH = {1: 0.85}  # by batch size
STEPS, TOLERANCE = 16, 1e-4


def main() -> None:
    """Print the table of all batches, prompts and dtypes."""
    parser = arguments("decode", __doc__)
    parser.add_argument("--torch_bf16", action="store_true", help="hold bf16 weights against torch in bf16, too")
    parsed = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rows: list[Row] = []
    read = reader()
    for shape, (theirs, made) in SHAPES.items():
        reference = theirs().eval()
        references = {"torch": reference}
        if parsed.torch_bf16 or multiplies_bf16():
            references["torch bf16"] = copy.deepcopy(reference).bfloat16()
        models = {name: ours(reference, made, *dtypes) for name, dtypes in OURS.items()}
        if multiplies_bf16():
            models[ROUNDED] = ours(reference, made, *OURS["bf16"])
            multiply_in_bf16(models[ROUNDED])
        for batch in (1, 8):
            for prompt in (300,) if parsed.quick else (300, 1500):
                contest = Contest(shape, references, models, batch, prompt)
                rows += contest.rows(interleaved({**contest.runs, **contest.reads(read)}, parsed.repeats))
    report("decode", rows, parsed)


class QwenVLReference(Reference):
    """torch_ref's model, one token at a time."""

    def __init__(self) -> None:
        super().__init__(CONFIG)

    def token_step(self, segments: torch.Tensor, column: int, prompt: int, cache: list) -> torch.Tensor:
        """Logits [B, vocab] after a token in ``column``, which is its id, too, and a prompt of so many columns."""
        hidden = self.transformer.wte(torch.full((len(segments), 1), column))
        return self.step(hidden, segments, torch.tensor([column]), CONFIG.ntk_alpha(prompt), cache)


SHAPES = {
    "qwen-vl": (QwenVLReference, lambda *dtypes: QwenVL(CONFIG, *dtypes)),
    "gqa 16/2": (GqaReference, GqaDecoder),
    "ovis2.5 16/8": (OvisReference, ovis_decoder),  # with norms on query and key heads, its head tied
}


def ours(reference: torch.nn.Module, made: Callable[..., nn.Cell], compute_dtype: ms.Type, dtype: ms.Type) -> nn.Cell:
    """This package's model with the reference's weights, rounded to ``dtype``."""
    with no_init_parameters():
        model = made(compute_dtype, dtype)
    values = reference.state_dict()
    for name, parameter in model.parameters_dict().items():
        stored = ArrayTensor(name, values[name].numpy(), FP32)
        set_parameter(parameter, CastTensor(stored, DTYPES[dtype], CastLoss()), CastLoss())
    return model.set_train(False)


class Contest:
    """The contestants of one batch size and prompt length; each run takes STEPS steps after the prompt."""

    def __init__(self, shape: str, references: dict, models: dict[str, nn.Cell], batch: int, prompt: int):
        self.shape, self.batch, self.prompt = shape, batch, prompt
        self.cache = references["torch"].new_cache(batch, prompt + STEPS)
        for layer in self.cache:
            layer.keys.normal_()
            layer.values.normal_()
        self.caches = {model: self.cache_of(model) for model in references.values()}
        self.decoders = {name: self.decoder(model) for name, model in models.items()}
        self.runs = {name: partial(self.torch_steps, model) for name, model in references.items()}
        self.runs |= {name: partial(self.steps, name) for name in models}
        self.check()

    def check(self) -> None:
        """Ends the program where a step of ours is further from PyTorch's than it may be."""
        expected = self.runs["torch"]()
        errors = {name: np.abs(run() - expected).max() / np.abs(expected).max() for name, run in self.runs.items()}
        for name, most in (("fp32", TOLERANCE), (ROUNDED, errors.get("torch bf16", np.inf))):
            if not errors.get(name, 0) <= most:
                raise SystemExit(f"error: {self.shape}, batch {self.batch}, prompt {self.prompt}: {name} is "
                                 f"{errors[name]:.1e} off PyTorch")  # fmt: skip

    def cache_of(self, reference: torch.nn.Module) -> list:
        """The prompt's keys and values in the reference's dtype."""
        cache = reference.new_cache(self.batch, self.prompt + STEPS)
        for layer, values in zip(cache, self.cache):
            layer.keys.copy_(values.keys)
            layer.values.copy_(values.values)
        return cache

    def decoder(self, model: nn.Cell) -> Decoder:
        """A decoder as a prefill of the prompt would leave it, with PyTorch's cache."""
        capacity = cache_columns(self.prompt + STEPS)
        decoder = Decoder(DecoderPool(model), self.batch, capacity)
        ones = np.ones((self.batch, self.prompt), np.int32)
        decoder.begin({"input_ids": ones, "segment_ids": ones})
        for layer, values in zip(decoder.cache, self.cache):
            for parameter, tensor in ((layer.keys, values.keys), (layer.values, values.values)):
                wide = np.zeros(parameter.shape, np.float32)
                wide[:, : self.prompt] = tensor[:, :, : self.prompt].flatten(0, 1).numpy()
                parameter.set_data(ms.Tensor(wide, parameter.dtype))
        return decoder

    @torch.inference_mode()
    def torch_steps(self, reference: torch.nn.Module) -> np.ndarray:
        """PyTorch's logits after the last step."""
        cache = self.caches[reference]
        segments = torch.zeros(self.batch, self.prompt + STEPS, dtype=torch.int64)
        segments[:, : self.prompt] = 1
        for column in range(self.prompt, self.prompt + STEPS):
            segments[:, column] = 1
            logits = reference.token_step(segments, column, self.prompt, cache)
        return logits.float().numpy()

    def steps(self, name: str) -> np.ndarray:
        """Our logits after the last step."""
        decoder = self.decoders[name]
        decoder.rewind()
        for column in range(self.prompt, self.prompt + STEPS):
            logits = decoder.step(np.full(self.batch, column))
        return logits

    def traffic(self, name: str) -> int:
        """Bytes that a step must read at least."""
        decoder = self.decoders[name]
        parts = decoder.model.decoder_parts()
        weights = [parts.head, *(each for layer in parts.layers for _, each, _ in layer_arrays(layer))]
        parameters = {id(each): each for each in weights}.values()
        columns = self.prompt + STEPS // 2
        cached = [parameter[:, :columns] for parameter in decoder.cache.get_parameters()]
        return sum(array.size * array.itemsize for array in (*parameters, *cached))

    def reads(self, read: Callable[[np.ndarray], float]) -> dict[str, Callable[[], None]]:
        """For each model what reads as much as its steps must."""
        array = np.ones(max(map(self.traffic, self.decoders)) // 4, np.float32)

        def repeated(part: np.ndarray) -> None:
            for _ in range(STEPS):
                read(part)

        return {f"read as {name}": partial(repeated, array[: self.traffic(name) // 4]) for name in self.decoders}

    def rows(self, seconds: dict[str, list[float]]) -> Iterator[Row]:
        """Tokens a second against PyTorch, and bytes a second against reading memory."""
        spent = {name: median(times) for name, times in seconds.items()}
        for name, goal in ((name, goal) for name, goal in GOALS.items() if name in spent):
            case = f"{self.shape}, batch {self.batch}, prompt {self.prompt}, {name}"
            rates = {contestant: self.batch * STEPS / seconds for contestant, seconds in spent.items()}
            yield row("decode against PyTorch", case, rates[name], rates["torch"], "tokens/s", goal)
            if name in ("bf16", ROUNDED) and "torch bf16" in rates:
                goal = AGAINST_BF16.get(self.batch) if name == ROUNDED else None
                against = rates[name], rates["torch bf16"], "tokens/s", goal
                yield row("decode against PyTorch in bf16", case, *against)
            rate, bandwidth = (self.traffic(name) * STEPS / spent[each] / 1e9 for each in (name, f"read as {name}"))
            yield row("decode against reading memory", case, rate, bandwidth, "GB/s", OF_BANDWIDTH.get(self.batch))


def row(question: str, case: str, found: float, anchor: float, unit: str, goal: float | None) -> Row:
    """A line of the table."""
    ratio = found / anchor
    judged = (f"≥ {goal}", ratio >= goal) if goal else ()
    return Row(question, case, found, anchor, unit, ratio, *judged)


if __name__ == "__main__":
    main()

"""How fast Qwen2.5-Omni reads a prompt with one clip, against transformers on the same threads.

    OMP_NUM_THREADS=2 python benchmarks/omni_prefill.py [--quick] [--torch_bf16]

A thinker of 8 layers, 768 wide, with towers of half its width; random. Ours has fp32 and bf16 weights, transformers
fp32 (attention: sdpa), and bf16 where the processor multiplies it (ours then also with compute_dtype bf16) or
where asked for. The prompt has 300 tokens, 128 of them a clip's of 8 frames of 224 × 112. Beside each stands its
share of the best matrix product of the same rounds. Where logits in fp32 differ by more than 1e-3 nothing is reported.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # before the frameworks are imported

import mindspore as ms
import numpy as np
import torch
from harness import arguments, interleaved, report
from mindspore import nn
from mindspore.nn.utils import no_init_parameters
from omni_training import BINS, MARKS, MEDIA, VIDEO_ID, RandomMedia, configuration, conversation, row_of
from prefill import check
from products import ROUNDED, operations, products, rows_of
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from ms_impl.data.batch import sizes_of
from ms_impl.data.sample import Outline
from ms_impl.generate.decode import CORE, DecoderPool
from ms_impl.kernels.operators import multiplies_bf16, multiply_in_bf16
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.model import Qwen2_5OmniThinker
from ms_impl.qwen2_5_omni.template import kinds_of

PROMPT, CLIP = 300, (4, 16, 8, 0)  # tokens; patches of the clip, by pairs of frames
PATCHES = CLIP[0] * CLIP[1] * CLIP[2]
DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16}
Batch = dict[str, np.ndarray]


def main() -> None:
    """Print and write the table."""
    parser = arguments("omni_prefill", __doc__)
    parser.add_argument("--torch_bf16", action="store_true", help="hold bf16 weights against torch in bf16, too")
    parsed = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = configuration(256, 2) if parsed.quick else configuration(768, 8)
    reference = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config)).eval()
    for parameter in reference.parameters():
        parameter.data = parameter.data.bfloat16().float()  # so that both kinds of weights are the same
    references = {"torch": reference}
    if parsed.torch_bf16 or multiplies_bf16():
        references["torch bf16"] = copy.deepcopy(reference).bfloat16()
    batch = prompt(config["text_config"]["vocab_size"])
    contestants = {f"ours {name}": our_prefill(config, reference, batch, dtype) for name, dtype in DTYPES.items()}
    if multiplies_bf16():
        contestants[ROUNDED] = our_prefill(config, reference, batch, ms.bfloat16, multiply_in_bf16)
    contestants |= {name: their_prefill(model, batch) for name, model in references.items()}
    check("prefill with one clip", contestants)
    seconds = interleaved({**contestants, **products()}, parsed.repeats)
    case = f"Qwen2.5-Omni, one clip, {PROMPT} tokens"
    counted = operations(contestants["torch"])
    report("omni_prefill", rows_of("prefill with one clip", case, seconds, counted), parsed)


class ClipRow(RandomMedia):
    """Of a template what a batch with one clip asks for."""

    def largest(self, outline: Outline) -> dict[str, int]:
        """A row of patches holds the clip."""
        return {"row_patches": PATCHES, "row_units": PATCHES // 4}


def prompt(vocabulary: int) -> Batch:
    """One row: a clip and text."""
    MEDIA[CLIP] = ("patches", CLIP, PATCHES // 4, VIDEO_ID)
    sample = conversation(0, PROMPT - PATCHES // 4 - MARKS, (CLIP,), vocabulary)
    row = row_of([sample], sizes_of(ClipRow(), [sample.outline], {"tokens": PROMPT}), ClipRow())
    taken = CORE | {array.name for kind in kinds_of(BINS) for array in kind.all_arrays}
    return {name: array for name, array in row.items() if name in taken}


def our_prefill(
    config: dict,
    reference: torch.nn.Module,
    batch: Batch,
    dtype: ms.Type,
    prepare: Callable[[nn.Cell], None] = lambda model: None,
) -> Callable[[], np.ndarray]:
    """Logits after the prompt, by this package's decoder with the reference's weights."""
    with no_init_parameters():
        model = Qwen2_5OmniThinker(Qwen2_5OmniConfig.from_dict(config), ms.float32, dtype)
    values = reference.state_dict()
    for name, parameter in model.parameters_dict().items():
        parameter.set_data(ms.Tensor(values[name].numpy(), dtype))
    prepare(model)
    with DecoderPool(model.set_train(False)).lend(1, PROMPT) as decoder:
        return lambda: decoder.prefill(batch, kinds_of(BINS))


def their_prefill(model: torch.nn.Module, batch: Batch) -> Callable[[], np.ndarray]:
    """The same by transformers, whose cache is made anew."""
    tensors = {name: torch.from_numpy(batch[name]).long() for name in ("input_ids", "position_ids")}
    pixels = torch.from_numpy(batch["patches"][0, 0]).to(model.dtype)

    @torch.inference_mode()
    def run() -> np.ndarray:
        out = model(
            input_ids=tensors["input_ids"], position_ids=tensors["position_ids"].transpose(0, 1),
            pixel_values_videos=pixels, video_grid_thw=torch.tensor([CLIP[:3]]), use_cache=True,
        )  # fmt: skip
        return out.logits[:, -1].float().numpy()

    return run


if __name__ == "__main__":
    main()

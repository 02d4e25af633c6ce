"""How fast a prompt with one image is read, and its image encoded, against torch_ref eager on the same threads.

    OMP_NUM_THREADS=2 python benchmarks/prefill.py [--quick] [--torch_bf16]

Model: some 100 million parameters of language model and 30 million of vision tower in Qwen-VL's shape, random. Ours has
fp32 and bf16 weights, torch fp32, and bf16 where the processor multiplies it (ours then also with compute_dtype
bf16) or where asked for: another takes minutes for it. The prompt has 300 tokens, 256 of them an image's. Beside each
stands its share of the best matrix product of the same rounds. Where results in fp32 differ by more than 1e-3 nothing
is reported.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # before the frameworks are imported

import mindspore as ms
import numpy as np
import torch
from harness import Row, arguments, interleaved, report
from mindspore.nn.utils import no_init_parameters
from products import ROUNDED, Contestants, operations, products, rows_of

from ms_impl.generate.decode import DecoderPool
from ms_impl.generate.static_graphs import static_graphs
from ms_impl.kernels.operators import multiplies_bf16, multiply_in_bf16
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.qwenvl.template import IMAGES
from torch_ref.qwenvl.model import QwenVL as Reference

PROMPT, BEFORE_IMAGE, TOLERANCE = 300, 20, 1e-3


def configuration(quick: bool) -> QwenVLConfig:
    """The model's; ``quick`` takes fewer layers."""
    visual = VisionConfig(
        heads=4, image_size=448, image_start_id=8000, layers=2 if quick else 8, mlp_ratio=4.9231, output_dim=768,
        patch_size=14, width=416,
    )  # fmt: skip
    return QwenVLConfig(
        vocab_size=8192, hidden_size=768, num_hidden_layers=2 if quick else 12, num_attention_heads=6,
        kv_channels=128, intermediate_size=4096, seq_length=2048, max_position_embeddings=4096, visual=visual,
    )  # fmt: skip


def main() -> None:
    """Print and write the table."""
    parser = arguments("prefill", __doc__)
    parser.add_argument("--torch_bf16", action="store_true", help="hold bf16 weights against torch in bf16, too")
    parsed = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = configuration(parsed.quick)
    reference = Reference(config).eval()
    for parameter in reference.parameters():
        if parameter.dim() > 1:  # some begin as zeros
            torch.nn.init.normal_(parameter, std=config.initializer_range)
        parameter.data = parameter.data.bfloat16().float()  # so that both kinds of weights are the same
    models = {f"ours {name}": ours(reference, dtype) for name, dtype in DTYPES.items()}
    references = {"torch": reference}
    if multiplies_bf16():
        models[ROUNDED] = ours(reference, ms.bfloat16)
        multiply_in_bf16(models[ROUNDED])
    if parsed.torch_bf16 or multiplies_bf16():
        references["torch bf16"] = copy.deepcopy(reference).bfloat16()
    rows: list[Row] = []
    for question, (mine, theirs) in {"prefill with one image": PREFILLS, "vision tower alone": ENCODINGS}.items():
        contestants = {name: mine(model) for name, model in models.items()}
        contestants |= {name: theirs(model) for name, model in references.items()}
        check(question, contestants)
        seconds = interleaved({**contestants, **products()}, parsed.repeats)
        case = f"Qwen-VL, one image, {PROMPT} tokens"
        rows += rows_of(question, case, seconds, operations(contestants["torch"]))
    report("prefill", rows, parsed)


def ours(reference: Reference, dtype: ms.Type) -> QwenVL:
    """This package's model with the reference's weights."""
    with no_init_parameters():
        model = QwenVL(reference.config, ms.float32, dtype)
    values = reference.state_dict()
    for name, parameter in model.parameters_dict().items():
        parameter.set_data(ms.Tensor(values[name].numpy(), dtype))
    return model.set_train(False)


def check(question: str, contestants: Contestants) -> None:
    """Ends the program where a result in fp32 is not torch's, or ours of bf16 is further from it than torch's is."""
    expected = contestants["torch"]()
    errors = {name: np.abs(run() - expected).max() / np.abs(expected).max() for name, run in contestants.items()}
    for name in (name for name in contestants if name.startswith("ours")):
        error = errors[name]
        if not error <= (errors["torch bf16"] if name == ROUNDED else TOLERANCE):
            raise SystemExit(f"error: {question}: {name} is {error:.1e} off torch_ref")


def pixels(config: QwenVLConfig) -> np.ndarray:
    """One random image, normalised: float32 [1, 1, 3, S, S]."""
    size = config.visual.image_size
    return np.random.default_rng(0).normal(size=(1, 1, 3, size, size)).astype(np.float32)


def our_prefill(model: QwenVL) -> Callable[[], np.ndarray]:
    """Logits after the prompt, by this package's decoder."""
    with DecoderPool(model).lend(1, PROMPT) as decoder:
        return lambda: decoder.prefill(batch_of(model.config), (IMAGES,))


def their_prefill(reference: Reference) -> Callable[[], np.ndarray]:
    """The same by torch_ref's cached step."""
    config, cache = reference.config, reference.new_cache(1, PROMPT)
    arrays = {name: torch.from_numpy(array) for name, array in batch_of(config).items()}
    dtype = next(reference.parameters()).dtype

    @torch.inference_mode()
    def run() -> np.ndarray:
        images = arrays["images"].to(dtype)
        hidden = reference.transformer.embed(arrays["input_ids"], images, arrays["image_context_pos"])
        alpha, columns = config.ntk_alpha(PROMPT), torch.arange(PROMPT)
        return reference.step(hidden, arrays["segment_ids"], columns, alpha, cache).float().numpy()

    return run


def batch_of(config: QwenVLConfig) -> dict[str, np.ndarray]:
    """A prompt with an image."""
    ids = np.random.default_rng(0).integers(0, config.image_start_id, (1, PROMPT), dtype=np.int32)
    places = BEFORE_IMAGE + np.arange(config.num_queries, dtype=np.int32).reshape(1, 1, -1)
    images = pixels(config)
    return {"input_ids": ids, "segment_ids": np.ones_like(ids), "images": images, "image_context_pos": places}


def our_encoding(model: QwenVL) -> Callable[[], np.ndarray]:
    """Features of the image, as a prefill encodes it."""
    encoder, images = DecoderPool(model).encoder, pixels(model.config)[0]

    def run() -> np.ndarray:
        with static_graphs(model):
            (features,) = encoder.encode("encode_images", [images], 1)
        return features

    return run


def their_encoding(reference: Reference) -> Callable[[], np.ndarray]:
    """The same by torch_ref."""
    images = torch.from_numpy(pixels(reference.config)[0]).to(next(reference.parameters()).dtype)

    @torch.inference_mode()
    def run() -> np.ndarray:
        return reference.encode_images(images).float().numpy()[0]

    return run


PREFILLS, ENCODINGS = (our_prefill, their_prefill), (our_encoding, their_encoding)
DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16}

if __name__ == "__main__":
    main()

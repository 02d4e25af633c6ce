"""How fast a prompt with one image is read, and its image encoded, against torch_ref eager on the same threads.

    OMP_NUM_THREADS=2 python benchmarks/prefill.py [--quick]

Model: some 100 million parameters of language model and 30 million of vision tower in Qwen-VL's shape, random, fp32.
The prompt has 300 tokens, 256 of them an image's. Where the results differ by more than 1e-3 nothing is reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # before the frameworks are imported

import mindspore as ms
import numpy as np
import torch
from harness import Row, arguments, interleaved, report
from mindspore.nn.utils import no_init_parameters

from ms_impl.generate.decode import DecoderPool
from ms_impl.generate.static_graphs import static_graphs
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.model import QwenVL
from torch_ref.qwenvl.model import QwenVL as Reference

GOAL, PROMPT, BEFORE_IMAGE, TOLERANCE = 1.0, 300, 20, 1e-3


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
    """Print both lines."""
    parsed = arguments("prefill", __doc__).parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = configuration(parsed.quick)
    reference = Reference(config).eval()
    for parameter in reference.parameters():
        if parameter.dim() > 1:  # some begin as zeros
            torch.nn.init.normal_(parameter, std=config.initializer_range)
    with no_init_parameters():
        model = QwenVL(config)
    values = reference.state_dict()
    for name, parameter in model.parameters_dict().items():
        parameter.set_data(ms.Tensor(values[name].numpy()))
    questions = {"prefill with one image": prefills, "vision tower alone": encodings}
    rows = [compared(question, make(model, reference), parsed.repeats) for question, make in questions.items()]
    report("prefill", rows, parsed)


def compared(question: str, contestants: dict[str, Callable[[], np.ndarray]], repeats: int) -> Row:
    """One line of the table."""
    found, expected = (run() for run in contestants.values())
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error <= TOLERANCE:
        raise SystemExit(f"error: {question}: {error:.1e} off torch_ref")
    ours, anchor = (1 / median(times) for times in interleaved(contestants, repeats).values())
    case = f"one image, {PROMPT} tokens"
    return Row(question, case, ours, anchor, "images/s", ours / anchor, f"≥ {GOAL}", ours >= GOAL * anchor)


def pixels(config: QwenVLConfig) -> np.ndarray:
    """One random image, normalised: float32 [1, 1, 3, S, S]."""
    size = config.visual.image_size
    return np.random.default_rng(0).normal(size=(1, 1, 3, size, size)).astype(np.float32)


def prefills(model: QwenVL, reference: Reference) -> dict[str, Callable[[], np.ndarray]]:
    """Logits after the prompt, by this package's decoder and by torch_ref's cached step."""
    config = model.config
    ids = np.random.default_rng(0).integers(0, config.image_start_id, (1, PROMPT), dtype=np.int32)
    places = BEFORE_IMAGE + np.arange(config.num_queries, dtype=np.int32).reshape(1, 1, -1)
    segments = np.ones_like(ids)
    batch = {"input_ids": ids, "segment_ids": segments, "images": pixels(config), "image_context_pos": places}
    arrays = {name: torch.from_numpy(array) for name, array in batch.items()}
    with DecoderPool(model).lend(1, PROMPT) as decoder:
        cache = reference.new_cache(1, PROMPT)

    @torch.inference_mode()
    def anchor() -> np.ndarray:
        hidden = reference.transformer.embed(arrays["input_ids"], arrays["images"], arrays["image_context_pos"])
        alpha, columns = config.ntk_alpha(PROMPT), torch.arange(PROMPT)
        return reference.step(hidden, arrays["segment_ids"], columns, alpha, cache).numpy()

    return {"ours": lambda: decoder.prefill(batch), "torch": anchor}


def encodings(model: QwenVL, reference: Reference) -> dict[str, Callable[[], np.ndarray]]:
    """Features of the image, as a prefill encodes it."""
    encoder, images = DecoderPool(model).encoder, pixels(model.config)[0]

    @torch.inference_mode()
    def anchor() -> np.ndarray:
        return reference.encode_images(torch.from_numpy(images)).numpy()

    def ours() -> np.ndarray:
        with static_graphs(model):
            return encoder.encode("encode_images", [images], 1)

    return {"ours": ours, "torch": anchor}


if __name__ == "__main__":
    main()

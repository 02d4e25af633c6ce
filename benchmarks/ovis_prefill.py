"""How fast Ovis2.5 encodes an image at its own size, at three sizes, against torch_ref eager on the same threads.

    python benchmarks/ovis_prefill.py [--quick] [--cores N]

The tower has six layers of a third of the release's width, its head a table of 4,096 words; random, ours with fp32 and
with bf16 weights, torch in fp32. For each size and kind rows of images/s, beside the share of the best matrix product
of the same rounds, and one that holds the cost of a patch against the smallest size's: attention within a frame grows
with its square, all else with the patches. Where the features differ by more than 1e-3 nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

import numpy as np
from harness import Row, arguments, interleaved, report
from training import use_cores

from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.patches import Visual, fill_rows, row_length

TOLERANCE = 1e-3
PER_PATCH = 2.0  # what a patch of the largest size may cost, against one of the smallest
SIDES = (256, 512, 1024)  # pixels; "quick" leaves the last out


def main() -> None:
    """Print and write the table."""
    parser = arguments("ovis_prefill", __doc__)
    parser.add_argument("--cores", type=int, help="cores for either side (all that this process may use)")
    given = parser.parse_args()
    use_cores(given.cores)
    report("ovis_prefill", list(rows(SIDES[:2] if given.quick else SIDES, given.repeats)), given)


def configuration() -> Ovis2_5Config:
    """The tower is what matters; the language model is as small as it goes. Heads are 96 wide, a multiple of 4."""
    return Ovis2_5Config.from_dict({
        "model_type": "ovis2_5", "conversation_formatter_class": "Qwen3ConversationFormatter", "hidden_size": 256,
        "visual_vocab_size": 4096,
        "llm_config": {
            "model_type": "qwen3", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 256,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        },
        "vit_config": {
            "model_type": "siglip2_navit", "hidden_size": 384, "intermediate_size": 1436, "num_hidden_layers": 6,
            "num_attention_heads": 4, "image_size": 512, "patch_size": 16,
        },
    })  # fmt: skip


def rows(sides: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Two for each size."""
    import mindspore as ms
    import torch
    from products import operations, products, rows_of

    from ms_impl.generate.decode import DecoderPool
    from ms_impl.ovis2_5.model import Ovis2_5
    from torch_ref.ovis2_5.model import Ovis2_5 as Reference

    torch.set_num_threads(use_cores(None))
    ms.set_context(mode=ms.GRAPH_MODE)
    config = configuration()
    model = Ovis2_5(config, param_dtype=ms.bfloat16).set_train(False)
    weights = {name: p.astype(ms.float32) for name, p in model.parameters_dict().items()}
    wide = Ovis2_5(config).set_train(False)
    for name, parameter in wide.parameters_dict().items():
        parameter.set_data(weights[name])
    reference = Reference(config).eval()
    reference.load_state_dict({name: torch.from_numpy(weights[name].asnumpy()) for name in reference.state_dict()})
    encoders = {"ours fp32": DecoderPool(wide).encoder, "ours bf16": DecoderPool(model).encoder}
    first = None
    for side in sides:
        arrays, patches = image(config, side)
        theirs = [torch.from_numpy(a) for a in arrays]

        @torch.inference_mode()
        def anchor(theirs=theirs) -> np.ndarray:
            return reference.encode_visuals(*theirs).numpy()

        runs = {name: partial(encoded, encoder, arrays) for name, encoder in encoders.items()}
        wanted = anchor()
        for run in runs.values():
            if not np.abs(run() - wanted).max() <= TOLERANCE * np.abs(wanted).max():
                raise SystemExit(f"error: {side} pixels: the features are not torch_ref's")
        seconds = interleaved({**runs, "torch": anchor, **products()}, repeats)
        case = f"{side} × {side} pixels, {patches:,} patches"
        yield from rows_of("Ovis2.5 prefill of an image", case, seconds, operations(anchor))
        cost = median(seconds["ours fp32"]) / patches * 1e6
        first = first or cost
        held = cost / first
        yield Row("Ovis2.5 cost of a patch; anchor: the smallest size's", case, cost, first, "µs", held,
                  f"≤ {PER_PATCH}", held <= PER_PATCH)  # fmt: skip


def encoded(encoder, arrays: list[np.ndarray]) -> np.ndarray:
    """Features of an image, as a prefill encodes it."""
    from ms_impl.generate.static_graphs import static_graphs

    with static_graphs(encoder.model):
        return encoder.encode("encode_visuals", arrays, 1)


def image(config: Ovis2_5Config, side: int) -> tuple[list[np.ndarray], int]:
    """A square image of noise as the arrays of one row of patches [1, L, …], and its number of patches."""
    vision = config.vit_config
    grid = (1, side // vision.patch_size, side // vision.patch_size)
    patches = grid[1] * grid[2]
    length, features = row_length(patches), vision.patch_features
    pixels = np.random.default_rng(0).normal(size=(patches, features)).astype(np.float32)
    out = {
        "patches": np.zeros((1, length, features), np.float32), "patch_segments": np.zeros((1, length, 2), np.int32),
        "patch_places": np.zeros((1, length, 2), np.int32),
        "patch_taps": np.zeros((1, length, 2, vision.position_side), np.float32),
        "patch_columns": np.zeros((1, length // 4), np.int32),
    }  # fmt: skip
    fill_rows([Visual(grid, pixels, np.arange(patches // 4, dtype=np.int32))], out, vision)
    return [out[name] for name in ("patches", "patch_segments", "patch_places", "patch_taps")], patches


if __name__ == "__main__":
    main()

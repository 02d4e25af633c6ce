"""Training Qwen2.5-Omni: a step against transformers, and packed rows of every kind against padded ones.

    python benchmarks/omni_training.py [--quick] [--cores N]

The step: one row with an image of 224 × 224, four seconds of sound, a clip of eight frames of 112 × 112, and text; all
weights are trained. Ours is the step that the Trainer runs (forward, backward, overflow check, clipping, AdamW) in
GRAPH_MODE; the anchor is ``Qwen2_5OmniThinkerForConditionalGeneration`` with ``torch.optim.AdamW`` and
``clip_grad_norm_``, in eager mode as transformers has it (attention: sdpa). Both start with the same weights and must
report the same first loss.

Packing: conversations of text alone, with an image, a sound, or a clip, in equal parts, and around them text whose
length is log-normal (median 55, σ of its logarithm 0.5), in rows of 512 tokens made by our own packing and collation,
one row a step. A useful token is one that is not padding.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, interleaved, report
from training import ADAMW, LEARNING_RATE, MAX_NORM, OurStep, step_of, use_cores

from ms_impl.data.batch import collate, sizes_of
from ms_impl.data.packing import best_fit, pack
from ms_impl.data.sample import IGNORED, Outline, Placed, Sample, Sizes
from ms_impl.qwen2_5_omni import patch_rows
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate, kinds_of

FAMILY = "qwen2_5_omni"
ROW, PACKED_ROW, CONVERSATIONS = 1024, 512, 2000
SPEED_GOAL, PACKING_GOAL, LOSS_TOLERANCE = 1.0, 2.5, 1e-4
MEDIAN, SIGMA, SHORTEST, LONGEST = 55, 0.5, 8, 400  # tokens of text
BINS, WINDOW = 128, 8  # mel bins; patches along a side of a window
IMAGE, CLIP, SOUND = (1, 16, 16, 0), (4, 8, 8, 0), (400,)  # geometries: grids, and mel frames
IMAGE_ID, VIDEO_ID, AUDIO_ID = 1, 2, 3
MARKS = 2  # tokens around a medium
SIDES = ("ours", "transformers")


def main() -> None:
    """Print and write the table."""
    parser = arguments("omni_training", __doc__)
    parser.add_argument("--cores", type=int, help="cores for either side (all that this process may use)")
    given = parser.parse_args()
    use_cores(given.cores)
    config = configuration(128, 1) if given.quick else configuration(512, 4)
    report("omni_training", [speed(config, given.repeats), packing(config, given.repeats)], given)


def configuration(width: int, layers: int) -> dict[str, Any]:
    """The config.json of a thinker in Omni's shape: heads of 64, a gated layer of 5.25 widths, half as wide towers."""
    tower = width // 2
    ids = {"image_token_index": IMAGE_ID, "video_token_index": VIDEO_ID, "audio_token_index": AUDIO_ID}
    marks = ("audio_start_token_id", "audio_end_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "model_type": "qwen2_5_omni_thinker", **ids, **{mark: number for number, mark in enumerate(marks, start=4)},
        "pad_token_id": 0,
        "text_config": {
            "vocab_size": 16384, "hidden_size": width, "intermediate_size": 21 * width // 4,
            "num_hidden_layers": layers, "num_attention_heads": width // 64, "num_key_value_heads": width // 128,
            "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
            "pad_token_id": 0,
        },
        "vision_config": {
            "hidden_size": tower, "depth": layers, "intermediate_size": 21 * tower // 8, "num_heads": tower // 64,
            "fullatt_block_indexes": [layers - 1], "out_hidden_size": width,
        },
        "audio_config": {
            "d_model": tower, "encoder_layers": layers, "encoder_attention_heads": tower // 64,
            "encoder_ffn_dim": 4 * tower, "output_dim": width,
        },
    }  # fmt: skip


class RandomMedia:
    """Of a template what a batch asks for; a medium is noise seeded by its source, a number."""

    kinds, needs, position_axes, padding_shifts_positions = (
        kinds_of(BINS),
        ("tokens", "patch_rows", "audio_chunks"),
        3,
        False,
    )
    fixed_sizes: Sizes = {}
    pad_id = 0

    def __init__(self):
        self.tokenizer = self

    def largest(self, outline: Outline) -> dict[str, int]:
        """Every row of patches holds an image."""
        length = IMAGE[1] * IMAGE[2]
        return {"row_patches": length, "row_units": length // 4}

    def need(self, outline: Outline, sizes: Sizes) -> dict[str, int]:
        grids = [geometry[:3] for kind, geometry in outline.media if kind == "patches"]
        sounds = [geometry[0] for kind, geometry in outline.media if kind == "mel"]
        rows = sum(patch_rows.rows_needed([grid], sizes["row_patches"]) for grid in grids)
        return {"tokens": outline.tokens, "patch_rows": rows, "audio_chunks": sum(sounds) // 200}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        row = chunk = 0
        for medium in media:
            chance, columns = np.random.default_rng(medium.source), medium.columns + offset
            if medium.kind == "mel":
                count = len(columns) // 50
                out["mel"][chunk : chunk + count] = chance.normal(0, 1, (count, BINS, 200))
                out["mel_frames"][chunk : chunk + count] = 200
                out["mel_columns"][chunk : chunk + count] = columns.reshape(count, 50)
                chunk += count
            else:
                grid = medium.geometry[:3]
                for frame in range(grid[0]):
                    start = frame * grid[1] * grid[2]
                    patch_rows.fill_frame(grid, row, start, WINDOW, out)
                count = 4 * len(columns)
                out["patches"][row, :count] = chance.normal(0, 1, (count, out["patches"].shape[-1]))
                out["patch_columns"][row, : len(columns)] = columns
                row += 1


def conversation(number: int, text: int, media: Sequence[tuple[int, ...]], vocabulary: int) -> Sample:
    """Media, each between two marks, then random text whose second half is an answer."""
    chance = np.random.default_rng(number)
    ids, placed = [], []
    for each in media:
        kind, geometry, count, token = MEDIA[each]
        columns = np.arange(len(ids) + 1, len(ids) + 1 + count, dtype=np.int32)
        placed.append(Placed(kind, number * 10 + len(placed), columns, geometry))
        ids += [10, *[token] * count, 11]
    ids = np.array([*ids, *chance.integers(12, vocabulary, text)], np.int32)
    labels = np.where(np.arange(len(ids)) >= len(ids) - text // 2, ids, IGNORED).astype(np.int32)
    positions = np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))
    return Sample(ids, positions, labels, media=tuple(placed), record=f"conversation {number}")


MEDIA: dict[Any, tuple[str, tuple[int, ...], int, int]] = {
    IMAGE: ("patches", IMAGE, IMAGE[1] * IMAGE[2] // 4, IMAGE_ID),
    CLIP: ("patches", CLIP, CLIP[0] * CLIP[1] * CLIP[2] // 4, VIDEO_ID),
    SOUND: ("mel", SOUND, SOUND[0] // 4, AUDIO_ID),
}


def row_of(samples: Sequence[Sample], sizes: Sizes, template: RandomMedia | None = None) -> dict[str, Any]:
    """The columns of one row."""
    arrays = collate([pack(samples, position_axes=3)], template or RandomMedia(), sizes)
    return {**arrays, "seeds": np.zeros(1, np.int32)}


def speed(config: Mapping[str, Any], repeats: int) -> Row:
    """Tokens a second of both sides, in turn."""
    text = ROW - sum(MEDIA[each][2] + MARKS for each in (IMAGE, SOUND, CLIP))
    sample = conversation(0, text, (IMAGE, SOUND, CLIP), config["text_config"]["vocab_size"])
    batch = row_of([sample], sizes_of(RandomMedia(), [sample.outline], {"tokens": ROW}))
    ours = our_step(config)
    theirs = transformers_step(config, ours.weights())
    losses = ours(batch), theirs(batch)
    if abs(losses[0] - losses[1]) > LOSS_TOLERANCE * losses[1]:
        raise SystemExit(f"error: the first losses differ: ours {losses[0]}, transformers' {losses[1]}")
    seconds = interleaved({"ours": lambda: ours(batch), "transformers": lambda: theirs(batch)}, repeats)
    rates = [ROW / statistics.median(seconds[side]) for side in SIDES]
    ratio = rates[0] / rates[1]
    case = "full, image, sound and clip"
    return Row(
        "train step against transformers", case, *rates, "tokens/s", ratio, f"≥ {SPEED_GOAL}", ratio >= SPEED_GOAL
    )


def our_step(config: Mapping[str, Any]) -> OurStep:
    """The Trainer's step, with random weights."""
    import mindspore as ms

    from ms_impl.plugin.family_classes import config_class, model_class
    from ms_impl.train.feed import step_columns

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        section = config_class(FAMILY)(folder)
    return step_of(model_class(FAMILY)(section), step_columns(Qwen2_5OmniTemplate))


def transformers_step(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> Callable[[Mapping[str, np.ndarray]], float]:
    """The original's training step on these weights."""
    import os

    import torch
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config)).train()
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    trained = [p for name, p in model.named_parameters() if "audio_bos_eos_token" not in name]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, **ADAMW)

    def train(batch: Mapping[str, np.ndarray]) -> float:
        optimizer.zero_grad()
        model.rope_deltas = None
        loss = model(**original_inputs(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        return loss.item()

    return train


def original_inputs(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One row with an image, a clip and a sound as the original takes it."""
    import torch

    patches, chunks = torch.from_numpy(batch["patches"][0]), torch.from_numpy(batch["mel"][0])
    mel = chunks.permute(1, 0, 2).reshape(1, BINS, -1)
    clip = CLIP[0] * CLIP[1] * CLIP[2]
    return {
        "input_ids": torch.from_numpy(batch["input_ids"]).long(),
        "labels": torch.from_numpy(batch["labels"]).long(),
        "position_ids": torch.from_numpy(batch["position_ids"]).long().transpose(0, 1),
        "pixel_values": patches[0],
        "image_grid_thw": torch.tensor([IMAGE[:3]]),
        "pixel_values_videos": patches[1, :clip],
        "video_grid_thw": torch.tensor([CLIP[:3]]),
        "input_features": mel,
        "feature_attention_mask": torch.ones(1, mel.shape[-1], dtype=torch.long),
    }


def packing(config: Mapping[str, Any], repeats: int) -> Row:
    """Useful tokens a second of both ways, in turn on rows of the same conversations."""
    conversations = list(drawn(config["text_config"]["vocab_size"]))
    template = RandomMedia()
    fixed = template.largest(Outline(0))
    needs = np.array([list(template.need(each.outline, fixed).values()) for each in conversations])
    packed = best_fit(needs, (PACKED_ROW, PACKED_ROW // 128, PACKED_ROW // 128), template.needs)
    most = np.max([needs[row].sum(0) for row in packed], axis=0).tolist()
    order = np.random.default_rng(1).permutation(len(packed))[:repeats]
    rows = {
        "packed": [[conversations[i] for i in packed[number]] for number in order],
        "padded": [[conversations[packed[number][0]]] for number in order],
    }
    shapes = {"packed": dict(zip(template.needs, most)), "padded": dict(zip(template.needs, needs.max(0).tolist()))}
    batches = {way: [row_of(row, {**shapes[way], **fixed, "tokens": PACKED_ROW}) for row in rows[way]] for way in rows}
    lengths = [len(each) for each in conversations]
    useful = {"packed": sum(lengths) / len(packed), "padded": statistics.mean(lengths)}
    steps = {way: our_step(config) for way in rows}
    queues = {way: iter([*batches[way][-1:], *batches[way]]) for way in rows}  # the first warms up
    seconds = interleaved({way: lambda way=way: steps[way](next(queues[way])) for way in rows}, repeats)
    rates = {way: useful[way] / statistics.median(seconds[way]) for way in rows}
    ratio = rates["packed"] / rates["padded"]
    shares = {way: f"{tokens / PACKED_ROW:.0%}" for way, tokens in useful.items()}
    case = f"all kinds: {shares['packed']} of a packed row is useful, {shares['padded']} of a padded one"
    goal = f"≥ {PACKING_GOAL}"
    return Row("packing", case, rates["packed"], rates["padded"], "tokens/s", ratio, goal, ratio >= PACKING_GOAL)


def drawn(vocabulary: int) -> Iterator[Sample]:
    """Conversations of random tokens: text alone, with an image, a sound, a clip, in turn."""
    texts = np.random.default_rng(0).lognormal(np.log(MEDIAN), SIGMA, CONVERSATIONS)
    kinds: tuple[Sequence[tuple[int, ...]], ...] = ((), (IMAGE,), (SOUND,), (CLIP,))
    for number, text in enumerate(np.clip(texts, SHORTEST, LONGEST).astype(int).tolist()):
        yield conversation(number, text, kinds[number % len(kinds)], vocabulary)


if __name__ == "__main__":
    main()

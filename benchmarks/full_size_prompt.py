"""One prompt of each family: random text with an image, or a clip with sound, as both sides take it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass
class Prompt:
    """``batch`` is what a decoder takes; ``reference`` what the reference's forward pass takes beside the ids.

    ``real`` are the rows that are no padding, by the encoder; ``order`` that in which the reference has them.
    """

    batch: Arrays
    reference: dict[str, Any]
    real: dict[str, int]
    order: dict[str, np.ndarray] = field(default_factory=dict)


def make(family: str, config: Any, length: int, side: int) -> Prompt:
    """A prompt of ``length`` tokens; ``side``: of the image, in pixels, where it may have any size."""
    return {"qwenvl": qwenvl, "ovis2_5": ovis, "qwen2_5_omni": omni}[family](config, length, side)


def _text(length: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, vocabulary, (1, length), dtype=np.int32)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def _batch(ids: np.ndarray, **arrays: np.ndarray) -> Arrays:
    return {"input_ids": ids, "segment_ids": np.ones_like(ids), **arrays}


def qwenvl(config: Any, length: int, side: int) -> Prompt:
    """An image, which has one size."""
    size, queries = config.visual.image_size, config.num_queries
    columns = 8 + np.arange(queries, dtype=np.int32).reshape(1, 1, -1)
    media = {"images": _noise(1, 1, 3, size, size), "image_context_pos": columns}
    ids = _text(max(length, queries + 16), config.visual.image_start_id)
    return Prompt(_batch(ids, **media), media, {"encode_images": config.visual.grid**2})


def ovis(config: Any, length: int, side: int) -> Prompt:
    """An image between its two indicators."""
    from ms_impl.ovis2_5.patches import Visual, fill_rows, row_length

    vision = config.vit_config
    across = side // vision.patch_size // 2 * 2
    count, tokens = across * across, across * across // vision.hidden_stride**2
    length, room = max(length, tokens + 16), row_length(count)
    ids = _text(length, config.vocab_size)
    row = {
        "patches": np.zeros((1, room, vision.patch_features), np.float32),
        "patch_segments": np.zeros((1, room, 2), np.int32), "patch_places": np.zeros((1, room, 2), np.int32),
        "patch_taps": np.zeros((1, room, 2, vision.position_side), np.float32),
        "patch_columns": np.full((1, room // vision.hidden_stride**2), length, np.int32),
    }  # fmt: skip
    visual = Visual((1, across, across), _noise(count, vision.patch_features), np.arange(8, 8 + tokens, dtype=np.int32))
    fill_rows([visual], row, vision)
    media = {name: array[None] for name, array in row.items()}
    media["indicator_ids"] = np.array([[0, 1]], np.int32)
    media["indicator_columns"] = np.array([[[7], [8 + tokens]]], np.int32)
    return Prompt(_batch(ids, **media), media, {"encode_visuals": count})


def omni(config: Any, length: int, side: int) -> Prompt:
    """Two pairs of frames, and four seconds of sound."""
    from ms_impl.qwen2_5_omni.patch_rows import fill_frame
    from ms_impl.qwen2_5_omni.positions import Clock, Sound, Text, Vision, row_positions

    vision, audio = config.vision_config, config.audio_config
    window = vision.window_size // vision.patch_size
    across = max(side // vision.patch_size // 2 * 2, 2)
    grid, patches, chunk = (2, across, across), across * across, 2 * audio.n_window
    seen, heard = 2 * patches // 4, chunk // 4 * 2
    length = max(length, seen + heard + 24)
    tail = length - 16 - seen - heard
    ids = _text(length, min(config.vocab_size, config.audio_token_index))
    first = 8 + seen + 8
    ids[0, 8 : 8 + seen], ids[0, first : first + heard] = config.video_token_index, config.audio_token_index
    blocks = [Text(8), Vision(grid, 1.0), Text(8), Sound(heard), Text(tail)]
    positions, following = row_positions(blocks, Clock())
    features = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    rows = {name: np.zeros((2, patches, 2), np.int32) for name in ("patch_segments", "patch_places")}
    for row in range(2):
        fill_frame((1, across, across), row, 0, window, rows)
    pixels, mel = _noise(2, patches, features), _noise(audio.num_mel_bins, 2 * chunk)
    batch = _batch(
        ids, position_ids=positions[None].astype(np.int32), next_positions=np.array([following], np.int32),
        patches=pixels[None], patch_segments=rows["patch_segments"][None], patch_places=rows["patch_places"][None],
        patch_columns=8 + np.arange(seen, dtype=np.int32).reshape(1, 2, -1),
        mel=np.stack((mel[:, :chunk], mel[:, chunk:]))[None], mel_frames=np.full((1, 2), chunk, np.int32),
        mel_columns=first + np.arange(heard, dtype=np.int32).reshape(1, 2, -1),
    )  # fmt: skip
    reference = {
        "pixel_values_videos": pixels.reshape(-1, features), "video_grid_thw": np.array([grid]),
        "input_features": mel[None], "feature_attention_mask": np.ones((1, 2 * chunk), np.int64),
    }  # fmt: skip
    order = _window_order(grid, window // 2)
    return Prompt(batch, reference, {"encode_patches": 2 * patches, "encode_audio": chunk}, {"encode_patches": order})


def _window_order(grid: tuple[int, int, int], window: int) -> np.ndarray:
    """The patches as the reference has them: window after window of ``window``² units."""
    frames, rows, columns = grid[0], grid[1] // 2, grid[2] // 2
    frame, row, column = np.meshgrid(*map(np.arange, (frames, rows, columns)), indexing="ij")
    keys = (column % window, row % window, column // window, row // window, frame)  # the last is the first
    units = np.lexsort([key.reshape(-1) for key in keys])
    return (units[:, None] * 4 + np.arange(4)).reshape(-1)

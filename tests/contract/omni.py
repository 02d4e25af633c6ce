"""Qwen2.5-Omni's thinker by the contract, in numpy, on a folder of golden vectors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from reference import (
    Weights,
    block_order,
    decoder,
    gated_mlp,
    gelu,
    merge_features,
    rotary_2d,
    same_segment,
    tower_attention,
    window_segments,
)  # fmt: skip
from safetensors.numpy import load_file

_SEPARATE = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "out": "attn.proj"}
_WHISPER = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj"}


class Omni:
    """``cases``: tensors; ``told``: cases.json; the towers and the decoder of the checkpoint beside them."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        self.told = json.loads((folder / "cases.json").read_text())
        self.cases = load_file(folder / "cases.safetensors")
        self.weights = Weights(load_file(folder / "model.safetensors"))
        self.chunk = 2 * self.config["audio_config"]["n_window"]  # mel frames of 10 ms that attend to one another

    def patches(self, names: list[str], padding: int = 0) -> tuple[np.ndarray, ...]:
        """What the template hands over: patches, frame and window segments, rows and columns."""
        vision = self.config["vision_config"]
        side, parts, frames = vision["window_size"] // vision["patch_size"], [], 0
        for name in names:
            grid = self.told["media"][name]["grid_thw"]
            frame, row, column = block_order(*grid).T
            frame = frame + frames + 1
            windows = window_segments(frame, row, column, side)
            pixels = self.cases[f"media.{name}.pixels"].astype(np.float64)
            parts.append((pixels, frame, windows, np.c_[row, column]))
            frames += grid[0]
        arrays = [np.concatenate(part) for part in zip(*parts)]
        return tuple(np.concatenate((a, np.zeros((padding, *a.shape[1:]), a.dtype))) for a in arrays)

    def vision(self, patches, frames, windows, places) -> np.ndarray:
        """Features of 2 × 2 units [N / 4, D]; nothing is reordered anywhere."""
        config, weights = self.config["vision_config"], self.weights.below("visual")
        x = weights.linear(patches, "patch_embed.proj")
        turns = rotary_2d(places, config["hidden_size"] // config["num_heads"])
        for number in range(config["depth"]):
            block = weights.below(f"blocks.{number}")
            segments = frames if number in config["fullatt_block_indexes"] else windows
            y = block.rms_norm(x, "norm1", 1e-6)
            x = x + tower_attention(y, block, config["num_heads"], turns, same_segment(segments), **_SEPARATE)
            x = x + gated_mlp(block.rms_norm(x, "norm2", 1e-6), block.below("mlp"))
        x = weights.rms_norm(x, "merger.ln_q", 1e-6).reshape(len(x) // 4, -1)
        return weights.linear(gelu(weights.linear(x, "merger.mlp.0")), "merger.mlp.2")

    def chunks(self, mel: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """mel [bins, L] in chunks [bins, chunk], padded with zeros, each with its number of frames."""
        starts = range(0, mel.shape[1], self.chunk)
        parts = [mel[:, start : start + self.chunk] for start in starts]
        return [(np.pad(part, ((0, 0), (0, self.chunk - part.shape[1]))), part.shape[1]) for part in parts]

    def audio(self, mel: np.ndarray) -> np.ndarray:
        """Features of a sound's mel frames [bins, L]: [tokens, D], chunk after chunk."""
        return np.concatenate([self._audio_chunk(chunk.T, frames) for chunk, frames in self.chunks(mel)])

    def _audio_chunk(self, x: np.ndarray, frames: int) -> np.ndarray:
        config, weights = self.config["audio_config"], self.weights.below("audio_tower")
        x = gelu(_convolve(x, weights, "conv1", 1)) * (np.arange(self.chunk) < frames)[:, None]
        x = gelu(_convolve(x, weights, "conv2", 2)) + _sinusoids(self.chunk // 2, config["d_model"])
        kept = (frames - 1) // 2 + 1
        visible = np.broadcast_to(np.arange(len(x)) < kept, (len(x), len(x)))
        for number in range(config["encoder_layers"]):
            layer = weights.below(f"layers.{number}")
            y = layer.layer_norm(x, "self_attn_layer_norm", 1e-5)
            x = x + tower_attention(y, layer, config["encoder_attention_heads"], None, visible, **_WHISPER)
            y = layer.layer_norm(x, "final_layer_norm", 1e-5)
            x = x + layer.linear(gelu(layer.linear(y, "fc1")), "fc2")
        x = weights.layer_norm(x.reshape(len(x) // 2, 2, -1).mean(1), "ln_post", 1e-5)
        return weights.linear(x, "proj")[: kept // 2]

    def embeddings(self, ids: np.ndarray, case: dict) -> np.ndarray:
        """Token embeddings [T, D] with the case's features over their columns."""
        config, x = self.config, self.weights["model.embed_tokens.weight"][ids]
        for token, names in (("image_token_index", case["images"]), ("video_token_index", case["videos"])):
            if names:
                x = merge_features(x, self.vision(*self.patches(names)), np.flatnonzero(ids == config[token]))
        if case["audios"]:
            mels = [self.cases[self.told["media"][name]["features"]].astype(np.float64) for name in case["audios"]]
            features = np.concatenate([self.audio(mel) for mel in mels])
            x = merge_features(x, features, np.flatnonzero(ids == config["audio_token_index"]))
        return x

    def logits(self, ids, positions, segments, case, sections=None) -> np.ndarray:
        """ids [T], positions [3, T], segments [T] → [T, vocabulary]."""
        text = self.config["text_config"]
        heads = text["num_attention_heads"]
        y = decoder(
            self.embeddings(ids, case), positions, segments, self.weights.below("model"), text["num_hidden_layers"],
            heads, text["num_key_value_heads"], text["hidden_size"] // heads, text["rope_theta"],
            sections or text["rope_scaling"]["mrope_section"], text["rms_norm_eps"],
        )  # fmt: skip
        return self.weights.linear(y, "lm_head")


def _convolve(x: np.ndarray, weights: Weights, name: str, stride: int) -> np.ndarray:
    """A convolution of width 3, padded by 1: x [L, in] → [L / stride, out]."""
    kernel, padded = weights[f"{name}.weight"], np.pad(x, ((1, 1), (0, 0)))
    starts = np.arange(0, len(x), stride)
    return sum(padded[starts + i] @ kernel[:, :, i].T for i in range(3)) + weights[f"{name}.bias"]


def _sinusoids(length: int, width: int) -> np.ndarray:
    """Whisper's positions [length, width]: sines, then cosines."""
    rates = np.exp(-math.log(10000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate((np.sin(angles), np.cos(angles)), 1)

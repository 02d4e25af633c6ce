"""Ovis2.5 by the contract, in numpy, on a folder of golden vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from reference import (
    Weights,
    block_order,
    decoder,
    gelu_tanh,
    merge_features,
    rotary_2d,
    same_segment,
    softmax,
    tower_attention,
    window_segments,
)  # fmt: skip
from safetensors.numpy import load_file

from ms_impl.cells.bicubic import bicubic_matrix

ATOM = -300
INDICATORS = (-301, -302, -303, -304)  # the last four rows of the visual table
_NAMES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj"}


class Ovis:
    """``cases``: tensors; the tower, the visual table and the decoder of the checkpoint beside them."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        self.cases = load_file(folder / "cases.safetensors")
        self.weights = Weights(load_file(folder / "model.safetensors"))

    def vision(self, pixels: np.ndarray, grids: np.ndarray, full_layers: set[int] | None = None) -> np.ndarray:
        """Patches [N, 768] of visuals → last hidden states [N, C]; layers not in ``full_layers`` see windows."""
        config = self.config["vit_config"]
        tower = self.weights.below("visual_tokenizer.vit.vision_model")
        stride = config["hidden_stride"]
        side = config["window_size"] // config["patch_size"] // stride * stride
        orders = [block_order(*map(int, grid)) for grid in grids]
        frames = np.concatenate([100 * i + 1 + order[:, 0] for i, order in enumerate(orders)])
        places = np.concatenate([order[:, 1:] for order in orders])
        windows = window_segments(frames, *places.T, side)
        x = tower.linear(pixels.astype(np.float64), "embeddings.patch_embedding") + self.positions(grids)
        turns = rotary_2d(places, config["hidden_size"] // config["num_attention_heads"])
        for number in range(config["num_hidden_layers"]):
            layer = tower.below(f"encoder.layers.{number}")
            segments = frames if full_layers is None or number in full_layers else windows
            y = layer.layer_norm(x, "layer_norm1", config["layer_norm_eps"])
            x = x + tower_attention(y, layer, config["num_attention_heads"], turns, same_segment(segments), **_NAMES)
            y = layer.layer_norm(x, "layer_norm2", config["layer_norm_eps"])
            x = x + layer.linear(gelu_tanh(layer.linear(y, "mlp.fc1")), "mlp.fc2")
        return x

    def positions(self, grids: np.ndarray) -> np.ndarray:
        """Learned positions resized to each grid [N, C]: Σ a_i b_j P_ij with rows of two bicubic matrices."""
        config = self.config["vit_config"]
        side = config["image_size"] // config["patch_size"]
        learned = self.weights["visual_tokenizer.vit.vision_model.embeddings.position_embedding.weight"]
        learned = learned.reshape(side, side, -1)
        resized = []
        for frames, rows, columns in grids.astype(int):
            _, row, column = block_order(frames, rows, columns).T
            taps = bicubic_matrix(rows, side)[row], bicubic_matrix(columns, side)[column]
            resized.append(np.einsum("ni,nj,ijc->nc", *taps, learned))
        return np.concatenate(resized)

    def visual_tokens(self, pixels: np.ndarray, grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities over the visual table [N / 4, W] and the embeddings they mix [N / 4, D]."""
        x = self.vision(pixels, grids).reshape(len(pixels) // 4, -1)
        head = self.weights.below("visual_tokenizer.head")
        scores = head.layer_norm(head.linear(x, "0"), "1", 1e-5)
        shares = np.pad(softmax(scores), ((0, 0), (0, len(INDICATORS))))
        return shares, shares @ self.weights["vte.weight"]

    def embeddings(self, ids: np.ndarray, visuals: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """Token embeddings [T, D] with indicators and visual tokens over their columns."""
        x = self.weights["llm.model.embed_tokens.weight"][np.maximum(ids, 0)]
        for row, token in zip(self.weights["vte.weight"][-len(INDICATORS) :], INDICATORS):
            columns = np.flatnonzero(ids == token)
            x = merge_features(x, np.tile(row, (len(columns), 1)), columns)
        if visuals is not None:
            x = merge_features(x, self.visual_tokens(*visuals)[1], np.flatnonzero(ids == ATOM))
        return x

    def logits(self, ids: np.ndarray, visuals: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """ids [T] → [T, vocabulary], with a tied head."""
        config = self.config["llm_config"]
        y = decoder(
            self.embeddings(ids, visuals), np.arange(len(ids))[None], np.ones(len(ids), int),
            self.weights.below("llm.model"), config["num_hidden_layers"], config["num_attention_heads"],
            config["num_key_value_heads"], config["head_dim"], config["rope_theta"], None, config["rms_norm_eps"],
        )  # fmt: skip
        return y @ self.weights["llm.model.embed_tokens.weight"].T

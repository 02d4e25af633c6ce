"""A folder of golden vectors of Ovis2.5: its cases as the arrays that the models declare, all of one shape."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ms_impl.ovis2_5.config import INDICATORS, Ovis2_5Config
from ms_impl.ovis2_5.patches import Grid, Visual, fill_rows, frame_taps, row_length

ATOM, FIRST_INDICATOR = -300, -301
IGNORED = -100
MEDIA = (
    "patches", "patch_segments", "patch_places", "patch_taps", "patch_columns", "indicator_ids", "indicator_columns",
)  # fmt: skip
COLUMNS = ("input_ids", *MEDIA, "labels", "segment_ids", "position_ids", "loss_weights")  # of construct
LOGITS = {"text": (), "single": (0,), "two": (0, 1), "two_adjacent": (1, 0), "video": ("video",)}
ROWS = 2  # of every batch: a row of zeros beside a single one

Batch = dict[str, np.ndarray]


class OvisVectors:
    """Sizes come from config.json and from the keys."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = Ovis2_5Config.from_file(folder)
        self.told = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        self.cases = load_file(folder / "cases.safetensors")
        self.cases["tok.shares"] = self.cases["tok.probs"][:, : self.config.visual_tokens]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.cases[key]

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The cases under a prefix, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.cases.items() if key.startswith(prefix)}

    def visual(self, number: int | str, columns: Sequence[int] = ()) -> Visual:
        """Image ``number``, or "video", as the original prepared it."""
        name = number if number == "video" else f"image{number}"
        grid = tuple(map(int, self[f"pre.{name}.grid_thw"][0]))
        return Visual(grid, self[f"pre.{name}.pixel_values"], np.asarray(columns, np.int32))

    @property
    def shape(self) -> dict[str, int]:
        """Columns, patches a row, rows of patches and indicators: room for every case."""
        ids = [self[f"{case}.input_ids"] for case in (*LOGITS, "batch")]
        grids = [self.visual(number).grid for number in (0, 1, "video")]
        return {
            "columns": max(row.shape[1] for row in ids),
            "length": row_length(max(rows * columns for _, rows, columns in grids)),
            "patch_rows": max(2, *(count for count, _, _ in grids)),
            "indicators": 4,
        }

    def empty(self, rows: int = ROWS, columns: int | None = None) -> Batch:
        """A batch of padding; ``columns``: None for room for every case."""
        shape, vision = self.shape, self.config.vit_config
        columns = columns or shape["columns"]
        place = (rows, shape["patch_rows"], shape["length"])
        return {
            "input_ids": np.zeros((rows, columns), np.int32),
            "patches": np.zeros((*place, vision.patch_features), np.float32),
            "patch_segments": np.zeros((*place, 2), np.int32),
            "patch_places": np.zeros((*place, 2), np.int32),
            "patch_taps": np.zeros((*place, 2, vision.position_side), np.float32),
            "patch_columns": np.full((*place[:2], place[2] // vision.hidden_stride**2), columns, np.int32),
            "indicator_ids": np.zeros((rows, shape["indicators"]), np.int32),
            "indicator_columns": np.full((rows, shape["indicators"], 1), columns, np.int32),
            "labels": np.full((rows, columns), IGNORED, np.int32),
            "segment_ids": np.zeros((rows, columns), np.int32),
            "position_ids": np.tile(np.arange(columns, dtype=np.int32), (rows, 1)),
        }

    def fill(self, batch: Batch, row: int, ids: np.ndarray, visuals: Sequence[int | str], start: int = 0) -> None:
        """Write a sequence with its visuals into a row, from column ``start`` on, as segment 1."""
        end = start + len(ids)
        batch["input_ids"][row, start:end] = np.maximum(ids, 0)
        batch["segment_ids"][row, start:end] = 1
        batch["position_ids"][row, start:end] = np.arange(len(ids))
        indicators = np.flatnonzero(np.isin(ids, FIRST_INDICATOR - np.arange(INDICATORS)))
        batch["indicator_ids"][row, : len(indicators)] = FIRST_INDICATOR - ids[indicators]
        batch["indicator_columns"][row, : len(indicators), 0] = indicators + start
        atoms, filled = np.flatnonzero(ids == ATOM) + start, []
        for number in visuals:
            count = len(self.visual(number).patches) // self.config.vit_config.hidden_stride**2
            filled.append(self.visual(number, atoms[:count]))
            atoms = atoms[count:]
        assert len(atoms) == 0
        fill_rows(filled, {name: batch[name][row] for name in MEDIA}, self.config.vit_config)

    def case(self, name: str) -> Batch:
        """A case of logits in the first row."""
        batch = self.empty()
        self.fill(batch, 0, self[f"{name}.input_ids"][0].astype(int), LOGITS[name])
        return batch

    def batch(self) -> Batch:
        """The two rows of training, image 0 in the first and image 1 in the second."""
        batch = self.empty()
        for row, (ids, mask, labels) in enumerate(
            zip(*(self[f"batch.{n}"] for n in ("input_ids", "attention_mask", "labels")))
        ):
            self.fill(batch, row, ids[mask].astype(int), (row,))
            batch["labels"][row, : mask.sum()] = labels[mask]
        return batch

    def text_alone(self) -> Batch:
        """The text of the dummy visual."""
        batch = self.empty()
        ids = self["dummy.input_ids"][0].astype(int)
        self.fill(batch, 0, ids, ())
        batch["labels"][0, : len(ids)] = self["dummy.labels"][0]
        return batch

    def in_one_row(self, batch: Batch) -> Batch:
        """The same batch with all frames of a row of tokens in one long row of patches."""
        joined = dict(batch)
        for name in MEDIA[:5]:
            array = batch[name]
            joined[name] = array.reshape(len(array), 1, -1, *array.shape[3:])
        return joined

    def greedy_case(self) -> tuple[Batch, np.ndarray]:
        """The prompt as a batch of one row without padding, and the tokens that follow."""
        ids = self["greedy.input_ids"][0].astype(int)
        batch = self.empty(1, len(ids))
        self.fill(batch, 0, ids, LOGITS["single"])
        return batch, self["greedy.tokens"]

    def tower_case(self, name: str) -> tuple[Batch, np.ndarray, tuple[int, ...] | None]:
        """Packed visuals as rows of patches without a batch axis, the place [N] in R · L of every patch, and the layers
        that attend fully (None: all). ``name``: "vit", "window" or "window, all full"."""
        if name == "vit":
            visuals = [self.visual(number) for number in (0, 1)]
            return *self._rows([visual.grid for visual in visuals], np.concatenate([v.patches for v in visuals])), None
        grids = [tuple(map(int, grid)) for grid in self["window.grid_thws"]]
        full = tuple(self["window.fullatt_block_indexes"].tolist()) if name == "window" else None
        return *self._rows(grids, self["window.pixel_values"]), full

    def _rows(self, grids: Sequence[Grid], patches: np.ndarray) -> tuple[Batch, np.ndarray]:
        vision = self.config.vit_config
        unit, length = vision.hidden_stride**2, row_length(max(rows * columns for _, rows, columns in grids))
        ends = np.cumsum([count * rows * columns for count, rows, columns in grids])
        place = (sum(count for count, _, _ in grids), length)
        batch = {
            "patches": np.zeros((*place, vision.patch_features), np.float32),
            "patch_segments": np.zeros((*place, 2), np.int32),
            "patch_places": np.zeros((*place, 2), np.int32),
            "patch_taps": np.zeros((*place, 2, vision.position_side), np.float32),
            "patch_columns": np.full((place[0], length // unit), -1, np.int32),
        }
        units = np.split(np.arange(ends[-1] // unit, dtype=np.int32), ends[:-1] // unit)
        visuals = [Visual(*each) for each in zip(grids, np.split(patches, ends[:-1]), units)]
        fill_rows(visuals, batch, vision)
        columns = batch["patch_columns"].ravel()
        where = np.empty(ends[-1] // unit, int)
        where[columns[columns >= 0]] = np.flatnonzero(columns >= 0)
        return batch, (where[:, None] * unit + np.arange(unit)).ravel()

    def of_patches(self, state: np.ndarray, batch: Batch, where: np.ndarray) -> np.ndarray:
        """What rows of patches, or of visual tokens, became [R, ·, width], in the original's order: [N, width]."""
        rows, unit = state.reshape(-1, state.shape[-1]), self.config.vit_config.hidden_stride**2
        return rows[where] if len(rows) == batch["patches"][..., 0].size else rows[where[::unit] // unit]

    def tower_stages(self) -> list[tuple[str, str]]:
        """Stages of the "vit" case and their keys."""
        last = self.config.vit_config.num_hidden_layers - 1
        layers = [(f"layer {number}", f"vit.hidden_after_layer{number}") for number in range(last)]
        stages = [("positions", "vit.position_embedding"), ("patch embeddings", "vit.embeddings"), *layers]
        return [
            *stages,
            (f"layer {last}", "vit.last_hidden"),
            ("shares", "tok.shares"),
            ("visual tokens", "tok.embeds"),
        ]

    def window_stages(self, name: str) -> list[tuple[str, str]]:
        """Stages of a "window" case and their keys."""
        last = f"layer {self.config.vit_config.num_hidden_layers - 1}"
        if name != "window":
            return [(last, "window.last_hidden_full")]
        return [("layer 0", "window.hidden_after_layer0"), (last, "window.last_hidden")]

    def position_grids(self) -> list[tuple[tuple[int, int], np.ndarray]]:
        """Rows and columns of single grids, and the positions resized to them."""
        found = [(re.fullmatch(r"vit\.position_embedding_(\d+)x(\d+)", key), key) for key in self.cases]
        return [((int(match[1]), int(match[2])), self[key]) for match, key in found if match]

    def taps(self, rows: int, columns: int) -> np.ndarray:
        """float32 [rows · columns, 2, side]."""
        vision = self.config.vit_config
        return frame_taps(rows, columns, vision.position_side, vision.hidden_stride)

    def train_variants(self) -> list[str]:
        """The ``train_modules`` of which five steps were made."""
        return sorted(self.named("train.adamw_losses:"))

    def after_steps(self, words: str, names: Collection[str]) -> dict[str, np.ndarray]:
        """Parameters after the five steps of the original's run; ``vte_indicators`` is of the visual table's rows."""
        found = self.named(f"train.adamw_after:{words}:")
        return {name: found[name] for name in found if name in names}  # others' words begin with these

"""A folder of golden vectors of the thinker: its cases as rows, and rows as the arrays that the model declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omni import Omni

from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig

CORE = ("input_ids", "segment_ids", "position_ids")
PATCHES = ("patches", "patch_segments", "patch_places", "patch_columns")
AUDIO = ("mel", "mel_frames", "mel_columns")
COLUMNS = ("input_ids", *PATCHES, *AUDIO, "labels", "segment_ids", "position_ids", "loss_weights")  # of construct
FRAME_MULTIPLE = 64  # patches: a row's length is a multiple

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One row: ids [t], positions [3, t], segments [t] (0 = padding), the names of its media in order of use."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    images: Sequence[str] = ()
    videos: Sequence[str] = ()
    audios: Sequence[str] = ()
    labels: np.ndarray | None = None
    name: str = field(default="", compare=False)

    @property
    def real(self) -> np.ndarray:
        """bool [t]"""
        return self.segments > 0


@dataclass(frozen=True)
class Sizes:
    """The one shape that all batches have: rows, columns, rows of patches and their length, chunks of sound."""

    rows: int
    columns: int
    patch_rows: int
    patches: int
    chunks: int


class OmniVectors(Omni):
    """``config`` is the parsed file, ``configuration`` ms_impl's; everything else is read from the folder's keys."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.folder = folder
        self.configuration = Qwen2_5OmniConfig.from_file(folder)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.cases[key]

    @property
    def logits_cases(self) -> dict[str, dict[str, Any]]:
        """What goes into each ``logits.CASE``."""
        return {name: told for name, told in self.told["logits"].items() if isinstance(told, dict)}

    @property
    def visual_cases(self) -> dict[str, list[str]]:
        """The media of each ``visual.CASE`` that has an output."""
        return {name: told["media"] for name, told in self.told["visual"].items() if "media" in told}

    @property
    def audio_lengths(self) -> list[int]:
        """The mel frames of the sounds that have an output of their own."""
        return sorted(int(n) for key in self.cases for n in re.findall(r"^audio\.(\d+)\.output$", key))

    def case_rows(self, case: str) -> list[Row]:
        """The rows of ``logits.CASE``, ``packing.CASE`` or ``train``."""
        kind, _, name = case.partition(".")
        told = self.told[kind][name] if name else self.told[kind]
        ids, media = self.cases[f"{case}.input_ids"], self._media(told)
        if kind == "packing":
            segments = np.repeat(np.arange(1, len(told["lengths"]) + 1), told["lengths"])[None]
            positions, labels = self.cases[f"{case}.position_ids"][1:], None
        else:
            segments, labels = self.cases[f"{case}.attention_mask"], self.cases.get(f"{case}.labels")
            positions = self.cases.get(f"{case}.position_ids")
        rows = []
        for number, row in enumerate(ids):
            found = None if positions is None else positions[:, number]
            label = None if labels is None else labels[number]
            rows.append(Row(row, found, segments[number], **media(row), labels=label, name=f"{case}[{number}]"))
        return rows

    def _media(self, told: Mapping[str, Any]) -> Callable[[np.ndarray], dict[str, list[str]]]:
        """A function that takes row after row and gives it the media that its placeholders ask for."""
        kinds = (("images", "image"), ("videos", "video"), ("audios", "audio"))
        left = {kind: list(told[kind]) for kind, _ in kinds}

        def of_row(ids: np.ndarray) -> dict[str, list[str]]:
            taken: dict[str, list[str]] = {kind: [] for kind, _ in kinds}
            for kind, token in kinds:
                places = int((ids == self.config[f"{token}_token_index"]).sum())
                while places:
                    taken[kind].append(left[kind].pop(0))
                    places -= self.tokens(taken[kind][-1])
                    assert places >= 0, f"{kind}: a medium goes over the end of its row"
            return taken

        return of_row

    def tokens(self, name: str) -> int:
        """How many tokens a medium takes."""
        told = self.told["media"][name]
        if "grid_thw" in told:
            return int(np.prod(told["grid_thw"])) // 4
        return sum((frames + 1) // 2 // 2 for _, frames in self.chunks(self.mel(name)))

    def mel(self, name: str) -> np.ndarray:
        return self.cases[self.told["media"][name]["features"]]

    @cached_property
    def sizes(self) -> Sizes:
        """Large enough for every case of the folder."""
        cases = [f"logits.{case}" for case in self.logits_cases] + [f"packing.{case}" for case in self.told["packing"]]
        rows = [self.case_rows(case) for case in (*cases, "train")]
        sizes = self.sizes_of([row for case in rows for row in case])
        return replace(sizes, rows=max(len(case) for case in rows))

    def sizes_of(self, rows: Sequence[Row]) -> Sizes:
        """The smallest shape that holds some rows; each may have one column more."""
        frames = [h * w for told in self.told["media"].values() if "grid_thw" in told for _, h, w in [told["grid_thw"]]]
        length = -(-max(frames) // FRAME_MULTIPLE) * FRAME_MULTIPLE
        return Sizes(
            rows=len(rows),
            columns=-(-(max(len(row.ids) for row in rows) + 1) // 32) * 32,
            patch_rows=max(1, *(len(set(self._patch_rows(row, length)[0])) for row in rows)),
            patches=length,
            chunks=max(1, *(sum(len(self.chunks(self.mel(name))) for name in row.audios) for row in rows)),
        )

    def _patch_rows(self, row: Row, length: int) -> tuple[list[int], list[np.ndarray], tuple[np.ndarray, ...]]:
        """Each frame's row of patches (whole frames, first fit), its patches' numbers, and the patches' arrays."""
        names = [*row.images, *row.videos]
        if not names:
            return [], [], ()
        arrays = self.patches(names)
        frames = [np.flatnonzero(arrays[1] == frame) for frame in np.unique(arrays[1])]
        used: list[int] = []
        places = []
        for frame in frames:
            fits = [number for number, taken in enumerate(used) if taken + len(frame) <= length]
            number = fits[0] if fits else len(used)
            used += [] if fits else [0]
            used[number] += len(frame)
            places.append(number)
        return places, frames, arrays

    def batch(self, rows: Sequence[Row], sizes: Sizes | None = None) -> Batch:
        """The declared arrays of some rows, all padded on the right to one shape; unused rows are padding."""
        sizes = sizes or self.sizes
        batch = self._empty(sizes)
        for number, row in enumerate(rows):
            end = len(row.ids)
            batch["input_ids"][number, :end] = row.ids
            batch["segment_ids"][number, :end] = row.segments
            if row.positions is not None:
                batch["position_ids"][number, :, :end] = row.positions
            if row.labels is not None:
                batch["labels"][number, :end] = row.labels
            of_row = {name: array[number] for name, array in batch.items()}
            self._fill_patches(row, of_row)
            self._fill_audio(row, of_row)
        return batch

    def _empty(self, sizes: Sizes) -> Batch:
        count, columns, rows, patches = sizes.rows, sizes.columns, sizes.patch_rows, sizes.patches
        vision, audio = self.configuration.vision_config, self.configuration.audio_config
        shapes = {
            "input_ids": (columns,), "segment_ids": (columns,), "position_ids": (3, columns),
            "patch_segments": (rows, patches, 2), "patch_places": (rows, patches, 2), "mel_frames": (sizes.chunks,),
        }  # fmt: skip
        batch = {name: np.zeros((count, *shape), np.int32) for name, shape in shapes.items()}
        batch["labels"] = np.full((count, columns), -100, np.int32)
        batch["patches"] = np.zeros((count, rows, patches, vision.patch_features), np.float32)
        batch["patch_columns"] = np.full((count, rows, patches // 4), columns, np.int32)
        batch["mel"] = np.zeros((count, sizes.chunks, audio.num_mel_bins, audio.chunk_frames), np.float32)
        batch["mel_columns"] = np.full((count, sizes.chunks, audio.chunk_tokens), columns, np.int32)
        return batch

    def _fill_patches(self, row: Row, out: Batch) -> None:
        places, frames, arrays = self._patch_rows(row, out["patches"].shape[1])
        if not places:
            return
        pixels, frame_numbers, windows, positions = arrays
        windows = np.unique(windows, return_inverse=True)[1] + 1
        tokens = [self.config[f"{kind}_token_index"] for kind in ("image", "video")]
        columns = np.concatenate([np.flatnonzero(row.ids == token) for token in tokens])
        used = [0] * (max(places) + 1)
        for number, patches in zip(places, frames):
            at = slice(used[number], used[number] + len(patches))
            out["patches"][number, at] = pixels[patches]
            out["patch_segments"][number, at] = np.c_[frame_numbers[patches], windows[patches]]
            out["patch_places"][number, at] = positions[patches]
            out["patch_columns"][number, at.start // 4 : at.stop // 4] = columns[patches[::4] // 4]
            used[number] = at.stop

    def _fill_audio(self, row: Row, out: Batch) -> None:
        columns = np.flatnonzero(row.ids == self.config["audio_token_index"])
        chunks = [chunk for name in row.audios for chunk in self.chunks(self.mel(name))]
        for number, (mel, frames) in enumerate(chunks):
            tokens = (frames + 1) // 2 // 2
            out["mel"][number], out["mel_frames"][number] = mel, frames
            out["mel_columns"][number, :tokens] = columns[:tokens]
            columns = columns[tokens:]
        assert not len(columns), "sounds are shorter than their placeholders"

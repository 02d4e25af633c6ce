"""Teach the language model of a small Qwen2.5-Omni to tell what its towers see and hear, and when.

    python scripts/small_models/pretrain_language.py --model build/hearing --data build/data --output_path build/telling

The towers stay as ``pretrain_towers.py`` left them, so their features are computed once. Two throw-away heads
help along the way: the second at which each token of a clip stands, read off the second layer, and, off the last one,
the second of what has happened before it. Clips without sound are told anew as if they were longer or shorter: their
frames are the same, their positions and the answer are not, which only true time tells apart.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from making import save, trainer
from omni_data import LONGEST, SHORTEST, clip_moment
from omni_torch import Thinker
from pretrain_towers import CLIP_SIDE, places_of, train
from torch import Tensor, nn
from tqdm import tqdm

from ms_impl.cli.main import command
from ms_impl.data.batch import IGNORED, collate
from ms_impl.data.files import ConversationFile
from ms_impl.data.sample import Sample
from ms_impl.qwen2_5_omni.positions import Clock, Text, Vision, row_positions
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate

FRAMES = 64  # of every clip
NOT_YET = LONGEST + 1  # the class of a token before which nothing has happened
SHORT_ROWS, FILM_ROWS = {"questions": 12, "words": 6, "clips": 14}, 4
STRETCH = 4  # how much longer than it is a clip may be told
LONGEST_FILM = 12  # seconds of sound in training


@dataclass
class Row:
    """A sample whose media are features [n, D] at columns [n]."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    columns: np.ndarray
    seconds: float = 0.0  # of a clip
    event: float = 0.0
    is_film: bool = False
    times: np.ndarray | None = None  # second of each token, −100 where it is none of a clip
    happened: np.ndarray | None = None  # the second of what has happened by then, NOT_YET, or −100


class Encoder:
    """Records → rows, by the model's own template and its frozen towers; ``kept``: dtype of the features."""

    def __init__(self, model: Thinker, directory: Path, data: Path, kept: type = np.float16):
        self.model, self.data, self.kept = model, data, kept
        pixels = CLIP_SIDE**2
        options = {"dataset_dir": str(data), "frames": FRAMES, "video_min_pixels": pixels, "video_max_pixels": pixels,
                   "use_audio_in_video": True}  # fmt: skip
        self.template = Qwen2_5OmniTemplate.from_pretrained(directory, **options)
        self._images: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def row(self, sample: Sample, image: str = "") -> Row:
        """``image``: the name of the only medium, which other samples show at the same columns."""
        if image not in self._images:
            encoded = self._encoded(sample)
            if image:
                self._images[image] = encoded
        return Row(sample.input_ids, sample.position_ids, sample.labels, *(self._images[image] if image else encoded))

    @torch.no_grad()
    def _encoded(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        batch = collate([sample], self.template)
        features, columns = [], []
        if batch["patches"] is not None:
            shown, found = self._seen(batch, sample)
            features.append(shown)
            columns.append(found)
        if batch["mel"] is not None:
            mel, frames = (torch.from_numpy(batch[name][0]) for name in ("mel", "mel_frames"))
            where = batch["mel_columns"][0].reshape(-1)
            heard = self.model.audio_tower(mel, frames.long()).flatten(0, 1).numpy()
            features.append(heard[where < len(sample)])
            columns.append(where[where < len(sample)])
        return np.concatenate(features).astype(self.kept), np.concatenate(columns)

    def _seen(self, batch: dict, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Features and columns of frames of one size."""
        ((_, rows, columns, _),) = (each.geometry for each in sample.media if each.kind == "patches")
        patches, segments = batch["patches"][0], batch["patch_segments"][0, :, :, 0]
        frames = torch.from_numpy(patches[segments > 0].reshape(-1, rows * columns, patches.shape[-1]))
        features = self.model.visual(frames, places_of(14 * rows)).flatten(0, 1).numpy()
        where = batch["patch_columns"][0].reshape(-1)
        return features, where[where < len(sample)]

    def rows(self, kind: str, most: int | None) -> list[Row]:
        """The rows of ``train_KIND.jsonl``."""
        file = ConversationFile(self.data / f"train_{kind}.jsonl", most)
        rows = []
        for number in tqdm(range(len(file)), kind, mininterval=10, disable=None):
            if kind == "clips":
                seconds, event = clip_moment("train", number, 0)
                if number % 2 and seconds > LONGEST_FILM:
                    continue
            conversation = file[number]
            image = str(conversation.media[0].source) if kind == "questions" else ""
            row = self.row(self.template.sample(conversation), image)
            if kind == "clips":
                row.seconds, row.event, row.is_film = seconds, event, bool(number % 2)
            rows.append(row)
        return rows


class Clips:
    """Rows of clips with the labels of the throw-away heads; those without sound at any speed."""

    def __init__(self, template: Qwen2_5OmniTemplate, seed: int):
        config = template.config
        self.video, self.audio = config.video_token_index, config.audio_token_index
        self.per_second = config.position_id_per_seconds
        self.clock = Clock(self.per_second, self.per_second * config.seconds_per_chunk)
        self.digits = np.array([template.tokenizer.encode(str(digit))[0] for digit in range(10)])
        self.chance = random.Random(seed)

    def film(self, row: Row) -> Row:
        """Its sound's tokens know what they have heard; it is told as it is."""
        times, seconds = self._times(row.ids, row.positions)
        happened = np.full(len(times), IGNORED)
        sound = row.ids == self.audio
        happened[sound & (seconds < row.event - 0.05)] = NOT_YET
        happened[sound & (seconds > row.event + 0.3)] = round(row.event)
        return self._with(row, row.positions, row.labels, row.ids, times, happened)

    def silent(self, row: Row) -> Row:
        """As if it lasted a random time."""
        seconds = self.chance.uniform(SHORTEST, min(LONGEST, STRETCH * row.seconds))
        event = row.event / row.seconds * seconds
        (shown,) = np.nonzero(row.ids == self.video)
        grids = FRAMES // 2
        each = seconds / grids
        blocks = [Text(int(shown[0])), Vision((grids, 2, 2), each), Text(len(row.ids) - int(shown[-1]) - 1)]
        positions, _ = row_positions(blocks, self.clock)
        times, _ = self._times(row.ids, positions)
        happened = np.full(len(times), IGNORED)
        begins = np.arange(grids) * each
        happened[shown[begins + each <= event]] = NOT_YET
        happened[shown[begins >= event + each / 2]] = round(event)
        labels, ids = row.labels.copy(), row.ids.copy()
        (answer,) = np.nonzero(np.isin(labels, self.digits))
        labels[answer] = ids[answer] = self.digits[[round(event) // 10, round(event) % 10]]
        return self._with(row, positions, labels, ids, times, happened)

    def _times(self, ids: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_clip = (ids == self.video) | (ids == self.audio)
        seconds = (positions[0] - positions[0, is_clip].min()) / self.per_second
        return np.where(is_clip, np.clip(seconds.astype(int), 0, LONGEST), IGNORED), seconds

    def _with(self, row: Row, positions, labels, ids, times, happened) -> Row:
        return Row(ids, positions, labels, row.features, row.columns, times=times, happened=happened)


def batched(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows padded on the right; features at their columns [N, T, D] and where they are [N, T]."""
    length = -(-max(len(row.ids) for row in rows) // 8) * 8
    width = rows[0].features.shape[1]
    ids, labels, times, happened = (np.full((len(rows), length), fill) for fill in (0, IGNORED, IGNORED, IGNORED))
    positions = np.zeros((len(rows), 3, length), np.int64)
    features, given = np.zeros((len(rows), length, width), np.float32), np.zeros((len(rows), length), bool)
    for n, row in enumerate(rows):
        size = len(row.ids)
        ids[n, :size], labels[n, :size], positions[n, :, :size] = row.ids, row.labels, row.positions
        features[n, row.columns], given[n, row.columns] = row.features, True
        if row.times is not None:
            times[n, :size], happened[n, :size] = row.times, row.happened
    arrays = {"ids": ids, "labels": labels, "times": times, "happened": happened, "positions": positions,
              "features": features, "given": given}  # fmt: skip
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Teacher(nn.Module):
    """The language model with its throw-away heads."""

    def __init__(self, model: Thinker):
        super().__init__()
        self.decoder, self.head = model.model, model.lm_head
        width = model.config.hidden_size
        self.time, self.happened = nn.Linear(width, LONGEST + 1), nn.Linear(width, NOT_YET + 1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of answers, times, and what has happened."""
        words = self.decoder.embed_tokens(batch["ids"])
        hidden = torch.where(batch["given"][..., None], batch["features"].to(words.dtype), words)
        states = self.decoder(hidden, batch["positions"])
        asked = torch.nonzero(batch["labels"][:, 1:] != IGNORED, as_tuple=True)
        answers = self._loss(self.head, states[-1][:, :-1][asked], batch["labels"][:, 1:][asked])
        clip = torch.nonzero(batch["times"] != IGNORED, as_tuple=True)
        times = self._loss(self.time, states[1][clip], batch["times"][clip])
        told = torch.nonzero(batch["happened"] != IGNORED, as_tuple=True)
        return answers, times, self._loss(self.happened, states[-1][told], batch["happened"][told])

    def _loss(self, head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), targets)


class Course:
    """Draws batches, and keeps the losses to print."""

    def __init__(self, teacher: Teacher, encoder: Encoder, counts: dict[str, int | None], seed: int):
        self.teacher, self.clips, self.chance = teacher, Clips(encoder.template, seed), random.Random(seed)
        self.rows = {kind: encoder.rows(kind, most) for kind, most in counts.items()}
        self.films = sorted((row for row in self.rows["clips"] if row.is_film), key=lambda row: len(row.ids))
        self.films = [self.clips.film(row) for row in self.films]
        self.rows["clips"] = [row for row in self.rows["clips"] if not row.is_film]
        self.means: dict[str, float] = {}
        self.step = 0

    def loss(self) -> Tensor:
        self.step += 1
        drawn = {kind: self.chance.choices(self.rows[kind], k=count) for kind, count in SHORT_ROWS.items()}
        drawn["clips"] = [self.clips.silent(row) for row in drawn["clips"]]
        total = self._weighed("short", batched([row for rows in drawn.values() for row in rows]))
        if self.step % 2 == 0:
            place = self.chance.randrange(max(1, len(self.films) - FILM_ROWS))
            total = total + self._weighed("film", batched(self.films[place : place + FILM_ROWS]))
        if self.step % 100 == 0:
            print(self.step, *(f"{name} {value:.3f}" for name, value in sorted(self.means.items())), flush=True)
        return total

    def _weighed(self, name: str, batch: dict[str, Tensor]) -> Tensor:
        losses = self.teacher(batch)
        for part, value in zip(("answers", "times", "happened"), losses):
            mean = self.means.setdefault(f"{name}_{part}", value.item())
            self.means[f"{name}_{part}"] = 0.97 * mean + 0.03 * value.item()
        return losses[0] + 0.3 * losses[1] + 0.5 * losses[2]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = trainer(
        "Teach a small Omni's language model to tell what it sees and hears", steps=3000, learning_rate=2e-3
    )
    parser.add_argument("--data", type=Path, required=True, help="what omni_data.py made")
    for kind in SHORT_ROWS:
        parser.add_argument(f"--{kind}", type=int, help="take the first so many")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = Thinker.from_pretrained(options.model)
    encoder = Encoder(model, options.model, options.data)
    teacher = Teacher(model)
    course = Course(teacher, encoder, {kind: getattr(options, kind) for kind in SHORT_ROWS}, options.seed)
    train(list(teacher.parameters()), course.loss, options.steps, options.learning_rate, "language")
    save(model, options.model, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

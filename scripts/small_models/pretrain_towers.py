"""Teach the towers of a small Qwen2.5-Omni to see and to hear, before its language model learns to tell.

    python scripts/small_models/pretrain_towers.py vision --model build/fresh --output_path build/seeing
    python scripts/small_models/pretrain_towers.py audio --model build/seeing --data data/omni --output_path build/heard

The released model began with towers that were trained elsewhere; a small one has to begin with something, too.
Throw-away linear heads name what a feature shows: colour and kind of easy-VQA's shape, the colours of a clip's two
frames, the word that was spoken, and whether a tone sounds just now.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from easyvqa_data import COLOURS, KINDS, read_split, shape_colour, shape_kind, shape_mask
from making import learning_rate, save, trainer
from omni_data import COLOURS as CLIP_COLOURS
from omni_data import WORDS, drawn_shape, tone
from omni_torch import Thinker
from PIL import Image
from torch import Tensor, nn
from tqdm import trange

from ms_impl.cli.main import command
from ms_impl.data.files import ConversationFile
from ms_impl.media.mel import RATE, log_mel
from ms_impl.media.resize import resize_in_float
from ms_impl.qwen2_5_omni.patch_rows import unit_order
from ms_impl.qwen2_5_omni.preprocessing import CLIP_MEAN, CLIP_STD, PATCH

IMAGE_SIDE, CLIP_SIDE = 112, 28  # pixels of images and of clips' frames as the model sees them
NAMES = (*KINDS, "shape")  # what a shape may be called
PAIRS = 20_000  # of frames, drawn
TONES = 1500  # sounds of two seconds, made
CHUNK = 200  # mel frames
NOISE = 4.0  # levels, on clips' frames, which a codec has blurred


def patches_of(frames: Tensor) -> Tensor:
    """Levels [N, 2, S, S, 3] of pairs of frames → normalised patches [N, (S / 14)², 1176], 2 × 2 unit after unit."""
    mean, std = (torch.tensor(values) * 255 for values in (CLIP_MEAN, CLIP_STD))
    x = (frames.float() - mean) / std
    units = frames.shape[2] // PATCH // 2
    x = x.reshape(len(x), 2, units, 2, PATCH, units, 2, PATCH, 3)
    return x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(len(x), 4 * units**2, -1)


def places_of(side: int) -> Tensor:
    """Row and column of each patch of a frame [(side / 14)², 2]."""
    return torch.from_numpy(unit_order(side // PATCH, side // PATCH))


def images() -> tuple[Tensor, Tensor]:
    """easy-VQA's images to train on, levels uint8 [N, S, S, 3], with colour and kind of their shapes, int [N, 2]."""
    pixels, targets = [], []
    for image in read_split("train"):
        resized = Image.fromarray(image.pixels).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
        pixels.append(np.asarray(resized))
        colour = shape_colour(image.pixels, shape_mask(image.pixels))
        targets.append((COLOURS.index(colour), NAMES.index(shape_kind(image.questions))))
    return torch.from_numpy(np.stack(pixels)), torch.tensor(targets)


def frame_pairs(seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of frames as clips have them, levels uint8 [N, 2, S, S, 3], and their shapes' colours, int [N, 2]."""
    chance, pixels, targets = random.Random(seed), [], []
    for number in range(PAIRS):
        before, after, background = chance.sample(CLIP_COLOURS, 3)
        after = before if number % 2 else after
        draw = drawn_shape(background, chance)
        pixels.append([resize_in_float(draw(colour), CLIP_SIDE, CLIP_SIDE) for colour in (before, after)])
        targets.append((CLIP_COLOURS.index(before), CLIP_COLOURS.index(after)))
    return torch.from_numpy(np.stack(pixels)), torch.tensor(targets)


def vision_loss(tower: nn.Module, seed: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Throw-away heads, and a function that gives the loss of a fresh batch."""
    width = tower.config.out_hidden_size
    heads = nn.ModuleList([nn.Linear(width, n) for n in (len(COLOURS), len(NAMES), *[len(CLIP_COLOURS)] * 2)])
    (stills, named), (pairs, coloured) = images(), frame_pairs(seed)

    def loss() -> Tensor:
        chosen = torch.randint(len(stills), (24,))
        batch = stills[chosen][:, None].expand(-1, 2, -1, -1, -1)
        batch = batch.flip([axis for axis in (2, 3) if torch.rand(()) < 0.5])
        seen = tower(patches_of(batch), places_of(IMAGE_SIDE)).mean(1)
        some = torch.randint(len(pairs), (64,))
        frames = pairs[some] + NOISE * torch.randn(64, 2, CLIP_SIDE, CLIP_SIDE, 3)
        shown = tower(patches_of(frames), places_of(CLIP_SIDE))[:, 0]
        told = [*((seen, named[chosen, axis]) for axis in (0, 1)), *((shown, coloured[some, axis]) for axis in (0, 1))]
        return sum(F.cross_entropy(head(x), target) for head, (x, target) in zip(heads, told))

    return heads, loss


def words(data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The spoken words to train on: mel [N, bins, 200], their frames [N], and which word each is [N]."""
    mels, frames, targets = [], [], []
    for record in ConversationFile(data / "train_words.jsonl"):
        sound, rate = soundfile.read(data / str(record.media[0].source), dtype="float32")
        mel = at_model_rate(sound, rate)[:, :CHUNK]
        frames.append(mel.shape[1])
        mels.append(np.pad(mel, ((0, 0), (0, CHUNK - mel.shape[1]))))
        targets.append(WORDS.index(record.turns[1].text))
    return torch.from_numpy(np.stack(mels)), torch.tensor(frames), torch.tensor(targets)


def at_model_rate(sound: np.ndarray, rate: int) -> np.ndarray:
    """The mel frames of a sound at any rate."""
    return log_mel(soxr.resample(sound, rate, RATE))


def tones(seed: int) -> tuple[Tensor, Tensor]:
    """Mel frames [N, bins, 200] of two seconds, some with a tone, and whether it sounds in each feature [N, 50]."""
    chance, mels, targets = random.Random(seed), [], []
    for _ in range(TONES):
        start = chance.uniform(-1, 3)
        mels.append(log_mel(tone(2.0, start, chance)))
        time = (np.arange(50) + 0.5) / 25
        targets.append((time > start) & (time < start + 0.6))
    return torch.from_numpy(np.stack(mels)), torch.from_numpy(np.stack(targets)).long()


def disguised(mel: Tensor, frames: Tensor) -> Tensor:
    """Words as other voices might say them: formants a little higher or lower, some noise, louder or fainter."""
    mel = mel.roll(int(torch.randint(-3, 4, ())), 1) + 0.15 * torch.randn(len(mel), 1, 1)
    mel = mel + 0.05 * torch.randn_like(mel)
    start = torch.randint(0, 128, (len(mel), 1, 1))
    bins = torch.arange(mel.shape[1])[:, None]
    return mel.masked_fill((bins >= start) & (bins < start + 8), 0.0)


def audio_loss(tower: nn.Module, data: Path, seed: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Throw-away heads, and a function that gives the loss of a fresh batch."""
    width = tower.proj.out_features
    heads = nn.ModuleList([nn.Linear(width, len(WORDS)), nn.Linear(width, 2)])
    (spoken, frames, named), (sounds, heard) = words(data), tones(seed)

    def loss() -> Tensor:
        chosen, some = torch.randint(len(spoken), (24,)), torch.randint(len(sounds), (8,))
        mel = torch.cat((disguised(spoken[chosen], frames[chosen]), sounds[some]))
        features = tower(mel, torch.cat((frames[chosen], torch.full((8,), CHUNK))))
        real = (torch.arange(features.shape[1]) < ((frames[chosen] + 1) // 4)[:, None]).float()[..., None]
        pooled = (features[:24] * real).sum(1) / real.sum(1)
        now = F.cross_entropy(heads[1](features[24:]).flatten(0, 1), heard[some].flatten())
        return F.cross_entropy(heads[0](pooled), named[chosen]) + now

    return heads, loss


def train(parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], steps: int, peak: float, name: str) -> None:
    """AdamW under a cosine, products in bfloat16."""
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    progress = trange(1, steps + 1, desc=name, mininterval=5, disable=None)
    mean = 0.0
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean = value.item() if step == 1 else 0.98 * mean + 0.02 * value.item()
        if step % 200 == 0 or step == steps:
            print(f"{name} step {step} loss {mean:.4f}", flush=True)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = trainer("Teach a small Omni's towers to see and to hear", steps=3000, learning_rate=1.5e-3)
    parser.add_argument("tower", choices=("vision", "audio"))
    parser.add_argument("--data", type=Path, help="what omni_data.py made, to hear")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = Thinker.from_pretrained(options.model)
    if options.tower == "vision":
        tower: nn.Module = model.visual
        heads, loss = vision_loss(tower, options.seed)
    else:
        tower = model.audio_tower
        heads, loss = audio_loss(tower, options.data, options.seed)
    parameters = [*tower.parameters(), *heads.parameters()]
    train(parameters, loss, options.steps, options.learning_rate, options.tower)
    save(model, options.model, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Teach the vision tower and the resampler of a small model to see, before the language model learns to tell.

    python scripts/small_models/pretrain_vision.py --model build/fresh --output_path build/seeing

The released Qwen-VL began with a ViT that was trained elsewhere; a small one has to begin with something, too.
Throw-away linear heads on the mean of an image's features name the shape's colour, its kind and the four edges of its
box. It runs in torch_ref, whose vision tower trains fastest on a CPU. Images are easy-VQA's train split without the
validation part, mirrored at random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from easyvqa_data import (
    COLOURS,
    COORDINATES,
    KINDS,
    VALIDATION_IMAGES,
    ShapeImage,
    read_split,
    shape_box,
    shape_colour,
    shape_kind,
    shape_mask,
)
from making import learning_rate, save, trainer
from PIL import Image
from torch import Tensor, nn
from tqdm import trange

from ms_impl.cli.main import command
from ms_impl.data.images import to_pixels
from torch_ref.qwenvl.model import QwenVL

NAMES = (*KINDS, "shape")  # what a shape may be called
EDGES = 65  # places of an edge: pixels of easy-VQA's images, both ends included


class Heads(nn.Module):
    """Colour, kind and edges (left, top, right, bottom) of the shape from image features."""

    def __init__(self, width: int):
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS))
        self.kind = nn.Linear(width, len(NAMES))
        self.edges = nn.Linear(width, 4 * EDGES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, Q, D] → logits [N, colours], [N, kinds], [N, 4, places]."""
        x = features.mean(1)
        return self.colour(x), self.kind(x), self.edges(x).unflatten(1, (4, EDGES))


def target(image: ShapeImage) -> list[int]:
    """Colour, kind and the edges' places."""
    mask = shape_mask(image.pixels)
    edges = [round(edge * (EDGES - 1) / COORDINATES) for edge in shape_box(mask)]
    return [COLOURS.index(shape_colour(image.pixels, mask)), NAMES.index(shape_kind(image.questions)), *edges]


def tensors(images: Sequence[ShapeImage], size: int) -> tuple[Tensor, Tensor]:
    """Pixel values [N, 3, size, size] and targets [N, 6]."""
    resized = (Image.fromarray(p.pixels).resize((size, size), Image.Resampling.BICUBIC) for p in images)
    pixels = np.stack([to_pixels(image) for image in resized])
    return torch.from_numpy(pixels), torch.tensor([target(image) for image in images])


def mirrored(pixels: Tensor, targets: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """A batch mirrored along the image's width (``axis`` 0) or height (1): the two edges change places."""
    first, second = 2 + axis, 4 + axis
    targets = targets.clone()
    targets[:, [first, second]] = EDGES - 1 - targets[:, [second, first]]
    return pixels.flip(3 - axis), targets


def loss(heads: Heads, features: Tensor, targets: Tensor) -> Tensor:
    """The three cross entropies together; the edges' is their mean."""
    colour, kind, edges = heads(features)
    return (
        F.cross_entropy(colour, targets[:, 0])
        + F.cross_entropy(kind, targets[:, 1])
        + F.cross_entropy(edges.flatten(0, 1), targets[:, 2:].flatten())
    )


def train(tower: nn.Module, images: Sequence[ShapeImage], size: int, options: argparse.Namespace) -> None:
    """Train the tower in place."""
    torch.manual_seed(options.seed)
    pixels, targets = tensors(images, size)
    heads = Heads(tower.proj.shape[1])
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    progress = trange(1, options.steps + 1, desc="vision", mininterval=5, disable=None)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.learning_rate)
        chosen = torch.randperm(len(pixels))[: options.batch_size]
        batch = pixels[chosen], targets[chosen]
        for axis in (0, 1):
            if torch.rand(()) < 0.5:
                batch = mirrored(*batch, axis)
        optimizer.zero_grad()
        value = loss(heads, tower(batch[0]), batch[1])
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.set_postfix(loss=f"{value.item():.2f}", refresh=False)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = trainer("Teach a small model's vision tower to see", steps=3000, learning_rate=1.5e-3, batch_size=32)
    options = parser.parse_args(arguments)
    model = QwenVL.from_pretrained(options.model)
    images = read_split("train")[:-VALIDATION_IMAGES]
    train(model.transformer.visual, images, model.config.visual.image_size, options)
    save(model, options.model, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

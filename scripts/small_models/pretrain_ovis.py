"""Teach the vision tower of a small Ovis to see, before its language model learns to tell.

    python scripts/small_models/pretrain_ovis.py --model build/fresh --output_path build/seeing

Tower, visual head and visual table are trained in torch_ref with throw-away linear heads on the mean of an image's
visual tokens: of one shape they name colour, kind and the four edges of its box; of a scene, what is in each quarter.
Images are easy-VQA's train split at sizes of their own, mirrored at random, and scenes that are drawn on the way.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from easyvqa_data import KINDS, ShapeImage, read_split
from making import learning_rate, save, trainer
from ovis_data import PLACES, SCENE_COLOURS, SIDES, scene
from PIL import Image
from pretrain_vision import EDGES, Heads, loss, target
from torch import Tensor, nn
from tqdm import trange

from ms_impl.cli.main import command
from ms_impl.ovis2_5.patches import MULTIPLE, Visual, fill_rows
from ms_impl.ovis2_5.preprocessing import patch_grid, to_patches
from ms_impl.ovis2_5.template import Ovis2_5Template
from torch_ref.ovis2_5.model import Ovis2_5

CONTENTS = 1 + len(SCENE_COLOURS) * len(KINDS)  # of a quarter of a scene: nothing, or a colour and a kind
ARRAYS = ("patches", "patch_segments", "patch_places", "patch_taps")


class SceneHeads(nn.Module):
    """What is in an image, from the mean of its visual tokens, whose differences are small before they are scaled."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.shape = Heads(width)
        self.quarters = nn.Linear(width, len(PLACES) * CONTENTS)

    def losses(self, features: Tensor, shapes: Tensor, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropies of single shapes, the first of features [N, D], and of scenes, the others."""
        x = self.norm(features)
        of_shapes = loss(self.shape, x[: len(shapes), None], shapes)
        quarters = self.quarters(x[len(shapes) :]).unflatten(1, (len(PLACES), CONTENTS))
        return of_shapes, F.cross_entropy(quarters.flatten(0, 1), scenes.flatten())


def single_shape(image: ShapeImage, edges: list[int], chance: random.Random) -> tuple[Image.Image, list[int]]:
    """An image of one shape at a size of SIDES, mirrored at random, and its target."""
    pixels, wanted = image.pixels, list(edges)
    for axis in (0, 1):
        if chance.random() < 0.5:
            pixels = np.flip(pixels, 1 - axis)
            first, second = 2 + axis, 4 + axis
            wanted[first], wanted[second] = EDGES - 1 - wanted[second], EDGES - 1 - wanted[first]
    size = chance.choice(SIDES), chance.choice(SIDES)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC), wanted


def several_shapes(chance: random.Random) -> tuple[Image.Image, list[int]]:
    """A scene, and what is in each quarter."""
    pixels, shapes = scene(chance)
    contents = [0] * len(PLACES)
    for shape in shapes:
        contents[shape.place] = 1 + SCENE_COLOURS.index(shape.colour) * len(KINDS) + KINDS.index(shape.kind)
    return Image.fromarray(pixels), contents


def rows(images: Sequence[Image.Image], template: Ovis2_5Template) -> tuple[Tensor, ...]:
    """The arrays of ``encode_visuals``, an image a row; MULTIPLE patches a row, which holds the largest image."""
    vision, limits = template.config.vit_config, template.options.of_images(1)
    batch: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    for image in images:
        grid = patch_grid(image.size, 1, limits, vision)
        out = {
            "patches": np.zeros((1, MULTIPLE, vision.patch_features), np.float32),
            "patch_segments": np.zeros((1, MULTIPLE, 2), np.int32),
            "patch_places": np.zeros((1, MULTIPLE, 2), np.int32),
            "patch_taps": np.zeros((1, MULTIPLE, 2, vision.position_side), np.float32),
            "patch_columns": np.zeros((1, MULTIPLE // vision.hidden_stride**2), np.int32),
        }
        patches = to_patches([image], grid, template.rule, vision)
        fill_rows([Visual(grid, patches, np.arange(len(patches) // vision.hidden_stride**2))], out, vision)
        for name, arrays in batch.items():
            arrays.append(out[name])
    return tuple(torch.from_numpy(np.concatenate(arrays)) for arrays in batch.values())


def mean_token(model: Ovis2_5, arrays: tuple[Tensor, ...]) -> Tensor:
    """The mean of each image's visual tokens, [N, D]."""
    there = (arrays[1][:, :: model.visual_tokenizer.unit, :1] != 0).float()
    return (model.encode_visuals(*arrays) * there).sum(1) / there.sum(1)


def train(model: Ovis2_5, template: Ovis2_5Template, options: argparse.Namespace) -> None:
    """Train tower, visual head and visual table in place: half of each batch has one shape, half is scenes."""
    torch.manual_seed(options.seed)
    chance = random.Random(options.seed)
    images = [(image, target(image)) for image in read_split("train")]
    heads = SceneHeads(model.config.hidden_size)
    parameters = [*model.visual_tokenizer.parameters(), *model.vte.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    half = options.batch_size // 2
    means: list[float] = []
    progress = trange(1, options.steps + 1, desc="vision", mininterval=5, disable=None)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.learning_rate)
        single = [single_shape(*chance.choice(images), chance) for _ in range(half)]
        scenes = [several_shapes(chance) for _ in range(half)]
        features = mean_token(model, rows([image for image, _ in [*single, *scenes]], template))
        targets = [torch.tensor([wanted for _, wanted in shown]) for shown in (single, scenes)]
        optimizer.zero_grad()
        losses = heads.losses(features, *targets)
        (losses[0] + 2 * losses[1]).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        values = [each.item() for each in losses]
        means = [0.98 * mean + 0.02 * value for mean, value in zip(means or values, values)]
        progress.set_postfix_str("one shape {:.3f}, scenes {:.3f}".format(*means), refresh=False)
        if progress.disable and step % 100 == 0:
            print("step {}: one shape {:.3f}, scenes {:.3f}".format(step, *means), flush=True)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = trainer("Teach a small Ovis's vision tower to see", steps=1800, learning_rate=2e-3, batch_size=32)
    options = parser.parse_args(arguments)
    model = Ovis2_5.from_pretrained(options.model)
    train(model, Ovis2_5Template.from_pretrained(options.model), options)
    save(model, options.model, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Teach the language model of a small Ovis to tell what its tower sees, before MindFormers' Trainer goes on with it.

    python scripts/small_models/train_ovis_language.py --model build/seeing --data data/ovis --output_path build/telling

In torch_ref, with ovis_data.py's ``train.json``. Tower and visual head, which pretrain_ovis.py has
taught to see, are trained on with a part of the learning rate.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from making import learning_rate, save, trainer
from torch import nn
from tqdm import trange

from ms_impl.cli.main import command
from ms_impl.data.batch import collate
from ms_impl.data.records import parse_record
from ms_impl.data.sample import Sample
from ms_impl.ovis2_5.template import Ovis2_5Template
from torch_ref.ovis2_5.model import Ovis2_5

NOT_ARGUMENTS = ("next_positions",)
SORTED_BATCHES = 4  # so many are cut from records sorted by length, so that little is padding


def samples(template: Ovis2_5Template, records: Sequence[dict], chance: random.Random) -> Iterator[Sample]:
    """The records' samples in a new order each time."""
    while True:
        for number in chance.sample(range(len(records)), len(records)):
            yield template.sample(parse_record(records[number], f"record {number}"))


def batches(template: Ovis2_5Template, records: Sequence[dict], size: int, chance: random.Random) -> Iterator[dict]:
    """The model's arguments for batches of ``size`` records of like length."""
    stream = samples(template, records, chance)
    while True:
        together = sorted((next(stream) for _ in range(size * SORTED_BATCHES)), key=len)
        starts = list(range(0, len(together), size))
        chance.shuffle(starts)
        for start in starts:
            batch = collate(together[start : start + size], template)
            yield {name: torch.from_numpy(array) for name, array in batch.items() if name not in NOT_ARGUMENTS}


def train(model: Ovis2_5, template: Ovis2_5Template, options: argparse.Namespace) -> None:
    """Train in place."""
    torch.manual_seed(options.seed)
    records = json.loads((options.data / "train.json").read_text(encoding="utf-8"))
    seeing = list(model.visual_tokenizer.parameters())
    telling = [*model.llm.parameters(), *model.vte.parameters()]
    groups = [{"params": seeing, "part": options.tower_part}, {"params": telling, "part": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    stream = batches(template, records, options.batch_size, random.Random(options.seed))
    mean = None
    progress = trange(1, options.steps + 1, desc="language", mininterval=5, disable=None)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = group["part"] * learning_rate(step, options.steps, options.learning_rate)
        optimizer.zero_grad()
        value = model(**next(stream))
        value.backward()
        nn.utils.clip_grad_norm_([*seeing, *telling], 1.0)
        optimizer.step()
        mean = value.item() if mean is None else 0.95 * mean + 0.05 * value.item()
        progress.set_postfix(loss=f"{mean:.3f}", refresh=False)
        if progress.disable and step % 50 == 0:
            print(f"step {step}: loss {mean:.3f}", flush=True)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = trainer(
        "Teach a small Ovis's language model to tell what its tower sees", steps=1400, learning_rate=2e-3, batch_size=16
    )
    parser.add_argument("--data", type=Path, required=True, help="directory that ovis_data.py made")
    parser.add_argument("--tower_part", type=float, default=0.3, help="of the learning rate, for tower and head")
    options = parser.parse_args(arguments)
    model = Ovis2_5.from_pretrained(options.model).train()
    train(model, Ovis2_5Template.from_pretrained(options.model, dataset_dir=str(options.data)), options)
    save(model, options.model, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

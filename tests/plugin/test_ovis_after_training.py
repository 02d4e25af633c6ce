"""A trained Ovis2.5, exported: torch_ref reads the directory, and its logits of every record are those of what was trained."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from training_cases import checkpoint

from convert.convert_weight import main as convert_weight
from ms_impl import families
from ms_impl.data.batch import collate
from ms_impl.data.files import ConversationFile
from ms_impl.data.sample_reader import read_sample
from ms_impl.train.feed import step_columns
from ms_impl.weights import load_weights

pytestmark = pytest.mark.parametrize("runs", ["ovis2_5"], indirect=True)
FAMILY = families.get("ovis2_5")
TOLERANCE = 1e-5  # rms(difference) / rms(reference), fp32
STEPS = 2
NOT_TAKEN = ("labels", "loss_weights", "seeds")


def test_the_export_has_the_logits_of_what_was_trained(runs, trained):
    saved, exported = checkpoint(trained, STEPS), runs.root / "for_torch"
    given = ["--model", FAMILY.name, "--reverse", "--input_path", str(saved), "--output_path", f"{exported}/"]
    assert convert_weight(given) == 0
    template = FAMILY.make_template(exported, None, dataset_dir=str(runs.root), **runs.case.template)
    records = ConversationFile(runs.root / "records.jsonl")
    samples = [read_sample(template, records[number])[0] for number in range(len(records))]
    batch = collate(samples, template)
    names = [name for name in step_columns(template) if name not in NOT_TAKEN]
    reference = FAMILY.resolve("reference").from_pretrained(exported)
    with torch.no_grad():
        wanted = reference(**{name: torch.from_numpy(batch[name]) for name in names}).numpy()
    model = FAMILY.resolve("model")(reference.config).set_train(False)
    load_weights(model, saved, FAMILY)
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    found = model(**{name: Tensor(batch[name]) for name in names}).asnumpy()
    ms.set_context(mode=mode)
    real = batch["segment_ids"] > 0
    difference = np.sqrt(np.square(found[real] - wanted[real]).mean() / np.square(wanted[real]).mean())
    assert difference < TOLERANCE
    fresh = FAMILY.resolve("reference").from_pretrained(runs.root / "model")
    with torch.no_grad():
        before = fresh(**{name: torch.from_numpy(batch[name]) for name in names}).numpy()
    assert np.abs(before[real] - wanted[real]).max() > 0.01  # training moved them

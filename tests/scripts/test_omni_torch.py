"""The page of torch that the small Omni is trained with is the model: logits of an image, a word and a film."""

import random
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "scripts/small_models"))
import omni_data
from make_omni_small import CONFIGURATION, make
from omni_torch import Thinker
from pretrain_language import NOT_YET, Clips, Encoder, batched

from ms_impl import load
from ms_impl.data.batch import IGNORED, collate
from ms_impl.data.records import parse_record

TOLERANCE = 1e-4
FILM, SILENT = 3, 2  # clips of some seconds with sound, and without


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The small model with random weights, its encoder, and one record of each kind."""
    root = tmp_path_factory.mktemp("omni_torch")
    make(root / "fresh", CONFIGURATION, seed=0)
    for kind in ("words", "clips"):
        (root / kind / "train").mkdir(parents=True)
    records = omni_data.questions(root, "train", 1, random.Random(0))
    records.append(omni_data.word(root, "train", 0, 0))
    records += [omni_data.clip(root, "train", number, 0) for number in (FILM, SILENT)]
    encoder = Encoder(Thinker.from_pretrained(root / "fresh"), root / "fresh", root, np.float32)
    return encoder, [parse_record(each, "x") for each in records]


def test_logits_are_those_of_the_model_in_mindspore(trained):
    encoder, records = trained
    directory = Path(encoder.template.tokenizer.source).parent
    model, _ = load(directory)
    names = [spec.name for kind in encoder.template.kinds for spec in kind.all_arrays]
    for record in records[:3]:
        sample = encoder.template.sample(record)
        batch = batched([encoder.row(sample)])
        with torch.no_grad():
            words = encoder.model.model.embed_tokens(batch["ids"])
            hidden = torch.where(batch["given"][..., None], batch["features"], words)
            ours = encoder.model.lm_head(encoder.model.model(hidden, batch["positions"])[-1])[0, : len(sample)]
        arrays = collate([sample], encoder.template)
        media = {name: ms.Tensor(arrays[name]) for name in names if arrays[name] is not None}
        ids, positions = ms.Tensor(arrays["input_ids"]), ms.Tensor(arrays["position_ids"])
        theirs = model.construct(ids, position_ids=positions, **media).asnumpy()[0]
        assert np.abs(ours.numpy() - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def test_a_silent_clip_is_told_at_another_speed(trained):
    """Its answer and what has happened move with its positions; its frames, and their order, stay."""
    encoder, records = trained
    clips = Clips(encoder.template, seed=1)
    row = encoder.row(encoder.template.sample(records[-1]))
    row.seconds, row.event = omni_data.clip_moment("train", SILENT, 0)
    told = clips.silent(row)
    shown = row.ids == clips.video
    seconds = (told.positions[0, shown][-1] - told.positions[0, shown][0]) / 25 * 32 / 31
    (digits,) = np.nonzero(np.isin(told.labels, clips.digits))
    answer = int(encoder.template.tokenizer.decode(told.labels[digits].tolist()))
    assert abs(answer - row.event / row.seconds * seconds) <= 0.6 and abs(seconds - row.seconds) > 1
    assert told.features is row.features
    happened = told.happened[told.happened != IGNORED]
    assert set(happened.tolist()) == {NOT_YET, answer} and (np.diff(happened) <= 0).all()

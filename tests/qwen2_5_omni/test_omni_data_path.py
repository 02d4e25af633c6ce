"""Conversations with images, a sound and a video, packed: the data set, the plan and the feed of every family."""

import wave

import numpy as np
import pytest
from data_path import check_data_path
from PIL import Image

from ms_impl.data import indexed_reading


def test_packed_rows_hold_each_conversation(make_template, omni_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(indexed_reading, "WORTH_KEEPING", -1)
    rng = np.random.default_rng(0)
    for number, size in enumerate(((56, 84), (112, 56))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(rng.integers(-9000, 9000, 40_000, dtype=np.int16).tobytes())
    answer = {"role": "assistant", "content": "Yes, it is."}
    asked = [
        ("<image>What?", {"images": ["0.png"]}), ("Hello.", {}), ("<image><audio>Two?", {"images": ["1.png"], "audios": ["a.wav"]}),
        ("<video>When?", {"videos": [str(omni_clip)]}), ("<audio>", {"audios": ["a.wav"]}), ("<image>", {"images": ["1.png"]}),
    ]  # fmt: skip
    records = [{"messages": [{"role": "user", "content": text}, answer], **media} for text, media in asked]
    template = make_template(1024, dataset_dir=str(tmp_path), allow_outside_dataset_dir=True)
    feed = check_data_path(template, records, tmp_path, 1024)
    (sizes, _), *others = feed.plan.shapes()
    assert not others and sizes["audio_chunks"] >= 2 and sizes["patch_rows"] >= 2
    monkeypatch.setattr(type(template), "_row", lambda *_: pytest.fail("a record is read again"))
    type(feed.samples)(feed.samples.mixture, template)

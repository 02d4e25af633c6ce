"""E9: LongVALE's records, their times as hundredths of the clip."""

import numpy as np
import pytest

from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.longvale import as_hundredth, as_seconds, converted


def record(**changes):
    meta = {"duration": 4.0, "token": {"<s0>": 1.0, "<e0>": 3.98}}
    said = [("human", "<video>\nWhen does it turn white?"), ("gpt", "From <s0> to <e0>.")]
    turns = [{"from": speaker, "value": value} for speaker, value in said]
    return {"id": "clip", "source": "made", "conversations": turns, "meta": {**meta, **changes}}


def test_e9_times_are_hundredths(make_template, omni_clip):
    found = converted(record(), omni_clip.parent, "a.json: record 0")
    assert found["messages"][1] == {"role": "assistant", "content": "From 25 to 99."}
    template = make_template(frames=100, size=224, use_audio_in_video=True, dataset_dir=str(omni_clip.parent))
    sample = template.sample(parse_record(found, "a.json: record 0"))
    assert (sample.input_ids == 151656).sum() == 3200 and (sample.input_ids == 151646).sum() == 100
    trained = template.tokenizer.decode(sample.labels[sample.labels >= 0])
    assert trained == "From 25 to 99.<|im_end|>"


def test_e9_a_part_of_its_source(make_template, omni_clip):
    found = converted(record(split=[1.0, 3.0], duration=2.0, token={"<s0>": 0, "<e0>": 2}), omni_clip.parent, "a.json")
    template = make_template(frames=10, size=56, dataset_dir=str(omni_clip.parent))
    (medium,) = template.sample(parse_record(found, "a.json")).media
    assert medium.source.video.seconds[0] == 0 and medium.source.video.frames == 21
    assert found["messages"][1]["content"] == "From 00 to 99."


def test_e9_rounding_is_half_to_even():
    assert [as_hundredth(t, 200) for t in (0, 1, 3, 5, 199, 200)] == ["00", "00", "02", "02", "99", "99"]
    for duration in (3.7, 60, 1234.5):
        for t in np.linspace(0, duration, 50):
            back = int(as_hundredth(t, duration))
            assert as_seconds(back, duration) - duration / 200 <= t <= as_seconds(back, duration, True) + 1e-9


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda r: 3, "a.json: a record has an 'id'"),
        (lambda r: {**r, "id": "../clip"}, "'id' '../clip' is not the name of a file"),
        (lambda r: {**r, "id": "other"}, r"\(id 'other'\): no video 'other' in"),
        (lambda r: {**r, "meta": None}, "the text holds <s0>, but 'meta' does not tell its seconds"),
        (
            lambda r: {**r, "meta": {**r["meta"], "token": {"<s0>": 9, "<e0>": 9}}},
            "<s0> is second 9, outside the clip of 4 s",
        ),
        (lambda r: {**r, "meta": {**r["meta"], "split": [3, 1]}}, "'split' must be where the clip begins and ends"),
        (lambda r: {**r, "conversations": [3]}, "each of 'conversations' has 'from'"),
    ],
)
def test_bad_records_are_named(omni_clip, changed, message):
    with pytest.raises(InputError, match=message):
        converted(changed(record()), omni_clip.parent, "a.json")

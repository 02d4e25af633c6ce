"""Conversations with a whole checkpoint directory, loaded as users load it: thinking, budget, stream, video, batches."""

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_impl.data.batch import collate
from ms_impl.data.packing import pack
from ms_impl.data.records import parse_record
from ms_impl.data.thinking import split_thinking
from ms_impl.ovis2_5.template import Ovis2_5Template
from ms_impl.ovis2_5.thinking import EARLY_STOP


def test_the_defaults_are_the_originals(loaded):
    settings = loaded[0].generation
    assert (settings.do_sample, settings.top_k, settings.top_p, settings.repetition_penalty) == (False, 50, 1.0, 1.0)
    assert (settings.max_new_tokens, settings.enable_thinking, settings.thinking_budget) == (1024, False, 2048)


def test_v14_a_budget_is_seen_in_the_stream(loaded, small, image_query):
    settings = {"enable_thinking": True, "enable_thinking_budget": True, "thinking_budget": 4, "max_new_tokens": 36}
    answer, history = loaded[0].chat(small, image_query, **settings)
    pieces = list(loaded[0].chat(small, image_query, stream=True, **settings))
    assert "".join(pieces) == answer == history[-1][1] and all(pieces)
    thinking, rest = split_thinking(answer, small.think_end)
    assert thinking.endswith(EARLY_STOP.strip()) and len(thinking) > len(EARLY_STOP) and rest
    free, _ = loaded[0].chat(small, image_query, enable_thinking=True, max_new_tokens=36)
    assert EARLY_STOP.strip() not in free


def test_v10_a_second_turn_sees_the_first_image(loaded, small, image_query, ovis_folder):
    _, history = loaded[0].chat(small, image_query, max_new_tokens=3)
    assert history[0][0] == f"<img>{ovis_folder / 'image0.png'}</img>\nWhat is it?"
    again, longer = loaded[0].chat(small, "And now?", history, max_new_tokens=3)
    assert len(longer) == 2 and longer[1][1] == again


def test_v8_a_video_as_frames_and_a_row_of_a_batch_is_the_row_alone(loaded, small, image_query, ovis_folder):
    model, _ = loaded
    settings = model.generation.changed(max_new_tokens=4)
    frames = [str(ovis_folder / f"frame{number}.png") for number in range(4)]
    queries = [image_query, "Hello", [{"video": frames}, {"text": "What happens?"}]]
    samples = [small.encode_turn(query, None, None, settings) for query in queries]
    assert len(samples[2].media[0].source.frames) == 2
    together = model.generate(small, samples, settings)
    assert together == [model.generate(small, [sample], settings)[0] for sample in samples]


def test_a_packed_row_is_its_conversations(loaded, small, ovis_folder):
    """Two images of different size and a text in one row: the logits of each are those of the row alone."""
    model, _ = loaded
    template = small.with_options(dataset_dir=str(ovis_folder))
    texts = ({"image": "image0.png"}, "<image>What?"), ({"image": "image1.png"}, "And <image>this?"), ({}, "Hello")
    samples = []
    for number, (media, text) in enumerate(texts):
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "A thing."}]
        samples.append(template.sample(parse_record({"conversations": turns, **media}, f"record {number}")))
    row = pack(samples)
    together = logits(model, collate([row], template))[0]
    start = 0
    for sample in samples:
        alone = logits(model, collate([pack([sample])], template))[0]
        np.testing.assert_allclose(together[start : start + len(sample)], alone, rtol=0, atol=2e-4)
        assert np.abs(alone).max() > 1
        start += len(sample)
    mixed = {**collate([row], template), "segment_ids": np.ones((1, len(row)), np.int32)}
    assert np.abs(logits(model, mixed)[0, start - 1] - together[start - 1]).max() > 0.01  # the text sees the images


def logits(model, batch: dict) -> np.ndarray:
    """[B, T, vocab], run eagerly."""
    names = ("input_ids", *(spec.name for kind in Ovis2_5Template.kinds for spec in kind.all_arrays))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        given = {
            name: Tensor(batch[name]) for name in (*names, "segment_ids", "position_ids") if batch[name] is not None
        }
        return model(**given).asnumpy()
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)

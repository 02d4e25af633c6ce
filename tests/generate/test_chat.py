"""generate and chat of a loaded model."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from ms_impl import InputError, load
from ms_impl.data.batch import collate
from ms_impl.generate.mixin import _converse
from ms_impl.generate.text import TextStreamer

GREEDY = {"do_sample": False}
PICTURE = [{"image": "a.png"}, {"text": "What is this?"}]


@pytest.fixture(scope="module")
def loaded(mini):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return load(mini)


@pytest.fixture(scope="module")
def turns(loaded):
    """Prompts of different length, one with an image, one with two, two without."""
    _, template = loaded
    both = [{"image": "b.png"}, {"image": "a.png"}, {"text": "Which?"}]
    queries = [PICTURE, "Hello there.", both, "Tell me more of it."]
    return [template.encode_chat(template.query_text(query), system="") for query in queries]


def answers(loaded, turns, mini, seed=None, **changes) -> list[list[int]]:
    model, template = loaded
    return model.generate(template, turns, model.generation.changed(**changes), seed=seed, dataset_dir=mini)


def test_greedy_in_a_batch_equals_greedy_alone(loaded, turns, mini):
    together = answers(loaded, turns, mini, **GREEDY)
    assert [len(tokens) for tokens in together] == [12] * 4
    assert together == [answers(loaded, [turn], mini, **GREEDY)[0] for turn in turns]


def test_the_images_count(loaded, turns, mini):
    model, template = loaded
    logits = []
    for picture in ("a.png", "b.png"):
        turn = replace(turns[0], media=(replace(turns[0].media[0], source=str(mini / picture)),))
        with model.decoders.lend(1, len(turn) + 12) as decoder:
            logits.append(decoder.prefill(collate([turn], template, padding_side="left"), template.kinds))
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_rows_end_independently(loaded, turns, mini):
    whole = answers(loaded, turns, mini, **GREEDY)
    stop = whole[1][3]
    ended = answers(loaded, turns, mini, eos_token_id=stop, **GREEDY)
    cut = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in whole]
    assert ended == cut
    assert len({len(tokens) for tokens in cut}) > 1


def test_a_seed_repeats_and_a_row_does_not_depend_on_the_others(loaded, turns, mini):
    flat = {"top_p": 1.0, "temperature": 5.0}
    first = answers(loaded, turns, mini, seed=1, **flat)
    assert first == answers(loaded, turns, mini, seed=1, **flat) != answers(loaded, turns, mini, seed=2, **flat)
    assert first[1] == answers(loaded, [turns[3], turns[1]], mini, seed=1, **flat)[1]
    twice = answers(loaded, [turns[1], turns[1]], mini, seed=1, **flat)
    assert twice[0] != twice[1]


def test_repetition_penalty_covers_prompt_and_answer(loaded, turns, mini):
    tokens = answers(loaded, [turns[1]], mini, repetition_penalty=1e6, **GREEDY)[0]
    assert len(set(tokens)) == len(tokens)
    assert not set(tokens) & set(turns[1].input_ids.tolist())


def test_stream_of_generate_tells_row_and_token(loaded, turns, mini):
    model, template = loaded
    seen = [[] for _ in turns]

    def note(row: int, token: int) -> None:
        seen[row].append(token)

    generation = model.generation.changed(**GREEDY)
    assert model.generate(template, turns, generation, stream=note, dataset_dir=mini) == seen


def test_chat_returns_text_and_history(loaded, mini):
    model, template = loaded
    text, history = model.chat(template, PICTURE, system="", dataset_dir=mini, **GREEDY)
    assert history == [("Picture 1: <img>a.png</img>\nWhat is this?", text)]
    again, longer = model.chat(template, "And now?", history, system="", dataset_dir=mini, **GREEDY)
    assert longer == [*history, ("And now?", again)] and len(history) == 1
    assert again != model.chat(template, "And now?", system="", **GREEDY)[0]


def test_every_way_of_streaming_gives_the_same_text(loaded, mini):
    model, template = loaded

    def ask(stream):
        return model.chat(template, PICTURE, system="", stream=stream, dataset_dir=mini, **GREEDY)

    text, history = ask(False)
    pieces = []
    assert ask(pieces.append) == (text, history)
    assert "".join(pieces) == text and len(pieces) > 1
    generator, streamed = ask(True), []
    with pytest.raises(StopIteration) as end:
        while True:
            streamed.append(next(generator))
    assert streamed == pieces and end.value.value == (text, history)


def test_two_answers_may_grow_at_once(loaded):
    model, template = loaded

    def ask(query: str):
        return model.chat(template, query, system="", stream=True, **GREEDY)

    alone = ["".join(ask("Hello there.")), "".join(ask("Good day."))]
    first, second = ask("Hello there."), ask("Good day.")
    begun = [next(first), next(second)]
    assert [begun[0] + "".join(first), begun[1] + "".join(second)] == alone


def test_the_raw_format_continues_the_prompt_and_knows_no_history(loaded):
    model, template = loaded
    text, history = model.chat(template, "Once upon a", chat_format="raw", **GREEDY)
    sample = template.encode_prompt("Once upon a")
    tokens = model.generate(template, [sample], model.generation.changed(chat_format="raw", **GREEDY))[0]
    assert text == template.tokenizer.decode(tokens).strip()
    with pytest.raises(InputError, match="raw.*has no history"):
        model.chat(template, "More", history, chat_format="raw")


def test_an_image_in_memory_is_asked_about_as_its_file_is(loaded, mini):
    model, template = loaded
    with Image.open(mini / "a.png") as image:
        query = [{"image": image}, PICTURE[1]]
        turn = template.encode_chat(template.query_text(query))
        text, history = model.chat(template, query, **GREEDY)
    from_file = template.pixels(["a.png"], mini)
    assert (template.pixels([image.source for image in turn.media]) == from_file).all()
    assert text == model.chat(template, PICTURE, dataset_dir=mini, **GREEDY)[0]
    model.chat(template, "And now?", history, **GREEDY)
    framed = [*history, ("Frame it.", "<box>(100,100),(900,900)</box>")]
    assert template.draw_boxes(framed).size == image.size


def test_images_of_earlier_answers_are_shown_where_they_can_be_and_never_block(loaded, mini, caplog):
    model, template = loaded

    def ask(answer: str) -> str:
        return model.chat(template, "And now?", [("Draw.", answer)], system="", dataset_dir=mini, **GREEDY)[0]

    shown = ask("<img>a.png</img>")
    assert "an earlier answer" not in caplog.text and shown != ask("<img>b.png</img>")
    for answer in ("<img>no.png</img>", "<img>https://x.org/a.png</img>", "<img>../../a.png</img>", "Use <img> tags"):
        caplog.clear()
        ask(answer)
        assert "an earlier answer mentions <img>" in caplog.text


def test_the_pieces_of_an_answer_with_an_image_are_the_answer(loaded, mini):
    """The tokens stand for a model that was trained on images in its answers."""
    model, template = loaded
    tokenizer = template.tokenizer
    tokens = [*tokenizer.encode("Here: <img>a.png</img> \n<box>(1,2),(3,4)</box>"), tokenizer.im_end_id]
    streamer = TextStreamer([[tokenizer.im_end_id]], tokenizer.detokenizer())
    answer = _converse(iter([{0: token} for token in tokens]), streamer, "Draw.", [])
    pieces, end = [], None
    while end is None:
        try:
            pieces.append(next(answer))
        except StopIteration as stop:
            end = stop.value
    assert "".join(pieces) == end[0] == "Here: <img>a.png</img> \n<box>(1,2),(3,4)</box>"
    assert len(pieces) > 5 and "<img>a.png</img>" in " ".join(pieces)
    turn = template.encode_chat("And now?", end[1])
    assert [image.source for image in turn.media] == ["a.png"]


def test_stop_words_of_the_caller_end_an_answer_and_stay(loaded):
    model, template = loaded
    tokens = model.generate(
        template, [template.encode_chat("Hello there.", system="")], model.generation.changed(**GREEDY)
    )
    end = next(n for n in range(5, 12) if tokens[0][n - 2 : n] not in [tokens[0][k - 2 : k] for k in range(2, n)])
    stop = tokens[0][end - 2 : end]
    text, _ = model.chat(template, "Hello there.", system="", stop_words_ids=[[10**6], stop], **GREEDY)
    assert text == template.tokenizer.decode(tokens[0][:end]).strip()
    numpy_stops = [np.array(stop)]
    assert model.chat(template, "Hello there.", system="", stop_words_ids=numpy_stops, **GREEDY)[0] == text


@pytest.mark.parametrize("stops", [[[]], 5, [5], ["word"], [[1.5]], [None]])
def test_what_are_no_stop_words_is_refused(loaded, stops):
    model, template = loaded
    with pytest.raises(InputError, match="^stop_words_ids"):
        model.chat(template, "Hi", stop_words_ids=stops)


@pytest.mark.parametrize(
    "query, changes, message",
    [
        ("Hi", {"chat_format": "alpaca"}, "alpaca"),
        ("Hi", {"top_q": 1}, "top_q"),
        ("Hi", {"max_new_tokens": 1090}, r"\d+ tokens, the model takes 1100"),
        ([{"image": "absent.png"}], {}, "absent.png.*does not exist"),
        ([{"sound": "a.wav"}], {}, "sound"),
        ("Hi <img>a.png", {}, "Unclosed"),
        (None, {}, "expected a list"),
        ("Hi", {"history": [("Hi", 5)]}, "history: expected"),
        ("Hi", {"system": 5}, "system must be text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_is_told_at_once(loaded, query, changes, message, stream):
    model, template = loaded
    with pytest.raises(InputError, match=message):
        model.chat(template, query, stream=stream, **changes)


def test_boxes_of_an_answer_are_drawn_on_the_latest_picture(loaded, mini):
    _, template = loaded
    asked = ("Picture 1: <img>b.png</img>\nFrame it.", "a")
    history = [asked, ("Once more.", "<box>(100,100),(900,900)</box>")]
    picture, original = template.draw_boxes(history, mini), Image.open(mini / "b.png")
    assert picture.size == original.size
    changed = np.argwhere((np.asarray(picture) != np.asarray(original)).any(-1))
    height, width = original.height, original.width
    assert abs(changed[:, 0].max() - 0.9 * height) < 3 and abs(changed[:, 1].max() - 0.9 * width) < 3
    assert template.draw_boxes([("No picture.", "<box>(1,1),(2,2)</box>")]) is None
    assert template.draw_boxes(history[:1], mini) is None
    assert template.draw_boxes([asked, ("Once more.", None)], mini) is None
    for nothing in ([], None):
        with pytest.raises(InputError, match="no turn"):
            template.draw_boxes(nothing)

"""A session answers as ``model.chat`` does with the history in hand."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from ms_impl import InputError, load
from ms_impl.generate.chat_session import ChatSession

QUERY = [{"image": "a.png"}, {"text": "What is this?"}]
SETTINGS = {"system": "", "do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def loaded(mini):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return load(mini)


@pytest.fixture
def session(loaded, mini) -> ChatSession:
    return ChatSession(*loaded, dataset_dir=mini, **SETTINGS)


def test_each_turn_sees_those_before_it(loaded, session, mini):
    model, template = loaded
    first, history = model.chat(template, QUERY, dataset_dir=mini, **SETTINGS)
    second, history = model.chat(template, "And now?", history, dataset_dir=mini, **SETTINGS)
    pieces: list[str] = []
    assert [session.ask(QUERY), session.ask("And now?", pieces.append)] == [first, second]
    assert session.history == history and "".join(pieces) == second
    session.reset()
    assert session.ask("And now?") == model.chat(template, "And now?", **SETTINGS)[0] and len(session.history) == 1


def test_sessions_of_one_model_keep_their_own(loaded, session, mini):
    other = ChatSession(*loaded, dataset_dir=mini, **SETTINGS)
    alone = [session.ask(QUERY), session.ask("And now?")]
    session.reset()
    for query, wanted in zip((QUERY, "And now?"), alone):
        pieces, others = session.stream(query), other.stream("Hello there.")
        begun = next(pieces)
        next(others)
        assert begun + "".join(pieces) == wanted
        others.close()
    assert len(session.history) == 2 and len(other.history) == 2


def test_an_answer_closed_early_stays_as_far_as_it_came(session):
    pieces = session.stream(QUERY)
    begun = next(pieces)
    pieces.close()
    assert session.history == [("Picture 1: <img>a.png</img>\nWhat is this?", begun)]
    assert session.ask("And now?") and len(session.history) == 2


def test_settings_of_one_turn_and_of_all(session):
    long = session.ask(QUERY)
    session.reset()
    assert long.startswith(session.ask(QUERY, max_new_tokens=2)) and len(session.history[0][1]) < len(long)
    flat = {"do_sample": True, "temperature": 5.0, "top_p": 1.0}
    drawn = []
    for seed in (1, 1, 2):
        session.reset()
        drawn.append(session.ask(QUERY, seed=seed, **flat))
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_asked_is_told_at_once_and_forgotten(session):
    for query, changes in ([{"image": "absent.png"}], {}), ("Hi", {"top_q": 1}):
        with pytest.raises(InputError):
            session.stream(query, **changes)
    assert session.history == []


def test_boxes_are_drawn_on_the_latest_image(session):
    session.history = [("Picture 1: <img>b.png</img>\nFrame it.", "<box>(100,100),(900,900)</box>")]
    assert np.asarray(session.draw_boxes()).shape == (60, 80, 3)
    session.reset()
    with pytest.raises(InputError, match="no turn"):
        session.draw_boxes()

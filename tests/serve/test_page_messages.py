"""What the page shows of a session, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.ovis2_5.boxes import BOXES as POINTS
from ms_impl.qwenvl.boxes import BOXES
from ms_impl.web.messages import messages, readable
from ms_impl.web.session import Session, Turn, Upload, kind_of
from ms_impl.web.words import CHINESE, ENGLISH, language_of, sentence_for, translations, word

ANSWER = "<ref>the <b> circle</ref><box>(1,2),(3,4)</box> is 3 < 4"


@pytest.mark.parametrize("length", range(len(ANSWER) + 1))
def test_no_mark_is_ever_seen_while_an_answer_grows(length):
    shown = readable(ANSWER[:length], BOXES)
    assert not any(mark in shown for mark in ("&lt;ref", "/ref", "&lt;box", "/box", "<"))


def test_an_answer_is_markdown_and_other_mark_up_is_text():
    assert readable(ANSWER, BOXES) == "**the &lt;b&gt; circle** `(1,2),(3,4)`  is 3 &lt; 4"
    assert readable("<point>(0.1,0.2)</point>", POINTS) == "`(0.1,0.2)` "
    assert readable("if `a < b`:\n```c\nx<y>\n```\n<i>", None) == "if `a < b`:\n```c\nx<y>\n```\n&lt;i&gt;"


def test_a_turn_without_an_answer_is_not_shown_to_the_model():
    session = Session()
    session.ask("one", [Upload(IMAGE, Path("/somewhere/a b.png"))])
    session.turns[-1].answer = "1"
    session.ask("two", [])
    session.turns[-1].problem = "no"
    session.ask("three", [])
    asked = session.request("m", temperature=0)
    assert [message.role for message in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[0].content[0].image_url.url == "file:///somewhere/a%20b.png"
    assert asked.messages[2].content[0].text == "three"
    session.ask_again()
    assert [turn.text for turn in session.turns] == ["one", "three"]


def test_what_is_shown_of_a_turn():
    growing = Turn("why?", thinking="because", grows=True)
    (_, thinking) = messages([growing], None, ENGLISH)
    assert thinking["metadata"] == {"title": "Thinking", "status": "pending"}
    over = Turn("why?", thinking="because", answer="so", note="cut", grows=False)
    _, thinking, said, note = messages([over], None, CHINESE)
    assert thinking["metadata"]["status"] == "done" and said["content"] == "so" and "最大长度" in note["content"]
    _, problem = messages([Turn("why?", problem="a < b", grows=False)], None, ENGLISH)
    assert problem["content"] == "⚠ a &lt; b"


def test_kinds_and_languages():
    assert [kind_of(Path(name)) for name in ("a.PNG", "a.mp4", "a.flac", "a.txt", "a")] == [
        IMAGE, VIDEO, AUDIO, None, None,
    ]  # fmt: skip
    assert [language_of(each) for each in ("zh-CN,zh;q=0.9", "en-US,zh;q=0.5", None)] == [CHINESE, ENGLISH, ENGLISH]
    assert all(set(words) == set(translations()["en"]) for words in translations().values())
    assert word(ENGLISH, "an_option") == "an_option"
    assert sentence_for(ENGLISH, 400, "too long") == "Too long" and "请稍后" in sentence_for(CHINESE, 429, "")

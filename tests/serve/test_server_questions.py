"""Requests as questions, and thinking apart from answers: what needs no model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.serve.answers import Completion, Usage
from ms_impl.serve.choice import Piece
from ms_impl.serve.questions import generation_of, template_options
from ms_impl.serve.reasoning import Reasoning
from ms_impl.serve.schema import ChatRequest

END = "</think>"


def request(**fields) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def in_pieces(text: str, size: int, end: str | None = END) -> tuple[str, str]:
    reasoning, thought, said = Reasoning(end), "", ""
    for start in range(0, len(text), size):
        more = reasoning.add(text[start : start + size], last=start + size >= len(text))
        thought, said = thought + more[0], said + more[1]
    return thought, said


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thinking_is_told_apart_however_it_is_cut(size):
    assert in_pieces("<think>\nfirst <b> then\n</think>\n\nThe answer", size) == ("first <b> then", "The answer")
    assert in_pieces("no opening </think> so", size) == ("no opening", "so")
    assert in_pieces("<think>\nit never ends </thin", size) == ("it never ends </thin", "")
    assert in_pieces("<think></think>at once", size) == ("", "at once")
    assert in_pieces("<think>a</think>b</think>c", size) == ("a", "b</think>c")
    assert in_pieces("<thi", size) == ("<thi", "")
    assert in_pieces(" <think> all is said", size, None) == ("", " <think> all is said")


def test_a_completion_has_the_thinking_beside_the_answer():
    completion = Completion("m", 1, END, logprobs=False)
    chunks = completion.beginning()
    for text in ("<think>\nso", " be it", "\n</think>\n\nYes", ""):
        chunks += completion.add(0, Piece(text, reason=None if text else "stop"))
    message = completion.whole(Usage(1, 2))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Yes", "reasoning_content": "so be it"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "so be it"
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes"


def test_what_is_said_of_sampling():
    greedy = GenerationConfig(temperature=0.6, top_p=0.9)
    assert generation_of(request(), greedy) == greedy
    assert generation_of(request(temperature=0.5), greedy) == greedy.changed(do_sample=True, temperature=0.5)
    assert generation_of(request(top_p=0.5), greedy) == greedy.changed(do_sample=True, top_p=0.5)
    assert generation_of(request(top_k=-1), greedy) == greedy.changed(do_sample=True, top_k=0)
    drawing = greedy.changed(do_sample=True)
    assert generation_of(request(temperature=0), drawing) == greedy
    assert generation_of(request(seed=3), greedy) == greedy
    told = {"enable_thinking": True, "thinking_budget": 9}
    found = generation_of(request(chat_template_kwargs=told), greedy)
    assert (found.enable_thinking, found.enable_thinking_budget, found.thinking_budget) == (True, True, 9)
    with pytest.raises(InputError, match="of no use without enable_thinking"):
        generation_of(request(chat_template_kwargs={"thinking_budget": 9}), greedy)


def test_a_request_changes_the_options_that_the_template_lets_it_change():
    template = SimpleNamespace(request_options=("fps", "use_audio_in_video"))
    assert template_options(request(mm_processor_kwargs={"fps": 1.0}), template) == {"fps": 1.0}
    with pytest.raises(InputError, match="unknown allow_outside_dataset_dir; of this model may be: fps"):
        template_options(request(mm_processor_kwargs={"allow_outside_dataset_dir": True}), template)

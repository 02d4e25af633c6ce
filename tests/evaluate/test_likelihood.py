"""Likelihoods of given answers against the PyTorch reference, which runs prompt and answer whole and by itself."""

from dataclasses import replace
from pathlib import Path

import easy_vqa
import numpy as np
import pytest
import torch

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.evaluate.likelihood import log_likelihoods

PICTURES = Path(easy_vqa.__file__).parent / "data/test/images"
PROMPTS = ["Picture 1: <img>7.png</img>\nwhat color is the shape?", "what is it?"]
ANSWERS = [["green", "a long answer", "green"], ["yes, it is", "no"]]


@pytest.fixture(scope="module")
def samples(shipped):
    return [shipped[1].encode_chat(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def tokens(shipped):
    return [[shipped[1].encode_answer(text, "chatml") for text in texts] for texts in ANSWERS]


def summed(model, template, sample, tokens) -> float:
    """Log-probabilities of the tokens after a prompt, by one forward pass over both."""
    ids = np.concatenate([sample.input_ids, tokens]).astype(np.int32)
    whole = replace(sample, input_ids=ids, position_ids=np.arange(len(ids), dtype=np.int32))
    batch = collate(in_directory([whole], PICTURES), template)
    names = ("input_ids", "images", "image_context_pos")
    inputs = {name: torch.from_numpy(batch[name]) for name in names if batch[name] is not None}
    with torch.no_grad():
        logs = model(**inputs).log_softmax(-1)[0]
    first = len(sample) - 1
    return sum(float(logs[first + n, token]) for n, token in enumerate(tokens))


def test_sums_are_those_of_the_reference(shipped, shipped_reference, samples, tokens):
    """Answers of different length and number, a prompt with a picture and one without, in one batch."""
    found = log_likelihoods(*shipped, samples, tokens, PICTURES)
    assert [len(row) for row in found] == [3, 2] and len(tokens[0][1]) > len(tokens[0][0])
    for row, sample, answers in zip(found, samples, tokens):
        expected = [summed(shipped_reference, shipped[1], sample, answer) for answer in answers]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_an_answer_leaves_no_trace_in_those_after_it(shipped, samples, tokens):
    first, _, again = log_likelihoods(*shipped, samples, tokens, PICTURES)[0]
    assert first == again


def test_an_answer_after_a_raw_prompt_begins_with_a_space(shipped):
    template = shipped[1]
    assert template.tokenizer.decode(template.encode_answer("A", "raw")) == " A"
    assert template.tokenizer.decode(template.encode_answer("A", "chatml")) == "A"

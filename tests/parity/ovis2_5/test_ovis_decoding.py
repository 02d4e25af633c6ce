"""Cached decoding by the house's decoder, and answers that think within a budget, as the original's."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from ovis_mindspore import OvisSide
from stages import ACTIVATION, FP16

from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decode import TokenStep
from ms_impl.generate.decoding import Answer, grow, samplers
from ms_impl.ovis2_5.template import Ovis2_5Template
from ms_impl.ovis2_5.thinking import NewTokens, ThinkingBudget, split_ids

KINDS = Ovis2_5Template.kinds
NOT_DECODED = ("labels",)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def side(request, golden):
    yield OvisSide(golden.folder, "graph", request.param)
    ms.set_context(mode=ms.GRAPH_MODE)


def prompt(golden) -> dict[str, np.ndarray]:
    return {name: array for name, array in golden.greedy_case()[0].items() if name not in NOT_DECODED}


@pytest.mark.parametrize("step", ["kernel", "graph"])
def test_greedy_with_the_cache(golden, side, table, floors, step):
    tokens = golden["greedy.tokens"]
    batch = prompt(golden)
    with side.model.decoders.lend(1, batch["input_ids"].shape[1] + len(tokens)) as decoder:
        if step == "graph":
            decoder.token_step = TokenStep(side.model, decoder.cache)
        elif isinstance(decoder.token_step, TokenStep):
            pytest.skip("no kernel here")
        found = [decoder.prefill(batch, KINDS)]
        for token in tokens:
            if not side.half:
                assert found[-1].argmax(-1) == token
            found.append(decoder.step(np.array([token])))
        del decoder.token_step
    row = np.concatenate(found), golden["greedy.logits"], FP16 if side.half else ACTIVATION, floors.greedy(side.half)
    table.check(f"{side.name} / golden", f"logits, cached decoding, {step}", *row)


def test_v13_thinking_with_a_budget(golden, side):
    """All branches: the answer ends in the budget, thinking does, neither, and no budget at all."""
    if side.half:
        pytest.skip("its margins are smaller than fp16's rounding")
    batch, cases = prompt(golden), golden.told["budget"]
    assert len(cases) >= 4
    for case in cases:
        wanted = case["thinking_ids"] + case["response_ids"]
        policy = NewTokens()
        if case["enable_thinking"] and case["thinking_budget"]:
            policy = ThinkingBudget(case["thinking_budget"], case["think_end_id"], case["early_stop_ids"])
        settings = GenerationConfig(do_sample=False)
        answer = Answer([], *samplers(settings, 0, 1), [[case["im_end_id"]]], case["max_new_tokens"], policy)
        room = batch["input_ids"].shape[1] + max(each["max_new_tokens"] for each in cases)
        for _ in grow(side.model.decoders.lend(1, room), batch, KINDS, [answer]):
            pass
        assert answer.tokens == wanted, case["name"]
        assert split_ids(answer.tokens, case["think_end_id"]) == (case["thinking_ids"], case["response_ids"])

"""ms_impl computes what the original and torch_ref compute, in both modes, in fp32 and fp16."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from ovis_mindspore import OvisSide
from ovis_vectors import LOGITS
from stages import ACTIVATION, FIRST_LOSS, FP16, GRADIENT
from test_ovis_torch_against_golden import check_steps

from ms_impl.ovis2_5.config import INDICATORS
from ms_impl.ovis2_5.train_modules import parse_train_modules

# Kernels take weights as they are: in fp16 they have no counterpart of rounded ones.
MODES = [("graph", "fp32"), ("pynative", "fp32"), ("kernels", "fp32"), ("graph", "fp16"), ("pynative", "fp16")]


@pytest.fixture(scope="module", params=MODES, ids=["-".join(mode) for mode in MODES])
def side(request, golden):
    yield OvisSide(golden.folder, *request.param)
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def counterpart(side, reference, rounded_reference):
    """torch_ref with the parameters that ``side`` computes with, in fp32."""
    return rounded_reference if side.half else reference


def allowed(side: OvisSide, fp32: float) -> float:
    return FP16 if side.half else fp32


@pytest.mark.parametrize("name", ["vit", "window", "window, all full"])
def test_v3_v4_v5_tower(golden, side, counterpart, table, floors, name):
    if name == "window, all full" and side.half:
        pytest.skip("the same graph as vit's, of another length")
    batch, where, full = golden.tower_case(name)
    found, wanted, floor = side.tower(batch, full), counterpart.tower(batch, full), floors.tower(name, side.half)
    for stage in wanted:
        ours, theirs = (golden.of_patches(states[stage], batch, where) for states in (found, wanted))
        table.check(
            f"{side.name} / torch_ref", f"tower, {name}, {stage}", ours, theirs, allowed(side, ACTIVATION), floor[stage]
        )
    whole = floors.tower(name, side.half, True)
    for stage, key in golden.tower_stages() if name == "vit" else golden.window_stages(name):
        row = golden.of_patches(found[stage], batch, where), golden[key], allowed(side, ACTIVATION), whole[stage]
        table.check(f"{side.name} / golden", f"tower, {name}, {stage}", *row)


def test_v5_indicators(golden, side, table):
    found = side.model.encode_indicators(Tensor(np.arange(4, dtype=np.int32))).asnumpy()[:, 0]
    table.check(f"{side.name} / golden", "indicators", found, golden["tok.indicator_embeds"], ACTIVATION)


@pytest.mark.parametrize("case", [*LOGITS, "batch"])
def test_v6_to_v9_logits(golden, side, counterpart, table, floors, case):
    batch = golden.batch() if case == "batch" else golden.case(case)
    real, mask = batch["segment_ids"] > 0, golden["batch.attention_mask"] if case == "batch" else 0
    found, wanted = side.logits(batch), counterpart.logits(batch)
    for stage, key in (("embeddings", "embeds"), ("logits", "logits")):
        what, tolerance = f"{stage}, {case}", allowed(side, ACTIVATION)
        row = found[stage][real], wanted[stage][real], tolerance, floors.logits(case, side.half)[stage]
        table.check(f"{side.name} / torch_ref", what, *row)
        row = found[stage][real], golden[f"{case}.{key}"][mask], tolerance, floors.logits(case, side.half, True)[stage]
        table.check(f"{side.name} / golden", what, *row)


def test_a_row_of_a_batch_has_the_bits_of_the_row_alone(golden, side):
    batch, single = golden.batch(), golden.empty()
    for name, array in single.items():
        array[0] = batch[name][0]
    real = single["segment_ids"][0] > 0
    np.testing.assert_array_equal(side.logits(batch)["logits"][0][real], side.logits(single)["logits"][0][real])


def test_v22_loss_and_every_gradient(golden, side, counterpart, table, floors):
    loss, gradients = side.gradients(golden.batch())
    whole_loss, *_ = floors.gradients(side.half, True)
    _, each, together = floors.gradients(side.half)
    table.check(f"{side.name} / golden", "loss", loss, golden["train.loss"], allowed(side, FIRST_LOSS), whole_loss)
    wanted = counterpart.gradients(golden.batch())[1]
    assert set(gradients) == set(wanted)
    if side.half:  # single small ones err more, in torch's as well
        row = [np.concatenate([found[name].ravel() for name in wanted]) for found in (gradients, wanted)]
        table.check(f"{side.name} / torch_ref", "gradients together", *row, FP16, together)
        return
    for name, gradient in gradients.items():
        table.check(f"{side.name} / torch_ref", "each gradient", gradient, wanted[name], GRADIENT, each[name])
    for name, gradient in golden.named("train.grad:").items():
        table.check(f"{side.name} / golden", "each gradient", gradients[name], gradient, GRADIENT, each[name])


def test_v21_text_alone_has_gradients_of_zero(golden, side, table, floors):
    loss, gradients = side.gradients(golden.text_alone())
    table.check(f"{side.name} / golden", "loss, text alone", loss, golden["dummy.loss"], allowed(side, FIRST_LOSS))
    norms = golden.named("dummy.grad_norm:")
    for name, gradient in gradients.items():
        if name not in norms:
            assert not gradient.any(), name
        elif not side.half:
            row = np.linalg.norm(gradient), norms[name], GRADIENT, floors.text_alone()[name]
            table.check(f"{side.name} / golden", "gradient norms, text alone", *row)


def test_v20_five_steps_of_adamw_per_freeze_variant(golden, side, table, floors, request):
    if side.half:
        pytest.skip("fp16 trains with a loss scale: tests/plugin")
    if "pynative" in side.name and not request.config.getoption("--slow"):
        pytest.skip("slow: run with --slow")
    for words in golden.train_variants():
        losses, norms = side.five_steps(golden.batch(), parse_train_modules(words, golden.config))
        parameters = {p.name: p.asnumpy().copy() for p in side.model.get_parameters()}
        parameters["vte_indicators"] = parameters["vte.weight"][-INDICATORS:]
        side.restore()
        sides = f"{side.name} / golden"
        check_steps(table, sides, golden, words, losses, norms, parameters, floors.steps(words))

"""torch_ref computes what the original computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ovis_reference import parameters_of
from ovis_vectors import LOGITS, MEDIA
from stages import ACTIVATION, FIFTH_LOSS, FIRST_LOSS, GRADIENT

from ms_impl.ovis2_5.train_modules import parse_train_modules, trained

SIDES = "torch_ref / golden"


def test_v3_tower_stage_by_stage(golden, reference, table, floors):
    batch, where, _ = golden.tower_case("vit")
    found, exact = reference.tower(batch), floors.tower("vit")
    for stage, key in golden.tower_stages():
        row = golden.of_patches(found[stage], batch, where), golden[key], ACTIVATION, exact[stage]
        table.check(SIDES, f"tower, {stage}", *row)


def test_v3_positions_of_every_grid(golden, reference, table):
    for (rows, columns), wanted in golden.position_grids():
        found = reference.model.visual_tokenizer.vit.vision_model.embeddings.positions(
            torch.from_numpy(golden.taps(rows, columns)[None])
        )
        table.check(SIDES, "positions of one grid", found[0].detach(), wanted, ACTIVATION)


@pytest.mark.parametrize("name", ["window", "window, all full"])
def test_v4_windows(golden, reference, table, floors, name):
    batch, where, full = golden.tower_case(name)
    found, exact = reference.tower(batch, full), floors.tower(name)
    for stage, key in golden.window_stages(name):
        row = golden.of_patches(found[stage], batch, where), golden[key], ACTIVATION, exact[stage]
        table.check(SIDES, f"tower, {name}, {stage}", *row)


def test_v5_indicators(golden, reference, table):
    found = reference.model.encode_indicators(torch.arange(4)).detach()[:, 0]
    table.check(SIDES, "indicators", found, golden["tok.indicator_embeds"], ACTIVATION)


@pytest.mark.parametrize("case", LOGITS)
def test_v6_to_v9_logits(golden, reference, table, floors, case):
    batch = golden.case(case)
    real, found = batch["segment_ids"] > 0, reference.logits(batch)
    for stage, key in (("embeddings", "embeds"), ("logits", "logits")):
        row = found[stage][real], golden[f"{case}.{key}"][0], ACTIVATION, floors.logits(case)[stage]
        table.check(SIDES, f"{stage}, {case}", *row)


def test_padded_batch(golden, reference, table, floors):
    batch, mask = golden.batch(), golden["batch.attention_mask"]
    found = reference.logits(batch)
    for stage, key in (("embeddings", "embeds"), ("logits", "logits")):
        compared = found[stage][batch["segment_ids"] > 0], golden[f"batch.{key}"][mask]
        table.check(SIDES, f"{stage}, batch", *compared, ACTIVATION, floors.logits("batch")[stage])


def test_greedy_with_the_cache(golden, reference, table, floors):
    logits = reference.greedy(*golden.greedy_case())
    batch, _ = golden.greedy_case()
    arrays = [torch.from_numpy(batch[name]) for name in ("input_ids", *MEDIA)]
    tokens, _ = reference.model.greedy(arrays[0], len(golden["greedy.tokens"]), *arrays[1:])
    assert tokens[0].tolist() == golden["greedy.tokens"].tolist()
    assert logits[:-1].argmax(-1).tolist() == golden["greedy.tokens"].tolist()
    table.check(SIDES, "logits, cached decoding", logits, golden["greedy.logits"], ACTIVATION, floors.greedy())


def test_v22_loss_and_every_gradient(golden, reference, table, floors):
    floor, each, _ = floors.gradients()
    losses, gradients = reference.gradients(golden.batch())
    table.check(SIDES, "loss", losses.mean(), golden["train.loss"], FIRST_LOSS, floor)
    norms = golden.named("train.grad_norm:")
    assert set(norms) - set(gradients) == set(golden.told["dummy_grad_is_none"])
    for name, gradient in gradients.items():
        table.check(SIDES, "gradient norms", np.linalg.norm(gradient), norms[name], GRADIENT, each[name])
    for name, gradient in golden.named("train.grad:").items():
        table.check(SIDES, "gradients", gradients[name], gradient, GRADIENT, each[name])


def test_v21_text_alone_has_gradients_of_zero(golden, reference, table, floors):
    losses, gradients = reference.gradients(golden.text_alone())
    table.check(SIDES, "loss, text alone", losses.mean(), golden["dummy.loss"], FIRST_LOSS)
    norms = golden.named("dummy.grad_norm:")
    for name, gradient in gradients.items():
        if name in norms:
            row = np.linalg.norm(gradient), norms[name], GRADIENT, floors.text_alone()[name]
            table.check(SIDES, "gradient norms, text alone", *row)
        else:
            assert not gradient.any(), name


def test_v19_train_modules(golden, reference):
    names = dict(reference.model.named_parameters())
    for words, wanted in golden.told["trainable"].items():
        unused = {name for name in wanted if name in golden.told["dummy_grad_is_none"]}
        assert set(trained(parse_train_modules(words, golden.config), names)) == set(wanted) - unused


def test_v20_five_steps_of_adamw_per_freeze_variant(golden, reference, table, floors):
    for words in golden.train_variants():
        losses, norms, model = reference.five_steps(golden.batch(), parse_train_modules(words, golden.config))
        check_steps(table, SIDES, golden, words, losses, norms, parameters_of(model), floors.steps(words))


def check_steps(table, sides, golden, words, losses, norms, parameters, floor) -> None:
    """Losses, norms and parameters of five steps against the original's."""
    wanted, wanted_norms = golden[f"train.adamw_losses:{words}"], golden[f"train.adamw_grad_norms:{words}"]
    table.check(sides, "AdamW, first loss", losses[0], wanted[0], FIRST_LOSS, floor[0][0])
    table.check(sides, "AdamW, fifth loss", losses[4], wanted[4], FIFTH_LOSS, floor[0][4])
    table.check(sides, "AdamW, first norm", norms[0], wanted_norms[0], GRADIENT, floor[1][0])
    for name, after in golden.after_steps(words, parameters).items():
        table.check(sides, "AdamW, parameters after", parameters[name], after, FIFTH_LOSS, floor[2][name])

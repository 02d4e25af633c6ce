"""The training step that MindFormers' Trainer runs, five times, against the original's and torch_ref's losses."""

from __future__ import annotations

import numpy as np
import pytest
from floors import STAGE_3
from mindspore import Tensor, nn
from mindspore_side import MindSporeSide
from stages import FIFTH_LOSS, FIRST_LOSS


class Columns(nn.Cell):
    """The model with the four columns of the training set, in their order."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, input_ids, images, image_context_pos, labels):
        """The loss."""
        return self.model(input_ids, images, image_context_pos, labels)


@pytest.mark.parametrize("mode", ["graph", pytest.param("pynative", marks=pytest.mark.slow)])
def test_five_steps_of_adamw_in_stage_3(golden, mode, table, floors):
    from ms_impl.plugin.optimizer import AdamWDecayAll
    from ms_impl.plugin.train_step import TrainStep

    side = MindSporeSide(golden.directory, mode, "fp32")
    side.model.freeze(STAGE_3)
    frozen = {p.name: p.asnumpy().copy() for p in side.model.get_parameters() if not p.requires_grad}
    groups = [{"params": side.model.trainable_params()}]
    optimizer = AdamWDecayAll(groups, learning_rate=1e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)
    step = TrainStep(Columns(side.model), optimizer, use_clip_grad=True, max_grad_norm=1.0, scale_sense=1.0)
    step.set_train(True)
    batch = golden.batch()
    columns = [Tensor(batch[key]) for key in ("input_ids", "images", "image_context_pos")]
    labels = Tensor(golden["train.labels"].astype(np.int32))
    losses = [float(step(*columns, labels)[0].asnumpy()) for _ in range(5)]
    wanted, floor = golden["train.adamw_losses"], floors.steps()
    table.check(f"{side.name} / golden", "AdamW, first loss", losses[0], wanted[0], FIRST_LOSS, floor[0])
    table.check(f"{side.name} / golden", "AdamW, fifth loss", losses[4], wanted[4], FIFTH_LOSS, floor[4])
    for parameter in side.model.get_parameters():
        if parameter.name in frozen:
            assert np.array_equal(parameter.asnumpy(), frozen[parameter.name]), f"{parameter.name}: frozen, yet moved"

"""What keeps a run from going on from a checkpoint."""

import numpy as np
import pytest

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.errors import InputError
from ms_impl.train.resume_check import check_same, describe


class TenDialogues:
    lengths, images = np.full(10, 5), np.zeros(10, int)

    def epoch(self, number, seed):
        return np.arange(10)


def run(files=None, weighting="token", schedule_steps=(15,), **settings):
    made = BatchPlan(TenDialogues(), PlanSettings(**{"epochs": 3, "rows_per_step": 2, "row_length": 8, **settings}))
    return describe(made, files or {"a.json": "1"}, weighting, schedule_steps)


def test_the_same_run_goes_on_and_its_files_may_have_moved():
    check_same(run({"/new/a.json": "1"}), run({"/old/a.json": "1"}), "step_7")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (run({"a.json": "2"}), "a.json: the file is not the one that step_7 was trained on"),
        (run({"a.json": "1", "b.json": "2"}), "step_7: was trained on 1 files, this run has 2"),
        (run(seed=1), "settings of the run differ: seed: 0 → 1"),
        (run(rows_per_step=4), "ranks × runner_config.batch_size × gradient_accumulation_steps: 2 → 4"),
        (run(epochs=4), "runner_config.epochs: 3 → 4"),
        (run(packing=True, shuffle=False), "data_loader.shuffle: True → False; packing: False → True"),
        (run(weighting="dialogue"), "loss_weighting: token → dialogue"),
        ({**run(), "total_steps": 99}, "the run was one of 15 steps, this one has 99"),
        (run(schedule_steps=(30,)), "lr_schedule.total_steps: [15] → [30]"),
    ],
)
def test_a_run_that_differs_is_refused(changed, message):
    with pytest.raises(InputError) as caught:
        check_same(changed, run(), "step_7")
    assert message in str(caught.value)

"""What keeps a run from going on from a checkpoint."""

from dataclasses import dataclass

import numpy as np
import pytest

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.errors import InputError
from ms_impl.train.resume_check import check_same, describe, settings_of


class TenDialogues:
    needs, need_names, sizes = np.full((10, 1), 5), ("tokens",), {}

    def epoch(self, number, seed):
        return np.arange(10)


@dataclass(frozen=True)
class Options:
    mean: tuple = (0.5,)
    dataset_dir: str = "/old"


def run(files=None, weighting="token", schedule_steps=(15,), encoded=0, options=Options(), config=None, **settings):
    given = {"epochs": 3, "rows_per_step": 2, "row_length": 8, **settings}
    made = BatchPlan(TenDialogues(), PlanSettings(**given))
    order = made.digest(np.full((10, 16), encoded, np.uint8))
    return describe(
        made, order, files or {"a.json": "1"}, weighting, schedule_steps, options, settings_of(config or {})
    )


def section(weight=1, **template):
    loader = {"annotation_file": [{"path": "/old/a.json", "weight": weight}], "num_samples": 8}
    return {"train_dataset": {"data_loader": loader, "modal_to_text_transform": {"model_transform_template": template}}}


def test_the_same_run_goes_on_and_its_files_may_have_moved():
    now = run({"/new/a.json": "1"}, options=Options(dataset_dir="/new"))
    check_same(now, run({"/old/a.json": "1"}), "step_7")


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
        (run(options=Options(mean=(0.25,))), "template.mean: [0.5] → [0.25]"),
        (run(encoded=1), "the samples as they are encoded"),
    ],
)
def test_a_run_that_differs_is_refused(changed, message):
    with pytest.raises(InputError) as caught:
        check_same(changed, run(), "step_7")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (section(system_message="Be brief."), "template.system_message: none → Be brief."),
        (section(weight=2), "annotation_file[0].weight: 1 → 2"),
        ({"train_dataset": {"data_loader": {"num_samples": 4}}}, "data_loader.num_samples: 8 → 4"),
    ],
)
def test_a_setting_that_changes_the_samples_is_named(changed, named):
    with pytest.raises(InputError) as caught:
        check_same(run(encoded=1, config=changed), run(config=section()), "step_7")
    assert named in str(caught.value)


def test_what_leads_to_the_same_samples_may_change_and_is_told():
    """num_samples above the file's length, say; and all that is no part of a run's identity."""
    before = {**section(), "lr_schedule": {"learning_rate": 1e-3}, "optimizer": {"type": "AdamW", "betas": [0.9, 0.99]}}
    now = {**section(), "lr_schedule": {"learning_rate": 5e-4}, "optimizer": {"type": "AdamWDecayAll"}}
    now["train_dataset"]["data_loader"]["num_samples"] = 9
    assert check_same(run(config=now), run(config=before), "step_7") == [
        "train_dataset.data_loader.num_samples: 8 → 9",
        "optimizer.type: AdamW → AdamWDecayAll",
        "lr_schedule.learning_rate: 0.001 → 0.0005",
        "optimizer.betas: [0.9, 0.99] → none",
    ]


@pytest.mark.parametrize("missing", ["files", "settings", "total_steps"])
def test_a_state_of_another_shape_is_damaged(missing):
    saved = {key: value for key, value in run().items() if key != missing}
    with pytest.raises(InputError, match=f"step_7: its state.json has no '{missing}'"):
        check_same(run(), saved, "step_7")


def test_what_an_earlier_version_saved_is_resumed():
    saved = {key: run()[key] for key in ("files", "settings", "total_steps")}  # no version
    saved["settings"] = {**saved["settings"], "image_slots": None, "pixels": [[0.5]]}
    del saved["settings"]["template.mean"], saved["settings"]["capacities"]
    assert check_same(run(), saved, "step_7") == []


def test_a_checkpoint_that_names_no_settings_is_damaged():
    with pytest.raises(InputError, match="a.ckpt: its state.json has no 'settings'"):
        check_same(run(), {**run(), "settings": {}}, "a.ckpt")

"""``eval_dataset`` of the YAML, before anything heavy is imported."""

from pathlib import Path

import pytest

from ms_impl.cli.arguments import read_settings
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
DATA_SET = {
    "metric": "vqa", "batch_size": 2, "max_new_tokens": 4, "dataset_dir": "images", "user_role_name": "human",
    "data_loader": {"type": "BaseMultiModalDataLoader", "annotation_file": "vqa.json", "num_samples": 3},
}  # fmt: skip


def options(**changes) -> list[str]:
    """Arguments that ask for one data set, ``asked``, with dotted keys changed."""
    changes = {f"eval_dataset.asked.{key}": value for key, value in changes.items()}
    changes = {"eval_dataset": {"asked": DATA_SET}, **changes}
    return ["--options", *(f"{key}={value}" for key, value in changes.items())]


@pytest.fixture
def read(workspace):
    def read(arguments):
        config = ["--config", str(ROOT / "configs/qwenvl/eval_tiny_easyvqa.yaml")]
        return read_settings([*config, "--load_checkpoint", f"{workspace}/model", *arguments])

    return read


def test_a_data_set_is_read_with_all_its_keys(read):
    from ms_impl.cli.eval_settings import data_sets

    (data,) = data_sets(read(options())["eval_dataset"])
    assert (data.name, data.metric, data.annotation_file) == ("asked", "vqa", Path("vqa.json"))
    assert data.options == {"dataset_dir": "images", "user_role_name": "human"}
    assert (data.batch_size, data.max_new_tokens, data.num_samples) == (2, 4, 3)


def test_a_data_set_may_have_generation_settings_of_its_own(read):
    from ms_impl.cli.eval_settings import data_sets

    changes = {"generation_config.enable_thinking": True, "generation_config.thinking_budget": 12}
    (data,) = data_sets(read(options(**changes))["eval_dataset"])
    assert data.generation == {"enable_thinking": True, "thinking_budget": 12}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generation_config.thinking_budget": -1},
            "eval_dataset.asked.generation_config: generation settings: thinki",
        ),
        ({"generation_config.thinkin": 1}, "eval_dataset.asked.generation_config: unknown key 'thinkin'"),
        ({"metric": "vqa2"}, "eval_dataset.asked.metric: unknown metric 'vqa2'; did you mean 'vqa'?"),
        ({"metric": "null"}, "eval_dataset.asked.metric: is missing"),
        ({"data_loader": "null"}, "eval_dataset.asked.data_loader.annotation_file: is missing"),
        ({"batch_size": 0}, "eval_dataset.asked.batch_size: expected a whole number from 1 to 1,000,000, found 0"),
        (
            {"batch_size": "many"},
            "eval_dataset.asked.batch_size: expected a whole number from 1 to 1,000,000, found 'many'",
        ),
        ({"max_tokens": 1}, "eval_dataset.asked: unknown key 'max_tokens'; did you mean 'max_new_tokens'?"),
        ({"data_loader.type": "Other"}, "eval_dataset.asked.data_loader.type: unknown type 'Other'; known: BaseMulti"),
    ],
)
def test_what_is_wrong_is_named(read, changes, message):
    with pytest.raises(InputError) as caught:
        read(options(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "two\nlines", "x" * 201, "图" * 70, " ", "\ud800"])
def test_a_name_that_no_file_can_have(name):
    """Found before the first answer, not when all answers are to be written."""
    from ms_impl.cli.eval_settings import data_sets

    with pytest.raises(InputError, match="eval_dataset: .* cannot be the name of a file"):
        data_sets({name: DATA_SET})


def test_two_data_sets_of_one_name():
    from ms_impl.cli.eval_settings import data_sets

    with pytest.raises(InputError, match="two data sets are named 1"):
        data_sets({1: DATA_SET, "1": DATA_SET})


@pytest.mark.parametrize("value", ["null", "{}", "[]"])
def test_no_data_set_at_all(read, value):
    with pytest.raises(InputError, match="eval_dataset: "):
        read(["--options", f"eval_dataset={value}"])


def test_do_eval_is_part_of_the_plan_and_mindformers_is_told_nothing_of_it(finetune_arguments):
    from ms_impl.cli.eval_settings import data_sets
    from ms_impl.cli.mindformers_config import mindformers_config
    from ms_impl.cli.training_plan import Monitoring, read_plan

    planned = [*options(), "do_eval=True", "eval_step_interval=5", "model.generation_config.max_window_size=99"]
    settings = read_settings([*finetune_arguments, *planned])
    plan = read_plan(settings)
    assert plan.monitoring == Monitoring(tuple(data_sets({"asked": DATA_SET})), step_interval=5)
    assert plan.files.generation == {"max_window_size": 99}
    told = mindformers_config(settings, plan)
    assert not {"do_eval", "eval_dataset", "eval_step_interval"} & told.keys()


@pytest.mark.parametrize(
    ("planned", "message"),
    [
        (["do_eval=True", "eval_step_interval=5", "eval_dataset=null"], "eval_dataset: is missing; do_eval needs it"),
        (["do_eval=True"], "do_eval: say how often: eval_step_interval or eval_epoch_interval"),
    ],
)
def test_a_plan_that_lacks_something(finetune_arguments, planned, message):
    with pytest.raises(InputError, match=message):
        read_settings([*finetune_arguments, *options(), *planned])

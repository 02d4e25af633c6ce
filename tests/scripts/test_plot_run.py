"""The curves of runs, drawn for real."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts/plot_run.py"))
main, Run = SCRIPT["main"], SCRIPT["Run"]


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run of 100 steps with an overflow in its second, two learning rates, and two evaluations."""
    steps = [
        {"step": step, "loss": 1 / step, "overflow": step == 2, "lr": [1e-3 / step, 1e-4], "grad_norm": 1.5,
         "useful_tokens_per_second": 1000 + step % 2}
        for step in range(1, 101)
    ]  # fmt: skip
    steps[1]["grad_norm"] = None
    write_lines(tmp_path / "run/losses/rank_0.jsonl", steps)
    write_lines(tmp_path / "run/eval/scores.jsonl", [
        {"step": 50, "colours": {"accuracy": 0.5}}, {"step": 100, "colours": {"accuracy": 0.75}}
    ])  # fmt: skip
    return tmp_path / "run"


def test_it_draws_one_run_and_several(run_folder, tmp_path):
    pictures = []
    for runs in ([run_folder], [run_folder, run_folder]):
        assert main([*map(str, runs), "--output_path", str(tmp_path / "run.png")]) == 0
        with Image.open(tmp_path / "run.png") as picture:
            assert picture.format == "PNG"
            pictures.append(np.asarray(picture))
    assert not np.array_equal(*pictures)


def test_the_curves_are_those_of_the_log(run_folder):
    _, panel = pyplot.subplots()
    SCRIPT["draw_curves"](panel, [Run.read(run_folder)], "loss")
    raw, mean = panel.lines
    np.testing.assert_array_equal(raw.get_xydata()[:3], [[1, 1], [2, 1 / 2], [3, 1 / 3]])
    np.testing.assert_allclose(mean.get_ydata()[50], np.mean(raw.get_ydata()[49:51]))
    np.testing.assert_array_equal(panel.collections[0].get_offsets(), [[2, 1 / 2]])
    pyplot.close()


def test_each_group_of_parameters_has_its_learning_rate(run_folder):
    _, panel = pyplot.subplots()
    SCRIPT["draw_curves"](panel, [Run.read(run_folder)], "lr")
    assert [line.get_ydata()[1] for line in panel.lines] == [5e-4, 1e-4]
    pyplot.close()


def test_scores_are_drawn_at_their_steps(run_folder):
    _, panel = pyplot.subplots()
    SCRIPT["draw_scores"](panel, [Run.read(run_folder)], "colours: accuracy")
    np.testing.assert_array_equal(panel.lines[0].get_xydata(), [[50, 0.5], [100, 0.75]])
    pyplot.close()


def test_a_running_mean_passes_over_what_is_not_finite():
    mean = SCRIPT["running_mean"](np.array([1.0, np.nan, 3.0, 5.0]), 3)
    np.testing.assert_array_equal(mean, [1, np.nan, 4, 4])


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("", "holds no step yet"), ('{"step": 1}\n', "line 1: not a record")],
)
def test_what_is_no_run_is_named_and_nothing_is_written(tmp_path, capsys, text, message):
    log = tmp_path / "losses/rank_0.jsonl"
    if text is not None:
        log.parent.mkdir()
        log.write_text(text)
    assert main([str(tmp_path), "--output_path", str(tmp_path / "run.png")]) == 2
    assert f"error: {log}: {message}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png*"))

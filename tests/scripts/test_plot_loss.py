"""The loss curve, drawn for real."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

main = runpy.run_path(str(Path(__file__).parents[2] / "scripts/plot_loss.py"))["main"]


def test_it_draws_a_png(tmp_path):
    log = tmp_path / "rank_0.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3)))
    assert main([str(log), "--output_path", str(tmp_path / "loss.png")]) == 0
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.format == "PNG" and len(picture.getcolors(1 << 16)) > 2


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("", "holds no step yet"), ('{"step": 1}', "line 1: not a step")]
)
def test_what_is_no_loss_log_is_named_and_nothing_is_written(tmp_path, capsys, text, message):
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    assert main([str(log), "--output_path", str(tmp_path / "loss.png")]) == 2
    assert f"error: {log}: {message}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png*"))

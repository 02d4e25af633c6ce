"""run_mindformer.py answers and evaluates with a model that takes images, videos and sounds; the fast twins of these are
tests/qwen2_5_omni/test_omni_dialogue.py and tests/data/test_trained_options.py."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = "configs/qwen2_5_omni"
TEMPLATE = (
    "processor.model_transform_template={type: Qwen2_5OmniContentTransformTemplate, video_min_pixels: 1, fps: 1.0}"
)
LOADER = "type: BaseMultiModalDataLoader, annotation_file"


@pytest.fixture
def records(tiny_omni, tmp_path) -> Path:
    def file(name: str, kind: str, medium: str, question: str, **more) -> None:
        turns = [{"role": "user", "content": f"<{kind}>{question}"}, {"role": "assistant", "content": "one two"}]
        (tmp_path / f"{name}.json").write_text(json.dumps([{"messages": turns, f"{kind}s": [medium], **more}]))

    file("speech", "audio", "sound.wav", "What is said?")
    file("film", "video", "clip.mp4", "When?")
    file("boxes", "image", "image.png", "Frame the dog.", bbox=[0, 0, 42, 28])
    return tmp_path


def test_prompts_of_films(run_mindformer, tiny_omni, tmp_path):
    """Prompts of one pattern; what the template shows is printed, and decides how many tokens a prompt has."""
    lines = {}
    for sound in (True, False):
        ran = run_mindformer(
            tmp_path, "--config", f"{CONFIGS}/predict_tiny.yaml", "--load_checkpoint", tiny_omni / "model", "--output_dir",
            f"out_{sound}", "--options", TEMPLATE, f"processor.model_transform_template.use_audio_in_video={sound}",
            "model.generation_config.max_new_tokens=4", "--predict_batch_size", "2",
            "--predict_data", tiny_omni / "clip.mp4", "When?", tiny_omni / "silent.mp4", "When?", "--modal_type", "video", "text",
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert f"use_audio_in_video {str(sound).lower()}" in ran.stdout and "fps 1.0" in ran.stdout
        lines[sound] = [json.loads(line) for line in (tmp_path / f"out_{sound}/predict.jsonl").read_text().splitlines()]
    (film, silent), (muted, same) = lines[True], lines[False]
    assert len(film["prompt_ids"]) == len(muted["prompt_ids"]) + 25 * 4 + 2
    assert silent["prompt_ids"] == same["prompt_ids"] and silent["answer_ids"] == same["answer_ids"]


def test_data_sets_of_speech_films_and_boxes(run_mindformer, tiny_omni, records):
    """Each data set has a metric and options of its own; a wrong option is refused."""
    shown = (
        "{metric: %s, data_loader: {" + LOADER + ": %s.json}, dataset_dir: " + str(tiny_omni) + ", batch_size: 1, %s}"
    )
    sets = {
        "speech": shown % ("wer", "speech", "max_new_tokens: 4"),
        "film": shown % ("exact_match", "film", "max_new_tokens: 4, use_audio_in_video: True, video_min_pixels: 1"),
        "pixels": shown % ("grounding", "boxes", "max_new_tokens: 4, bbox_format: new"),
        "thousandths": shown % ("grounding", "boxes", "max_new_tokens: 4, norm_bbox: True"),
    }
    told = "{" + ", ".join(f"{name}: {each}" for name, each in sets.items()) + "}"
    asked = ["--config", f"{CONFIGS}/eval_qwen2_5_omni_3b.yaml", "--device_target", "CPU", "--load_checkpoint",
             tiny_omni / "model", "--output_dir", "out", "--options",
             f"model.model_config.config_file={tiny_omni}/model/config.json"]  # fmt: skip
    ran = run_mindformer(records, *asked, f"eval_dataset={told}")
    assert ran.returncode == 0, ran.stderr
    scores = json.loads((records / "out/eval/scores.json").read_text())
    assert set(sets) <= set(json.dumps(scores).replace('"', " ").split())
    wrong = run_mindformer(records, *asked, f"eval_dataset={told.replace('bbox_format: new', 'bbox_fromat: new')}")
    assert wrong.returncode == 2 and "bbox_fromat" in wrong.stderr

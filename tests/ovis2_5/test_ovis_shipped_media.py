"""Several images and a video, as a file and as its frames, asked about with the shipped model by each way that users have.

``Ovis25Inference``, chat.py and run_mindformer.py give the same answers, and these are torch_ref's, token by token. The
model was taught with one image at a time; here all that is shown has one colour.
"""

from __future__ import annotations

import json
from pathlib import Path

import easy_vqa
import numpy as np
import pytest
import torch
from PIL import Image
from preloaded import run_script

from ms_impl.data.batch import collate
from ms_impl.ovis2_5 import Ovis25Inference
from ms_impl.ovis2_5.template import VISUALS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "assets/ovis2_5_tiny"
IMAGES = Path(easy_vqa.__file__).parent / "data/test/images"
FRAMES, SHOWN, LENGTH = 6, 3, 48
QUESTION = "what color is the shape?"
GREEDY = {"do_sample": False, "max_new_tokens": LENGTH}


@pytest.fixture(scope="module")
def ovis() -> Ovis25Inference:
    return Ovis25Inference(SHIPPED, dtype="fp32")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """A green circle, and mirrored, of different size."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    for number, size in enumerate([(96, 64), (128, 128)]):
        image = Image.open(IMAGES / "7.png").convert("RGB").resize(size, Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.png")
        (image if number else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A video file: a green circle, mirrored in its second half, 96 × 96 pixels."""
    av = pytest.importorskip("av", reason="a video file is decoded by PyAV")
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4, options={"crf": "10"})
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            image = Image.open(IMAGES / "7.png").convert("RGB").resize((96, 96))
            image = image if number < FRAMES // 2 else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def frames(clip) -> list[Path]:
    """The clip's frames as files in a directory, decoded once: the same pixels."""
    from ms_impl.media.video import probe_video, read_frames

    folder = clip.with_name("frames")
    folder.mkdir()
    for number, frame in enumerate(read_frames(probe_video(clip), range(FRAMES))):
        Image.fromarray(frame).save(folder / f"frame{number + 8}.png")  # 10 comes after 9, not before
    return [folder / f"frame{number + 8}.png" for number in range(FRAMES)]


@pytest.fixture(scope="module")
def answers(ovis, images, clip, frames) -> dict[str, str]:
    """Of the class, by what is shown."""
    return {
        "images": ovis.multi_image_inference(images, QUESTION, **GREEDY),
        "file": ovis.video_inference(clip, QUESTION, num_frames=SHOWN, **GREEDY),
        "frames": ovis.video_inference(frames, QUESTION, num_frames=SHOWN, **GREEDY),
    }


def test_answers_are_right(answers):
    assert answers == {"images": "green", "file": "green", "frames": "green"}


def test_streams_yield_the_same(ovis, images, clip, answers):
    pieces = list(ovis.multi_image_inference_streaming(images, QUESTION, **GREEDY))
    assert "".join(pieces) == answers["images"] and all(pieces)
    pieces = list(ovis.video_inference_streaming(clip, QUESTION, num_frames=SHOWN, **GREEDY))
    assert "".join(pieces) == answers["file"]


def test_chat_answers_the_same(images, clip, frames, answers):
    """In one conversation, begun anew for each; and a question asked at once."""
    common = [
        "--model",
        SHIPPED,
        "--greedy",
        "--dtype",
        "fp32",
        "--max_new_tokens",
        LENGTH,
        "--options",
        f"num_frames={SHOWN}",
    ]
    shown = ["\n".join(f"/image {path}" for path in images), f"/video {clip}", f"/video {frames[0].parent}"]
    typed = "".join(f"/reset\n{lines}\n{QUESTION}\n" for lines in shown)
    run = run_script(ROOT / "scripts/chat.py", *common, typed=typed, folder=ROOT)
    assert run.returncode == 0, run.stderr
    assert f"({FRAMES} frames)" in run.stdout
    said = [line.removeprefix("> ") for line in run.stdout.splitlines() if not line.removeprefix("> ").startswith("(")]
    assert [line for line in said if line] == list(answers.values())


def test_predict_answers_the_same(run_mindformer, images, clip, frames, answers, tmp_path):
    given = ["--config", "configs/ovis2_5/predict_tiny.yaml", "--load_checkpoint", SHIPPED]
    options = [f"model.generation_config.max_new_tokens={LENGTH}"]
    two = ["--predict_data", *images, QUESTION, "--modal_type", "image", "image", "text"]
    run = run_mindformer(tmp_path, *given, *two, "--options", *options)
    assert run.returncode == 0, run.stderr
    assert said(tmp_path) == [answers["images"]]
    videos = ["--predict_data", clip, QUESTION, frames[0].parent, QUESTION, "--modal_type", "video", "text"]
    options += [f"processor.model_transform_template.num_frames={SHOWN}"]
    run = run_mindformer(tmp_path, *given, *videos, "--predict_batch_size", 2, "--options", *options)
    assert run.returncode == 0, run.stderr
    assert said(tmp_path) == [answers["file"], answers["frames"]]


def said(folder: Path) -> list[str]:
    """The answers that a prediction saved."""
    return [json.loads(line)["answer"] for line in (folder / "output/predict.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("shown", ["images", "video"])
def test_answers_are_torchs_token_by_token(ovis, images, frames, shown):
    from torch_ref.ovis2_5.model import Ovis2_5

    template = ovis.template.with_options(num_frames=SHOWN)
    media = [{"image": path} for path in images] if shown == "images" else [{"video": frames}]
    settings = ovis.model.generation.changed(**GREEDY)
    turn = template.encode_turn([*media, {"text": QUESTION}], None, None, settings)
    visuals = [medium.geometry for medium in turn.media if medium.kind == VISUALS.name]
    assert visuals == ([(1, 6, 8), (1, 8, 8)] if shown == "images" else [(SHOWN, 6, 6)])
    (found,) = ovis.model.generate(template, [turn], settings)
    arrays = {name: torch.from_numpy(array) for name, array in collate([turn], template).items()}
    given = [arrays[spec.name] for kind in template.kinds for spec in kind.all_arrays]
    tokens, _ = Ovis2_5.from_pretrained(SHIPPED).greedy(arrays["input_ids"], len(found), *given)
    assert np.array_equal(found, tokens[0].numpy())

"""The original's inference class: its answers are those of ``model.chat``, its streams yield, its errors name the fault."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.ovis2_5 import HF_COMPAT, Answer, Ovis25Inference
from ms_impl.ovis2_5.inference import grounding_query, with_room
from ms_impl.ovis2_5.thinking import EARLY_STOP

PIXELS = {"min_pixels": 4096, "max_pixels": 16384}
FRAME_PIXELS = {"min_pixels": 1024, "max_pixels": 6400}
GREEDY = {"do_sample": False, "max_new_tokens": 4}
BUDGET = {"enable_thinking": True, "enable_thinking_budget": True, "thinking_budget": 4}


@pytest.fixture(scope="module")
def ovis(loaded) -> Ovis25Inference:
    return Ovis25Inference.of(*loaded)


@pytest.fixture(scope="module")
def image(ovis_folder) -> str:
    return str(ovis_folder / "image0.png")


def joined(stream) -> Answer:
    """What a stream returns; its pieces must be the same."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            assert "".join(pieces) == end.value and all(pieces)
            return end.value


def test_the_package_is_light():
    code = "import sys, ms_impl.ovis2_5, ms_impl.ovis2_5.family as family; assert family.FAMILY.arch == 'Ovis2_5'; " \
           "print({'numpy', 'PIL', 'mindspore'} & set(sys.modules))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_image_a_second_turn_and_a_system_message(loaded, ovis, image):
    model, template = loaded
    small, settings = template.with_options(**PIXELS), {**HF_COMPAT, **GREEDY}
    answer = ovis.single_image_inference(image_input=image, text_prompt="What is it?", **PIXELS, **GREEDY)
    assert answer == model.chat(small, f"<img>{image}</img>\nWhat is it?", **settings)[0]
    assert (answer.thinking, answer.answer, answer.history[0][1]) == ("", answer, answer)
    in_memory = joined(ovis.single_image_inference_streaming(Image.open(image), "What is it?", **PIXELS, **GREEDY))
    assert in_memory == answer and in_memory.history[0][0] != answer.history[0][0]
    asked = {"system": "Speak of birds.", **settings}
    wanted, history = model.chat(template.with_options(**PIXELS), "And now?", answer.history, **asked)
    of_text = Ovis25Inference.of(model, small).text_only_inference(
        "And now?", history=answer.history, system="Speak of birds.", **GREEDY
    )
    assert (of_text, of_text.history) == (wanted, history)


def test_several_images_and_a_video(loaded, ovis, image, ovis_folder):
    model, template = loaded
    other = str(ovis_folder / "image1.png")
    answer = ovis.multi_image_inference([image, other], text_prompt="Which?", **FRAME_PIXELS, **GREEDY)
    query = f"<img>{image}</img>\n<img>{other}</img>\nWhich?"
    assert answer == model.chat(template.with_options(**FRAME_PIXELS), query, **HF_COMPAT, **GREEDY)[0]
    frames = [str(ovis_folder / f"frame{number}.png") for number in range(4)]
    answer = ovis.video_inference(video_path=frames, text_prompt="What?", num_frames=2, **FRAME_PIXELS, **GREEDY)
    query = [{"video": [frames[0], frames[2]]}, {"text": "What?"}]
    assert answer == model.chat(template.with_options(**FRAME_PIXELS, num_frames=2), query, **HF_COMPAT, **GREEDY)[0]


def test_v14_a_stream_crosses_both_phases_of_thinking(loaded, ovis):
    def chat(length):
        return loaded[0].chat(loaded[1], "Why?", do_sample=False, max_new_tokens=length, **BUDGET, **HF_COMPAT)[0]

    answer = joined(ovis.text_only_inference_streaming("Why?", do_sample=False, max_new_tokens=36, **BUDGET))
    assert answer == chat(36) == ovis.text_only_inference("Why?", do_sample=False, max_new_tokens=36, **BUDGET)
    assert answer.thinking.endswith(EARLY_STOP.strip()) and len(answer.thinking) > len(EARLY_STOP)
    assert answer.answer and answer.startswith(answer.thinking) and answer.endswith(answer.answer)
    assert ovis.text_only_inference("Why?", do_sample=False, max_new_tokens=4, **BUDGET) == chat(8)


def test_what_is_drawn(loaded, ovis):
    def ask(**settings):
        return ovis.text_only_inference("Why?", max_new_tokens=6, **settings)

    greedy = ask(do_sample=False)
    assert ask(temperature=0) == greedy == ask(top_k=1, seed=3)
    assert ask(seed=1, temperature=9.0) == ask(seed=1, temperature=9.0) != ask(seed=2, temperature=9.0)


def test_the_originals_generation_and_the_checkpoints(loaded, monkeypatch):
    model, template = loaded
    beside = model.generation.changed(top_k=20, top_p=0.95, repetition_penalty=0.01, eos_token_id=(151645, 151643))
    plain = model.chat(template, "Why?", do_sample=False, max_new_tokens=12)[0]
    monkeypatch.setattr(model, "generation", beside)
    penalised = model.chat(template, "Why?", do_sample=False, max_new_tokens=12)[0]
    answers = [
        Ovis25Inference.of(model, template, hf_compat).text_only_inference("Why?", do_sample=False, max_new_tokens=12)
        for hf_compat in (True, False)
    ]
    assert answers == [plain, penalised] and plain != penalised
    assert beside.changed(**HF_COMPAT).eos_token_ids == (151645,)


def test_regions_of_the_answer_alone(loaded, ovis_folder):
    _, template = loaded
    (left, top), (right, bottom) = (0.25, 0.1), (0.75, 0.6)
    said = "<think>\n<box>(0.9,0.9),(0.95,0.95)</box></think>\n\n<ref>red</ref>"
    said += f"[<box>({left},{top}),({right},{bottom})</box>] and <point>(0.5,0.999)</point>, <box>(1,2)</box>"
    picture = Image.new("RGB", (200, 100))
    answer = Answer(said, [(template.query_text([{"image": picture}, {"text": "Where?"}]), said)], template)
    assert [box.corners for box in answer.boxes] == [((left, top), (right, bottom))] and answer.boxes[0].ref == "red"
    assert [point.corners for point in answer.points] == [((0.5, 0.999),)]
    drawn = np.asarray(answer.draw())
    assert drawn[10, 60].any() and drawn[60, 140].any() and not drawn[92, 185].any() and drawn[98, 100].any()


def test_grounding(loaded, ovis, image):
    assert grounding_query("Find it", "box") == "Find it. Please provide the bounding box coordinates."
    assert grounding_query("Find it.", "point") == "Find it. Please provide the point coordinates."
    answer = ovis.grounding_inference(image, "Find <ref>it</ref>.", "point", max_new_tokens=4, **PIXELS)
    assert answer.history[0][0] == f"<img>{image}</img>\nFind <ref>it</ref>. Please provide the point coordinates."
    query, small = answer.history[0][0], loaded[1].with_options(**PIXELS)
    assert answer == loaded[0].chat(small, query, **HF_COMPAT, **GREEDY)[0] and answer.boxes == []


@pytest.mark.parametrize(
    ("length", "budget", "wanted"), [(3072, 2048, 3072), (2048, 2048, 3072), (100, 2048, 2148), (5, 4, 5), (0, 4, 0)]
)
def test_a_budget_leaves_room_for_the_answer(length, budget, wanted):
    assert with_room(length, budget) == wanted


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda o, i: o.single_image_inference_streaming("https://a.org/b.png", "?"), "https://a.org/b.png' is a URL"),
        (lambda o, i: o.multi_image_inference_streaming([i, "http://a.org/b"], "?"), "http://a.org/b' is a URL"),
        (lambda o, i: o.video_inference_streaming("ftp://a.org/b.mp4", "?"), "is a URL"),
        (lambda o, i: o.single_image_inference_streaming("no.png", "?"), "no.png"),
        (lambda o, i: o.multi_image_inference_streaming(i, "?"), "image_paths: expected a list"),
        (lambda o, i: o.multi_image_inference_streaming([], "?"), "image_paths: expected a list"),
        (lambda o, i: o.video_inference_streaming([], "?"), "the video has no frames"),
        (lambda o, i: o.video_inference_streaming([i, "no.png"], "?", num_frames=2), "no.png"),
        (lambda o, i: o.video_inference_streaming([i], "?", num_frames=0), "num_frames must be"),
        (lambda o, i: o.single_image_inference_streaming(i, "?", max_pixels=-1), "max_pixels must be"),
        (lambda o, i: o.single_image_inference_streaming(i, "?", min_pixels=9, max_pixels=8), "min_pixels 9 is more"),
        (lambda o, i: o.grounding_inference_streaming(i, "it", "mask"), "request_type must be 'box' or 'point'"),
        (lambda o, i: o.text_only_inference_streaming("?", top_n=3), "unknown generation settings top_n"),
        (lambda o, i: o.text_only_inference_streaming("?", temperature=-1), "temperature must be a number above 0"),
        (lambda o, i: o.text_only_inference_streaming("?", max_new_tokens=0, **BUDGET), "max_new_tokens must be"),
    ],
)
def test_wrong_input_is_told_before_the_first_piece(ovis, image, ask, message):
    with pytest.raises(InputError, match=message):
        ask(ovis, image)


def test_a_wrong_device_is_named():
    with pytest.raises(InputError, match="device: unknown device 'cuda'; known: cpu, ascend, npu"):
        Ovis25Inference("nowhere", device="cuda")
    with pytest.raises(InputError, match="device: this machine has no Ascend"):
        Ovis25Inference("nowhere", device="npu")
    with pytest.raises(InputError, match="nowhere"):
        Ovis25Inference("nowhere", device="cpu")

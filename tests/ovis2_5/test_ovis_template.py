"""Records, queries and rows by the template: ids, labels, columns and arrays."""

import json
import pickle
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ms_impl.data.batch import collate
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.ovis2_5.formatter import ATOM_ID, IGNORED
from ms_impl.ovis2_5.template import INDICATOR_ROWS, VISUALS, Ovis2_5Template
from ms_impl.ovis2_5.thinking import EARLY_STOP
from ms_impl.ovis2_5.visuals import StillImage

FRAMES = tuple(f"frame{number}.png" for number in range(4))


@dataclass(frozen=True)
class Settings:
    """What encoding and the policy read of generation settings."""

    enable_thinking: bool = False
    enable_thinking_budget: bool = False
    thinking_budget: int = 2048
    max_new_tokens: int = 1024


def record(*turns: tuple[str, str], **media) -> dict:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **media}


def sample_of(template, given: dict):
    return template.sample(parse_record(given, "data.json, record 0"))


def raw_ids(template, sample) -> list[int]:
    """The original's ids, visuals negative."""
    return template._with_atoms(sample)


def test_v11_samples_are_the_originals(formatter_cases, template):
    for case in formatter_cases["format"]:
        has_answer = any(turn["from"] == "gpt" and turn["value"] for turn in case["conversations"])
        if case["generation_preface"] is not None or not has_answer:
            continue
        given = {"conversations": case["conversations"]}
        texts = "".join(turn["value"] for turn in case["conversations"])
        images, videos = texts.count("<image>"), texts.count("<video>")
        given |= {"image": ["image0.png"] * images} if images else {}
        given |= {"video": list(FRAMES)} if videos else {}
        sample = sample_of(template, given)
        text = np.array(raw_ids(template, sample)) >= 0
        wanted = np.array([pair for pair in zip(case["input_ids"], case["labels"]) if pair[0] >= 0])
        assert sample.input_ids[text].tolist() == wanted[:, 0].tolist(), case["name"]
        assert sample.labels[text].tolist() == wanted[:, 1].tolist(), case["name"]
        assert (sample.labels[~text] == IGNORED).all()
        assert sample.input_ids.min() >= 0
        assert sample.answer_tokens == sum(label not in (IGNORED, 151645) for label in wanted[:, 1])


def test_v12_turns_are_the_originals(formatter_cases, template):
    """Chat cuts the thinking of earlier answers, and deletes placeholders, before the formatter's rule."""
    checked = 0
    for case in formatter_cases["format"]:
        turns = [turn for turn in case["conversations"] if turn["from"] != "system"]
        texts = [turn["value"] for turn in case["conversations"]]
        alternate = [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2) + ["human"]
        if (
            case["generation_preface"] is None
            or not alternate
            or any("<image>" in t or "<video>" in t or "</think>" in t for t in texts)
        ):
            continue
        history = [(question["value"], answer["value"]) for question, answer in zip(turns[::2], turns[1::2])]
        system = next((turn["value"] for turn in case["conversations"] if turn["from"] == "system"), None)
        sample = template.encode_turn(turns[-1]["value"], history, system, Settings(case["generation_preface"] == ""))
        assert sample.input_ids.tolist() == case["input_ids"], case["name"]
        checked += 1
    assert checked > 10


def test_an_earlier_answers_thinking_is_left_out(template):
    history = [("a", "<think>\nhm\n</think>\n\nb")]
    found = template.encode_turn("c", history, None, Settings(True))
    assert "hm" not in template.tokenizer.decode(found.input_ids)
    assert found.input_ids.tolist() == template.encode_turn("c", [("a", "b")], None, Settings(True)).input_ids.tolist()


def test_placeholders_in_a_text_show_nothing(template, ovis_folder):
    query = [{"image": str(ovis_folder / "image0.png")}, {"text": "<image>\nWhat?"}]
    found = template.tokenizer.decode(template.encode_turn(query, None, None, Settings()).input_ids)
    assert "<image>" not in found and "\n\nWhat?" in found


QUERIES = {
    "one image not in a list": lambda folder: [{"image": str(folder / "image1.png")}, {"text": "x"}],
    "frames not in a list of lists": lambda folder: [{"video": [str(folder / f) for f in FRAMES]}, {"text": "x"}],
}


def test_visuals_of_a_query(ovis_cases, ovis_folder, make_template):
    limits = {"single_image_min_pixels": 1024, "single_image_max_pixels": ovis_cases["preprocess"]["video_max_pixels"]}
    template = make_template(**limits)
    for case in ovis_cases["input_errors"]:
        if case[1] == "ok":
            sample = template.encode_turn(QUERIES[case[0]](ovis_folder), None, None, Settings(True))
            ids = raw_ids(template, sample)
            del ids[1 + max(ids.index(end) for end in (-302, -304) if end in ids)]  # a newline follows a query's visual
            assert ids == case[2], case[0]
            assert [list(m.geometry) for m in sample.media if m.kind == VISUALS.name] == case[3]


WRONG = {
    "images and videos given": (record(("human", "<image><video>"), ("gpt", "a"), image="image0.png", video=list(FRAMES)), "one kind"),
    "both placeholders in different turns": (
        record(("human", "<image>"), ("gpt", "a"), ("human", "<video>"), ("gpt", "b"), image="image0.png", video=list(FRAMES)),
        "one kind",
    ),
    "placeholder without visual": (record(("human", "<image>"), ("gpt", "a")), "1 <image> in its turns, but 0 images"),
    "video placeholder without visual": (record(("human", "<video>"), ("gpt", "a")), "1 <video> in its turns, but 0"),
    "more images than placeholders": (record(("human", "<image>"), ("gpt", "a"), image=["image0.png"] * 2), "there must be as many"),
    "fewer images than placeholders": (record(("human", "<image><image>"), ("gpt", "a"), image="image0.png"), "there must be as many"),
    "image without placeholder": (record(("human", "x"), ("gpt", "a"), image="image0.png"), "0 <image> in its turns"),
    "two videos": (record(("human", "<video><video>"), ("gpt", "a"), videos=[list(FRAMES)] * 2), "2 videos are given"),
    "video placeholder with an image": (record(("human", "<video>"), ("gpt", "a"), image="image0.png"), "must be as many"),
    "number as text": (record(("human", 5), ("gpt", "a")), "'value' must be a str"),
}  # fmt: skip


def test_every_error_of_the_original_is_tested(ovis_cases):
    assert set(WRONG) | set(QUERIES) == {case[0] for case in ovis_cases["input_errors"]}


@pytest.mark.parametrize("name", WRONG)
def test_v8_wrong_input_names_the_record(template, name):
    given, said = WRONG[name]
    with pytest.raises(InputError, match="^data.json, record 0: ") as raised:
        sample_of(template, given)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (record(("human", "a"), ("bot", "b")), "turn 1: unknown role 'bot'"),
        (record(("human", "a")), "no answer"),
        (record(("human", "a"), ("gpt", " ")), "an answer is empty"),
        (record(("human", "<image>a"), ("gpt", "b"), image="gone.png"), "gone.png' does not exist"),
        (record(("human", "<video>a"), ("gpt", "b"), video=["frame0.png", "gone.png"]), "gone.png"),
        (record(("human", "a<|endoftext|>"), ("gpt", "b")), "takes it for padding"),
    ],
)
def test_v16_bad_records_are_named(template, given, said):
    with pytest.raises(InputError, match="^data.json, record 0: ") as raised:
        sample_of(template, given)
    assert said in str(raised.value)


def test_v16_damaged_images_are_named(make_template, ovis_folder, tmp_path):
    """An empty file is found with the sizes, one that is cut off when it is decoded."""
    whole = (ovis_folder / "image0.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    template = make_template(dataset_dir=str(tmp_path))
    with pytest.raises(InputError, match="^data.json, record 0: .*empty.png"):
        sample_of(template, record(("human", "<image>a"), ("gpt", "b"), image="empty.png"))
    sample = sample_of(template, record(("human", "<image>a"), ("gpt", "b"), image="cut.png"))
    with pytest.raises(InputError, match="cut.png"):
        template.check_medium(sample.media[0])
    with pytest.raises(InputError, match="^data.json, record 0: .*cut.png"):
        template.load(sample.media, empty_row(template, sample))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"most_pixels": 1}, "unknown option most_pixels"),
        ({"max_pixels": -1}, "max_pixels must be a whole number, 0 or more, not -1"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels 9 is more than max_pixels 8"),
        ({"text_max_length": 0}, "text_max_length must be a whole number, 1 or more, not 0"),
        ({"single_image_min_pixels": -1}, "single_image_min_pixels must be"),
        ({"min_frames": 65}, "min_frames 65 is more than max_frames 64"),
        ({"num_frames": True}, "num_frames must be a whole number"),
    ],
)
def test_wrong_options(make_template, options, said):
    with pytest.raises(InputError, match=said):
        make_template(**options)


def test_boxes_are_filled_in_the_models_style(template):
    given = record(("human", "<image>Find <ref-object>."), ("gpt", "<ref-object><bbox>"), image="image0.png")
    given["objects"] = {"ref": ["the cat", "the cat"], "bbox": [[100, 200, 300, 1000]], "bbox_type": "norm1000"}
    text = template.tokenizer.decode(sample_of(template, given).input_ids)
    assert "Find <ref>the cat</ref>." in text
    assert text.endswith("<ref>the cat</ref><box>(0.100,0.200),(0.300,0.999)</box><|im_end|>")


def test_loss_and_loss_scale(template):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    given = {"messages": [{"role": role, "content": text} for role, text in turns]}
    given["messages"][1]["loss"] = False
    sample = sample_of(template, given)
    assert sample.labels[sample.labels != IGNORED].tolist() == [*template.tokenizer.encode("d"), 151645]
    del given["messages"][1]["loss"]
    given["messages"][3]["loss_scale"] = 2.5
    sample = sample_of(template, given)
    assert sample.loss_scale[sample.labels != IGNORED].tolist() == [1, 1, 2.5, 2.5]


def empty_row(template, sample) -> dict[str, np.ndarray]:
    outline = sample.outline
    sizes = {**template.fixed_sizes, **template.largest(outline)}
    sizes |= template.need(outline, sizes)
    specs = [spec for kind in template.kinds for spec in kind.all_arrays]
    return {
        spec.name: np.full(spec.shape(sizes), len(sample) if spec.padding is None else spec.padding, spec.dtype)
        for spec in specs
    }


def test_a_rows_arrays(template, ovis_folder):
    tensors = load_file(ovis_folder / "cases.safetensors")
    given = record(("human", "<image>and<image>"), ("gpt", "b"), image=["image0.png", "image1.png"])
    sample = sample_of(template, given)
    row = empty_row(template, sample)
    template.load(sample.media, row)
    ids = np.array(raw_ids(template, sample))
    columns = row["patch_columns"][row["patch_columns"] < len(sample)]
    assert sorted(columns) == np.flatnonzero(ids == ATOM_ID).tolist()
    patches = row["patches"][row["patch_segments"][..., 0] > 0]
    np.testing.assert_array_equal(
        patches, np.concatenate([tensors[f"pre.image{number}.pixel_values"] for number in (0, 1)])
    )
    found = dict(zip(row["indicator_columns"][:, 0].tolist(), row["indicator_ids"].tolist()))
    assert found == {int(column): -301 - int(ids[column]) for column in np.flatnonzero(ids < -300)}
    moved = empty_row(template, sample)
    template.load([], moved, 3)
    assert (moved["patch_columns"] == len(sample)).all()


def test_needs_add_up(template):
    images = [sample_of(template, record(("human", "<image>"), ("gpt", "b"), image=f"image{n}.png")) for n in (0, 1)]
    video = sample_of(template, record(("human", "<video>"), ("gpt", "b"), video=list(FRAMES)))
    outlines = [sample.outline for sample in (*images, video)]
    largest = {name: max(template.largest(outline)[name] for outline in outlines) for name in template.largest_of}
    joint = type(outlines[0])(sum(o.tokens for o in outlines), sum((o.media for o in outlines), ()))
    apart = [template.need(outline, largest) for outline in outlines]
    for name, need in template.need(joint, largest).items():
        assert need <= sum(each[name] for each in apart)
    assert template.need(joint, largest)["indicators"] == 6


def test_v17_a_cut_sample_keeps_whole_visuals(template):
    given = record(("human", "<image>and<image>then"), ("gpt", "b"), image=["image0.png", "image1.png"])
    sample = sample_of(template, given)
    for length in range(1, len(sample) + 1):
        cut = template.cut(sample, length)
        assert len(cut) <= length and len(cut.labels) == len(cut)
        ids = raw_ids(template, cut)
        assert ids.count(ATOM_ID) == sum(len(m.columns) for m in cut.media if m.kind == VISUALS.name)
        assert len([m for m in cut.media if m.kind == VISUALS.name]) == len(
            [m for m in cut.media if m.kind == INDICATOR_ROWS.name]
        )
        assert ids.count(-301) == ids.count(-302)
    assert template.counts["visuals cut off at 5 tokens"] >= 1
    text = sample_of(template, record(("human", "a " * 50), ("gpt", "b")))
    assert len(template.cut(text, 1000)) == len(text)


def test_limits_of_length_by_what_is_shown(make_template):
    template = make_template(text_max_length=10, multimodal_max_length=20)
    text = sample_of(template, record(("human", "a " * 50), ("gpt", "b")))
    image = sample_of(template, record(("human", "<image>" + "a " * 50), ("gpt", "b"), image="image0.png"))
    assert (len(template.cut(text, 1000)), len(template.cut(image, 1000))) == (10, 20)


def test_queries_are_text(template, ovis_folder):
    image = Image.open(ovis_folder / "image1.png")
    query = template.query_text([{"image": image}, {"text": "What?"}])
    assert query.startswith("<img>pil:") and query.endswith("</img>\nWhat?")
    found = template.encode_turn(query, [], None, Settings())
    assert [m.geometry for m in found.media if m.kind == VISUALS.name] == [
        m.geometry
        for m in template.encode_turn([{"image": str(ovis_folder / "image1.png")}], [], None, Settings()).media
        if m.kind == VISUALS.name
    ]
    frames = [str(ovis_folder / frame) for frame in FRAMES]
    assert template.query_text(template.query_text([{"video": frames}])) == template.query_text([{"video": frames}])
    assert template.sources_in(f"a {query} {template.query_text([{'video': frames}])}")[1:] == tuple(frames)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ([{"image": "https://x.org/a.png"}], "is a URL"),
        ([{"audio": "a.wav"}], "query: element 1: expected one of image, video, text"),
        ([{"video": []}], "no frames"),
        ([{"image": 5}], "expected a path or a PIL image, not 5"),
        (5, "a query is text or a list"),
    ],
)
def test_wrong_queries(template, query, said):
    with pytest.raises(InputError, match=said):
        template.encode_turn(query, None, None, Settings())


def test_boxes_are_drawn_on_the_latest_image(template, ovis_folder):
    query = template.query_text([{"image": str(ovis_folder / "image0.png")}, {"text": "Find it."}])
    answer = "<think>\nthere\n</think>\n\n<ref>it</ref>[<box>(0.1,0.1),(0.5,0.5)</box>,<box>(0.6,0.6),(0.9,0.9)</box>]"
    drawn = template.draw_boxes([(query, answer)])
    assert drawn.size == Image.open(ovis_folder / "image0.png").size
    assert len(template.boxes.boxes(answer)) == 2
    assert template.draw_boxes([("hi", answer)]) is None


def test_the_policy_by_the_settings(template):
    sample = template.encode_turn("hi", None, None, Settings(True))
    assert template.policy(sample, Settings(True)).forced([1] * 2048) is None
    budget = template.policy(sample, Settings(True, True, 5, 40))
    assert budget.forced([1] * 5) == template.tokenizer.encode(EARLY_STOP)[0]
    with pytest.raises(InputError, match="thinking_budget 40 leaves nothing of max_new_tokens 40"):
        template.policy(sample, Settings(True, True, 40, 40))


def test_it_is_picklable_and_has_a_fingerprint(template, make_template):
    copy = pickle.loads(pickle.dumps(template))
    assert isinstance(copy, Ovis2_5Template) and copy.fingerprint() == template.fingerprint()
    assert make_template(min_frames=2).fingerprint() != template.fingerprint()


@pytest.mark.parametrize(
    ("turns", "media"),
    [
        ([("human", "<image>\nWhat is <image>it?"), ("gpt", "a cat")],
         {"image": ["image0.png", "image1.png"]}),
        ([("system", "Be brief."), ("human", "<video>\nWhat?"), ("gpt", "a cat")], {"video": list(FRAMES)}),
        ([("human", "What?"), ("gpt", "a cat")], {}),
    ],
)  # fmt: skip
def test_evaluation_asks_what_training_shows(template, turns, media):
    given = record(*turns, **media)
    conversation = parse_record(given, "data.json, record 0")
    dialogue = template.dialogue(conversation)
    *history, (query, answer) = dialogue.turns
    assert answer == turns[-1][1] and list(dialogue.images) == media.get("image", [])
    prompt = template.encode_turn(query, history, dialogue.system, Settings(), template.options.dataset_dir)
    whole = template.sample(conversation)
    assert prompt.input_ids.tolist() == whole.input_ids[: len(prompt)].tolist()
    assert [medium.columns.tolist() for medium in prompt.media] == [m.columns.tolist() for m in whole.media]


def test_a_dialogue_alternates_and_its_boxes_are_filled_in(template):
    objects = {"ref": ["cat"], "bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"}
    given = record(("human", "<image>Where?"), ("gpt", "<ref-object><bbox>"), image="image0.png", objects=objects)
    (turn,) = template.dialogue(parse_record(given, "x")).turns
    assert turn == ("<img>image0.png</img>Where?", "<ref>cat</ref><box>(0.100,0.200),(0.300,0.400)</box>")
    for turns, reason in [
        ([("gpt", "a"), ("human", "b")], "turn 0 is the assistant's"),
        ([("system", "<image>"), ("human", "b")], "the system message shows media"),
        ([("human", "b"), ("gpt", "<image>")], "turn 1 shows media"),
    ]:
        image = "image0.png" if "media" in reason else None
        with pytest.raises(InputError, match=reason):
            template.dialogue(parse_record(record(*turns, image=image), "x"))


def test_options_change_and_files_stay(template):
    changed = template.with_options(num_frames=3)
    assert changed.options.num_frames == 3 and changed.options.dataset_dir == template.options.dataset_dir
    assert changed.tokenizer is template.tokenizer
    with pytest.raises(InputError, match="unknown option"):
        template.with_options(size=3)


@pytest.mark.parametrize("case", ["batch", "collate_equal"])
def test_v18_the_collators_result(template, ovis_folder, case):
    """Rows padded on the right, labels and mask with them; rows of one length get a column of padding."""
    tensors = load_file(ovis_folder / "cases.safetensors")
    ids, mask, labels = (tensors[f"{case}.{name}"] for name in ("input_ids", "attention_mask", "labels"))
    images = (0, 1) if case == "batch" else (0, 0)
    rows = []
    for row, number in enumerate(images):
        grid = tuple(map(int, tensors[f"pre.image{number}.grid_thw"][0]))
        located = [(StillImage(ovis_folder / f"image{number}.png"), grid)]
        sample = template._sample(ids[row][mask[row]].tolist(), located, f"row {row}")
        weights = np.ones(len(sample), np.float32)
        rows.append(replace(sample, labels=labels[row][mask[row]].astype(np.int32), loss_weights=weights))
    found = collate(rows, template, {"tokens": ids.shape[1]})
    text = mask & (ids >= 0)
    np.testing.assert_array_equal(found["segment_ids"] > 0, mask)
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_array_equal(found["input_ids"][text], ids[text])
    assert (found["input_ids"][~text] == template.tokenizer.pad_id).all()
    for row, number in enumerate(images):
        columns = found["patch_columns"][row]
        assert sorted(columns[columns < ids.shape[1]]) == np.flatnonzero(ids[row] == ATOM_ID).tolist()
        patches = found["patches"][row][found["patch_segments"][row, ..., 0] > 0]
        np.testing.assert_array_equal(patches, tensors[f"pre.image{number}.pixel_values"])


def test_limits_that_a_model_was_trained_with_count_before_its_processors(ovis_folder, vocabulary_file, tmp_path):
    """Beside its weights: preprocessor_config.json; the options of its training; what is given goes before both."""
    from ms_impl import families
    from ms_impl.data.trained_options import as_file

    (tmp_path / "qwen.tiktoken").symlink_to(vocabulary_file)
    raw = json.loads((ovis_folder / "config.json").read_text())
    raw["llm_config"]["vocab_size"] = 151936
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 2048, "max_pixels": 8192}')
    make = partial(families.get("ovis2_5").make_template, tmp_path)
    assert make().options.of_images(1) == make().options.of_video(2) == (2048, 8192)
    for name, content in as_file(make(single_image_max_pixels=4096, num_frames=3)).items():
        (tmp_path / name).write_bytes(content)
    options = make().options
    assert (options.of_images(1), options.of_images(2), options.num_frames) == ((2048, 4096), (2048, 8192), 3)
    assert make(max_pixels=1024).options.of_images(1) == (1024, 1024)

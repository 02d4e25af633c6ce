"""The template: labels as ms-swift 3.9, cutting that spares media, arrays that the contract's model takes, chats."""

import base64
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clips import tone
from formulas import check_pixels, image
from omni_arrays import arrays_of, conversation, sizes_of
from PIL import Image

from ms_impl.data import check_report
from ms_impl.data.batch import collate
from ms_impl.data.packing import pack
from ms_impl.data.records import parse_record
from ms_impl.data.sample import Outline
from ms_impl.errors import InputError
from ms_impl.media.mel import log_mel
from ms_impl.qwen2_5_omni import patch_rows
from ms_impl.qwen2_5_omni.encoding import MEL, PATCHES
from ms_impl.qwen2_5_omni.options import OmniOptions, read_options
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "qwen2_5_omni_tiny"
IM_END = 151645


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, and a sound of one second."""
    directory = tmp_path_factory.mktemp("media")
    for name, size in (("wide", (56, 84)), ("tall", (140, 70)), ("odd", (100, 333))):
        Image.fromarray(image(*size)).save(directory / f"{name}.png")
    soundfile.write(directory / "tone.wav", tone(1, 0.5), 16000, subtype="FLOAT")
    return directory


def chat(*turns, **more):
    messages = [{"role": role, "content": text, **rest} for role, text, rest in turns]
    return parse_record({"messages": messages, **more}, "a.jsonl: record 3")


def trained_text(template, sample) -> list[str]:
    """The stretches of trained tokens, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], sample.labels >= 0, [0]))))
    return [template.tokenizer.decode(sample.labels[a:b]) for a, b in zip(edges[::2], edges[1::2])]


# Labels.


def test_o13_answers_and_their_ends_are_trained(make_template):
    template = make_template()
    sample = template.sample(
        chat(("user", "One?", {}), ("assistant", "Two.", {}), ("user", "3?", {}), ("assistant", "4", {}))
    )
    text = template.tokenizer.decode(sample.input_ids)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\n3?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"
    )
    assert trained_text(template, sample) == ["Two.<|im_end|>", "4<|im_end|>"]
    assert sample.loss_scale is None and sample.answer_tokens == 3
    assert (sample.labels[sample.labels >= 0] == sample.input_ids[sample.labels >= 0]).all()


def test_o13_a_masked_answer_keeps_its_end_where_it_is_the_last(make_template):
    template = make_template()
    masked = {"loss": False}
    first = template.sample(
        chat(("user", "a", {}), ("assistant", "B", masked), ("user", "c", {}), ("assistant", "D", {}))
    )
    assert trained_text(template, first) == ["D<|im_end|>"]
    last = template.sample(
        chat(("user", "a", {}), ("assistant", "B", {}), ("user", "c", {}), ("assistant", "D", masked))
    )
    assert trained_text(template, last) == ["B<|im_end|>", "<|im_end|>"]


def test_o13_loss_scale(make_template):
    sample = make_template().sample(chat(("user", "a", {}), ("assistant", "B", {"loss_scale": 0.5}), ("user", "c", {}),
                                         ("assistant", "D", {})))  # fmt: skip
    assert sample.loss_scale[sample.labels >= 0].tolist() == [0.5, 0.5, 1, 1]


def test_an_empty_system_message_is_none(make_template):
    template = make_template()
    sample = template.sample(chat(("system", "", {}), ("user", "a", {}), ("assistant", "B", {})))
    assert template.tokenizer.decode(sample.input_ids).startswith("<|im_start|>user\na")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("user", "a", {})], "record 3: no answer"),
        ([("user", "a", {}), ("assistant", " ", {})], "record 3: an answer is empty"),
        ([("robot", "a", {}), ("assistant", "b", {})], "record 3: unknown role 'robot'; known: user, assistant"),
        ([("user", "a", {"loss": True}), ("assistant", "b", {})], "record 3: turn 0: 'loss' is true"),
    ],
)
def test_bad_conversations_are_named(make_template, turns, message):
    with pytest.raises(InputError, match=message):
        make_template().sample(chat(*turns))


def test_o14_objects_are_written_in_the_style_of_the_model(make_template, files):
    told = {"ref": ["dog"], "bbox": [[0, 0, 166.5, 50]], "bbox_type": "real"}
    record = chat(
        ("user", "<image>Find the <ref-object>.", {}), ("assistant", "<bbox>", {}), images=["odd.png"], objects=told
    )
    legacy = make_template(dataset_dir=str(files))
    text = legacy.tokenizer.decode(legacy.sample(record).input_ids)
    assert "<|object_ref_start|>dog<|object_ref_end|>" in text and "<|box_start|>(0,0),(168,56)<|box_end|>" in text
    new = make_template(dataset_dir=str(files), bbox_format="new", norm_bbox=True)
    assert "[0, 0, 500, 500]<|im_end|>" in new.tokenizer.decode(new.sample(record).input_ids)


# Cutting.


def long_record(files):
    text = "before " * 20 + "<image>" + " between" * 20 + "<audio>" + " after" * 20
    return chat(
        ("user", text, {}),
        ("assistant", "answer", {}),
        images=[str(files / "wide.png")],
        audios=[str(files / "tone.wav")],
    )


@pytest.mark.parametrize("strategy", ["left", "right"])
def test_o15_media_are_never_cut(make_template, files, strategy):
    template = make_template(truncation_strategy=strategy)
    whole = template.sample(long_record(files))
    cut = template.cut(whole, 60)
    assert len(cut) == 60 and template.counts["cut off at 60 tokens"] == 1
    for before, after in zip(whole.media, cut.media, strict=True):
        np.testing.assert_array_equal(cut.input_ids[after.columns], whole.input_ids[before.columns])
        marks = after.columns[0] - 1, after.columns[-1] + 1
        assert cut.input_ids[marks[0]] in (151652, 151647) and cut.input_ids[marks[1]] in (151653, 151648)
    kept = template.tokenizer.decode([i for i in cut.input_ids if i < 151643])
    whole_text = template.tokenizer.decode([i for i in whole.input_ids if i < 151643])
    assert whole_text.endswith(kept) if strategy == "left" else whole_text.startswith(kept)
    assert cut.answer_tokens == (1 if strategy == "left" else 0)
    fresh = replace(cut, labels=None)
    assert (np.diff(fresh.position_ids.max(0)) >= -84).all() and cut.next_position == cut.position_ids.max() + 1
    assert template.cut(cut, 60) is cut


def test_people_are_shown_each_medium_once(make_template, files):
    """As ``--check`` and predictions show a sample."""
    template = make_template()
    sample = template.sample(long_record(files))
    shown = check_report.dialogue(sample, template.tokenizer.decode, coloured=False)
    assert shown.count("<|IMAGE|>") == shown.count("<|AUDIO|>") == 1 and "⟦answer<|im_end|>⟧" in shown
    assert len(sample.told_columns) == len(sample) - sum(medium.columns.size - 1 for medium in sample.media)


def test_o15_delete_names_the_record(make_template, files):
    template = make_template()
    with pytest.raises(
        InputError, match=r"record 3: 1\d\d tokens are more than max_length 60; raise it, leave the record out"
    ):
        template.cut(template.sample(long_record(files)), 60)
    with pytest.raises(InputError, match="record 3: its media alone take 35 tokens, more than max_length 30"):
        make_template(truncation_strategy="left").cut(template.sample(long_record(files)), 30)


# Arrays.


def test_pixels_are_those_of_the_processor(make_template, tmp_path, cases):
    """Of each case with one image, from a file to the batch."""
    template = make_template(dataset_dir=str(tmp_path))
    for case in (case for case in cases["processor"] if len(case["images"]) == 1 and "pixel_values" in case):
        Image.fromarray(image(*case["images"][0])).save(tmp_path / "case.png")
        sample = template.sample(conversation("<image>?", images=["case.png"]))
        arrays = arrays_of(template, sample, sizes_of(template, [sample]))
        patches = case["pixel_values"]["shape"][0]
        check_pixels(arrays["patches"][0, :patches], case["pixel_values"], 2e-6)
        assert not arrays["patches"][0, patches:].any() and not arrays["patch_segments"][0, patches:].any()
        assert (arrays["patch_columns"][0, patches // 4 :] == len(sample)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
@pytest.mark.parametrize("size", [(56, 84), (97, 333), (1000, 40), (20, 31)])
def test_pixels_are_bit_for_bit_hugging_faces(make_template, tmp_path, mode, size):
    """The slow image processor of transformers, which resizes by Pillow."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    still = Image.fromarray(image(*size)).convert(mode)
    still.save(tmp_path / "still.tiff")
    processor = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=50176)
    expected = processor(still.convert("RGB"), return_tensors="np")
    template = make_template(max_pixels=50176)
    sample = template.sample(conversation("<image>?", images=[str(tmp_path / "still.tiff")]))
    arrays = arrays_of(template, sample, sizes_of(template, [sample]))
    assert sample.media[0].geometry[:3] == tuple(expected["image_grid_thw"][0])
    np.testing.assert_array_equal(arrays["patches"][0, : len(expected["pixel_values"])], expected["pixel_values"])


def test_sounds_come_in_chunks(make_template, files, tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(4.51, 1), 16000, subtype="FLOAT")
    template = make_template()
    sample = template.sample(
        conversation("<audio><audio>?", audios=[str(tmp_path / "long.wav"), str(files / "tone.wav")])
    )
    arrays = arrays_of(template, sample, sizes_of(template, [sample]), offset=7)
    assert arrays["mel_frames"].tolist() == [200, 200, 51, 100]
    mel = log_mel(tone(4.51, 1))
    for number, start in enumerate((0, 200, 400)):
        part = mel[:, start : start + 200]
        np.testing.assert_array_equal(arrays["mel"][number, :, : part.shape[1]], part)
    columns = arrays["mel_columns"][arrays["mel_columns"] < len(sample)]
    assert (sample.input_ids[columns - 7] == 151646).all() and len(np.unique(columns)) == 50 + 50 + 13 + 25


def test_a_row_of_several_has_the_arrays_of_each(make_template, files):
    """Packing: the frames of each conversation begin in a row of patches of their own; needs add up."""
    template = make_template(dataset_dir=str(files))
    samples = [
        template.sample(conversation("<image><image>?", images=["wide.png", "odd.png"])),
        template.sample(conversation("no media")),
        template.sample(conversation("<image>and<audio>?", images=["tall.png"], audios=[str(files / "tone.wav")])),
    ]
    sizes = sizes_of(template, samples)
    row = arrays_of(template, pack(samples, position_axes=3), sizes)
    starts = np.cumsum([0, *map(len, samples)])
    at = 0
    for sample, start in zip(samples, starts):
        own = sizes_of(template, [sample], **{name: sizes[name] for name in template.largest_of})
        alone = arrays_of(template, sample, own)
        rows = own["patch_rows"]
        assert ("patches" in alone) == (rows > 0)
        for name in ("patches", "patch_segments", "patch_places") if rows else ():
            np.testing.assert_array_equal(row[name][at : at + rows], alone[name])
        if rows:
            columns = alone["patch_columns"]
            moved = np.where(columns < own["tokens"], columns + start, sizes["tokens"])
            np.testing.assert_array_equal(row["patch_columns"][at : at + rows], moved)
        np.testing.assert_array_equal(row["position_ids"][:, start : start + len(sample)], sample.position_ids)
        at += rows
    assert at == sizes["patch_rows"] and (row["mel_frames"] == [100]).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_every_kind(make_template, files, omni_clip, side):
    """Text alone, a film, an image and a sound: each row has what it has alone."""
    template = make_template(dataset_dir=str(files), use_audio_in_video=True, fps_max_frames=4)
    samples = [
        template.sample(conversation("no media")),
        template.sample(conversation("<video>When?", videos=[str(omni_clip)])),
        template.sample(conversation("<image>and<audio>?", images=["wide.png"], audios=["tone.wav"])),
    ]
    batch = collate(samples, template, padding_side=side)
    length = batch["input_ids"].shape[1]
    assert batch["patches"].shape[0] == 3 and batch["position_ids"].shape == (3, 3, length)
    for number, sample in enumerate(samples):
        start = length - len(sample) if side == "left" else 0
        assert batch["next_positions"][number] == sample.next_position
        for name, token in (("patch_columns", (151655, 151656)), ("mel_columns", (151646,))):
            columns = np.sort(batch[name][number][batch[name][number] < length])
            expected = np.flatnonzero(np.isin(batch["input_ids"][number], token))
            np.testing.assert_array_equal(columns, expected)
        np.testing.assert_array_equal(
            batch["position_ids"][number, :, start : start + len(sample)], sample.position_ids
        )


def test_needs_are_told_by_headers(make_template, files):
    template = make_template(dataset_dir=str(files))
    outline = template.sample(conversation("<image>?", images=["odd.png"])).outline
    assert template.largest(outline) == {"row_patches": 192, "row_units": 48}
    assert template.need(outline, {"row_patches": 256})["patch_rows"] == 1
    assert template.largest(Outline(0)) == {"row_patches": 64, "row_units": 16}
    assert template.need(Outline(5), {"row_patches": 64}) == {"tokens": 5, "patch_rows": 0, "audio_chunks": 0}


@pytest.mark.parametrize("length", [64, 128, 320])
def test_frames_are_packed_first_fit(length):
    sizes = np.random.default_rng(0).integers(1, 17, 200) * 4
    found = patch_rows.places(sizes, length)
    used: dict[int, int] = {}
    for (row, start), size in zip(found, sizes):
        assert start == used.get(row, 0) and start + size <= length
        assert all(used[earlier] + size > length for earlier in range(row))
        used[row] = start + size


# The contract: the arrays are enough.


@pytest.fixture(scope="module")
def contract():
    sys.path.append(str(TESTS / "contract"))
    from omni import Omni

    return Omni(GOLDEN)


@pytest.mark.parametrize("case", ["two_images", "video", "image2", "two_videos"])
def test_rows_of_patches_hold_the_golden_features(contract, case):
    """Golden pixels in our rows, segments and places, through the contract's tower, row by row."""
    told = contract.told["visual"][case]
    grids = [tuple(grid) for grid in told["grid_thw"]]
    length = patch_rows.row_length(grids)
    spots = patch_rows.places([h * w for t, h, w in grids for _ in range(t)], length)
    rows = patch_rows.rows_needed(grids, length)
    out = {name: np.zeros((rows, length, 2), np.int32) for name in ("patch_segments", "patch_places")}
    patches, units = np.zeros((rows, length, 1176)), np.full((rows, length // 4), -1)
    pixels = np.concatenate([contract.cases[f"media.{name}.pixels"] for name in told["media"]]).astype(np.float64)
    start, places = 0, iter(spots)
    for grid in grids:
        for _ in range(grid[0]):
            (row, first), count = next(places), grid[1] * grid[2]
            patches[row, first : first + count] = pixels[start : start + count]
            units[row, first // 4 : (first + count) // 4] = start // 4 + np.arange(count // 4)
            patch_rows.fill_frame(grid, row, first, 8, out)
            start += count
    golden = contract.cases[f"visual.{case}.output"]
    found = np.full(golden.shape, np.nan)
    for row in range(rows):
        segments = out["patch_segments"][row]
        features = contract.vision(patches[row], segments[:, 0], segments[:, 1], out["patch_places"][row])
        found[units[row][units[row] >= 0]] = features[units[row] >= 0]
    assert np.abs(found - golden).max() / max(1, np.abs(golden).max()) < 1e-4


def test_media_inside_a_record_are_those_of_files(make_template, files, omni_clip, tmp_path, monkeypatch):
    """OpenAI's parts with base64: the same row and the same arrays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {"image": files / "wide.png", "audio": files / "tone.wav", "video": omni_clip}
    coded = {kind: base64.b64encode(path.read_bytes()).decode() for kind, path in paths.items()}
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded['image']}"}},
        {"type": "input_audio", "input_audio": {"data": coded["audio"], "format": "wav"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{coded['video']}"}},
        {"type": "text", "text": "What?"},
    ]
    beside = {f"{kind}s": [str(path)] for kind, path in paths.items()}
    template = make_template(dataset_dir=str(files), use_audio_in_video=True, fps=1.0)
    inside, outside = (
        template.sample(chat(("user", text, {}), ("assistant", "That.", {}), **media))
        for text, media in ((parts, {}), ("<image><audio><video>What?", beside))
    )
    np.testing.assert_array_equal(inside.input_ids, outside.input_ids)
    np.testing.assert_array_equal(inside.position_ids, outside.position_ids)
    sizes = sizes_of(template, [inside])
    found, expected = (arrays_of(template, sample, sizes) for sample in (inside, outside))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


# Chats, files, options.


def test_the_next_turn_of_a_chat(make_template, files, cases):
    template = make_template()
    first = [{"image": files / "wide.png"}, {"audio": str(files / "tone.wav")}, {"text": "What?"}]
    history = [(template.query_text(first), "A tone.")]
    assert template.sources_in(history[0][0]) == (str(files / "wide.png"), str(files / "tone.wav"))
    sample = template.encode_turn([{"text": "Sure?"}], history, None)
    text = template.tokenizer.decode([i for i in sample.input_ids if i not in (151655, 151646)])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_bos|><|vision_eos|>"
        "<|audio_bos|><|audio_eos|>What?<|im_end|>\n<|im_start|>assistant\nA tone.<|im_end|>\n<|im_start|>user\nSure?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [each.kind for each in sample.media] == [PATCHES, MEL] and sample.labels is None
    in_memory = template.encode_turn([{"image": Image.open(files / "wide.png")}, {"text": "?"}], None, "")
    assert len(in_memory.media) == 1 and template.tokenizer.decode(in_memory.input_ids[:3]) == "<|im_start|>user\n"
    again = template.encode_turn("no media now", [], None)  # nothing of an earlier turn is left
    assert again.next_position == len(again) and not again.media
    assert template.stop_words("chatml") == [[IM_END], [151643]]


def test_options_of_a_querys_medium(make_template, omni_clip):
    asked = [{"video": str(omni_clip), "fps": 1.0, "video_end": 3.5}, {"text": "When?"}]
    template = make_template()
    sample = template.encode_turn(asked, None, None)
    assert sample.media[0].source.numbers == (0, 12, 23, 35)
    again = template.encode_turn("And?", [(template.query_text(asked), "At second 3.")], None)
    assert again.media[0].source.numbers == (0, 12, 23, 35)


def test_a_mediums_token_in_an_earlier_answer(make_template):
    template = make_template()
    with pytest.raises(InputError, match="write <video> there"):
        template.encode_turn("a", [("b", "see <|VIDEO|>")], None)
    sample = template.encode_turn("a", [("b", "see <|VIDEO|>")], None, lenient=True)
    assert "see <VIDEO|>" in template.tokenizer.decode(sample.input_ids) and not sample.media


def test_boxes_of_an_answer_are_drawn(make_template, files):
    template = make_template()
    query = [{"image": str(files / "odd.png")}, {"text": "Where?"}]
    drawn = template.draw_boxes([(query, "<|box_start|>(0,0),(168,56)<|box_end|>")])
    assert drawn.size == (333, 100)
    assert template.draw_boxes([("no image", "none")]) is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([{"video": 3}], "element 1: video must be the path of a file, not 3"),
        (
            [{"text": "a"}, {"image": "a", "fps": 2}],
            "element 2 must have one of text, image, video, audio, and nothing",
        ),
        (7, "query: expected text, or elements"),
        ([{"image": "no.png"}], "image 'no.png' does not exist"),
        ([{"audio": "http://a/b.wav"}], "audio 'http://a/b.wav' is a URL"),
    ],
)
def test_bad_queries_are_named(make_template, query, message):
    with pytest.raises(InputError, match=message):
        make_template().encode_turn(query, None, None)


def write_directory(path, omni_config, vocabulary, **preprocessor):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(omni_config.to_dict()))
    (path / "qwen.tiktoken").symlink_to(vocabulary / "qwen.tiktoken")
    content = {"min_pixels": 3136, "max_pixels": 50176, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
               "sampling_rate": 16000, "feature_size": 128}  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps({**content, **preprocessor}))
    return path


def test_from_a_directory(tmp_path, omni_config, vocabularies, monkeypatch):
    directory = write_directory(tmp_path / "model", omni_config, vocabularies["ranks"])
    monkeypatch.setenv("FPS_MAX_FRAMES", "12")
    monkeypatch.setenv("USE_AUDIO_IN_VIDEO", "1")
    template = Qwen2_5OmniTemplate.from_pretrained(directory, fps=1.0)
    options = template.options
    assert (options.max_pixels, options.fps_max_frames, options.fps, options.use_audio_in_video) == (
        50176,
        12,
        1.0,
        True,
    )
    assert template.normalisation.mean == (0.5, 0.5, 0.5) and template.max_length == 32768
    assert template.fingerprint() != Qwen2_5OmniTemplate.from_pretrained(directory, fps=2.0).fingerprint()
    again = pickle.loads(pickle.dumps(template))
    assert again.fingerprint() == template.fingerprint() and again.encode_turn("a", None, None).input_ids.tolist()
    with pytest.raises(InputError, match="unknown option fpss; the template has"):
        Qwen2_5OmniTemplate.from_pretrained(directory, fpss=1.0)
    wrong = write_directory(tmp_path / "other", omni_config, vocabularies["ranks"], hop_length=200)
    with pytest.raises(InputError, match="preprocessor_config.json: hop_length is 200; this model needs 160"):
        Qwen2_5OmniTemplate.from_pretrained(wrong)


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"fps": 0}, {}, "fps must be a number from 1e-06 to 1e"),
        ({"chunks": "odd"}, {}, "chunks must be hf_compat or frame_exact, not 'odd'"),
        ({"frames": 7}, {}, "frames must be even"),
        ({"use_audio_in_video": 1}, {}, "use_audio_in_video must be true or false, not 1"),
        ({}, {"MAX_PIXELS": "many"}, "environment variable MAX_PIXELS must be a whole number, not 'many'"),
        ({}, {"use_audio_in_video": "maybe"}, "must be true or false, not 'maybe'"),
    ],
)
def test_bad_options_are_named(given, environment, message):
    with pytest.raises(InputError, match=message):
        read_options(given, environment, {})


def test_what_is_given_counts_before_the_environment():
    read = read_options({"fps": 3.0}, {"FPS": "1", "NFRAMES": "6", "HOME": "x"}, {"max_pixels": 784})
    assert (read.fps, read.nframes, read.max_pixels) == (3.0, 6, 784)
    assert read_options({}, {}, {}) == OmniOptions()


def test_a_frame_of_too_many_patches_is_refused(make_template, files):
    with pytest.raises(InputError, match=r"odd.png' has 192 patches in a frame of 336×112 pixels, .* lower MAX_PIXELS"):
        make_template(dataset_dir=str(files), max_frame_patches=100).sample(
            conversation("<image>?", images=["odd.png"])
        )


def test_transparent_images_stand_on_white(make_template, tmp_path):
    Image.new("RGBA", (56, 56), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    template = make_template()
    (medium,) = template.sample(conversation("<image>?", images=[str(tmp_path / "clear.png")])).media
    assert (next(medium.source.grids()) == 255).all()

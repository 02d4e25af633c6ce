"""Images, videos, sounds and objects of records in every dialect; what is wrong with others is refused by name."""

import base64

import pytest

from ms_impl.data.inline_images import as_media
from ms_impl.data.media_sources import Medium, require_kinds, split_placeholders
from ms_impl.data.objects import Objects, fill_objects
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.ovis2_5.boxes import BOXES as OVIS
from ms_impl.qwen2_5_omni.boxes import box_style
from ms_impl.qwenvl.boxes import BOXES as QWENVL

AUDIO, IMAGE, VIDEO = Medium("audio", "a.wav"), Medium("image", "a.png"), Medium("video", "a.mp4")
FRAMES = Medium("video", ("0.png", "1.JPG"))


def turns(question, answer="red", **changes):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} | changes


def message(content, answer="red", **changes):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]} | changes


def part(kind, value, **options):
    return {"type": kind, kind: value, **options}


def parse(record):
    return parse_record(record, "a.json: record 7")


@pytest.mark.parametrize(
    ("record", "media"),
    [
        (turns("<video>\nWhat?", video="a.mp4"), [VIDEO]),
        (turns("<video>\nWhat?", video=["0.png", "1.JPG"]), [FRAMES]),
        (turns("<video>\nWhat?", video_frames=["0.png", "1.JPG"]), [FRAMES]),
        (turns("<video>\nWhat?", video_frames=["0", "1"]), [Medium("video", ("0", "1"))]),
        (turns("<video><video>", video=["a.mp4", "a.mp4"]), [VIDEO, VIDEO]),
        (turns("<video><video>", videos=["a.mp4", ["0.png", "1.JPG"]]), [VIDEO, FRAMES]),
        (turns("<video><video>", video=[["0.png", "1.JPG"], "a.mp4"]), [FRAMES, VIDEO]),
        (message("<audio><image><video>", audios=["a.wav"], images=["a.png"], videos=["a.mp4"]), [AUDIO, IMAGE, VIDEO]),
        (message("<audio>Hi", "<video>", audios="a.wav", video="a.mp4"), [AUDIO, VIDEO]),
        (message("<image>", system="<audio>", image="a.png", audio="a.wav"), [AUDIO, IMAGE]),
        (message([part("video_url", {"url": "a.mp4"}), part("text", "What?")]), [VIDEO]),
        (message([part("video", "a.mp4"), part("image_url", "a.png"), part("audio", "a.wav")]), [VIDEO, IMAGE, AUDIO]),
        (message([part("video", ["0.png", "1.JPG"])]), [FRAMES]),
        (message([part("input_audio", "a.wav")]), [AUDIO]),
        (message([part("input_audio", {"path": "a.wav", "format": "wav"})]), [AUDIO]),
        (message([part("audio_url", {"url": "file:///a.wav"})]), [Medium("audio", "/a.wav")]),
        (message([{"type": "video"}, part("image", "a.png")], videos=["a.mp4"]), [VIDEO, IMAGE]),
        (message([{"type": "image"}, part("text", "<audio>")], images=["a.png"], audios=["a.wav"]), [IMAGE, AUDIO]),
        ({"query": "<image>What?", "response": "red", "images": ["a.png"]}, [IMAGE]),
        ({"query": "And?", "history": [["<video>What?", "red"]], "videos": ["a.mp4"]}, [VIDEO]),
        (turns("<video> is a tag of HTML, <audio> too"), []),
        (turns("<video> is a tag of HTML <image>", image="a.png"), [IMAGE]),
    ],
)
def test_media_come_in_the_order_of_their_placeholders(record, media):
    assert list(parse(record).media) == media


def test_media_inside_a_part_become_files(tmp_path, monkeypatch):
    """As OpenAI's clients send them. Equal bytes are one file, which is not written again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    coded = base64.b64encode(b"RIFF\x00\xff").decode()
    parts = [
        part("input_audio", {"data": coded, "format": "wav"}),
        part("audio_url", {"url": f"data:audio/wav;base64,{coded}"}, audio_start=1),
        part("video_url", f"DATA:application/octet-stream;charset=x;base64,{base64.b64encode(b'b').decode()}"),
        part("image_url", {"url": "a.png"}),
    ]
    media = parse(message(parts)).media
    files = sorted((tmp_path / "vlm_mindspore/media").iterdir())
    assert sorted(file.read_bytes() for file in files) == [b"RIFF\x00\xff", b"b"]
    assert media[0].source == media[1].source and media[1].options == (("audio_start", 1),) and media[3] == IMAGE
    assert {media[0].source, media[2].source} == set(map(str, files))
    ages = [file.stat().st_mtime_ns for file in files]
    assert parse(message(parts)).media == media and [file.stat().st_mtime_ns for file in files] == ages
    (tmp_path / "vlm_mindspore/media").chmod(0o777)
    with pytest.raises(InputError, match="turn 0: part 0: 'data': cannot be kept as a file .*give its path"):
        parse(message(parts))


def test_options_stand_with_their_medium():
    options = {"video_start": 1.5, "fps": 2, "use_audio_in_video": True, "text": None}
    expected = Medium("video", "a.mp4", (("fps", 2), ("use_audio_in_video", True), ("video_start", 1.5)))
    assert parse(message([part("video", "a.mp4", **options)])).media == (expected,)
    assert parse(message("<video>", videos=[{"path": "a.mp4", **options}])).media == (expected,)
    assert parse(message([part("image_url", {"url": "a.png", "detail": "high"})])).media == (IMAGE,)


def test_query_and_response_are_messages():
    conversation = parse({"query": "c", "response": "d", "history": [["a", "b"]], "system": "Be brief."})
    assert [(turn.role, turn.text) for turn in conversation.turns] == [
        ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"),
    ]  # fmt: skip
    assert conversation.system == "Be brief." and conversation.standard_roles
    assert len(parse({"query": "c"}).turns) == 1


@pytest.mark.parametrize(
    ("given", "trained", "scale"),
    [
        ({}, None, 1),
        ({"loss": False}, False, 1),
        ({"loss_scale": 0.5}, True, 0.5),
        ({"loss_scale": 0}, False, 0),
        ({"loss_scale": 3}, True, 3),
        ({"loss": False, "loss_scale": 2.0}, False, 2),
        ({"loss": True, "loss_scale": 0.0}, False, 0),
        ({"weight": 0.25, "loss_scale": 2}, True, 0.5),
    ],
)
def test_what_a_turn_counts(given, trained, scale):
    turn = parse({"messages": [{"role": "assistant", "content": "a", **given}]}).turns[0]
    assert (turn.trained, turn.loss_scale) == (trained, scale)


def test_objects_fill_their_placeholders():
    objects = {"ref": ["a dog"], "bbox": [[1, 2, 3.5, 4], [5, 6]], "image_id": [1], "width": [640]}
    conversation = parse(message("<image><image>", "<ref-object><bbox><bbox>", images=["a", "b"], objects=objects))
    assert conversation.objects == Objects(("a dog",), ((1, 2, 3.5, 4), (5, 6)), "real", (1, 0))
    norm = {"bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1", "ref": None}
    assert parse(message("<video><bbox>", videos="a.mp4", objects=norm)).objects.unit == "norm1"
    assert parse(turns("What is <bbox>?", objects={})).objects is None


@pytest.mark.parametrize(
    ("unit", "box"),
    [
        ("real", [80, 100, 800, 200]),
        ("norm1000", [100, 250, 1000, 500]),
        ("norm1", [0.1, 0.25, 1, 0.5]),
    ],
)
def test_objects_are_filled_in_the_style_of_the_model(unit, box):
    objects = Objects(("a dog",), (tuple(box),), unit, (1,))
    sizes = [(9, 9), (800, 400)]
    texts = ["<image><image>Where?", "The <ref-object> is at <bbox>."]
    styles = {
        QWENVL: "The <ref>a dog</ref> is at <box>(100,250),(999,500)</box>.",
        OVIS: "The <ref>a dog</ref> is at <box>(0.100,0.250),(0.999,0.500)</box>.",
        box_style("new", lambda width, height: (width // 2, height // 2)): "The a dog is at [40, 50, 400, 100].",
    }
    for style, expected in styles.items():
        assert fill_objects(texts, objects, style, sizes.__getitem__) == [texts[0], expected]


def test_a_box_outside_its_image_is_refused():
    with pytest.raises(InputError, match="lies outside its image of 800×400"):
        fill_objects(["<bbox>"], Objects((), ((1, 2, 900, 4),), "real", (0,)), QWENVL, lambda _: (800, 400))


def grounded(**objects):
    return message("<image>", "<ref-object><bbox>", images="a.png", objects={"ref": ["a"], "bbox": [[1, 2]], **objects})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (message("<video>", videos=["a.mp4", "b.mp4"]), "1 <video> in its turns, but 2 videos are given"),
        (message("<audio><audio>", audios=["a.wav"]), "2 <audio> in its turns, but 1 audio is given"),
        (message("<video>", videos=["0.png", "1.png"]), "1 <video> in its turns, but 2 videos"),
        (turns("<video>", video="a.mp4", video_frames=["0.png"]), "both 'video' and 'video_frames' are given"),
        (turns("<audio>", audio="a.wav", audios=["a.wav"]), "both 'audio' and 'audios'"),
        (turns("<audio>", audio=["https://host/a.wav"]), "'audio' 'https://host/a.wav' is a URL"),
        (turns("<audio>", audio="data:audio/wav;base64,AA"), "'audio' is a data: URL, an audio inside the record"),
        (turns("<video>", video=[["a.png", 3]]), "'video' must be the path of a file or a list of them, not 3"),
        (turns("<video>", video=[[]]), "'video' must be the path of a file"),
        (turns("<image>", image=[["a.png"]]), "'image' must be the path of a file"),
        (message([part("input_audio", {"data": "UklGR", "format": "wav"})]), "part 0: 'data': its base64 is damaged"),
        (message([part("input_audio", {"data": "", "format": "wav"})]), "turn 0: part 0: 'data': is empty"),
        (message([part("image_url", {"url": "data:image/png,AA"})]), "part 0: expected data:image/…;base64,…"),
        (message([part("image_url", "data:video/mp4;base64,AAAA")]), "expected data:image/…, not 'video/mp4'"),
        (turns("<audio>", audio={"data": "AAAA"}), "has an audio inside the record ('data')"),
        (message([part("video_url", {"url": "http://host/a"})]), "turn 0: part 0 'http://host/a' is a URL"),
        (message([{"type": "video_url"}]), "turn 0: part 0 must be the path of a file"),
        (message([part("video", "a.mp4")], videos=["b.mp4"]), "videos are given both in the turns and beside them"),
        (message([part("video", "a.mp4"), part("text", "<video>")]), "2 <video> in its turns, but 1 video"),
        (message([part("video", "a.mp4", clip=[0, 1])]), "part 0: 'clip' must be a number, true, false or a word"),
        ({"query": "a", "history": ["b"]}, "'history' must be a list of [query, response]; item 0 is 'b'"),
        ({"query": 3, "response": "b"}, "turn 0: 'content' must be a str"),
        ({"query": "a", "messages": []}, "the conversation is empty"),
        (message("Hi", messages=[{"role": "assistant", "content": "a", "loss": 0.5}]), "'loss' must be true or false"),
        (message("Hi", messages=[{"role": "assistant", "content": "a", "loss_scale": -1}]), "'loss_scale' must be a"),
        (message("Hi", messages=[{"role": "assistant", "content": "a", "loss_scale": True}]), "at least 0, not True"),
        (message("Hi", messages=[{"role": "assistant", "content": "a", "weight": float("nan")}]), "'weight' must be a"),
        (grounded(ref=[]), "1 <ref-object> in its turns, but 'objects' has 0"),
        (grounded(bbox=[[1, 2], [3, 4]]), "1 <bbox> in its turns, but 'objects' has 2"),
        (grounded(bbox=[[1, 2, 3]]), "'bbox' of 'objects' must be a list of points [x, y] and boxes"),
        (grounded(bbox=[[1, float("nan")]]), "'bbox' of 'objects' must be"),
        (grounded(bbox=[[10**400, 1]]), "'bbox' of 'objects' must be"),
        (grounded(bbox=[["1", 2]]), "'bbox' of 'objects' must be"),
        (grounded(bbox="1, 2"), "'bbox' of 'objects' must be a list, not '1, 2'"),
        (grounded(ref=[3]), "'ref' of 'objects' must be a list of texts; one is 3"),
        (grounded(bbox_type="pixels"), "'bbox_type' must be real, norm1000, norm1, not 'pixels'"),
        (grounded(image_id=[1]), "a box lies in image 1, but the record has 1; images are counted from 0"),
        (grounded(image_id=[0, 0]), "'image_id' of 'objects' must be a list of whole numbers, one a box"),
        (grounded(image_id=["0"]), "'image_id' of 'objects' must be"),
        (grounded(masks=[1]), "'objects' has unknown keys: masks"),
        (message("<bbox>", objects={"bbox": [[1, 2]]}), "a box lies in image 0, but the record has 0"),
        (message("Hi", objects=[1]), "'objects' must be a table with ref and bbox, not [1]"),
    ],
)
def test_what_is_wrong_is_refused_by_name(record, reason):
    with pytest.raises(InputError) as caught:
        parse({**record, "id": "k"})
    text = str(caught.value)
    assert text.startswith("a.json: record 7 (id 'k'): ") and reason in text and len(text) < 400


def test_a_model_says_what_it_takes():
    require_kinds([IMAGE, VIDEO], [], {"image": (), "video": ()})
    timed = Medium("video", "a.mp4", (("fps", 2),))
    require_kinds([timed], [], {"video": ("fps",)})
    require_kinds([IMAGE], ["<video>"], {"image": ()})
    for media, texts, takes, reason in [
        ([VIDEO], [], {"image": (), "audio": ()}, "a video is given, but the model takes images and audios only"),
        ([AUDIO], [], {}, "an audio is given, but the model takes text only"),
        ([IMAGE, timed], [], {"image": (), "video": ("start",)}, "medium 1, 'a.mp4': unknown fps"),
        ([IMAGE], ["<image>", "<video>"], {"image": (), "video": ()}, "1 <video> in its turns, but 0 videos are given"),
    ]:
        with pytest.raises(InputError) as caught:
            require_kinds(media, texts, takes)
        assert reason in str(caught.value)


def test_text_is_cut_at_its_placeholders():
    text = "a<image><video>b<audio>"
    cut = [("text", "a"), ("image", "<image>"), ("text", "<video>b"), ("audio", "<audio>")]
    assert split_placeholders(text, ("image", "audio")) == cut and split_placeholders("", ("image",)) == []


def test_images_inline_become_media():
    text = "Picture 1: <img>a.png</img>\n<audio>Picture 2: <img>b.png</img>\nWhich? <img> is a tag"
    conversation = parse({**turns(text, "The <img>a.png</img>"), "audio": "a.wav"})
    changed = as_media(conversation)
    assert [turn.text for turn in changed.turns] == ["<image>\n<audio><image>\nWhich? <img> is a tag", "The <image>"]
    assert changed.media == (IMAGE, AUDIO, Medium("image", "b.png"), IMAGE)
    plain = parse(turns("<image>", image="a.png"))
    assert as_media(plain) is plain

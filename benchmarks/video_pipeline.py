"""From video files to a batch's arrays: clips a second and core, against a bare PyAV loop.

    python benchmarks/video_pipeline.py [--quick]

Ours is what training does with a record: the file is probed, as many frames are taken as qwen_omni_utils takes, resized
without rounding in between, normalised and cut into patches; with sound, mel features beside them. The bare loop
decodes the file from its beginning, converts the same frames to RGB, resizes them by Pillow, normalises and cuts them
by numpy; with sound it decodes that to 16 kHz by PyAV and stops there. Both decode on one thread; "per core" divides by
the seconds of the processor. "Decoding alone" decodes every frame and does nothing with it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
from harness import Row, arguments, interleaved, report
from PIL import Image

from ms_impl.data.batch import collate
from ms_impl.data.bpe import BytePairs, byte_characters
from ms_impl.data.records import parse_record
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.options import OmniOptions
from ms_impl.qwen2_5_omni.preprocessing import Normalisation
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate
from ms_impl.qwen2_5_omni.tokenizer import CONFIG_TOKENS, SPECIAL_TOKENS, Qwen2_5OmniTokenizer

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "tests/golden/qwen2_5_omni_tiny/config.json"
CASES = (((360, 640), 30, False), ((360, 640), 120, False), ((720, 1280), 30, False), ((360, 640), 30, True))
RATE, GOAL = 25, 1.0


def main() -> None:
    """Make the clips, run both ways, and report."""
    options = arguments("video_pipeline", __doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="video_pipeline_") as folder:
        for size, seconds, sound in CASES[: 2 if options.quick else None]:
            clip = make_clip(Path(folder) / f"{size[0]}_{seconds}_{sound}.mp4", size, seconds, sound)
            rows += case_rows(clip, size, seconds, sound, options.repeats, Path(folder))
    report("video_pipeline", rows, options)


def case_rows(clip: Path, size: tuple[int, int], seconds: int, sound: bool, repeats: int, work: Path) -> list[Row]:
    """Clips a second and core of the pipeline, and of a decoder that does nothing else, against the bare loop."""
    template = make_template(work, sound)
    numbers, shape = chosen(template, clip)
    runs = {"ours": partial(ours, template, clip), "bare": partial(bare_loop, clip, numbers, shape, sound),
            "decoding": partial(decode, clip)}  # fmt: skip
    used: dict[str, list[float]] = {name: [] for name in runs}
    interleaved({name: partial(metered, run, used[name]) for name, run in runs.items()}, repeats)
    rate = {name: 1 / statistics.median(seconds[1:]) for name, seconds in used.items()}
    shown = f"{size[1]}×{size[0]}, {seconds} s{' with sound' if sound else ''}"
    case = f"{shown}, {len(numbers)} frames → {shape[1]}×{shape[0]}"
    ratio, alone = rate["ours"] / rate["bare"], rate["decoding"] / rate["bare"]
    goal = f"≥ {GOAL}"
    return [
        Row("video pipeline", f"{case}, per core", rate["ours"], rate["bare"], "clips/s", ratio, goal, ratio >= GOAL),
        Row("video pipeline", f"{case}, decoding alone", rate["decoding"], rate["bare"], "clips/s", alone),
    ]


def metered(run: Callable[[], None], used: list[float]) -> None:
    before = time.process_time()
    run()
    used.append(time.process_time() - before)


def make_clip(path: Path, size: tuple[int, int], seconds: int, sound: bool) -> Path:
    """Noise that moves over a smooth picture, and a tone."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(size[0]), np.arange(2 * size[1]))[..., None]
    wide = (smooth + rng.integers(0, 30, (*size, 3)).repeat(2, axis=1)) % 256
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "fast"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for number in range(RATE * seconds):
            start = number * 3 % size[1]
            frame = np.ascontiguousarray(wide[:, start : start + size[1]]).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            tone = (0.3 * np.sin(np.arange(48000 * seconds) / 20)).astype(np.float32)
            for start in range(0, len(tone), 1024):
                block = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts = 48000, start
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def make_template(work: Path, sound: bool) -> Qwen2_5OmniTemplate:
    """Of a small model whose vocabulary is the 256 bytes."""
    directory = work / "model"
    directory.mkdir(exist_ok=True)
    vocabulary = {letter: number for number, letter in enumerate(byte_characters())}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("")
    tokenizer = Qwen2_5OmniTokenizer(BytePairs.from_pretrained(directory, SPECIAL_TOKENS))
    raw = json.loads(CONFIG.read_text())
    raw |= {key: tokenizer.special_tokens[token] for key, token in CONFIG_TOKENS.items()}
    raw["audio_config"]["num_mel_bins"] = 128
    config = Qwen2_5OmniConfig.from_dict(raw)
    return Qwen2_5OmniTemplate(tokenizer, config, options=OmniOptions(use_audio_in_video=sound))


def record(clip: Path):
    messages = [{"role": "user", "content": "<video>When?"}, {"role": "assistant", "content": "now"}]
    return parse_record({"messages": messages, "videos": [str(clip)]}, "benchmark")


def chosen(template: Qwen2_5OmniTemplate, clip: Path) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The frames that are taken, and their size."""
    source = template.sample(record(clip)).media[0].source
    return source.numbers, source.size


def ours(template: Qwen2_5OmniTemplate, clip: Path) -> None:
    collate([template.sample(record(clip))], template)


def bare_loop(clip: Path, numbers: tuple[int, ...], size: tuple[int, int], sound: bool) -> None:
    wanted, (height, width) = set(numbers), size
    images = []
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                images.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    rule = Normalisation()
    pixels = (np.stack(images).astype(np.float32) / 255 - np.float32(rule.mean)) / np.float32(rule.std)
    cells = pixels.reshape(len(images) // 2, 2, height // 28, 2, 14, width // 28, 2, 14, 3)
    np.ascontiguousarray(cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)).reshape(-1, 1176)
    if sound:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        with av.open(str(clip)) as container:
            for frame in container.decode(audio=0):
                for part in resampler.resample(frame):
                    part.to_ndarray()


def decode(clip: Path) -> None:
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


if __name__ == "__main__":
    sys.exit(main())

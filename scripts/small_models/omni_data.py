"""Images, spoken words and timed clips to train a small omni model on, as ms-swift's records.

    python scripts/small_models/omni_data.py --output_path data/omni

writes for each of ``questions`` (easy-VQA), ``words`` (which of ten words a voice spoke) and ``clips`` (at which second
a shape changes its colour, or a tone sounds) a ``train_….jsonl`` and a ``test_….jsonl``, beside the files that they
name. Test voices, images and clips are not trained on. Clips last 4 to 60 seconds, however many frames are taken of
them: only true time tells the second. ``test_long_clips.jsonl`` has those of the test's silent clips that last half a
minute or more.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import av
import easy_vqa
import numpy as np
import soundfile
from making import add_counts, maker
from PIL import Image, ImageDraw
from speech import speak
from tqdm import tqdm

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

WORDS = ("zero", "seven", "yellow", "window", "banana", "river", "monkey", "paper", "guitar", "cloud")
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
TEST_VARIANTS = ("f5", "m4", "m8")
WORD_REQUEST = "Which word was spoken?"
COLOUR_REQUEST = "At which second does the shape change its colour?"
TONE_REQUEST = "At which second does a tone sound?"

SIDE = 56  # pixels of a clip's frames: four visual tokens
FRAME_RATE = 4
SHORTEST, LONGEST, LONGEST_SOUND = 4, 60, 20  # seconds
LONG = 30  # seconds of clips that are tested apart, too
MARGIN = 1  # seconds at both ends without an event
SOUND_RATE = 16000
TONE_SECONDS = 0.6
COLOURS = ((220, 40, 40), (40, 160, 60), (50, 80, 220), (230, 200, 40), (150, 60, 190), (240, 240, 240))

Record = dict
Colour = tuple[int, int, int]


def record(identity: str, kind: str, path: str, question: str, answer: str) -> Record:
    """One question about one file, in ms-swift's layout; ``kind`` is image, audio or video."""
    turns = [{"role": "user", "content": f"<{kind}>{question}"}, {"role": "assistant", "content": answer}]
    return {"id": identity, "messages": turns, f"{kind}s": [path]}


def questions(root: Path, split: str, most: int, chance: random.Random) -> list[Record]:
    """Some of easy-VQA's questions of a split, with their images."""
    texts, answers, images = {"train": easy_vqa.get_train_questions, "test": easy_vqa.get_test_questions}[split]()
    paths = {"train": easy_vqa.get_train_image_paths, "test": easy_vqa.get_test_image_paths}[split]()
    records = []
    for number in sorted(chance.sample(range(len(texts)), min(most, len(texts)))):
        path = Path("images") / split / f"{images[number]}.png"
        if not (root / path).exists():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths[images[number]], root / path)
        records.append(record(f"{split}/question/{number}", "image", str(path), texts[number], answers[number]))
    return records


def word(root: Path, split: str, number: int, seed: int) -> Record:
    """A word spoken by a voice of the split, somewhere in a second and a half of faint noise."""
    chance = random.Random(f"{seed}/{split}/word/{number}")
    variant = chance.choice([each for each in VARIANTS if (each in TEST_VARIANTS) == (split == "test")])
    spoken = WORDS[number % len(WORDS)]
    voice = f"{chance.choice(ACCENTS)}+{variant}"
    sound, rate = speak(spoken, voice, chance.randint(130, 200), chance.randint(30, 70))
    length = max(len(sound), int(1.5 * rate))
    whole = np.random.default_rng(chance.getrandbits(32)).normal(0, 0.002, length).astype(np.float32)
    start = chance.randint(0, length - len(sound))
    whole[start : start + len(sound)] += sound * chance.uniform(0.4, 1.2)
    path = Path("words") / split / f"{number}.flac"
    soundfile.write(root / path, np.clip(whole, -1, 1), rate)
    return record(f"{split}/word/{number}", "audio", str(path), WORD_REQUEST, spoken)


def clip(root: Path, split: str, number: int, seed: int) -> Record:
    """A clip with an event at a second: every other one has sound, and a tone in it."""
    chance, has_sound = clip_chance(split, number, seed), number % 2 == 1
    seconds, event = moment(has_sound, chance)
    path = Path("clips") / split / f"{number}.mp4"
    frames = shape_frames(seconds, None if has_sound else event, chance)
    write_clip(root / path, frames, tone(seconds, event, chance) if has_sound else None)
    request = TONE_REQUEST if has_sound else COLOUR_REQUEST
    return record(f"{split}/clip/{number}", "video", str(path), request, f"{round(event):02d}")


def clip_moment(split: str, number: int, seed: int) -> tuple[float, float]:
    """How many seconds the clip of that number lasts, and at which of them something happens."""
    return moment(number % 2 == 1, clip_chance(split, number, seed))


def clip_chance(split: str, number: int, seed: int) -> random.Random:
    """What decides over a clip."""
    return random.Random(f"{seed}/{split}/clip/{number}")


def is_long(split: str, number: int, seed: int) -> bool:
    """Whether the clip of that number is silent and lasts so long that a wrong clock shows."""
    return number % 2 == 0 and clip_moment(split, number, seed)[0] >= LONG


def moment(has_sound: bool, chance: random.Random) -> tuple[float, float]:
    """How many seconds a clip lasts, and at which of them something happens."""
    seconds = chance.uniform(SHORTEST, LONGEST_SOUND if has_sound else LONGEST)
    return seconds, chance.uniform(MARGIN, seconds - MARGIN)


def shape_frames(seconds: float, event: float | None, chance: random.Random) -> Iterator[np.ndarray]:
    """Frames uint8 [SIDE, SIDE, 3] of a shape, FRAME_RATE a second, which changes its colour at ``event``."""
    first, second, background = chance.sample(COLOURS, 3)
    draw = drawn_shape(background, chance)
    for frame in range(round(seconds * FRAME_RATE)):
        yield draw(second if event is not None and frame / FRAME_RATE >= event else first)


def drawn_shape(background: Colour, chance: random.Random) -> Callable[[Colour], np.ndarray]:
    """A shape at some place, to be drawn in any colour: uint8 [SIDE, SIDE, 3]."""
    size = chance.randint(20, 36)
    left, top = chance.randint(0, SIDE - size), chance.randint(0, SIDE - size)
    kind = chance.choice(("ellipse", "rectangle"))

    def draw(colour: Colour) -> np.ndarray:
        image = Image.new("RGB", (SIDE, SIDE), background)
        getattr(ImageDraw.Draw(image), kind)((left, top, left + size, top + size), fill=colour)
        return np.asarray(image)

    return draw


def tone(seconds: float, event: float, chance: random.Random) -> np.ndarray:
    """A sound of faint noise, float32 [samples], with a tone of TONE_SECONDS that begins at ``event``."""
    time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    sound = np.random.default_rng(chance.getrandbits(32)).normal(0, 0.003, len(time))
    heard = (time >= event) & (time < event + TONE_SECONDS)
    return (sound + heard * 0.4 * np.sin(2 * np.pi * chance.uniform(300, 1500) * time)).astype(np.float32)


def write_clip(path: Path, frames: Iterator[np.ndarray], sound: np.ndarray | None) -> None:
    """An MP4 file of H.264 and, where there is sound, AAC."""
    with av.open(str(path), "w") as file:
        images = file.add_stream("libx264", rate=FRAME_RATE, options={"crf": "20"})
        images.width = images.height = SIDE
        images.pix_fmt = "yuv420p"
        sounds = file.add_stream("aac", rate=SOUND_RATE, layout="mono") if sound is not None else None
        for pixels in frames:
            file.mux(images.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(images.encode())
        if sounds is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                piece = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
                file.mux(sounds.encode(piece))
            file.mux(sounds.encode())


def make(output: Path, counts: dict[str, tuple[int, int]], seed: int) -> dict[str, int]:
    """Write the data set; ``counts`` has the records of each kind, to train on and to test. Returns them by file."""
    if output.exists():
        raise InputError(f"{output} already exists; remove it or give another --output_path")
    output.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    with atomic_write(output) as root:
        for split, place in (("train", 0), ("test", 1)):
            for kind in ("words", "clips"):
                (root / kind / split).mkdir(parents=True)
            made = {"questions": questions(root, split, counts["questions"][place], random.Random(f"{seed}/{split}"))}
            with Pool(maxtasksperchild=1) as pool:  # a voice wavers with what its process has spoken
                for kind, one in (("words", word), ("clips", clip)):
                    numbers = range(counts[kind][place])
                    work = pool.imap(partial(_make_one, one, root, split, seed), numbers)
                    made[kind] = list(tqdm(work, f"{split} {kind}", len(numbers), disable=None))
            if split == "test":
                made["long_clips"] = [each for n, each in enumerate(made["clips"]) if is_long(split, n, seed)]
            for kind, records in made.items():
                written[f"{split}_{kind}"] = len(records)
                lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in records]
                (root / f"{split}_{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    return written


def _make_one(one, root: Path, split: str, seed: int, number: int) -> Record:
    return one(root, split, number, seed)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("images, spoken words and timed clips for a small omni model")
    add_counts(parser, questions=(20000, 1000), words=(6000, 300), clips=(3000, 300))
    options = parser.parse_args(arguments)
    counts = {kind: tuple(getattr(options, kind)) for kind in ("questions", "words", "clips")}
    made = make(options.output_path, counts, options.seed)
    print(f"{options.output_path}: " + ", ".join(f"{name} {count:,}" for name, count in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

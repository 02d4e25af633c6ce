"""Mel features and sound lengths equal the original processor's on every case."""

import json

import numpy as np
from formulas import noise, tone

from ms_impl.media.mel import frame_count, log_mel
from ms_impl.qwen2_5_omni.positions import sound_tokens

# The vectors were computed in float32 (torch), whose noise is 2e-5 in bins that are 8 powers of ten under the loudest;
# against the same extractor in float64 see tests/media/test_mel.py.
TOLERANCE = 3e-5
SEEDS = (1, 2)  # of noise alone, in this file and in others of the layout; of noise after a tone 8 more


def sounds(case: dict):
    """The sounds that a case may mean: neither seeds nor the loudness of a tone are told."""
    samples = case["samples"]
    for seed in SEEDS:
        if "noise" not in case["name"]:
            yield (
                loud_as(case, float(case["name"].split("_")[1])) if "tone" in case["name"] else np.zeros(samples, "f4")
            )
        elif "tone" in case["name"]:
            yield np.concatenate((tone(samples // 2, 220, 0.9), noise(samples - samples // 2, seed + 8)))
        else:
            yield noise(samples, seed)


def loud_as(case: dict, frequency: float) -> np.ndarray:
    """A tone whose loudest value is the case's; twice as loud is log10(4) / 4 more."""
    more = case["max"] - float(log_mel(tone(case["samples"], frequency)).max())
    return tone(case["samples"], frequency, round(0.5 * 10 ** (2 * more), 3))


def differences(found: np.ndarray, case: dict) -> float:
    """The largest to any number that a case keeps."""
    values = found.astype(np.float64)
    pairs = [
        (values[:, 0], case["frame0"]),
        (values[:, -1], case["last_frame"]),
        (values[:, case["frames"] // 2], case["middle_frame"]),
        (values.mean(1), case["bin_means"]),
        ([values.mean(), values.min(), values.max()], [case["mean"], case["min"], case["max"]]),
        (values.std(), case["std"]),
    ]
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def test_mel(cases):
    for case in cases["mel"]:
        found = [log_mel(samples) for samples in sounds(case)]
        assert all(each.shape == (128, case["frames"]) for each in found)
        assert min(differences(each, case) for each in found) < TOLERANCE, json.dumps(case["name"])


def test_lengths(cases):
    """Past 300 s the original cuts; here every second counts."""
    for case in cases["audio_lengths"]:
        frames = frame_count(case["samples"])
        assert min(frames, 30_000) == case["mel_frames"]
        assert sound_tokens(min(frames, 30_000)) == case["tokens"]
    assert sound_tokens(frame_count(6_400_000)) == 10_000

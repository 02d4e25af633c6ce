"""Mel features equal Whisper's own extractor, which computes in numpy, or where torch is there in float32 by torch."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import WhisperFeatureExtractor

from ms_impl.media.mel import HOP, frame_count, log_mel
from ms_impl.media.sound import probe_sound, read_sound

SPEECH = Path(__file__).parents[1] / "golden/speech.flac"

TOLERANCE = 5e-7  # of values between −1.5 and 1.6; measured 1.2e-7, the last bit of float32
TORCH_TOLERANCE = 2e-5  # measured 7e-6, and as much between Whisper's two ways


@pytest.fixture(scope="module")
def whisper():
    return WhisperFeatureExtractor(feature_size=128, n_fft=400, hop_length=160, chunk_length=300)


def sound(samples: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    loudness = np.exp(-3 * t) + 0.3 * (np.sin(5 * t) > 0.9)
    values = loudness * (np.sin(2 * np.pi * 440 * t) + 0.2 * generator.standard_normal(samples))
    return (0.2 * values).astype(np.float32)


def original(whisper, samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (0, 4_800_000 - len(samples)))
    return whisper._np_extract_fbank_features(padded[None], "cpu")[0][:, : frame_count(len(samples))]


def by_torch(whisper, samples: np.ndarray, **options) -> np.ndarray:
    found = whisper(samples, sampling_rate=16000, return_attention_mask=True, return_tensors="np", **options)
    return found["input_features"][0][:, : int(found["attention_mask"].sum())]


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 320, 400, 8001, 16000, 48000, 100_003])
def test_whisper(whisper, samples):
    found = log_mel(sound(samples))
    assert found.shape == (128, frame_count(samples)) and found.dtype == np.float32
    assert np.abs(found - original(whisper, sound(samples))).max() < TOLERANCE
    assert np.abs(found - by_torch(whisper, sound(samples), padding="max_length")).max() < TORCH_TOLERANCE


def test_speech(whisper):
    """Recorded, read from its file."""
    info = probe_sound(SPEECH)
    samples = read_sound(info)
    np.testing.assert_array_equal(samples, soundfile.read(SPEECH, dtype="float32")[0])
    found, expected = log_mel(samples), original(whisper, samples)
    assert found.shape == (128, 329)
    assert np.abs(found - expected).max() < TOLERANCE
    torchs = by_torch(whisper, samples, padding="max_length")
    assert np.abs(found - torchs).max() < np.abs(expected - torchs).max() + TOLERANCE  # Whisper's two ways differ so


def test_a_burst_at_the_end_counts_in_the_silence_behind_it(whisper):
    samples = np.zeros(16000, np.float32)
    samples[-40:] = 0.9
    np.testing.assert_allclose(log_mel(samples), original(whisper, samples), rtol=0, atol=TOLERANCE)
    without = log_mel(samples)[:, :-1]
    assert without.max() < original(whisper, samples).max() + TOLERANCE


def test_silence(whisper):
    assert np.abs(log_mel(np.zeros(3200, np.float32)) + 1.5).max() < TOLERANCE


def test_values_do_not_depend_on_blocks(monkeypatch):
    whole = log_mel(sound(48000))
    for block in (1, 7, 299):
        monkeypatch.setattr("ms_impl.media.mel._BLOCK", block)
        np.testing.assert_array_equal(log_mel(sound(48000)), whole)


def test_past_300_s_nothing_is_cut(whisper):
    """Against the extractor with truncation off, which takes one long sound whole; its last frame is reflected."""
    samples = np.tile(sound(301 * 1600, 1), 10)
    found = log_mel(samples)
    assert found.shape == (128, 30_100)
    expected = by_torch(whisper, samples, truncation=False)
    assert np.abs(found[:, :-1] - expected[:, :-1]).max() < TORCH_TOLERANCE


def test_a_sound_alone_is_a_sound_in_company():
    """Nothing of another sound is in its values: the padding is its own."""
    short = sound(4000)
    np.testing.assert_array_equal(log_mel(short), log_mel(np.concatenate((short, np.zeros(0, np.float32)))))
    assert frame_count(4000) == 4000 // HOP


def test_a_wrong_window_is_noticed(whisper, monkeypatch):
    monkeypatch.setattr("ms_impl.media.mel._window", lambda: np.hanning(400))
    assert np.abs(log_mel(sound(16000)) - original(whisper, sound(16000))).max() > 100 * TORCH_TOLERANCE

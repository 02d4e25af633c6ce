"""Log-mel features of sound, as Whisper computes them: 16 kHz, windows of 25 ms every 10 ms. numpy only.

Whisper's extractor pads every sound with silence to 30 s (or 300 s) and cuts what is longer. Here a sound is followed
by as much silence as reaches into its frames, which gives the same values, and nothing is cut.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Array = np.ndarray

RATE = 16_000  # samples a second
HOP = 160  # samples between frames: 10 ms
WINDOW = 400  # samples of a frame: 25 ms
BINS = 128
_FLOOR = 1e-10  # of the power
_RANGE = 8.0  # powers of ten under the loudest that still count
_BLOCK = 3000  # frames computed at once

# Slaney's mel scale: linear below 1 kHz, logarithmic above.
_LINEAR = 200 / 3  # Hz a mel
_BEND, _STEP = 1000.0, np.log(6.4) / 27


def frame_count(samples: int) -> int:
    """Mel frames of a sound."""
    return -(-samples // HOP)


def log_mel(samples: Array, bins: int = BINS) -> Array:
    """float32 [bins, frames] of a sound float32 [samples] at 16 kHz; it has at least one sample.

    What lies more than 8 powers of ten under the loudest place of the whole sound is raised to that.
    """
    frames = frame_count(len(samples))
    counted = frames + 1  # the sound's end reaches into the silence's first frame, which may be the loudest
    padded = np.concatenate((samples, np.zeros(counted * HOP + WINDOW - len(samples), samples.dtype)))
    padded = np.concatenate((padded[WINDOW // 2 : 0 : -1], padded))  # reflected, so that frames are centred
    features = np.empty((bins, counted), np.float32)
    loudest = -np.inf
    for start in range(0, counted, _BLOCK):
        end = min(start + _BLOCK, counted)
        block = _log_power(padded[start * HOP : (end - 1) * HOP + WINDOW], bins)
        features[:, start:end] = block
        loudest = max(loudest, float(block.max()))
    features = features[:, :frames]
    np.maximum(features, np.float32(loudest - _RANGE), out=features)
    features += np.float32(4)
    features /= np.float32(4)
    return features


def _log_power(samples: Array, bins: int) -> Array:
    """log10 of the mel power [bins, frames], in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP].astype(np.float64)
    spectrum = np.fft.rfft(frames * _window())
    power = spectrum.real**2 + spectrum.imag**2
    return np.log10(np.maximum(_FLOOR, _filters(bins) @ power.T))


@lru_cache(maxsize=1)
def _window() -> Array:
    """Hann's, periodic."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@lru_cache(maxsize=4)
def _filters(bins: int) -> Array:
    """float64 [bins, 201]: triangles over frequencies, each of the same area."""
    edges = _hertz(np.linspace(0.0, _mel(RATE / 2), bins + 2))
    slopes = edges[:, None] - np.linspace(0, RATE // 2, WINDOW // 2 + 1)
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    return triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _BEND else _BEND / _LINEAR + float(np.log(hertz / _BEND)) / _STEP


def _hertz(mel: Array) -> Array:
    bend = _BEND / _LINEAR
    return np.where(mel < bend, mel * _LINEAR, _BEND * np.exp(_STEP * (mel - bend)))

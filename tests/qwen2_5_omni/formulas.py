"""The inputs of the processor's cases, and what a case keeps of pixels."""

import numpy as np

RATE = 16000


def image(height: int, width: int, frame: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]"""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((7 * x + 13 * y + 29 * c + (x * y) // 5 + 31 * frame) % 256).astype(np.uint8)


def tone(samples: int, frequency: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)).astype(np.float32)


def noise(samples: int, seed: int) -> np.ndarray:
    values = np.empty(samples)
    for number in range(samples):
        seed = (1103515245 * seed + 12345) % 2**31
        values[number] = (seed / 2**30 - 1) * 0.1
    return values.astype(np.float32)


def check_pixels(pixels: np.ndarray, told: dict, tolerance: float) -> None:
    """Held to every number that a case keeps of pixels [patches, 1176]."""
    values = pixels.astype(np.float64)
    assert list(values.shape) == told["shape"]
    rows, columns = values.shape
    np.testing.assert_allclose(values[0, :12], told["first_row_first12"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(values[-1, -12:], told["last_row_last12"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(values[:8].sum(1), told["row_sums_first8"], rtol=0, atol=tolerance * columns)
    np.testing.assert_allclose([values.mean(), values.std(ddof=1)], [told["mean"], told["std"]], rtol=0, atol=tolerance)
    weighted = (values * (np.arange(columns) + 1)).sum() / columns
    np.testing.assert_allclose(weighted, told["abs_column_weighted_sum"], rtol=1e-5, atol=tolerance * rows)

"""Reading memory as fast as it goes on all threads: what a step that reads every weight once is held against."""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ms_impl.kernels.build import FLAGS, run


def reader() -> Callable[[np.ndarray], float]:
    """A function that reads an array of float32 once, and returns the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read_memory.so"
        run(["c++", *FLAGS, "-ffast-math", str(Path(__file__).with_name("read_memory.cc")), "-o", str(library)])
        read = ctypes.CDLL(str(library)).read_memory
    read.argtypes, read.restype = (ctypes.c_void_p, ctypes.c_int64), ctypes.c_float

    def seconds(array: np.ndarray) -> float:
        start = time.perf_counter()
        read(array.ctypes.data, array.size)
        return time.perf_counter() - start

    return seconds

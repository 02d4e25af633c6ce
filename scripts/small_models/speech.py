"""Speech for test data: words spoken by espeak-ng, through its library as the package espeakng-loader carries it."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from ms_impl.errors import InputError

_RETRIEVAL, _UTF8, _CHARACTERS = 1, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # parameters by their numbers in espeak-ng's speak_lib.h
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """espeak-ng's library, made ready, and its sampling rate."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError("speech is made by espeak-ng: pip install espeakng-loader") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise InputError(f"espeak-ng cannot be started (it returned {rate}); install espeakng-loader again")
    return library, rate


def speak(text: str, voice: str, words_per_minute: int = 160, pitch: int = 50) -> tuple[np.ndarray, int]:
    """A text spoken: float32 [samples] in −1 … 1, and samples a second.

    ``voice`` is a name of espeak-ng, with a variant behind a plus sign: ``en-us+f2``. ``pitch`` is 0 … 100. A voice
    wavers with what was spoken before: only a process's first text is the same each time.
    """
    library, rate = _library()
    pieces: list[np.ndarray] = []

    def take(samples, count, _events):
        if count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _CALLBACK(take)  # kept alive until all is spoken
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise InputError(f"espeak-ng has no voice {voice!r}")
    for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, 50)):
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, len(encoded) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return np.concatenate([*pieces, np.zeros(1, np.int16)]).astype(np.float32) / 32768, rate

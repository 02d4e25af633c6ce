"""What may be said of Qwen2.5-Omni's template: in a YAML, by a caller, or in the environment as ms-swift reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ms_impl.data.conversations import ConversationFormat
from ms_impl.errors import InputError, listed, quote
from ms_impl.media.decoders import TIMEOUT
from ms_impl.qwen2_5_omni.preprocessing import Limits

NOMINAL, TIMESTAMPS, FIXED = "nominal", "timestamps", "fixed"
HF_COMPAT, FRAME_EXACT = "hf_compat", "frame_exact"
DELETE, LEFT, RIGHT = "delete", "left", "right"

# Environment variables that are options, as ms-swift and qwen_omni_utils name them.
ENVIRONMENT = {
    "MIN_PIXELS": "min_pixels", "MAX_PIXELS": "max_pixels", "VIDEO_MIN_PIXELS": "video_min_pixels",
    "VIDEO_MAX_PIXELS": "video_max_pixels", "VIDEO_TOTAL_PIXELS": "video_total_pixels", "FPS": "fps",
    "FPS_MIN_FRAMES": "fps_min_frames", "FPS_MAX_FRAMES": "fps_max_frames", "NFRAMES": "nframes",
    "USE_AUDIO_IN_VIDEO": "use_audio_in_video", "use_audio_in_video": "use_audio_in_video",
    "QWENVL_BBOX_FORMAT": "bbox_format",
}  # fmt: skip
# What decides which pixels, samples and positions the model is given: kept with what is trained.
KEPT = (
    "min_pixels", "max_pixels", "video_min_pixels", "video_max_pixels", "video_total_pixels", "fps", "fps_min_frames",
    "fps_max_frames", "nframes", "frames", "size", "use_audio_in_video", "second_per_grid", "chunks",
    "add_vision_id_and_audio_id", "bbox_format", "norm_bbox",
)  # fmt: skip
FRAME_OPTIONS = frozenset({"fps", "fps_min_frames", "fps_max_frames", "nframes"})  # how many frames to take
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_MOST_PIXELS = 1 << 30
_MOST_FRAMES = 1 << 16


@dataclass(frozen=True)
class OmniOptions(ConversationFormat):
    """What a YAML says of the template.

    Media lie in ``dataset_dir``; a path that leaves it through ``..`` is refused unless ``allow_outside_dataset_dir``.

    Pixels and frames: ``min_pixels`` … ``nframes`` are qwen_omni_utils' limits. ``frames`` above 0 takes exactly that
    many from every video, in equal parts of its time, repeating some of a shorter one; ``size`` above 0 makes every
    video that many pixels high and wide.

    Time: ``second_per_grid`` is ``nominal``, 2 / (frames taken / frames there · rate), as ms-swift has it, or by
    ``timestamps``, the mean distance of the frames taken. With ``frames`` both are the same. ``fixed`` is 2 / ``fps``
    however many frames were taken, as Hugging Face's processor has it: it tells wrong times wherever a limit changed
    the rate, and is there to compare with. ``frames_fps`` is the rate of videos given as lists of frames whose record
    says none; 0: such a record is an error.

    Sound: ``use_audio_in_video`` takes the sound of each video that has one. ``chunks`` says how both are told
    together: ``hf_compat`` or ``frame_exact``. ``max_audio_seconds`` above 0 refuses longer sounds; none is ever cut.

    ``truncation_strategy`` says what becomes of a conversation longer than max_length: ``delete`` is an error that
    names it; ``left`` and ``right`` leave out text there, and never a medium. ``max_frame_patches`` bounds the patches
    that attend to one another. ``media_timeout`` is in seconds, for each time a file is read.
    """

    dataset_dir: str = ""
    allow_outside_dataset_dir: bool = False
    min_pixels: int = Limits.min_pixels
    max_pixels: int = Limits.max_pixels
    video_min_pixels: int = Limits.video_min_pixels
    video_max_pixels: int = Limits.video_max_pixels
    video_total_pixels: int = Limits.video_total_pixels
    fps: float = Limits.fps
    fps_min_frames: int = Limits.fps_min_frames
    fps_max_frames: int = Limits.fps_max_frames
    nframes: int = 0
    frames: int = 0
    size: int = 0
    frames_fps: float = 0.0
    use_audio_in_video: bool = False
    second_per_grid: str = NOMINAL
    chunks: str = HF_COMPAT
    max_audio_seconds: float = 0.0
    truncation_strategy: str = DELETE
    max_frame_patches: int = 16_384
    media_timeout: float = TIMEOUT
    add_vision_id_and_audio_id: bool = False
    bbox_format: str = "legacy"
    norm_bbox: bool = False

    def __post_init__(self) -> None:
        words = {
            "second_per_grid": (NOMINAL, TIMESTAMPS, FIXED), "chunks": (HF_COMPAT, FRAME_EXACT),
            "truncation_strategy": (DELETE, LEFT, RIGHT), "bbox_format": ("legacy", "new"),
        }  # fmt: skip
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be {' or '.join(known)}, not {quote(getattr(self, name))}")
        for name in ("min_pixels", "max_pixels", "video_min_pixels", "video_max_pixels", "max_frame_patches"):
            _require(self, name, int, 1, _MOST_PIXELS)
        for name in ("fps_min_frames", "fps_max_frames"):
            _require(self, name, int, 2, _MOST_FRAMES)
        for name in ("nframes", "frames", "size"):
            _require(self, name, int, 0, _MOST_FRAMES)
        _require(self, "video_total_pixels", int, 1, 1 << 40)
        _require(self, "fps", (int, float), 1e-6, 1e6)
        for name, least in (("frames_fps", 0), ("max_audio_seconds", 0), ("media_timeout", 1e-3)):
            _require(self, name, (int, float), least, 1e9)
        for name in ("use_audio_in_video", "allow_outside_dataset_dir", "add_vision_id_and_audio_id", "norm_bbox"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, not {quote(getattr(self, name))}")
        if self.size % 28 or self.frames % 2:
            raise InputError("size must be a multiple of 28, frames must be even")
        self.roles()

    @property
    def limits(self) -> Limits:
        """The limits of pixels and frames."""
        names = [field.name for field in dataclasses.fields(Limits) if hasattr(self, field.name)]
        return Limits(
            **{name: getattr(self, name) for name in names}, resized_height=self.size, resized_width=self.size
        )


def read_options(given: Mapping[str, Any], environment: Mapping[str, str], released: Mapping[str, Any]) -> OmniOptions:
    """Options as they are ``given``, else as the ``environment`` has them, else as the checkpoint was ``released``.

    Raises InputError for an unknown name or a wrong value.
    """
    known = {field.name: field.type for field in dataclasses.fields(OmniOptions)}
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"unknown option {listed(unknown)}; the template has {', '.join(known)}")
    own = {option: _parsed(name, environment[name], known[option]) for name, option in ENVIRONMENT.items()
           if name in environment}  # fmt: skip
    return OmniOptions(**{**released, **own, **given})


def _parsed(name: str, text: str, kind: Any) -> Any:
    try:
        if kind == "bool":
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.strip().lower()]
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError) as error:
        words = {"bool": "true or false", "int": "a whole number", "float": "a number"}
        raise InputError(f"environment variable {name} must be {words[kind]}, not {quote(text)}") from error


def _require(options: OmniOptions, name: str, kind: Any, least: float, most: float) -> None:
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {what} from {least:g} to {most:g}, not {quote(value)}")

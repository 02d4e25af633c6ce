"""What a request may say. Fields that are not here are errors that name them, never dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ms_impl.errors import quote

Count = Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
Nothing = Literal[None]


class Strict(BaseModel):
    """No unknown fields, no conversions, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Url(Strict):
    url: str


class ImageUrl(Url):
    detail: Literal["auto", "low", "high"] | None = None  # speaks of a service's prices: without effect here


class Sound(Strict):
    data: str
    format: str = Field(max_length=20)  # the file tells it, too


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(Strict):
    type: Literal["video_url"]
    video_url: Url


class AudioUrlPart(Strict):
    type: Literal["audio_url"]
    audio_url: Url


class SoundPart(Strict):
    type: Literal["input_audio"]
    input_audio: Sound


Part = Annotated[TextPart | ImagePart | VideoPart | AudioUrlPart | SoundPart, Field(discriminator="type")]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: Nothing = None


class UserMessage(Strict):
    role: Literal["user"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    name: Nothing = None


class AssistantMessage(Strict):
    """An earlier answer. Its thinking may be given back, and is not shown to the model again."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    reasoning_content: str | None = None
    name: Nothing = None
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Nothing = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    include_usage: bool = False


class ChatTemplateOptions(Strict):
    enable_thinking: bool | None = None
    thinking_budget: Count | None = None


class TextFormat(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    """POST /v1/chat/completions. What is None is as the model's generation settings have it."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=2000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=(1 << 31) - 1)
    repetition_penalty: float | None = Field(None, gt=0, le=1000)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    n: int | None = Field(None, ge=1, le=128)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    chat_template_kwargs: ChatTemplateOptions | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    user: str | None = None  # whom a service would charge
    # Only as they change nothing:
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None


def fault(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What is wrong in a request by pydantic's errors: the field, and a sentence.

    Where a field may be one of several things each has its errors; the deepest is of what was meant.
    """
    error = max(errors, key=lambda error: len(error["loc"]))
    field = ".".join(_steps(error["loc"]))
    if error["type"] == "extra_forbidden":
        return field, f"'{field}' is unknown to this server, which drops nothing in silence; remove it"
    if error["type"] == "missing":
        return field, f"'{field}' is missing"
    said = error["msg"][:1].lower() + error["msg"][1:300]
    return field, f"'{field}': {said}, not {quote(error['input'])}" if field else said


def _steps(place: Sequence[str | int]) -> list[str]:
    """The way to a field, without pydantic's own words for which of several things it took it for."""
    kept: list[str] = []
    for number, step in enumerate(place):
        after_item = number > 0 and isinstance(place[number - 1], int)
        if isinstance(step, int) or not (after_item or "[" in step or step == "str"):
            kept.append(str(step))
    return kept

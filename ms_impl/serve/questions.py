"""From a request's fields to a question: turns and media, generation settings, the template's options."""

from __future__ import annotations

from typing import Any

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.data.template import Template
from ms_impl.errors import InputError, listed
from ms_impl.generate.config import GenerationConfig
from ms_impl.serve.preparation import Question
from ms_impl.serve.request_media import RequestMedia
from ms_impl.serve.schema import (
    AssistantMessage,
    AudioUrlPart,
    ChatRequest,
    ImagePart,
    SoundPart,
    SystemMessage,
    TextPart,
    UserMessage,
    VideoPart,
)

Turns = list[tuple[list[dict[str, str]], str]]


def question_of(request: ChatRequest, template: Template, defaults: GenerationConfig, media: RequestMedia) -> Question:
    """The question of a request; its media are put into the directory of ``media``.

    Raises InputError that names the field.
    """
    system, history, query = conversation(request, media)
    generation = generation_of(request, defaults)
    if generation.enable_thinking and template.think_end is None:
        raise InputError("chat_template_kwargs.enable_thinking: this model does not think; remove it")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise InputError("max_tokens and max_completion_tokens differ; keep one")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if not all(stop):
        raise InputError("stop: an empty text would end every answer; remove it")
    return Question(
        query, history, system, media.directory, media.names, template_options(request, template), generation,
        request.max_completion_tokens or request.max_tokens, request.n or 1,
        None if request.seed is None else request.seed % (1 << 64), stop, top_of(request),
    )  # fmt: skip


def conversation(request: ChatRequest, media: RequestMedia) -> tuple[str | None, Turns, list[dict[str, str]]]:
    """The system message, the earlier turns and the query. Raises InputError unless they take turns."""
    messages = list(enumerate(request.messages))
    system = None
    if isinstance(messages[0][1], SystemMessage):
        system = _text(messages.pop(0)[1].content)
    said: list[Any] = []
    for place, (number, message) in enumerate(messages):
        name = f"messages.{number}"
        if isinstance(message, SystemMessage):
            raise InputError(f"{name}: a system message stands before all others")
        if not isinstance(message, (UserMessage, AssistantMessage)[place % 2]):
            raise InputError(f"{name}: user and assistant must take turns, the user first")
        if isinstance(message, UserMessage):
            said.append(_elements(message, name, media))
        else:
            said.append(_text(message.content))
    if len(said) % 2 == 0:
        raise InputError("messages: the last must be the user's")
    return system, list(zip(said[:-1:2], said[1::2])), said[-1]


def generation_of(request: ChatRequest, defaults: GenerationConfig) -> GenerationConfig:
    """The model's settings with those of a request. Raises InputError for what does not go together."""
    changes: dict[str, Any] = {}
    for name in ("top_p", "repetition_penalty"):
        if (value := getattr(request, name)) is not None:
            changes[name] = value
    if request.top_k is not None:
        changes["top_k"] = max(request.top_k, 0)
    if request.temperature == 0:
        changes["do_sample"] = False
    elif not (request.temperature is request.top_p is request.top_k is None):
        changes["do_sample"] = True
        changes["temperature"] = defaults.temperature if request.temperature is None else request.temperature
    if told := request.chat_template_kwargs:
        if told.enable_thinking is not None:
            changes["enable_thinking"] = told.enable_thinking
        if told.thinking_budget is not None:
            changes |= {"enable_thinking_budget": True, "thinking_budget": told.thinking_budget}
    generation = defaults.changed(**changes)
    if told and told.thinking_budget is not None and not generation.enable_thinking:
        raise InputError("chat_template_kwargs.thinking_budget is of no use without enable_thinking: true")
    return generation


def template_options(request: ChatRequest, template: Template) -> dict[str, Any]:
    """What ``mm_processor_kwargs`` changes. Raises InputError for what a request may not change."""
    told = request.mm_processor_kwargs or {}
    known = template.request_options
    if unknown := [name for name in told if name not in known]:
        has = f"of this model may be: {', '.join(known)}" if known else "this model has none"
        raise InputError(f"mm_processor_kwargs: unknown {listed(unknown)}; {has}")
    return told


def top_of(request: ChatRequest) -> int | None:
    """How many of the likeliest tokens are to be reported; None: no log-probabilities."""
    if not request.logprobs:
        if request.top_logprobs:
            raise InputError("top_logprobs is of no use without logprobs: true")
        return None
    return request.top_logprobs or 0


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _elements(message: UserMessage, name: str, media: RequestMedia) -> list[dict[str, str]]:
    """A message as elements of a query."""
    if isinstance(message.content, str):
        return [{"text": message.content}]
    elements = []
    for number, part in enumerate(message.content):
        place = f"{name}.content.{number}"
        if isinstance(part, TextPart):
            elements.append({"text": part.text})
        elif isinstance(part, ImagePart):
            elements.append({IMAGE: media.add(IMAGE, part.image_url.url, place)})
        elif isinstance(part, VideoPart):
            elements.append({VIDEO: media.add(VIDEO, part.video_url.url, place)})
        elif isinstance(part, AudioUrlPart):
            elements.append({AUDIO: media.add(AUDIO, part.audio_url.url, place)})
        elif isinstance(part, SoundPart):
            elements.append({AUDIO: media.add_base64(AUDIO, part.input_audio.data, place)})
    return elements

"""``Ovis25Inference``: the original's inference class, a thin face on ``ms_impl.load`` and ``model.chat``.

from ms_impl.ovis2_5 import Ovis25Inference

ovis = Ovis25Inference("/path/to/Ovis2.5-9B")
answer = ovis.single_image_inference("a.jpg", "What is this?", enable_thinking=True)
print(answer.thinking, answer.answer)
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from ms_impl.data.boxes import Box
from ms_impl.data.dialogue import Turn
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError, quote

ImageInput = str | os.PathLike | Image.Image
Stream = Generator[str, None, "Answer"]

# What the original's PyTorch code generates with: it never reads generation_config.json.
HF_COMPAT: Mapping[str, Any] = MappingProxyType(
    {"top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "eos_token_id": 151645}
)
REQUESTS = {
    "box": " Please provide the bounding box coordinates.",
    "point": " Please provide the point coordinates.",
}
_ROOM = 1024  # tokens at most for the answer after a budget that max_new_tokens leaves nothing of


class Answer(str):
    """The text of an answer with its thinking, as the original returns it; and its parts.

    Attributes:
        thinking: what was thought, with its tags; empty where nothing was, or it did not end.
        answer: the rest.
        history: the conversation with this turn, for the next call's ``history``.
    """

    thinking: str
    answer: str
    history: list[Turn]
    _template: Any

    def __new__(cls, text: str, history: Sequence[Turn], template: Any) -> Answer:
        made = super().__new__(cls, text)
        made.thinking, made.answer = split_thinking(text, template.think_end)
        made.history = list(history)
        made._template = template
        return made

    @property
    def boxes(self) -> list[Box]:
        """The answer's boxes, corners in parts of the image's sides, [0, 1)."""
        return self._template.boxes.boxes(self.answer)

    @property
    def points(self) -> list[Box]:
        """The answer's points, in the same unit: regions of one corner."""
        return [region for region in self._template.boxes.regions(self.answer) if len(region.corners) == 1]

    def draw(self, font: str | Path | None = None) -> Image.Image | None:
        """The latest image of the conversation with the answer's boxes and points; None if there is no such thing."""
        return self._template.draw_boxes(self.history, font=font)


class Ovis25Inference:
    """Questions to one model. Each method has a streaming twin, which yields pieces of text and returns the ``Answer``.

    Every method takes these settings, too:

    - ``enable_thinking`` (False), ``enable_thinking_budget`` (False), ``thinking_budget`` (2048 tokens),
      ``max_new_tokens`` (1024; of a model with few positions, half of them). Where a budget leaves no token of
      ``max_new_tokens``, this becomes the budget and min(1024, ``max_new_tokens``).
    - ``temperature`` (0.6), ``do_sample`` (True); temperature 0 samples nothing, either. ``seed`` makes sampling
      repeatable.
    - ``history``: earlier turns, of an ``Answer`` or of ``model.chat``; ``system``: the system message.
    - further ones of ``ms_impl.generate.config.GenerationConfig``, such as ``top_p``.

    Images are paths or PIL images; a URL is refused. ``min_pixels`` and ``max_pixels`` limit every image and frame that
    the conversation shows; None: the original's defaults, 448² to 1792² of one image and to 896² of several and of
    frames, or what the checkpoint's preprocessor_config.json says of them.

    Wrong input raises InputError, in streaming before the first piece is asked for.

    Args:
        model_path: a checkpoint directory, Hugging Face's or converted; or one converted file beside its config.json.
        device: ``cpu`` or ``ascend`` (also ``npu``); None: MindSpore's own.
        dtype: of the weights, as of ``ms_impl.load``.
        adapter: directory of a LoRA adapter.
        hf_compat: generate with ``HF_COMPAT``, as the original does; False: as the checkpoint's generation_config.json
            says of these four.
    """

    def __init__(
        self,
        model_path: str | Path,
        device: str | None = None,
        dtype: str | None = None,
        adapter: str | Path | None = None,
        hf_compat: bool = True,
    ):
        from ms_impl.cells.device import choose_device
        from ms_impl.generate.load import load

        if device is not None:
            choose_device(device)
        self.model, self.template = load(model_path, dtype, adapter=adapter, model_type="ovis2_5")
        self.hf_compat = hf_compat

    @classmethod
    def of(cls, model: Any, template: Any, hf_compat: bool = True) -> Ovis25Inference:
        """The same on what ``ms_impl.load`` returned."""
        made = cls.__new__(cls)
        made.model, made.template, made.hf_compat = model, template, hf_compat
        return made

    def single_image_inference(
        self, image_input: ImageInput, text_prompt: str, min_pixels: int | None = None, max_pixels: int | None = None,
        **settings: Any,
    ) -> Answer:  # fmt: skip
        """About one image."""
        return _whole(
            self.single_image_inference_streaming(image_input, text_prompt, min_pixels, max_pixels, **settings)
        )

    def single_image_inference_streaming(
        self, image_input: ImageInput, text_prompt: str, min_pixels: int | None = None, max_pixels: int | None = None,
        **settings: Any,
    ) -> Stream:  # fmt: skip
        """The pieces of ``single_image_inference``."""
        template = self._limited(min_pixels, max_pixels)
        return self._ask(template, [{"image": image_input}, {"text": text_prompt}], **settings)

    def multi_image_inference(
        self, image_paths: Sequence[ImageInput], text_prompt: str, min_pixels: int | None = None,
        max_pixels: int | None = None, **settings: Any,
    ) -> Answer:  # fmt: skip
        """About several images, shown in order before the text."""
        return _whole(
            self.multi_image_inference_streaming(image_paths, text_prompt, min_pixels, max_pixels, **settings)
        )

    def multi_image_inference_streaming(
        self, image_paths: Sequence[ImageInput], text_prompt: str, min_pixels: int | None = None,
        max_pixels: int | None = None, **settings: Any,
    ) -> Stream:  # fmt: skip
        """The pieces of ``multi_image_inference``."""
        if isinstance(image_paths, str | os.PathLike | Image.Image) or not image_paths:
            raise InputError(f"image_paths: expected a list of images, not {quote(image_paths)}")
        template = self._limited(min_pixels, max_pixels)
        return self._ask(template, [*({"image": image} for image in image_paths), {"text": text_prompt}], **settings)

    def video_inference(
        self, video_path: str | os.PathLike | Sequence[ImageInput], text_prompt: str, num_frames: int = 8,
        min_pixels: int | None = None, max_pixels: int | None = None, **settings: Any,
    ) -> Answer:  # fmt: skip
        """About a video, a file or a list of its frames, of which ``num_frames`` are shown: the first of each of so
        many equal spans."""
        shown = num_frames, min_pixels, max_pixels
        return _whole(self.video_inference_streaming(video_path, text_prompt, *shown, **settings))

    def video_inference_streaming(
        self, video_path: str | os.PathLike | Sequence[ImageInput], text_prompt: str, num_frames: int = 8,
        min_pixels: int | None = None, max_pixels: int | None = None, **settings: Any,
    ) -> Stream:  # fmt: skip
        """The pieces of ``video_inference``."""
        template = self._limited(min_pixels, max_pixels, num_frames=num_frames)
        return self._ask(template, [{"video": video_path}, {"text": text_prompt}], **settings)

    def text_only_inference(self, text_prompt: str, **settings: Any) -> Answer:
        """About a text, or about what the history shows."""
        return _whole(self.text_only_inference_streaming(text_prompt, **settings))

    def text_only_inference_streaming(self, text_prompt: str, **settings: Any) -> Stream:
        """The pieces of ``text_only_inference``."""
        return self._ask(self.template, [{"text": text_prompt}], **settings)

    def grounding_inference(
        self, image_input: ImageInput, text_prompt: str, request_type: str = "box", **settings: Any
    ) -> Answer:
        """Boxes or points (``request_type`` ``box`` or ``point``) of what the text says, ``<ref>`` around it.

        Greedy, unless ``do_sample`` says otherwise. Other settings are those of ``single_image_inference``.
        """
        return _whole(self.grounding_inference_streaming(image_input, text_prompt, request_type, **settings))

    def grounding_inference_streaming(
        self, image_input: ImageInput, text_prompt: str, request_type: str = "box", **settings: Any
    ) -> Stream:
        """The pieces of ``grounding_inference``."""
        asked = grounding_query(text_prompt, request_type)
        return self.single_image_inference_streaming(image_input, asked, **{"do_sample": False, **settings})

    def _limited(self, min_pixels: int | None, max_pixels: int | None, **options: Any) -> Any:
        """The template with limits of pixels of whatever is shown."""
        given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        return self.template.with_options(**options, **{name: v for name, v in given.items() if v is not None})

    def _ask(
        self,
        template: Any,
        query: list[dict[str, Any]],
        *,
        enable_thinking: bool = False,
        enable_thinking_budget: bool = False,
        thinking_budget: int = 2048,
        max_new_tokens: int | None = None,
        temperature: float = 0.6,
        do_sample: bool = True,
        history: Sequence[Turn] | None = None,
        system: str | None = None,
        seed: int | None = None,
        **changes: Any,
    ) -> Stream:
        """The pieces of the answer to a query; what is wrong with it is raised now."""
        if max_new_tokens is None:
            max_new_tokens = min(1024, self.model.config.max_position_embeddings // 2)
        if enable_thinking and enable_thinking_budget:
            max_new_tokens = with_room(max_new_tokens, thinking_budget)
        settings: dict[str, Any] = {
            "enable_thinking": enable_thinking, "enable_thinking_budget": enable_thinking_budget,
            "thinking_budget": thinking_budget, "max_new_tokens": max_new_tokens,
            "do_sample": do_sample and temperature != 0,
        }  # fmt: skip
        if settings["do_sample"]:
            settings["temperature"] = temperature
        settings |= {**(HF_COMPAT if self.hf_compat else {}), **changes}
        return _answered(
            template, self.model.chat(template, query, history, system, stream=True, seed=seed, **settings)
        )


def with_room(max_new_tokens: int, budget: int) -> int:
    """``max_new_tokens``, or more where the thinking's budget would leave nothing of it for the answer."""
    numbers = type(max_new_tokens) is int and type(budget) is int  # what is none is told when it is checked
    return budget + min(_ROOM, max_new_tokens) if numbers and 0 < max_new_tokens <= budget else max_new_tokens


def grounding_query(text: str, request_type: str) -> str:
    """What a question for boxes or points ends with. Raises InputError for another type."""
    if request_type not in REQUESTS:
        raise InputError(f"request_type must be 'box' or 'point', not {quote(request_type)}")
    return text + ("" if text.endswith(".") else ".") + REQUESTS[request_type]


def _answered(template: Any, pieces: Generator[str, None, tuple[str, list[Turn]]]) -> Stream:
    text, history = yield from pieces
    return Answer(text, history, template)


def _whole(stream: Stream) -> Answer:
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value

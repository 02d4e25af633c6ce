"""A vision-language model in one file: configuration, tokenizer, template, model, weights, registration.

No file of the project knows it; commands take it with ``--custom_register_path examples/custom_register/my_vlm.py``.

    python examples/custom_register/my_vlm.py DIR        # a tiny random checkpoint, to try the commands on

The model: an image becomes a grid of patches, each patch a token (two matrices, a projector); a decoder with fewer key
heads than query heads reads text and patches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from ms_impl.cells.causal_decoder import CausalDecoder, Media
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.kv_cache import take_column
from ms_impl.cells.linear import Linear
from ms_impl.cells.loss import causal_cross_entropy
from ms_impl.config import ConfigSection, real, whole
from ms_impl.data.bpe import BytePairs, byte_characters
from ms_impl.data.chatml import ASSISTANT, SYSTEM, SYSTEM_MESSAGE, USER
from ms_impl.data.conversations import ConversationFormat
from ms_impl.data.dialogue import Dialogue, paired, require_in_questions
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, require_kinds
from ms_impl.data.memory_images import MemoryImages
from ms_impl.data.records import Conversation
from ms_impl.data.sample import IGNORED, TOKENS, ArraySpec, MediaKind, Outline, Placed, Sample, Sizes
from ms_impl.data.tags import split_marks
from ms_impl.errors import InputError, listed, quote
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.mixin import GenerationMixin
from ms_impl.io.rules import HUGGING_FACE, WeightTable, linear, same
from ms_impl.register import (
    ModelMeta,
    MultiModelKeys,
    TemplateMeta,
    register_model,
    register_model_arch,
    register_template,
)

SPECIAL_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<|patch|>": True}
INLINE = {"img": ("<img>", "</img>")}  # how a query's text mentions the file of an image
IMAGES = MediaKind(
    "images",
    arrays=(ArraySpec("pictures", np.float32, ("pictures", "patches", "pixels")),),
    columns=ArraySpec("picture_columns", np.int32, ("pictures", "patches"), padding=None),
    encode="encode_pictures",
)


@dataclass(frozen=True)
class MyConfig(ConfigSection):
    """config.json."""

    MODEL: ClassVar[str] = "my_vlm"

    vocab_size: int = whole(1, 1 << 20)
    hidden_size: int = whole(1, 1 << 16)
    intermediate_size: int = whole(1, 1 << 18)
    num_hidden_layers: int = whole(1, 512)
    num_attention_heads: int = whole(1, 512)
    num_key_value_heads: int = whole(1, 512)
    head_dim: int = whole(2, 1024)
    vision_size: int = whole(1, 1 << 16)
    side: int = whole(1, 4096)  # of the square that an image is resized to, in pixels
    patch: int = whole(1, 256)
    max_position_embeddings: int = whole(1, 1 << 20)
    rope_theta: float = real(1, 1e9, 10_000.0)
    rms_norm_eps: float = real(0, 1, 1e-6)

    def rules(self) -> Mapping[str, bool]:
        return {
            "side must be a multiple of patch": self.side % self.patch == 0,
            "num_attention_heads must be a multiple of num_key_value_heads":
                self.num_attention_heads % self.num_key_value_heads == 0,
        }  # fmt: skip

    @property
    def patches(self) -> int:
        """Tokens of an image."""
        return (self.side // self.patch) ** 2

    @property
    def pixels(self) -> int:
        """Numbers of a patch."""
        return 3 * self.patch**2

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": "my_vlm", "architectures": ["MyVLMForConditionalGeneration"], **super().to_dict()}


class MyTokenizer:
    """Byte pairs of vocab.json and merges.txt, and four special tokens. In text, special tokens are letters."""

    def __init__(self, directory: Path):
        self._pairs = BytePairs.from_pretrained(directory, SPECIAL_TOKENS)
        self.ids = self._pairs.special_tokens
        if missing := sorted(SPECIAL_TOKENS.keys() - self.ids.keys()):
            raise InputError(f"{directory}: its vocabulary has no token {listed(missing)}")
        self.pad_id, self.start_id, self.end_id, self.patch_id = (self.ids[token] for token in SPECIAL_TOKENS)

    def encode(self, text: str) -> list[int]:
        return self._pairs.encode(text, special=())

    def decode(self, ids: Iterable[int]) -> str:
        return self._pairs.decode(ids)

    def detokenizer(self) -> Any:
        return self._pairs.detokenizer()


@dataclass(frozen=True)
class MyOptions(ConversationFormat):
    """What a YAML's ``model_transform_template`` may say."""

    dataset_dir: str = ""
    allow_outside_dataset_dir: bool = False


@dataclass
class _Written:
    """Ids and labels as they grow, and the images among them."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    media: list[Placed] = field(default_factory=list)

    def add(self, ids: Sequence[int], trained: bool = False) -> None:
        self.ids += ids
        self.labels += ids if trained else [IGNORED] * len(ids)


class MyTemplate:
    """A ``ms_impl.data.template.Template``: ChatML, an image as its patches, answers trained."""

    kinds: ClassVar[tuple[MediaKind, ...]] = (IMAGES,)
    takes: ClassVar[tuple[str, ...]] = (IMAGE,)
    kept_options: ClassVar[tuple[str, ...]] = ()
    position_axes: ClassVar[int] = 1
    padding_shifts_positions: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = (TOKENS, "pictures")
    largest_of: ClassVar[tuple[str, ...]] = ()
    request_options: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = MyOptions
    boxes = None
    think_end: ClassVar[str | None] = None
    capacities: Sizes = {}

    def __init__(self, tokenizer: MyTokenizer, config: MyConfig, max_length: int | None, options: MyOptions):
        self.tokenizer, self.config, self.options = tokenizer, config, options
        self.max_length = config.max_position_embeddings if max_length is None else max_length
        self.fixed_sizes = {"patches": config.patches, "pixels": config.pixels}
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.memory = MemoryImages()

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, config: MyConfig | None = None, max_length: int | None = None, **options: Any
    ) -> MyTemplate:
        path = Path(directory)
        return cls(MyTokenizer(path), config or MyConfig.from_file(path), max_length, _options(options))

    def with_options(self, **options: Any) -> MyTemplate:
        changed = _options(dataclasses.asdict(self.options) | options)
        template = MyTemplate(self.tokenizer, self.config, self.max_length, changed)
        template.memory = self.memory
        return template

    def fingerprint(self) -> str:
        known = [self.config.to_dict(), dataclasses.asdict(self.options), self.max_length, sorted(self.tokenizer.ids)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    # From a record to arrays.

    def dialogue(self, conversation: Conversation) -> Dialogue:
        require_kinds(conversation.media, [turn.text for turn in conversation.turns], {IMAGE: ()})
        known = self.options.roles(conversation.standard_roles)
        roles = [known.get(turn.role, turn.role) for turn in conversation.turns]
        texts, paths = [turn.text for turn in conversation.turns], [image.source for image in conversation.media]
        if paths:
            require_in_questions(conversation.system, roles, texts, {IMAGE})
            images = iter(paths)
            pieces = [text.split(PLACEHOLDERS[IMAGE]) for text in texts]
            texts = [first + "".join(f"<img>{next(images)}</img>{text}" for text in rest) for first, *rest in pieces]
        system = self.options.system_message if conversation.system is None else conversation.system
        return Dialogue(system, paired(roles, texts), tuple(paths))

    def sample(self, conversation: Conversation) -> Sample:
        try:
            return self._sample(conversation)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error

    def _sample(self, conversation: Conversation) -> Sample:
        roles = self.options.roles(conversation.standard_roles)
        require_kinds(conversation.media, [turn.text for turn in conversation.turns], {IMAGE: ()})
        system = self.options.system_message if conversation.system is None else conversation.system
        images, written, answers = iter(conversation.media), _Written(), 0
        self._message(written, SYSTEM, [system])
        for turn in conversation.turns:
            if turn.role not in roles:
                raise InputError(f"unknown role {quote(turn.role)}; known: {listed(roles)}")
            role = roles[turn.role]
            texts = turn.text.split(PLACEHOLDERS[IMAGE]) if conversation.media else [turn.text]
            parts: list[Any] = [texts[0]]
            for text in texts[1:]:
                parts += [Placed(IMAGES.name, next(images).source, np.empty(0)), text]
            trained = role == ASSISTANT and turn.trained is not False
            answers += self._message(written, role, parts, trained)
        if not answers:
            raise InputError("no answer: it has no assistant turn to train on")
        return self._finished(written, conversation.record, answers)

    def _message(self, written: _Written, role: str, parts: Iterable[Any], trained: bool = False) -> int:
        """Write a message of texts and images; returns how many tokens of it are trained."""
        tokenizer = self.tokenizer
        written.add([tokenizer.start_id, *tokenizer.encode(f"{role}\n")])
        before = len(written.ids)
        for part in parts:
            if isinstance(part, Placed):
                columns = np.arange(self.config.patches, dtype=np.int32) + len(written.ids)
                written.media.append(replace(part, columns=columns))
                written.add([tokenizer.patch_id] * self.config.patches)
            else:
                written.add(tokenizer.encode(part), trained)
        written.add([tokenizer.end_id], trained)
        written.add(tokenizer.encode("\n"))
        return len(written.ids) - before if trained else 0

    def _finished(self, written: _Written, record: str, answers: int = 0, trains: bool = True) -> Sample:
        media = tuple(replace(image, record=record) for image in written.media)
        return Sample(
            input_ids=np.array(written.ids, np.int32), position_ids=np.arange(len(written.ids), dtype=np.int32),
            labels=np.array(written.labels, np.int32) if trains else None, next_position=len(written.ids), media=media,
            record=record, answer_tokens=answers,
        )  # fmt: skip

    def cut(self, sample: Sample, max_length: int) -> Sample:
        if len(sample) <= max_length:
            return sample
        if any(image.columns[0] < max_length <= image.columns[-1] for image in sample.media):
            raise InputError(f"{sample.record}: max_length {max_length} cuts an image in two; raise it")
        self.counts["cut off"] += 1
        self.examples.setdefault("cut off", sample.record)
        labels = None if sample.labels is None else sample.labels[:max_length]
        kept = tuple(image for image in sample.media if image.columns[-1] < max_length)
        return replace(
            sample, input_ids=sample.input_ids[:max_length], position_ids=sample.position_ids[:max_length],
            labels=labels, media=kept, next_position=max_length,
            answer_tokens=0 if labels is None else int((labels != IGNORED).sum()),
        )  # fmt: skip

    def find_media(self, sample: Sample) -> Sample:
        options, found = self.options, []
        for image in sample.media:
            try:
                file = resolve_path(image.source, options.dataset_dir, options.allow_outside_dataset_dir)
            except InputError as error:
                raise InputError(f"{sample.record}: {error}") from error
            if not os.path.isfile(file):
                raise InputError(f"{sample.record}: image {quote(str(file))} does not exist")
            found.append(replace(image, source=str(file)))
        return replace(sample, media=tuple(found))

    def check_medium(self, medium: Placed) -> None:
        self._patches(medium.source)

    def files(self, medium: Placed) -> tuple[str, ...]:
        return (medium.source,) if isinstance(medium.source, str) else ()

    def largest(self, outline: Outline) -> Mapping[str, int]:
        return {}

    def need(self, outline: Outline, sizes: Sizes) -> Mapping[str, int]:
        return {TOKENS: outline.tokens, "pictures": len(outline.media)}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        for number, image in enumerate(media):
            try:
                out["pictures"][number] = self._patches(image.source)
            except InputError as error:
                raise InputError(f"{image.record}: {error}") from error
            out["picture_columns"][number] = image.columns + offset

    def _patches(self, source: str | Image.Image) -> np.ndarray:
        """float32 [patches, pixels] between −1 and 1."""
        side, patch = self.config.side, self.config.patch
        image = source if isinstance(source, Image.Image) else read_image(source)
        values = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
        grid = values.reshape(side // patch, patch, side // patch, patch, 3).transpose(0, 2, 1, 3, 4)
        return grid.reshape(self.config.patches, self.config.pixels)

    # A conversation with a model.

    def encode_turn(
        self, query: Any, history: Sequence[tuple[str, str | None]] | None, system: str | None, generation: Any,
        dataset_dir: str | os.PathLike | None = None, lenient: bool = False,
    ) -> Sample:  # fmt: skip
        written = _Written()
        self._message(written, SYSTEM, [SYSTEM_MESSAGE if system is None else system])
        for question, answer in history or ():
            self._message(written, USER, self._parts(question))
            self._message(written, ASSISTANT, [answer or ""])
        self._message(written, USER, self._parts(self.query_text(query)))
        written.add([self.tokenizer.start_id, *self.tokenizer.encode(f"{ASSISTANT}\n")])
        if len(written.ids) > self.config.max_position_embeddings:
            raise InputError(
                f"{len(written.ids)} tokens are more than the model's {self.config.max_position_embeddings}"
            )
        return self._finished(written, "", trains=False)

    def _parts(self, text: str) -> list[Any]:
        """Texts, and images by ``<img>path</img>``."""
        parts: list[Any] = []
        for tag, content in split_marks(text, INLINE):
            kept = self.memory.get(content) if tag == "img" else None
            source = content if kept is None else kept
            parts.append(Placed(IMAGES.name, source, np.empty(0)) if tag == "img" else content)
        return parts

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        return self.tokenizer.encode(text)

    def stop_words(self, chat_format: str) -> list[list[int]]:
        return [[self.tokenizer.end_id], [self.tokenizer.pad_id]]

    def policy(self, sample: Sample, generation: Any) -> None:
        return None

    def query_text(self, query: Any) -> str:
        if isinstance(query, str):
            return query
        texts = []
        for element in query:
            if isinstance(element, Mapping) and set(element) == {"text"}:
                texts.append(element["text"])
            elif isinstance(element, Mapping) and set(element) == {"image"}:
                image = element["image"]
                texts.append(f"<img>{self.memory.keep(image) if isinstance(image, Image.Image) else image}</img>")
            else:
                raise InputError(f"query: expected elements with 'text' or 'image', not {quote(element)}")
        return "".join(texts)

    def sources_in(self, text: str) -> tuple[str, ...]:
        return tuple(path for tag, path in split_marks(text, INLINE) if tag == "img")

    def draw_boxes(self, history: Any, dataset_dir: Any = None, font: Any = None) -> None:
        return None  # its answers have no boxes


def _options(given: Mapping[str, Any]) -> MyOptions:
    known = {each.name for each in dataclasses.fields(MyOptions)}
    if unknown := sorted(given.keys() - known):
        raise InputError(f"unknown option {listed(unknown)}; the template has {listed(sorted(known))}")
    return MyOptions(**given)


class Vision(nn.Cell):
    """Each patch by itself: [N, patches, pixels] → [N, patches, vision_size]."""

    def __init__(self, config: MyConfig, dtype: ms.Type):
        super().__init__()
        self.patch_embed = Linear(config.pixels, config.vision_size, dtype=dtype)
        self.mix = Linear(config.vision_size, config.vision_size, dtype=dtype)
        self.relu = ops.ReLU()

    def construct(self, patches: Tensor) -> Tensor:
        return self.mix(self.relu(self.patch_embed(patches)))


class MyVLM(GenerationMixin, nn.Cell):
    """Text and images in, text out. A ``ms_impl.generate.decoder_model.DecoderModel``."""

    def __init__(self, config: MyConfig, compute_dtype: ms.Type = ms.float32, param_dtype: ms.Type | None = None):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        dtype = param_dtype or compute_dtype
        shape = DecoderShape(
            config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
            config.head_dim, config.rms_norm_eps,
        )  # fmt: skip
        self.visual = Vision(config, dtype)
        self.projector = Linear(config.vision_size, config.hidden_size, dtype=dtype)
        layers, vocabulary = config.num_hidden_layers, config.vocab_size
        self.model = CausalDecoder(shape, layers, vocabulary, config.rope_theta, None, compute_dtype, dtype)
        self.lm_head = Linear(config.hidden_size, vocabulary, bias=False, dtype=dtype)

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Patches [N, patches, pixels] → features [N, patches, D]."""
        return self.projector(self.visual(pictures.astype(self.compute_dtype)))

    def embed(self, input_ids: Tensor, media: Media = ()) -> Tensor:
        return self.model.embed(input_ids, media)

    def construct(
        self, input_ids, pictures=None, picture_columns=None, labels=None, segment_ids=None, position_ids=None,
        loss_weights=None,
    ) -> Tensor:  # fmt: skip
        """The loss where ``labels`` are given, else logits [B, T, vocab]; arguments are a step's columns, in order."""
        media = ()
        if pictures is not None:
            media = ((self.encode_pictures(pictures.reshape(-1, *pictures.shape[2:])), picture_columns),)
        hidden = self.model(self.model.embed(input_ids, media), segment_ids, position_ids)
        logits = self.lm_head(hidden)
        return logits if labels is None else causal_cross_entropy(logits, labels, loss_weights)

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        return (*self.model.rotary(position_ids), None)

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        return self.model.new_cache(batch, length)

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        cache: nn.CellList, last: Tensor,
    ) -> Tensor:  # fmt: skip
        return self.lm_head(take_column(self.model.step(hidden, segment_ids, columns, cos, sin, cache), last))

    def decoder_parts(self) -> DecoderParts | None:
        return self.model.parts(self.lm_head)


def sizes(config: MyConfig) -> dict[str, int]:
    """The words of the shapes below in numbers."""
    return {
        "vocabulary": config.vocab_size, "width": config.hidden_size, "ffn": config.intermediate_size,
        "heads": config.num_attention_heads * config.head_dim, "layers": config.num_hidden_layers,
        "kv_heads": config.num_key_value_heads * config.head_dim, "pixels": config.pixels,
        "vision": config.vision_size,
    }  # fmt: skip


WEIGHTS = WeightTable(
    [
        *same("model", {"embed_tokens.weight": "vocabulary width"}),
        *same("model.layers.*", {
            "self_attn.q_proj.weight": "heads width",
            "self_attn.k_proj.weight": "kv_heads width",
            "self_attn.v_proj.weight": "kv_heads width",
            "self_attn.o_proj.weight": "width heads",
            "mlp.gate_proj.weight": "ffn width",
            "mlp.up_proj.weight": "ffn width",
            "mlp.down_proj.weight": "width ffn",
            "input_layernorm.weight": "width",
            "post_attention_layernorm.weight": "width",
        }),
        *same("model", {"norm.weight": "width"}),
        *same("lm_head", {"weight": "vocabulary width"}),
        *same("visual", {**linear("patch_embed", "vision", "pixels"), **linear("mix", "vision", "vision")}),
        *same("", linear("projector", "width", "vision")),
    ],
    sizes=sizes,
    layers={"model.layers": "layers"},
)  # fmt: skip

register_model_arch(MultiModelKeys("my_vlm", language_model="model", vision_tower="visual", aligner="projector"))
register_template(TemplateMeta("my_vlm", template_cls=MyTemplate, default_system=SYSTEM_MESSAGE))
register_model(
    ModelMeta(
        "my_vlm", template="my_vlm", model_arch="my_vlm", architectures=["MyVLMForConditionalGeneration"],
        arch="MyVLM", config=MyConfig, model=MyVLM, weights=WEIGHTS, config_keys=[["vision_size", "patch"]],
        embeddings=["model.embed_tokens"], vocabulary=["vocab.json"], generation={"max_new_tokens": 16},
    )
)  # fmt: skip


def make_checkpoint(directory: Path, seed: int = 0) -> None:
    """Write a tiny random checkpoint in Hugging Face's layout: config.json, weights, vocab.json and merges.txt."""
    from safetensors.numpy import save_file

    vocabulary = {token: number for number, token in enumerate(byte_characters())}  # special tokens follow
    config = MyConfig(
        vocab_size=len(vocabulary) + len(SPECIAL_TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, vision_size=24, side=28, patch=14,
        max_position_embeddings=256,
    )  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    random = np.random.default_rng(seed)
    shapes = WEIGHTS.shapes(config, HUGGING_FACE)
    weights = {name: random.normal("norm" in name, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    make_checkpoint(Path(sys.argv[1]))

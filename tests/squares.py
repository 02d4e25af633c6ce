"""A template of square images whose source says what they look like: arrays like Qwen-VL's, of any size."""

from dataclasses import dataclass, field

import numpy as np

from ms_impl.data.sample import ArraySpec, MediaKind, Placed, Sample
from ms_impl.errors import InputError

PAD, QUERIES, SIZE = 99, 4, 2


@dataclass
class Tokenizer:
    pad_id: int = PAD


@dataclass
class Squares:
    """``images`` float32 [B, M, 3, S, S], each full of the number that is its source."""

    refused: str = ""  # the source that cannot be read
    queries: int = QUERIES
    side: int = SIZE
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    kinds = (
        MediaKind(
            "images",
            (ArraySpec("images", np.float32, ("images", 3, "side", "side")),),
            ArraySpec("image_context_pos", np.int32, ("images", "queries"), padding=None),
            "encode_images",
        ),
    )
    takes = ()
    kept_options = ()
    position_axes = 1
    padding_shifts_positions = True
    needs = ("tokens", "images")

    @property
    def fixed_sizes(self):
        return {"side": self.side, "queries": self.queries}

    def largest(self, outline):
        return {}

    def need(self, outline, sizes):
        return {"tokens": outline.tokens, "images": len(outline.media)}

    def load(self, media, out, offset=0):
        for number, image in enumerate(media):
            if image.source == self.refused:
                raise InputError(f"{image.record}: image '{image.source}' does not exist")
            self.draw(image.source, out["images"][number])
            out["image_context_pos"][number] = image.columns + offset

    def draw(self, source, out):
        out[:] = float(source)

    def placed(self, columns, sources, record=""):
        """Images whose first columns are these."""
        slots = np.arange(self.queries, dtype=np.int32)
        return tuple(Placed("images", s, slots + c, record=record) for c, s in zip(columns, sources, strict=True))

    def sample(self, ids, labels=None, columns=(), sources=(), record="") -> Sample:
        positions = np.arange(len(ids), dtype=np.int32)
        media = self.placed(columns, sources, record)
        return Sample(ids, positions, labels, next_position=len(ids), media=media, record=record)

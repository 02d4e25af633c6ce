"""Qwen-VL's tokenizer: byte-pair encoding from a ``qwen.tiktoken`` file, special tokens, and image paths as bytes.

The vocabulary may be the released one or its first ranks only: the special tokens follow whatever ranks there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import tiktoken

from ms_impl.data.bpe import WORDS, read_ranks
from ms_impl.data.tags import IMAGE_END, IMAGE_START, shorten, split_images
from ms_impl.errors import InputError
from ms_impl.qwenvl.detokenizer import BYTES, Detokenizer, pieces

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_PAD = "<imgpad>"
# The tags that stay special inside a message, in the order of their ids.
GROUNDING_TAGS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
IMAGE_TAGS = (*GROUNDING_TAGS, IMAGE_START, IMAGE_END, IMAGE_PAD)
SPECIAL_TOKENS = (
    END_OF_TEXT,
    MESSAGE_START,
    MESSAGE_END,
    *(f"<|extra_{number}|>" for number in range(205)),
    *IMAGE_TAGS,
)

_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()


class ImageSlots(NamedTuple):
    """One image in a token sequence: the column of its first slot (the one after ``<img>``), and its path."""

    column: int
    path: str


class QwenVLTokenizer:
    """Text to token ids and back, as ``tokenization_qwen.py`` of the original does it.

    Args:
        vocab_file: lines of base64 token, space, rank; the ranks count up from 0 (``qwen.tiktoken``).
        num_queries: slots of one image in the token stream.

    Raises InputError naming file and line when the vocabulary cannot be used.
    """

    def __init__(self, vocab_file: str | Path, num_queries: int):
        self.vocab_file = str(vocab_file)
        self.num_queries = num_queries
        ranks = read_ranks(Path(vocab_file))
        self.special_tokens = {token: len(ranks) + number for number, token in enumerate(SPECIAL_TOKENS)}
        self._bpe = tiktoken.Encoding("qwen", pat_str=WORDS, mergeable_ranks=ranks, special_tokens=self.special_tokens)
        self._grounding_ids = frozenset(self.special_tokens[tag] for tag in GROUNDING_TAGS)
        self.eod_id = self.special_tokens[END_OF_TEXT]
        self.pad_id = self.eod_id
        self.im_start_id = self.special_tokens[MESSAGE_START]
        self.im_end_id = self.special_tokens[MESSAGE_END]
        self.image_start_id = self.special_tokens[IMAGE_START]
        self.image_end_id = self.special_tokens[IMAGE_END]
        self.image_pad_id = self.special_tokens[IMAGE_PAD]

    @property
    def vocab_size(self) -> int:
        """Number of token ids; a model may have more embedding rows."""
        return self._bpe.n_vocab

    def encode(self, text: str) -> list[int]:
        """Token ids of NFC-normalised text in which every special token counts: for raw prompts.

        Raises InputError for an image tag that is unclosed or nested, or a path longer than the slots.
        """
        return self._encode(text, SPECIAL_TOKENS)

    def encode_message(self, text: str) -> list[int]:
        """The same for the content of one message: only the image, ref, box and quad tags count.

        A literal ``<|im_end|>`` stays plain text, so that no content can end its own message.
        """
        return self._encode(text, IMAGE_TAGS)

    def encode_text(self, text: str) -> list[int]:
        """The same where nothing is an image: ``<img>`` and ``</img>`` are letters, as in an answer that tells of them."""  # noqa: E501
        return self._encode_words(unicodedata.normalize("NFC", text), GROUNDING_TAGS)

    def decode(
        self,
        ids: int | Iterable[int],
        skip_special_tokens: bool = False,
        keep_image_special: bool = False,
        errors: str = "replace",
    ) -> str:
        """Text of one token id or several; an image's slots become its path.

        Bytes that are not UTF-8, and ids that no token has, become U+FFFD, or what ``errors`` says, as in
        ``bytes.decode``. ``keep_image_special`` exempts the ref, box and quad tags from ``skip_special_tokens``; not
        ``<img>``, ``</img>`` and ``<imgpad>``, whatever its name says: so in the original. Two departures from it,
        where it raises: a path that fills all slots is decoded, and tags that enclose no path (a model may generate
        any) are decoded one by one.
        """
        ids = [ids] if isinstance(ids, Integral) else ids
        kept = self._grounding_ids if keep_image_special else frozenset()
        found = (
            piece
            for token, piece in pieces(self, map(int, ids))
            if token < self.eod_id or token in kept or not skip_special_tokens
        )
        return b"".join(found).decode("utf-8", errors=errors)

    def detokenizer(self) -> Detokenizer:
        """What decodes an answer token by token."""
        return Detokenizer(self)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token; those of U+FFFD for an id that no token has."""
        return self._bpe.decode_single_token_bytes(token) if 0 <= token < self.vocab_size else _UNKNOWN

    def find_images(self, ids: Sequence[int]) -> list[ImageSlots]:
        """The images of a token sequence, in order. Raises InputError where ``<img>`` is not followed by its slots."""
        images = []
        for column, token in enumerate(ids, start=1):
            if token == self.image_start_id:
                path = self._path_at(ids, column)
                if path is None:
                    raise InputError(
                        f"Unclosed image token: {IMAGE_START} at column {column - 1} is not followed by "
                        f"{self.num_queries} slots and {IMAGE_END}"
                    )
                images.append(ImageSlots(column, path.decode("utf-8", errors="replace")))
        return images

    def _encode(self, text: str, special: Collection[str]) -> list[int]:
        ids: list[int] = []
        for tag, content in split_images(text):
            ids += self._encode_image(content) if tag == "img" else self._encode_words(content, special)
        return ids

    def _encode_words(self, text: str, special: Collection[str]) -> list[int]:
        try:
            return self._bpe.encode(text, allowed_special=set(special), disallowed_special=())
        except ValueError as error:  # tiktoken's own pattern gives up on some 700,000 spaces in a row
            raise InputError(
                f"text of {len(text):,} characters cannot be tokenized: {shorten(str(error), 120)}"
            ) from error

    def _encode_image(self, path: str) -> list[int]:
        """``<img>``, the path as one id per UTF-8 byte, padding up to ``num_queries`` slots, ``</img>``."""
        slots = path.encode("utf-8", errors="replace")
        padding = self.num_queries - len(slots)
        if padding < 0:
            raise InputError(
                f"The content in {IMAGE_START}..{IMAGE_END} is too long: path {shorten(path, 400)!r} has "
                f"{len(slots)} bytes, the limit is {self.num_queries}; use a shorter path, for instance one relative "
                "to the data directory"
            )
        return [self.image_start_id, *slots, *[self.image_pad_id] * padding, self.image_end_id]

    def _path_at(self, ids: Sequence[int], column: int) -> bytes | None:
        """The path in the slots that begin at ``column``, or None if they are not an image's slots."""
        end = column + self.num_queries
        if end >= len(ids) or ids[end] != self.image_end_id:
            return None
        slots = list(ids[column:end])
        length = slots.index(self.image_pad_id) if self.image_pad_id in slots else len(slots)
        path, padding = slots[:length], slots[length:]
        if any(not 0 <= slot < BYTES for slot in path) or any(slot != self.image_pad_id for slot in padding):
            return None
        return bytes(path)

"""Images that a caller holds in memory, under names by which prompts mention them."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from PIL import Image

from ms_impl.errors import InputError, quote

CAPACITY = 64  # images; the one not used for longest gives way
_PREFIX = "pil:"


class MemoryImages:
    """Keeps images by name. The same pixels have the same name within a process, and nobody can guess it.

    A name is 14 bytes long, for it takes as many slots in the token stream, of which a small model has few.
    """

    def __init__(self, capacity: int = CAPACITY):
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._gone: set[str] = set()
        self._capacity = capacity
        self._secret = os.urandom(16)

    def keep(self, image: Image.Image) -> str:
        """Keep a copy of an image, as RGB; returns its name. Raises InputError for one that cannot be decoded."""
        try:
            copy = image.convert("RGB") if image.mode != "RGB" else image.copy()
        except Exception as error:  # Pillow decodes now what was opened before: many kinds for one cause
            raise InputError(f"image {quote(image)} cannot be decoded: {error}") from error
        if not copy.width or not copy.height:
            raise InputError(f"image of {copy.width}×{copy.height} pixels has nothing to show")
        digest = hashlib.blake2b(f"{copy.size}".encode(), digest_size=5, key=self._secret)
        digest.update(copy.tobytes())
        name = _PREFIX + digest.hexdigest()
        self._images[name] = copy
        self._images.move_to_end(name)
        self._gone.discard(name)
        while len(self._images) > self._capacity:
            self._gone.add(self._images.popitem(last=False)[0])
        return name

    def get(self, name: str) -> Image.Image | None:
        """The image of that name; None for a name that is not of an image in memory.

        Raises InputError for one that is no longer kept.
        """
        if name in self._images:
            self._images.move_to_end(name)
            return self._images[name]
        if name in self._gone:
            raise InputError(f"image '{name}' is no longer in memory; give the image again, or its file's path")
        return None

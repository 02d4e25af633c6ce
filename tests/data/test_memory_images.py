"""Images in memory are found by the name that a prompt has for them."""

import numpy as np
import pytest
from PIL import Image

from ms_impl.data.memory_images import MemoryImages
from ms_impl.errors import InputError


def image(seed: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "F"])
def test_an_image_is_kept_as_rgb_under_a_short_name(mode):
    memory, original = MemoryImages(), image(0, mode)
    name = memory.keep(original)
    assert len(name.encode()) == 14
    assert memory.get(name).tobytes() == original.convert("RGB").tobytes()


def test_a_name_is_of_the_pixels_and_cannot_be_guessed():
    memory = MemoryImages()
    assert memory.keep(image(0)) == memory.keep(image(0)) != memory.keep(image(1))
    assert memory.keep(Image.new("RGB", (2, 8))) != memory.keep(Image.new("RGB", (8, 2)))
    assert memory.keep(image(0)) != MemoryImages().keep(image(0))
    assert memory.get("a.png") is None and memory.get("pil:0123456789") is None


def test_a_later_change_of_the_image_does_not_reach_it():
    memory, original = MemoryImages(), image(0)
    before, name = original.tobytes(), memory.keep(original)
    original.paste("red", (0, 0, 7, 5))
    assert memory.get(name).tobytes() == before


def test_the_image_not_used_for_longest_gives_way_and_is_missed_by_name():
    memory = MemoryImages(capacity=2)
    first, second = memory.keep(image(1)), memory.keep(image(2))
    memory.get(first)
    third = memory.keep(image(3))
    with pytest.raises(InputError, match=f"'{second}' is no longer in memory"):
        memory.get(second)
    assert memory.get(first) and memory.get(third)
    assert memory.keep(image(2)) == second and memory.get(second)


def test_what_cannot_be_decoded_is_refused(tmp_path):
    image(0).resize((900, 900), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-9000])
    with Image.open(tmp_path / "a.jpg") as cut, pytest.raises(InputError, match="cannot be decoded"):
        MemoryImages().keep(cut)
    with pytest.raises(InputError, match="nothing to show"):
        MemoryImages().keep(Image.new("RGB", (0, 5)))

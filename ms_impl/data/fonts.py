"""A font that has the characters of a label: Pillow's own, matplotlib's, one of the system, or a package's."""

from __future__ import annotations

import functools
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

from ms_impl.errors import InputError, quote

logger = logging.getLogger(__name__)

# How the families that have Chinese, Japanese or Korean are called; these are tried before others of the system.
_CJK_NAMES = (
    "notosanscjk", "notosanssc", "notosanshans", "sourcehansans", "wqy", "wenquanyi", "droidsansfallback", "msyh",
    "pingfang", "stheiti", "simhei", "simsun", "notoserifcjk", "sourcehanserif", "uming", "ukai", "ipa", "takao",
    "nanum", "cjk",
)  # fmt: skip
_OTHER_STYLES = ("bold", "italic", "oblique", "black", "light", "thin", "mono", "condensed")
_PACKAGE, _PACKAGE_FONT = "mplfonts", "fonts/NotoSansCJKsc-Regular.otf"  # the extra ``fonts``
_CURE = (
    "install a font that has them (apt install fonts-noto-cjk, or pip install mplfonts), or name one "
    "(--font FILE, font=FILE)"
)


def font_for(text: str, size: int, font: str | os.PathLike | None = None) -> ImageFont.FreeTypeFont:
    """A font of ``size`` pixels that has the characters of a text.

    ``font`` is the file to take, if it has them; else, and where it lacks some, the first that has them all is taken.
    Where there is none, a warning names the characters and the cure. Raises InputError for a file that is no font.
    """
    if font is None and text.isascii():
        return _built_in(size)
    wanted = frozenset(character for character in text if character.isprintable() and not character.isspace())
    if font is not None:
        given = load_font(font, size)
        if not (lacking := wanted - _covered(str(font), wanted)):
            return given
        logger.warning("font %s lacks %s; another is looked for", font, _shown(lacking))
    file, lacking = _best_font(wanted)
    if lacking:
        logger.warning("no font for %s, shown as empty boxes on the image: %s", _shown(lacking), _CURE)
    return ImageFont.truetype(file, size) if file else _built_in(size)


def load_font(file: str | os.PathLike, size: int) -> ImageFont.FreeTypeFont:
    """Open a font file. Raises InputError, naming it, if that cannot be."""
    if not os.path.isfile(file):
        raise InputError(f"font {quote(str(file))} not found")
    try:
        _characters(str(file))
        return ImageFont.truetype(str(file), size)
    except Exception as error:  # FreeType's words for what is no font, and several kinds
        raise InputError(f"font {quote(str(file))} cannot be used: {quote(str(error))}") from error


@functools.lru_cache(maxsize=64)
def _best_font(wanted: frozenset[str]) -> tuple[str | None, frozenset[str]]:
    """The first font that has all characters, else the one that lacks fewest, and what it lacks; None: Pillow's own."""
    best: tuple[str | None, frozenset[str]] = None, wanted - _covered(None, wanted)
    for file in _candidates():
        if not best[1]:
            break
        lacking = wanted - _covered(file, wanted)
        if len(lacking) < len(best[1]):
            best = file, lacking
    return best


def _candidates() -> Iterator[str]:
    import matplotlib  # its import takes a moment, and most labels do without
    from matplotlib.font_manager import findSystemFonts

    yield os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    system = sorted(findSystemFonts(), key=_preference)
    likely = [file for file in system if _preference(file)[0] < len(_CJK_NAMES)]
    yield from likely
    package = importlib.util.find_spec(_PACKAGE)
    if package and package.origin and (file := Path(package.origin).parent / _PACKAGE_FONT).is_file():
        yield str(file)
    yield from system[len(likely) :]


def _preference(file: str) -> tuple[int, bool, str]:
    name = "".join(filter(str.isalnum, os.path.basename(file).lower()))
    family = next((place for place, known in enumerate(_CJK_NAMES) if known in name), len(_CJK_NAMES))
    return family, any(style in name for style in _OTHER_STYLES), file


def _covered(file: str | None, wanted: frozenset[str]) -> frozenset[str]:
    """Those of the characters that a font has; of a file that cannot be read, none."""
    try:
        return frozenset(character for character in wanted if ord(character) in _characters(file))
    except (RuntimeError, OSError, ValueError):
        return frozenset()


@functools.lru_cache(maxsize=8)
def _characters(file: str | None) -> frozenset[int]:
    """The code points that a font has a glyph for."""
    from matplotlib.ft2font import FT2Font

    font = FT2Font(io.BytesIO(_built_in(10).font_bytes) if file is None else file)
    if not font.scalable:
        return frozenset()  # of pictures of one size, as colour emoji are
    return frozenset(code for code, glyph in font.get_charmap().items() if glyph)


def _built_in(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _shown(characters: frozenset[str]) -> str:
    some = sorted(characters)
    return f"'{''.join(some[:20])}'" + (f" and {len(some) - 20:,} more characters" if len(some) > 20 else "")

"""Byte-pair encoding with a released vocabulary, whichever of its files a checkpoint has.

- ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` (Hugging Face): read by the library ``tokenizers``;
- ``*.tiktoken``, lines of base64 token and rank: read by the library ``tiktoken``.

Special tokens are found here, in front of the library, so that a caller may say which of them count in a text.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tiktoken
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ms_impl.data.tags import shorten
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_bytes, read_json

BYTES = 256

# How text is cut into words before byte-pair encoding, where no file says it; digits stand alone.
WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()
_JSON, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
VOCABULARY_FILES = (_JSON, _VOCABULARY, _MERGES, _CONFIG, _ADDED, "*.tiktoken")


class SpecialToken(NamedTuple):
    """One token that stands for no bytes of a text. ``control``: left out where special tokens are skipped."""

    id: int
    control: bool = True


class _Library(Protocol):
    """What encodes text without special tokens."""

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self) -> dict[int, bytes]: ...


class BytePairs:
    """A vocabulary with its special tokens: text to ids and back.

    Args:
        library: encodes what is no special token.
        special: token → its id.
        source: the file, for errors.
    """

    def __init__(self, library: _Library, special: Mapping[str, SpecialToken], source: str):
        self.source = source
        self.special_tokens = {token: each.id for token, each in special.items()}
        self._library = library
        self._control = frozenset(each.id for each in special.values() if each.control)
        self._special_bytes = {each.id: token.encode() for token, each in special.items()}
        self._patterns: dict[frozenset[str], re.Pattern[str]] = {}

    @classmethod
    def from_pretrained(cls, directory: Path, special: Mapping[str, bool], words: str = WORDS) -> BytePairs:
        """Of a checkpoint directory. ``special``: the tokens that follow the vocabulary where no file has their ids,
        in order, and whether each is a control token. ``words``: how text is cut, where no file says it.

        Raises InputError naming the file for one that cannot be used, or the directory if it has none.
        """
        directory = Path(directory)
        if (directory / _JSON).is_file():
            return _from_tokenizer_json(directory / _JSON)
        if (directory / _VOCABULARY).is_file():
            return _from_vocabulary(directory, special, words)
        files = sorted(directory.glob("*.tiktoken"))
        if len(files) == 1:
            return cls.from_ranks(files[0], special, words)
        found = ", ".join(file.name for file in files) or "none of them"
        raise InputError(
            f"{directory}: expected {_JSON}, {_VOCABULARY} with {_MERGES}, or one *.tiktoken file; found {found}"
        )

    @classmethod
    def from_ranks(cls, path: Path, special: Mapping[str, bool], words: str = WORDS) -> BytePairs:
        """Of a ``*.tiktoken`` file."""
        ranks = read_ranks(path)
        return cls(_Ranks(ranks, words), _numbered(special, len(ranks)), str(path))

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; a model may have more embedding rows."""
        return max(max(self._bytes), max(self._special_bytes, default=0)) + 1

    def encode(self, text: str, special: Collection[str] | None = None) -> list[int]:
        """Ids of a text. ``special``: the special tokens that count in it, all others are letters; None: all."""
        ids: list[int] = []
        for piece in self._split(text, special):
            ids += [self.special_tokens[piece[0]]] if isinstance(piece, tuple) else self._encode_words(piece)
        return ids

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token; those of U+FFFD for an id that no token has."""
        found = self._special_bytes.get(token)
        return self._bytes.get(token, _UNKNOWN) if found is None else found

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False, errors: str = "replace") -> str:
        """The text of ids. Bytes that are not UTF-8 become what ``errors`` says, as in ``bytes.decode``."""
        skipped = self._control if skip_special_tokens else frozenset()
        return b"".join(self.bytes_of(int(token)) for token in ids if token not in skipped).decode("utf-8", errors)

    def detokenizer(self, skip_special_tokens: bool = False) -> ByteDetokenizer:
        """What decodes an answer token by token."""
        return ByteDetokenizer(self, self._control if skip_special_tokens else frozenset())

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return self._library.token_bytes()

    def _split(self, text: str, special: Collection[str] | None) -> list[Any]:
        """Texts, and special tokens as tuples of one, in order; the longest token that begins at a place counts."""
        counted = frozenset(self.special_tokens if special is None else special)
        if counted not in self._patterns:
            longest_first = sorted(counted, key=len, reverse=True)
            self._patterns[counted] = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        pieces: list[Any] = []
        start = 0
        for match in self._patterns[counted].finditer(text):
            pieces += [text[start : match.start()], (match.group(),)]
            start = match.end()
        return [piece for piece in [*pieces, text[start:]] if piece]

    def _encode_words(self, text: str) -> list[int]:
        try:
            return self._library.encode(whole_characters(text))
        except ValueError as error:  # tiktoken's own pattern gives up on some 700,000 spaces in a row
            raise InputError(
                f"text of {len(text):,} characters cannot be tokenized: {shorten(str(error), 120)}"
            ) from error


class ByteDetokenizer:
    """The text of an answer while it grows; the texts joined are ``BytePairs.decode`` of all tokens.

    Held back are the bytes of an unfinished character.
    """

    def __init__(self, tokenizer: BytePairs, skipped: Collection[int] = ()):
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        return "" if token in self._skipped else self._characters.decode(self._tokenizer.bytes_of(token))

    def finish(self) -> str:
        """The text that was held back."""
        return self._characters.decode(b"", final=True)


class _Ranks:
    """tiktoken, for a vocabulary whose ids are the ranks of its merges."""

    def __init__(self, ranks: dict[bytes, int], words: str):
        self._ranks = ranks
        self._encoding = tiktoken.Encoding("ranks", pat_str=words, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def token_bytes(self) -> dict[int, bytes]:
        return {rank: token for token, rank in self._ranks.items()}


class _Merges:
    """Hugging Face's library, for a vocabulary with a list of merges."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def __getstate__(self) -> str:
        return self._tokenizer.to_str()

    def __setstate__(self, state: str) -> None:
        self._tokenizer = Tokenizer.from_str(state)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def token_bytes(self) -> dict[int, bytes]:
        table = {character: byte for byte, character in enumerate(byte_characters())}
        return {
            number: bytes(table[character] for character in token) if all(c in table for c in token) else token.encode()
            for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items()
        }


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's choice)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in printable else next(others)) for byte in range(BYTES)]


def whole_characters(text: str) -> str:
    """The text without half surrogate pairs, which no encoding has: they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_ranks(path: Path) -> dict[bytes, int]:
    """The tokens of a ``*.tiktoken`` file, in order of rank. Raises InputError naming file and line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: the vocabulary file cannot be read ({error.strerror})") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if line:
            _add_rank(ranks, line, f"{path}: line {number}")
    missing = [byte for byte in range(BYTES) if bytes([byte]) not in ranks]
    if missing:
        raise InputError(
            f"{path}: line {len(lines)}: the file ends after {len(ranks)} tokens, without a token for each of the "
            f"{BYTES} bytes ({len(missing)} missing); it is not a whole vocabulary file"
        )
    return ranks


def _add_rank(ranks: dict[bytes, int], line: bytes, source: str) -> None:
    try:
        word, number = line.split()
        token, rank = base64.b64decode(word, validate=True), int(number)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{source}: not a base64 token and its rank: {shorten(line.decode('latin-1'))!r}") from error
    if rank != len(ranks):
        raise InputError(f"{source}: rank {rank} where {len(ranks)} is due; ranks count up from 0 without gaps")
    if token in ranks:
        raise InputError(f"{source}: the token {token!r} already has rank {ranks[token]}")
    ranks[token] = rank


def _numbered(special: Mapping[str, bool], first: int) -> dict[str, SpecialToken]:
    return {token: SpecialToken(number, control) for number, (token, control) in enumerate(special.items(), first)}


def _from_tokenizer_json(path: Path) -> BytePairs:
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise InputError(f"{path}: 'model' must be a byte-pair encoding (type BPE)")
    added = content.get("added_tokens")
    if not isinstance(added, list):
        raise InputError(f"{path}: 'added_tokens' must be a list")
    special = dict(_added_token(each, each, path) for each in added)
    try:
        library = Tokenizer.from_str(json.dumps({**content, "added_tokens": [], "post_processor": None}))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not a tokenizer that can be read ({shorten(str(error), 160)})") from error
    return BytePairs(_Merges(library), special, str(path))


def _from_vocabulary(directory: Path, special: Mapping[str, bool], words: str) -> BytePairs:
    path = directory / _VOCABULARY
    vocabulary = read_json(path)
    if wrong := [token for token, number in vocabulary.items() if not isinstance(number, int) or number < 0]:
        raise InputError(f"{path}: the token {quote(wrong[0])} must have a whole number as id")
    missing = [byte for byte, character in enumerate(byte_characters()) if character not in vocabulary]
    if missing:
        raise InputError(f"{path}: has no token for {len(missing)} of the {BYTES} bytes; not a byte-level vocabulary")
    merges = _read_merges(directory / _MERGES, vocabulary)
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    library.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(words), behavior="isolated", invert=False)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([cut, whole])
    library.decoder = decoders.ByteLevel()
    added = _added_tokens(directory) or _numbered(special, max(vocabulary.values()) + 1)
    return BytePairs(_Merges(library), added, str(path))


def _read_merges(path: Path, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2 or any(token not in vocabulary for token in (*parts, "".join(parts))):
            raise InputError(f"{path}: line {number}: not two tokens whose sum is one of {_VOCABULARY}: {quote(line)}")
        merges.append((parts[0], parts[1]))
    return merges


def _added_tokens(directory: Path) -> dict[str, SpecialToken]:
    """The special tokens of tokenizer_config.json, or of added_tokens.json; empty if there is neither."""
    path = directory / _CONFIG
    if path.is_file() and (added := read_json(path).get("added_tokens_decoder")):
        if not isinstance(added, dict) or not all(number.isdecimal() for number in added):
            raise InputError(f"{path}: 'added_tokens_decoder' must be a table from ids to tokens")
        return dict(_added_token({"id": int(number)}, each, path) for number, each in added.items())
    path = directory / _ADDED
    if not path.is_file():
        return {}
    tokens = read_json(path)
    if wrong := [token for token, number in tokens.items() if not isinstance(number, int)]:
        raise InputError(f"{path}: the token {quote(wrong[0])} must have a whole number as id")
    return {token: SpecialToken(number) for token, number in tokens.items()}


def _added_token(numbered: Any, told: Any, path: Path) -> tuple[str, SpecialToken]:
    number = numbered.get("id") if isinstance(numbered, dict) else None
    content = told.get("content") if isinstance(told, dict) else None
    if not isinstance(number, int) or not isinstance(content, str) or not content:
        raise InputError(f"{path}: an added token needs a whole number 'id' and its 'content', not {quote(told)}")
    return content, SpecialToken(number, bool(told.get("special", True)))

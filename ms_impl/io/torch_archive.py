"""The zip archives that torch writes: entries in one directory, stored as they are, each found by its offset.

Read as strictly as torch's own reader: zipfile alone takes more. Checksums are not compared, as torch does not compare
them; it need not even write them.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import check_file
from ms_impl.io.tensors import Piece

_ENTRY, _DIRECTORY, _END, _END_64, _LOCATOR_64 = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7")
# After the mark: number of this disk and of the directory's, entries here and in all, the directory's size and offset.
_END_FIELDS, _END_FIELDS_64 = struct.Struct("<4x4H2I"), struct.Struct("<16x2I4Q")
_END_BYTES, _END_BYTES_64, _LOCATOR_BYTES, _LONGEST_COMMENT = 22, 56, 20, 0xFFFF
_DIRECTORY_BYTES, _DIRECTORY_LENGTHS = 46, struct.Struct("<28x3H")  # of its entries: name, extra field, comment
_DIRECTORY_ATTRIBUTE = 0x10
_LARGEST_DIRECTORY = 32 << 20  # bytes; an entry takes some 100
_LOCAL_HEADER_BYTES = 30  # of an entry, before its name; the lengths of name and extra field stand at 26 and 28
_ENCRYPTED = 1 | 32 | 64 | 8192  # bits of an entry's flags: encrypted in one way or another, or a patch
_VERSIONS = range(1, 11)  # of the archive, that torch 2.13 reads
_SMALL = 64  # bytes, of the entries that say how the others are to be read
_NO_ZIP = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError, OverflowError, struct.error)


class TorchArchive:
    """The entries of a zip file, all of which lie in one directory inside it."""

    def __init__(self, path: Path):
        check_file(path)
        self._path = path
        with open(path, "rb") as file:
            begin = file.read(len(_ENTRY))
        if begin[:1] == pickle.PROTO:
            raise self._fault(
                "written in torch's old format without zip; load it with torch ≥ 1.6 and torch.save it again"
            )
        try:
            count = _check_end(path)
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except _NO_ZIP as error:
            raise self._fault("cut short or damaged: not a whole zip file; copy or download it again") from error
        if begin != _ENTRY or len(entries) != count or all(entry.header_offset for entry in entries):
            raise self._fault("damaged: a zip file does not begin like that")
        self._entries = {entry.filename: entry for entry in entries}
        self._root = entries[0].filename.partition("/")[0]
        if len(self._entries) < len(entries):
            raise self._fault("damaged: an entry stands in it twice")
        self._check_entries()
        self._check_settings()

    def _check_entries(self) -> None:
        """Raise InputError unless torch would read an archive of these entries."""
        size = self._path.stat().st_size
        for name, entry in self._entries.items():
            if not name.startswith(f"{self._root}/"):
                raise self._fault(
                    f"not one that torch.save wrote: its entries lie in several places, {quote(name)} is one"
                )
            stored = entry.compress_type == zipfile.ZIP_STORED
            if entry.flag_bits & _ENCRYPTED:
                raise self._fault(f"entry {quote(name)} is encrypted; torch.save does not do that: save the file again")
            beyond = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size > size
            directory = entry.is_dir() or entry.external_attr & _DIRECTORY_ATTRIBUTE  # torch reads nothing of such
            if entry.volume or directory or beyond or stored and entry.compress_size != entry.file_size:
                raise self._fault(f"damaged: the sizes or kind of entry {quote(name)} do not agree")
        if not self._has("data.pkl") or not self._has("version"):
            raise self._fault("a zip file, but not one that torch.save wrote: it has no data.pkl or no version")
        if self._has("constants.pkl"):
            raise self._fault("a TorchScript archive, not a state dictionary; save the state dictionary alone")

    def _check_settings(self) -> None:
        version = self._setting("version", b"").removesuffix(b"\n")
        if not version.isdigit() or int(version) not in _VERSIONS:
            raise self._fault(f"of version {quote(version)}; known: {_VERSIONS[0]} to {_VERSIONS[-1]}")
        order = self._setting("byteorder", b"little")
        if order != b"little":
            raise self._fault(f"of byte order {quote(order)}; only little-endian files are supported")
        if not self._setting(".storage_alignment", b"64").isdigit():
            raise self._fault("damaged: its .storage_alignment is not a number")
        self._setting(".format_version", b"")  # torch reads it, and so it has to be whole
        if not self._setting(".data/serialization_id", b"").isascii():
            raise self._fault("damaged: its serialization_id is not text")

    def _setting(self, name: str, default: bytes) -> bytes:
        return self.read(name, _SMALL) if self._has(name) else default

    def read(self, name: str, limit: int) -> bytes:
        """A whole entry."""
        piece = self.locate(name)
        if piece.nbytes > limit:
            raise self._fault(f"its {name} is larger than the {limit:,} bytes that are read")
        with open(self._path, "rb") as file:
            file.seek(piece.offset)
            return file.read(piece.nbytes)

    def locate(self, name: str) -> Piece:
        """Where the bytes of an entry lie in the file."""
        entry = self._entries.get(f"{self._root}/{name}")
        shown = quote(f"{self._root}/{name}")
        if entry is None:
            raise self._fault(f"damaged: has no entry {shown}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise self._fault(f"entry {shown} is compressed; torch.save does not do that: save the file again")
        with open(self._path, "rb") as file:
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER_BYTES)
        if not header.startswith(_ENTRY) or len(header) < _LOCAL_HEADER_BYTES:
            raise self._fault(f"damaged: entry {shown} is not where its directory says")
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        piece = Piece(self._path, entry.header_offset + _LOCAL_HEADER_BYTES + name_and_extra, entry.file_size)
        if piece.offset + piece.nbytes > self._path.stat().st_size:
            raise self._fault(f"cut short inside entry {shown}")
        return piece

    def _has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._entries

    def _fault(self, reason: str) -> InputError:
        return InputError(f"{self._path}: {reason}")


def _check_end(path: Path) -> int:
    """How many entries there are.

    Raises BadZipFile unless the end of the archive tells of one disk and of a directory that is where it says.
    """
    with open(path, "rb") as file:
        size = path.stat().st_size
        start = max(0, size - _END_BYTES - _LONGEST_COMMENT)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(_END)
        locator = tail[max(end - _LOCATOR_BYTES, 0) : end]
        if locator.startswith(_LOCATOR_64):
            end = int.from_bytes(locator[8:16], "little")
            file.seek(end)
            fields = _END_FIELDS_64.unpack_from(file.read(_END_BYTES_64))
        else:
            fields = _END_FIELDS.unpack_from(tail, end)
            end += start
        disk, directory_disk, here, total, nbytes, offset = fields
        if (disk, directory_disk, here) != (0, 0, total) or offset + nbytes > end or nbytes > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its end does not agree with its directory")
        file.seek(offset)
        directory = file.read(nbytes)
    at = 0
    for _ in range(total):
        if directory[at : at + len(_DIRECTORY)] != _DIRECTORY:
            raise zipfile.BadZipFile("an entry of its directory does not begin like one")
        at += _DIRECTORY_BYTES + sum(_DIRECTORY_LENGTHS.unpack_from(directory, at))
    if at > nbytes:
        raise zipfile.BadZipFile("an entry of its directory ends beyond the directory")
    return total

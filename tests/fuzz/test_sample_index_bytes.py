"""Damaged indices of records: whole, or none; never wrong lengths, never another exception."""

import io
import zipfile

import numpy as np
from mutations import mutate_bytes, pick

from ms_impl.data import sample_index
from ms_impl.data.encoded_records import Entries, joined

RECORDS, KINDS = 6, 2


def entries(rng) -> Entries:
    media = rng.integers(0, 3, RECORDS)
    geometry, files = rng.integers(0, 3, media.sum()), rng.integers(0, 3, RECORDS)
    rows = [rng.integers(0, 99, RECORDS).astype(np.int32) for _ in range(4)]
    return Entries(
        *rows,
        digests=rng.integers(0, 256, (RECORDS, 16), dtype=np.uint8),
        media_ends=np.cumsum(media),
        kinds=rng.integers(0, KINDS, media.sum()).astype(np.int8),
        geometry_ends=np.cumsum(geometry),
        geometry=rng.integers(0, 99, geometry.sum()),
        file_ends=np.cumsum(files),
        files=rng.integers(0, 2, files.sum()).astype(np.int32),
        changes=np.array([[1, 0, 3]], np.int32),
        states=np.array([[5, 6], [-1, 0]]),
        change_names=["cut off"],
        paths=["a.png", "狗 \udcff.png"],
    )


def make(rng, folder):
    path = folder / "index.npz"
    sample_index.save(entries(rng), path)
    data = path.read_bytes()
    if rng.random() < 0.5:
        path.write_bytes(mutate_bytes(rng, data))
        return path
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = pick(rng, list(parts))
    parts[name] = pick(rng, (b"", mutate_bytes(rng, parts[name]), parts[pick(rng, list(parts))], other(rng)))
    with zipfile.ZipFile(path, "w", pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_LZMA))) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def other(rng) -> bytes:
    """An array of another type or shape; one of objects, which only unpickling would read."""
    file = io.BytesIO()
    np.save(
        file,
        pick(rng, (np.array(5), np.zeros((2, 3, 4)), np.array([{}], object), np.array(["a"]), np.zeros(6, np.int64))),
    )
    return file.getvalue()


def run(path):
    found = sample_index.load(path, RECORDS, KINDS)
    if found is None:
        return
    outlines = list(found.outlines(("a", "b")))
    assert len(outlines) == len(found) == RECORDS
    assert all(record < RECORDS for record in found.stale().tolist())
    found.counts()
    assert len(joined([found, found.part(1, 4)])) == RECORDS + 3


def test_sample_index_bytes(fuzz):
    fuzz("sample index", make, run, megabytes=500)

"""A model that does not fit is not loaded: another dtype is taken, or what would fit is said."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import pytest

from ms_impl.errors import InputError
from ms_impl.generate import memory
from ms_impl.generate.load import load_model

MODEL = Path(__file__).parents[2] / "assets/ovis2_5_tiny"  # in fp16, which is mapped


@pytest.fixture
def needed(monkeypatch) -> dict[str, int]:
    """What the model needs, in bytes, by dtype: as it is reckoned while it is loaded with all room."""
    found = {}

    def need(model, tensors, dtype, merged, reckoned=memory.need):
        found[dtype.name] = reckoned(model, tensors, dtype, merged).total
        return reckoned(model, tensors, dtype, merged)

    monkeypatch.setattr(memory, "need", need)
    room(monkeypatch, 1 << 40)
    for name in ("fp32", "fp16", "bf16"):
        load_model(MODEL, name)
    return {**found}


def room(monkeypatch, count: int) -> None:
    monkeypatch.setattr(memory, "available", lambda: count)


def dtype_of(name: str | None) -> ms.Type:
    return load_model(MODEL, name)[0].decoder_parts().head.dtype


def test_without_a_dtype_it_is_fp32_where_that_fits_and_the_files_own_where_it_does_not(monkeypatch, needed, caplog):
    assert needed["fp16"] < needed["fp32"] and needed["fp16"] < needed["bf16"]
    room(monkeypatch, needed["fp32"])
    assert dtype_of(None) == ms.float32 and not caplog.records
    room(monkeypatch, needed["fp32"] - 1)
    assert dtype_of(None) == ms.float16 and "loaded as fp16" in caplog.text


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch, needed):
    room(monkeypatch, needed["fp16"])
    with pytest.raises(InputError, match="loaded as fp32 it needs .* GB .*; as fp16 it needs .*: give that dtype"):
        load_model(MODEL, "fp32")
    room(monkeypatch, needed["fp16"] - 1)
    for name in (None, "fp32", "fp16"):
        with pytest.raises(InputError, match="no other dtype fits"):
            load_model(MODEL, name)


def test_what_is_available_is_what_the_machine_or_its_group_has(monkeypatch, tmp_path):
    machine = memory.available()
    assert machine > 1 << 28
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "now").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 100000\nactive_file 7\n")
    monkeypatch.setattr(memory, "_CGROUPS", [(str(tmp_path / "max"), str(tmp_path / "now"), "inactive_file")])
    assert memory.available() == 700_000
    (tmp_path / "max").write_text("max\n")
    assert memory.available() > 1 << 28

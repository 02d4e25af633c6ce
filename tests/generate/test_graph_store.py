"""The folder of graphs: whole entries or none, and no more than fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ms_impl.generate.graph_store import GraphStore


@pytest.fixture
def store(tmp_path) -> GraphStore:
    return GraphStore(tmp_path / "graphs", limit=1000)


def only_file(store: GraphStore) -> Path:
    (path,) = store.folder.iterdir()
    return path


def test_a_graph_is_found_under_its_key_alone(store):
    assert store.read("a") is None
    store.write("a", b"graph")
    assert store.read("a") == b"graph" and store.read("b") is None


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"?", lambda _: b""])
def test_a_damaged_one_is_not_there_until_written_again(store, damage):
    store.write("a", b"graph")
    path = only_file(store)
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("a") is None
    store.write("a", b"graph")
    assert store.read("a") == b"graph"


def test_one_under_the_name_of_another_is_not_there(store):
    store.write("a", b"graph")
    path = only_file(store)
    path.rename(path.with_name(path.name.replace("a", "b", 1)))
    assert store.read("b") is None


def test_beyond_the_limit_the_one_unused_for_longest_goes(store):
    for age, key in enumerate("abc"):
        store.write(key, bytes(240))
        os.utime(store.folder / f"{key}.graph", (age, age))
    store.read("a")
    (store.folder / "killed.partial").write_bytes(bytes(250))
    os.utime(store.folder / "killed.partial", (0, 0))
    store.write("d", bytes(240))
    assert [store.read(key) is not None for key in "abcd"] == [True, False, True, True]
    assert not (store.folder / "killed.partial").exists()


def test_one_that_would_push_out_too_many_others_is_not_kept(store):
    store.write("small", bytes(240))
    store.write("large", bytes(300))
    assert store.read("small") and store.read("large") is None


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        GraphStore(tmp_path / "file" / "graphs").write("a", b"graph")

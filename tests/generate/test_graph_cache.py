"""Graphs of earlier processes: the answers are those without a cache, whatever was asked before, of whichever model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from safetensors.numpy import load_file, save_file

from ms_impl.generate.graph_cache import SWITCH, CachedGraph
from ms_impl.generate.graph_store import GraphStore

CHILD = Path(__file__).with_name("kept_graphs.py")


@pytest.fixture(scope="module")
def models(mini, tmp_path_factory) -> dict[str, Path]:
    """The mini model, one with other weights, and one whose shapes are equal but not its configuration."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: Path(shutil.copytree(mini, folder / name)) for name in ("one", "weights", "epsilon")}
    weights = load_file(mini / "model.safetensors")
    other = {name: value[::-1].copy() for name, value in weights.items()}
    save_file(other, found["weights"] / "model.safetensors", {"format": "pt"})
    config = json.loads((mini / "config.json").read_text())
    config["layer_norm_epsilon"] = 1.0
    (found["epsilon"] / "config.json").write_text(json.dumps(config))
    return found


@pytest.fixture(scope="module")
def plain(models, tmp_path_factory):
    """What is right: without a cache."""
    folder = tmp_path_factory.mktemp("plain")
    arguments = [f"{models['one']}:short,image", f"{models['epsilon']}:short"]
    return result(start(folder, arguments, **{SWITCH: "off"}), folder)


@pytest.fixture(scope="module")
def filled(models, tmp_path_factory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A cache that two processes have filled at once, and what they answered."""
    cache = tmp_path_factory.mktemp("cache")
    folders = [tmp_path_factory.mktemp("cold") for _ in range(2)]
    processes = [start(folder, [f"{models['one']}:short,image"], XDG_CACHE_HOME=str(cache)) for folder in folders]
    return cache, [result(process, folder) for process, folder in zip(processes, folders)]


def start(folder: Path, arguments: list[str], **environment: str) -> subprocess.Popen:
    names = {"VLM_MINDSPORE_KERNELS": "off", **environment}
    command = [sys.executable, str(CHILD), str(folder / "logits.npz"), *arguments]
    return subprocess.Popen(command, env=os.environ | names, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen, folder: Path) -> dict[str, np.ndarray]:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "compile_cache" not in errors
    with np.load(folder / "logits.npz") as logits:
        return dict(logits)


def entries(cache: Path) -> dict[str, float]:
    """When each graph was last used."""
    return {path.name: path.stat().st_mtime for path in (cache / "vlm_mindspore" / "graphs").iterdir()}


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, logits in found.items():
        np.testing.assert_array_equal(logits, wanted[name], name)


def test_what_fills_the_cache_answers_as_without_one(filled, plain):
    for found in filled[1]:
        assert_equal(found, plain)


@pytest.mark.slow
def test_another_order_and_other_weights_reuse_the_graphs_and_answer_right(filled, models, tmp_path):
    right = [f"{models['one']}:short,image,long,doubled", f"{models['weights']}:short,image,doubled"]
    (tmp_path / "plain").mkdir()
    process = start(tmp_path / "plain", [*right, f"{models['epsilon']}:short"], **{SWITCH: "off"})
    plain = result(process, tmp_path / "plain")
    cache = Path(shutil.copytree(filled[0], tmp_path / "cache"))
    for path in (cache / "vlm_mindspore" / "graphs").iterdir():
        os.utime(path, (0, 0))
    old = entries(cache)
    arguments = [f"{models['one']}:long,image,short,doubled", f"{models['weights']}:image,short,doubled"]
    found = result(start(tmp_path, [*arguments, f"{models['epsilon']}:short"], XDG_CACHE_HOME=str(cache)), tmp_path)
    assert_equal(found, plain)
    assert not np.array_equal(found["one short"], found["weights short"])
    now = entries(cache)
    assert all(now[name] > 0 for name in old), "a graph was not used"
    found = result(start(tmp_path, [f"{models['weights']}:doubled,image"], XDG_CACHE_HOME=str(cache)), tmp_path)
    assert set(entries(cache)) == set(now), "a graph was compiled again"
    np.testing.assert_array_equal(found["weights image"], 2 * plain["weights image"])


def test_damaged_entries_are_made_again(filled, models, plain, tmp_path):
    cache = Path(shutil.copytree(filled[0], tmp_path / "cache"))
    graphs = sorted((cache / "vlm_mindspore" / "graphs").iterdir())
    contents = [path.read_bytes() for path in graphs]
    for path, content in zip(graphs, contents[1:] + contents[:1]):  # each with another's content, one cut off
        path.write_bytes(content)
    graphs[0].write_bytes(contents[0][:100])
    found = result(start(tmp_path, [f"{models['one']}:image,short"], XDG_CACHE_HOME=str(cache)), tmp_path)
    assert_equal(found, plain)
    store = GraphStore(graphs[0].parent)
    assert all(store.read(path.stem) for path in graphs)


def test_the_key_matters(models, plain, tmp_path):
    """Negative control: found by their shapes alone, the graphs of one model answer for another, wrongly."""
    arguments = [f"{models['one']}:short", f"{models['epsilon']}:short", "--weak"]
    found = result(start(tmp_path, arguments, XDG_CACHE_HOME=str(tmp_path / "cache")), tmp_path)
    np.testing.assert_array_equal(found["one short"], plain["one short"])
    assert not np.allclose(found["epsilon short"], plain["epsilon short"], rtol=0.1)


class Scaled(CachedGraph):
    """x times a weight; in training twice that; plus y, where there is one."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(3.0, ms.float32), name="weight")

    def construct(self, x: Tensor, y: Tensor | None) -> Tensor:
        x = x * self.weight * (2 if self.training else 1)
        return x if y is None else x + y


def test_a_graph_that_is_known_is_that_of_the_mode_and_of_the_weights(monkeypatch):
    monkeypatch.setenv(SWITCH, "off")
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        cell, x = Scaled(), Tensor([1.0, 2.0], ms.float32)
        for training in (False, True, False, True, False):
            cell.set_train(training)
            assert cell(x, None).asnumpy().tolist() == ([6, 12] if training else [3, 6])
            assert cell(x, x).asnumpy().tolist() == ([7, 14] if training else [4, 8])
        cell.weight.set_data(Tensor(5.0, ms.float32))
        assert cell(x, None).asnumpy().tolist() == [5, 10]
    finally:
        ms.set_context(mode=mode)

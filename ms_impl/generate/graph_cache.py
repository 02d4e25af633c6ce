"""Compiled graphs kept from one process to the next: most of the time to a first token or step is spent compiling.

MindSpore's own compile cache stores a graph before it goes to the device, with its weights as inputs, but names it by
its number in the process: asked in another order, it loads the wrong one. So it is pointed at a folder of this process
alone, in which it finds at each compilation one graph or none: that of the same fingerprint from the store.
"""

from __future__ import annotations

import ctypes
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.graph.api import _cell_graph_executor, _convert_python_data

from ms_impl.generate.fingerprint import Form, NotCacheable, fingerprint, form
from ms_impl.generate.graph_store import GraphStore
from ms_impl.user_cache import cache_folder

SWITCH = "VLM_MINDSPORE_GRAPHS"  # "off": keep none
_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
_LOCK = RLock()

logger = logging.getLogger(__name__)


class CachedGraph(nn.Cell):
    """A cell whose graphs are taken from the user's cache in GRAPH_MODE, or put there, in a process alone on a CPU.

    Its inputs are tensors or None, positional. Cells that have other bases, too, name this one first.
    """

    def __call__(self, *inputs: Tensor | None) -> Any:
        """As ``nn.Cell``'s, which asks itself, each time and for each cell within, what is known here in evaluation."""
        known = ms.get_context("mode") == ms.GRAPH_MODE and not self.training
        if not known or (phase := self._graphs.get((False, form(inputs)))) is None:
            return super().__call__(*inputs)
        given = tuple(each for each in inputs if each is not None)
        return _convert_python_data(_cell_graph_executor._graph_executor(given, phase))

    def compile(self, *inputs: Tensor | None) -> None:
        """As ``nn.Cell.compile``, with which each call in GRAPH_MODE begins; of inputs of a form that is known it only
        looks for its graph, which is not asked of the store again: in training that would be once a step."""
        this = self.training, form(inputs)
        if this in self._graphs:
            super().compile(*inputs)
            return
        try:
            with kept(self, inputs):
                super().compile(*inputs)
        except RuntimeError as error:
            if "in MindIR" not in str(error):
                raise
            logger.info("the compiled graph of %s cannot be written: %s", type(self).__name__, error)
            super().compile(*inputs)
        give_back()
        self._graphs[this] = self.current_phase

    @property
    def _graphs(self) -> dict[tuple[bool, Form], str]:
        """What MindSpore calls the compiled graphs, by whether in training and by the forms of their inputs."""
        return vars(self).setdefault("_forms", {})


def give_back() -> None:
    """Return to the system what has been freed: the compiler's graphs, which the C library keeps for later else."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@contextmanager
def kept(cell: nn.Cell, inputs: tuple[Tensor | None, ...]) -> Iterator[None]:
    """Within, MindSpore compiles ``cell`` for ``inputs``, or loads what it has compiled before."""
    with _LOCK:
        slot = _slot() if _wanted() else None
        key = slot and _fingerprint(cell, inputs)
        store = _store() if key else None
        if not store:
            yield
            return
        with slot.holding(store.read(key)) as made, _fewer_warnings():
            yield
        if made:
            try:
                store.write(key, made[0])
            except OSError as error:
                logger.info("the compiled graph of %s is not kept: %s", type(cell).__name__, error)


def _wanted() -> bool:
    """Whether this process keeps graphs; one whose user has switched MindSpore's cache on does not.

    Nor do the ranks of a distributed run: ports and addresses that change from run to run are among their variables.
    """
    alone = "MS_ROLE" not in os.environ and ms.get_auto_parallel_context("parallel_mode") == "stand_alone"
    used = ms.get_context("enable_compile_cache") or _ENABLE in os.environ
    return os.environ.get(SWITCH) != "off" and ms.get_context("device_target") == "CPU" and alone and not used


def _store() -> GraphStore | None:
    try:
        return GraphStore(cache_folder("graphs"))
    except OSError as error:
        logger.warning("compiled graphs are not kept, every start compiles anew: %s", error)
        return None


def _fingerprint(cell: nn.Cell, inputs: tuple[Tensor | None, ...]) -> str | None:
    try:
        return fingerprint(cell, inputs)
    except (NotCacheable, OSError) as error:
        logger.info("the compiled graph of %s is not kept: %s", type(cell).__name__, error)
        return None


class _Slot:
    """The folder in which MindSpore looks for graphs; it asks for the path once and then stays with it.

    Its graphs are called compile_cache_N.mindir, N counting those that the process has compiled with the cache on.
    """

    def __init__(self):
        self.root = tempfile.TemporaryDirectory(prefix="vlm_mindspore_")
        self.folder = Path(self.root.name) / "rank_0" / "graph_cache"
        self.folder.mkdir(parents=True)
        self.owner = os.getpid()
        self.number = 0  # of the next graph, as far as is known: a compilation that fails may have counted, or not

    @property
    def usable(self) -> bool:
        """Not in a forked process, which has the folder from its parent."""
        return self.owner == os.getpid()

    @contextmanager
    def holding(self, graph: bytes | None) -> Iterator[list[bytes]]:
        """Within, one graph is compiled, or the given one loaded. The list has it, once it is compiled.

        Where its number is another than is known, the given one is not found, but the number is.
        """
        self._clear()
        made: list[bytes] = []
        placed = self.folder / f"compile_cache_{self.number}.mindir"
        if known := graph is not None:
            placed.write_bytes(graph)
        del graph  # its memory would lie under all that is compiled
        with _cache_enabled(self.root.name):
            yield made
        self.number += known
        for path in self.folder.glob("compile_cache_*.mindir"):
            if not (known and path == placed):
                self.number = int(path.stem.rpartition("_")[2]) + 1
                made.append(path.read_bytes())
        self._clear()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


@cache
def _only_slot() -> _Slot:
    return _Slot()


def _slot() -> _Slot | None:
    slot = _only_slot()
    return slot if slot.usable else None


@contextmanager
def _cache_enabled(folder: str) -> Iterator[None]:
    """MindSpore's cache, on for its C++ part alone.

    Its Python part would look through the imports of the program for what has changed, fails where there is no
    program (``python -c``), and would find too little: the fingerprint stands for that.
    """
    os.putenv(_ENABLE, "1")
    os.putenv(_PATH, folder)
    try:
        yield
    finally:
        os.unsetenv(_ENABLE)
        os.unsetenv(_PATH)


@contextmanager
def _fewer_warnings() -> Iterator[None]:
    """Without the warnings that graphs are loaded unchecked, unless the user has said what to log."""
    if "MS_SUBMODULE_LOG_v" in os.environ or "GLOG_v" in os.environ:
        yield
        return
    os.putenv("MS_SUBMODULE_LOG_v", "{PIPELINE:3}")
    _read_log_levels()
    try:
        yield
    finally:
        os.unsetenv("MS_SUBMODULE_LOG_v")
        _read_log_levels()


def _read_log_levels() -> None:
    """Have MindSpore read the variables of its log again; it offers no other way to change a level."""
    library = ctypes.CDLL(str(Path(ms.__file__).parent / "lib" / "libmindspore_core.so"))
    if read := getattr(library, "_ZN9mindspore22InitSubModulesLogLevelEv", None):
        read()

"""What a compiled graph is made of, as one number: equal numbers, equal graphs, in whichever process.

A graph follows from the cell with all that hangs on it, the sources of its classes, the forms of its inputs and the
settings of MindSpore. Parameters count by name, shape and dtype: their values are inputs of the graph. All other
tensors are constants of it and count by content. What is of no known kind is not left out: it makes the whole opaque.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import time
from enum import Enum
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from types import FunctionType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

STARTED = time.time()
SETTINGS = (
    "device_target", "jit_level", "jit_config", "jit_syntax_level", "debug_level", "deterministic", "check_bprop",
    "grad_for_scalar", "enable_graph_kernel", "graph_kernel_flags", "memory_optimize_level", "max_call_depth",
)  # fmt: skip
# Attributes of nn.Cell that tell when a cell was made and what has been compiled of it, not what it computes.
_HISTORY = frozenset({
    "_create_time", "_phase", "_compile_phase", "arguments_key", "_compile_cache", "_phase_cache", "_compiled",
    "_exist_objs", "_exist_names", "_lazy_construct_sig", "_has_mutable_args_list", "sequence_modified",
    "_is_check_and_refresh", "_init_flag", "_lazy_user_parameters", "_jit_graph_name", "is_top_cell", "_scope",
    "current_phase", "__parse_method__", "__compile_cell_hook__", "_forms",
})  # fmt: skip
_NO_SOURCES = ("builtins", "pybind11_builtins", "mindspore")  # the version stands for them
_PLAIN_ITSELF = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = (type(None), bool, int, float, str, bytes, Path, Enum, ms.Type)


Form = tuple[tuple[str, tuple[int, ...]] | None, ...]


class NotCacheable(Exception):
    """Something that no fingerprint can be taken of."""


def fingerprint(cell: nn.Cell, inputs: tuple[Tensor | None, ...]) -> str:
    """64 hexadecimal digits for the graph that MindSpore compiles of ``cell`` for inputs of these forms.

    Raises:
        NotCacheable: ``cell`` holds something of an unknown kind, such as a hook, or its sources have changed since
            they were imported.
    """
    description = _Description()
    description.add({name: ms.get_context(name) for name in SETTINGS})
    description.add({name: value for name, value in os.environ.items() if name.startswith("MS_")})
    description.add(form(inputs))
    description.add(cell)
    for root in sorted(description.roots):
        description.write(sources(root))
    return description.digest()


def form(inputs: tuple[Tensor | None, ...]) -> Form:
    """dtype and shape of each tensor."""
    return tuple(None if tensor is None else (str(tensor.dtype), tensor.shape) for tensor in inputs)


@cache
def sources(root: Path) -> str:
    """A digest of one source file, or of all of a package.

    Raises:
        NotCacheable: one was written after this process began, which may have imported what was there before.
    """
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
        if path.stat().st_mtime > STARTED:
            raise NotCacheable(f"{path} has changed")
        digest.update(f"{path.relative_to(root.parent)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class _Description:
    """Takes values in and digests them; ``roots`` are the sources of their classes."""

    def __init__(self):
        self.parts = [f"mindspore {ms.__version__} python {sys.version_info[:2]}"]
        self.roots: set[Path] = set()
        self.seen: dict[int, int] = {}  # cells by id; the value is their number

    def digest(self) -> str:
        return hashlib.sha256("".join(self.parts).encode()).hexdigest()

    def write(self, text: str) -> None:
        self.parts.append(f"{len(text)}:{text}")

    def add(self, value: Any) -> None:
        """Raises ``NotCacheable`` for a value of an unknown kind."""
        kind = type(value)
        if kind in _PLAIN_ITSELF or isinstance(value, _PLAIN):
            self.write(f"{kind.__name__} {value!r}")
        elif isinstance(value, (dict, list, tuple)):
            self._add_collection(value)
        elif isinstance(value, nn.Cell):
            self._add_cell(value)
        elif isinstance(value, Parameter):
            self.write(f"parameter {value.name} {value.dtype} {value.shape} {value.requires_grad}")
        elif isinstance(value, (Tensor, np.ndarray, np.generic)):
            self._add_array(value.asnumpy() if isinstance(value, Tensor) else np.asarray(value), str(value.dtype))
        elif isinstance(value, FunctionType) and "<" not in value.__qualname__:
            self.roots.add(source_root(value))
            self.write(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, ops.Primitive):
            self._add_object(value, vars(value) | {"attrs": value.attrs})
        elif dataclasses.is_dataclass(value):
            self._add_object(value, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        else:
            raise NotCacheable(f"{kind.__module__}.{kind.__qualname__}")

    def _add_collection(self, values: dict | list | tuple) -> None:
        self.write(f"{type(values).__name__} {len(values)}")
        for item in chain.from_iterable(values.items()) if isinstance(values, dict) else values:
            if type(item) in _PLAIN_ITSELF:  # as most are: a model has ten thousands
                text = f"{type(item).__name__} {item!r}"
                self.parts.append(f"{len(text)}:{text}")
            else:
                self.add(item)

    def _add_array(self, array: np.ndarray, dtype: str) -> None:
        self.write(f"array {dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}")

    def _add_cell(self, cell: nn.Cell) -> None:
        """All its attributes but its history, and but cached properties, which follow from the others."""
        if id(cell) in self.seen:
            self.write(f"cell {self.seen[id(cell)]}")
            return
        self.seen[id(cell)] = len(self.seen)
        left_out = _HISTORY.union(*map(cached_properties, type(cell).__mro__))
        attributes = {name: value for name, value in vars(cell).items() if name not in left_out}
        self._add_object(cell, {name: value for name, value in attributes.items() if not is_usual(name, value)})

    def _add_object(self, value: Any, attributes: dict[str, Any]) -> None:
        for kind in type(value).__mro__:
            if kind.__module__.partition(".")[0] not in _NO_SOURCES:
                self.roots.add(source_root(kind))
        self.write(f"{type(value).__module__}.{type(value).__qualname__}")
        self.add(dict(sorted(attributes.items())))


@cache
def fresh_cell() -> dict[str, Any]:
    """The attributes that every cell has, as they are at first."""
    return {"_func_graph_flags": None, **vars(nn.Cell())}


def is_usual(name: str, value: Any) -> bool:
    """Whether an attribute of a cell is as any cell's is at first; empty collections appear where None was."""
    usual = fresh_cell().get(name, ...)
    return value is usual or (usual is not ... and not usual and not value)


@cache
def cached_properties(kind: type) -> frozenset[str]:
    """The names of those that the class itself defines."""
    return frozenset(name for name, value in vars(kind).items() if isinstance(value, cached_property))


@cache
def source_root(kind: type | FunctionType) -> Path:
    """The folder of the outermost package that a class or function is of, or its file where it is of none.

    Raises:
        NotCacheable: it was typed in.
    """
    module = sys.modules[kind.__module__.partition(".")[0]]
    if file := getattr(module, "__file__", None):
        return Path(file).parent if hasattr(module, "__path__") else Path(file)
    raise NotCacheable(f"{kind.__qualname__} has no source file")

"""What a compiled graph is made of, as one number: equal numbers, equal graphs, in whichever process.

A graph follows from the cell with all that hangs on it, the sources of its classes, the forms of its inputs and the
settings of MindSpore. Parameters count by name, shape and dtype: their values are inputs of the graph. All other
tensors are constants of it and count by content. Functions count by their code, by what they close over and by the
globals that they read; of a cell, those that its ``construct`` may call. What is of no known kind is not left out: it
makes the whole opaque.
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
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore._c_expression import MixedPrecisionType
from mindspore.ops.composite.base import GradOperation, _Grad

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
# What a gradient operation remembers of its last call in Python, where its graph does not come from.
_LAST_CALL = frozenset({"grad_fn", "fn", "weights_id", "pynative_", "grad_position"})
_PARALLEL = (
    "parallel_mode", "device_num", "gradients_mean", "gradient_fp32_sync", "loss_repeated_mean", "full_batch",
    "enable_parallel_optimizer",
)  # fmt: skip
_PARAMETER = (
    "requires_grad", "layerwise_parallel", "parallel_optimizer", "parallel_optimizer_comm_recompute", "comm_fusion",
    "requires_aggr", "use_persistent_storage", "storage_format", "cache_enable", "param_strategy",
)  # fmt: skip
_NO_SOURCES = sys.stdlib_module_names | {"pybind11_builtins", "mindspore", "numpy"}  # the versions stand for them
_PLAIN = (type(None), bool, int, float, str, bytes, Path, Enum, ms.Type, MixedPrecisionType)
_CALLED = ("construct", "bprop")


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
    description.add({name: ms.get_auto_parallel_context(name) for name in _PARALLEL})
    description.add(ms.get_seed())  # operators that draw may have it from there
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
    """Takes values in and digests them; ``roots`` are the sources of their classes and functions."""

    def __init__(self):
        self.parts = [f"mindspore {ms.__version__} numpy {np.__version__} python {sys.version_info[:2]}"]
        self.roots: set[Path] = set()
        self.seen: dict[tuple[int, Any], tuple[int, Any]] = {}  # numbers by id, with what has the id, which keeps it

    def digest(self) -> str:
        return hashlib.sha256("".join(self.parts).encode()).hexdigest()

    def write(self, text: str) -> None:
        self.parts.append(f"{len(text)}:{text}")

    def add(self, value: Any) -> None:
        """Raises ``NotCacheable`` for a value of an unknown kind."""
        kind = type(value)
        if kind in _PLAIN or isinstance(value, _PLAIN):  # nearly all are of just these
            self.write(f"{kind.__name__} {value!r}")
        elif isinstance(value, (dict, list, tuple)):
            self._add_collection(value)
        elif isinstance(value, nn.Cell):
            self._add_cell(value)
        elif isinstance(value, Parameter):
            self._add_parameter(value)
        elif isinstance(value, (Tensor, np.ndarray, np.generic)):
            self._add_array(value.asnumpy() if isinstance(value, Tensor) else np.asarray(value), str(value.dtype))
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self.add(value.__self__)
            self._add_function(value.__func__, type(value.__self__))
        elif isinstance(value, ops.Primitive):
            if self._is_new(value, "primitive"):
                self._add_object(value, vars(value) | {"attrs": value.attrs})
        elif kind in (GradOperation, _Grad):
            self._add_object(value, {name: held for name, held in vars(value).items() if name not in _LAST_CALL})
        elif kind in (ops.HyperMap, ops.Map):  # of "reverse", unseen in C++, no result depends
            self._add_object(value, vars(value))
        elif kind is ops.MultitypeFuncGraph:
            self._add_overloads(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._add_object(value, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif has_only_attributes(value):
            if self._is_new(value, "object"):
                self._add_object(value, vars(value))
        else:
            raise NotCacheable(f"{kind.__module__}.{kind.__qualname__}")

    def _is_new(self, value: Any, kind: str, owner: Any = None) -> bool:
        """Whether this has not been described yet; where it has, its number is written."""
        if known := self.seen.get((id(value), owner)):
            self.write(f"{kind} {known[0]}")
            return False
        self.seen[id(value), owner] = len(self.seen), value
        return True

    def _add_root(self, kind: type | FunctionType | ModuleType) -> None:
        if top_package(kind) not in _NO_SOURCES:
            self.roots.add(source_root(kind))

    def _add_collection(self, values: dict | list | tuple) -> None:
        self.write(f"{type(values).__name__} {len(values)}")
        for item in chain.from_iterable(values.items()) if isinstance(values, dict) else values:
            self.add(item)

    def _add_array(self, array: np.ndarray, dtype: str) -> None:
        self.write(f"array {dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}")

    def _add_parameter(self, parameter: Parameter) -> None:
        if self._is_new(parameter, "parameter"):
            kind = [getattr(parameter.param_info, name) for name in _PARAMETER]
            self.write(f"parameter {parameter.name} {parameter.dtype} {parameter.shape} {kind}")

    def _add_cell(self, cell: nn.Cell) -> None:
        """What it may call, and all its attributes but its history and cached properties, which follow from others."""
        if not self._is_new(cell, "cell"):
            return
        left_out = _HISTORY.union(*map(cached_properties, type(cell).__mro__))
        attributes = {name: value for name, value in vars(cell).items() if name not in left_out}
        self._add_object(cell, {name: value for name, value in attributes.items() if not is_usual(name, value)})
        if self._is_new(type(cell), "class"):
            for name in _CALLED:
                self._add_methods(type(cell), name)

    def _add_object(self, value: Any, attributes: dict[str, Any]) -> None:
        self._add_class(type(value))
        self.add(dict(sorted(attributes.items())))

    def _add_class(self, kind: type) -> None:
        self.write(f"{kind.__module__}.{kind.__qualname__}")
        for base in kind.__mro__:
            self._add_root(base)

    def _add_methods(self, owner: type, name: str) -> None:
        """The functions of that name in a class and its bases."""
        for kind in owner.__mro__:
            found = vars(kind).get(name)
            for part in (found, getattr(found, "__func__", None), getattr(found, "fget", None)):
                if isinstance(part, FunctionType):
                    self._add_function(part, owner)

    def _add_function(self, function: FunctionType, owner: type | None = None) -> None:
        """Its code, what it closes over, the globals that it reads, and what it calls of its self, an ``owner``."""
        if not self._is_new(function, "function", owner):
            return
        self._add_root(function)
        self.write(f"{function.__module__}.{function.__qualname__}")
        if function.__name__ == "<lambda>":  # MindSpore finds it by its line, which may have several
            raise NotCacheable(f"a lambda of {function.__module__}")
        code = function.__code__
        self._add_code(code)
        closed = dict(zip(code.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
        for name, value in closed.items():
            if not (name in ("hash_obj", "staging_specialize") and hasattr(function, "__wrapped_by_jit__")):
                self._add_read(value, set())
        names = names_in(code)
        if top_package(function) not in _NO_SOURCES:
            self.add([function.__defaults__, function.__kwdefaults__])
            for name in sorted(names & function.__globals__.keys()):
                self._add_read(function.__globals__[name], names)
        if owner:
            for name in sorted(names):
                self._add_methods(owner, name)

    def _add_read(self, value: Any, names: set[str]) -> None:
        """A global, or what is closed over; of a module, those of its globals that ``names`` name."""
        if isinstance(value, ModuleType):
            self._add_root(value)
            if top_package(value) not in _NO_SOURCES and self._is_new(value, "module", frozenset(names)):
                for name in sorted(names & vars(value).keys()):
                    self._add_read(vars(value)[name], names)
        elif isinstance(value, type):
            self._add_class(value)
        else:
            self.add(value)

    def _add_code(self, code: CodeType) -> None:
        self.write(f"{code.co_qualname} {code.co_firstlineno} {code.co_names} {code.co_varnames}")
        self.write(hashlib.sha256(code.co_code).hexdigest())
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant)
            else:
                self.write(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))

    def _add_overloads(self, overloaded: ops.MultitypeFuncGraph) -> None:
        """Its functions. Its other arguments are in C++ alone, so that only what sources name for good is known."""
        functions = [function for _, function in overloaded.entries]
        known = chain.from_iterable(function.__globals__.values() for function in functions)
        if not any(value is overloaded for value in known):
            raise NotCacheable("a MultitypeFuncGraph that no module has")
        if self._is_new(overloaded, "overloaded"):
            self.write(f"overloaded {[list(map(str, types)) for types, _ in overloaded.entries]}")
            self.add([*functions, overloaded.default_func])


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
def names_in(code: CodeType) -> set[str]:
    """The names of globals and attributes in it, and in the functions within it."""
    return set(code.co_names).union(*(names_in(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


class _Empty:
    pass


def has_only_attributes(value: Any) -> bool:
    """Whether an object has no more to it than ``vars`` tells: no slots, and nothing in C."""
    small = type(value).__basicsize__ == _Empty.__basicsize__
    return small and hasattr(value, "__dict__") and not isinstance(value, type)


def top_package(value: type | FunctionType | ModuleType) -> str:
    """The name of the outermost package that it is of."""
    return (value.__name__ if isinstance(value, ModuleType) else value.__module__).partition(".")[0]


@cache
def source_root(kind: type | FunctionType | ModuleType) -> Path:
    """The folder of the outermost package that it is of, or its file where it is of none.

    Raises:
        NotCacheable: it was typed in.
    """
    module = sys.modules[top_package(kind)]
    if file := getattr(module, "__file__", None):
        return Path(file).parent if hasattr(module, "__path__") else Path(file)
    raise NotCacheable(f"{kind.__name__} has no source file")

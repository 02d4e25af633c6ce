"""The pickle inside a torch file, read as ``torch.load(weights_only=True)`` reads it, and never run.

A machine of our own for the operations that torch.save writes. It makes tables, lists, tuples, plain values and
``View``s, all of them new; a global is a word that stands for something, never the thing itself, so that nothing of
this program can be reached or changed from a file. What it takes is bounded: bytes, operations, and what is used as a
key. What torch refuses is refused; of what torch takes, only what a state dictionary of plain tensors needs is taken.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.errors import InputError, quote
from ms_impl.io import dtypes
from ms_impl.io.dtypes import DType
from ms_impl.io.tensors import Shape

MAX_BYTES = 32 << 20
MAX_OPERATIONS = 5_000_000  # a tensor takes some 40
_ODD_KEY = 500  # operations that a key costs that is no text: such can be made to collide
_MAX_DIMENSIONS = 32  # numpy's limit
_MAX_NUMBER = (1 << 63) - 1

_STORAGES = {dtype.torch: dtype for dtype in dtypes.ALL if dtype.torch}
_BYTES = "UntypedStorage"  # of the types without a storage class of their own
_BY_NAME = {"uint16": "U16", "uint32": "U32", "uint64": "U64"}
_UNTYPED = {torch: dtype for torch, name in _BY_NAME.items() for dtype in dtypes.ALL if dtype.safetensors == name}
_FLOATING = frozenset({"fp16", "bf16", "fp32", "fp64"})

_DTYPE_WORDS = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "half",
        "float",
        "double",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "short",
        "int",
        "long",
        "bool",
        "complex64",
        "complex128",
        "float8_e4m3fn",
        "float8_e5m2",
    ]
)
_FUNCTIONS = frozenset(
    ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
     "_rebuild_parameter_with_state")
)  # fmt: skip
_ALIASES = {"__builtin__.set": "builtins.set"}  # as protocol 2 has it
_WORDS = (
    {f"torch.{name}" for name in (*_STORAGES, *_DTYPE_WORDS, "Size", "Tensor", "device")}
    | {f"torch._utils.{name}" for name in _FUNCTIONS}
    | {"torch.storage.UntypedStorage", "torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter"}
    | {"collections.OrderedDict", "_codecs.encode", "builtins.set"}
)
_DEVICE_TYPES = ("cpu", "cuda", "meta", "mps")

# Attributes that tensors have themselves and that Python code may set, or fail to set.
_OWN_ATTRIBUTES = frozenset(
    [
        "H",
        "T",
        "__class__",
        "__dict__",
        "_backward_hooks",
        "_base",
        "_cdata",
        "_grad",
        "_grad_fn",
        "_has_symbolic_sizes_strides",
        "_post_accumulate_grad_hooks",
        "_python_dispatch",
        "_version",
        "__weakref__",
        "data",
        "device",
        "dtype",
        "grad",
        "grad_dtype",
        "grad_fn",
        "imag",
        "is_cpu",
        "is_cuda",
        "is_ipu",
        "is_leaf",
        "is_maia",
        "is_meta",
        "is_mkldnn",
        "is_mps",
        "is_mtia",
        "is_nested",
        "is_quantized",
        "is_sparse",
        "is_sparse_csr",
        "is_vulkan",
        "is_xla",
        "is_xpu",
        "itemsize",
        "layout",
        "mH",
        "mT",
        "name",
        "nbytes",
        "ndim",
        "output_nr",
        "real",
        "requires_grad",
        "retains_grad",
        "shape",
        "volatile",
        "__cuda_array_interface__",
    ]
)


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to the raw bytes of one entry. ``dtype`` is None where the reference does not tell the type."""

    dtype: DType | None
    key: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class View:
    """What the pickle says of one tensor; offset and strides count elements."""

    storage: Storage
    dtype: DType
    offset: int
    shape: Shape
    strides: Shape


@dataclass(frozen=True, slots=True)
class _Word:
    """A global, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Thing:
    """A value that no tensor needs, and of which only the kind is kept."""

    kind: str


class _Ordered(dict):
    """An OrderedDict; attributes are accepted and left out."""

    __slots__ = ()


class _Refused(Exception):
    """Sound, but not to be read."""


class _Damaged(Exception):
    """Not what torch.save writes."""


def read_pickle(data: bytes, source: str) -> dict[str, View]:
    """The tensors of a pickled state dictionary, by name.

    Raises:
        InputError: beginning with ``source``: it asks for what plain weights never need, or is damaged.
    """
    machine = _Machine(data)
    try:
        state = machine.load()
    except _Refused as error:
        raise InputError(f"{source}: refused: its pickle {error}") from error
    except _Damaged as error:
        raise InputError(f"{source}: its data.pkl is damaged ({error})") from error
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise InputError(f"{source}: its data.pkl is damaged ({type(error).__name__})") from error
    if type(state) not in (dict, _Ordered):
        raise InputError(f"{source}: holds a {_kind(state)}, not a dictionary of tensors")
    for name, value in state.items():
        if type(name) is not str or type(value) is not View:
            raise InputError(f"{source}: entry {quote(name)} is not a tensor; save the state dictionary alone")
    return state


class _Machine:
    """Reads operation by operation. The stack's parts are separated by marks, as torch's unpickler has it."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0
        self._left = MAX_OPERATIONS
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """The object that the pickle describes."""
        while True:
            self._spend(1)
            code = self._read(1)[0]
            if code == _STOP:
                return self._stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise _Refused(f"has the operation {code:#04x}, which torch.save does not write")
            operation(self)

    def _spend(self, operations: int) -> None:
        self._left -= operations
        if self._left < 0:
            raise _Refused(f"takes more than {MAX_OPERATIONS:,} operations")

    def _read(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _Damaged("it ends too early")
        data, self._at = self._data[self._at : end], end
        return data

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise _Damaged("it ends too early")
        line, self._at = self._data[self._at : end], end + 1
        return line.decode()

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._read(struct.calcsize(layout)))[0]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def tuple(self, size: int | None = None) -> None:
        if size is None:
            items = self._pop_mark()
        else:
            if len(self._stack) < size:
                raise _Damaged("a tuple of what is not there")
            items = [self._stack.pop() for _ in range(size)][::-1]
        self._push(tuple(items))

    def append(self, several: bool) -> None:
        items = self._pop_mark() if several else [self._stack.pop()]
        if type(self._stack[-1]) is not list:
            raise _Refused(f"appends to a {_kind(self._stack[-1])}")
        self._stack[-1].extend(items)

    def set_items(self, several: bool) -> None:
        items = self._pop_mark() if several else [self._stack.pop(), self._stack.pop()][::-1]
        table = self._stack[-1]
        if type(table) not in (dict, _Ordered):
            raise _Refused(f"sets items of a {_kind(table)}")
        if len(items) % 2:
            raise _Damaged("a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            table[self._key(key)] = value

    def unicode(self) -> None:
        self._push(str(self._read(self._number("<I")), "utf-8", "surrogatepass"))

    def short_string(self) -> None:
        self._push(self._read(self._read(1)[0]).decode())

    def long(self) -> None:
        self._push(int.from_bytes(self._read(self._read(1)[0]), "little", signed=True))

    def get(self, layout: str) -> None:
        self._push(self._memo[self._number(layout)])

    def put(self, layout: str) -> None:
        self._memo[self._number(layout)] = self._stack[-1]

    def word(self) -> None:
        module, name = self._line(), self._line()
        full = f"{module}.{name}"
        full = _ALIASES.get(full, full)
        if full not in _WORDS:
            what = "a storage of an element type that is not supported, " if name.endswith("Storage") else ""
            shown = full if len(full) <= 80 and full.isprintable() else quote(full)
            raise _Refused(f"asks for {what}{shown}, which plain weights never need")
        self._push(_Word(full))

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is not _Ordered or type(state) not in (dict, _Ordered):
            raise _Refused(f"sets the state of a {_kind(target)}")

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not _Word or type(arguments) is not tuple:
            raise _Refused(f"calls a {_kind(function)}")
        self._push(self._call(function.name, arguments))

    def _call(self, name: str, arguments: Sequence[Any]) -> Any:
        last = name.rpartition(".")[2]
        if last in _REBUILD:
            return _REBUILD[last](*arguments)
        if name == "torch._tensor._rebuild_from_type_v2":
            return self._rebuild_from_type(*arguments)
        if name == "collections.OrderedDict":
            return self._ordered(*arguments)
        if name in _CONSTRUCTORS:
            value = _CONSTRUCTORS[name](*arguments)
            self._spend(len(value) if type(value) is tuple else 1)
            return value
        raise _Refused(f"calls {name}, which plain weights never need")

    def _rebuild_from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> View:
        """A tensor with attributes of its own, which are left out."""
        if type(function) is not _Word or function.name.rpartition(".")[2] not in _FUNCTIONS or not _is("Tensor", kind):
            raise _Refused("asks for a tensor of another class")
        _check_state(state)
        if type(arguments) is not tuple:
            raise _Damaged("a tensor without arguments")
        return _REBUILD[function.name.rpartition(".")[2]](*arguments)

    def _ordered(self, items: Any = ()) -> _Ordered:
        table = _Ordered()
        if type(items) not in (list, tuple):
            raise _Damaged("an OrderedDict of something else than pairs")
        self._spend(len(items))
        for pair in items:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise _Damaged("an OrderedDict of something else than pairs")
            table[self._key(pair[0])] = pair[1]
        return table

    def _key(self, key: Any) -> Any:
        if type(key) is not str:
            _check_key(key)
            self._spend(_ODD_KEY)
        return key

    def persistent(self) -> None:
        identifier = self._stack.pop()
        if type(identifier) is not tuple or len(identifier) != 5 or identifier[0] != "storage":
            raise _Damaged(f"unknown reference {quote(identifier)}")
        _, word, key, location, size = identifier
        if type(word) is not _Word or type(key) is not str or type(location) is not str:
            raise _Damaged("a storage without type, key or location")
        _check_numbers(size)
        name = word.name.rpartition(".")[2]
        if name not in _STORAGES and name != _BYTES:
            raise _Damaged(f"{word.name} is not a storage")
        dtype = _STORAGES.get(name)
        storage = Storage(dtype, key, size * (dtype.itemsize if dtype else 1))
        self._push(self._storages.setdefault(key, storage) if storage.nbytes else storage)


def _check_key(key: Any) -> None:
    """Keys are hashed, which would go through all of a nested one."""
    flat = key if type(key) is tuple and len(key) <= 64 else (key,)
    if any(part is not None and type(part) not in (str, int, float, bool, _Word, _Thing) for part in flat):
        raise _Refused(f"has a {_kind(key)} as a key")


def _check_numbers(*numbers: Any) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
            raise _Damaged(f"{quote(number)} where a size is expected")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: DType | None = None) -> View:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise _Damaged("a tensor without storage, shape or strides")
    _check_numbers(offset, *shape, *strides)
    if len(shape) != len(strides):
        raise _Damaged(f"{len(shape)} dimensions but {len(strides)} strides")
    if len(shape) > _MAX_DIMENSIONS:
        raise _Refused(f"has a tensor of {len(shape)} dimensions")
    size = 1
    for length in shape:
        size *= length
        if size > _MAX_NUMBER:
            raise _Damaged("a tensor of more elements than there can be")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise _Refused("has a tensor without an element type")
    return View(storage, dtype, offset, shape, strides)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, metadata: Any = None
) -> View:
    view = _rebuild_tensor(storage, offset, shape, strides)
    _check_extras(view.dtype, gradient, hooks, metadata)
    return view


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> View:
    """The types without a storage class of their own."""
    name = dtype.name.rpartition(".")[2] if type(dtype) is _Word else ""
    if name not in _UNTYPED:
        raise _Refused(f"has a tensor of element type {name or quote(dtype)}, which is not supported")
    if type(storage) is not Storage or storage.dtype is not None:
        raise _Damaged("a tensor of another type than its storage")
    view = _rebuild_tensor(storage, offset, shape, strides, _UNTYPED[name])
    _check_extras(view.dtype, gradient, hooks, metadata)
    return view


def _rebuild_parameter(data: Any, gradient: Any, hooks: Any) -> View:
    if type(data) is not View:
        raise _Damaged("a parameter that is not a tensor")
    _check_extras(data.dtype, gradient, hooks, None)
    return data


def _rebuild_parameter_with_state(data: Any, gradient: Any, hooks: Any, state: Any) -> View:
    """A parameter with attributes of its own, which are left out."""
    _check_state(state)
    return _rebuild_parameter(data, gradient, hooks)


def _check_extras(dtype: DType, gradient: Any, hooks: Any, metadata: Any) -> None:
    """What a tensor is saved with beside its values; metadata can mean that they are to be negated."""
    if type(gradient) is not bool or gradient and dtype.name not in _FLOATING:
        raise _Damaged("a gradient for what can have none")
    if hooks is not None and (type(hooks) is not _Ordered or hooks):
        raise _Refused("has a tensor with hooks")
    if metadata is not None and (type(metadata) is not dict or metadata):
        raise _Refused("has a tensor with metadata")


def _check_state(state: Any) -> None:
    """Attributes of a tensor: a table of them, or that and a table of slots."""
    tables = state if type(state) is tuple and len(state) == 2 else (state,)
    for table in tables:
        if table is None:
            continue
        if type(table) not in (dict, _Ordered) or any(type(name) is not str for name in table):
            raise _Damaged("a tensor whose attributes are not a table")
        if own := next((name for name in table if name in _OWN_ATTRIBUTES), None):
            raise _Refused(f"sets the attribute {own} of a tensor")


def _size(sizes: Any = ()) -> Shape:
    if type(sizes) not in (tuple, list):
        raise _Damaged("a size that is not a tuple")
    if any(type(size) is not int or abs(size) > _MAX_NUMBER for size in sizes):
        raise _Damaged("a size of something else than numbers")
    return tuple(sizes)


def _device(kind: Any, index: Any = 0) -> _Thing:
    if kind not in _DEVICE_TYPES or type(index) is not int or not 0 <= index <= 127:
        raise _Refused(f"asks for the device {quote(kind)}")
    return _Thing("device")


def _encoded(text: Any, encoding: Any) -> _Thing:
    if type(text) is not str or encoding != "latin1" or not _LATIN_1.fullmatch(text):
        raise _Refused("asks for an unusual encoding")
    return _Thing("bytes")


def _set(items: Any = ()) -> _Thing:
    if type(items) not in (list, tuple):
        raise _Damaged("a set of what is not a list")
    for item in items[:1000]:
        _check_key(item)
    if len(items) > 1000:
        raise _Refused("has a set of more than 1,000 elements")
    return _Thing("set")


def _is(name: str, value: Any) -> bool:
    return type(value) is _Word and value.name == f"torch.{name}"


def _kind(value: Any) -> str:
    kinds = {_Word: "function or type", _Ordered: "dict", View: "tensor", Storage: "storage", _Thing: "value"}
    return kinds.get(type(value), type(value).__name__)


_LATIN_1 = re.compile("[\0-\xff]*")
_REBUILD: dict[str, Callable[..., View]] = {
    "_rebuild_tensor": lambda storage, offset, shape, strides: _rebuild_tensor(storage, offset, shape, strides),
    "_rebuild_tensor_v2": _rebuild_tensor_v2,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter_with_state,
}
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encoded,
    "builtins.set": _set,
}
_STOP = ord(".")
_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda machine: machine._read(1),  # PROTO
    ord("c"): _Machine.word,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
    ord("("): _Machine.mark,
    ord("t"): _Machine.tuple,
    ord(")"): lambda machine: machine._push(()),
    0x85: lambda machine: machine.tuple(1),
    0x86: lambda machine: machine.tuple(2),
    0x87: lambda machine: machine.tuple(3),
    ord("]"): lambda machine: machine._push([]),
    ord("}"): lambda machine: machine._push({}),
    ord("a"): lambda machine: machine.append(several=False),
    ord("e"): lambda machine: machine.append(several=True),
    ord("s"): lambda machine: machine.set_items(several=False),
    ord("u"): lambda machine: machine.set_items(several=True),
    ord("N"): lambda machine: machine._push(None),
    0x88: lambda machine: machine._push(True),
    0x89: lambda machine: machine._push(False),
    ord("J"): lambda machine: machine._push(machine._number("<i")),
    ord("K"): lambda machine: machine._push(machine._read(1)[0]),
    ord("M"): lambda machine: machine._push(machine._number("<H")),
    ord("G"): lambda machine: machine._push(machine._number(">d")),
    ord("X"): _Machine.unicode,
    ord("U"): _Machine.short_string,
    0x8A: _Machine.long,
    ord("h"): lambda machine: machine.get("<B"),
    ord("j"): lambda machine: machine.get("<I"),
    ord("q"): lambda machine: machine.put("<B"),
    ord("r"): lambda machine: machine.put("<I"),
}

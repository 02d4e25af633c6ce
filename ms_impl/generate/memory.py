"""Whether a model fits into memory, before it is loaded. On a CPU; what a device has is not asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
from mindspore import nn

from ms_impl.cells.device import on_ascend
from ms_impl.errors import InputError
from ms_impl.generate.host_weights import PIECE
from ms_impl.generate.layer_frame import one_kind
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.dtypes import BF16, FP16, FP32, DType
from ms_impl.io.tensors import CheckpointTensor, StoredTensor

COLUMNS, CHUNK = 2048, 256  # of the cache that is reckoned with, and of a chunk of the prompt
PROGRAM = 1 << 30  # bytes: the libraries, and MindSpore's compiler
_CGROUPS = (  # what a container may use, and what it uses, with what the kernel can give back
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "total_inactive_file"),
)  # fmt: skip

_DTYPES = {ms.float32: FP32, ms.float16: FP16, ms.bfloat16: BF16}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """Bytes of memory of its own that a model takes: what is mapped from a file is none."""

    weights: int
    caches: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.working

    def __str__(self) -> str:
        parts = f"weights {gigabytes(self.weights)}, cache {gigabytes(self.caches)}, work {gigabytes(self.working)}"
        return f"{gigabytes(self.total)} ({parts})"


def available() -> int:
    """Bytes that this process may still take: what the machine has, and what its control group leaves."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return min([found, *_group_limits()])


def _group_limits() -> Iterable[int]:
    for limit_file, used_file, inactive in _CGROUPS:
        limit = Path(limit_file)
        try:
            most, now = int(limit.read_text()), int(Path(used_file).read_text())  # "max" is none
            stats = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
            yield max(most - now + int(stats.get(inactive, 0)), 0)
        except (OSError, ValueError):
            continue


def build_to_fit(build: Callable[[DType], nn.Cell], path: Path, dtype: DType | None, merged: bool) -> nn.Cell:
    """The model that ``build`` makes, without values, for weights in ``dtype``.

    None: the checkpoint's own on Ascend, and where fp32 would not fit; else fp32.

    Args:
        merged: an adapter is merged into the weights, which then are not the file.

    Raises:
        InputError: it does not fit: what is needed, what there is, what would fit.
    """
    tensors = list(open_checkpoint(path).tensors.values())
    own = next((tensor.dtype for tensor in tensors if tensor.dtype in (FP16, BF16)), FP32)
    if on_ascend():
        return build(dtype or next((tensor.dtype for tensor in tensors), FP32))
    room, wanted = available(), dtype or FP32
    model = build(wanted)
    needed = need(model, tensors, wanted, merged)
    if needed.total <= room:
        return model
    others = [each for each in (own, BF16) if each != wanted]
    fitting = [(each, found) for each in others if (found := need(build(each), tensors, each, merged)).total <= room]
    if fitting and dtype is None:
        logger.warning("%s: as fp32 it needs %s, and %s are available: loaded as %s, which needs %s",
                       path, needed, gigabytes(room), fitting[0][0].name, fitting[0][1])  # fmt: skip
        return build(fitting[0][0])
    way = "; ".join(f"as {each.name} it needs {found}: give that dtype" for each, found in fitting[:1])
    raise InputError(
        f"{path}: loaded as {wanted.name} it needs {needed} of memory, and {gigabytes(room)} are available; "
        + (way or "no other dtype fits, either: free memory, or take a smaller model")
    )


def check_memory(model: nn.Cell, path: Path, merged: bool) -> None:
    """Raises InputError where a model, still without values, does not fit with the weights at ``path``.

    ``merged``: as of ``build_to_fit``.
    """
    if on_ascend():
        return
    dtype = _DTYPES[next(iter(model.get_parameters())).dtype]
    needed, room = need(model, open_checkpoint(path).tensors.values(), dtype, merged), available()
    if needed.total > room:
        raise InputError(
            f"{path}: with model.model_config.param_init_type {dtype.name} it needs {needed} of memory, and "
            f"{gigabytes(room)} are available; weights of 16 bits, if the file has them so, stay in the file: set "
            "its type; or free memory"
        )


def need(model: nn.Cell, tensors: Iterable[CheckpointTensor], dtype: DType, merged: bool) -> Need:
    """What a model in ``dtype`` needs, with a cache of ``COLUMNS``, whose weights are these tensors of a file."""
    private = (tensor for tensor in tensors if merged or tensor.dtype != dtype or not _is_mapped(tensor))
    whole = sum(parameter.nbytes for parameter in model.get_parameters())  # the file may have parts that none is of
    weights = min(sum(tensor.size for tensor in private) * dtype.itemsize, whole)
    parts = model.decoder_parts()
    if parts is None or not one_kind(parts.cells):  # a graph of the whole holds all casts at once
        casts = sum(parameter.size * 4 for parameter in model.get_parameters() if parameter.dtype != ms.float32)
        return Need(weights, 0, PROGRAM + casts)
    width, inner = parts.embedding.shape[1], parts.layers[0].down.weight.shape[1]
    frame = sum(parameter.size for parameter in parts.cells[0].get_parameters()) * 4 if dtype != FP32 else 0
    scores = 3 * parts.heads * CHUNK * COLUMNS * 4
    activations = CHUNK * (8 * width + 3 * inner) * 4 + 2 * PIECE * 4
    caches = 2 * len(parts.layers) * parts.kv_heads * parts.head_dim * COLUMNS * 4
    return Need(weights, caches, PROGRAM + frame + scores + activations)


def _is_mapped(tensor: CheckpointTensor) -> bool:
    return isinstance(tensor, StoredTensor) and len(tensor.pieces) == 1


def gigabytes(count: int) -> str:
    """As people read it."""
    return f"{count / 1e9:,.1f} GB"

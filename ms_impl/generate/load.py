"""A checkpoint on disk → a model and its template, ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from ms_impl import families
from ms_impl.cells.device import on_ascend
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.checkpoint_assets import find_config
from ms_impl.io.dtypes import float_named
from ms_impl.io.json_files import read_json
from ms_impl.weights import MINDSPORE_DTYPES, load_weights


def load(
    path: str | Path,
    dtype: str | None = None,
    config: str | Path | None = None,
    adapter: str | Path | None = None,
    model_type: str | None = None,
) -> tuple[nn.Cell, Any]:
    """Model in eval mode and template of a checkpoint.

    The default settings of ``model.generate`` and ``model.chat`` are those of the checkpoint's generation_config.json.

    Args:
        path: a checkpoint directory, Hugging Face's or converted; or one converted .ckpt or .safetensors file.
        dtype: of the weights: ``fp32``, ``fp16`` or ``bf16``, or ``float32`` and so on. None: the checkpoint's own on
            Ascend, else fp32.
            The model computes in it, too; but the CPU, which has no bf16 arithmetic, does so in fp32.
        config: the directory with config.json, the vocabulary and generation_config.json, where ``path`` is one file.
        adapter: the directory of a LoRA adapter, PEFT's or this project's. It is merged into the weights in memory, as
            convert/merge_adapter.py does it on disk: the model is that of the merged checkpoint, bit for bit, and
            decodes as fast.
        model_type: the name of the family, where config.json does not tell it or another is meant.

    Raises:
        InputError: a file is missing or damaged, the family unknown, the weights do not fit the configuration, or the
            adapter does not fit the weights.
    """
    config_file = find_config(Path(path), Path(config) if config else None)
    family = families.for_config(read_json(config_file), str(config_file), model_type)
    settings = family.resolve("config").from_file(config_file)
    weights = _weights_dtype(path, dtype)
    compute = ms.float32 if weights == ms.bfloat16 and not on_ascend() else weights
    with no_init_parameters():
        model = family.resolve("model")(settings, compute, weights)
    load_weights(model, path, family, adapter)
    template = family.make_template(config_file.parent, settings, (adapter, path))
    model.generation = GenerationConfig.for_checkpoint(Path(path), config_file, adapter, family.generation)
    return model.set_train(False), template


def _weights_dtype(path: str | Path, name: str | None) -> ms.Type:
    if name is None:
        tensors = open_checkpoint(path).tensors.values() if on_ascend() else ()
        name = next((tensor.dtype.name for tensor in tensors), "fp32")
    return MINDSPORE_DTYPES[float_named(name, "dtype")]

"""A checkpoint on disk → a model and its template, ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from ms_impl import families
from ms_impl.cells.device import on_ascend
from ms_impl.families import Family
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.memory import build_to_fit
from ms_impl.io.checkpoint_assets import find_config
from ms_impl.io.dtypes import BF16, DType, float_named
from ms_impl.io.json_files import read_json
from ms_impl.kernels.operators import multiply_in_bf16
from ms_impl.weights import MINDSPORE_DTYPES, load_weights


def load(
    path: str | Path,
    dtype: str | None = None,
    config: str | Path | None = None,
    adapter: str | Path | None = None,
    model_type: str | None = None,
    compute_dtype: str | None = None,
) -> tuple[nn.Cell, Any]:
    """Model in eval mode and template of a checkpoint.

    The default settings of ``model.generate`` and ``model.chat`` are those of the checkpoint's generation_config.json.

    Args:
        path: a checkpoint directory, Hugging Face's or converted; or one converted .ckpt or .safetensors file.
        dtype: of the weights: ``fp32``, ``fp16`` or ``bf16``, or ``float32`` and so on. None: the checkpoint's own on
            Ascend, and where fp32 would not fit into memory; else fp32.
        config: the directory with config.json, the vocabulary and generation_config.json, where ``path`` is one file.
        adapter: the directory of a LoRA adapter, PEFT's or this project's. It is merged into the weights in memory, as
            convert/merge_adapter.py does it on disk: the model is that of the merged checkpoint, bit for bit, and
            decodes as fast.
        model_type: the name of the family, where config.json does not tell it or another is meant.
        compute_dtype: of the activations, by the same names. None: that of the weights; but a CPU computes in fp32
            from bf16. ``bf16`` on a CPU: in fp32, but where it reads a prompt or an image, linear layers round both
            factors to bf16, which is faster on a processor with AMX or AVX512-BF16.

    Raises:
        InputError: a file is missing or damaged, the family unknown, the weights do not fit the configuration, or the
            adapter does not fit the weights; or the memory does not suffice, and then what would fit; or bf16 on a
            processor that does not multiply it.
    """
    model, family, config_file = load_model(path, dtype, config, adapter, model_type, compute_dtype)
    template = family.make_template(config_file.parent, model.config, (adapter, path))
    model.generation = GenerationConfig.for_checkpoint(Path(path), config_file, adapter, family.generation)
    return model, template


def load_model(
    path: str | Path,
    dtype: str | None = None,
    config: str | Path | None = None,
    adapter: str | Path | None = None,
    model_type: str | None = None,
    compute_dtype: str | None = None,
) -> tuple[nn.Cell, Family, Path]:
    """The model alone, with its family and its config.json: no vocabulary is needed. Otherwise as ``load``."""
    config_file = find_config(Path(path), Path(config) if config else None)
    family = families.for_config(read_json(config_file), str(config_file), model_type)
    settings = family.resolve("config").from_file(config_file)
    activations = compute_dtype and float_named(compute_dtype, "compute_dtype")
    rounds = activations == BF16 and not on_ascend()

    def build(weights: DType) -> nn.Cell:
        """A model without values, which takes no memory yet."""
        theirs, compute = MINDSPORE_DTYPES[weights], MINDSPORE_DTYPES[activations or weights]
        compute = ms.float32 if compute == ms.bfloat16 and not on_ascend() else compute
        with no_init_parameters():
            return family.resolve("model")(settings, compute, theirs)

    chosen = dtype and float_named(dtype, "dtype")
    model = build_to_fit(build, Path(path), chosen, adapter is not None)
    if rounds:
        multiply_in_bf16(model)
    load_weights(model, path, family, adapter)
    return model.set_train(False), family, config_file

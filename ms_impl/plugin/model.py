"""A family's model as MindFormers' trainer takes it."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.plugin.schema import FREEZES, suggest

# What a step of training takes, in the order of TrainerModel.construct; the data set yields these columns.
INPUT_COLUMNS = ("input_ids", "images", "image_context_pos", "labels")

_DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


class ModelSection:
    """The YAML's ``model.model_config``.

    ``compute_dtype`` is the type of activations, ``param_init_type`` that of the parameters. MindFormers adds more,
    such as ``parallel_config``, which holds the YAML's ``recompute_config``.
    """

    family: families.Family

    def __init__(
        self, config_file: str, compute_dtype: str = "float32", param_init_type: str = "float32", **others: Any
    ):
        self.config = self.family.resolve("config").from_file(config_file)
        self.compute_dtype = _dtype("compute_dtype", compute_dtype)
        self.param_dtype = _dtype("param_init_type", param_init_type)
        self.frozen_groups = tuple(group for key, group in FREEZES.items() if others.pop(key, False))
        for name, value in others.items():
            setattr(self, name, value)

    def build(self) -> nn.Cell:
        """The family's own model, with the groups frozen that the section names, and its layers set to recompute."""
        model = self.family.resolve("model")(self.config, self.compute_dtype, self.param_dtype)
        model.freeze(self.frozen_groups)
        if parallel_config := getattr(self, "parallel_config", None):
            _recompute_layers(model, parallel_config.recompute)
        return model


class TrainerModel(nn.Cell):
    """The model behind the methods that MindFormers 1.9.0 calls. Parameters keep their names."""

    def __init__(self, config: ModelSection):
        super().__init__(auto_prefix=False)
        self.config = config
        self.network = config.build()

    def construct(self, input_ids: Tensor, images: Tensor, image_context_pos: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: a scalar in fp32."""
        return self.network(input_ids, images, image_context_pos, labels)

    def can_generate(self) -> bool:
        """False: MindFormers' generation is not used (models/build_model.py:89 asks)."""
        return False

    def get_model_parameters(self, only_trainable: bool = True) -> set[ms.Parameter]:
        """For the log (trainer/base_trainer.py:1275)."""
        return set(self.trainable_params() if only_trainable else self.get_parameters())


def _recompute_layers(model: nn.Cell, settings: Any) -> None:
    """Follow MindFormers' ``recompute_config``: the repeated cells of a model hold most of its activations."""
    if settings.select_recompute:
        raise InputError("recompute_config.select_recompute is not supported; recompute: True does all layers")
    if settings.recompute:
        names = ("mp_comm_recompute", "parallel_optimizer_comm_recompute", "recompute_slice_activation")
        choices = {name: getattr(settings, name) for name in names}
        for _, cell in model.cells_and_names():
            if isinstance(cell, nn.CellList):
                for layer in cell:
                    layer.recompute(**choices)


def _dtype(key: str, name: str) -> ms.Type:
    if name not in _DTYPES:
        raise InputError(f"model.model_config.{key}: unknown type {name!r}{suggest(str(name), _DTYPES)}")
    return _DTYPES[name]

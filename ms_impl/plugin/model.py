"""A family's model as MindFormers' trainer takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from ms_impl import families
from ms_impl.adapters.adapter import Adapter, inject
from ms_impl.adapters.config import LoraConfig
from ms_impl.errors import InputError
from ms_impl.io.dtypes import float_named
from ms_impl.train.freezing import train_scope
from ms_impl.weights import MINDSPORE_DTYPES


class ModelSection:
    """The YAML's ``model.model_config``.

    ``compute_dtype`` is the type of activations, ``param_init_type`` that of the parameters, ``lora`` an adapter to
    train, ``rows`` the number of rows of a micro-batch, ``train_only`` words for the parts that are trained.
    MindFormers adds more, such as ``parallel_config``, which holds the YAML's ``recompute_config``.
    """

    family: families.Family

    def __init__(
        self,
        config_file: str,
        compute_dtype: str = "float32",
        param_init_type: str = "float32",
        lora: Mapping[str, Any] | None = None,
        rows: int = 1,
        train_only: Sequence[str] = (),
        **others: Any,
    ):
        self.config = self.family.resolve("config").from_file(config_file)
        self.compute_dtype = _dtype("compute_dtype", compute_dtype)
        self.param_dtype = _dtype("param_init_type", param_init_type)
        self.scope = self.family.scope({**others, "train_only": train_only})
        self.lora = lora and LoraConfig.from_section(lora, "model.model_config.lora")
        self.first_adapter = lora and lora.get("adapter")
        self._rows = rows
        for name, value in others.items():
            if name not in self.family.freeze_keys:
                setattr(self, name, value)

    def build(self) -> tuple[nn.Cell, Adapter | None]:
        """The family's own model with what the section freezes frozen, or its new adapter; its layers recompute."""
        model, adapter = self.family.resolve("model")(self.config, self.compute_dtype, self.param_dtype), None
        if not self.lora:  # which trains its factors alone
            train_scope(model, self.family, self.scope)
        parallel_config = getattr(self, "parallel_config", None)
        if parallel_config:
            parallelize(model, parallel_config)  # before adapters take layers' places
        if self.lora:
            adapter = inject(model, self.lora, self.family, seed=ms.get_seed() or 0, rows=self._rows)
        if parallel_config:
            _recompute_layers(model, parallel_config.recompute)
        return model, adapter


class TrainerModel(nn.Cell):
    """The model behind the methods that MindFormers 1.9.0 calls. Parameters keep their names."""

    def __init__(self, config: ModelSection):
        super().__init__(auto_prefix=False)
        self.config = config
        self.network, self.adapter = config.build()
        self.seed_dropout = self.adapter.seeds if self.adapter else None

    def construct(self, *columns: Tensor) -> Tensor:
        """The loss of a batch, a scalar in fp32.

        ``columns`` are those of a step (``ms_impl.train.feed``): ``input_ids``, the arrays of the template's kinds,
        ``labels``, ``segment_ids``, ``position_ids``, ``loss_weights``, and ``seeds``, which the model does not take.
        """
        if self.seed_dropout is not None:
            self.seed_dropout(columns[-1])
        return self.network(*columns[:-1])

    def can_generate(self) -> bool:
        """False: MindFormers' generation is not used (models/build_model.py:89 asks)."""
        return False

    def get_model_parameters(self, only_trainable: bool = True) -> set[ms.Parameter]:
        """For the log (trainer/base_trainer.py:1275)."""
        return set(self.trainable_params() if only_trainable else self.get_parameters())


def parallelize(model: nn.Cell, parallel_config: Any) -> None:
    """Cut a model that can be cut; the others run data parallel alone."""
    if hasattr(model, "parallelize"):
        model.parallelize(parallel_config)
        return
    for key in ("model_parallel", "pipeline_stage"):
        if getattr(parallel_config, key, 1) not in (None, 1):
            raise InputError(f"parallel_config.{key}: {type(model).__name__} runs data parallel only; set it to 1")


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
    return MINDSPORE_DTYPES[float_named(name, f"model.model_config.{key}")]

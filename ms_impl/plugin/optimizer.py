"""The optimizers that a YAML can name: ``ms_impl.train.adamw`` under MindFormers' name, and with torch's groups."""

from __future__ import annotations

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from ms_impl.errors import InputError
from ms_impl.train import adamw


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamW(adamw.AdamW):
    """AdamW under MindFormers' name.

    MindFormers 1.9.0's own (core/optim/adamw.py) rounds its update to the parameter's type, so that 16 bits lose what
    is smaller than their last digit; it takes 1 − 0.999^step in fp32, 1e-5 off; and cannot be divided among ranks.
    """

    @classmethod
    def get_actual_adamw_cls(cls, use_fused: bool) -> type[adamw.AdamW]:
        """The class to instantiate. MindFormers (core/optim/build_optim.py:33) asks AdamW for it."""
        if use_fused:
            raise InputError("optimizer.use_fused: is not supported; take the key out")
        return cls


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamWDecayAll(adamw.AdamW):
    """AdamW with the weight decay on every trained parameter, as ``torch.optim.AdamW`` has it.

    MindFormers 1.9.0 (trainer/optimizer_grouped_parameters.py:142) puts biases and all one-dimensional parameters into
    a group without decay, and no key says otherwise.
    """

    def __init__(self, params, weight_decay: float = 0.0, **kwargs):
        groups = [{**group, "weight_decay": weight_decay} for group in params]
        super().__init__(groups, weight_decay=weight_decay, **kwargs)

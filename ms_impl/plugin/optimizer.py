"""AdamW as the golden training run uses it."""

from __future__ import annotations

from mindformers.core.optim import AdamW
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamWDecayAll(AdamW.get_actual_adamw_cls(False)):
    """MindFormers' AdamW with the weight decay on every trained parameter, as ``torch.optim.AdamW`` has it.

    MindFormers 1.9.0 (trainer/optimizer_grouped_parameters.py:142) puts biases and all one-dimensional parameters into
    a group without decay, and no key says otherwise.
    """

    def __init__(self, params, weight_decay: float = 0.0, **kwargs):
        groups = [{**group, "weight_decay": weight_decay} for group in params]
        super().__init__(groups, weight_decay=weight_decay, **kwargs)

"""The figure that the model's earlier port was published with, as a check of an estimate.

MindFormers r1.5.0, research/qwenvl/README.md: 2587 tokens/s per device for finetune_qwenvl_9.6b_bf16.yaml on an Atlas
800T A2. That YAML has, as ours does: 8 devices, data parallel with optimizer parallelism, 4 rows of 2048 tokens with
one image, vision frozen, recomputation; and parameters in 16 bit, where ours have 32.
"""

from __future__ import annotations

from ms_impl.estimate.plan import Plan

TOKENS_PER_SECOND = 2587
PLAN = Plan(
    rows=4, length=2048, images=1, data_parallel=8, zero=3, recompute=True, flash=True, cut_vocabulary=True,
    compute_bytes=2, parameter_bytes=2, frozen=("vision_tower",),
)  # fmt: skip
CONFIG_FILE = "configs/qwenvl/qwenvl_9.6b/config.json"

# The defaults of the original's finetune.py, with which its finetune_lora_*.sh train.
LORA = {"r": 64, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["c_attn", "attn.c_proj", "w1", "w2"]}

"""How a YAML's ``parallel_config`` cuts Qwen-VL, and whether it can. No framework is imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig


@dataclass(frozen=True)
class ParallelPlan:
    """What of the YAML's ``parallel_config`` cuts the model."""

    data_parallel: int
    model_parallel: int
    pipeline_stage: int
    micro_batch_num: int
    vocab_emb_dp: bool

    @classmethod
    def of(cls, parallel_config: Any) -> "ParallelPlan":
        """From MindFormers' ``TransformerOpParallelConfig``."""
        return cls(**{field.name: getattr(parallel_config, field.name) for field in fields(cls)})

    def check(self, config: QwenVLConfig, ranks: int) -> None:
        """Raise InputError with every reason why a model of ``config`` cannot be cut so for that many ranks."""
        dp, mp, stages = self.data_parallel, self.model_parallel, self.pipeline_stage
        rules = {
            f"data_parallel {dp} × model_parallel {mp} × pipeline_stage {stages} must be the number of ranks, {ranks}":
                dp * mp * stages == ranks,
            f"model_parallel {mp} must divide num_attention_heads, {config.num_attention_heads}":
                config.num_attention_heads % mp == 0,
            f"model_parallel {mp} must divide the width of the feed-forward layer, {config.ffn_size}":
                config.ffn_size % mp == 0,
            f"model_parallel {mp} must divide vocab_size, {config.vocab_size}, unless vocab_emb_dp is True":
                self.vocab_emb_dp or config.vocab_size % mp == 0,
            f"pipeline_stage {stages} must not exceed num_hidden_layers, {config.num_hidden_layers}":
                stages <= config.num_hidden_layers,
            f"micro_batch_num {self.micro_batch_num} must be at least pipeline_stage, {stages}":
                stages == 1 or self.micro_batch_num >= stages,
        }  # fmt: skip
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise InputError(f"parallel_config: {'; '.join(broken)}")

    def stage_of(self, layer: int, layers: int) -> int:
        """The pipeline stage that holds a layer; stages differ by one layer at most."""
        return layer * self.pipeline_stage // layers

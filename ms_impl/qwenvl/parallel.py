"""How Qwen-VL is cut over devices in MindSpore's semi-automatic parallelism. Never run on Ascend yet.

The language model is cut as Megatron-LM does it: c_attn, w1 and w2 by output rows, both c_proj by input columns,
attention by heads, so that each half of a layer ends with one AllReduce over the ``model_parallel`` ranks. The rows of
c_attn are [Q|K|V]: a rank's share of them is not the queries, keys and values of its heads, so that their product is
gathered, 3·B·T·D elements over the same ranks, before each rank takes its heads. That is three quarters of what the
two AllReduces move; rows stored by heads would save it, and change the checkpoint's layout.

Vision tower and resampler get no strategy. MindSpore cuts an operator without one along its first axis over all devices
of its stage, so that the images are spread over ``data_parallel`` × ``model_parallel`` ranks, where their number can be
divided by that; each rank holds the tower whole (3.9 GB in 16 bit). Laying features over their slots gathers the
embeddings of the whole batch once a step, because a scatter cannot be cut along what it indexes.

``vocab_emb_dp`` False cuts both vocabulary matrices by rows over the ``model_parallel`` ranks, and the logits are
gathered for the loss. True keeps them whole on each rank and cuts the batch.

Pipeline stages hold consecutive layers; the first has the embeddings and the vision tower too, the last the head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import mindspore as ms
from mindspore import nn

from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig

Strategy = tuple[tuple[int, ...], ...]  # for each input of an operator, into how many parts each of its axes is cut

_CUTTING_MODES = (ms.ParallelMode.SEMI_AUTO_PARALLEL, ms.ParallelMode.AUTO_PARALLEL)


@dataclass(frozen=True)
class Plan:
    """What of the YAML's ``parallel_config`` cuts the model."""

    data_parallel: int
    model_parallel: int
    pipeline_stage: int
    micro_batch_num: int
    vocab_emb_dp: bool

    @classmethod
    def of(cls, parallel_config: Any) -> "Plan":
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


def shard(model: nn.Cell, parallel_config: Any, ranks: int) -> None:
    """Set strategies and stages of a QwenVL where MindSpore cuts models; elsewhere do nothing.

    Raises:
        InputError: the model cannot be cut in that way; every reason is listed.
    """
    if ms.get_auto_parallel_context("parallel_mode") not in _CUTTING_MODES:
        return
    plan = Plan.of(parallel_config)
    plan.check(model.config, ranks)
    for path, strategy in strategies(plan, model.config.num_hidden_layers).items():
        _find(model, path).shard(strategy)
    if plan.pipeline_stage > 1:
        _set_stages(model, plan)


def strategies(plan: Plan, layers: int) -> dict[str, Strategy]:
    """The strategy of every operator that has one, by its path in the model as it is built for Ascend."""
    dp, vocab = plan.data_parallel, 1 if plan.vocab_emb_dp else plan.model_parallel
    hidden = (dp, 1, 1)
    whole_model = {
        "transformer.wte.gather": ((vocab, 1), (dp, 1)),
        "table_rows": ((1, 1), (dp, 1)),
        "attention.hide": ((dp, 1, 1, 1),),
        "transformer.ln_f.rms_norm": (hidden, (1,)),
        "lm_head.matmul": ((dp, 1), (vocab, 1)),
    }
    layer = _layer_strategies(dp, plan.model_parallel)
    return whole_model | {
        f"transformer.h.{number}.{path}": strategy for number in range(layers) for path, strategy in layer.items()
    }


def _layer_strategies(dp: int, mp: int) -> dict[str, Strategy]:
    hidden, heads, inner = (dp, 1, 1), (dp, mp, 1, 1), (dp, 1, mp)
    tables = (dp, 1, 1, 1)
    by_rows, by_columns = ((dp, 1), (mp, 1)), ((dp, mp), (1, mp))
    return {
        "ln_1.rms_norm": (hidden, (1,)),
        "attn.c_attn.matmul": by_rows,
        "attn.c_attn.bias_add": ((dp, mp), (mp,)),
        "attn.split": (hidden,),
        "attn.to_heads": ((dp, 1, mp, 1),),
        "attn.rotate.rotate": (heads, tables, tables),
        "attn.attention.flash": (heads, heads, heads, tables),
        "attn.from_heads": (heads,),
        "attn.c_proj.matmul": by_columns,
        "ln_2.rms_norm": (hidden, (1,)),
        "mlp.w1.matmul": by_rows,
        "mlp.w2.matmul": by_rows,
        "mlp.silu": (inner,),
        "mlp.mul": (inner, inner),
        "mlp.c_proj.matmul": by_columns,
        "add": (hidden, hidden),
    }


def _set_stages(model: nn.Cell, plan: Plan) -> None:
    transformer, last = model.transformer, plan.pipeline_stage - 1
    transformer.wte.pipeline_stage = transformer.visual.pipeline_stage = 0
    for number, layer in enumerate(transformer.h):
        layer.pipeline_stage = plan.stage_of(number, len(transformer.h))
    transformer.ln_f.pipeline_stage = model.lm_head.pipeline_stage = last


def _find(model: nn.Cell, path: str) -> Any:
    """The attribute at a dotted path; numbers are places in a CellList."""
    return reduce(lambda cell, name: cell[int(name)] if name.isdigit() else getattr(cell, name), path.split("."), model)

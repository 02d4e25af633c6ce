"""How Qwen-VL is cut over devices in MindSpore's semi-automatic parallelism. Never run on Ascend yet.

The language model is cut as Megatron-LM does it: c_attn, w1 and w2 by output rows, both c_proj by input columns,
attention by heads, so that each half of a layer ends with one AllReduce over the ``model_parallel`` ranks. The rows of
c_attn are [Q|K|V]: a rank's share of them is not the queries, keys and values of its heads, so that their product is
gathered, 3·B·T·D elements over the same ranks, before each rank takes its heads. That is three quarters of what the
two AllReduces move; rows stored by heads would save it, and change the checkpoint's layout.

The vision tower is cut along its images alone, over the ``data_parallel`` ranks. It is frozen in most trainings, a
twentieth of the work of a full row, and cutting its 16 heads of 104 would add communication to each of its 48 layers.
Each rank holds it whole (3.7 GB in 16 bit). What has no strategy, the patches, the resampler, the places of the images
and the mask, MindSpore cuts along the first axis over all devices of the stage where it can, and gathers again; that
happens once a step, not once a layer. So does laying the features over their slots: the embeddings of the whole batch
come together on every rank, because a scatter cannot be cut along what it indexes.

``vocab_emb_dp`` False cuts both vocabulary matrices by rows over the ``model_parallel`` ranks, and the logits are
gathered for the loss. True keeps them whole on each rank and cuts the batch.

Pipeline stages hold consecutive layers; the first has the embeddings and the vision tower too, the last the head.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import mindspore as ms
from mindspore import nn

from ms_impl.cells.device import graphs_are_cut
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.parallel_plan import ParallelPlan

Strategy = tuple[tuple[int, ...], ...]  # for each input of an operator, into how many parts each of its axes is cut


def shard(model: nn.Cell, parallel_config: Any) -> None:
    """Set strategies and stages of a QwenVL where MindSpore cuts models; elsewhere do nothing.

    Raises:
        InputError: the model cannot be cut in that way; every reason is listed.
    """
    if not graphs_are_cut():
        return
    plan = ParallelPlan.of(parallel_config)
    plan.check(model.config, ms.get_auto_parallel_context("device_num"))
    for path, strategy in strategies(plan, model.config).items():
        _find(model, path).shard(strategy)
    if plan.pipeline_stage > 1:
        _set_stages(model, plan)


def strategies(plan: ParallelPlan, config: QwenVLConfig) -> dict[str, Strategy]:
    """The strategy of every operator that has one, by its path in the model as it is built for Ascend."""
    dp, vocab = plan.data_parallel, 1 if plan.vocab_emb_dp else plan.model_parallel
    hidden = (dp, 1, 1)
    model = {
        "transformer.wte.gather": ((vocab, 1), (dp, 1)),
        "table_rows": ((1, 1), (dp, 1)),
        "attention.hide": ((dp, 1, 1, 1),),
        "transformer.ln_f.rms_norm": (hidden, (1,)),
        "lm_head.matmul": ((dp, 1), (vocab, 1)),
    }
    for layer in range(config.num_hidden_layers):
        model |= _below(f"transformer.h.{layer}", _layer_strategies(dp, plan.model_parallel))
    for layer in range(config.visual.layers):
        model |= _below(f"transformer.visual.transformer.resblocks.{layer}", _vision_layer_strategies(dp))
    return model


def _below(path: str, strategies: dict[str, Strategy]) -> dict[str, Strategy]:
    return {f"{path}.{name}": strategy for name, strategy in strategies.items()}


def _layer_strategies(dp: int, mp: int) -> dict[str, Strategy]:
    hidden, heads, inner = (dp, 1, 1), (dp, mp, 1, 1), (dp, 1, mp)
    tables = (dp, 1, 1, 1)
    by_rows, by_columns = ((dp, 1), (mp, 1)), ((dp, mp), (1, mp))
    return {
        "ln_1.rms_norm": (hidden, (1,)),
        "attn.c_attn.matmul": by_rows,
        "attn.c_attn.bias_add": ((dp, mp), (mp,)),
        "attn.split_heads.split": (hidden,),
        "attn.split_heads.transpose": ((dp, 1, mp, 1),),
        "attn.split_heads.rotate.rotate": (heads, tables, tables),
        "attn.attention.flash": (heads, heads, heads, tables),
        "attn.join_heads.transpose": (heads,),
        "attn.c_proj.matmul": by_columns,
        "ln_2.rms_norm": (hidden, (1,)),
        "mlp.w1.matmul": by_rows,
        "mlp.w2.matmul": by_rows,
        "mlp.silu": (inner,),
        "mlp.mul": (inner, inner),
        "mlp.c_proj.matmul": by_columns,
        "add.add": (hidden, hidden),
    }


def _vision_layer_strategies(dp: int) -> dict[str, Strategy]:
    images, heads, number = (dp, 1, 1), (dp, 1, 1, 1), ()
    norm, rows, bias = (images, (1,), (1,)), ((dp, 1), (1, 1)), ((dp, 1), (1,))
    linears = ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    return {
        "ln_1.norm": norm,
        "attn.split_heads.split": (heads,),
        "attn.split_heads.transpose": (heads,),
        "attn.attention.flash": (heads, heads, heads),
        "attn.join_heads.transpose": (heads,),
        "ln_2.norm": norm,
        "mlp.gelu.div": (images, number),
        "mlp.gelu.erf": (images,),
        "mlp.gelu.add": (images, number),
        "mlp.gelu.mul": (images, images),
        "mlp.gelu.halve": (images, number),
        "add.add": (images, images),
        **{f"{linear}.matmul": rows for linear in linears},
        **{f"{linear}.bias_add": bias for linear in linears},
    }


def _set_stages(model: nn.Cell, plan: ParallelPlan) -> None:
    transformer, last = model.transformer, plan.pipeline_stage - 1
    transformer.wte.pipeline_stage = transformer.visual.pipeline_stage = 0
    for number, layer in enumerate(transformer.h):
        layer.pipeline_stage = plan.stage_of(number, len(transformer.h))
    transformer.ln_f.pipeline_stage = model.lm_head.pipeline_stage = last


def _find(model: nn.Cell, path: str) -> Any:
    """The attribute at a dotted path; numbers are places in a CellList."""
    return reduce(lambda cell, name: cell[int(name)] if name.isdigit() else getattr(cell, name), path.split("."), model)

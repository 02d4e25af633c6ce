"""Qwen-VL whole, in MindSpore (``modeling_qwen.py`` of the original: QWenModel, QWenLMHeadModel)."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl import families
from ms_impl.cells.attention import attention
from ms_impl.cells.device import unless_on_ascend
from ms_impl.cells.kv_cache import LayerCache, take_column
from ms_impl.cells.linear import Embedding, Linear
from ms_impl.cells.linear_cross_entropy import LinearCrossEntropy
from ms_impl.cells.loss import causal_cross_entropy
from ms_impl.cells.media_features import merge_features
from ms_impl.cells.norms import RMSNorm
from ms_impl.cells.rotary import ntk_base, rotary_tables
from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.encoder_parts import EncoderLayers
from ms_impl.generate.mixin import GenerationMixin
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.family import FAMILY
from ms_impl.qwenvl.language import Block
from ms_impl.qwenvl.parallel import shard
from ms_impl.qwenvl.vision import VisionTower
from ms_impl.train.freezing import freeze

logf = ctypes.CDLL(None).logf  # C's, of 32 bits; numpy's differs in the last
logf.restype, logf.argtypes = ctypes.c_float, (ctypes.c_float,)


class Transformer(nn.Cell):
    """Embeddings, decoder layers and the vision tower: all that the checkpoint names ``transformer``."""

    def __init__(self, config: QwenVLConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.wte = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.h = nn.CellList([Block(config, dtype) for _ in range(config.num_hidden_layers)])
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon, dtype)
        self.visual = VisionTower(config.visual, compute_dtype, dtype)

    def embed(self, input_ids: Tensor, images: Tensor | None, image_context_pos: Tensor | None) -> Tensor:
        """Token embeddings [B, T, D] with the features of images [B, M, 3, S, S] laid over their slots."""
        features = None if images is None else self.visual(images.reshape(-1, *images.shape[2:]))
        return self.merge_media_features(input_ids, features, image_context_pos)

    def merge_media_features(
        self, input_ids: Tensor, features: Tensor | None, image_context_pos: Tensor | None
    ) -> Tensor:
        """Token embeddings [B, T, D] with image features [B·M, Q, D] laid over their slots."""
        hidden = self.wte(input_ids).astype(self.compute_dtype)
        if features is None:
            return hidden
        columns = image_context_pos.reshape(hidden.shape[0], -1)
        return merge_features(hidden, features.reshape(hidden.shape[0], -1, hidden.shape[-1]), columns)


class QwenVL(GenerationMixin, nn.Cell):
    """Qwen-VL with its language model head. Parameters carry the checkpoint's names.

    In training mode there is neither dynamic NTK nor log-n scaling, as in the original.

    Args:
        compute_dtype: dtype of activations. CPU computes in float32 and float16, Ascend also in bfloat16.
        param_dtype: dtype of the parameters; they are cast in the graph where it differs.
    """

    generation = GenerationConfig(**FAMILY.generation)
    of_bf16 = False  # whether kernels round the factors of products to bf16; then new caches are bf16, too

    def __init__(self, config: QwenVLConfig, compute_dtype: ms.Type = ms.float32, param_dtype: ms.Type | None = None):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        dtype = param_dtype or compute_dtype
        self.transformer = Transformer(config, compute_dtype, dtype)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)
        self.linear_cross_entropy = unless_on_ascend(LinearCrossEntropy)
        self.attention = attention(config.num_attention_heads, config.kv_channels)
        self.tables = self.rotary_stack()
        self.table_rows = ops.Gather()

    def freeze(self, groups: tuple[str, ...]) -> None:
        """Train nothing in these module groups; stage 3 is ``("vision_tower",)``."""
        freeze(self, families.get("qwenvl"), groups)

    def parallelize(self, parallel_config: Any) -> None:
        """Cut the model over devices as MindFormers' ``parallel_config`` says, where MindSpore cuts models."""
        shard(self, parallel_config)

    def encode_images(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → features [N, num_queries, D]."""
        return self.transformer.visual(images)

    def begin_images(self, images: Tensor) -> tuple[Tensor]:
        """What stands before the tower's blocks in ``encode_images``."""
        return (self.transformer.visual.patches(images),)

    def end_images(self, x: Tensor) -> Tensor:
        """What stands behind them."""
        return self.transformer.visual.features(x)

    def encoder_parts(self, encode: str) -> EncoderLayers:
        """``encode_images`` by its parts."""
        return EncoderLayers("begin_images", self.transformer.visual.transformer.resblocks, "end_images")

    def embed(self, input_ids: Tensor, media: tuple[tuple[Tensor, Tensor], ...] = ()) -> Tensor:
        """Token embeddings [B, T, D] with image features [B · M, Q, D] laid over their columns [B, M, Q]."""
        features, columns = media[0] if media else (None, None)
        return self.transformer.merge_media_features(input_ids, features, columns)

    def rotary_stack(self) -> Tensor:
        """cos and sin for each NTK factor of any prompt: fp32 [factors, 2, max_position_embeddings, head_dim]."""
        config, dim = self.config, self.config.kv_channels
        longest = config.max_position_embeddings
        alphas = [config.ntk_alpha(config.seq_length * 2**i) for i in range(self.alpha_index(longest) + 1)]
        bases = [ntk_base(dim, config.rotary_emb_base, alpha) for alpha in alphas]
        return Tensor(np.stack([np.stack(rotary_tables(dim, base, longest)) for base in bases]))

    def alpha_index(self, length: int) -> int:
        """Which NTK factor a prefill of ``length`` columns takes: how often seq_length doubles to hold it."""
        index, reach = 0, self.config.seq_length
        while self.config.use_dynamic_ntk and reach < length:
            index, reach = index + 1, reach * 2
        return index

    @cached_property
    def host_tables(self) -> np.ndarray:
        """``tables`` in numpy."""
        return self.tables.asnumpy()

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        """For positions int [B, T] in or after a prompt of ``length`` columns: cos and sin, float32
        [B, 1, T, head_dim], in the prompt's NTK factor, and log-n factors, float32 [B, 1, T, 1], or None."""
        cos, sin = self.host_tables[self.alpha_index(length)]
        return cos[position_ids][:, None], sin[position_ids][:, None], self.host_log_n(position_ids)

    def host_log_n(self, position_ids: np.ndarray) -> np.ndarray | None:
        """``log_n`` on the host."""
        if not self.config.use_logn_attn:
            return None
        factors = np.ones((len(position_ids), 1, position_ids.shape[1], 1), np.float32)
        if position_ids.max() < self.config.seq_length:
            return factors
        for row in np.flatnonzero((position_ids >= self.config.seq_length).any(1)):
            # By itself: rows must not depend on each other.
            own = position_ids[row : row + 1]
            factors[row] = self.log_n_of_one(own.item()) if own.size == 1 else self.log_n(Tensor(own)).asnumpy()[0]
        return factors

    def positions(self, position_ids: Tensor, alpha_index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """cos, sin [B, 1, T, head_dim] and the log-n factor of the queries [B, 1, T, 1] for int positions [B, T]."""
        shape = (position_ids.shape[0], 1, position_ids.shape[1], self.config.kv_channels)
        cos = self.table_rows(self.tables[alpha_index, 0], position_ids, 0).reshape(shape)
        sin = self.table_rows(self.tables[alpha_index, 1], position_ids, 0).reshape(shape)
        return cos, sin, self.log_n(position_ids)

    def log_n(self, position_ids: Tensor) -> Tensor | None:
        """log(i) / log(seq_length) for 1-based positions i past seq_length, else 1: [B, 1, T, 1]."""
        if self.training or not self.config.use_logn_attn:
            return None
        scale = ops.log(position_ids.astype(ms.float32) + 1.0) / float(np.log(self.config.seq_length))
        return ops.maximum(scale, ops.ones_like(scale)).expand_dims(1).expand_dims(-1)

    def log_n_of_one(self, position: int) -> np.float32:
        """``log_n`` of one position to the bit (of several, MindSpore takes another logarithm), at once: an operator
        called from here costs more than a step."""
        scale = np.float32(logf(position + 1.0)) / np.float32(np.log(self.config.seq_length))
        return max(scale, np.float32(1))

    def hidden_states(
        self, input_ids, images=None, image_context_pos=None, segment_ids=None, position_ids=None
    ) -> list[Tensor]:
        """The embeddings, each decoder layer's output, and the last one normalised: [B, T, D] each."""
        length = input_ids.shape[1]
        hidden = self.transformer.embed(input_ids, images, image_context_pos)
        columns = ops.arange(length).astype(ms.int32)
        if segment_ids is None:
            segment_ids = ops.ones_like(input_ids)
        if position_ids is None:
            position_ids = columns.expand_dims(0)
        mask = self.attention.causal_mask(segment_ids, columns, self.config.num_attention_heads, hidden.dtype)
        cos, sin, q_scale = self.positions(position_ids, 0 if self.training else self.alpha_index(length))
        states = [hidden]
        for block in self.transformer.h:
            states.append(block(states[-1], mask, cos, sin, q_scale))
        return states + [self.transformer.ln_f(states[-1])]

    def loss(self, logits: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """Shifted cross entropy, the weighted mean over labels ≠ −100: a scalar in fp32."""
        return causal_cross_entropy(logits, labels, loss_weights)

    def construct(
        self, input_ids, images=None, image_context_pos=None, labels=None, segment_ids=None, position_ids=None,
        loss_weights=None,
    ) -> Tensor:  # fmt: skip
        """The loss where ``labels`` are given, else logits [B, T, vocab].

        Args:
            input_ids: int [B, T].
            images: pixels [B, M, 3, S, S], zeros in absent slots.
            image_context_pos: int [B, M, Q]: the column of each query feature; T for an absent image.
            labels: int [B, T], −100 where nothing is learnt.
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is masked.
            position_ids: int [B, T]. None: the column index, as in the original, also under left padding.
            loss_weights: fp32 [B, T], the weight of the label in the same column. None: every label counts 1.
        """
        hidden = self.hidden_states(input_ids, images, image_context_pos, segment_ids, position_ids)[-1]
        if (
            labels is not None
            and self.training
            and self.linear_cross_entropy is not None
            and self.lm_head.adapted is None
        ):
            return self.linear_cross_entropy(hidden, self.lm_head.weight, labels, loss_weights)
        logits = self.lm_head(hidden)
        return logits if labels is None else self.loss(logits, labels, loss_weights)

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        """An empty cache of ``length`` columns for every layer."""
        config = self.config
        if length > config.max_position_embeddings:
            raise InputError(f"{length} tokens are more than the model's {config.max_position_embeddings}")
        shape = (batch, config.num_attention_heads, length, config.kv_channels)
        dtype = ms.bfloat16 if self.of_bf16 else self.compute_dtype
        return nn.CellList([LayerCache(*shape, dtype) for _ in range(config.num_hidden_layers)])

    def decoder_parts(self) -> DecoderParts | None:
        """The decoder by its parameters; None where an adapter stands in place of a layer."""
        blocks = self.transformer.h
        linears = [self.lm_head, *(linear for block in blocks for linear in block.linears)]
        if not all(type(linear) is Linear for linear in linears):
            return None
        config = self.config
        return DecoderParts(
            self.transformer.wte.weight, [block.parts() for block in blocks], self.transformer.ln_f.weight,
            self.lm_head.weight, config.num_attention_heads, config.num_attention_heads, config.kv_channels,
            config.layer_norm_epsilon, self.transformer.h, self.of_bf16,
        )  # fmt: skip

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        cache: nn.CellList, last: Tensor,
    ) -> Tensor:  # fmt: skip
        """Run hidden [B, T, D] through a cache of S columns; logits [B, vocab] after one of each row's T.

        Args:
            segment_ids: int [B, S], 0 for padding and for columns not filled yet.
            columns: int [B, T], those of the cache that are written.
            cos, sin, q_scale: what ``rotary`` gives for these columns' positions.
            last: int [B], which of the T columns to take the logits of.
        """
        mask = self.attention.causal_mask(segment_ids, columns, self.config.num_attention_heads, hidden.dtype)
        for block, layer in zip(self.transformer.h, cache):
            hidden = block(hidden, mask, cos, sin, q_scale, layer, columns)
        return self.lm_head(self.transformer.ln_f(take_column(hidden, last)))

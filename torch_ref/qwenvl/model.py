"""Qwen-VL whole, in PyTorch (``modeling_qwen.py`` of the original: QWenModel, QWenLMHeadModel)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl import families
from ms_impl.qwenvl.config import QwenVLConfig
from torch_ref.checkpoint import load_checkpoint
from torch_ref.precision import angle_dtype, at_least_fp32
from torch_ref.qwenvl.language import Block, LayerCache, RMSNorm, rotary_tables
from torch_ref.qwenvl.vision import VisionTower

IGNORED_LABEL = -100


def visible_keys(segment_ids: Tensor, columns: Tensor) -> Tensor:
    """Which of S keys each of T queries may attend to: bool [B, 1, T, S].

    Args:
        segment_ids: int [B, S]; 0 is padding, other numbers tell the dialogues of a row apart.
        columns: int [T], the column in the row at which each query stands; keys further right are hidden.
    """
    causal = torch.arange(segment_ids.shape[1]) <= columns[:, None]
    same = segment_ids[:, columns, None] == segment_ids[:, None, :]
    real = (segment_ids != 0)[:, None, :]
    return (same & real & causal)[:, None]


class Transformer(nn.Module):
    """Embeddings, decoder layers and the vision tower: all that the checkpoint names ``transformer``."""

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.visual = VisionTower(config.visual)

    def embed(self, input_ids: Tensor, images: Tensor | None, image_context_pos: Tensor | None) -> Tensor:
        """Token embeddings [B, T, D] with the features of images [B, M, 3, S, S] laid over their slots."""
        features = None if images is None else self.visual(images.flatten(0, 1))
        return self.merge_media_features(input_ids, features, image_context_pos)

    def merge_media_features(
        self, input_ids: Tensor, features: Tensor | None, image_context_pos: Tensor | None
    ) -> Tensor:
        """Token embeddings [B, T, D] with image features [B·M, Q, D] laid over their slots."""
        hidden = self.wte(input_ids.long())
        if features is None:
            return hidden
        batch, length, width = hidden.shape
        # Column T takes the features of absent images and is cut off again: their gradients are zeros, not missing.
        rows = torch.arange(batch)[:, None]
        index = (rows, image_context_pos.long().flatten(1))
        padded = F.pad(hidden, (0, 0, 0, 1)).index_put(index, features.reshape(batch, -1, width))
        return padded[:, :length]


class QwenVL(nn.Module):
    """Qwen-VL with its language model head. Parameters carry the checkpoint's names.

    In training mode there is neither dynamic NTK nor log-n scaling, as in the original.
    """

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_pretrained(cls, directory: str | Path, dtype: torch.dtype = torch.float32) -> "QwenVL":
        """Load a Hugging Face checkpoint directory (safetensors or ``pytorch_model*.bin``) in eval mode."""
        with torch.device("meta"):
            model = cls(QwenVLConfig.from_file(directory))
        load_checkpoint(model, directory, dtype)
        return model.eval()

    def freeze(self, groups: tuple[str, ...]) -> None:
        """Train nothing in these module groups; stage 3 is ``("vision_tower",)``."""
        frozen = families.get("qwenvl").frozen_names(dict(self.named_parameters()), groups)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in frozen)

    def encode_images(self, images: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] → features [N, num_queries, D]."""
        return self.transformer.visual(images)

    def positions(self, position_ids: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """cos, sin [B, 1, T, head_dim] and the log-n factor of the queries [B, 1, T, 1] for int positions [B, T]."""
        dtype = angle_dtype(self.lm_head.weight.dtype)
        return *rotary_tables(self.config, position_ids, alpha, dtype), self.log_n(position_ids)

    def log_n(self, position_ids: Tensor) -> Tensor | None:
        """log(i) / log(seq_length) for 1-based positions i past seq_length, else 1: [B, 1, T, 1]."""
        if self.training or not self.config.use_logn_attn:
            return None
        scale = torch.log(position_ids + 1.0) / torch.log(torch.tensor(float(self.config.seq_length)))
        return scale.clamp(min=1.0)[:, None, :, None]

    def hidden_states(
        self, input_ids, images=None, image_context_pos=None, segment_ids=None, position_ids=None
    ) -> list[Tensor]:
        """The embeddings, each decoder layer's output, and the last one normalised: [B, T, D] each."""
        length = input_ids.shape[1]
        hidden = self.transformer.embed(input_ids, images, image_context_pos)
        columns = torch.arange(length)
        if segment_ids is None:
            segment_ids = torch.ones_like(input_ids)
        if position_ids is None:
            position_ids = columns[None]
        visible = visible_keys(segment_ids, columns)
        cos, sin, q_scale = self.positions(position_ids, 1.0 if self.training else self.config.ntk_alpha(length))
        states = [hidden]
        for block in self.transformer.h:
            states.append(block(states[-1], visible, cos, sin, q_scale))
        return [*states, self.transformer.ln_f(states[-1])]

    def loss(self, logits: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """Shifted cross entropy, the weighted mean over labels ≠ −100: a scalar in fp32."""
        targets = labels[:, 1:].long().flatten()
        predictions = at_least_fp32(logits[:, :-1].flatten(0, 1))
        if loss_weights is None:
            return F.cross_entropy(predictions, targets, ignore_index=IGNORED_LABEL)
        weights = loss_weights[:, 1:].flatten() * (targets != IGNORED_LABEL)
        losses = F.cross_entropy(predictions, targets, ignore_index=IGNORED_LABEL, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def forward(
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
        logits = self.lm_head(hidden)
        return logits if labels is None else self.loss(logits, labels, loss_weights)

    def new_cache(self, batch: int, length: int) -> list[LayerCache]:
        """An empty cache of ``length`` columns for every layer."""
        config = self.config
        shape = (batch, config.num_attention_heads, length, config.kv_channels)
        return [LayerCache(*shape, self.lm_head.weight.dtype) for _ in range(config.num_hidden_layers)]

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, alpha: float, cache: list[LayerCache]
    ) -> Tensor:
        """Run the ``columns`` [T] of hidden [B, T, D] through the cache of S columns; logits [B, vocab] after the last.

        Args:
            segment_ids: int [B, S], 0 for padding and for columns not filled yet.
            alpha: the prefill's NTK factor.
        """
        visible = visible_keys(segment_ids, columns)
        cos, sin, q_scale = self.positions(columns[None], alpha)
        for block, layer in zip(self.transformer.h, cache):
            hidden = block(hidden, visible, cos, sin, q_scale, layer, columns)
        return self.lm_head(self.transformer.ln_f(hidden[:, -1]))

    @torch.no_grad()
    def greedy(
        self, input_ids, max_new_tokens: int, images=None, image_context_pos=None, segment_ids=None
    ) -> tuple[Tensor, Tensor]:
        """Greedy decoding with the cache: tokens [B, N], and logits before each and after the last [B, N + 1, vocab].

        Prompts of different length are padded on the left. The NTK factor is the prefill's throughout.
        """
        batch, length = input_ids.shape
        end = length + max_new_tokens
        segments = torch.zeros(batch, end, dtype=torch.int64)
        segments[:, :length] = 1 if segment_ids is None else segment_ids
        alpha, cache = self.config.ntk_alpha(length), self.new_cache(batch, end)
        hidden = self.transformer.embed(input_ids, images, image_context_pos)
        logits = [self.step(hidden, segments, torch.arange(length), alpha, cache)]
        tokens = []
        for column in range(length, end):
            tokens.append(logits[-1].argmax(-1))
            segments[:, column] = 1
            hidden = self.transformer.wte(tokens[-1])[:, None]
            logits.append(self.step(hidden, segments, torch.tensor([column]), alpha, cache))
        return torch.stack(tokens, 1), torch.stack(logits, 1)

"""Ovis2.5 whole, in PyTorch (the original's ``Ovis``)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.ovis2_5.config import Ovis2_5Config
from torch_ref.checkpoint import load_checkpoint
from torch_ref.decoder import Media
from torch_ref.ovis2_5.language import LanguageModel
from torch_ref.ovis2_5.visual_tokenizer import VisualTable, VisualTokenizer
from torch_ref.precision import at_least_fp32

IGNORED_LABEL = -100


class Ovis2_5(nn.Module):
    """Ovis2.5 with its language model head. Parameters carry the checkpoint's names."""

    def __init__(self, config: Ovis2_5Config):
        super().__init__()
        self.config = config
        self.llm = LanguageModel(config.llm_config)
        self.visual_tokenizer = VisualTokenizer(config)
        self.vte = VisualTable(config)

    @classmethod
    def from_pretrained(cls, directory: str | Path, dtype: torch.dtype = torch.float32) -> "Ovis2_5":
        """Load a Hugging Face checkpoint directory (safetensors or ``pytorch_model*.bin``) in eval mode."""
        with torch.device("meta"):
            model = cls(Ovis2_5Config.from_file(directory))
        load_checkpoint(model, directory, dtype)
        return model.eval()

    def encode_visuals(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """Rows of patches → embeddings of their visual tokens [N, L / 4, D]; the arguments as in ``VisionTower``."""
        features = self.visual_tokenizer.features(patches, segments, places, taps)
        return self.visual_tokenizer.embed(features, self.vte)

    def encode_indicators(self, ids: Tensor) -> Tensor:
        """Indicators, int [N] from 0 on (image begin, image end, video begin, video end) → [N, 1, D]."""
        return self.vte.indicators(ids)[:, None]

    def media(
        self, patches=None, patch_segments=None, patch_places=None, patch_taps=None, patch_columns=None,
        indicator_ids=None, indicator_columns=None,
    ) -> Media:  # fmt: skip
        """Features and columns of the media of a batch."""
        if patches is None:
            return ()
        rows = (array.flatten(0, 1) for array in (patches, patch_segments, patch_places, patch_taps))
        indicators = self.encode_indicators(indicator_ids.flatten())
        return (self.encode_visuals(*rows), patch_columns), (indicators, indicator_columns)

    def loss(self, logits: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """Shifted cross entropy, the weighted mean over labels ≠ −100: a scalar in fp32."""
        targets = labels[:, 1:].long().flatten()
        predictions = at_least_fp32(logits[:, :-1].flatten(0, 1))
        losses = F.cross_entropy(predictions, targets, ignore_index=IGNORED_LABEL, reduction="none")
        weights = (targets != IGNORED_LABEL).to(losses.dtype)
        weights = weights if loss_weights is None else weights * loss_weights[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    def forward(
        self, input_ids, patches=None, patch_segments=None, patch_places=None, patch_taps=None, patch_columns=None,
        indicator_ids=None, indicator_columns=None, labels=None, segment_ids=None, position_ids=None, loss_weights=None,
    ) -> Tensor:  # fmt: skip
        """The loss where ``labels`` are given, else logits [B, T, vocab].

        Args:
            input_ids: int [B, T].
            patches … patch_taps: as ``VisionTower`` takes them, [B, R, …].
            patch_columns: int [B, R, L / 4], the column of each visual token; T for an absent one.
            indicator_ids: int [B, I], from 0 on.
            indicator_columns: int [B, I, 1].
            labels: int [B, T], −100 where nothing is learnt.
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is masked.
            position_ids: int [B, T]. None: the column index.
            loss_weights: fp32 [B, T], the weight of the label in the same column. None: every label counts 1.
        """
        arrays = patches, patch_segments, patch_places, patch_taps, patch_columns, indicator_ids, indicator_columns
        hidden = self.llm.model.embed(input_ids, self.media(*arrays))
        logits = self.llm.logits(self.llm.model(hidden, segment_ids, position_ids))
        return logits if labels is None else self.loss(logits, labels, loss_weights)

    @torch.no_grad()
    def greedy(self, input_ids, max_new_tokens: int, *arrays) -> tuple[Tensor, Tensor]:
        """Greedy decoding with the cache: tokens [B, N], and logits before each and after the last [B, N + 1, vocab].

        ``arrays`` are those of the media, in their order.
        """
        batch, length = input_ids.shape
        end = length + max_new_tokens
        segments = torch.zeros(batch, end, dtype=torch.int64)
        segments[:, :length] = 1
        decoder, columns, tokens = self.llm.model, torch.arange(length), []
        cache, hidden = decoder.new_cache(batch, end), decoder.embed(input_ids, self.media(*arrays))
        logits = [self.llm.logits(decoder.step(hidden, segments, columns, columns[None], cache)[:, -1])]
        for column in range(length, end):
            tokens.append(logits[-1].argmax(-1))
            segments[:, column] = 1
            hidden, here = decoder.embed(tokens[-1][:, None]), torch.tensor([column])
            logits.append(self.llm.logits(decoder.step(hidden, segments, here, here[None], cache)[:, -1]))
        return torch.stack(tokens, 1), torch.stack(logits, 1)

"""Qwen2.5-Omni's audio tower in MindSpore: a Whisper encoder over chunks of 2 s that know nothing of one another.

Positions restart in every chunk, attention stays within it, and pooling by two never crosses its end, so that a chunk
is a row of the batch and a sound the features of its chunks end to end.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl.cells.add import Add
from ms_impl.cells.conv1d import Conv1d
from ms_impl.cells.encoder_attention import EncoderAttention
from ms_impl.cells.expand import expand
from ms_impl.cells.gelu import Gelu
from ms_impl.cells.linear import Embedding, Linear
from ms_impl.cells.norms import LayerNorm
from ms_impl.qwen2_5_omni.config import AudioConfig

NORM_EPS = 1e-5
LONGEST_WAVE = 10000.0
FP16_LIMIT = 64504.0  # the original holds hidden states in fp16 that far from infinity


def sinusoids(length: int, width: int) -> np.ndarray:
    """Whisper's positions, float32 [length, width]: sines, then cosines."""
    rates = np.exp(np.float32(-np.log(LONGEST_WAVE) / (width // 2 - 1)) * np.arange(width // 2, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * rates
    return np.concatenate((np.sin(angles), np.cos(angles)), 1)


class AudioAttention(nn.Cell):
    """Self-attention without rotation; keys have no bias."""

    def __init__(self, config: AudioConfig, dtype: ms.Type):
        super().__init__()
        width = config.d_model
        self.q_proj, self.v_proj, self.out_proj = (Linear(width, width, dtype=dtype) for _ in range(3))
        self.k_proj = Linear(width, width, bias=False, dtype=dtype)
        self.attention = EncoderAttention(config.encoder_attention_heads, config.head_dim, rotary=False)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        return self.out_proj(self.attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask))


class AudioLayer(nn.Cell):
    """Pre-norm encoder layer."""

    def __init__(self, config: AudioConfig, dtype: ms.Type):
        super().__init__()
        self.self_attn = AudioAttention(config, dtype)
        self.self_attn_layer_norm = LayerNorm(config.d_model, NORM_EPS, dtype)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim, dtype=dtype)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model, dtype=dtype)
        self.final_layer_norm = LayerNorm(config.d_model, NORM_EPS, dtype)
        self.gelu = Gelu()
        self.add = Add()

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, L, width] → [N, L, width]."""
        x = self.add(x, self.self_attn(self.self_attn_layer_norm(x), mask))
        x = self.add(x, self.fc2(self.gelu(self.fc1(self.final_layer_norm(x)))))
        return ops.clamp(x, -FP16_LIMIT, FP16_LIMIT) if x.dtype == ms.float16 else x


class AudioTower(nn.Cell):
    """Mel frames → convolutions → layers → pooling → projection: the checkpoint's ``audio_tower``."""

    def __init__(self, config: AudioConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.conv1 = Conv1d(config.num_mel_bins, config.d_model, dtype=dtype)
        self.conv2 = Conv1d(config.d_model, config.d_model, 2, dtype)
        self.audio_bos_eos_token = Embedding(2, config.output_dim, dtype)  # in the checkpoint, in no computation
        self.layers = nn.CellList([AudioLayer(config, dtype) for _ in range(config.encoder_layers)])
        self.ln_post = LayerNorm(config.d_model, NORM_EPS, dtype)
        self.proj = Linear(config.d_model, config.output_dim, dtype=dtype)
        self.positions = Tensor(sinusoids(config.chunk_frames // 2, config.d_model)[None])
        self.gelu = Gelu()
        self.bins_last = ops.Transpose()
        self.attention = EncoderAttention(config.encoder_attention_heads, config.head_dim, rotary=False)

    def begin(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks after the convolutions [N, n_window, width], and the layers' mask; arguments as of ``construct``."""
        x = self.bins_last(mel.astype(self.compute_dtype), (0, 2, 1))
        x = self.gelu(self.conv1(x))
        real = filled(frames, x.shape[1]).astype(x.dtype).expand_dims(-1)
        x = self.gelu(self.conv2(x * expand(real, x.shape)))
        x = x + expand(self.positions.astype(x.dtype), x.shape)
        after = filled((frames + 1) // 2, x.shape[1]).astype(ms.int32)
        return x, self.attention.within(after, x.dtype)

    def end(self, x: Tensor) -> Tensor:
        """The last layer's output [N, n_window, width] → features [N, n_window / 2, D]."""
        # Not x[:, 0::2]: the gradient of a slice with steps fails on CPU (MindSpore 2.9.0).
        pairs = x.reshape(x.shape[0], -1, 2 * x.shape[-1])
        pooled = (pairs[..., : x.shape[-1]] + pairs[..., x.shape[-1] :]) * 0.5
        return self.proj(self.ln_post(pooled))

    def construct(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Chunks [N, mel bins, 2 · n_window] → features [N, n_window / 2, D].

        Args:
            frames: int [N], how many mel frames of each chunk are real. Of its features the first
                ((frames + 1) // 2) // 2 are; the others are finite.
        """
        x, mask = self.begin(mel, frames)
        for layer in self.layers:
            x = layer(x, mask)
        return self.end(x)


def filled(counts: Tensor, length: int) -> Tensor:
    """bool [N, length]: the first counts [N] of each row."""
    return ops.arange(length).astype(ms.int32).reshape(1, -1) < counts.reshape(-1, 1)

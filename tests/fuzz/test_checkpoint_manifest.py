"""A training checkpoint whose manifest, state or loss log is damaged: skipped or refused by name, never believed."""

import hashlib
import json

import numpy as np
from mutations import mutate_bytes, mutate_value, to_text

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.train import checkpoints
from ms_impl.train.loss_log import LossLog, read_losses
from ms_impl.train.resume_check import check_same, describe, settings_of

CONFIG = {
    "train_dataset": {"data_loader": {"num_samples": 8, "annotation_file": [{"path": "a.json", "weight": 1}]}},
    "lr_schedule": {"type": "cosine", "learning_rate": 1e-3},
}


class TenSamples:
    needs, need_names, sizes = np.full((10, 1), 5), ("tokens",), {}

    def epoch(self, number, seed):
        return np.arange(10)

    def record(self, index):
        return f"record {index}"


def identity():
    plan = BatchPlan(TenSamples(), PlanSettings(epochs=3, rows_per_step=2, row_length=8))
    order = plan.digest(np.zeros((10, 16), np.uint8))
    return describe(plan, order, {"a.json": "1"}, "token", [15], None, settings_of(CONFIG))


def make(rng, folder):
    """Two checkpoints, of which the newer is damaged: in its manifest, its state (with the right checksum) or both."""
    for step in (7, 14):
        checkpoints.save(folder, step, [lambda path: (path / "weights.safetensors").write_bytes(b"w")], identity(), 3)
    newer = folder / "step_00000014"
    if rng.random() < 0.6:
        state = to_text(rng, mutate_value(rng, json.loads((newer / "state.json").read_text())))
        (newer / "state.json").write_bytes(state)
        sums = json.loads((newer / "manifest.json").read_text())
        sums["state.json"] = hashlib.sha256(state).hexdigest()
        (newer / "manifest.json").write_text(json.dumps(sums))
    if rng.random() < 0.5:
        data = to_text(rng, mutate_value(rng, json.loads((newer / "manifest.json").read_text())))
        (newer / "manifest.json").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.2 else data)
    lines = [{"step": step, "loss": 1.0, "lr": 1e-3} for step in range(1, 15)]
    damaged = [
        to_text(rng, mutate_value(rng, line)) if rng.random() < 0.1 else json.dumps(line).encode() for line in lines
    ]
    (folder / "losses.jsonl").write_bytes(b"\n".join(damaged) + b"\n")
    return folder


def run(folder):
    found = checkpoints.newest(folder)
    state = checkpoints.read_state(found)
    assert state["step"] == {"step_00000007": 7, "step_00000014": 14}[found.name]
    run = identity()
    changed = check_same(run, state, found.name)
    settings = state["settings"]
    if "version" not in state:  # of an earlier version: what it named otherwise is told apart by the order
        settings = {key: settings.get(key, value) for key, value in run["settings"].items()}
    assert settings == run["settings"] and state["total_steps"] == run["total_steps"]
    assert state.get("order", run["order"]) == run["order"]
    assert all(len(line) < 500 for line in changed)
    LossLog(folder / "losses.jsonl", resumed_after=state["step"]).close()
    assert all(line["step"] <= state["step"] for line in read_losses(folder / "losses.jsonl"))


def test_checkpoint_manifest(fuzz):
    fuzz("checkpoint manifest", make, run, seconds=10, megabytes=500)

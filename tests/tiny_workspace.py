"""A model of a few thousand parameters with pictures and conversations, and the commands run on it."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preloaded import run_script
from tiny_checkpoint import around_one, first_ranks, write_checkpoint

from ms_impl import families
from ms_impl.qwenvl.tokenizer import IMAGE_START, SPECIAL_TOKENS

# Where MindFormers writes from when it is imported; otherwise it would be the working directory.
_WRITTEN = tempfile.TemporaryDirectory(prefix="mindformers-")
for _variable in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
    os.environ.setdefault(_variable, _WRITTEN.name)

ROOT = Path(__file__).parents[1]
RANKS = 320
CONFIG = {
    "model_type": "qwen", "vocab_size": 544, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "kv_channels": 64, "intermediate_size": 128, "seq_length": 512, "max_position_embeddings": 1024,
    "visual": {
        "heads": 2, "image_size": 112, "image_start_id": RANKS + SPECIAL_TOKENS.index(IMAGE_START), "layers": 1,
        "mlp_ratio": 2.0, "output_dim": 128, "patch_size": 14, "width": 32, "n_queries": 64,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, vocabulary_file) -> Path:
    """Folder ``model`` (random weights of a base model, in Hugging Face's layout), pictures 0.png and 1.png, conversations.json."""
    root = tmp_path_factory.mktemp("workspace")
    write_checkpoint(
        root / "model", families.get("qwenvl"), CONFIG, around_one("ln_", 0.1),
        generation_config__json={"chat_format": "raw", "max_new_tokens": 512}, tokenizer_config__json={},
        qwen__tiktoken=first_ranks(vocabulary_file, RANKS),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / f"{number}.png")
    (root / "conversations.json").write_text(json.dumps([_record(number) for number in range(6)]))
    return root


@pytest.fixture(scope="session")
def run_mindformer():
    """Run run_mindformer.py in a folder; returns the finished process."""

    def run(folder: Path, *arguments) -> subprocess.CompletedProcess:
        return run_script(ROOT / "run_mindformer.py", *arguments, folder=folder)

    return run


@pytest.fixture(scope="session")
def finetune_arguments(workspace) -> list[str]:
    """The released model's own YAML, which is an Ascend one, brought down to the small model and to CPU."""
    template = "--train_dataset.modal_to_text_transform.model_transform_template"
    return [
        "--config", "configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml", "--register_path", "ms_impl/plugin/register",
        "--run_mode", "finetune", "--device_target", "CPU", "--load_checkpoint", f"{workspace}/model",
        "--model.model_config.config_file", f"{workspace}/model/config.json",
        "--train_dataset.data_loader.annotation_file", f"{workspace}/conversations.json",
        "--train_dataset.data_loader.shuffle", "False", "--train_dataset_dir", str(workspace),
        "--train_dataset.modal_to_text_transform.max_length", "160", f"{template}.image_size", "112",
        "--lr_schedule.learning_rate", "1e-3", "--epochs", "1",
    ]  # fmt: skip


def _record(number: int) -> dict:
    """Answers differ in length, and every other conversation has no picture."""
    picture = f"Picture 1: <img>{number // 2 % 2}.png</img>\n" if number % 2 == 0 else ""
    turns = [{"from": "user", "value": f"{picture}What?"}, {"from": "assistant", "value": "It is" + " yes" * number}]
    return {"id": f"record_{number}", "conversations": turns}

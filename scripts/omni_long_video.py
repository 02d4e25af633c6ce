"""Fine-tune Qwen2.5-Omni on long videos with true time: LongVALE's records, 100 frames of each video, its sound.

    python scripts/omni_long_video.py --model DIR --annotations longvale.json --video_root videos --output_dir output

writes the records in ms-swift's layout to output_dir/records.jsonl, their times as hundredths of each clip, and runs
run_mindformer.py with configs/qwen2_5_omni/finetune_long_video.yaml: exactly 100 frames of 224² pixels, the seconds
between them as they really are, LoRA of rank 16 on the language model. What else is given goes to run_mindformer.py:
--device_target CPU, --epochs 1, --lr_schedule.learning_rate 1e-4 … NPROC_PER_NODE starts several processes.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ms_impl.cli.main import command
from ms_impl.cli.swift.commands import ranks_of
from ms_impl.data.files import RecordFile
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.launch.supervisor import Nodes, Patience, Supervisor
from ms_impl.qwen2_5_omni.longvale import converted
from ms_impl.resources import resource

SETTINGS = "configs/qwen2_5_omni/finetune_long_video.yaml"
_TEMPLATE = "--train_dataset.modal_to_text_transform.model_transform_template"
_LORA = "--model.model_config.lora.target_modules"
_WITH_GATE = r"(thinker\.)?model\.layers\.\d+\.(self_attn\.(q|k|v|o)|mlp\.(gate|up|down))_proj"


def write_records(annotations: Path, video_root: Path, target: Path, lenient: bool) -> int:
    """Write a file of LongVALE's records in ms-swift's layout; returns how many there are.

    Raises InputError naming the first record that cannot be used; ``lenient`` leaves such records out and counts them.
    """
    file = RecordFile(annotations)
    faults: list[InputError] = []
    with atomic_write(target) as aside, aside.open("w", encoding="utf-8") as lines:
        for number in tqdm(range(len(file)), "records", disable=None):
            try:
                record = converted(file[number], video_root, file.name(number))
            except InputError as error:
                if not lenient:
                    raise
                faults.append(error)
            else:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    if faults:
        print(f"{len(faults)} of {len(file)} records are left out; the first: {faults[0]}", flush=True)
    if len(faults) == len(file):
        raise InputError(f"{annotations}: no record can be used")
    return len(file) - len(faults)


def command_line(options: argparse.Namespace, rest: Sequence[str], records: Path) -> list[str]:
    """The arguments of run_mindformer.py."""
    words = ["--config", str(resource(SETTINGS)), "--load_checkpoint", str(options.model)]
    words += ["--output_dir", str(options.output_dir), "--train_dataset_dir", str(options.video_root)]
    words += ["--train_dataset.data_loader.annotation_file", str(records), f"{_TEMPLATE}.chunks", options.chunks]
    words += [_LORA, _WITH_GATE] if options.gate else []
    return [*words, *rest]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--annotations", type=Path, required=True, help="LongVALE's or VTimeLLM's records")
    parser.add_argument("--video_root", type=Path, required=True, help="directory of the videos, named by their ids")
    parser.add_argument("--output_dir", type=Path, required=True, help="directory for records, checkpoints and logs")
    parser.add_argument("--chunks", choices=("hf_compat", "frame_exact"), default="hf_compat",
                        help="how frames and sound take turns (%(default)s)")  # fmt: skip
    parser.add_argument("--gate", action="store_true", help="adapt gate_proj, too")
    parser.add_argument("--skip_broken", action="store_true", help="leave out records that cannot be used, and say so")
    options, rest = parser.parse_known_args(argv)
    ranks = ranks_of(os.environ)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    records = options.output_dir / "records.jsonl"
    count = write_records(options.annotations, options.video_root, records, options.skip_broken)
    print(f"{records}: {count:,} records", flush=True)
    words = command_line(options, rest, records)
    script = str(resource("run_mindformer.py"))
    if ranks > 1:
        task = shlex.join([script, *words, "--use_parallel", "True"])
        return Supervisor(task, options.output_dir, False, Nodes(workers=ranks), Patience(max_restarts=0)).run()
    sys.argv = [script, *words]
    return runpy.run_path(script)["main"]()


if __name__ == "__main__":
    sys.exit(main())

"""Train, answer, export and serve with the argument names of ms-swift (v3.9).

    MAX_PIXELS=1003520 NPROC_PER_NODE=2 python scripts/swift.py sft --model DIR --dataset a.jsonl b.jsonl#2000 …
    python scripts/swift.py infer --adapters output/v0-…/checkpoint-50 --load_data_args true --stream true
    python scripts/swift.py export --adapters output/v0-…/checkpoint-50 --merge_lora true
    python scripts/swift.py deploy --adapters output/v0-…/checkpoint-50 --port 8000

sft prints the settings that its arguments mean and runs run_mindformer.py with them, on NPROC_PER_NODE processes.
Models are directories: nothing is fetched. docs/qwen2_5_omni.md lists what is taken, and what is not.
"""

from __future__ import annotations

import os
import sys

from ms_impl.cli.main import command
from ms_impl.cli.swift import commands
from ms_impl.cli.swift.deploy import deploy
from ms_impl.errors import InputError, quote

_COMMANDS = {"sft": commands.sft, "infer": commands.infer, "export": commands.export, "deploy": deploy}


@command
def main() -> int:
    """The command."""
    os.environ.setdefault("GLOG_v", "3")  # of MindSpore's own log errors alone; it is read at the import
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help") or "--help" in words:
        print(__doc__)
        return 0
    if name not in _COMMANDS:
        raise InputError(f"unknown command {quote(name)}; known: {', '.join(_COMMANDS)}")
    return _COMMANDS[name](words)


if __name__ == "__main__":
    sys.exit(main())

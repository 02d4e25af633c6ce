"""Train until it is done: start a run again when it fails, from its newest checkpoint.

python scripts/train_supervised.py --workers 8 "run_mindformer.py --config … --use_parallel True --output_dir output"

An attempt has failed if <output_dir>/completed.json is not there when it has ended, whatever its exit status; the next
one has a new port and --resume_training True. No other attempt is made after an error of the user's (exit status 2),
after two attempts without a new checkpoint, or after --max_restarts. The logs are in <output_dir>/msrun_log/attempt_N.

On SIGTERM, SIGHUP or Ctrl-C the run writes a checkpoint and stops; on a second one it is killed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.launch.supervisor import Nodes, Patience, Supervisor


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    output, resume = read_task(arguments.task)
    nodes = Nodes(**{name: getattr(arguments, name) for name in Nodes.__dataclass_fields__})
    patience = Patience(**{name: getattr(arguments, name) for name in Patience.__dataclass_fields__})
    return Supervisor(arguments.task, output, resume, nodes, patience).run()


def read_task(task: str) -> tuple[Path, bool]:
    """The directory a task writes to, and whether it resumes from what is there."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--resume_training", default="False")
    try:
        arguments, _ = parser.parse_known_args(shlex.split(task))
    except ValueError as error:
        raise InputError(f"the command to start: {error}: {task}") from error
    if arguments.output_dir is None:
        raise InputError(f"the command to start needs --output_dir, where its checkpoints are: {task}")
    return arguments.output_dir, arguments.resume_training.lower() != "false"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", metavar="COMMAND", help="run_mindformer.py with its arguments, as one word")
    limits = parser.add_argument_group("patience")
    limits.add_argument("--max_restarts", type=int, default=Patience.max_restarts, help="default: %(default)s")
    limits.add_argument("--pause", type=float, default=Patience.pause, help="seconds before each (%(default)s)")
    limits.add_argument(
        "--stall_timeout", type=float, default=Patience.stall_timeout,
        help="seconds without a step, the start and compilation included, after which a run counts as hung (never)",
    )  # fmt: skip
    nodes = parser.add_argument_group("workers, as for scripts/msrun_launcher.sh")
    nodes.add_argument("--workers", type=int, default=Nodes.workers, help="of all nodes (%(default)s)")
    nodes.add_argument("--local_workers", type=int, help="of this node (all)")
    nodes.add_argument("--master_addr", default=Nodes.master_addr, help="address of node 0 (%(default)s)")
    nodes.add_argument("--master_port", type=int, help="of the first attempt; each takes the next (any free one)")
    nodes.add_argument("--node_rank", type=int, default=Nodes.node_rank, help="number of this node (%(default)s)")
    nodes.add_argument("--cluster_time_out", type=int, default=Nodes.cluster_time_out, help="seconds (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

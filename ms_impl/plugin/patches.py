"""What has to be changed in MindFormers and MindSpore before use; the rest is mended by registered classes."""

from __future__ import annotations

import logging
from pathlib import Path

from mindspore.communication import comm_func

from ms_impl.train.ranks import wait_for_ranks


def patch_for_cpu() -> None:
    """Replace what fails on CPU. Must run before mindformers is imported.

    MindSpore 2.9.0, communication/comm_func.py, ``barrier``: "Unsupported op [Barrier]". MindFormers 1.9.0 calls it
    when ranks read a checkpoint to resume from (trainer/utils.py:167, utils/parallel_utils.py:31).
    """
    comm_func.barrier = wait_for_ranks


class _FileLogger(logging.Logger):
    """A logger that takes no other handlers than files."""

    def addHandler(self, handler: logging.Handler) -> None:
        if isinstance(handler, logging.FileHandler):
            super().addHandler(handler)


def log_to_files(folder: str) -> Path:
    """Have MindFormers log into files alone; returns the one of rank 0. Must run before mindformers is imported.

    MindFormers 1.9.0, tools/logger.py:536, writes some 90 lines to stdout before an answer, and 380 before a first
    step; its log's name is that of its folder, LOG_MF_PATH.
    """
    before = logging.getLoggerClass()
    logging.setLoggerClass(_FileLogger)
    logging.getLogger(f"mindformers{Path(folder).expanduser()}")
    logging.setLoggerClass(before)
    return Path(folder).expanduser() / "rank_0/info.log"


def silence_settings() -> None:
    """MindFormers 1.9.0, trainer/base_trainer.py:1672, prints its configuration, defaults and all, as nested dicts.

    The settings of a run are shown by ``report``, before.
    """
    from mindformers.trainer import base_trainer

    base_trainer.pprint = _print_nothing


def _print_nothing(_: object) -> None:
    pass

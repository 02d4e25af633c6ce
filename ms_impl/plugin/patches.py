"""What has to be changed in MindFormers and MindSpore before use; the rest is mended by registered classes."""

from __future__ import annotations

from mindspore.communication import comm_func

from ms_impl.train.ranks import wait_for_ranks


def patch_for_cpu() -> None:
    """Replace what fails on CPU. Must run before mindformers is imported.

    MindSpore 2.9.0, communication/comm_func.py, ``barrier``: "Unsupported op [Barrier]". MindFormers 1.9.0 calls it
    when ranks read a checkpoint to resume from (trainer/utils.py:167, utils/parallel_utils.py:31).
    """
    comm_func.barrier = wait_for_ranks


def silence_settings() -> None:
    """MindFormers 1.9.0, trainer/base_trainer.py:1672, prints its configuration, defaults and all, as nested dicts.

    The settings of a run are shown by ``report``, before.
    """
    from mindformers.trainer import base_trainer

    base_trainer.pprint = _print_nothing


def _print_nothing(_: object) -> None:
    pass

"""The mode in which compiled cells run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import mindspore as ms
from mindspore import nn

_one_thread = RLock()


@contextmanager
def static_graphs(model: nn.Cell) -> Iterator[None]:
    """GRAPH_MODE, and the model in eval mode, for the time being; one thread after another, for the mode is everyone's.

    ``ms.jit`` will not do: in PyNative mode its graphs go on using the weights of the day they were compiled, whatever
    a training step or ``set_data`` has done to them since (MindSpore 2.9, CPU).
    """
    with _one_thread:
        mode, training = ms.get_context("mode"), model.training
        ms.set_context(mode=ms.GRAPH_MODE)
        if training:
            model.set_train(False)
        try:
            yield
        finally:
            ms.set_context(mode=mode)
            if training:
                model.set_train(True)

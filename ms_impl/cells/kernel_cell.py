"""What cells have in common that compute by a kernel where there is one."""

from __future__ import annotations

from mindspore import nn


class KernelCell(nn.Cell):
    """By its ``kernel`` in evaluation mode, and also in training once ``trains`` is set; else by operators.

    A subclass has a method ``use_kernel`` that sets ``kernel``.
    """

    kernel = None  # see ``use_kernels``
    trains = False  # see ``train_by_kernels``

    def by_kernel(self) -> bool:
        """Whether the kernel computes."""
        return self.kernel is not None and (self.trains or not self.training)

"""Ovis2.5. Importing this package imports neither mindspore nor numpy."""

from typing import Any

__all__ = ["HF_COMPAT", "Answer", "Ovis25Inference"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ms_impl.ovis2_5 import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'ms_impl.ovis2_5' has no attribute {name!r}")

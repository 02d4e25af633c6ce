"""Vision-language models for MindSpore. Importing this package imports neither mindspore nor mindformers."""

from ms_impl.errors import InputError

__all__ = ["InputError", "load"]


def __getattr__(name):
    if name == "load":
        from ms_impl.generate.load import load

        return load
    raise AttributeError(f"module 'ms_impl' has no attribute {name!r}")

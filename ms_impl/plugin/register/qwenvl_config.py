from ms_impl.plugin.qwenvl import QwenVLConfig  # noqa: F401

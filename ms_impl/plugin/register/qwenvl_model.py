from ms_impl.plugin.qwenvl import QwenVL  # noqa: F401

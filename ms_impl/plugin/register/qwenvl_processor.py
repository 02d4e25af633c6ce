from ms_impl.plugin.qwenvl import QwenVLContentTransformTemplate  # noqa: F401

from ms_impl.qwenvl.template import QwenVLTemplate as QwenVLContentTransformTemplate  # noqa: F401

from ms_impl.plugin.family_classes import config_class

QwenVLConfig = config_class("qwenvl")

from ms_impl.plugin.family_classes import model_class

QwenVL = model_class("qwenvl")

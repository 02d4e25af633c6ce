"""Qwen-VL's classes under the names that its YAMLs have for them."""

from __future__ import annotations

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from ms_impl import families
from ms_impl.plugin.model import ModelSection, TrainerModel
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class QwenVLConfig(ModelSection):
    """``model.model_config``."""

    family = families.get("qwenvl")


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class QwenVL(TrainerModel):
    """``model.arch``."""


@MindFormerRegister.register(MindFormerModuleType.TRANSFORMS)
class QwenVLContentTransformTemplate(QwenVLTemplate):
    """``modal_to_text_transform.model_transform_template``, for YAMLs that name it in ``auto_register``."""

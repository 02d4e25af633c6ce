"""Qwen-VL's template with the released model's configuration: 256 features an image."""

from pathlib import Path

from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

CONFIG = Path(__file__).parents[1] / "configs/qwenvl/qwenvl_9.6b"


def released_template(tokenizer: QwenVLTokenizer, max_length: int = 512, **options) -> QwenVLTemplate:
    return QwenVLTemplate(tokenizer, QwenVLConfig.from_file(CONFIG), max_length, **options)

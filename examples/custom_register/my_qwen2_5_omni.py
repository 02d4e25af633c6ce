"""A model of one's own made from Qwen2.5-Omni: the same weights, another default system message, another box style.

It is named on the command line, as for ms-swift:

    python scripts/swift.py sft --custom_register_path examples/custom_register/my_qwen2_5_omni.py \
        --model_type my_qwen2_5_omni --model DIR --dataset train.jsonl

The registration has ms-swift's names and arguments; what differs from the family is all that it says.
"""

from __future__ import annotations

from ms_impl.data.boxes import BoxStyle, Marks
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate
from ms_impl.register import (
    ModelMeta,
    MultiModelKeys,
    TemplateMeta,
    register_model,
    register_model_arch,
    register_template,
)

NAME = "my_qwen2_5_omni"


class MyTemplate(Qwen2_5OmniTemplate):
    """Boxes are ``<box>(x1,y1),(x2,y2)</box>`` in thousandths after ``<ref>…</ref>``, in records as in answers."""

    boxes = BoxStyle((Marks("<box>", "</box>", (2,)),), ref=("<ref>", "</ref>"), side=1000, largest=999)


register_model_arch(
    MultiModelKeys(
        NAME,
        language_model="thinker.model",
        vision_tower=["thinker.audio_tower", "thinker.visual"],
        aligner=["thinker.audio_tower.proj", "thinker.visual.merger"],
        generator=["talker", "token2wav"],
    )
)
register_template(
    TemplateMeta(
        NAME,
        template_cls=MyTemplate,
        default_system="You watch clips and say what happens, and when.",
        options={"use_audio_in_video": True},
    )
)
register_model(ModelMeta(NAME, template=NAME, model_arch=NAME, base="qwen2_5_omni"))

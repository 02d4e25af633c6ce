"""What an answer shows: its boxes on the latest image, or its times along the latest clip."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ms_impl.data.box_drawing import draw_boxes, enlarged
from ms_impl.data.images import read_image
from ms_impl.data.media_sources import IMAGE
from ms_impl.data.template import Template
from ms_impl.web.session import Upload

BOXES, TIMELINE = "boxes", "timeline"
_WIDTH = 720  # pixels of a timeline, as wide as the page shows it


def drawing_of(answer: str, media: Sequence[Upload], template: Template) -> tuple[str, Image.Image] | None:
    """BOXES or TIMELINE, and the image; None where the answer has neither. Raises InputError for an unreadable file."""
    images = [medium for medium in media if medium.kind == IMAGE]
    if images and template.boxes is not None:
        image = read_image(images[-1].path)
        large = enlarged(image)
        letters = max(16, min(large.size) // 18)  # still read where a phone shows the image small
        drawn = draw_boxes(large, answer, template.boxes, size=image.size, letters=letters)
        if drawn is not None:
            return BOXES, drawn
    if media and media[-1].kind != IMAGE:
        from ms_impl.media.timeline import answer_marks, clip_seconds, draw_timeline  # decoders are an extra

        path = media[-1].path
        if marks := answer_marks(answer, clip_seconds(path)):
            return TIMELINE, draw_timeline(path, marks, width=_WIDTH)
    return None

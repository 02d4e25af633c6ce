"""Rows of samples → the arrays of a batch of one, as the declared kinds shape them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ms_impl.data.records import Conversation, parse_record
from ms_impl.data.sample import Outline, Sample


def conversation(text="<video>When?", answer="at once", **media) -> Conversation:
    """A record of one question with media, in ms-swift's layout."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return parse_record({"messages": messages, **media}, "a.jsonl: record 1")


def sizes_of(template, samples: Sequence[Sample], **more: int) -> dict[str, int]:
    outlines = [sample.outline for sample in samples]
    largest = [template.largest(outline) for outline in (*outlines, Outline(0))]
    sizes = {name: max(each[name] for each in largest) for name in template.largest_of}
    needs = [template.need(outline, sizes) for outline in outlines]
    return {**sizes, **{name: sum(need[name] for need in needs) for name in template.needs}, **more}


def packed(samples: Sequence[Sample]) -> Sample:
    """One row of several samples."""
    starts = np.cumsum([0, *map(len, samples)])
    media = tuple(
        replace(each, columns=each.columns + start) for sample, start in zip(samples, starts) for each in sample.media
    )
    ids, positions = (
        np.concatenate([getattr(s, key) for s in samples], axis=-1) for key in ("input_ids", "position_ids")
    )
    return Sample(ids, positions, media=media)


def arrays_of(template, row: Sample, sizes: dict[str, int], offset: int = 0) -> dict[str, np.ndarray]:
    out = {}
    for kind in template.kinds:
        for spec in kind.all_arrays:
            padding = sizes["tokens"] if spec.padding is None else spec.padding
            out[spec.name] = np.full(spec.shape(sizes), padding, spec.dtype)
    template.load(row.media, out, offset)
    return out

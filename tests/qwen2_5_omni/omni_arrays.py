"""Records → samples → the arrays of a batch of one."""

from collections.abc import Sequence

import numpy as np

from ms_impl.data.batch import collate
from ms_impl.data.records import Conversation, parse_record
from ms_impl.data.sample import Outline, Sample


def conversation(text="<video>When?", answer="at once", **media) -> Conversation:
    """A record of one question with media, in ms-swift's layout."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return parse_record({"messages": messages, **media}, "a.jsonl: record 1")


def sizes_of(template, samples: Sequence[Sample], **more: int) -> dict[str, int]:
    """Room for all samples in one row."""
    outlines = [sample.outline for sample in samples]
    largest = [template.largest(outline) for outline in (*outlines, Outline(0))]
    sizes = {**{name: max(each[name] for each in largest) for name in template.largest_of}, **more}
    needs = [template.need(outline, sizes) for outline in outlines]
    return {**{name: sum(need[name] for need in needs) for name in template.needs}, **sizes}


def arrays_of(template, row: Sample, sizes: dict[str, int], offset: int = 0) -> dict[str, np.ndarray]:
    """The arrays of one row, which begins at column ``offset``."""
    padding = "left" if offset else "right"
    batch = collate([row], template, {**sizes, "tokens": max(len(row) + offset, sizes["tokens"])}, padding)
    return {name: array[0] for name, array in batch.items() if array is not None}

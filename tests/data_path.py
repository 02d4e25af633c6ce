"""Records of any family through data set, plan and feed: what each packed row must hold of its conversations."""

import json
from pathlib import Path

import numpy as np

from ms_impl.data.batch_plan import BatchPlan, PlanSettings
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.train.feed import StepFeed


def check_data_path(template, records: list[dict], folder: Path, row_length: int) -> StepFeed:
    """Each record arrives once, in rows that have its ids, positions and columns. Returns the feed, of one row a step."""
    (folder / "train.json").write_text(json.dumps(records))
    data = EncodedDataset(Mixture([(folder / "train.json", 1)]), template)
    settings = PlanSettings(1, 1, row_length, packing=True, capacities=template.capacities, drop_remainder=False)
    feed = StepFeed(BatchPlan(data, settings), data)
    seen = []
    for step in range(len(feed)):
        batch = dict(zip(feed.columns, (array[0] for array in feed[step]), strict=True))
        (members,) = feed.plan.rows(step)
        _check_row(batch, [data[int(index)] for index in members], template)
        seen += members.tolist()
    assert sorted(seen) == list(range(len(records)))
    assert len(feed) < len(records), "no row has several conversations"
    return feed


def _check_row(row, samples, template):
    starts = np.cumsum([0, *map(len, samples)])
    for sample, start in zip(samples, starts):
        here = slice(start, start + len(sample))
        np.testing.assert_array_equal(row["input_ids"][here], sample.input_ids)
        np.testing.assert_array_equal(row["position_ids"][..., here], sample.position_ids)
    for kind in template.kinds:
        columns = row[kind.columns.name]
        used = np.sort(columns[columns < len(row["input_ids"])])
        media = [(medium, start) for sample, start in zip(samples, starts) for medium in sample.media]
        expected = [medium.columns + start for medium, start in media if medium.kind == kind.name]
        np.testing.assert_array_equal(used, np.sort(np.concatenate([np.zeros(0, int), *expected])))
        for spec in kind.arrays:
            assert row[spec.name].any() or not len(used), f"{spec.name} is empty"

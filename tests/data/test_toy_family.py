"""A family of two kinds of media and positions of three axes goes from records through packing and plan to batches."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_family.template import MEDIUM, PAD, ToyTemplate

from ms_impl.data import indexed_reading, sample_index
from ms_impl.data.batch import collate
from ms_impl.data.batch_plan import BatchPlan, PlanSettings, described
from ms_impl.data.check import Checker, check_all
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.errors import InputError
from ms_impl.train.feed import Shard, StepFeed, step_columns

ROOT = Path(__file__).parents[2]
RECORDS = 120
COLUMNS = (
    "input_ids", "tiles", "tile_columns", "tones", "tone_lengths", "tone_columns", "labels", "segment_ids",
    "position_ids", "loss_weights", "seeds",
)  # fmt: skip


def written(folder, seed=0, records=RECORDS):
    """Records with none, one or several media each, in ``train.json``."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(records):
        media, text = {"images": [], "audios": []}, f"record {number}"
        for at in range(rng.integers(0, 4)):
            key, mark, geometry = (
                ("images", "<image>", rng.integers(1, 5, 2)) if rng.random() < 0.5 else
                ("audios", "<audio>", rng.integers(1, 20, 1))
            )  # fmt: skip
            name = f"{number}_{at}.txt"
            (folder / name).write_text(" ".join(map(str, [*geometry, 10 * number + at])))
            media[key].append(name)
            text += mark
        answer = {"role": "assistant", "content": "yes " * int(rng.integers(1, 9)), "loss_scale": 0.5 + number % 2}
        made.append({"id": number, "messages": [{"role": "user", "content": text}, answer], **media})
    (folder / "train.json").write_text(json.dumps(made))
    return Mixture([(folder / "train.json", 1)])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty user's cache, in which everything is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(indexed_reading, "WORTH_KEEPING", -1)
    return tmp_path / "cache/vlm_mindspore/samples"


@pytest.fixture
def template(tmp_path):
    return ToyTemplate(dataset_dir=str(tmp_path))


def feed_of(mixture, template, **settings) -> StepFeed:
    data = EncodedDataset(mixture, template)
    given = {"epochs": 1, "rows_per_step": 4, "row_length": template.max_length, "drop_remainder": False, **settings}
    plan = BatchPlan(data, PlanSettings(**given, capacities=template.capacities))
    return StepFeed(plan, data, Shard())


SETTINGS = [{"packing": True}, {"group_by_length": True}, {"packing": True, "group_by_length": True}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_record_arrives_whole_with_its_media(tmp_path, template, settings):
    feed = feed_of(written(tmp_path), template, **settings)
    assert step_columns(ToyTemplate) == COLUMNS and len(feed.plan.shapes()) <= 4
    seen = []
    for step in range(len(feed)):
        batch = dict(zip(COLUMNS, feed[step], strict=True))
        sizes = feed.plan.sizes(step)
        assert batch["position_ids"].shape == (4, 3, sizes["tokens"])
        for row, members in enumerate(feed.plan.rows(step)):
            _check_row({name: array[row] for name, array in batch.items()}, [feed.samples[n] for n in members])
            seen += members.tolist()
    assert sorted(seen) == list(range(RECORDS))


def _check_row(row, samples):
    """A row against its samples, by what stands where."""
    length, start = len(row["input_ids"]), 0
    for number, sample in enumerate(samples, start=1):
        here = slice(start, start + len(sample))
        np.testing.assert_array_equal(row["input_ids"][here], sample.input_ids)
        np.testing.assert_array_equal(row["position_ids"][:, here], sample.position_ids)
        assert (row["segment_ids"][here] == number).all()
        weights = np.where(row["labels"][here] >= 0, sample.loss_scale, 0)
        np.testing.assert_array_equal(row["loss_weights"][here], weights.astype(np.float32))
        start += len(sample)
    assert (row["input_ids"][start:] == PAD).all() and not row["segment_ids"][start:].any()
    expected = {}
    for sample, begin in zip(samples, np.cumsum([0, *map(len, samples)])):
        for medium in sample.media:
            value = int(Path(medium.source).read_text().split()[-1])
            expected.update(dict.fromkeys((medium.columns + begin).tolist(), value))
    found = {}
    for columns, values in ((row["tile_columns"], row["tiles"][..., 0]), (row["tone_columns"], row["tones"][:, ::2])):
        used = columns < length
        found.update(zip(columns[used].tolist(), values[used].astype(int).tolist()))
    assert found == expected
    assert sorted(found) == np.flatnonzero(row["input_ids"] == MEDIUM).tolist()


def test_a_capacity_holds_in_every_row_and_is_its_size(tmp_path):
    template = ToyTemplate(dataset_dir=str(tmp_path), most_chunks=15)
    feed = feed_of(written(tmp_path), template, packing=True)
    assert feed.plan.sizes(0)["tone_chunks"] == 15 and "15 tone_chunks" in described(feed.plan, template.needs)
    sums = [feed.samples.needs[row].sum(0) for step in range(len(feed)) for row in feed.plan.rows(step)]
    assert max(each[2] for each in sums) <= 15 and max(each[0] for each in sums) <= template.max_length


def test_a_row_padded_on_the_left_keeps_its_own_positions(tmp_path, template):
    data = EncodedDataset(written(tmp_path), template)
    rows = [data[0], data[1]]
    batch = collate(rows, template, padding_side="left")
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(batch["position_ids"][number, :, -len(row) :], row.position_ids)
        assert batch["next_positions"][number] == row.next_position
    assert {"labels"} <= set(batch) and "loss_weights" not in batch


def forget_reading(monkeypatch):
    """From here on no record can be read."""

    def refuse(self, conversation):
        raise AssertionError(f"{conversation.record} is read")

    monkeypatch.setattr(ToyTemplate, "sample", refuse)


def same(one: EncodedDataset, other: EncodedDataset) -> bool:
    return (one.needs == other.needs).all() and (one.digests == other.digests).all() and dict(one.sizes) == other.sizes


def test_what_was_read_before_is_not_read_again(tmp_path, template, cache, monkeypatch):
    first = EncodedDataset(written(tmp_path), template)
    (index,) = cache.iterdir()
    assert index.suffix == ".npz"
    forget_reading(monkeypatch)
    again = EncodedDataset(Mixture([(tmp_path / "train.json", 2)]), ToyTemplate(dataset_dir=str(tmp_path)))
    assert same(first, again)


def test_the_check_reads_for_training(tmp_path, template, cache, monkeypatch):
    mixture = written(tmp_path)
    findings = check_all(Checker(mixture, template), workers=2)
    assert not findings.faults and sum(findings.media.values()) > 100
    forget_reading(monkeypatch)
    assert EncodedDataset(mixture, template).needs[:, 0].sum() == findings.tokens


def test_other_options_or_sources_read_anew(tmp_path, template, cache, monkeypatch):
    mixture = written(tmp_path)
    EncodedDataset(mixture, template)
    EncodedDataset(mixture, ToyTemplate(dataset_dir=str(tmp_path), shortest=0))
    monkeypatch.setattr(sample_index, "_sources", lambda template: "changed")
    EncodedDataset(mixture, template)
    assert len(list(cache.iterdir())) == 3


def test_a_changed_medium_is_noticed_and_its_records_alone_are_read(tmp_path, template, cache, monkeypatch):
    first = EncodedDataset(written(tmp_path), template)
    changed = next(n for n in range(RECORDS) if first[n].media)
    path = first[changed].media[0].source
    geometry = first[changed].media[0].geometry
    with open(path, "w") as file:
        file.write(" ".join(map(str, [*(size + 1 for size in geometry), 7])))
    asked = []
    sample = ToyTemplate.sample
    monkeypatch.setattr(ToyTemplate, "sample", lambda self, c: asked.append(c.record) or sample(self, c))
    again = EncodedDataset(first.mixture, template)
    assert [record.split()[-1] for record in asked] == [f"{changed})"]
    others = np.arange(RECORDS) != changed
    assert (again.digests[others] == first.digests[others]).all() and (
        again.digests[changed] != first.digests[changed]
    ).any()
    assert again.needs[changed, 0] > first.needs[changed, 0]
    asked.clear()
    assert same(again, EncodedDataset(first.mixture, template)) and not asked


def test_a_medium_that_is_gone_is_the_error_of_a_first_reading(tmp_path, template, cache):
    mixture = written(tmp_path)
    first = EncodedDataset(mixture, template)
    gone = [n for n in range(RECORDS) if first[n].media][3:6]
    for number in reversed(gone):
        os.unlink(first[number].media[0].source)
    told = []
    for _ in range(3):
        with pytest.raises(InputError) as caught:
            EncodedDataset(mixture, template)
        told.append(str(caught.value))
        if len(told) == 1:
            next(cache.iterdir()).unlink()
    assert len(set(told)) == 1 and f"record {gone[0]} (id {gone[0]})" in told[0]


def test_what_was_read_before_a_fault_is_not_read_again(tmp_path, template, cache, monkeypatch):
    mixture = written(tmp_path)
    media = [[str(path) for path in sorted(tmp_path.glob(f"{n}_*.txt"))] for n in range(RECORDS)]
    late = max(n for n in range(RECORDS) if media[n])
    content = Path(media[late][0]).read_text()
    os.unlink(media[late][0])
    with pytest.raises(InputError):
        EncodedDataset(mixture, template)
    Path(media[late][0]).write_text(content)
    asked = []
    sample = ToyTemplate.sample
    monkeypatch.setattr(ToyTemplate, "sample", lambda self, c: asked.append(c.record) or sample(self, c))
    mended = EncodedDataset(mixture, template)
    assert 1 <= len(asked) <= RECORDS - late + 64
    next(cache.iterdir()).unlink()
    assert same(mended, EncodedDataset(mixture, template))


@pytest.mark.parametrize("damage", [b"", b"PK", b"cut", b"flip"])
def test_a_damaged_index_is_told_and_read_anew(tmp_path, template, cache, caplog, damage):
    first = EncodedDataset(written(tmp_path), template)
    (index,) = cache.iterdir()
    data = bytearray(index.read_bytes())
    if damage == b"flip":  # of an array: what lies between two is partly read by nobody
        digests = sample_index.load(index, RECORDS, 2).digests.tobytes()
        data[data.index(digests) + len(digests) // 2] ^= 255
    index.write_bytes(data[: len(data) // 2] if damage == b"cut" else data if damage == b"flip" else damage)
    assert same(first, EncodedDataset(first.mixture, template))
    assert "the records are read anew" in caplog.text


def test_arrays_that_do_not_fit_are_no_index(tmp_path, template, cache):
    EncodedDataset(written(tmp_path), template)
    (index,) = cache.iterdir()
    entries = sample_index.load(index, RECORDS, 2)
    assert sample_index.load(index, RECORDS + 1, 2) is None and sample_index.load(index, RECORDS, 1) is None
    for name, value in {
        "kinds": entries.kinds - 1,
        "media_ends": entries.media_ends[::-1],
        "files": entries.files + 10**6,
        "tokens": entries.tokens.astype(np.int64),
        "digests": entries.digests[:, :8],
        "paths": entries.paths[1:],
    }.items():
        sample_index.save(replace(entries, **{name: value}), index)
        assert sample_index.load(index, RECORDS, 2) is None, name
    sample_index.save(entries, index)
    assert sample_index.load(index, RECORDS, 2) is not None


def test_warnings_are_told_again(tmp_path, cache, caplog):
    template = ToyTemplate(60, dataset_dir=str(tmp_path))
    mixture = written(tmp_path, seed=3)
    told = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            EncodedDataset(mixture, template)
        told.append([record.getMessage() for record in caplog.records])
    assert told[0] == told[1] and "cut off at 60 tokens; the first is" in told[0][0]


def test_processes_read_what_one_does(tmp_path, template, cache, monkeypatch):
    mixture = written(tmp_path, records=200)
    alone = EncodedDataset(mixture, template)
    next(cache.iterdir()).unlink()
    monkeypatch.setattr(indexed_reading, "_PATIENCE", -1)
    monkeypatch.setattr(indexed_reading, "cores", lambda: 2)
    assert same(alone, EncodedDataset(mixture, template))


class Deadly(ToyTemplate):
    """Ends the process that reads a record, unless it is the one that it was made in."""

    def __init__(self, **options):
        super().__init__(**options)
        self.home = os.getpid()

    def sample(self, conversation):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(conversation)


def test_where_processes_are_ended_one_reads_on(tmp_path, template, cache, monkeypatch, caplog):
    mixture = written(tmp_path, records=200)
    alone = EncodedDataset(mixture, template)
    monkeypatch.setattr(indexed_reading, "_PATIENCE", -1)
    monkeypatch.setattr(indexed_reading, "cores", lambda: 2)
    assert same(alone, EncodedDataset(mixture, Deadly(dataset_dir=str(tmp_path))))
    assert "was ended, perhaps because memory ran out; reading on in one process" in caplog.text


_SECOND = """
import sys
from toy_family.template import ToyTemplate
from ms_impl.data import indexed_reading
from ms_impl.data.files import Mixture
from ms_impl.data.encoded_dataset import EncodedDataset

def refuse(self, conversation):
    raise AssertionError("read")

ToyTemplate.sample = refuse
print("asks", flush=True)
EncodedDataset(Mixture([(sys.argv[1] + "/train.json", 1)]), ToyTemplate(dataset_dir=sys.argv[1]))
"""


def test_of_two_processes_one_reads_and_the_other_waits(tmp_path, template, cache, monkeypatch):
    """As the ranks of a machine do."""
    mixture, sample = written(tmp_path), ToyTemplate.sample
    other: list[subprocess.Popen] = []

    def slow(self, conversation):
        if not other:
            path = os.pathsep.join(str(ROOT / part) for part in ("", "tests"))
            command = [sys.executable, "-c", _SECOND, str(tmp_path)]
            environment = {**os.environ, "PYTHONPATH": path}
            other.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            assert other[0].stdout.readline() == b"asks\n"
            time.sleep(0.5)
            assert other[0].poll() is None  # it waits
        return sample(self, conversation)

    monkeypatch.setattr(ToyTemplate, "sample", slow)
    EncodedDataset(mixture, template)
    assert (other[0].wait(30), other[0].stderr.read().decode()) == (0, "")


def test_the_indices_of_long_ago_give_way(tmp_path, template, cache, monkeypatch):
    for seed in range(3):
        mixture = written(tmp_path, seed)
        EncodedDataset(mixture, template)
        (newest,) = sorted(cache.iterdir(), key=os.path.getmtime)[-1:]
        os.utime(newest, (seed + 1, seed + 1))
        monkeypatch.setattr(sample_index, "CAPACITY", 2 * newest.stat().st_size + 5000)
    assert len(list(cache.iterdir())) == 2


def test_without_a_cache_data_are_read(tmp_path, template, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert len(EncodedDataset(written(tmp_path), template)) == RECORDS
    assert "is not kept" in caplog.text

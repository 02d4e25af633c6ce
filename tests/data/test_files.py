"""Conversation files read record by record: positions, faults, memory, and files mixed by weight."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ms_impl.data.files import ConversationFile, Mixture, RecordFile, sampled
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError


def record(number, text="What?"):
    turns = [{"from": "user", "value": text}, {"from": "assistant", "value": f"é {number} 🐶"}]
    return {"id": f"r{number}", "conversations": turns}


RECORDS = [record(number, "狗é🐶" * number + '"[{]}\\\n') for number in range(40)]
LAYOUTS = {
    "list": lambda records: json.dumps(records, ensure_ascii=False),
    "ascii": json.dumps,
    "pretty": lambda records: json.dumps(records, ensure_ascii=False, indent=2),
    "crlf": lambda records: json.dumps(records, ensure_ascii=False, indent=2).replace("\n", "\r\n"),
    "lines": lambda records: "\n".join(json.dumps(each, ensure_ascii=False) for each in records),
    "blank lines": lambda records: "".join(json.dumps(each, ensure_ascii=False) + "\n \r\n\n" for each in records),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_are_those_that_json_reads(tmp_path, layout, mark):
    path = write(tmp_path / "data", mark + LAYOUTS[layout](RECORDS).encode())
    file = RecordFile(path)
    assert list(file) == RECORDS
    assert file[-1] == RECORDS[-1] and file[np.int64(3)] == RECORDS[3]
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(IndexError):
        file[len(RECORDS)]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7, 64, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_may_cut_anywhere(tmp_path, monkeypatch, layout, window):
    monkeypatch.setattr("ms_impl.data.json_scan._WINDOW", window)
    assert list(RecordFile(write(tmp_path / "data", LAYOUTS[layout](RECORDS[:6])))) == RECORDS[:6]


def test_conversations_name_file_record_and_id(tmp_path):
    path = write(tmp_path / "train.json", json.dumps(RECORDS))
    file = ConversationFile(path)
    assert file[7] == parse_record(RECORDS[7], f"{path}: record 7")
    assert file[-1].record == f"{path}: record 39 (id 'r39')"
    assert file.name(7) == f"{path}: record 7"


def test_the_first_samples_only(tmp_path, monkeypatch):
    monkeypatch.setattr("ms_impl.data.json_scan._WINDOW", 64)
    path = write(tmp_path / "train.json", json.dumps(RECORDS))
    file = ConversationFile(path, num_samples=3)
    assert len(file) == 3 and file.sha256 == ConversationFile(path).sha256
    assert len(ConversationFile(path, num_samples=1000)) == 40
    with pytest.raises(InputError, match="num_samples must be a positive whole number, not 0"):
        ConversationFile(path, num_samples=0)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "line 1: expected a record, {…}, found the end of the file"),
        (" \n\n", "line 3: expected a record, {…}, found the end of the file"),
        ("text", "line 1: expected a record, {…}, found t"),
        ("[\n]", "line 2: expected a record, {…}, found ]"),
        ('[{"id": 1},\n3]', "line 2: expected a record, {…}, found 3"),
        ('[{"id": 1},\n]', "line 2: expected a record, {…}, found ]"),
        ('[{"id": 1}\n{"id": 2}]', "line 2: expected , or ], found {"),
        ('[{"id": 1},\n{"id": 2}', "line 2: expected , or ], found the end of the file"),
        ('[{"id": 1}]\n\n[', "line 3: expected the end of the file, found ["),
        ('{"id": 1}\n{"id": 2},\n{"id": 3}', "line 2: expected a record, {…}, found ,"),
        ('[{"id": 1,\n"conversations": [}\n]', "line 2: not JSON (Expecting value)"),
        ('{"id": 1}\n{"id": "two\n{"id": 3}\n', "line 2: not JSON (Invalid control character at)"),
        ('{"id": 1}\n{"id": 2', "line 2: not JSON (Expecting ',' delimiter; the file ends within a record)"),
        ('[\n\n{"id": "one', "line 3: not JSON (Unterminated string starting at; the file ends within a record)"),
        ('\n{"id": ' + "[" * 100_000, "line 2: not JSON that can be read"),
        ('[{"id":\n "é"}]'.encode("latin-1"), "line 2: not UTF-8"),
        ('{"id": 1}'.encode("utf-16"), "line 1: not UTF-8"),
        ('{"id":\n "é'.encode()[:-1], "line 2: not UTF-8"),
    ],
)
@pytest.mark.parametrize("window", [3, 1 << 18])
def test_bad_files_name_the_line(tmp_path, monkeypatch, window, content, message):
    monkeypatch.setattr("ms_impl.data.json_scan._WINDOW", window)
    path = write(tmp_path / "train.json", content)
    with pytest.raises(InputError) as caught:
        ConversationFile(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_fault_ends_the_search_for_the_end_of_its_record(tmp_path, monkeypatch):
    """Else one quote left out would take the whole rest of the file into memory."""
    monkeypatch.setattr("ms_impl.data.json_scan._LONGEST", 1000)
    path = write(tmp_path / "train.jsonl", '{"id": 1 "a": 2}\n' * 100_000)
    read = []
    monkeypatch.setattr("ms_impl.data.json_scan._Text._read", _counted(read))
    with pytest.raises(InputError, match="line 1: not JSON"):
        RecordFile(path)
    assert len(read) <= 2


def _counted(calls):
    from ms_impl.data.json_scan import _Text

    original = _Text._read

    def counted(self):
        calls.append(1)
        original(self)

    return counted


@pytest.mark.parametrize(
    "content, message",
    [
        ({"id": "b"}, r"record 1 \(id 'b'\): 'conversations' is missing"),
        ({"id": "a", "conversations": {}}, r"record 1 \(id 'a'\): 'conversations' must be a list, not dict"),
        ({"id": "a", "conversations": []}, r"record 1 \(id 'a'\): the conversation is empty"),
        ({"conversations": [{"value": "Hi"}]}, "record 1: turn 0: 'from' is missing"),
        ({"conversations": [{"from": "user"}]}, "record 1: turn 0: 'value' is missing"),
        ({"conversations": ["Hi"]}, "record 1: turn 0: 'from' is missing"),
        ({"conversations": [{"from": "user", "value": 3}]}, "record 1: turn 0: 'value' must be a str, not int"),
    ],
)
def test_a_bad_record_is_named_when_it_is_asked_for(tmp_path, content, message):
    file = ConversationFile(write(tmp_path / "train.json", json.dumps([record(0), content, record(2)])))
    assert len(file[0].turns) == len(file[2].turns) == 2
    with pytest.raises(InputError, match=f"train.json: {message}"):
        file[1]


DEEP, DIGITS = "[" * 5000 + "]" * 5000, "1" * 10_000


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ('{"x": %s}' % DEEP, "nested deeper than 64 levels"),
        ('{"x": %s}' % ("[" * 200 + "]" * 200), "nested deeper than 64 levels"),
        ('{"x": ["%s", "]}\\"", %s]}' % ("{[" * 99, DEEP), "nested deeper than 64 levels"),
        ('{"x": %s}' % DIGITS, "a number of 10,000 digits"),
        ('{"x": 1e999}', "too large"),
        ('{"x": NaN}', "NaN"),
        ('{"conversations": [], "conversations": [1]}', "the key 'conversations' stands twice"),
        ('{"x": "\\ud83d"}', "surrogate"),
    ],
)
@pytest.mark.parametrize("layout", ["[{}]", "{}"])
@pytest.mark.parametrize("window", [7, 1 << 18])
def test_a_record_that_is_refused_is_one_record(tmp_path, monkeypatch, window, layout, odd, message):
    """Also where the whole file could not be parsed at once: the others are read."""
    monkeypatch.setattr("ms_impl.data.json_scan._WINDOW", window)
    records = [json.dumps(record(0)), odd, json.dumps(record(2))]
    text = layout.format((", " if layout == "[{}]" else "\n").join(records))
    file = RecordFile(write(tmp_path / "train.json", text))
    assert len(file) == 3 and file[0] == record(0) and file[2] == record(2)
    with pytest.raises(InputError, match=f"train.json: record 1: .*{message}") as caught:
        file[1]
    assert len(str(caught.value)) < 300


OBJECTS = [
    '{"conversations": %s}',
    ' {"version": 1.5, "about": {"conversations": [1]}, "conversations": %s, "n": [], "m": {"a": "]}"}}\n',
    '{"date": "2024 \\"]", "conversations"  :  %s  }',
]


@pytest.mark.parametrize("window", [1, 3, 64, 1 << 18])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("text", OBJECTS)
def test_an_object_may_list_its_records(tmp_path, monkeypatch, text, indent, window):
    monkeypatch.setattr("ms_impl.data.json_scan._WINDOW", window)
    records = [*RECORDS[:4], {"messages": []}]
    path = write(tmp_path / "data", text % json.dumps(records, indent=indent))
    assert list(RecordFile(path)) == records
    assert list(RecordFile(path, 2)) == records[:2]


@pytest.mark.parametrize("first", ['{"id": 1}', '{"x": %s, "messages": []}' % DEEP, '{"x": %s}' % DIGITS, "{}"])
def test_an_objects_first_record_may_be_a_bad_one(tmp_path, first):
    file = RecordFile(write(tmp_path / "data", '{"conversations": [%s, %s]}' % (first, json.dumps(RECORDS[1]))))
    assert len(file) == 2 and file[1] == RECORDS[1]


@pytest.mark.parametrize("turn", [{"from": "user"}, {"value": "Hi"}, {"role": "user", "content": "Hi"}])
def test_a_conversation_is_not_taken_for_a_list_of_records(tmp_path, turn):
    """JSONL of one line."""
    record = {"conversations": [turn, {"from": "assistant", "value": "Hi"}]}
    assert list(RecordFile(write(tmp_path / "data", json.dumps(record)))) == [record]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"conversations": [{"conversations": []}}', "line 1: expected , or ], found }"),
        ('{"conversations": [{"conversations": []}]', "line 1: expected , or }, found the end of the file"),
        ('{"conversations": [{"conversations": []}], 3}', "line 1: expected :, found }"),
        ('{"conversations": [{"conversations": []}], "conversations": []}', "the key 'conversations' stands twice"),
        ('{"conversations": [{"conversations": []}]}\n{"id": 1}', "line 2: expected the end of the file, found {"),
        ('{"conversations": [{"conversations": []}, 3]}', "line 1: expected a record, {…}, found 3"),
    ],
)
def test_bad_objects_name_the_line(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        RecordFile(write(tmp_path / "train.json", text))
    assert message in str(caught.value)


@pytest.mark.parametrize("num_samples", [True, 1.5, "3"])
def test_a_number_of_samples_is_a_whole_number(tmp_path, num_samples):
    with pytest.raises(InputError, match="num_samples must be"):
        RecordFile(write(tmp_path / "train.json", json.dumps(RECORDS)), num_samples)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train.json")
    with pytest.raises(InputError, match="train.json: cannot be read: not a regular file"):
        RecordFile(tmp_path / "train.json")
    with pytest.raises(InputError, match="cannot be read"):
        RecordFile("/dev/zero")
    with pytest.raises(InputError, match="cannot be read"):
        RecordFile("nul\0")


def test_a_hundred_thousand_records_are_found_in_seconds(tmp_path):
    path = write(
        tmp_path / "train.jsonl", LAYOUTS["lines"]([record(number, "What? " * 20) for number in range(100_000)])
    )
    start = time.process_time()
    assert len(RecordFile(path)) == 100_000
    assert time.process_time() - start < 4


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            ConversationFile(path)


def test_a_changed_file_is_noticed(tmp_path):
    path = write(tmp_path / "train.json", json.dumps(RECORDS))
    file = ConversationFile(path)
    assert file[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="train.json: the file changed while in use"):
        file[0]
    os.replace(write(tmp_path / "other.json", json.dumps(RECORDS[:5])), path)
    with pytest.raises(InputError, match="train.json: the file changed while in use"):
        file[0]
    path.unlink()
    with pytest.raises(InputError, match="train.json: can no longer be read"):
        file[0]


def test_a_changed_file_with_its_old_time_is_no_traceback(tmp_path):
    path = write(tmp_path / "train.json", json.dumps(RECORDS))
    file, status = ConversationFile(path), path.stat()
    path.write_bytes(b"{" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match="train.json: the file changed while in use"):
        file[0]


def test_a_copy_for_another_process_and_threads(tmp_path):
    file = ConversationFile(write(tmp_path / "train.jsonl", LAYOUTS["lines"](RECORDS)))
    copy = pickle.loads(pickle.dumps(file))
    assert list(copy) == list(file) and copy.sha256 == file.sha256
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(file.__getitem__, list(range(40)) * 25)) == list(file) * 25


_PEAK = """
import resource, sys
from ms_impl.data.files import ConversationFile, Mixture, RecordFile, sampled
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(len(conversation.turns) for conversation in ConversationFile(sys.argv[1])) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("layout", ["pretty", "lines"])
def test_memory_does_not_grow_with_the_file(tmp_path, layout):
    """80 MB of text in two thousand records."""
    path = write(tmp_path / "data", LAYOUTS[layout]([record(number, "é" * 20_000) for number in range(2000)]))
    command = [sys.executable, "-c", _PEAK, str(path), "4000"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert path.stat().st_size > 80_000_000 and int(ran.stdout) < 40_000  # KiB


@pytest.mark.parametrize(("count", "rounds"), [(3, 0), (40, 1), (50, 1), (97, 2)])
def test_a_part_of_a_file_is_taken_as_ms_swift_takes_it(tmp_path, count, rounds):
    """All as often as there is room for, and some once more: at random with a seed, and else the first."""
    path = write(tmp_path / "train.json", json.dumps([record(number) for number in range(40)]))
    file, again, other = (ConversationFile(f"{path}#{count}", seed=seed) for seed in (5, 5, 6))
    numbers = [int(file.name(index).rpartition(" ")[2]) for index in range(count)]
    times = np.bincount(numbers, minlength=40)
    assert len(file) == count and (times.min(), times.max()) == (rounds, rounds + bool(count % 40))
    assert [each.record for each in file] == [f"{path}: record {n} (id 'r{n}')" for n in numbers]
    assert list(file) == list(again) == list(pickle.loads(pickle.dumps(file)))
    whole = ConversationFile(path)
    assert len({file.sha256, whole.sha256, *([other.sha256] if count % 40 else [])}) == 2 + bool(count % 40)
    first = ConversationFile(f"{path}#{count}")
    assert [int(first.name(index).rpartition(" ")[2]) for index in range(count)] == [n % 40 for n in range(count)]
    assert len(ConversationFile(f"{path}#{count}", num_samples=2, seed=5)) == 2


def test_of_one_seed_fewer_records_are_among_more():
    assert set(sampled(1000, 20, 3)) < set(sampled(1000, 50, 3)) and set(sampled(1000, 20, 3)) - set(
        sampled(1000, 20, 4)
    )


def test_a_file_whose_own_name_ends_so_is_whole(tmp_path):
    path = write(tmp_path / "train#2", json.dumps([record(number) for number in range(5)]))
    assert len(ConversationFile(path)) == 5 and len(ConversationFile(f"{path}#3")) == 3
    with pytest.raises(InputError, match="#0: takes no record"):
        ConversationFile(f"{path}#0")
    with pytest.raises(InputError, match="train: cannot be read"):
        ConversationFile(tmp_path / "train#3")


@pytest.fixture
def three_files(tmp_path):
    sizes = {"a.json": 5, "b.json": 7, "c.json": 10}
    return [write(tmp_path / name, json.dumps([record(n) for n in range(size)])) for name, size in sizes.items()]


def test_a_mixture_is_one_sequence(three_files):
    mixture = Mixture([(path, 1) for path in three_files])
    assert len(mixture) == 22
    fifths = [(three_files[file], number) for file, number in ((0, 0), (1, 0), (1, 5), (2, 3), (2, 8))]
    records = [conversation.record for conversation in mixture][::5]
    assert records == [f"{path}: record {number} (id 'r{number}')" for path, number in fifths]
    assert mixture[-1] == mixture[21] and mixture.name(5) == f"{three_files[1]}: record 0"
    assert mixture.digests == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in three_files}
    assert len(Mixture([(path, 1) for path in three_files], num_samples=6)) == 17
    assert list(pickle.loads(pickle.dumps(mixture))) == list(mixture)


def test_a_mixture_of_parts_is_read_and_resumed_by_what_is_taken(three_files):
    files = [(f"{three_files[2]}#4", 2), (three_files[2], 1), (f"{three_files[2]}#4", 1)]
    mixture = Mixture(files, seed=7)
    assert len(mixture) == 18 and list(mixture)[:4] == list(mixture)[14:]
    assert list(mixture.digests) == [f"{three_files[2]}#4", str(three_files[2])]
    assert mixture.digests != Mixture(files, seed=8).digests and len(mixture.epoch(0, 7)) == 22


def test_weights_count_a_files_conversations_in_an_epoch(three_files):
    mixture = Mixture(list(zip(three_files, (2, 0.5, 1.3))))
    epochs = [mixture.epoch(number, seed=3) for number in range(40)]
    assert all(Counter(epoch.tolist())[index] == 2 for epoch in epochs for index in range(5))
    sizes = np.array([[((epoch >= 5) & (epoch < 12)).sum(), (epoch >= 12).sum()] for epoch in epochs])
    assert set(sizes[:, 0]) == {3, 4} and set(sizes[:, 1]) == {13}
    assert sizes.sum(0).tolist() == [40 * 7 / 2, 40 * 13]


@pytest.mark.parametrize("weight", [0.1, 1 / 3, 0.5, 0.9, 1.7])
def test_over_the_epochs_all_conversations_come_up_evenly(three_files, weight):
    mixture = Mixture([(three_files[2], weight)])
    counts = np.zeros(10, int)
    for number in range(60):
        epoch = mixture.epoch(number, seed=1)
        counts += np.bincount(epoch, minlength=10)
        assert counts.max() - counts.min() <= 1
        assert np.bincount(epoch, minlength=10).max() <= np.ceil(weight)
    assert abs(counts.sum() - 60 * 10 * weight) <= 1


def test_an_epoch_depends_on_its_number_and_the_seed_alone(three_files):
    files = [(path, 0.5) for path in three_files]
    first, again = Mixture(files), Mixture(files)
    assert first.epoch(3, seed=0).tolist() == again.epoch(3, seed=0).tolist()
    assert first.epoch(3, seed=0).tolist() != first.epoch(3, seed=1).tolist()
    assert first.epoch(3, seed=0).tolist() != first.epoch(4, seed=0).tolist()
    assert (np.diff(first.epoch(3, seed=0)) > 0).all()  # in the files' order


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e18, True, "2", 10**5000], ids=range(8))
def test_weights_are_positive(three_files, weight):
    with pytest.raises(InputError, match="a.json: weight must be positive"):
        Mixture([(three_files[0], weight)])
    with pytest.raises(InputError, match="no file"):
        Mixture([])

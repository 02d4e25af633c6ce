"""A whole data set is read through on all cores; every kind of fault is found, grouped and named."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from released_template import CONFIG, released_template

from ms_impl.data import check_report
from ms_impl.data.check import Checker, Fault, Findings, check_all
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import ConversationFile, Mixture
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError


def record(text, answer="A dog.", **changes):
    turns = [{"from": "user", "value": text}, {"from": "assistant", "value": answer}]
    return {"id": "x", "conversations": turns} | changes


FAULTY = {
    "'conversations' is missing": {"id": "x"},
    "turn 1: 'value' must be a str, not int": record("Hi", 3),
    "unknown role 'bot'; user_role_name and": record("Hi", conversations=[{"from": "bot", "value": "Hi"}]),
    "no answer": record("", conversations=[{"from": "user", "value": "Hi"}] * 2),
    "an answer is empty": record("Hi", " \n"),
    "coordinate 1500 in <box>(10,10),(1500,20)</box> lies outside 0–999": record(
        "Hi", "<ref>a</ref><box>(10,10),(1500,20)</box>"
    ),
    "coordinate -3 in <quad>": record("<quad>(1,2),(-3,4),(5,6),(7,8)</quad>"),
    "1 <image> in its turns, but 0 images are given": record("<image>What?"),
    "text of 999,999 characters cannot be tokenized": record(" " * 999_999),
    "image '{root}/" + "n" * 256 + "' does not exist": record("<img>" + "n" * 256 + "</img>"),
    "0 <video> in its turns, but 1 video is given": record("Hi", videos=["a.mp4"]),
    "Unclosed image token": record("<img>a.png"),
    "image '{root}/none.png' does not exist": record("<img>none.png</img>"),
    "image '{root}/text.png' is not an image file": record("<img>text.png</img>"),
    "image '{root}/cut.png' cannot be decoded": record("<img>cut.png</img>"),
    "image '../b.png' lies outside dataset_dir": record("<img>../b.png</img>"),
    "image 'http://host/a.png' is a URL": record("<img>http://host/a.png</img>"),
    "2 images do not fit in 1 image slots": record("<img>a.png</img><img>a.png</img>"),
    "max_length 900 cuts image 'a.png'": record("word " * 700 + "<img>a.png</img>"),
}


@pytest.fixture
def checker(tmp_path, tokenizer):
    """Makes a checker of records whose images lie beside them; a.png is one."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")

    def make(records, slots=1):
        (tmp_path / "train.json").write_text(json.dumps(records))
        options = {"dataset_dir": str(tmp_path), "modal_content_padding_size": slots}
        return Checker(ConversationFile(tmp_path / "train.json"), released_template(tokenizer, 900, **options))

    return make


def test_counts_are_those_of_the_samples(checker):
    led = record("Hi", conversations=[{"from": "assistant", "value": "Welcome."}, *record("Hi")["conversations"]])
    checker = checker([record("<img>a.png</img>What?"), record("word " * 1000), led])
    samples = [checker.sample(index) for index in range(3)]
    findings = checker.check(range(3))
    assert findings.tokens == sum(map(len, samples))
    assert findings.trained == sum(sample.trained.sum() for sample in samples)
    assert findings.media == {"images": 1} and not findings.faults
    assert findings.lengths[[0, 2]].tolist() == [len(samples[0]), len(samples[2])]
    assert len(samples[1]) == 900 and findings.lengths[1] > 1000  # its length before it is cut off
    assert findings.changes == {"cut off at 900 tokens": 1, "leading turn that is not the user's left out": 1}


def test_each_kind_of_fault_is_found(checker, tmp_path):
    checker = checker([record("Hi"), *FAULTY.values(), record("<img>a.png</img>")])
    findings = checker.check(range(len(FAULTY) + 2))
    assert len(findings.faults) == len(FAULTY) and findings.media == {"images": 1}
    for number, (expected, fault) in enumerate(zip(FAULTY, findings.faults), start=1):
        start = f"{tmp_path}/train.json: record {number} (id 'x'): "
        assert fault.message.startswith(start + expected.format(root=tmp_path))
    assert findings.lengths.astype(bool).tolist() == [True, *[False] * len(FAULTY), True]


def test_any_number_of_images_without_a_limit(checker):
    records = [record("<img>a.png</img><img>a.png</img>")]
    assert checker(records).check([0]).faults
    assert checker(records, slots=None).check([0]).media == {"images": 2}


def test_like_faults_have_one_reason(checker):
    wrong = [record(f"<img>{number}.png</img>", id=number) for number in range(3)]
    reasons = [fault.reason for fault in checker(wrong).check(range(3)).faults]
    assert reasons == ["image … does not exist"] * 3


def test_all_records_are_checked_in_processes(checker):
    checker = checker([record(f"<img>{'a' if number % 10 else number}.png</img>") for number in range(500)])
    together = check_all(checker, workers=2)
    alone = checker.check(range(500))
    assert together.lengths.tolist() == alone.lengths.tolist() and together.faults == alone.faults
    assert (together.tokens, together.trained, together.media) == (alone.tokens, alone.trained, alone.media)
    assert len(together.faults) == 50 and together.media == {"images": 450}


class Deadly:
    """Conversations of which one ends the process that reads it, as the system does where memory runs out."""

    def __init__(self, parent):
        self._parent = parent

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if os.getpid() != self._parent:
            os.kill(os.getpid(), signal.SIGKILL)

    def name(self, index):
        return str(index)


def test_a_killed_process_ends_the_check(tokenizer):
    checker = Checker(Deadly(os.getpid()), released_template(tokenizer, 900))
    with pytest.raises(InputError, match="a process of the check was ended"):
        check_all(checker, workers=2)


_SLOW = """
import os, sys, time
from ms_impl.data.check import Checker, check_all
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.template import QwenVLTemplate

class Slow:
    def __len__(self):
        return 100
    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        time.sleep(100)
    def name(self, index):
        return str(index)

if __name__ == "__main__":
    config = QwenVLConfig.from_file(sys.argv[2])
    check_all(Checker(Slow(), QwenVLTemplate.from_pretrained(sys.argv[1], config)), workers=2)
"""


def test_a_killed_check_leaves_no_process_behind(tmp_path, vocabulary_file):
    (tmp_path / "slow.py").write_text(_SLOW)
    command = [sys.executable, tmp_path / "slow.py", vocabulary_file, CONFIG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 20
    while any(_runs(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(worker) for worker in workers)


def _runs(process):
    """Whether a process runs; one that nobody has waited for yet (state Z) does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_table():
    findings = Findings(
        np.array([7, 0, 5]), 12345, 1234, Counter(images=2), Counter({"cut off at 9 tokens": 1}), [Fault("m", "r")]
    )
    assert [line.split() for line in check_report.table(findings).splitlines()] == [
        ["records", "3"],
        ["tokens", "12,345"],
        ["trained", "1,234", "10.0%"],
        ["images", "2"],
        ["cut", "off", "at", "9", "tokens", "1"],
        ["broken", "1"],
    ]


def test_reasons_are_grouped_with_the_commonest_first():
    faults = [Fault("a.json: record 0: odd", "odd"), *(Fault(f"record {n}: \x1b[31m", "like") for n in range(5))]
    assert check_report.reasons(faults).splitlines() == [
        "5 × like",
        *(f"    record {number}: \N{REPLACEMENT CHARACTER}[31m" for number in range(3)),
        "    … and 2 more",
        "1 × odd",
        "    a.json: record 0: odd",
    ]


@pytest.mark.parametrize("lengths", [[7], [1, 2], [100] * 9 + [2048], list(range(1, 3000)), [90_000, 1]])
def test_histogram_counts_every_length_once(lengths):
    lines = check_report.histogram(np.array(lengths)).splitlines()
    assert len(lines) <= check_report.BINS
    bars = []
    for line in lines:
        first, last, count = (int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", line))
        assert count == sum(first <= length <= last for length in lengths)
        bars.append((count, line.count("█")))
    assert sum(count for count, _ in bars) == len(lengths)
    assert max(bars)[1] == check_report.BAR and [bar for _, bar in sorted(bars)] == sorted(bar for _, bar in bars)


def test_trained_tokens_are_marked_or_coloured(checker, tokenizer):
    sample = checker([record("<img>a.png</img>\x1b[2J é?")]).sample(0)
    text = check_report.dialogue(sample, tokenizer.decode, coloured=False)
    head, _, body = text.partition("\n")
    assert head.endswith(f"{len(sample)} tokens, {sample.trained.sum()} trained")
    assert body == (
        "⟦<|im_start|>⟧system\nYou are a helpful assistant.⟦<|im_end|>\n<|im_start|>⟧user\n"
        "<img>a.png</img>\N{REPLACEMENT CHARACTER}[2J é?⟦<|im_end|>\n<|im_start|>⟧assistant\n⟦A dog.<|im_end|>\n⟧"
    )
    coloured = check_report.dialogue(sample, tokenizer.decode, coloured=True).partition("\n")[2]
    assert coloured == body.replace("⟦", "\x1b[32m").replace("⟧", "\x1b[0m")
    assert check_report.legend(coloured=True) == "trained: \x1b[32mgreen\x1b[0m"


def test_a_record_cut_off_before_its_answer_is_named(checker):
    findings = checker([record("Hi"), record("word " * 1000, id="long")]).check(range(2))
    (name,) = findings.unanswered
    assert name.endswith("record 1 (id 'long')") and not findings.faults
    assert ["no", "token", "of", "an", "answer", "left", "1"] in [
        line.split() for line in check_report.table(findings).splitlines()
    ]
    assert name in check_report.unanswered(findings.unanswered, 900)


def test_a_coordinate_of_1000_is_counted(checker):
    findings = checker([record("Hi", "<ref>a</ref><box>(0,0),(1000,999)</box>")]).check([0])
    assert not findings.faults and findings.changes == {"coordinate 1000 in a box (0–999 are meant)": 1}


class Failing(list):
    """Conversations of which one raises what no reader foresees."""

    def __getitem__(self, index):
        if index == 1:
            raise RecursionError("maximum recursion depth exceeded " + "!" * 10_000)
        return super().__getitem__(index)

    def name(self, index):
        return f"a.json: record {index}"


def test_any_exception_is_its_records_fault_and_the_check_goes_on(tokenizer):
    good = parse_record(record("Hi"), "a.json: record 0")
    checker = Checker(Failing([good] * 3), released_template(tokenizer, 900))
    findings = checker.check(range(3))
    (fault,) = findings.faults
    assert fault.message.startswith("a.json: record 1: the record cannot be read (RecursionError: maximum recursion")
    assert len(fault.message) < 400 and findings.lengths.astype(bool).tolist() == [True, False, True]


@pytest.mark.parametrize("max_length", [0, -5, True, 1.5, float("nan"), "900"])
def test_a_max_length_that_is_no_positive_whole_number_is_refused(tokenizer, max_length):
    with pytest.raises(InputError, match="max_length must be a positive whole number, not "):
        released_template(tokenizer, max_length)


def test_training_reads_what_the_check_reads(checker, tmp_path):
    """Each record passes both or neither."""
    good = [record("Hi"), record("<img>a.png</img>"), record("word " * 1000), record("Hi", "<box>(0,0),(1000,1)</box>")]
    unseen = ("cannot be decoded", "is not an image file")  # training opens images when their step comes
    for number, each in enumerate([*good, *FAULTY.values()]):
        one = checker([each, record("Hi")])
        faults = one.check([0]).faults
        mixture = Mixture([(tmp_path / "train.json", 1)])
        if faults and not any(text in faults[0].message for text in unseen):
            with pytest.raises(InputError) as caught:
                EncodedDataset(mixture, one.template)
            assert str(caught.value) == faults[0].message
        else:
            assert number < len(good) or faults
            EncodedDataset(mixture, one.template)


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_paths_in_either_unicode_form_are_found(checker, tmp_path, written, stored):
    name = "café 100%25 狗.png"
    os.link(tmp_path / "a.png", tmp_path / unicodedata.normalize(stored, name))
    checker = checker([record(f"<img>{unicodedata.normalize(written, name)}</img>")])
    findings = checker.check([0])
    assert findings.media == {"images": 1} and not findings.faults
    EncodedDataset(Mixture([(tmp_path / "train.json", 1)]), checker.template)

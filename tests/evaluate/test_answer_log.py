"""Answers on disk: of several ranks, cut off by a kill, and of another evaluation."""

import json

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.answer_log import AnswerLog


def write(folder, fingerprint="a", rank=0, **batches):
    with AnswerLog(folder, fingerprint).append(rank) as writer:
        for number, answers in batches.items():
            writer.write(int(number[1:]), answers)


def test_the_answers_of_all_ranks_are_read(tmp_path):
    write(tmp_path, rank=0, _0=["é", None], _2=["x"])
    write(tmp_path, rank=1, _1=[[[-1.5, 2]]])
    assert AnswerLog(tmp_path, "a").read() == {0: ["é", None], 1: [[[-1.5, 2]]], 2: ["x"]}


def test_going_on_keeps_what_is_there_but_for_a_line_that_was_cut_off(tmp_path):
    write(tmp_path, _0=["x"], _1=["yz"])
    path = tmp_path / "rank_0.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert AnswerLog(tmp_path, "a").read() == {0: ["x"]}
    write(tmp_path, _3=["w"])
    assert AnswerLog(tmp_path, "a").read() == {0: ["x"], 3: ["w"]}


def test_another_fingerprint_reads_nothing_and_replaces_the_file(tmp_path):
    write(tmp_path, _0=["x"])
    assert AnswerLog(tmp_path, "b").read() == {}
    write(tmp_path, "b", _1=["y"])
    assert AnswerLog(tmp_path, "b").read() == {1: ["y"]} and AnswerLog(tmp_path, "a").read() == {}


def test_a_file_killed_before_its_first_line_was_whole_is_no_obstacle(tmp_path):
    (tmp_path / "rank_0.jsonl").write_text('{"fingerp')
    assert AnswerLog(tmp_path, "a").read() == {}


def test_a_line_that_is_cut_off_is_told_of(tmp_path, caplog):
    write(tmp_path, _0=["x"])
    with (tmp_path / "rank_0.jsonl").open("ab") as file:
        file.write(b"\x00" * 40)  # what a machine that lost its power leaves
    assert AnswerLog(tmp_path, "a").read() == {0: ["x"]}
    assert "rank_0.jsonl: the last line is cut off" in caplog.text


ODD = ["\ud800 half", "nul \x00", "\u2028\u2029\x85", "\r\n", "é", "😀", "\ufeff"]


def test_answers_of_odd_characters_are_written_and_read(tmp_path):
    write(tmp_path, _0=ODD, _1=[[[float("-inf"), 1]]])
    assert AnswerLog(tmp_path, "a").read() == {0: ["? half", *ODD[1:]], 1: [[[float("-inf"), 1]]]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\x00" * 9, "not JSON"),
        (b"[1]", "holds a list"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"batch": "1", "answers": []}', "does not hold the answers of one of this evaluation's batches"),
        (b'{"batch": true, "answers": []}', "does not hold the answers"),
        (b'{"batch": 7, "answers": ["x"]}', "does not hold the answers"),  # of which it has fewer
        (b'{"batch": 0, "answers": ["x"]}', "does not hold the answers"),  # a second time
        (b'{"batch": 1}', "does not hold the answers"),
        (b'{"batch": 1, "answers": "xy"}', "does not hold the answers"),
        (b'{"batch": ' + b"1" * 5000 + b', "answers": []}', "digits"),
    ],
)
def test_anything_else_names_file_and_line(tmp_path, line, message):
    write(tmp_path, _0=["x"])
    path = tmp_path / "rank_0.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    log = AnswerLog(tmp_path, "a", lambda number, answers: number < 2)
    for read in (log.read, lambda: log.append(0)):
        with pytest.raises(InputError, match=rf"rank_0.jsonl: line 3: .*{message}.*; delete this file"):
            read()
    assert path.read_bytes().endswith(line + b"\n")


@pytest.mark.parametrize("content", [b"not an answer log\n", b'{"fingerprint": 1}\n', b"{}\n", b"\n\n"])
def test_a_file_of_others_is_left_alone(tmp_path, content):
    (tmp_path / "rank_0.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="rank_0.jsonl: line 1: "):
        AnswerLog(tmp_path, "a").append(0)
    assert (tmp_path / "rank_0.jsonl").read_bytes() == content


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="rank_0.jsonl: cannot be written"):
        AnswerLog(tmp_path / "file", "a").append(0)


def test_a_line_of_the_log_is_one_line_for_all_readers(tmp_path):
    text = "a\nb\x85c\u2028d\x1ce"
    write(tmp_path, _0=[text])
    lines = (tmp_path / "rank_0.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines][1] == {"batch": 0, "answers": [text]}

"""Answers on disk: of several ranks, cut off by a kill, and of another evaluation."""

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

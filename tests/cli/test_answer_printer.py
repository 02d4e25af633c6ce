"""What a terminal and a pipe get of an answer that thinks first."""

import pytest

from ms_impl.cli.answer_printer import AnswerPrinter

PIECES = ["<think>", "\nhm.\n</th", "ink>", "\n\n", "Two."]


@pytest.fixture
def printed(capsys, monkeypatch):
    def printed(terminal: bool, think_end: str | None, pieces, note: str = "") -> str:
        monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
        printer = AnswerPrinter(think_end)
        for piece in pieces:
            printer.show(piece)
        printer.end(note)
        return capsys.readouterr().out

    return printed


def test_thinking_is_dimmed_on_a_terminal(printed):
    assert printed(True, "</think>", PIECES) == "\x1b[2m<think>\nhm.\n</think>\x1b[22m\n\nTwo.\n"
    assert printed(True, "</think>", PIECES[:2], " …") == "\x1b[2m<think>\nhm.\n</th\x1b[22m …\n"


def test_a_terminal_is_left_as_it_was(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(KeyboardInterrupt), AnswerPrinter("</think>") as printer:
        printer.show(PIECES[0])
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "\x1b[2m<think>\x1b[22m"


def test_elsewhere_it_is_as_it_comes(printed):
    assert printed(False, "</think>", PIECES) == printed(True, None, PIECES) == "".join(PIECES) + "\n"

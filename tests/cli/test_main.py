"""The top of every command: what an exception becomes, and printing on any terminal."""

import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ms_impl.cli import main as top
from ms_impl.cli.main import command, save_reports_in
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
COMMANDS = [ROOT / "run_mindformer.py", *(ROOT / "convert").glob("*.py"), *(ROOT / "scripts").rglob("*.py")]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command that raises an exception; returns its status and what it wrote to stderr."""
    monkeypatch.setattr(top, "_reports", None)
    save_reports_in(tmp_path / "log")

    def run(error: BaseException) -> tuple[int, str]:
        @command
        def main() -> int:
            raise error

        return main(), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("a.json: record 3: wrong"), 2, "error: a.json: record 3: wrong\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.bin"), 2, "error: x.bin: No such file or"),
        (OSError(errno.EIO, "Input/output error", "x.bin"), 1, "error: x.bin: Input/output error\n"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), 1, "error: Connection reset\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_was_expected_is_said_in_a_line(run, tmp_path, error, status, message):
    found, said = run(error)
    assert found == status and said.startswith(message) and said.count("\n") == 1
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [(TypeError("can't multiply"), 2), (KeyError("weight_decy"), 2), (RecursionError(), 2), (RuntimeError("HCCL"), 1)],
)
def test_what_was_not_expected_leaves_a_report_and_no_traceback_on_the_terminal(run, tmp_path, error, status):
    """Only what another attempt may mend ends with 1, for which the supervisor tries again."""
    found, said = run(error)
    (report,) = (tmp_path / "log").iterdir()
    assert found == status and said.startswith(f"error: {type(error).__name__}") and "Traceback" not in said
    assert f"The whole report is in {report}\n" in said
    assert "Traceback" in report.read_text() and "raise error" in report.read_text()


def test_a_long_message_is_cut_on_the_terminal_alone(run, tmp_path):
    _, said = run(ValueError("9" * 5000 + "\nmore"))
    assert len(said) < 600 and "9" * 5000 in next((tmp_path / "log").iterdir()).read_text()


def test_without_a_folder_to_write_in_the_temporary_directory_takes_the_report(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    save_reports_in(tmp_path / "file")
    _, said = run(TypeError("no"))
    assert re.search(rf"report is in {tmp_path}/temporary/error_\d+_\d+_\w+\.txt", said)


def test_the_status_and_argparse_pass():
    assert command(lambda: None)() == 0 and command(lambda: 7)() == 7
    with pytest.raises(SystemExit):
        command(lambda: sys.exit(2))()


def _python(code: str, **environment) -> subprocess.CompletedProcess:
    code = f"import sys\nfrom ms_impl.cli.main import command\n@command\ndef main():\n    {code}\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True
    )


@pytest.mark.parametrize("encoding", ["ascii"])
def test_any_text_can_be_printed_on_any_terminal(encoding):
    ran = _python(r"print('▌ 图 ✓ \ud800', file=sys.stderr); print('▌ 图 ✓ \ud800')", PYTHONIOENCODING=encoding)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.rstrip().endswith(b"?")


def test_a_reader_that_left_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "import sys\nfrom ms_impl.cli.main import command\nsys.exit(command(lambda: print('x' * 100000))())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, env=os.environ)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("file", COMMANDS, ids=lambda path: path.name)
def test_every_command_has_it_at_its_top(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert all("command" in map(ast.unparse, main.decorator_list) for main in mains)

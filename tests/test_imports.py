"""Every name that one of our files imports from another is there: also inside functions that no test calls."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("ms_impl", "torch_ref", "convert")


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True)
    files = [ROOT / name for name in listed.stdout.decode().split()]
    return [file for file in files if file.exists()] or [file for name in OURS for file in (ROOT / name).rglob("*.py")]


@cache
def names_of(module: str) -> set[str] | None:
    """Top-level names and submodules of one of our modules; None if there is no such module."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = {entry.stem for entry in path.iterdir()} if path.is_dir() else set()
    if not file.exists():
        return names or None
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def missing_names(source: str) -> list[str]:
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            known = names_of(node.module)
            missing += [
                f"{node.module}.{alias.name}" for alias in node.names if known is None or alias.name not in known
            ]
    return missing


def test_what_is_imported_exists():
    faults = {str(file.relative_to(ROOT)): missing_names(file.read_text(encoding="utf-8")) for file in python_files()}
    assert len(faults) > 100
    assert not {file: names for file, names in faults.items() if names}


def test_a_moved_name_is_found():
    assert missing_names("def f():\n    from ms_impl.train.grad_accumulation import wait_for_rank") == [
        "ms_impl.train.grad_accumulation.wait_for_rank"
    ]
    assert missing_names("from ms_impl.no_such import x") == ["ms_impl.no_such.x"]


def visible_bars(source: str) -> list[int]:
    """Lines where a progress bar is drawn that does not say when to hide it."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    bars = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("tqdm", "trange")]
    return [bar.lineno for bar in bars if "disable" not in {keyword.arg for keyword in bar.keywords}]


def test_progress_bars_are_hidden_where_output_is_piped():
    faults = {str(file.relative_to(ROOT)): visible_bars(file.read_text(encoding="utf-8")) for file in python_files()}
    assert not {file: lines for file, lines in faults.items() if lines}
    assert visible_bars("for i in tqdm(range(3)):\n    pass") == [1]

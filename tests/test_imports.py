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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))  # imported when asked for, by __getattr__
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


def imported_at_once(file: Path) -> set[str]:
    """Our modules that a file imports when it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if module_file(name)} or {node.module}
    return {name for name in found if name.partition(".")[0] in OURS and module_file(name)}


def module_file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.exists() else None


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Ways through the imports that come back to where they began."""
    found, done = [], set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                walk(other, [*way, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_imports_make_no_circle():
    files = [file for name in OURS for file in (ROOT / name).rglob("*.py")]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    assert circles({module: imported_at_once(file) for module, file in modules.items()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]


def test_what_is_built_knows_no_command_of_the_conversion():
    """Tables are named by records and imported on use: convert imports ms_impl, not the other way."""
    importers = {
        file
        for file in (ROOT / "ms_impl").rglob("*.py")
        for name in imported_at_once(file)
        if "convert" in name.split(".")
    }
    assert not importers

"""Shared rooms name no family, and nothing that only one of them has: what there is to know of one is in its folder and its record."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ms_impl"
ONE_FAMILYS_WORDS = (
    "num_queries", "image_size", "image_paths", "image_columns", "image_context_pos", "image_slots"
)  # fmt: skip
STUBS = "plugin/register/"  # for old YAMLs
WITHOUT_RECORD: set[str] = set()  # families being built

# Files that still name a family or its words. The list may only shrink.
STILL_OFFENDING: set[str] = set()


def family_directories() -> list[str]:
    return sorted({file.parent.name for file in PACKAGE.glob("*/family.py")} | WITHOUT_RECORD)


def shared_files() -> list[Path]:
    families = family_directories()
    files = (file for ending in ("py", "cc", "h") for file in PACKAGE.rglob(f"*.{ending}"))
    return sorted(
        file
        for file in files
        if file.relative_to(PACKAGE).parts[0] not in (*families, "repository")
        and not file.relative_to(PACKAGE).as_posix().startswith(STUBS)
    )


def family_pattern(directory: str) -> str:
    """``qwen2_5_omni`` also as Qwen2.5-Omni or Qwen25Omni, ``qwenvl`` as Qwen-VL, and the family's own word alone."""
    letters = [re.escape(character) for character in directory if character.isalnum()]
    return r"[-_. ]?".join(letters)


def offences(text: str) -> set[str]:
    families = "|".join(map(family_pattern, family_directories()))
    alone = r"\b(?:qwen\w*|omni|ovis)\b"
    words = "|".join(rf"\b{word}s?\b" for word in ONE_FAMILYS_WORDS)
    found = re.findall(rf"{families}|{alone}", text, re.IGNORECASE) + re.findall(words, text)
    return {match.lower() for match in found}


def offending_files() -> dict[str, set[str]]:
    found = {
        file.relative_to(PACKAGE).as_posix(): offences(file.read_text(encoding="utf-8")) for file in shared_files()
    }
    return {file: words for file, words in found.items() if words}


def test_shared_rooms_name_no_family():
    new = {file: words for file, words in offending_files().items() if file not in STILL_OFFENDING}
    assert not new, "shared rooms know no family: put it into the family's folder, its record or its template"


def test_the_list_of_files_that_still_do_only_shrinks():
    mended = STILL_OFFENDING - set(offending_files())
    assert not mended, "these are clean (or gone) now: take them off STILL_OFFENDING"


@pytest.mark.parametrize(
    "text", ["as Qwen-VL has it", "import qwenvl", "QwenVLConfig", "row.image_slots", "Omni: max + 1", "ovis2_5"]
)
def test_what_offends_is_found(text):
    assert offences(text)


def test_other_words_are_no_offence():
    assert not offences("image_token, images, tokenizer_config; omnipresent; image_sizes_of; provision")


def owner_of(file: Path) -> str | None:
    """The family whose a file is: in its directory, or its table and what stands beside that."""
    names = {*file.relative_to(ROOT).parts[:-1], file.stem.removesuffix("_mindformers")}
    return next((family for family in family_directories() if family in names), None)


def imported_families(source: str) -> set[str]:
    """Whose modules a file imports, wherever in it."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    parts = {part for module in modules for part in module.split(".")[:2]}
    return parts & set(family_directories())


def test_a_family_that_is_taken_away_is_missed_by_nothing():
    """Neither a shared room nor another family imports of it."""
    faults, seen = {}, 0
    for package in ("ms_impl", "torch_ref", "convert"):
        for file in (ROOT / package).rglob("*.py"):
            if file.relative_to(PACKAGE if package == "ms_impl" else ROOT).as_posix().startswith(STUBS):
                continue
            imported = imported_families(file.read_text(encoding="utf-8"))
            seen += len(imported)
            if others := imported - {owner_of(file)}:
                faults[str(file.relative_to(ROOT))] = others
    assert not faults and seen > 20


def test_an_import_of_a_family_is_found():
    text = (
        "def f():\n    from ms_impl.qwenvl.config import X\nimport convert.ovis2_5\nfrom torch_ref import qwen2_5_omni"
    )
    assert imported_families(text) == {"qwenvl", "ovis2_5", "qwen2_5_omni"}
    assert not imported_families("from ms_impl.generate import load")


def test_no_two_modules_of_tests_have_one_name():
    """pytest imports them by their bare names."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name not in ("conftest.py", "__init__.py")]
    assert sorted(set(names)) == sorted(names)

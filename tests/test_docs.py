"""The commands that READMEs and docs name exist, and start."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("benchmarks/*.md"),
    *ROOT.glob("assets/*/*.md"),
    *ROOT.glob("scripts/*/*.md"),
]
COMMAND = re.compile(r"\b(?:python|bash) ([\w./]+\.(?:py|sh))")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
NO_HELP = (
    "scripts/test.sh", "scripts/quickstart.sh", "benchmarks/run_all.sh",
    *(f"scripts/small_models/{making.name}" for making in ROOT.glob("scripts/small_models/*.sh")),
    *(f"scripts/quickstart/{steps.name}" for steps in ROOT.glob("scripts/quickstart/*.sh")),
)  # fmt: skip


def named_commands() -> list[str]:
    return sorted(
        {
            command
            for page in PAGES
            for command in COMMAND.findall(page.read_text(encoding="utf-8"))
            if "NAME" not in command
        }
    )


def test_every_named_command_starts():
    def start(script: str) -> tuple[str, subprocess.CompletedProcess]:
        runner = "bash" if script.endswith(".sh") else sys.executable
        return script, subprocess.run([runner, ROOT / script, "--help"], capture_output=True, text=True, timeout=120)

    wanted = [script for script in named_commands() if script not in NO_HELP]
    assert "run_mindformer.py" in wanted and "scripts/msrun_launcher.sh" in wanted
    with ThreadPoolExecutor(2) as pool:
        for script, ended in pool.map(start, wanted):
            assert ended.returncode == 0, f"{script} --help:\n{ended.stderr}"
            assert "usage" in ended.stdout.lower() or script in ended.stdout, f"{script} --help says nothing"


def test_the_quickstart_names_its_families():
    for arguments in (["nobody"], ["qwenvl", "more"]):
        run = subprocess.run(["bash", ROOT / "scripts/quickstart.sh", *arguments], capture_output=True, text=True)
        assert run.returncode == 2 and "[FAMILY], one of: " in run.stderr and "qwenvl" in run.stderr


@pytest.mark.parametrize("script", NO_HELP)
def test_scripts_without_options_are_sound_shell(script):
    assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0


def test_links_lead_somewhere():
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not dead, dead


def test_no_page_tells_to_install_an_unpublished_package():
    told = [str(page) for page in PAGES if re.search(r"pip install ['\"]?vlm-mindspore", page.read_text("utf-8"))]
    assert not told


def test_the_registration_on_the_page_of_families_works(tmp_path):
    page = (ROOT / "docs/families.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(from ms_impl.register .*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_register.py").write_text(code, encoding="utf-8")
    load = "import sys; from ms_impl.register import load_custom; print(load_custom(sys.argv[1]))"
    command = [sys.executable, "-c", load, tmp_path / "my_register.py"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "['my_model']\n", ended.stderr

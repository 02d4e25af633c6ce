"""Chinese twins of documents: the same blocks of code, and every heading has its twin."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (\d+\.)?", re.MULTILINE)
LINK = re.compile(r"\]\(([\w.-]*)#([^)]+)\)")


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["ascend", "finetune", "full_size", "interface", "qwen2_5_omni", "serving"])
def test_a_twin_has_the_same_code_and_headings(page):
    """Where this fails, the page was changed: bring its Chinese twin along, text and code."""
    english, chinese = read(f"{page}.md"), read(f"{page}.zh-CN.md")
    assert FENCED.findall(chinese) == FENCED.findall(english) != []
    assert HEADING.findall(FENCED.sub("", chinese)) == HEADING.findall(FENCED.sub("", english))
    assert english.count("\n|") == chinese.count("\n|")  # rows of tables


@pytest.mark.parametrize("page", ["ascend", "finetune", "full_size", "interface", "qwen2_5_omni", "serving"])
def test_its_links_lead_to_its_headings(page):
    name = f"{page}.zh-CN.md"
    for target, anchor in LINK.findall(read(name)):
        headings = re.findall(r"^#+ (.*)", FENCED.sub("", read(target or name)), re.MULTILINE)
        assert anchor in [re.sub("[.:]", "", heading.lower().replace(" ", "-")) for heading in headings], anchor


@pytest.mark.parametrize("page", ["ascend", "finetune", "full_size", "interface", "qwen2_5_omni", "serving"])
def test_its_sentences_are_not_broken(page):
    """A line break inside a sentence is shown as a space, which Chinese has none of."""
    text = FENCED.sub("", read(f"{page}.zh-CN.md"))
    assert not re.findall(r"^(?![#|\[]).*[\u4e00-\u9fff，、；]\n(?![\n|]).*", text, re.MULTILINE)

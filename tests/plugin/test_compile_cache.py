"""MindSpore's compile cache, when the user has it on: it takes changed settings for the old ones."""

import pytest

from ms_impl.plugin.run import warn_of_kept_graphs

ENABLE, PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv(ENABLE, raising=False)
    monkeypatch.delenv(PATH, raising=False)


def test_its_folder_is_named_in_a_warning(caplog):
    warn_of_kept_graphs({"context": {"enable_compile_cache": True, "compile_cache_path": "/graphs"}})
    assert "empty its directory (/graphs) whenever a setting changes" in caplog.text


def test_the_environment_switches_it_on_as_well(caplog, monkeypatch):
    monkeypatch.setenv(ENABLE, "1")
    monkeypatch.setenv(PATH, "/others")
    warn_of_kept_graphs({})
    assert "empty its directory (/others)" in caplog.text


def test_nothing_is_said_where_it_is_off(caplog):
    warn_of_kept_graphs({"context": {"enable_compile_cache": False}})
    assert not caplog.text

"""What the server's command line may say, and what is refused before a model is loaded."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys

import pytest
from running_server import ROOT, TINY

from ms_impl.errors import InputError
from ms_impl.serve.server import KEY_VARIABLE, address, bound, load_engines, settings_of

SCRIPT = ROOT / "scripts/serve.py"


@pytest.fixture
def parsed(monkeypatch):
    """Parses a command line of the server of the small model."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def parse(*told: str):
        monkeypatch.setattr(sys, "argv", ["serve.py", "--model", str(TINY), *told])
        return runpy.run_path(str(SCRIPT))["parse_arguments"]()

    return parse


def test_what_is_not_told_is_safe(parsed):
    settings = settings_of(parsed())
    assert settings.local_hosts_only and settings.api_key is None and settings.media_dir is None
    assert not settings.log_prompts and settings.max_body == 32 << 20
    media = settings.media
    assert (media.images, media.clips, media.frames, media.seconds) == (8, 2, 20_000, 600.0)
    arguments = parsed()
    assert (arguments.host, arguments.port, arguments.max_batch, arguments.max_waiting) == ("127.0.0.1", 8000, 8, 64)


def test_what_is_told_counts(parsed, tmp_path, monkeypatch):
    limits = {"images": 1, "clips": 3, "pixels": 99, "frames": 7, "seconds": 1.5}
    told = [part for name, value in limits.items() for part in (f"--max_{name}", str(value))]
    settings = settings_of(parsed(*told, "--allowed_media_dir", str(tmp_path), "--request_seconds", "2",
                                  "--drain_seconds", "3", "--max_body_mb", "4", "--log_prompts"))  # fmt: skip
    assert vars(settings.media) == limits
    assert (settings.media_dir, settings.request_seconds, settings.drain_seconds) == (tmp_path, 2, 3)
    assert settings.max_body == 4 << 20 and settings.log_prompts
    assert settings_of(parsed("--host", "0.0.0.0", "--api_key", "k")).api_key == "k"
    monkeypatch.setenv(KEY_VARIABLE, "from the environment")
    arguments = parsed("--host", "0.0.0.0")
    monkeypatch.setenv(KEY_VARIABLE, "from the environment")
    assert settings_of(arguments).api_key == "from the environment" and not settings_of(arguments).local_hosts_only


def test_what_is_refused(parsed, tmp_path):
    with pytest.raises(InputError, match="--host 0.0.0.0: others could use this server; give it a key"):
        settings_of(parsed("--host", "0.0.0.0"))
    with pytest.raises(InputError, match="--allowed_media_dir .*none: not a directory"):
        settings_of(parsed("--allowed_media_dir", str(tmp_path / "none")))
    for adapters in (["a"], ["=x"], ["a="], ["a=x", "a=y"], [f"{TINY.name}=x", f"{TINY.name}=y"]):
        arguments = parsed(*(part for adapter in adapters for part in ("--adapter", adapter)))
        with pytest.raises(InputError, match=f"--adapter {adapters[-1]}: expected NAME=DIR, each name once"):
            load_engines(arguments, settings_of(arguments))
    for told in (("--max_batch", "0"), ("--max_waiting", "x"), ("--port", "65536"), ("--max_images", "-1")):
        with pytest.raises(SystemExit) as ended:
            parsed(*told)
        assert ended.value.code == 2


def test_an_address_that_is_taken_is_named():
    listening = bound("127.0.0.1", 0)
    port = int(address(listening).rpartition(":")[2])
    with pytest.raises(InputError, match=f"--host 127.0.0.1 --port {port}: Address already in use"):
        bound("127.0.0.1", port)
    listening.close()
    with pytest.raises(InputError, match="--host 203.0.113.9 --port 0: Cannot assign requested address"):
        bound("203.0.113.9", 0)  # of documents: no machine has it
    if socket.has_ipv6:
        try:
            six = bound("::1", 0)
        except InputError:
            return  # a machine without it
        assert address(six).startswith("http://[::1]:")
        six.close()


def test_what_is_not_installed_is_asked_for_by_name(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
    )
    command = [sys.executable, str(SCRIPT), "--model", str(TINY)]
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths)
    assert ended.returncode == 2 and 'error: uvicorn not installed: pip install "vlm-mindspore[serve]"' in ended.stderr

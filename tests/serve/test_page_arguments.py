"""What the page's command line says is all that loading a model asks for; gradio is not needed."""

import runpy
import sys
from pathlib import Path

from ms_impl.serve.server import load_engine, settings_of

ROOT = Path(__file__).parents[2]


def test_the_page_loads_its_model_as_the_server_does(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["web_demo.py", "-c", str(ROOT / "assets/qwenvl_tiny_easyvqa")])
    arguments = runpy.run_path(str(ROOT / "scripts/web_demo.py"))["parse_arguments"]()
    arguments.allowed_media_dir, arguments.log_prompts, arguments.drain_seconds = tmp_path, False, 0.0
    assert load_engine(arguments, settings_of(arguments), "small", None).name == "small"

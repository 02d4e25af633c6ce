"""Files of the project that are no Python modules: YAMLs, the small model, the launcher.

In a checkout they lie at its root, in an installed wheel in ``ms_impl/repository`` (put there by setup.py), under the
same relative paths.
"""

from __future__ import annotations

import os
from pathlib import Path

from ms_impl.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "repository"  # only a wheel has it; beside the package, other packages have a configs, too

ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def resource(path: str) -> Path:
    """The absolute path of one of the project's own files. Raises InputError where the installation lacks it."""
    found = ROOT / path
    if not found.exists():
        raise InputError(f"{found}: not found; the installation is incomplete, install vlm-mindspore again")
    return found


def locate(path: str | Path) -> Path:
    """A path that a user gave: relative to where the command runs or, failing that, among the project's own files."""
    there = os.path.exists(path) or not os.path.exists(ROOT / path)  # unlike Path's, never raises
    return Path(path) if there else ROOT / path

"""The build: what pyproject.toml cannot say is that a wheel carries YAMLs, the small model and the launcher along."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RESOURCES = ("configs", "assets", "scripts", "run_mindformer.py", "LICENSE", "NOTICE")


class BuildWithResources(build_py):
    """Copies RESOURCES into ms_impl/repository of a wheel; an editable installation finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root, target = Path(__file__).parent, Path(self.build_lib) / "ms_impl" / "repository"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in RESOURCES:
            if (root / name).is_dir():
                shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy2(root / name, target / name)


setup(cmdclass={"build_py": BuildWithResources})

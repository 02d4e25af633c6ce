"""Running checked settings through MindFormers. Imports mindformers: some ten seconds, so it comes after all checks."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.plugin.schema import Settings, lookup


def run(settings: Settings) -> None:
    """Train or predict. Raises InputError for what the user can put right."""
    os.environ["REGISTER_PATH"] = settings.pop("register_path")
    output = Path(settings.get("output_dir") or "output")
    os.environ.setdefault("LOG_MF_PATH", str(output / "log"))
    os.environ.setdefault("OM_MODULES_CACHE", str(output / "modules"))  # where MindFormers copies the register files
    register_all()
    from mindformers import MindFormerConfig, Trainer, build_context
    from mindformers.tools.register.template import ConfigTemplate

    try:
        ConfigTemplate.apply_template(settings)
    except KeyError as error:
        raise InputError(error.args[0]) from error
    config = MindFormerConfig(**settings)
    build_context(config)
    trainer = Trainer(config)
    if config.run_mode == "predict":
        trainer.predict(
            predict_checkpoint=config.load_checkpoint, input_data=config.input_data, batch_size=config.predict_batch_size
        )
    else:
        trainer.train()


def register_all() -> None:
    """Register our classes, MindFormers' own names among them, and those of every family that has a plugin module."""
    for module in ("trainer", "dataset", "train_step", "optimizer", "callbacks"):
        importlib.import_module(f"ms_impl.plugin.{module}")
    for name in families.names():
        if importlib.util.find_spec(f"ms_impl.plugin.{name}"):
            importlib.import_module(f"ms_impl.plugin.{name}")

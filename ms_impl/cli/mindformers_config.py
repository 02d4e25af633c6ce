"""The one place that turns a run's settings into what MindFormers is told.

MindFormers 1.9.0 keeps its configuration as one table that its parts read and change. What this project does itself
is taken out of it here, once. What is known only when the data are read or the model is built, the lengths of schedules
and the parameters that they are for, ``ms_impl.plugin.learning_rates`` adds; nothing else of ours changes it.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from ms_impl.cli.schema import Settings
from ms_impl.cli.training_plan import INTERVALS, MONITOR, SAVING_KEYS, AnsweringPlan, TrainingPlan

logger = logging.getLogger(__name__)

_OURS = ("register_path", "config_path", "input_data", "predict_batch_size", "eval_dataset", "do_eval", *INTERVALS)


def mindformers_config(settings: Settings, plan: TrainingPlan | AnsweringPlan) -> dict[str, Any]:
    """The table that MindFormers' Trainer takes for a run. ``settings`` stay as they are."""
    config = copy.deepcopy({key: value for key, value in settings.items() if key not in _OURS})
    if isinstance(plan, AnsweringPlan):
        config["model"]["model_config"].pop("lora", None)  # merged into the weights: plain layers answer
    else:
        config.setdefault("runner_config", {})["epochs"] = 1  # the data set has the steps of all epochs
        if plan.files.whole:
            _take_over_training(config, plan)
    if plan.files.whole:
        config["load_checkpoint"] = ""  # read by ms_impl.weights, which names each weight that is missing or unused
    return config


def _take_over_training(config: dict[str, Any], plan: TrainingPlan) -> None:
    """Take out what is done here where every rank holds whole parameters.

    ``gradient_accumulation_steps`` would be set to 1 (trainer/base_trainer.py:321): a rank's batch has the rows of all
    micro-batches of a step, and our step cell takes it apart. ``CheckpointMonitor`` and ``resume_training`` are those
    of ``ms_impl.plugin.training_run``.
    """
    config.pop("resume_training", None)
    config["runner_config"] |= {"batch_size": plan.rows * plan.micro_batches, "gradient_accumulation_steps": 1}
    config.setdefault("runner_wrapper", {"type": "MFTrainOneStepCell"})["accumulation"] = plan.micro_batches
    config["model"]["model_config"]["rows"] = plan.rows
    callbacks = config.get("callbacks") or []
    for monitor in (callback for callback in callbacks if callback["type"] == MONITOR):
        if ignored := sorted(monitor.keys() - SAVING_KEYS.keys() - {"type"}):
            logger.info("%s: %s have no effect where ranks hold whole parameters", MONITOR, ", ".join(ignored))
    config["callbacks"] = [callback for callback in callbacks if callback["type"] != MONITOR]

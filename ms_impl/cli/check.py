"""What ``run_mindformer.py --check`` says of training data: a YAML's data set read through before it is trained on.

Needs the model's config.json and the vocabulary, but no weights; neither mindspore nor mindformers is imported.
"""

from __future__ import annotations

import sys

import numpy as np

from ms_impl.cli.annotations import mixture_of
from ms_impl.cli.plan import training_template
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.data import check_report
from ms_impl.data.check import Checker, Findings, check_all
from ms_impl.data.sample_reader import require_answers

SAMPLES = 5  # that are shown


def check_data(settings: Settings) -> tuple[Checker, Findings]:
    """Print what is in ``train_dataset``; returns what was found, broken records among it.

    Raises InputError if a file cannot be used, or nothing is left of any answer.
    """
    checker = checker_of(settings)
    findings = check_all(checker)
    print(check_report.table(findings))
    if findings.lengths.any():
        print("\ntokens of a conversation", check_report.histogram(findings.lengths[findings.lengths > 0]), sep="\n")
    _print_samples(checker, findings)
    max_length = checker.template.max_length
    if findings.unanswered:
        print("\ncut off", check_report.unanswered(findings.unanswered, max_length), sep="\n")
    if findings.faults:
        print("\nbroken", check_report.reasons(findings.faults), sep="\n")
    read = int(findings.lengths.astype(bool).sum())
    require_answers(read - len(findings.unanswered), read, max_length, findings.changes)
    return checker, findings


def checker_of(settings: Settings) -> Checker:
    """The checker of the settings' ``train_dataset``. Raises InputError if one of its files cannot be used."""
    family = family_of(settings)
    config = family.resolve("config").from_file(lookup(settings, "model.model_config.config_file"))
    section = settings["train_dataset"]
    mixture = mixture_of(section["data_loader"], settings.get("seed") or 0)
    return Checker(mixture, training_template(family, config, section))


def _print_samples(checker: Checker, findings: Findings) -> None:
    (whole,) = findings.lengths.nonzero()
    coloured = sys.stdout.isatty()
    if len(whole):
        print("", check_report.legend(coloured), sep="\n")
    places = np.unique(np.linspace(0, len(whole) - 1, SAMPLES).round().astype(int))
    for index in whole[places[: len(whole)]]:
        sample = checker.sample(int(index))
        print("", check_report.dialogue(sample, checker.template.tokenizer.decode, coloured), sep="\n")

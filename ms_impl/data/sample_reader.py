"""The one way from a record to the sample that is trained on: of training, and of the check before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ms_impl.data.records import Conversation
from ms_impl.data.sample import Sample
from ms_impl.data.tags import shorten
from ms_impl.data.template import Template
from ms_impl.errors import InputError


@contextmanager
def record_faults(name: str) -> Iterator[None]:
    """Turn any exception of reading a record into an InputError that names it: no record ends a whole run's reading."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"{name}: the record cannot be read ({reason}); mend it or leave it out") from error


def read_sample(template: Template, conversation: Conversation) -> tuple[Sample, int]:
    """The sample of a conversation, and how many tokens it has before it is cut off.

    Raises InputError naming the record if it has a fault, or one of its media is not there.
    """
    with record_faults(conversation.record):
        whole = template.sample(conversation)
        return template.find_media(template.cut(whole, template.max_length)), len(whole)


def require_answers(answers: int, records: int, max_length: int, changes: Iterable[str] = ()) -> None:
    """Raise InputError where none of some records has a token of an answer left: their loss would be nothing.

    ``changes``: what was done to records, in which a limit of the template's own may be told.
    """
    if records and not answers:
        told = ", ".join(changes)
        found = f" (conversations: {told})" if told else ""
        raise InputError(f"max_length {max_length} leaves no token of any answer; raise it{found}")

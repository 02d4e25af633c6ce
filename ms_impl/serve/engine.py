"""A model that is served under a name: requests in, jobs of its scheduler out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ms_impl.data.template import Template
from ms_impl.errors import InputError
from ms_impl.serve.choice import Piece
from ms_impl.serve.outbox import Outbox
from ms_impl.serve.preparation import Question, job_for
from ms_impl.serve.problems import Refusal
from ms_impl.serve.questions import question_of
from ms_impl.serve.request_media import RequestMedia
from ms_impl.serve.scheduler import Job, Scheduler
from ms_impl.serve.schema import ChatRequest, fault
from ms_impl.serve.settings import ServerSettings

Report = Callable[[int | None, Piece | Exception | None], None]


@dataclass(frozen=True)
class Asked:
    """A request that is being answered."""

    job: Job
    thinks: bool


class Engine:
    """Prepares requests for a model in threads of its own, so that decoding does not wait for images."""

    def __init__(self, name: str, model: Any, template: Template, scheduler: Scheduler, settings: ServerSettings):
        self.name = name
        self.model = model
        self.template = template
        self.scheduler = scheduler
        self.settings = settings
        self.created = int(time.time())
        self.outbox = Outbox()
        scheduler.flush = self.outbox.flush
        self._preparing = ThreadPoolExecutor(2, f"prepare {name}")

    def ask(self, request: ChatRequest, report: Report) -> Future[Asked]:
        """Prepare a request and have it answered. Raises QueueFull, ShuttingDown; the future InputError, too."""
        deadline = time.monotonic() + self.settings.request_seconds
        self.scheduler.reserve()
        future = self._preparing.submit(self._prepared, request, report, deadline)
        future.add_done_callback(lambda done: self.scheduler.unreserve() if done.cancelled() else None)
        return future

    def warm_up(self) -> None:
        """Answer something, so that the narrowest graph is compiled and the kernel found."""
        over: Future[None] = Future()

        def report(number: int | None, what: Piece | Exception | None) -> None:
            if number is None:
                over.set_exception(what) if isinstance(what, Exception) else over.set_result(None)

        question = Question("Hi", generation=self.model.generation, max_new_tokens=2)
        self.scheduler.reserve()
        self.scheduler.submit(job_for(self.template, question, self.scheduler.columns, report))
        over.result()

    def close(self) -> None:
        """End, once what is being answered is done."""
        self._preparing.shutdown(cancel_futures=True)
        self.scheduler.close(self.settings.drain_seconds)

    def _prepared(self, request: ChatRequest, report: Report, deadline: float) -> Asked:
        try:
            with tempfile.TemporaryDirectory(prefix="vlm-serve-") as name:
                job, thinks = self._job(request, Path(name), report, deadline)
        except BaseException:
            self.scheduler.unreserve()
            raise
        self.scheduler.submit(job)
        return Asked(job, thinks)

    def _job(self, request: ChatRequest, directory: Path, report: Report, deadline: float) -> tuple[Job, bool]:
        settings = self.settings
        media = RequestMedia(directory, self.template.takes, settings.media_dir, settings.media, settings.max_body)
        try:
            question = question_of(request, self.template, self.model.generation, media)
            job = job_for(self.template, question, self.scheduler.columns, report, deadline)
        except InputError as error:
            raise InputError(str(error).replace(f"{directory}/", "").replace(str(directory), "")) from error
        return job, question.generation.enable_thinking


def parsed(body: bytes) -> ChatRequest:
    """The request of a body. Raises Refusal that names the field."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        field, said = fault([dict(each) for each in faults])
        raise Refusal(400, said, field=field) from error

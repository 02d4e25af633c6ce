"""Curves for TensorBoard, written by the thread that trains.

tensorboardX's SummaryWriter hands events to a thread over a queue: a run that is killed loses what is in it, and one
whose disk is full waits for ever once that thread has died. So only its messages and checksum are used here.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from ms_impl.errors import InputError


class TensorBoardLog:
    """Writes scalars at once into an event file of its own in ``directory``.

    What files of earlier runs there hold of the steps after ``resumed_after`` is no longer shown. Raises InputError
    where the file cannot be written.
    """

    def __init__(self, directory: Path, resumed_after: int = 0):
        self._directory = directory
        first = resumed_after + 1
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.step_{first:08d}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / name).open("wb")
        except OSError as error:
            raise self._not_written(error) from error
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        """A record of TensorFlow's TFRecord format: length, its checksum, the message, its checksum."""
        event.wall_time = time.time()
        message = event.SerializeToString()
        length = struct.pack("<Q", len(message))
        try:
            self._file.write(length + _checksum(length) + message + _checksum(message))
            self._file.flush()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> InputError:
        return InputError(f"{self._directory}: cannot be written ({error.strerror})")


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))

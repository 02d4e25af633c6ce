"""The shipped model with a few questions about images that the package easy_vqa carries."""

import json
from pathlib import Path

import easy_vqa
import pytest

from ms_impl.evaluate.data_set import DataSet

SHIPPED = Path(__file__).parents[2] / "assets/qwenvl_tiny_easyvqa"
IMAGES = Path(easy_vqa.__file__).parent / "data/test/images"
RECORDS = [
    ("0.png", "what color is the shape?", "red"),
    ("7.png", "what shape is present?", "circle"),
    (None, "what color is the sky?", "blue"),
    ("7.png", "is there a triangle in this image?", "no"),
    ("12.png", "is there a circle?", "yes"),
]


@pytest.fixture(scope="session")
def shipped():
    """Model and processor."""
    from ms_impl import load

    return load(SHIPPED)


@pytest.fixture(scope="session")
def shipped_reference():
    """The same weights in PyTorch."""
    from torch_ref.qwenvl.model import QwenVL

    return QwenVL.from_pretrained(SHIPPED).eval()


@pytest.fixture
def records() -> list[tuple[str | None, str, str]]:
    """(image, question, right answer); one has no image."""
    return list(RECORDS)


@pytest.fixture
def data_set(tmp_path):
    """Write records about easy-VQA images; returns the data set."""

    def data_set(metric="exact_match", records=RECORDS, batch_size=2, num_samples=None, **fields):
        path = tmp_path / "records.json"
        path.write_text(json.dumps([_record(number, *record, fields) for number, record in enumerate(records)]))
        return DataSet("asked", path, metric, batch_size, 8, num_samples, {"dataset_dir": str(IMAGES)})

    return data_set


def _record(number: int, image: str | None, question: str, answer: str, fields: dict) -> dict:
    shown = f"Picture 1: <img>{image}</img>\n" if image else ""
    turns = [{"from": "user", "value": shown + question}, {"from": "assistant", "value": answer}]
    return {"id": f"r{number}", "conversations": turns, **fields}

"""data: URLs of records and requests."""

from __future__ import annotations

import pytest

from ms_impl.data.data_urls import base64_of_url, decoded
from ms_impl.errors import InputError


@pytest.mark.parametrize("head", ["data:image/png", "DATA:Image/PNG", "data:image/png;charset=x", "data:", "data:application/octet-stream"])  # fmt: skip
def test_the_base64_of_a_url(head):
    assert decoded(base64_of_url(f"{head};base64,QUJD", "image", "x"), "x") == b"ABC"


@pytest.mark.parametrize("url, message", [
    ("data:image/png,QUJD", "x: expected data:image/…;base64,…"),
    ("data:audio/wav;base64,QUJD", "x: expected data:image/…, not 'audio/wav'"),
])  # fmt: skip
def test_what_is_no_base64_or_another_kind(url, message):
    with pytest.raises(InputError, match=message):
        base64_of_url(url, "image", "x")


@pytest.mark.parametrize("data", ["QUJ", "QUJD!REVG", "QUJD REVG", "ÄUJD"])
def test_damage_is_not_read_over(data):
    with pytest.raises(InputError, match="x: its base64 is damaged"):
        decoded(data, "x")

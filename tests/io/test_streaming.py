"""Reading ahead changes neither items, order nor errors; what is written in parts is whole."""

import io
import threading

import pytest

from ms_impl.io.streaming import DEPTH, WRITE_BYTES, read_ahead, write_bytes


@pytest.mark.parametrize("count", [0, 1, DEPTH, 10 * DEPTH])
def test_items_come_in_order(count):
    assert list(read_ahead(iter(range(count)))) == list(range(count))


def test_the_next_items_are_made_in_another_thread_while_one_is_used():
    made = threading.Semaphore(0)

    def items():
        for number in range(2 * DEPTH):
            yield number, threading.current_thread()
            made.release()

    ahead = read_ahead(items())
    _, maker = next(ahead)
    assert maker is not threading.current_thread()
    assert all(made.acquire(timeout=10) for _ in range(DEPTH))  # with nothing more asked for
    ahead.close()


def test_an_error_is_raised_in_its_place():
    def items():
        yield 1
        raise ValueError("the second")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second"):
        next(ahead)


def test_no_thread_stays_where_the_rest_is_not_wanted():
    before = threading.active_count()
    ahead = read_ahead(iter(range(100)))
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [0, 1, WRITE_BYTES, 3 * WRITE_BYTES + 5])
def test_all_bytes_are_written(size):
    data, file = bytes(index % 251 for index in range(size)), io.BytesIO()
    write_bytes(file, memoryview(data))
    assert file.getvalue() == data

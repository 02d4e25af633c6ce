"""Positions equal the original's on every case, whole numbers exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ms_impl.qwen2_5_omni.positions import (
    Clock,
    Film,
    Piece,
    Sound,
    Text,
    Vision,
    film_pieces,
    row_positions,
    sound_tokens,
    vision_positions,
    vision_tokens,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "qwen2_5_omni_tiny"
TOLD = json.loads((GOLDEN / "cases.json").read_text())
CLOCK = Clock()


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "cases.safetensors")


def blocks_of(ids: list[int], told: dict) -> list:
    """The blocks of one row; takes what it uses from the lists of ``told``."""
    mark = TOLD["special_ids"]
    blocks, column = [], 0
    while column < len(ids):
        token = ids[column]
        if token == mark["VB"] and column + 1 < len(ids) and ids[column + 1] == mark["AB"]:
            grid, tokens = told["videos"].pop(0), sound_tokens(told["audios"].pop(0))
            blocks.append(Film(Vision(tuple(grid), told["seconds"].pop(0)), Sound(tokens)))
            column += 4 + tokens + vision_tokens(grid)
        elif token in (mark["IMAGE"], mark["VIDEO"]):
            grid = told["images" if token == mark["IMAGE"] else "videos"].pop(0)
            blocks.append(Vision(tuple(grid), 0 if token == mark["IMAGE"] else told["seconds"].pop(0)))
            column += vision_tokens(grid)
        elif token == mark["AUDIO"]:
            blocks.append(Sound(sound_tokens(told["audios"].pop(0))))
            column += blocks[-1].tokens
        else:
            blocks.append(Text(1))
            column += 1
    return blocks


def given(told: dict) -> dict:
    keys = {"images": "image_grid_thw", "videos": "video_grid_thw", "audios": "audio_seqlens",
            "seconds": "second_per_grids"}  # fmt: skip
    return {name: list(told[key] or []) for name, key in keys.items()}


def check_case(case: str, told: dict, golden, clock: Clock) -> None:
    ids, mask = golden[f"rope.{case}.input_ids"], golden[f"rope.{case}.attention_mask"].astype(bool)
    left = given(told)
    for row in range(len(ids)):
        found, following = row_positions(blocks_of(ids[row][mask[row]].tolist(), left), clock)
        expected = golden[f"rope.{case}.position_ids"][:, row]
        np.testing.assert_array_equal(found, expected[:, mask[row]], err_msg=f"{case}, row {row}")
        if told["image_grid_thw"] or told["video_grid_thw"] or mask[row].sum() > 1:  # see the vectors' README
            assert following == golden[f"rope.{case}.deltas"][row, 0] + mask[row].sum()
    assert not any(left.values())


@pytest.mark.parametrize("case", TOLD["rope"])
def test_every_case(case, golden):
    check_case(case, TOLD["rope"][case], golden, CLOCK)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("video_fraction", {"second_per_grids": [1.0]}),
        ("video", {"second_per_grids": [2.0]}),
        ("av_9s_2fps", {"second_per_grids": [2.0]}),
    ],
)
def test_a_wrong_clock_is_noticed(case, change, golden):
    case = case if case in TOLD["rope"] else next(name for name in TOLD["rope"] if name.startswith("av"))
    with pytest.raises(AssertionError):
        check_case(case, {**TOLD["rope"][case], **change}, golden, CLOCK)


def test_sound_lengths():
    for frames, (_, tokens) in TOLD["audio"]["lengths"].items():
        assert sound_tokens(int(frames)) == tokens


def test_packing_concatenates(golden):
    """Rows of a packed row are those of its conversations alone: positions begin at 0 in each."""
    positions = golden["packing.three.position_ids"]
    for start in np.cumsum([0, *TOLD["packing"]["three"]["lengths"]])[:-1]:
        assert not positions[:, 0, start].any()


def test_after_a_film_the_next_block_follows_its_last_piece():
    """10 grids of 1 s and 205 tokens of sound: the video's last position is 227, but the sound's last piece ends at 206."""
    film = Film(Vision((10, 4, 4), 1.0), Sound(205))
    found, following = row_positions([Text(1), film, Text(2)], CLOCK)
    assert found[0, 1] == found[0, 2] == 1
    assert found[:, 3:-4].max() == 227
    assert found[0, -4:].tolist() == [207, 207, 208, 209]
    assert following == 228


def test_time_is_computed_in_float32():
    """A float64 floor is one less or more on many clips: 100 frames over a duration in hundredths of a second."""
    differing = 0
    for hundredths in range(100, 200_000, 97):
        seconds = hundredths / 100 / 50
        found = vision_positions(Vision((50, 2, 2), seconds), CLOCK)[0]
        in_float32 = (np.arange(50, dtype=np.float32) * np.float32(seconds) * np.float32(25)).astype(np.int64)
        differing += (found != np.floor(np.arange(50) * seconds * 25)).any()
        assert (found == in_float32).all()
    assert differing > 50


def test_chunks_of_both_ways():
    """Grids of 1 s: the same pieces. Grids of 4.7 s: the original splits frames, the exact way never does."""
    times = np.repeat(25 * np.arange(6), 4)
    same = [film_pieces(times, 150, Clock(frame_exact=exact)) for exact in (False, True)]
    assert same[0] == same[1] == [
        Piece(False, 0, 8), Piece(True, 0, 50), Piece(False, 8, 16), Piece(True, 50, 100), Piece(False, 16, 24),
        Piece(True, 100, 150),
    ]  # fmt: skip
    slow = np.repeat((4.7 * 25 * np.arange(3)).astype(int), 6)
    pieces = film_pieces(slow, 400, Clock(frame_exact=True))
    assert all(piece.start % 6 == piece.end % 6 == 0 for piece in pieces if not piece.is_sound)
    assert any(piece.start % 6 for piece in film_pieces(slow, 400, CLOCK) if not piece.is_sound)
    assert sum(piece.end - piece.start for piece in pieces) == 18 + 400


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("frames", "sound"), [(1, 1), (7, 30), (50, 1), (1, 900), (3, 0)])
def test_no_token_is_lost_or_told_twice(exact, frames, sound):
    clock = Clock(frame_exact=exact)
    times = vision_positions(Vision((frames, 4, 6), 3.3), clock)[0]
    for is_sound, total in ((False, len(times)), (True, sound)):
        ranges = [range(p.start, p.end) for p in film_pieces(times, sound, clock) if p.is_sound == is_sound]
        assert [token for each in ranges for token in each] == list(range(total))

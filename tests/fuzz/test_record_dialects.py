"""One conversation with media and objects in every dialect: read as what it says; damaged, refused or consistent."""

import copy
import json

from test_record_files import mutated

from ms_impl.data.media_sources import PLACEHOLDERS, Medium
from ms_impl.data.objects import BBOX, REF, fill_objects
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.ovis2_5.boxes import BOXES as OVIS
from ms_impl.qwen2_5_omni.boxes import box_style
from ms_impl.qwenvl.boxes import BOXES as QWENVL

KINDS = ("image", "video", "audio")
NAMES = {"image": ["a.png", "b c.jpg", "é.webp"], "video": ["a.mp4", "深.mkv"], "audio": ["a.wav", "b.flac"]}
FRAMES = ("0.png", "1.jpg")
STYLES = (QWENVL, OVIS, box_style("legacy"), box_style("new", norm1000=True))


def medium(rng, kind):
    if kind == "video" and rng.random() < 0.3:
        return Medium(kind, FRAMES)
    return Medium(kind, str(rng.choice(NAMES[kind])))


def make(rng, folder):
    """(record, turns as (role, [text or Medium]), objects)."""
    turns = []
    for number in range(2 * int(rng.integers(1, 3))):
        pieces = [f"word {number}"]
        for _ in range(rng.integers(0, 3)):
            pieces.insert(int(rng.integers(0, len(pieces) + 1)), medium(rng, str(rng.choice(KINDS))))
        turns.append((("user", "assistant")[number % 2], pieces))
    boxes = [sorted(map(int, rng.integers(0, 100, 4))) for _ in range(rng.integers(0, 3))]
    if boxes:
        turns[-1][1].append("".join(f"{REF}{BBOX}" for _ in boxes))
    record = [inline_parts, beside_messages, beside_conversations, pairs][rng.integers(4)](turns)
    if boxes:
        record["objects"] = {"ref": [f"ref {n}" for n in range(len(boxes))], "bbox": boxes, "bbox_type": "norm1000"}
    damaged = rng.random() < 0.5
    for _ in range(int(rng.integers(1, 4)) if damaged else 0):
        record = mutated(record, rng)
    return record, None if damaged else turns, boxes


def text_of(pieces):
    return "".join(piece if isinstance(piece, str) else PLACEHOLDERS[piece.kind] for piece in pieces)


def media_of(turns):
    return [piece for _, pieces in turns for piece in pieces if not isinstance(piece, str)]


def listed(turns):
    """The media beside the turns."""
    record = {}
    for kind in KINDS:
        sources = [source_of(each) for each in media_of(turns) if each.kind == kind]
        if sources:
            record[f"{kind}s"] = sources
    return record


def source_of(each):
    return list(each.source) if isinstance(each.source, tuple) else each.source


def inline_parts(turns):
    def part(piece):
        if isinstance(piece, str):
            return {"type": "text", "text": piece}
        if piece.kind == "video" and isinstance(piece.source, tuple):
            return {"type": "video", "video": source_of(piece)}
        return {"type": f"{piece.kind}_url", f"{piece.kind}_url": {"url": piece.source}}

    return {"messages": [{"role": role, "content": [part(piece) for piece in pieces]} for role, pieces in turns]}


def beside_messages(turns):
    return {"messages": [{"role": role, "content": text_of(pieces)} for role, pieces in turns]} | listed(turns)


def beside_conversations(turns):
    names = {"user": "human", "assistant": "gpt"}
    texts = [{"from": names[role], "value": text_of(pieces)} for role, pieces in turns]
    return {"conversations": texts} | listed(turns)


def pairs(turns):
    texts = [text_of(pieces) for _, pieces in turns]
    both = [[question, answer] for question, answer in zip(texts[::2], texts[1::2])]
    return {"query": both[-1][0], "response": both[-1][1], "history": both[:-1]} | listed(turns)


def run(case):
    record, turns, boxes = case
    given = json.loads(json.dumps(record))
    try:
        conversation = parse_record(copy.deepcopy(given), "x")
    except InputError as error:
        assert turns is None, error
        assert str(error).startswith("x") and len(str(error)) < 700
        raise
    texts = [conversation.system or "", *(turn.text for turn in conversation.turns)]
    for kind in {each.kind for each in conversation.media}:
        count = sum(each.kind == kind for each in conversation.media)
        assert count == sum(text.count(PLACEHOLDERS[kind]) for text in texts)
    for style in STYLES if conversation.objects else ():
        try:
            filled = fill_objects(texts, conversation.objects, style, lambda _: (640, 480))
        except InputError:
            assert turns is None
            continue
        assert not any(BBOX in text or REF in text for text in filled) or turns is None
        if turns is not None:
            assert len(style.boxes(filled[-1])) == len(boxes)
    if turns is not None:
        assert list(conversation.media) == media_of(turns)
        assert [turn.text for turn in conversation.turns] == [text_of(pieces) for _, pieces in turns]


def test_dialects(fuzz):
    fuzz("record dialects", make, run)

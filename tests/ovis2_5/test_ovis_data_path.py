"""Conversations with images and frames, packed: the data set, the plan and the feed of every family."""

from data_path import check_data_path


def test_packed_rows_hold_each_conversation(make_template, ovis_folder, tmp_path):
    frames = [f"frame{number}.png" for number in range(4)]
    asked = [
        ("<image>\nWhat?", {"image": "image0.png"}), ("Hello.", {}), ("<image><image>Two?", {"image": ["image1.png", "image0.png"]}),
        ("<video>When?", {"video": frames}), ("<image>", {"image": "image1.png"}),
    ]  # fmt: skip
    records = [
        {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes."}], **media}
        for text, media in asked
    ]
    check_data_path(make_template(max_length=2048), records, tmp_path, 2048)

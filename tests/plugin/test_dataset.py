"""The YAML's train_dataset section as the steps of a run."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.plugin.run import register_all

register_all()

from mindformers.tools.register import MindFormerConfig  # noqa: E402 (after our classes are registered)

from ms_impl.cli.arguments import read_settings  # noqa: E402
from ms_impl.cli.settings import override  # noqa: E402
from ms_impl.plugin.dataset import step_dataset, training_feed  # noqa: E402
from ms_impl.plugin.family_classes import config_class  # noqa: E402
from ms_impl.qwenvl.template import QwenVLTemplate  # noqa: E402
from ms_impl.train.feed import step_columns  # noqa: E402

TEMPLATE = "modal_to_text_transform.model_transform_template"


@pytest.fixture
def read(workspace, finetune_arguments):
    """The steps of two rows, with the given (dotted key, value) changes to the section; and the section."""
    settings = read_settings(finetune_arguments)

    def read(*changes, **run):
        section = copy.deepcopy(settings["train_dataset"])
        override(section, [("batch_size", 2), *changes])
        section = MindFormerConfig(**section)
        return training_feed(section, config_class("qwenvl")(config_file=workspace / "model"), **run), section

    return read


@pytest.fixture
def build(read):
    """The same as MindSpore takes them."""
    return lambda *changes, **run: step_dataset(*read(*changes, **run))


def test_more_threads_than_cores_are_as_many_as_cores(build, caplog):
    """MindSpore refuses more; a YAML for a large machine, or ms-swift's usual 4, runs on a small one."""
    few, many = (list(build(("num_parallel_workers", number))) for number in (1, 256))
    assert len(few) == len(many) and all(np.array_equal(a, b) for x, y in zip(few, many) for a, b in zip(x, y))
    assert "of 256, this process has no more cores" in caplog.text


@pytest.fixture
def conversations(tmp_path):
    """Write a conversation file of (user's text, assistant's text) pairs."""

    def write(*turns):
        records = [
            {"id": f"r{n}", "conversations": [{"from": "user", "value": u}, {"from": "assistant", "value": a}]}
            for n, (u, a) in enumerate(turns)
        ]
        (tmp_path / "written.json").write_text(json.dumps(records))
        return "data_loader.annotation_file", str(tmp_path / "written.json")

    return write


def test_batches_hold_what_the_template_makes_of_the_conversations(build, workspace):
    batches = list(build().create_dict_iterator(output_numpy=True, num_epochs=1))
    assert [list(batch) for batch in batches] == [list(step_columns(QwenVLTemplate))] * 3
    template = QwenVLTemplate.from_pretrained(workspace / "model")
    first = batches[0]
    text = template.tokenizer.decode(first["input_ids"][0])
    question = "<|im_start|>user\nPicture 1: <img>0.png</img>\nWhat?<|im_end|>"
    assert text.startswith(f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{question}")
    np.testing.assert_array_equal(first["images"][0], template.pixels(["0.png"], workspace))
    assert not first["images"][1].any() and (first["image_context_pos"][1] == first["input_ids"].shape[1]).all()
    start = int(np.flatnonzero(first["input_ids"][0] == template.tokenizer.image_start_id)[0]) + 1
    slots = np.arange(start, start + template.config.num_queries)
    np.testing.assert_array_equal(first["image_context_pos"][0, 0], slots)
    learnt = first["labels"][0][first["labels"][0] >= 0]
    assert "It is<|im_end|>\n" in template.tokenizer.decode(learnt)


def test_roles_prompts_and_normalisation_come_from_the_section(build, workspace, tmp_path):
    record = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "<img>0.png</img>"}]}
    (tmp_path / "roles.json").write_text(json.dumps([record] * 2))
    transforms = [{"type": "BatchToTensor"}, {"type": "BatchNormalize", "mean": [0, 0, 0], "std": [1, 1, 2]}]
    (batch,) = build(
        ("data_loader.annotation_file", str(tmp_path / "roles.json")), ("modal_content_transforms", transforms),
        (f"{TEMPLATE}.user_role_name", "human"), (f"{TEMPLATE}.assistant_role_name", "gpt"),
        (f"{TEMPLATE}.user_prompt", "Q: "), (f"{TEMPLATE}.system_message", "Be brief."),
    ).create_dict_iterator(output_numpy=True, num_epochs=1)  # fmt: skip
    text = QwenVLTemplate.from_pretrained(workspace / "model").tokenizer.decode(batch["input_ids"][0])
    turns = "<|im_start|>user\nQ: What?<|im_end|>\n<|im_start|>assistant\n<img>0.png</img><|im_end|>"
    assert text.startswith(f"<|im_start|>system\nBe brief.<|im_end|>\n{turns}")
    pixels = batch["images"][0, 0]
    assert pixels.min() >= 0 and pixels[:2].max() > 0.5 >= pixels[2].max()


@pytest.mark.parametrize(
    "record",
    [
        {
            "image": "0.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}],
        },
        {
            "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}],
            "images": ["0.png"],
        },
    ],
)
def test_records_of_other_layouts_train_with_their_images(build, workspace, tmp_path, record):
    """They trained as text without a word."""
    (tmp_path / "other.json").write_text(json.dumps([record] * 2))
    batches = build(("data_loader.annotation_file", str(tmp_path / "other.json"))).create_dict_iterator(
        output_numpy=True, num_epochs=1
    )
    (batch,) = batches
    template = QwenVLTemplate.from_pretrained(workspace / "model")
    assert "user\nPicture 1: <img>0.png</img>\nWhat?<|im_end|>" in template.tokenizer.decode(batch["input_ids"][0])
    np.testing.assert_array_equal(batch["images"][0, 0], template.pixels(["0.png"], workspace)[0])


def test_the_first_num_samples_are_used_and_what_fills_no_batch_is_told(build, caplog):
    dataset = build(("data_loader.num_samples", 5))
    assert dataset.get_dataset_size() == 2
    assert "the last 1 of 5 rows are left out: they fill no step" in caplog.text
    assert build(("data_loader.num_samples", 5), ("drop_remainder", False)).get_dataset_size() == 3


def test_all_epochs_are_one_stream_that_begins_where_a_run_goes_on(build):
    whole = list(build(epochs=3).create_tuple_iterator(output_numpy=True, num_epochs=1))
    rest = list(build(epochs=3, first_step=4).create_tuple_iterator(output_numpy=True, num_epochs=1))
    assert len(whole) == 9 and len(rest) == 5
    for left, right in zip(whole[4:], rest):
        for a, b in zip(left, right):
            np.testing.assert_array_equal(a, b)


def test_dialogues_are_packed_with_their_images(read, workspace):
    changes = [("packing", True), ("modal_to_text_transform.max_length", 320), ("batch_size", 1)]
    dataset = step_dataset(*read(*changes))
    batches = list(dataset.create_dict_iterator(output_numpy=True, num_epochs=1))
    assert len(batches) < 6 and sum(batch["segment_ids"].max() for batch in batches) == 6
    assert sum(batch["images"].any(axis=(2, 3, 4)).sum() for batch in batches) == 3
    tokenizer = QwenVLTemplate.from_pretrained(workspace / "model").tokenizer
    for batch in batches:
        for columns in batch["image_context_pos"][0]:
            if columns[0] < 320:
                assert batch["input_ids"][0][columns[0] - 1] == tokenizer.image_start_id
    with pytest.raises(InputError, match="loss_weighting: 'sample' is unknown"):
        read(*changes, ("loss_weighting", "sample"))[0].batch(0)


def test_several_files_are_mixed_by_weight(read, conversations, workspace):
    key, path = conversations(("one", "a"), ("two", "b"))
    files = [{"path": path, "weight": 2.5}, str(workspace / "conversations.json")]
    assert read((key, files), epochs=2)[0].plan.total_rows == 2 * (5 + 6)
    with pytest.raises(InputError, match="annotation_file: expected a path, or a list of"):
        read((key, [{"file": path}]))


def test_each_row_of_a_run_has_a_seed_of_its_own(build):
    seeds = [batch[-1] for batch in build(epochs=2).create_tuple_iterator(output_numpy=True, num_epochs=1)]
    assert len(set(np.concatenate(seeds))) == 12
    others = [batch[-1] for batch in build(epochs=2, seed=1).create_tuple_iterator(output_numpy=True, num_epochs=1)]
    assert not set(np.concatenate(seeds)) & set(np.concatenate(others))


def test_an_image_outside_the_folder_is_refused_unless_allowed(read, conversations, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (50, 50), "red").save(tmp_path / "out.png")
    records = conversations(("<img>../out.png</img>", "a"), ("b", "c"))
    changes = [records, (f"{TEMPLATE}.dataset_dir", str(tmp_path / "pictures"))]
    with pytest.raises(InputError, match=r"record 0 \(id 'r0'\): image '../out.png'"):
        read(*changes)
    assert read(*changes, (f"{TEMPLATE}.allow_outside_dataset_dir", True))[0].batch(0)["images"][0].any()


def test_conversations_that_are_cut_off_are_told_once(build, conversations, caplog):
    long = conversations(("one", "a" * 999), ("two", "b" * 999))
    dataset = build(long, ("modal_to_text_transform.max_length", 60), epochs=3)
    list(dataset)
    assert caplog.text.count("2 conversations: cut off at 60 tokens; the first is") == 1


def test_a_row_length_that_leaves_no_answer_is_refused_and_told_where_it_leaves_some(build, conversations, caplog):
    """It trained with loss 0: only ChatML's markers were left."""
    key, path = conversations(("a" * 99, "b"), ("a" * 99, "b"))
    with pytest.raises(InputError, match="max_length 100 leaves no token of any answer"):
        build((key, path), ("modal_to_text_transform.max_length", 100))
    some = conversations(("a" * 99, "b"), ("a", "b"))
    build(some, ("modal_to_text_transform.max_length", 100))
    assert "1 conversations: no token of an answer left within 100; the first is" in caplog.text


def test_a_missing_image_is_found_before_training_begins(build, conversations):
    changes = conversations(("<img>0.png</img>", "a"), ("<img>no.png</img>", "b"))
    with pytest.raises(InputError, match=r"record 1 \(id 'r1'\): image '.*/no.png' does not exist"):
        build(changes)


def test_a_damaged_image_is_an_error_that_names_its_record(read, conversations, tmp_path):
    Image.new("RGB", (50, 50), "red").save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    changes = conversations(("<img>cut.png</img>", "a"), ("b", "c")), (f"{TEMPLATE}.dataset_dir", str(tmp_path))
    feed, section = read(*changes)
    with pytest.raises(RuntimeError):
        list(step_dataset(feed, section))
    assert "record 0 (id 'r0'): image" in str(feed.error) and "cut.png" in str(feed.error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("data_loader.annotation_file", "/no.json")], "/no.json: cannot be read"),
        ([("batch_size", 7)], "6 rows of dialogues do not fill one batch of 7"),
        ([(f"{TEMPLATE}.image_size", 448)], "image_size is 448, but the model's configuration says 112"),
        ([(f"{TEMPLATE}.mode", "predict")], "mode: 'predict' is not supported"),
        ([(f"{TEMPLATE}.user_role_name", "human")], "unknown role 'user'"),
        ([("modal_to_text_transform.max_length", 0)], "max_length must be a positive whole number, not 0"),
        ([("modal_to_text_transform.max_length", 80)], "max_length 80 cuts image '0.png'"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(build, changes, message):
    with pytest.raises(InputError) as caught:
        build(*changes)
    assert message in str(caught.value)


def test_more_images_than_slots_is_an_error(read, conversations):
    two_images = conversations(("<img>0.png</img><img>1.png</img>", "a"), ("b", "c"))
    changes = [two_images, ("modal_to_text_transform.max_length", 400)]
    with pytest.raises(InputError, match=r"record 0 \(id 'r0'\): 2 images do not fit in 1 image slots"):
        read(*changes, (f"{TEMPLATE}.modal_content_padding_size", 1))
    assert read(*changes)[0].plan.sizes(0)["images"] == 2


def test_another_models_vocabulary_is_refused(build, vocabulary_file):
    with pytest.raises(InputError, match="wrong vocabulary file"):
        build(("tokenizer.vocab_file", str(vocabulary_file)))

"""``--run_mode predict`` through MindFormers' Trainer, and the answering behind it."""

import json
import shutil

import peft
import pytest
import torch

from convert.convert_weight import main as convert_weight
from convert.merge_adapter import main as merge_adapter
from ms_impl.cli.training_plan import answering_adapter
from ms_impl.errors import InputError
from ms_impl.plugin.predict import answered, generation_settings
from ms_impl.qwenvl.family import FAMILY
from torch_ref.qwenvl.model import QwenVL as Reference

GREEDY = ["--options", "model.generation_config.max_new_tokens=4", "model.generation_config.do_sample=False"]


@pytest.fixture(scope="module")
def predict(tmp_path_factory, workspace, run_mindformer):
    """Run the released model's predict YAML, brought down to the small model and to CPU; its process and its folder."""

    def predict(*arguments):
        folder = tmp_path_factory.mktemp("predict")
        for picture in workspace.glob("*.png"):
            shutil.copy(picture, folder)
        run = run_mindformer(
            folder, "--config", "configs/qwenvl/predict_qwenvl_9.6b.yaml", "--register_path", "ms_impl/plugin/register",
            "--run_mode", "predict", "--device_target", "CPU", "--use_parallel", "False", "--auto_trans_ckpt", "False",
            "--model.model_config.config_file", workspace / "model/config.json", *arguments,
        )  # fmt: skip
        return run, folder

    return predict


@pytest.fixture(scope="module")
def converted(tmp_path_factory, workspace):
    """The small model as one MindSpore .ckpt."""
    path = tmp_path_factory.mktemp("converted") / "model.ckpt"
    arguments = ["--model", "qwenvl", "--input_path", str(workspace / "model"), "--output_path", str(path)]
    assert convert_weight([*arguments, "--dtype", "fp32"]) == 0
    return path


def saved(folder) -> list[dict]:
    """The lines of the results; nothing lies beside them in the folder that the command was run in."""
    assert not list(folder.glob("*.txt"))
    return [json.loads(line) for line in (folder / "output/predict.jsonl").read_text(encoding="utf-8").splitlines()]


def test_several_images_and_a_batch_of_prompts_of_different_length(predict, workspace):
    run, folder = predict(
        "--load_checkpoint", workspace / "model", "--modal_type", "image", "image", "text", "--predict_batch_size", "2",
        "--predict_data", "0.png", "1.png", "Which?", "1.png", "0.png", "Describe the image in English:", *GREEDY,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    prompts = [
        "Picture 1: <img>0.png</img>\nPicture 2: <img>1.png</img>\nWhich?",
        "Picture 1: <img>1.png</img>\nPicture 2: <img>0.png</img>\nDescribe the image in English:",
    ]
    lines = saved(folder)
    assert [line["id"] for line in lines] == [0, 1] and [line["prompt"] for line in lines] == prompts
    for line, prompt in zip(lines, prompts):
        assert 0 < len(line["answer_ids"]) <= 4 and len(line["prompt_ids"]) > 2 * 16
        assert line["answer"].strip() == line["answer"] and f"{prompt}{line['answer']}"[: len(prompt) + 1] in run.stdout


def test_text_alone_with_a_single_ckpt(predict, workspace, converted):
    """Vocabulary and chat format are found beside the config.json that is named."""
    run, folder = predict("--load_checkpoint", converted, "--predict_data", "Hello", *GREEDY)
    assert run.returncode == 0, run.stderr
    (line,) = saved(folder)
    assert line["prompt"] == "Hello" and 0 < len(line["answer_ids"]) <= 4
    others = [line for line in run.stdout.splitlines() if not line.startswith(("on CPU: ", "chat format: "))]
    assert others[0].startswith("Hello")  # the answer, and nothing before it; what MindFormers says is in its log
    assert run.stderr.startswith("MindFormers' log: output/log/rank_0/info.log\n") and "INFO" not in run.stderr
    assert "mindformers/trainer" in (folder / "output/log/rank_0/info.log").read_text()


@pytest.fixture(scope="module")
def loaded(workspace):
    from ms_impl import load

    return load(workspace / "model")


def test_answers_do_not_depend_on_the_batch_they_are_in(loaded, workspace):
    model, template = loaded
    generation = model.generation.changed(do_sample=False, max_new_tokens=6)
    prompts = [
        [{"image": str(workspace / "0.png")}, {"text": "What?"}],
        "Text alone, which is somewhat longer",
        [{"text": "Before "}, {"image": str(workspace / "1.png")}, {"text": "and after"}],
    ]
    alone, together = (list(answered(model, template, prompts, generation, size, 0)) for size in (1, 2))
    assert alone == together and len(alone) == 3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"image": "no.png"}], "image 'no.png' is not an image file"),
        ("<img>open", "Unclosed image token"),
        ("a " * 2000, "the model takes at most"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named(loaded, tmp_path, monkeypatch, prompt, message):
    model, template = loaded
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(InputError, match=f"prompt 2: .*{message}"):
        list(answered(model, template, ["a", prompt], model.generation, 2, 0))


def test_the_settings_beside_the_checkpoint_are_changed_by_the_yaml(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.25, "max_new_tokens": 7}')
    generation = generation_settings(tmp_path / "model.ckpt", "elsewhere/config.json", {"max_new_tokens": 3}, FAMILY)
    assert (generation.top_p, generation.max_new_tokens) == (0.25, 3)


def test_a_single_file_has_the_chat_format_beside_its_configuration_and_that_is_said(tmp_path, capsys, caplog):
    (tmp_path / "hub").mkdir()
    (tmp_path / "weights").mkdir()
    checkpoint, config = tmp_path / "weights/model.ckpt", str(tmp_path / "hub/config.json")
    (tmp_path / "hub/generation_config.json").write_text('{"chat_format": "chatml"}')
    assert generation_settings(checkpoint, config, {}, FAMILY).chat_format == "chatml"
    assert f"chat format: chatml ({tmp_path}/hub/generation_config.json)" in capsys.readouterr().out
    assert f"{checkpoint} does not tell its chat format" in caplog.text
    caplog.clear()
    assert generation_settings(checkpoint, config, {"chat_format": "raw"}, FAMILY).chat_format == "raw"
    assert "chat format: raw (model.generation_config)" in capsys.readouterr().out and not caplog.text
    (tmp_path / "hub/generation_config.json").unlink()
    assert generation_settings(checkpoint, config, {}, FAMILY).chat_format == "raw"
    assert "prompts are written in chat format 'raw'" in caplog.text


@pytest.fixture(scope="module")
def adapter(workspace, tmp_path_factory):
    """One that PEFT made for the small model."""
    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = peft.get_peft_model(Reference.from_pretrained(workspace / "model"), peft.LoraConfig(target_modules=["w1"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


def test_an_adapter_answers_as_merged_into_its_base(predict, workspace, adapter, tmp_path):
    merged = tmp_path / "merged"
    given = ["--input_path", str(workspace / "model"), "--adapter", str(adapter), "--output_path", f"{merged}/"]
    assert merge_adapter(["--model", "qwenvl", *given]) == 0
    asked = ["--predict_data", "Hello", *GREEDY]
    named = f"model.model_config.lora={{adapter: {adapter}}}"
    texts = []
    for path, options in ((workspace / "model", [named]), (merged, []), (workspace / "model", [])):
        run, folder = predict("--load_checkpoint", path, *asked, *options)
        assert run.returncode == 0, run.stderr
        texts += [line["answer_ids"] for line in saved(folder)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target_modules": ["w1"]}, "lora: give adapter, the directory of a trained one; or leave lora out"),
        ({"adapter": True, "r": 4}, "the adapter has r 8, the settings of this run say 4"),
    ],
)
def test_a_lora_section_that_answers_with_something_else_is_refused(adapter, section, message):
    section = {key: str(adapter) if key == "adapter" else value for key, value in section.items()}
    with pytest.raises(InputError, match=message):
        answering_adapter(section, "weights")
    with pytest.raises(InputError, match="merged into the weights of load_checkpoint"):
        answering_adapter({"adapter": str(adapter)}, "")

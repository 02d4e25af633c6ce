"""The command line and the YAML, before MindFormers is imported: every fault is named."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ms_impl import families
from ms_impl.cli import schema
from ms_impl.cli.arguments import read_settings
from ms_impl.cli.prompts import queries
from ms_impl.cli.settings import REGISTER_PATH, adapt_to_cpu, override
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
PREDICT = ROOT / "configs/qwenvl/predict_qwenvl_9.6b.yaml"
FINETUNE = ROOT / "configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml"


@pytest.fixture
def settings() -> dict:
    return yaml.safe_load(FINETUNE.read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path, settings, finetune_arguments):
    """Read changed settings as the command does; the changes are (dotted key, value)."""

    def read(*changes, arguments=()):
        override(settings, changes)
        config = tmp_path / "changed.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return read_settings([*finetune_arguments, "--config", str(config), *map(str, arguments)])

    return read


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train_dataset.data_loader.anotation_file", "unknown key 'anotation_file'; did you mean 'annotation_file'?"),
        ("train_dataset.modal_to_text_transform.max_len", "did you mean 'max_length'?"),
        ("train_dataset.modal_to_text_transform.model_transform_template.user_role", "did you mean 'user_role_name'?"),
        ("train_dataset.tokenizer.vocabfile", "did you mean 'vocab_file'?"),
        ("model.model_config.freeze_visoin", "did you mean 'freeze_vision'?"),
        ("model.model_config.llm_model", "unknown key 'llm_model'; "),
        ("processor.tokeniser", "processor: unknown key 'tokeniser'; did you mean 'tokenizer'?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_known_one(read, key, message):
    with pytest.raises(InputError, match="changed.yaml: ") as caught:
        read((key, 1))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.model_config.freeze_vision", "never", "freeze_vision: expected True or False, found 'never'"),
        ("train_dataset.modal_to_text_transform.max_length", "yes", "max_length: expected a whole number"),
        ("train_dataset.tokenizer", "qwen", "train_dataset.tokenizer: expected a section with keys, found 'qwen'"),
        ("train_dataset.data_loader.annotation_file", "null", "train_dataset.data_loader.annotation_file: is missing"),
        ("trainer", "{}", "trainer.type: is missing"),
    ],
)
def test_a_value_of_another_type_and_a_missing_key_are_named(finetune_arguments, key, value, message):
    with pytest.raises(InputError) as caught:
        read_settings([*finetune_arguments, f"--{key}", value])
    assert message in str(caught.value)


def test_an_unknown_key_in_a_list_is_named(read, settings):
    transforms = copy.deepcopy(settings["train_dataset"]["modal_content_transforms"])
    transforms[1]["men"] = 1
    with pytest.raises(InputError, match=r"modal_content_transforms\[1\]: unknown key 'men'; did you mean 'mean'"):
        read(("train_dataset.modal_content_transforms", transforms))


@pytest.mark.parametrize(
    "reference", ["/tmp--evil.Class", "evil--mod.Class", "..evil.Class", "a.b.Class", "/tmp/evil.Class", "evil.Class"]
)
def test_auto_register_outside_the_register_path_is_refused(read, reference):
    with pytest.raises(InputError, match="model.arch.auto_register: .* is refused"):
        read(("model.arch.auto_register", reference))


def test_auto_register_is_refused_wherever_it_stands(read):
    with pytest.raises(InputError, match="callbacks.*auto_register: .* is refused"):
        read(("callbacks", [{"type": "Evil", "auto_register": "/tmp--evil.Evil"}]))


def test_auto_register_through_a_link_out_of_the_folder_is_refused(read, tmp_path):
    folder = tmp_path / "register"
    folder.mkdir()
    (tmp_path / "evil.py").write_text("class Evil: pass")
    (folder / "evil.py").symlink_to(tmp_path / "evil.py")
    for stub in REGISTER_PATH.glob("qwenvl_*.py"):
        shutil.copy(stub, folder)
    with pytest.raises(InputError, match="'evil.Evil' is refused: evil.py is not a file of"):
        read(("model.arch.auto_register", "evil.Evil"), arguments=["--register_path", folder])


def test_a_refused_plugin_runs_no_code_and_the_command_exits_2(tmp_path, settings, finetune_arguments, run_mindformer):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    settings["model"]["arch"]["auto_register"] = f"{tmp_path}--evil.Evil"
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(settings))
    run = run_mindformer(tmp_path, *finetune_arguments, "--config", "evil.yaml")
    assert run.returncode == 2
    assert run.stderr.startswith("error: evil.yaml: model.arch.auto_register: ") and "Traceback" not in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "evil.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run_mode", "fine_tune"], "run_mode: 'fine_tune' is not supported; did you mean 'finetune'?"),
        (["--load_chekpoint", "x"], "unknown argument --load_chekpoint; did you mean '--load_checkpoint'?"),
        (["--optimizer.weight_deca", "1"], "unknown argument --optimizer.weight_deca"),
        (["--optimizer.weight_decay"], "argument --optimizer.weight_decay needs a value"),
        (["--options", "seed"], "--options: expected KEY=VALUE, found 'seed'"),
        (["--options", "seed.x=1"], "seed.x: 'seed' is a value, not a section"),
        (["--options", "seed=[1"], "--options seed: line 1: not YAML ("),
        (["--options", "model.arch.type=QwenVl"], "model.arch.type: unknown model 'QwenVl'; did you mean 'QwenVL'?"),
        (["--options", "do_eval=True"], "eval_dataset: is missing; do_eval needs it"),
        (["--runner_config.gradient_accumulation_steps=0"], "expected a whole number from 1 to 1,000,000, found 0"),
        (["--load_checkpoint", ""], "load_checkpoint: run_mode finetune needs weights"),
        (["--load_checkpoint", "/no.ckpt"], "load_checkpoint: /no.ckpt not found"),
        (["--register_path", "/nowhere"], "--register_path: /nowhere is not a directory"),
        (["--model.model_config.config_file", "/nowhere.json"], "config_file: /nowhere.json not found"),
    ],
)
def test_bad_arguments_are_named(finetune_arguments, arguments, message):
    with pytest.raises(InputError) as caught:
        read_settings([*finetune_arguments, *arguments])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML"),
        ("- 1", "expected a table"),
        ("base_config: /etc/x.yaml", "base_config is not read"),
        (
            "a: !!python/object/apply:os.system ['true']",
            "a: the tag tag:yaml.org,2002:python/object/apply:os.system is",
        ),
    ],
)
def test_what_is_no_yaml_of_settings_is_named(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match="bad.yaml: ") as caught:
        read_settings(["--config", str(tmp_path / "bad.yaml")])
    assert message in str(caught.value)


def test_a_missing_yaml_is_named():
    with pytest.raises(InputError, match="/nowhere.yaml: cannot be read"):
        read_settings(["--config", "/nowhere.yaml"])


def test_arguments_change_the_settings_they_name(finetune_arguments):
    changes = ["--batch_size", "5", "--use_parallel", "True", "--options", "seed=3", "output_dir=here"]
    changes += ["--optimizer.weight_decay=2e-1", "--optimizer.betas", "[0.5, 0.6]"]
    settings = read_settings([*finetune_arguments, *changes])
    assert settings["runner_config"]["batch_size"] == 5 and settings["use_parallel"] is True
    assert (settings["seed"], settings["output_dir"]) == (3, "here")
    assert settings["optimizer"] | {"weight_decay": 0.2, "betas": [0.5, 0.6]} == settings["optimizer"]


def test_any_valid_key_can_be_given_also_where_the_yaml_has_not_even_its_section(workspace):
    arguments = ["--config", str(PREDICT), "--load_checkpoint", f"{workspace}/model", "--predict_data", "Hi"]
    arguments += ["--model.model_config.config_file", f"{workspace}/model", "--recompute_config.recompute", "True"]
    settings = read_settings([*arguments, "--lr_schedule", "{type: cosine, learning_rate: 1e-3}"])
    assert settings["recompute_config"] == {"recompute": True}
    assert settings["lr_schedule"] == {"type": "cosine", "learning_rate": 1e-3}


def test_data_are_found_in_the_project_like_weights(workspace, tmp_path, monkeypatch, finetune_arguments):
    """As for load_checkpoint: where the command runs, and then among the project's own files."""
    (tmp_path / "project/data/images").mkdir(parents=True)
    (tmp_path / "project/data/train.json").write_text("[]")
    monkeypatch.setattr("ms_impl.resources.ROOT", tmp_path / "project")
    arguments = [*finetune_arguments, "--config", str(FINETUNE), "--train_dataset_dir", "data/images"]
    arguments += ["--register_path", str(REGISTER_PATH)]
    loader = "--train_dataset.data_loader.annotation_file"
    for given, found in (
        ("data/train.json", f"{tmp_path}/project/data/train.json"),
        ("data/train.json#3", f"{tmp_path}/project/data/train.json#3"),
        ("[data/train.json, {path: data/train.json, weight: 2}]", None),
    ):
        settings = read_settings([*arguments, loader, given])
        files = settings["train_dataset"]["data_loader"]["annotation_file"]
        path = f"{tmp_path}/project/data/train.json"
        assert files == (found or [path, {"path": path, "weight": 2}])
        template = settings["train_dataset"]["modal_to_text_transform"]["model_transform_template"]
        assert template["dataset_dir"] == f"{tmp_path}/project/data/images"


def test_both_spellings_of_an_element_type_are_right(read):
    settings = read(("model.model_config.compute_dtype", "fp16"), ("model.model_config.param_init_type", "float16"))
    assert settings["model"]["model_config"]["compute_dtype"] == "float16"
    assert settings["model"]["model_config"]["param_init_type"] == "float16"


def test_what_is_not_given_stands_beside_the_checkpoint(read, workspace, finetune_arguments):
    settings = read(("model.model_config.config_file", None))
    assert settings["model"]["model_config"]["config_file"] == f"{workspace}/model/config.json"
    assert settings["train_dataset"]["tokenizer"]["vocab_file"] == f"{workspace}/model/qwen.tiktoken"


def test_beside_one_file_of_weights_nothing_stands_and_the_error_names_key_and_cure(workspace, tmp_path):
    """README's own sequence: converted to one .ckpt, then used."""
    (tmp_path / "x.ckpt").touch()
    asked = ["--config", str(PREDICT), "--load_checkpoint", str(tmp_path / "x.ckpt"), "--predict_data", "Hi"]
    with pytest.raises(InputError) as caught:
        read_settings([*asked, "--model.model_config.config_file", "configs/qwenvl/qwenvl_9.6b/config.json"])
    assert "processor.tokenizer.vocab_file: not set" in str(caught.value) and "--output_path DIR/" in str(caught.value)
    with pytest.raises(InputError) as caught:
        read_settings([*asked, "--model.model_config.config_file", "null"])
    assert "model.model_config.config_file: not set" in str(caught.value)
    assert str(tmp_path) in str(caught.value) and "--output_path DIR/" in str(caught.value)


def test_an_adapter_in_the_place_of_weights_is_told(tmp_path):
    """As the checkpoint of a LoRA run is one."""
    (tmp_path / "adapter_config.json").write_text("{}")
    asked = ["--config", str(PREDICT), "--load_checkpoint", str(tmp_path), "--predict_data", "Hi"]
    with pytest.raises(InputError, match=f"{tmp_path}: holds an adapter; merge it into its base first"):
        read_settings([*asked, "--model.model_config.config_file", "null"])


def test_weights_that_are_not_the_models_are_listed(golden_dir, workspace, finetune_arguments):
    weights = ["--load_checkpoint", str(golden_dir / "model.safetensors")]
    vocabulary = ["--train_dataset.tokenizer.vocab_file", f"{workspace}/model/qwen.tiktoken"]
    with pytest.raises(InputError, match="do not fit the model") as caught:
        read_settings([*finetune_arguments, *weights, *vocabulary])
    assert "wrong shape: lm_head.weight" in str(caught.value) and "extra: transformer.h.1." in str(caught.value)


@pytest.mark.parametrize("config", sorted((ROOT / "configs/qwenvl").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_that_is_shipped_passes_the_checks(workspace, config):
    weights = ["--load_checkpoint", f"{workspace}/model", "--model.model_config.config_file", f"{workspace}/model"]
    settings = read_settings(["--config", str(config), *weights, "--predict_data", "Hi"])
    assert settings["run_mode"] == config.stem.partition("_")[0]
    assert schema.family_of(settings).name == "qwenvl"


def test_an_ascend_yaml_is_adapted_to_cpu_and_each_change_is_told(settings):
    lines = adapt_to_cpu(settings)
    assert settings["runner_config"]["sink_mode"] is False
    assert (settings["parallel"]["parallel_mode"], settings["parallel"]["full_batch"]) == (0, False)
    assert settings["model"]["model_config"]["compute_dtype"] == "float32"
    assert "jit_config" not in settings["context"]
    assert "on CPU: parallel.parallel_mode: 1 → 0" in lines
    assert adapt_to_cpu(settings) == []


def test_predict_data_pair_with_modal_types_and_repeat_their_pattern():
    pairs = queries(["a.png", "What?", "b.png", "Where?"], ["image", "text"])
    assert pairs == [[{"image": "a.png"}, {"text": "What?"}], [{"image": "b.png"}, {"text": "Where?"}]]
    assert queries(["a.png", "b.png", "?"], ["image", "image", "text"])[0][1] == {"image": "b.png"}
    assert queries(["one", "two"], None) == [[{"text": "one"}], [{"text": "two"}]]


def test_images_before_a_text_are_one_prompt_where_no_modalities_are_given(workspace):
    images = [f"{workspace}/0.png", f"{workspace}/1.png"]
    assert queries([*images, "?"], None) == [[{"image": images[0]}, {"image": images[1]}, {"text": "?"}]]
    for data in ([images[0]], ["?", images[0]], [images[0], "?", images[1], "?"], ["typo.jpg", "?", "?"]):
        with pytest.raises(InputError, match="--modal_type: is not given, and .* seems to be an image"):
            queries(data, None)
    assert queries(["a.mp4", "b.wav", "?"], None) == [[{"video": "a.mp4"}, {"audio": "b.wav"}, {"text": "?"}]]


@pytest.mark.parametrize(
    ("data", "modalities", "message"),
    [
        ([], None, "0 items do not fill prompts of --modal_type text"),
        (["a.png", "?", "b.png"], ["image", "text"], "3 items do not fill prompts of --modal_type image text"),
        (["a.mp4"], ["video"], "--modal_type: this model takes no video; it takes image, text"),
        (["a.mp4"], ["vdeo"], "--modal_type: unknown 'vdeo'; known: image, text"),
        (["a.mp4", "?"], None, "--modal_type: this model takes no video; it takes image, text"),
    ],
)
def test_predict_data_that_do_not_pair_are_named(data, modalities, message):
    with pytest.raises(InputError) as caught:
        queries(data, modalities, ("image",))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--predict_data", "/no.png", "?", "--modal_type", "image", "text"],
            "--predict_data: image '/no.png' does not exist",
        ),
        (["--predict_data", "http://x/y.png", "--modal_type", "image"], "'http://x/y.png' is a URL"),
        (["--predict_data", "Hello", "--load_checkpoint", ""], "load_checkpoint: run_mode predict needs weights"),
    ],
)
def test_what_cannot_be_predicted_is_said_before_anything_is_loaded(workspace, arguments, message):
    with pytest.raises(InputError) as caught:
        read_settings(["--config", str(PREDICT), "--load_checkpoint", f"{workspace}/model", *arguments])
    assert message in str(caught.value)


def test_parallel_training_in_a_single_process_is_refused(finetune_arguments, monkeypatch):
    from ms_impl.plugin.run import run

    monkeypatch.delenv("MS_ROLE", raising=False)
    with pytest.raises(InputError, match="use_parallel: .* start the ranks with scripts/msrun_launcher.sh"):
        run(read_settings([*finetune_arguments, "--use_parallel", "True"]))


def test_a_device_that_is_not_there_is_named(finetune_arguments):
    from ms_impl.plugin.run import run

    with pytest.raises(InputError, match="context.device_target: this machine has no Ascend"):
        run(read_settings([*finetune_arguments, "--device_target", "Ascend"]))


def test_a_family_is_known_by_the_class_name_of_its_model():
    assert set(schema.architectures()) == {family.arch for family in families.all_families().values()}


def test_settings_are_checked_without_importing_a_framework():
    code = "import ms_impl.cli.arguments, sys; print({'mindspore', 'mindformers', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr

"""The command: round trips, casts, what it refuses, and that nothing half-written is ever left."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import mindspore
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ms_impl.io import output as output_module
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.checkpoint_assets import CONFIG_NAME

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "convert/convert_weight.py"), "--model", "qwenvl"]
TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def content(path) -> dict[str, bytes]:
    return {name: tensor.array().tobytes() for name, tensor in open_checkpoint(path).tensors.items()}


def save_as(directory, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Save the tiny model again as the safetensors library does it, with NaNs of odd payload and a subnormal in it."""
    state = {name: tensor.to(dtype) for name, tensor in load_file(directory / "model.safetensors").items()}
    integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    odd = torch.tensor([-1, -2, torch.iinfo(integer).max, 1], dtype=integer)
    state["transformer.ln_f.weight"].view(integer)[:4] = odd
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return state


@pytest.mark.parametrize("between", ["x.ckpt", "x.safetensors", "x/"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_there_and_back_is_byte_identical(tiny, convert_weight, tmp_path, between, dtype):
    save_as(tiny, TORCH_DTYPES[dtype])
    middle, back = f"{tmp_path}/{between}", tmp_path / "back"
    assert convert_weight("--input_path", tiny, "--output_path", middle, "--dtype", dtype)[0] == 0
    arguments = ("--input_path", middle, "--output_path", f"{back}/", "--reverse", "--config", tiny)
    assert convert_weight(*arguments)[0] == 0
    for name in os.listdir(tiny):
        assert (back / name).read_bytes() == (tiny / name).read_bytes(), name
    assert sorted(os.listdir(back)) == sorted(os.listdir(tiny))


def test_torch_shards_there_and_back(tiny, convert_weight, tmp_path):
    state = save_as(tiny, torch.bfloat16)
    expected = content(tiny)
    (tiny / "model.safetensors").unlink()
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[:20], "pytorch_model-00002-of-00002.bin": names[20:]}
    for file, members in parts.items():
        torch.save({name: state[name] for name in members}, tiny / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    (tiny / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert convert_weight("--input_path", tiny, "--output_path", tmp_path / "x.ckpt")[0] == 0
    assert content(tmp_path / "x.ckpt") == expected


def test_mindspore_loads_every_value_of_the_checkpoint(tiny, convert_weight, tmp_path):
    convert_weight("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--dtype", "fp16")
    loaded = mindspore.load_checkpoint(str(tmp_path / "x.ckpt"))
    expected = load_file(tiny / "model.safetensors")
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(loaded[name].asnumpy(), tensor.half().numpy())


def test_what_mindspore_saves_goes_back(tiny, convert_weight, tmp_path):
    state = save_as(tiny, torch.float16)
    parameters = [{"name": name, "data": mindspore.Tensor(tensor.numpy())} for name, tensor in state.items()]
    mindspore.save_checkpoint(parameters, str(tmp_path / "x.ckpt"))
    arguments = ("--input_path", tmp_path / "x.ckpt", "--output_path", tmp_path / "x.safetensors", "--config", tiny)
    assert convert_weight(*arguments, "--reverse")[0] == 0
    assert (tmp_path / "x.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_directory_is_cut_into_shards(tiny, convert_weight, tmp_path, monkeypatch):
    monkeypatch.setattr(output_module, "SHARD_BYTES", 500_000)
    assert convert_weight("--input_path", tiny, "--output_path", f"{tmp_path}/out/")[0] == 0
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 5
    assert index["metadata"]["total_size"] == sum(map(len, content(tiny).values()))
    assert content(tmp_path / "out") == content(tiny)
    for file in files:
        assert len(load_file(tmp_path / "out" / file)) == 1 or (tmp_path / "out" / file).stat().st_size < 510_000


def test_what_goes_along_goes_along(tiny, convert_weight, tmp_path):
    config = json.loads((tiny / CONFIG_NAME).read_text())
    (tiny / CONFIG_NAME).write_text(json.dumps(config | {"torch_dtype": "float32"}))
    (tiny / "generation_config.json").write_text("{}")
    (tiny / "notes.pdf").write_text("stays")
    convert_weight("--input_path", tiny, "--output_path", f"{tmp_path}/out/", "--dtype", "bf16")
    names = {CONFIG_NAME, "generation_config.json", "qwen.tiktoken", "model.safetensors"}
    assert set(os.listdir(tmp_path / "out")) == names
    assert json.loads((tmp_path / "out" / CONFIG_NAME).read_text()) == config | {"torch_dtype": "bfloat16"}


def test_values_outside_fp16_are_counted_and_reported(tiny, convert_weight, tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in load_file(tiny / "model.safetensors").items()}
    for tensor in state.values():
        tensor[tensor.abs() < 1e-4] = 0
    state["transformer.wte.weight"][0, :3] = torch.tensor([1e5, -7e4, float("inf")])
    state["transformer.ln_f.weight"][:2] = 1e-9
    save_file(state, tiny / "model.safetensors")
    status, out, err = convert_weight("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--dtype", "fp16")
    size = state["transformer.wte.weight"].numel()
    assert status == 0 and "converted" in out
    assert err.splitlines() == [
        f"warning: transformer.wte.weight: 2 of {size:,} values lie outside the range of fp16 and became infinite",
        "note: 2 values in 1 of 61 tensors are too small for fp16 and became zero",
    ]


def test_dry_run_checks_and_writes_nothing(tiny, convert_weight, tmp_path):
    arguments = ("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--dtype", "fp16", "--dry_run")
    status, out, _ = convert_weight(*arguments)
    assert status == 0 and "61 tensors, 842,368 parameters, 1,684,736 bytes" in out
    assert os.listdir(tmp_path) == ["tiny"]
    truncate(tiny / "model.safetensors")
    assert convert_weight(*arguments)[0] == 2


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_config(directory, **changes) -> None:
    config = json.loads((directory / CONFIG_NAME).read_text())
    (directory / CONFIG_NAME).write_text(json.dumps(config | changes))


def another_model(directory) -> None:
    save_file({"model.embed_tokens.weight": torch.ones(4, 2)}, directory / "model.safetensors")


MISTAKES = {
    "truncated": (lambda d: truncate(d / "model.safetensors"), "model.safetensors: cut short"),
    "weights of another architecture": (another_model, "extra: model.embed_tokens.weight [4, 2]"),
    "configuration of another architecture": (lambda d: change_config(d, model_type="llama"), "model_type='llama'"),
    "configuration of another size": (lambda d: change_config(d, vocab_size=641), "lm_head.weight is [640, 128]"),
    "no configuration": (lambda d: (d / CONFIG_NAME).unlink(), "config.json: no such file"),
    "broken configuration": (lambda d: (d / CONFIG_NAME).write_text("{\n,"), "config.json: line 2: not JSON"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
}


@pytest.mark.parametrize("spoil, message", MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_input_is_refused_and_the_output_stays(tiny, convert_weight, tmp_path, spoil, message):
    old = tmp_path / "x.ckpt"
    old.write_text("old")
    spoil(tiny)
    status, out, err = convert_weight("--input_path", tiny, "--output_path", old)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err
    assert old.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["tiny", "x.ckpt"]


@pytest.mark.parametrize("target, message", [
    ("x.bin", "unknown ending '.bin'"),
    ("absent/x.ckpt", "absent: no such directory"),
    ("tiny/model.safetensors", "is the input"),
    ("tiny/", "is the input"),
    ("link/", "is the input"),
    ("./", "is the input"),
    ("full/", "exists and is not a converted checkpoint (it holds diary.doc)"),
    ("scripts/", "exists and is not a converted checkpoint (it holds no weights)"),
    ("file/", "is a file"),
])  # fmt: skip
def test_a_wrong_output_is_refused(tiny, convert_weight, tmp_path, target, message):
    (tmp_path / "link").symlink_to(tiny)
    for name in ("full", "scripts"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/diary.doc").write_text("dear")
    (tmp_path / "scripts/run.py").write_text("pass")
    (tmp_path / "file").write_text("x")
    status, _, err = convert_weight("--input_path", tiny, "--output_path", f"{tmp_path}/{target}")
    assert status == 2 and message in err
    assert (tmp_path / "full/diary.doc").exists() and (tmp_path / "scripts/run.py").exists()
    assert len(content(tiny)) == 61


@pytest.mark.parametrize("output", [
    "snapshots/0123/", "snapshots/0123/model.safetensors", "snapshots/", "blobs/", "./", "link/", "way.safetensors",
    "snapshots/0123/pytorch_model.bin/../model.safetensors",
])  # fmt: skip
def test_a_hub_cache_is_not_replaced_by_its_own_conversion(snapshot, convert_weight, output):
    cache = snapshot.parents[1]
    (cache / "link").symlink_to("snapshots/0123")
    (cache / "way.safetensors").symlink_to("snapshots/0123/model.safetensors")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for source in (snapshot, cache / "link", cache / "way.safetensors"):
        arguments = ("--input_path", source, "--output_path", f"{cache}/{output}", "--config", snapshot)
        status, _, err = convert_weight(*arguments)
        assert status == 2 and ("is the input" in err or output.startswith("blobs") or "exists and is not" in err), err
    assert before == {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert (snapshot / "model.safetensors").is_symlink()


def test_a_hub_cache_is_read(snapshot, convert_weight, tmp_path):
    assert convert_weight("--input_path", snapshot, "--output_path", f"{tmp_path}/out/")[0] == 0
    assert content(tmp_path / "out") == content(snapshot)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_an_output_that_would_be_read_in_place_of_the_input_is_refused(tiny, convert_weight):
    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    status, _, err = convert_weight("--input_path", tiny, "--output_path", tiny / "model.safetensors")
    assert status == 2 and "would be read in place of the input's weights" in err


def test_an_output_of_links_in_a_circle_is_refused(tiny, convert_weight, tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for output in (tmp_path / "circle", tmp_path / "circle/x.ckpt", "a\0b/"):
        status, _, err = convert_weight("--input_path", tiny, "--output_path", output)
        assert status == 2 and err.startswith("error: ") and "Traceback" not in err


def test_a_wrong_direction_or_model_is_refused(tiny, convert_weight, tmp_path):
    save_as(tiny, torch.float32)
    ckpt, elsewhere = tmp_path / "x.ckpt", tmp_path / "y.safetensors"
    convert_weight("--input_path", tiny, "--output_path", ckpt)
    for arguments, message in {
        ("--input_path", ckpt, "--config", tiny): "already is a MindSpore checkpoint; add --reverse",
        ("--input_path", tiny, "--reverse"): "already is a Hugging Face checkpoint; leave out --reverse",
        ("--input_path", ckpt, "--reverse"): "give its config.json with --config",
        ("--input_path", ckpt, "--reverse", "--config", tmp_path / "none"): "none: no such file",
    }.items():
        status, _, err = convert_weight(*arguments, "--output_path", elsewhere)
        assert status == 2 and message in err
    status, _, err = convert_weight("--input_path", ckpt, "--output_path", tmp_path / "y.ckpt", "--reverse")
    assert status == 2 and "Hugging Face knows no .ckpt" in err
    status, _, err = convert_weight("--input_path", tiny, "--output_path", elsewhere, model="qwenwl")
    assert status == 2 and "unknown model 'qwenwl'; known: " in err and "qwenvl" in err
    assert not elsewhere.exists()


@pytest.mark.parametrize("output", ["x.ckpt", "x.safetensors", "x/"])
def test_a_converted_checkpoint_is_replaced(tiny, convert_weight, tmp_path, output):
    for dtype, itemsize in (("fp32", 4), ("fp16", 2)):
        assert convert_weight("--input_path", tiny, "--output_path", f"{tmp_path}/{output}", "--dtype", dtype)[0] == 0
        assert sum(map(len, content(tmp_path / output).values())) == 842_368 * itemsize


def run_script(script: str, source, output, *options) -> subprocess.CompletedProcess:
    """Run Python code that calls the command, in a process of its own."""
    command = [sys.executable, "-c", script, "--model", "qwenvl", "--input_path", source, "--output_path", output]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from convert.convert_weight import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("output", ["x.ckpt", "x/"])
def test_a_write_that_fails_half_way_leaves_nothing(tiny, tmp_path, output):
    failed = run_script(FULL_DISK, tiny, f"{tmp_path}/{output}")
    assert failed.returncode == 2
    assert "File too large; nothing was written" in failed.stderr and "Traceback" not in failed.stderr
    assert os.listdir(tmp_path) == ["tiny"]


INTERRUPTED = """
import os, signal, sys
from convert import convert_weight
class Bar(convert_weight.tqdm):
    def update(self, nbytes):
        super().update(nbytes)
        os.kill(os.getpid(), signal.SIGINT)
convert_weight.tqdm = Bar
sys.exit(convert_weight.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("output", ["x.ckpt", "x/"])
def test_ctrl_c_leaves_nothing(tiny, tmp_path, output):
    interrupted = run_script(INTERRUPTED, tiny, f"{tmp_path}/{output}")
    assert interrupted.returncode == 130
    assert "interrupted: nothing was written" in interrupted.stderr and "Traceback" not in interrupted.stderr
    assert os.listdir(tmp_path) == ["tiny"]


def test_the_command_runs_as_a_file_without_any_framework(tiny, tmp_path):
    arguments = ["--input_path", tiny, "--output_path", tmp_path / "x.ckpt"]
    isolated = [COMMAND[0], "-X", "importtime", *COMMAND[1:], *arguments]
    finished = subprocess.run(isolated, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines() if "import time:" in line}
    assert {"numpy", "ms_impl.io.rules"} <= imported
    assert not imported & {"mindspore", "mindformers", "torch", "transformers", "google.protobuf"}


def test_the_command_starts_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND[:2], "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0  # of processor time, for the machine may be busy


PEAK = """
import resource, sys
from convert.convert_weight import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""  # in KiB


def test_memory_does_not_grow_with_the_checkpoint(tiny, tmp_path):
    shapes = {name: [*tensor.shape] for name, tensor in load_file(tiny / "model.safetensors").items()}
    peaks = []
    for vocab_size in (1000, 400_000):
        change_config(tiny, vocab_size=vocab_size)
        for name in ("lm_head.weight", "transformer.wte.weight"):
            shapes[name][0] = vocab_size
        write_hollow(tiny / "model.safetensors", shapes)
        finished = run_script(PEAK, tiny, tmp_path / "x.ckpt", "--dtype", "fp16")
        peaks.append(int(finished.stdout.splitlines()[-1]))
    assert (tmp_path / "x.ckpt").stat().st_size > 200_000_000
    assert peaks[1] - peaks[0] < 100 << 10


def write_hollow(path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of fp32 zeros that takes no room on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)

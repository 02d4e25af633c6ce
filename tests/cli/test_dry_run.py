"""``run_mindformer.py --dry_run``: what a YAML's run would take, with no weights, no data and no device."""

import re
from pathlib import Path

import pytest

from ms_impl.cli.arguments import judged
from ms_impl.errors import InputError

ROOT = Path(__file__).parents[2]
YAMLS = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/*/*.yaml"))
CUT = "configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml"
LORA = "configs/qwenvl/finetune_qwenvl_9.6b_lora.yaml"


@pytest.fixture
def dry_run(capsys, monkeypatch):
    """What a dry run says, by the first word of its lines."""
    monkeypatch.chdir(ROOT)

    def run(config, *arguments) -> dict[str, str]:
        assert judged(["--config", str(config), "--dry_run", *map(str, arguments)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in lines if not line.startswith(" ")}

    return run


@pytest.mark.parametrize("config", [path for path in YAMLS if str(path) != CUT], ids=str)
def test_every_yaml_of_the_repository(dry_run, config):
    said = dry_run(config)
    assert "parameters" in said and "no Ascend device was at hand" in said["unproven"]
    assert said["run_mode"] not in ("train", "finetune") or "memory" in said or "load_checkpoint" in said["parameters"]


@pytest.mark.parametrize("ranks", [8, 16])
def test_the_step_grows_with_the_ranks_and_the_adapter_does_not(dry_run, ranks):
    said, alone = dry_run(LORA, "--ranks", ranks), dry_run(LORA)
    assert said["ranks"].startswith(f"{ranks}: data {ranks} × model 1 × pipeline 1")
    assert said["step"] == f"{8 * ranks} rows of 2,048: {8 * ranks * 2048:,} tokens"
    assert said["parameters"] == alone["parameters"] == "9,769,132,800, of which 112,197,632 (1.15%) are trained"
    assert said["checkpoint"] == alone["checkpoint"]


def test_a_cut_graph_is_shown_to_mindspore(dry_run):
    said = dry_run(CUT, "--ranks", 16, "--parallel_config.model_parallel", 4)
    assert said["ranks"].startswith("16: data 4 × model 4 × pipeline 1, ZeRO-3")
    if said["graph"].startswith("not tried"):
        pytest.skip(said["graph"])
    assert re.search(r"cut by MindSpore's passes .*: \d+ AllGather, \d+ AllReduce", said["graph"])


@pytest.mark.parametrize("config, arguments, message", [
    (CUT, ["--ranks", "5"], "parallel_config: data_parallel 5 × model_parallel 1 × pipeline_stage 1 makes 5 ranks; an"),
    (CUT, ["--ranks", "8", "--parallel_config.model_parallel", "3"], "--ranks: 8 is not a multiple of 3"),
    (LORA, ["--runner_config.batch_size", "64"], "a device needs .* GB, and an Ascend 910B has .* GB for it"),
])  # fmt: skip
def test_what_cannot_be_is_said(dry_run, config, arguments, message):
    with pytest.raises(InputError, match=message):
        dry_run(config, *arguments)


def test_ranks_are_those_of_a_dry_run():
    with pytest.raises(InputError, match="--ranks: belongs to --dry_run"):
        judged(["--config", LORA, "--ranks", "8"])

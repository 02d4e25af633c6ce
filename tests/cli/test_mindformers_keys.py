"""The declared keys of MindFormers' sections against the classes and functions of MindFormers 1.9.0 that read them."""

import inspect

import pytest

from ms_impl import families
from ms_impl.cli import mindformers_keys as declared
from ms_impl.cli.keys import settings_schema
from ms_impl.cli.relations import _schedule

SETTINGS = settings_schema(families.get("qwenvl"))
# Made by the run, not by a YAML.
_OBJECTS = {"params", "parameters", "cls", "network", "optimizer", "self", "kwargs", "config", "accumulation", "_"}
# What the base trainer reads of a schedule beside its class's arguments (trainer/base_trainer.py:689).
_OF_TRAINER = {"warmup_epochs", "total_steps"}


@pytest.fixture(scope="module")
def registry():
    from ms_impl.plugin.run import register_all

    register_all()
    from mindformers.tools.register import MindFormerRegister

    return MindFormerRegister.registry


def arguments(cls: type) -> set[str]:
    """The names that a class takes, also where MindSpore's decorators hide them, and those of the class below."""
    function = cls.__new__ if "__new__" in vars(cls) else cls.__init__
    while inspect.isfunction(function) and set(inspect.signature(function).parameters) == {"self", "args", "kwargs"}:
        inner = [cell.cell_contents for cell in function.__closure__ or () if inspect.isfunction(cell.cell_contents)]
        function = next(f for f in inner if f.__name__ == "__init__")
    parameters = inspect.signature(function).parameters
    names = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL}
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    below = next(base for base in cls.__mro__[1:] if vars(base).keys() & {"__init__", "__new__"})
    return names | (arguments(below) if takes_more and below.__init__ is not object.__init__ else set())


@pytest.mark.parametrize("name", sorted(declared.OPTIMIZERS))
def test_optimizers_take_just_these(registry, name):
    taken = arguments(registry["optimizer"][name]) - _OBJECTS
    read = {"use_fused"} if name == "AdamW" else set()  # by core/optim/build_optim.py
    assert set(declared.OPTIMIZERS[name]) == taken | read


@pytest.mark.parametrize("name", sorted(declared.LR_SCHEDULES))
def test_schedules_take_just_these(registry, name):
    taken = arguments(registry["lr"][name]) - _OBJECTS - {"auto_prefix", "flags"}
    assert set(declared.LR_SCHEDULES[name]) | _OF_TRAINER == taken | _OF_TRAINER


@pytest.mark.parametrize("name", sorted(declared.LR_SCHEDULES))
def test_a_schedule_that_passes_the_check_can_be_made(registry, name):
    from mindformers.core.lr import build_lr

    values = {"learning_rate": 1e-3, "base_lr": 1e-3, "t_max": 5, "t_0": 5, "warmup_steps": 1, "decay_start_steps": 5}
    schedule = {"type": name} | {key: value for key, value in values.items() if key in declared.LR_SCHEDULES[name]}
    assert list(_schedule("lr_schedule", schedule)) == []
    build_lr(schedule | {"total_steps": 10})


@pytest.mark.parametrize("name", sorted(declared.LOSS_SCALES))
def test_loss_scales_take_just_these(registry, name):
    assert set(declared.LOSS_SCALES[name]) == arguments(registry["wrapper"][name]) - _OBJECTS


@pytest.mark.parametrize("name", sorted(declared.WRAPPERS))
def test_step_cells_take_just_these(registry, name):
    assert set(declared.WRAPPERS[name]) == arguments(registry["wrapper"][name]) - _OBJECTS - {"scale_sense"} | {
        "scale_sense"
    }


@pytest.mark.parametrize("name", sorted(declared.CALLBACKS))
def test_callbacks_take_at_least_these(registry, name):
    assert set(declared.CALLBACKS[name]) <= arguments(registry["callback"][name])


@pytest.mark.parametrize("section", ["parallel_config", "recompute_config", "runner_config"])
def test_sections_have_the_keys_of_mindformers_template(section):
    from mindformers.tools.register.template import CONFIG_NAME_TO_CLASS

    assert {key for key, _ in SETTINGS.content[section].keys()} == set(CONFIG_NAME_TO_CLASS[section].keys())


def test_the_top_level_has_the_keys_and_sections_of_mindformers_template():
    from mindformers.tools.register.template import CONFIG_NAME_TO_CLASS, GeneralConfig

    sections = set(CONFIG_NAME_TO_CLASS) - {"general_config"}
    assert set(GeneralConfig.keys()) | sections <= set(SETTINGS.content)


def test_context_keys_are_those_that_are_handed_on():
    from mindformers.core.config_args import MFContextConfig
    from mindformers.core.context.build_context import _MSContextApplier

    handed_on = {key for _, keys, _ in _MSContextApplier._migrate for key in keys}
    read = handed_on | {"jit_level", "infer_boost"} | set(MFContextConfig.get_supported_kwargs())
    ours = {key for key, kind in declared.CONTEXT.keys() if not isinstance(kind, declared.Idle)}
    assert ours - {"enable_compile_cache", "compile_cache_path"} <= read  # these two we warn of ourselves
    assert handed_on <= ours


def test_parallel_keys_are_mindspores():
    from mindspore.parallel import _auto_parallel_context as mindspore

    known = set(mindspore._set_auto_parallel_context_func_map)
    assert {key for key, _ in declared.PARALLEL.keys()} <= known

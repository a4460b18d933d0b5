"""Every value of every preset has a rule, and no nonsense gets past it."""

import ast
import importlib
import math
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks, config_files
from iso3d_jax.commands.config_presets import parse
from iso3d_jax.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PRESETS = [
    "autoencoder.py", "compare.py:furniture", "compare.py:tiny", "decoder.py", "image_tower.py",
    "reconstruct.py:fast", "reconstruct.py:isotropic3d", "reconstruct.py:tiny",
    "reconstruct.py:tiny,steps=1", "reconstruct.py:tiny,steps=2",
    "reconstruct.py:views", "stage1.py:full",
    "stage1.py:furniture", "stage1.py:tiny", "stage2.py:full", "stage2.py:furniture",
    "stage2.py:tiny", "stage2.py:tiny,ablation=ccr", "stage2.py:full,ablation=no_stage1",
]  # fmt: skip
ADD = "add a line for it to RULES in iso3d_jax/commands/config_checks.py"
WRONG = "no such thing"


def load(spec):
    return config_files.load_config(f"configs/{spec}")


@pytest.fixture(scope="module")
def configs():
    return {spec: load(spec) for spec in PRESETS}


def test_every_config_file_is_walked():
    files = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {spec.partition(":")[0] for spec in PRESETS} == files
    for file in files:
        presets = importlib.import_module(f"iso3d_jax.presets.{file[:-3]}")
        for preset in getattr(presets, "PRESETS", ("full", "tiny", "furniture")):
            assert any(
                spec.startswith(file) and (preset in spec or ":" not in spec) for spec in PRESETS
            ), f"{file}:{preset} is not among PRESETS of this test"


@pytest.mark.parametrize("spec", PRESETS)
def test_every_value_has_a_rule_and_keeps_it(configs, spec):
    for path, value in config_checks.leaves(configs[spec]):
        assert config_checks.rule_for(path), f"{path} = {value!r} of {spec} has no rule: {ADD}"
    config_checks.check(configs[spec])


def nonsense(value):
    """What no value like this one may be: of the right type, so that only a rule can refuse it."""
    if value is None:
        return [WRONG, -1, math.nan]
    if isinstance(value, bool):
        return [2, "yes", None]
    if isinstance(value, int):
        return [-1, 2**31, 10**30, math.nan, 1.5, "3", None, True]
    if isinstance(value, float):
        return [-1e-3, -math.inf, math.inf, math.nan, 1e30, "1.0", None, (1.0,)]
    if isinstance(value, str):
        return [WRONG, 3, None]
    return [
        ("x",), (-1.0,) * max(len(value), 1), (math.nan,) * max(len(value), 1),
        (math.inf,) * max(len(value), 1), ((1, 2, 3, 4, 5),), (10**30,) * max(len(value), 1), 3.5,
    ]  # fmt: skip


# What is meant to be accepted although it looks like nonsense, and why.
ACCEPTED = {
    (
        r"preset|data|data_encoded|data_pictures|init|init_from|init\.\w+|model\.name",
        WRONG,
    ): "paths and names",
    (r"(reference|draft)\.elevation_deg", -1e-3): "a camera may look up",
    (r"camera\.elevation_deg", (-1.0, -1.0)): "a camera may look up",
    (r"model\.(guidance_scale|eta|temperature|steps|spacing)", None): "the base's own",
    (r"loss\.\w+|guidance\.(low|high)", 3.5): "a constant in a ramp's place; a share below 1 alone",
}


def accepted(path, value):
    path = config_checks._SECTION.sub("", path)
    return any(re.fullmatch(p, path) and value == v for p, v in ACCEPTED)


@pytest.mark.parametrize("spec", PRESETS)
def test_nonsense_is_refused_in_one_sentence(configs, spec):
    for path, value in config_checks.leaves(configs[spec]):
        rule = config_checks.rule_for(path)
        for wrong in nonsense(value):
            if accepted(path, wrong):
                continue
            assert not rule.accepts(wrong), f"{path} of {spec} may be {wrong!r}?"
            sentence = config_checks.refusal(f"--config.{path}", rule, wrong)
            assert sentence.startswith(f"--config.{path} must be ") and "\n" not in sentence
            assert f"not {wrong!r}: " in sentence


ZERO_IS_REFUSED = (
    "steps batch_size learning_rate log_every checkpoint_every keep mesh.fsdp accumulate grad_clip "
    "num_views lora_rank min_snr_gamma max_skips model.scale_factor model.unet.model_channels"
).split()
ZERO_MEANS_SOMETHING = (
    "seed warmup_steps weight_decay sample_every ablate_every spike_factor ema_decay noise_offset "
    "single_view_share reference_dropout model.eta final_learning_rate"
).split()


def changed(cfg, path, value):
    cfg = ConfigDict(cfg.to_dict())
    *sections, key = path.split(".")
    section = cfg
    for name in sections:
        section = section[name]
    with cfg.ignore_type():
        section[key] = value
    return cfg


def test_zero_is_refused_where_it_cannot_be_meant(configs):
    cfg = configs["stage2.py:tiny"]
    for path in ZERO_IS_REFUSED:
        with pytest.raises(UserError, match=f"--config.{path} must be .* not 0(.0)?: "):
            config_checks.check(changed(cfg, path, 0))
    for path in ZERO_MEANS_SOMETHING:
        config_checks.check(changed(cfg, path, 0))
    scene = configs["reconstruct.py:tiny"]
    for path in ("save_every", "preview_every", "shading.probability", "render.chunk"):
        config_checks.check(changed(scene, path, 0))
    for path in ("steps", "steps_per_call", "occupancy.every", "render.samples", "video.seconds"):
        with pytest.raises(UserError, match=f"--config.{path} must be "):
            config_checks.check(changed(scene, path, 0))


@pytest.mark.parametrize(
    "spec, path, value, words",
    [
        ("stage1.py:tiny", "optimizer", "adafacto", "did you mean 'adafactor'"),
        ("stage1.py:tiny", "task", "denoise", "did you mean 'denoiser'"),
        ("stage1.py:tiny", "sample_every", -1, r"at least 0 \(0: never\), not -1: give"),
        ("stage1.py:tiny", "spike_factor", 0.5, "a number above 1"),
        ("stage1.py:tiny", "ema_decay", 1.0, "of at least 0 and below 1"),
        ("reconstruct.py:tiny", "loss.opaque", (5, 0.0, 1.0, 5), "the first iteration before"),
        ("reconstruct.py:tiny", "guidance.low", 1.5, "a number of at least 0 and at most 1"),
        ("reconstruct.py:tiny", "camera.fov_deg", (60.0, 20.0), "the first not above the second"),
        ("reconstruct.py:tiny", "draft.white", (0.2, 0.2), "the first below the second"),
        ("reconstruct.py:tiny", "phases", ((50, 32, 1), (20, 32, 1)), "the iterations in order"),
        ("reconstruct.py:tiny", "phases", ((200, 0, 1),), "render resolution from 1"),
        ("compare.py:tiny", "stage2.ccr.remat", "block", "did you mean 'blocks'"),
        ("compare.py:tiny", "reconstruct.loss.guidance", math.nan, "not nan"),
    ],
)
def test_the_sentence_names_key_and_remedy(configs, spec, path, value, words):
    with pytest.raises(UserError, match=f"^--config.{path} must be .*{words}"):
        config_checks.check(changed(configs[spec], path, value))


def test_a_key_of_ones_own_is_taken_as_it_is():
    config_checks.check(ConfigDict(dict(width=-3, model=dict(rate=math.nan))))


def test_the_words_are_those_that_the_code_knows():
    from iso3d_jax.data import pictures
    from iso3d_jax.diffusion import ddim, schedule
    from iso3d_jax.geometry import cameras
    from iso3d_jax.models import unet
    from iso3d_jax.training.tasks import denoiser
    from iso3d_jax.weights import facts

    known = {
        "model.picture": pictures.MODES,
        "model.spacing": ddim.SPACINGS,
        "model.parameterization": schedule.PARAMETERIZATIONS,
        "model.camera_encoding": facts.TRAINED_WITH,
        "model.sampling_camera_encoding": cameras.ENCODINGS,
        "remat": unet.REMAT,
        "dtype": tuple(denoiser.DTYPES),
    }
    for path, names in known.items():
        assert set(config_checks.rule_for(path).names) - {""} == set(names) - {""}, f"{path}: {ADD}"


def test_commands_check_before_jax_is_imported(refused):
    program = (
        "import sys; from iso3d_jax.commands import command_line, config_files;"
        "command_line.define_config_flag('configs/stage1.py:tiny');"
        "sys.argv.append('--config.lora_rank=0');"
        "import atexit; atexit.register(lambda: print('jax' in sys.modules, file=sys.stderr));"
        "command_line.run(lambda argv: command_line.get_config())"
    )
    message = refused("-c", program)
    assert "--config.lora_rank must be a whole number of at least 1, not 0" in message


def test_presets_scale_down_to_one_iteration():
    for preset in ("isotropic3d", "fast", "tiny"):
        config_checks.check(load(f"reconstruct.py:{preset},steps=1"))
    assert parse("steps=1", ("x",), steps=0)[1].steps == 1


# Flags.


def numeric_flags():
    """(file, flag's name, call) of every DEFINE_integer and DEFINE_float of the package."""
    for path in sorted((ROOT / "iso3d_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "attr", "")
            if name in ("DEFINE_integer", "DEFINE_float"):
                yield path.relative_to(ROOT), node.args[0].value, node


@pytest.mark.parametrize(
    "file, name, call",
    [pytest.param(*one, id=f"{one[0].stem}-{one[1]}") for one in numeric_flags()],
)
def test_numeric_flags_have_both_bounds(file, name, call):
    given = {keyword.arg for keyword in call.keywords}
    positional = len(call.args)  # name, default, help, lower, upper
    assert positional >= 4 or "lower_bound" in given, f"--{name} in {file} has no lower bound"
    assert positional >= 5 or "upper_bound" in given, f"--{name} in {file} has no upper bound"


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--steps=0", "range [1, 999]"),
        ("--guidance_scale=nan", "--guidance_scale must be a finite number, not nan"),
        ("--eta=nan", "--eta must be a finite number"),
        ("--temperature=-1", "range [0, 10]"),
        ("--cell=-1", "range [0, 4096]"),
        ("--num_views=65", "range [1, 64]"),
        ("--batch_size=0", "range [1, 4096]"),
        ("--seed=-1", "range [0, 2147483647]"),
    ],
)
def test_flags_of_sample_are_bounded(refused, argument, words):
    assert words in refused("-m", "iso3d_jax.sample", "--image=x.png", "--out=y.png", argument)

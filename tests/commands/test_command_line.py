"""Flags, configs and errors: every mistake is one sentence and status 2."""

import os
import sys
import textwrap
from pathlib import Path

import pytest

from iso3d_jax.commands import command_line, config_presets
from iso3d_jax.core.errors import UserError

COMMAND = '''
"""Does a thing.

    python -m thing --name x
"""
import os
from absl import flags
from iso3d_jax.commands import command_line, config_files
from iso3d_jax.core.errors import UserError

_NAME = flags.DEFINE_string("name", None, "what it is called", required=True)
_NUM_VIEWS = flags.DEFINE_integer("num_views", 4, "how many views")
_FAST = flags.DEFINE_bool("fast", False, "be quick about it")
command_line.define_config_flag("CONFIG:tiny")

def main(argv):
    config = command_line.get_config()
    if _NAME.value == "bad":
        raise UserError("the name is bad")
    if _NAME.value == "bug":
        raise RuntimeError("a bug")
    if _NAME.value == "interrupt":
        raise KeyboardInterrupt
    if _NAME.value == "disk":
        raise OSError(28, "No space left on device", "big.bin")
    if _NAME.value == "memory":
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    print(_NAME.value, _NUM_VIEWS.value, _FAST.value, end=" ")
    print(config.width, config.model.rate, config.model.sizes)

if __name__ == "__main__":
    command_line.run(main)
'''

CONFIG = """
from ml_collections import ConfigDict, config_dict
from iso3d_jax.commands import config_presets

def get_config(arg=None):
    preset, options = config_presets.parse(arg, ("full", "tiny"), res=256)
    config = ConfigDict()
    config.width = 64 if preset == "tiny" else 320
    config.res = options.res
    config.path = config_dict.placeholder(str)
    config.model = ConfigDict(dict(rate=1e-3, name="unet", sizes=(1, 2)))
    return config
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "config.py").write_text(CONFIG)
    (folder / "thing.py").write_text(COMMAND.replace("CONFIG", str(folder / "config.py")))
    return folder / "thing.py"


@pytest.fixture(scope="module")
def config(command):
    return command.with_name("config.py")


def output(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_defaults_flags_and_overrides(run_python, command, config):
    assert output(run_python(command, "--name=x")) == "x 4 False 64 0.001 (1, 2)"
    process = run_python(
        command, "--config.width=7", "--name", "y", "--config.model.rate", "0.5", "--fast",
        f"--config={config}", "--num_views=2", "--config.model.sizes=(3,)",
    )  # fmt: skip
    assert output(process) == "y 2 True 7 0.5 (3,)"


def test_preset_with_options(run_python, command, config):
    assert output(run_python(command, "--name=x", f"--config={config}")).split()[3] == "320"
    tiny = run_python(command, "--name=x", "--config", f"{config}:tiny,res=64")
    assert output(tiny).split()[3] == "64"


def test_help_is_short(run_python, command):
    text = output(run_python(command, "--help", timeout=60))
    assert text.startswith("Does a thing.") and "python -m thing --name x" in text
    assert "--name NAME  what it is called (required)" in text
    assert "--num_views NUM_VIEWS  how many views (default: 4)" in text
    assert "--config FILE.py:PRESET" in text and "absl" not in text and "--v " not in text


def test_help_does_not_wait_for_jax(run_python, command):
    process = run_python("-X", "importtime", command, "--help")
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert output(process) and "absl.flags" in imported
    assert not imported & {"jax", "flax", "numpy", "torch"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--name is required"]),
        (["--name=x", "--num_view=3"], ["--num_view", "did you mean 'num_views'"]),
        (["--name=x", "--confg=3"], ["--confg", "did you mean 'config'"]),
        (["--name=x", "--num_views=many"], ["--num_views=many"]),
        (["--name=x", "--rate=3"], ["--rate", "did you mean 'config.model.rate'"]),
        (["--name=x", "--seed=3"], ["unknown config key 'seed'"]),
        (["--name=x", "--config.widht=3"], ["'widht'", "did you mean 'width'"]),
        (["--name=x", "--config.model.rat=3"], ["--config.model.rat", "did you mean 'rate'"]),
        (["--name=x", "--config.mdl.rate=3"], ["'mdl'", "did you mean 'model'"]),
        (["--name=x", "--config.width.a=3"], ["config.width is a single value"]),
        (["--name=x", "--config.width=wide"], ["--config.width=wide"]),
        (["--name=x", "--config.width"], ["--config.width"]),
        (["--name=x", "--config"], ["--config needs a value"]),
        (["--name=x", "picture.png"], ["unexpected argument 'picture.png'"]),
        (["--name=bad"], ["the name is bad"]),
        (["--name=disk"], ["no space left on the disk", "big.bin"]),
        (["--name=memory"], ["out of memory"]),
    ],
)
def test_mistakes_are_one_sentence(refused, command, arguments, words):
    message = refused(command, *arguments)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "spec, words",
    [
        ("{folder}/confg.py", ["config file not found", "did you mean 'config.py'"]),
        ("{folder}/config.py:tyni", ["unknown preset 'tyni'", "did you mean 'tiny'", "full, tiny"]),
        ("{folder}/config.py:tiny,ress=3", ["unknown preset option 'ress'", "'res'"]),
        ("{folder}/config.py:tiny,res=big", ["'res' is a whole number"]),
        ("{folder}/broken.py", ["broken.py", "NameError", "(line 2)"]),
        ("{folder}/syntax.py", ["SyntaxError"]),
        ("{folder}/empty.py", ["no function get_config"]),
        ("{folder}/notes.txt", ["must end in .py"]),
    ],
)
def test_bad_configs_are_one_sentence(refused, command, spec, words):
    folder = command.parent
    (folder / "broken.py").write_text("def get_config():\n    return undefined\n")
    (folder / "syntax.py").write_text("def get_config(:\n")
    (folder / "empty.py").write_text("")
    (folder / "notes.txt").write_text("")
    message = refused(command, "--name=x", "--config", spec.format(folder=folder))
    assert all(word in message for word in words), message


def test_no_config_at_all(refused, command):
    bare = command.with_name("bare.py")
    text = command.read_text()
    start = text.index("define_config_flag(")
    end = text.index(")", start)
    bare.write_text(text[:start] + "define_config_flag(" + text[end:])
    assert "no config was given" in refused(bare, "--name=x")


def test_bugs_keep_their_traceback(run_python, command):
    process = run_python(command, "--name=bug")
    assert process.returncode == 1 and "Traceback" in process.stderr


def test_debug_shows_the_traceback_of_mistakes_too(run_python, command):
    process = run_python(command, "--name=bad", ISO3D_DEBUG="1")
    assert process.returncode == 2 and "Traceback" in process.stderr


def test_interrupt_is_130(run_python, command):
    process = run_python(command, "--name=interrupt")
    assert process.returncode == 130 and "Traceback" not in process.stderr


def test_compilation_cache_is_in_the_users_cache_folder(run_python, tmp_path):
    program = textwrap.dedent("""
        from iso3d_jax.commands import command_line, config_files
        command_line.use_compilation_cache()
        import jax
        jax.jit(lambda x: jax.numpy.linalg.svd(x @ x)[0])(jax.numpy.ones((9, 9)))
        print(jax.config.jax_compilation_cache_dir)
    """)
    path = output(
        run_python(
            "-c", program, XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=None,
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )
    )  # fmt: skip
    assert Path(path).parent == tmp_path / "iso3d_jax" / "xla"
    assert any(Path(path).iterdir())
    other = run_python("-c", program, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other"))
    assert output(other) == str(tmp_path / "other")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores")
def test_programs_compiled_for_fewer_cores_are_not_taken(run_python, tmp_path):
    """They have other parts, which are slow on more cores and round elsewhere."""
    program = textwrap.dedent("""
        import os, sys
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[1])])
        from iso3d_jax.commands import command_line
        command_line.use_compilation_cache()
        import jax, jax.numpy as jnp
        from jax import monitoring
        hits = []
        monitoring.register_event_listener(lambda event, **_: hits.append(event))
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((300, 300))))
        print(sum(event == "/jax/compilation_cache/cache_hits" for event in hits) > 0)
    """)

    def taken(cores, **more):
        process = run_python(
            "-c", program, str(cores), XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=None,
            **{"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "NPROC": None} | more,
        )  # fmt: skip
        return output(process) == "True"

    assert [taken(1), taken(1)] == [False, True]
    if len(os.sched_getaffinity(0)) > 1:
        assert [taken(2), taken(2), taken(1)] == [False, True, True]
    assert not taken(1, NPROC="4")  # which XLA goes by too


# Presets without a command.


def test_garbage_is_looked_for_seldom(run_python):
    """Python's own 700 made tracing a third slower."""
    program = (
        "import gc\nfrom iso3d_jax.commands import command_line\n"
        "command_line.run(lambda _: print(gc.get_threshold()), ['x'])"
    )
    assert run_python("-c", program).stdout.split() == ["(50000,", "20,", "20)"]


def test_parse_preset():
    presets = ("full", "tiny")
    assert config_presets.parse(None, presets)[0] == "full"
    assert config_presets.parse("", presets)[0] == "full"
    preset, options = config_presets.parse("tiny,res=8,fast,name=x", presets, res=1, fast=False,
                                           name=None, rate=0.5)  # fmt: skip
    assert preset == "tiny"
    assert options.to_dict() == dict(res=8, fast=True, name="x", rate=0.5)
    assert config_presets.parse("res=3", presets, res=1)[1].res == 3
    assert config_presets.parse("fast=no", presets, fast=True)[1].fast is False


def test_nearest_names_all_where_none_is_near():
    assert config_presets.nearest("xyz", ["full", "tiny"]) == "known are: full, tiny"
    with pytest.raises(UserError, match="true or false"):
        config_presets.parse("fast=maybe", ("full",), fast=True)


def test_home_folders_in_flags_and_configs(run_python, tmp_path):
    program = (
        "from iso3d_jax.commands import command_line;"
        "from absl import flags;"
        "flags.DEFINE_string('out', None, 'x'); flags.DEFINE_list('many', None, 'x');"
        "flags.DEFINE_multi_string('image', None, 'x');"
        "command_line.define_config_flag('stage1:tiny');"
        "main = lambda argv: print(flags.FLAGS.out, flags.FLAGS.many, flags.FLAGS.image,"
        " command_line.get_config().data, command_line.get_config().init.vae,"
        " command_line.get_config().seed);"
        "command_line.run(main, ['x', '--out=~/a', '--many=~/b,c', '--image=~/d', '--image=e~f',"
        " '--config.data=samples,~/g', '--config.init.vae=~/h', '--seed', '7'])"
    )
    printed = output(run_python("-c", program, HOME=str(tmp_path)))
    h = str(tmp_path)
    assert printed == f"{h}/a ['{h}/b', 'c'] ['{h}/d', 'e~f'] samples,{h}/g {h}/h 7"


def test_the_command_as_it_was_typed(monkeypatch):
    given = ["/x/iso3d_jax/reconstruct.py", "--image", "my chair.png", "--out=out/a"]
    monkeypatch.setattr(sys, "argv", given)
    assert command_line.as_typed() == "iso3d reconstruct --image 'my chair.png' --out=out/a"
    assert command_line.as_typed("demo", out="o", model="m") == (
        "iso3d demo --model=m --image 'my chair.png' --out=out/a"
    )

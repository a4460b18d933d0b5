"""Fixtures that several folders of tests share."""

import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# No random key is used for two things, here and in the commands that tests start.
os.environ.setdefault("JAX_DEBUG_KEY_REUSE", "1")
# Small programs too are compiled once for all processes.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Above stands what JAX reads when it is imported, which the next import does.
# Shapes and types of annotations are checked at each call in the folders of maths, and in the whole
# package where it is asked for.
from jaxtyping import install_import_hook  # noqa: E402

import tests.typechecker  # noqa: E402, F401 (jaxtyping finds it by name)

MATHS = ("diffusion", "geometry", "guidance", "metrics", "models", "nerf")
whole = os.environ.get("CHECK_TYPES") == "1"
install_import_hook(
    "iso3d_jax" if whole else [f"iso3d_jax.{folder}" for folder in MATHS],
    "tests.typechecker.check",
)

from iso3d_jax.commands import command_line  # noqa: E402
from tests.fork_server import FAST_COMPILING, ForkServer, refusing  # noqa: E402

# JAX reads it with its first computation.
os.environ.setdefault("XLA_FLAGS", FAST_COMPILING["XLA_FLAGS"])

command_line.use_compilation_cache()
gc.set_threshold(*command_line.COLLECT_AFTER)


def pytest_collection_modifyitems(items):
    """What takes minutes in one file begins first, and no process waits for it at the end."""
    first = ("end_to_end", "multidevice", "training", "planning")
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in first)


LARGE = 2 << 30  # bytes


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Compiled programs go with the module that they were made for, where they are many."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > LARGE:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _keys(request):
    """The check of random keys is off where a test draws the same numbers twice on purpose."""
    if request.node.get_closest_marker("same_keys"):
        import jax

        with jax.debug_key_reuse(False):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Runs `python ARGS...` in the repository's folder; returns the finished process.

    Keywords are environment variables; None takes one away. A module with no variables of its own
    is forked from a process that has imported the libraries.
    """
    server = ForkServer(tmp_path_factory.mktemp("commands"))

    def run(*args, timeout=1800, **variables):
        arguments = [str(arg) for arg in args]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | FAST_COMPILING | variables
        environment = {name: value for name, value in environment.items() if value is not None}
        if arguments[0] == "-m" and not variables:
            return server.run(arguments[1:], environment, timeout)
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True,
            text=True, timeout=timeout,
        )  # fmt: skip

    yield run
    server.close()


HOLDER = """
import sys, time
from pathlib import Path
from iso3d_jax.core.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process_in():
    """Starts a process that writes into the given folder, for as long as nobody kills it."""
    with contextlib.ExitStack() as stack:

        def start(folder):
            command = [sys.executable, "-c", HOLDER, str(folder)]
            holder = stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(holder.kill)
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            return holder

        yield start


@pytest.fixture(scope="session")
def refused(run_python):
    return refusing(run_python)


SMALL_MODEL = dict(
    name="random", resolution=64, scale_factor=0.5, parameterization="v",
    camera_encoding="mvdream", picture="centred", guidance_scale=3.0, eta=1.0,
    unet=dict(
        in_channels=8, out_channels=8, model_channels=32, channel_mult=(1, 2),
        attention_resolutions=(2,), num_res_blocks=1, context_dim=24, num_head_channels=16,
        num_groups=8,
    ),
    vae=dict(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=8, embed_dim=8,
             num_groups=4),
    clip=dict(image_size=32, patch_size=8, width=32, layers=1, heads=2, output_dim=24),
)  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model folder of the tiny kind with random weights: real networks, meaningless pictures.

    No layer starts at zero, so nothing hides what feeds it; nothing is compiled to make it.
    """
    import numpy as np

    from iso3d_jax.models.registry import SECTIONS
    from iso3d_jax.weights import bundle
    from iso3d_jax.weights.model_spec import ModelSpec

    config = bundle.make_config(ModelSpec.read(SMALL_MODEL))
    draw = np.random.default_rng(0).standard_normal
    weights = {}
    for name in SECTIONS:
        shapes = bundle.abstract_network(name, config)[1]
        weights[name] = {
            key: np.ones(leaf.shape)
            if key.endswith("scale")
            else draw(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100)
            for key, leaf in sorted(shapes.items())
        }
    folder = tmp_path_factory.mktemp("random_model")
    bundle.save_bundle(folder, config, weights)
    return folder


@pytest.fixture(scope="session")
def random_model(model_folder):
    """The model of `model_folder`, loaded."""
    from iso3d_jax.weights.bundle import load_model

    return load_model(model_folder)

"""notebooks/quickstart.ipynb: run from a copy, what its first cell installs, its outputs."""

import base64
import copy
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import nbclient
import nbformat
import pytest
from PIL import Image

from iso3d_jax.weights.folders import TINY
from tests import smallest_reconstruction
from tests.fork_server import FAST_COMPILING

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
RELEASED = ("convert", "released-views", "released-mesh")  # cells, by their ids


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def dotted(values, before=""):
    """A config as values by dotted keys, as the notebook's CONFIG has them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{before}{key}.")
        else:
            yield before + key, value


def cell(notebook, name):
    (found,) = (cell for cell in notebook.cells if cell.id == name)
    return found


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for output in cell.outputs
        for kind, data in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in a folder of its own, and that folder.

    After its cells those of the released weights run again, with the package's model in their
    place, whose programs are compiled by then.
    """
    folder = tmp_path_factory.mktemp("notebook")
    notebook = read()
    for shown in notebook.cells:
        if shown.cell_type == "code":
            shown.outputs, shown.execution_count = [], None
    (at,) = (k for k, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ()))
    config = dict(dotted(smallest_reconstruction.get_config().to_dict()))
    del config["preset"]
    injected = f"CONFIG = {config!r}\nTEXTURE = 128\nORBIT = True"
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(injected))
    again = [copy.deepcopy(cell(notebook, name)) for name in RELEASED]
    for shown in again:
        shown.id += "-again"
    weights = nbformat.v4.new_code_cell(f"WEIGHTS = {str(TINY)!r}")
    notebook.cells += [weights, *again]
    environment = FAST_COMPILING | {
        "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython"),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }  # fmt: skip
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | environment)
    return notebook, folder


@pytest.mark.long
def test_a_picture_becomes_views_a_mesh_and_a_turntable(executed):
    notebook, folder = executed
    assert "pip install" not in printed(cell(notebook, "install"))
    assert [image.size for image in pictures(cell(notebook, "picture"))] == [(128, 128)]
    (row,) = pictures(cell(notebook, "views"))
    assert row.width > 4.5 * row.height
    assert re.search(
        r"\d vertices, .* faces; beside the scene \d+", printed(cell(notebook, "mesh"))
    )
    run = folder / "out" / "wardrobe_1"
    listed = printed(cell(notebook, "facts"))
    for name in ("mesh.glb", "larger.glb", "index.html", "turntable.mp4"):
        assert (run / name).stat().st_size and name in listed
    (turning,) = pictures(cell(notebook, "turntable"))
    assert turning.format == "PNG" and turning.n_frames > 1
    (page,) = cell(notebook, "orbit").outputs
    assert "srcdoc" in page.data["text/html"] and "model-viewer" in page.data["text/html"]


@pytest.mark.long
def test_the_released_weights_are_for_those_who_ask(executed):
    notebook, folder = executed
    for name in RELEASED:
        assert printed(cell(notebook, name)) == "skipped: WEIGHTS is None\n"
    assert not (folder / "models").exists()
    assert pictures(cell(notebook, "released-views-again"))
    assert pictures(cell(notebook, "released-mesh-again"))[-1].n_frames > 1
    assert (folder / "out" / "wardrobe_1_released" / "mesh.glb").is_file()


def test_a_public_file_is_converted_and_a_folder_used_as_it_is(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command[1:]))
    source = cell(read(), "convert").source
    names = {"Path": Path, "subprocess": subprocess, "sys": sys}
    asked = names | {"WEIGHTS": "owner/name/file.ckpt"}
    exec(source, asked)
    assert asked["released"] == "models/isotropic3d"
    assert calls == [
        ["-m", "iso3d_jax.convert", "--from", "owner/name/file.ckpt", "--out", "models/isotropic3d"]
    ]
    (tmp_path / "model.json").touch()
    kept = names | {"WEIGHTS": str(tmp_path)}
    exec(source, kept)
    assert kept["released"] == str(tmp_path) and len(calls) == 1


@pytest.fixture(scope="module")
def install():
    """What the first cell defines; the package is there, so that it installs nothing."""
    names: dict = {}
    exec(cell(read(), "install").source, names)
    return names


COLAB = {
    "jax": "0.10.1", "jaxlib": "0.10.1", "jax-cuda12-plugin": "0.10.1", "jax-cuda12-pjrt": "0.10.1",
    "numpy": "2.0.2",
}  # fmt: skip
OLD = {name: version.replace("0.10.1", "0.7.2") for name, version in COLAB.items()}


@pytest.mark.parametrize(
    "accelerator, installed, wanted",
    [
        ("cuda12", COLAB, [f"{k}=={v}" for k, v in sorted(COLAB.items())]),
        ("cuda13", COLAB, [f"{k}=={v}" for k, v in sorted(COLAB.items())]),  # a newer driver
        ("cuda12", OLD, ["jax[cuda12]>=0.10"]),
        ("cuda13", OLD, ["jax[cuda12]>=0.10"]),  # its plugin is replaced, not joined by another
        ("cuda13", {"jax": "0.11.0", "jaxlib": "0.11.0"}, ["jax[cuda13]>=0.10"]),
        ("tpu", {"jax": "0.10.2", "libtpu": "0.0.30"}, ["jax==0.10.2", "libtpu==0.0.30"]),
        ("tpu", {"jax": "0.10.2"}, ["jax[tpu]>=0.10"]),
        ("tpu", OLD, ["jax[tpu]>=0.10"]),
        ("", {"jax": "0.10.2", "numpy": "2.1.0"}, ["jax==0.10.2", "numpy==2.1.0"]),
        ("", {"jax": "0.9.0.1"}, ["jax>=0.10"]),
        ("", {}, ["jax>=0.10"]),
        ("cuda12", {}, ["jax[cuda12]>=0.10"]),
    ],
)
def test_a_jax_that_will_do_is_left_as_it_is(install, accelerator, installed, wanted):
    assert install["choose_requirements"](accelerator, installed) == wanted


@pytest.mark.parametrize(
    "said, found",
    [
        ("| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4     |", "cuda12"),
        ("| NVIDIA-SMI 580.82.07   Driver Version: 580.82.07   CUDA Version: 13.0     |", "cuda13"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", ""),
    ],
)
def test_the_drivers_generation_is_found(install, monkeypatch, said, found):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=said)
    )
    assert install["find_accelerator"]() == found


def test_a_tpu_is_told_from_googles_other_devices(install, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(
        install, "Path", lambda path: tmp_path if path == "/sys/bus/pci/devices" else Path(path)
    )
    for name, vendor, device in (("nic", "0x1ae0", "0x0042"), ("gpu", "0x10de", "0x0063")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "device").write_text(f"{device}\n")
    assert install["find_accelerator"]() == ""
    (tmp_path / "nic/device").write_text("0x0063\n")
    assert install["find_accelerator"]() == "tpu"


def test_what_is_installed_here_is_found(install):
    found = install["find_installed"]()
    assert found["jax"] == jax.__version__ and {"jaxlib", "numpy"} <= set(found)
    assert not {"jaxtyping", "flax"} & set(found)


@pytest.fixture
def installing(monkeypatch, tmp_path):
    """As on a machine without the package or an accelerator; returns the commands that are run."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return commands


def test_the_package_comes_from_the_checkout_or_from_where_it_is_said(installing, tmp_path):
    text = cell(read(), "install").source
    exec(text.replace('SOURCE = ""', 'SOURCE = "git+https://host/owner/name"'), {})
    (tmp_path / "iso3d_jax").mkdir()
    (tmp_path / "iso3d_jax" / "__init__.py").touch()
    exec(text, {})
    for command, source in zip(installing, ("git+https://host/owner/name", tmp_path), strict=True):
        assert command[1:6] == ["-m", "pip", "install", "-q", str(source)]
        assert f"jax=={jax.__version__}" in command or "jax[tpu]>=0.10" in command


def test_a_jax_that_was_in_use_and_is_another_now_asks_for_a_restart(installing, monkeypatch):
    found = iter([[], [SimpleNamespace(name="jax", version="0.10.2")]])
    monkeypatch.setattr("importlib.metadata.distributions", lambda: next(found))
    text = cell(read(), "install").source.replace('SOURCE = ""', 'SOURCE = "wheel"')
    with pytest.raises(SystemExit, match="restart the runtime"):
        exec(text, {})


def test_without_a_checkout_or_an_address_it_says_so(installing):
    with pytest.raises(SystemExit, match="set SOURCE"):
        exec(cell(read(), "install").source, {})
    assert not installing


def test_the_committed_outputs_are_of_one_run_and_small():
    notebook = read()
    code = [shown for shown in notebook.cells if shown.cell_type == "code"]
    assert [shown.execution_count for shown in code] == list(range(1, len(code) + 1))
    assert not [o for shown in code for o in shown.outputs if o.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 300_000
    for name in ("picture", "views", "mesh", "turntable"):
        assert pictures(cell(notebook, name)), name
    words = json.dumps([shown.outputs for shown in code])
    assert not re.search(r"/(home|work|root|tmp|Users)/", words)
    assert "WEIGHTS = None" in cell(notebook, "settings").source

"""Blender from the other end of its pipe, and where there is one, itself.

ISO3D_BLENDER_PYTHON names the interpreter that has bpy; without it what needs Blender is skipped.
"""

import dataclasses
import importlib.util
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import blender, blender_process
from iso3d_jax.data.blender import Blender, describe
from iso3d_jax.data.lights import Light
from iso3d_jax.data.meshes import BadMesh, Glow, Part
from iso3d_jax.data.rasterizer import Rasterizer
from iso3d_jax.data.textures import srgb_to_linear
from iso3d_jax.geometry import cameras

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("ISO3D_BLENDER_PYTHON", "")
RESOLUTION = 48


@pytest.fixture(scope="module")
def path_tracer():
    if not PYTHON:
        pytest.skip("ISO3D_BLENDER_PYTHON names no interpreter that has bpy")
    with Blender(RESOLUTION, samples=8, python=PYTHON) as made:
        yield made


def box(centre=(0.0, 0.0, 0.0), half=(0.5, 0.3, 0.2), **how):
    """A box with outward faces, each with its own normals."""
    points, normals = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            quad = np.zeros((4, 3))
            quad[:, axis] = sign
            quad[:, u], quad[:, v] = [-1, 1, 1, -1], [-1, -1, 1, 1]
            quad = quad[:: int(sign)] * half + centre
            points += [quad[[0, 1, 2]], quad[[0, 2, 3]]]
            normals += [np.tile(sign * np.eye(3)[axis], (3, 1))] * 2
    uv = np.tile([[[0.0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], (6, 1, 1))
    return Part(np.array(points), np.array(normals), uv, **how)


def view(elevation=20.0, azimuth=35.0, fov=40.0):
    distance = 1.05 / np.tan(np.radians(fov / 2))
    return np.asarray(cameras.camera_to_world(elevation, azimuth, distance)), fov


def test_messages_and_arrays_pass_a_pipe_as_they_are():
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.uint8)]
    pipe = io.BytesIO()
    blender_process.send(pipe, {"do": "load", "é": None}, arrays)
    blender_process.send(pipe, {"do": "end"})
    pipe.seek(0)
    message, found = blender_process.receive(pipe)
    assert message == {"do": "load", "é": None}
    for array, want in zip(found, arrays, strict=True):
        assert array.dtype == want.dtype
        np.testing.assert_array_equal(array, want)
    assert blender_process.receive(pipe) == ({"do": "end"}, [])
    with pytest.raises(EOFError):
        blender_process.receive(pipe)


def test_parts_are_described_as_the_rasterizer_draws_them():
    texture = np.full((2, 2, 4), 255, np.uint8)
    parts = [
        box(colour=(0.5, 0.2, 1.0), alpha="opaque", opacity=0.3),
        box(alpha="mask", cutoff=0.3, texture=texture, wrap=("clamp", "mirror")),
        box(alpha="blend", opacity=0.6, tint=np.full((12, 3, 4), 0.5)),
        box(opacity=0.01),  # not drawn
        box(opacity=0.5, glow=Glow((1.0, 2.0, 3.0), texture=texture)),
    ]
    message, arrays = describe(parts)
    solid, cut, mixed, glowing = message["parts"]
    assert [(p["cut"], p["mixed"]) for p in (solid, cut, mixed, glowing)] == [
        (None, False), (0.3, False), (None, True), (None, True)
    ]  # fmt: skip
    np.testing.assert_allclose(solid["colour"], srgb_to_linear([0.5, 0.2, 1.0]))
    assert cut["wrap"] == ["clamp", "mirror"] and "texture" not in solid["arrays"]
    np.testing.assert_array_equal(arrays[cut["arrays"]["texture"]], texture)
    tint = arrays[mixed["arrays"]["tint"]]  # sRGB, as the part is not linear
    np.testing.assert_allclose(tint[0, 0], [*srgb_to_linear([0.5] * 3), 0.5], atol=1e-6)
    assert glowing["glow"] == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(arrays[glowing["arrays"]["glow_uv"]], parts[4].uv)
    np.testing.assert_allclose(arrays[solid["arrays"]["positions"]], parts[0].positions)


def test_a_process_that_does_not_start_is_said_in_one_sentence(tmp_path, monkeypatch):
    if importlib.util.find_spec("bpy") is None:
        with pytest.raises(UserError, match="no module bpy in .*--blender_python"):
            Blender(8)
    (tmp_path / "process.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(blender_process, "__file__", str(tmp_path / "process.py"))
    with pytest.raises(UserError, match="Blender does not run .it ended at once"):
        Blender(8)
    with pytest.raises(UserError, match="--blender_python /no/such cannot be started"):
        Blender(8, python="/no/such")


FAKE = """
import os, sys, time
import numpy as np
sys.path.insert(0, {folder!r})
from blender_process import end_with_parent, receive, send
end_with_parent()
asked, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
receive(asked)
send(answers, {{"blender": "0"}})
while True:
    message, arrays = receive(asked)
    number = len(message.get("parts", ()))
    if number == 2:
        os._exit(1)
    if number == 3:
        time.sleep(600)
    if number == 4:
        try:
            bytearray(300 << 20)
        except MemoryError:
            send(answers, {{"fault": "MemoryError"}})
            continue
    if number == 5:
        os.abort()
    if message["do"] == "render":
        send(answers, {{"fault": "it cannot"}})
    else:
        send(answers, {{}})
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A process in Blender's place, which does what a number of parts stands for."""
    folder = os.path.dirname(blender_process.__file__)
    (tmp_path / "fake.py").write_text(FAKE.format(folder=folder))
    monkeypatch.setattr(blender_process, "__file__", str(tmp_path / "fake.py"))


def test_an_object_that_ends_blender_is_left_out_and_the_next_gets_another(fake):
    with Blender(8) as machine:
        assert machine.version == "0"
        first = machine._process
        with pytest.raises(BadMesh, match="Blender ended at it with status 1$"):
            machine.load([box(), box()])
        machine.load([box()])
        assert machine._process is not first and first.returncode is not None
        with pytest.raises(BadMesh, match="Blender: it cannot"):
            machine.render(*view())
        last = machine._process
    assert last.returncode is not None and machine._process is None


@pytest.mark.skipif(sys.platform != "linux", reason="bounds of memory are Linux's")
def test_blender_has_bounds_of_time_and_memory(fake):
    with Blender(8, seconds=1.0, memory=200 << 20) as machine:
        for parts, said in (
            (3, "Blender took more than 1 s for it$"),
            (4, "Blender needs more than 0.2 GiB of memory for it$"),
            (5, "Blender ended at it with SIGABRT; it may take 0.2 GiB of memory$"),
        ):
            process = machine._process
            with pytest.raises(BadMesh, match=said):
                machine.load([box()] * parts)
            assert process.returncode is not None  # and the next object gets another
            machine.load([box()])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends it")
def test_blender_at_work_ends_with_the_process_that_started_it(fake, tmp_path):
    """A worker that takes too long is killed, and nothing reads the pipe meanwhile."""
    script = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from iso3d_jax.data import blender, blender_process
blender_process.__file__ = {blender_process.__file__!r}
machine = blender.Blender(8)
threading.Timer(0.3, lambda: print(machine._process.pid, flush=True)).start()
blender.describe = lambda parts: ({{"parts": [0] * 3}}, [])
machine.load([])
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    number = int(worker.stdout.readline())
    worker.kill()
    worker.communicate()
    until = time.monotonic() + 120
    while os.path.exists(f"/proc/{number}"):
        assert time.monotonic() < until, "it goes on alone"
        time.sleep(0.02)


def test_pictures_of_light_are_checked(tmp_path):
    (tmp_path / "sky.hdr").touch()
    assert blender.check_pictures([str(tmp_path / "sky.hdr")]) == (str(tmp_path / "sky.hdr"),)
    with pytest.raises(UserError, match="there is no such file"):
        blender.check_pictures([str(tmp_path)])


def test_masks_agree_and_each_object_has_its_own_texture(path_tracer):
    """The second of two objects with textures must not show the first one's."""
    red, blue = (np.full((4, 4, 4), 255, np.uint8) for _ in range(2))
    red[..., 1:3], blue[..., :2] = 0, 0
    white = (1.0, 1.0, 1.0)
    objects = [
        [box(colour=white, texture=red)],
        [box((0.2, 0.1, 0.3), (0.5, 0.4, 0.1), colour=white, texture=blue, two_sided=False)],
    ]
    with Rasterizer(RESOLUTION) as rasterizer:
        for parts, channel in zip(objects, (0, 2), strict=True):
            rasterizer.load(parts)
            path_tracer.load(parts)
            a, b = rasterizer.render(*view()), path_tracer.render(*view())
            masks = a[..., 3] > 127, b[..., 3] > 127
            assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.95
            seen = b[masks[0] & masks[1]].mean(0)
            assert seen[channel] > 100 and sum(seen[:3]) < seen[channel] + 5
            depth = path_tracer.render_layer("depth", *view())
            np.testing.assert_array_equal(depth, rasterizer.render_layer("depth", *view()))


def test_light_is_on_the_side_that_it_says(path_tracer, tmp_path):
    wall = dataclasses.replace(box(half=(0.02, 0.6, 0.6)), colour=(0.5, 0.5, 0.5))
    shades = {}
    for name, direction in (("front", (1.0, 0.0, 0.0)), ("back", (-1.0, 0.0, 0.0))):
        path_tracer.load([wall], Light(0.1, 0.0, 0.0, 0.6, direction))
        seen = path_tracer.render(*view(0.0, 0.0))
        shades[name] = seen[RESOLUTION // 2, RESOLUTION // 2, :3].mean()
    assert shades["front"] > 2 * shades["back"]
    path_tracer.load([wall], Light(0.1, 0.0, 0.0, 0.6, (0.0, 1.0, 0.0)))
    assert path_tracer.render(*view(0.0, 90.0))[24, 24, 0] > 2 * shades["back"]
    picture = np.full((32, 64, 3), 20, np.uint8)
    picture[8:24, 24:40] = 255  # its middle
    Image.fromarray(picture).save(tmp_path / "sky.png")
    path_tracer.load([wall], Light(direction=(0.0, 1.0, 0.0), picture=str(tmp_path / "sky.png")))
    lit, dark = (path_tracer.render(*view(0.0, azimuth))[24, 24, 0] for azimuth in (90.0, 270.0))
    assert lit > 2 * dark
